"""A server and a client of gRPC with Google's own library: messages are bytes, so that no compiler of .proto files is needed.

grpc_peer.py server PORT            serves until it is stopped
grpc_peer.py client PORT            runs every check through the port, says each by name, exits 1 at the first that fails
grpc_peer.py load PORT SECONDS      calls all the time; prints how many calls failed and why
"""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "test.Peer"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


# --- server


class Peer:
    def __init__(self):
        self.cancelled = 0
        self.lock = threading.Lock()

    def echo(self, request, context):
        sent = [(k, v) for k, v in context.invocation_metadata() if k.startswith("x-echo")]
        context.send_initial_metadata(sent)
        context.set_trailing_metadata(sent + [("x-served-by", str(os.getpid()))])
        return request

    def total(self, requests, context):
        return str(sum(len(request) for request in requests)).encode()

    def count(self, request, context):
        count, size = (int(part) for part in request.split())
        for number in range(count):
            yield b"%d " % number + b"x" * size

    def talk(self, requests, context):
        for request in requests:
            yield b"re: " + request

    def wait(self, request, context):
        def on_end():
            with self.lock:
                self.cancelled += 1

        done = threading.Event()
        context.add_callback(lambda: (on_end(), done.set()))
        yield b"begun"
        done.wait(float(request))

    def ended(self, request, context):
        with self.lock:
            return str(self.cancelled).encode()

    def remaining(self, request, context):
        left = context.time_remaining()
        return b"none" if left is None else b"%f" % left

    def refuse(self, request, context):
        context.set_trailing_metadata([("x-details-bin", b"\x00\x01\xff"), ("grpc-status-details-bin", b"\x08\x09\xf0")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "100 % not now: \u00fc\u4e2d")

    def refuse_late(self, request, context):
        yield b"one"
        context.set_trailing_metadata([("x-late", "yes")])
        context.abort(grpc.StatusCode.OUT_OF_RANGE, "no more")

    def die(self, request, context):
        yield b"one"
        yield b"two"
        time.sleep(0.2)
        os._exit(1)


def serve(port):
    peer = Peer()
    unary, streams = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Echo": unary(peer.echo),
        "Total": grpc.stream_unary_rpc_method_handler(peer.total),
        "Count": streams(peer.count),
        "Talk": grpc.stream_stream_rpc_method_handler(peer.talk),
        "Wait": streams(peer.wait),
        "Ended": unary(peer.ended),
        "Remaining": unary(peer.remaining),
        "Refuse": unary(peer.refuse),
        "RefuseLate": streams(peer.refuse_late),
        "Die": streams(peer.die),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    server.wait_for_termination()


# --- client


class Client:
    def __init__(self, port):
        # Nothing that the library does by itself to hide a failure.
        options = OPTIONS + [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        path = f"/{SERVICE}/"
        self.unary = lambda name: self.channel.unary_unary(path + name)
        self.streams = lambda name: self.channel.unary_stream(path + name)
        self.total = self.channel.stream_unary(path + "Total")
        self.talk = self.channel.stream_stream(path + "Talk")


def error_of(call):
    try:
        result = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"it did not fail: {result!r}")


def check_unary(client):
    assert client.unary("Echo")(b"hello", timeout=10) == b"hello"
    assert client.unary("Echo")(b"", timeout=10) == b""


def check_metadata(client):
    sent = [("x-echo", "a"), ("x-echo", "b"), ("x-echo-bin", bytes(range(256)))]
    answer, call = client.unary("Echo").with_call(b"x", metadata=sent, timeout=10)
    first = [(k, v) for k, v in call.initial_metadata() if k.startswith("x-echo")]
    assert sorted(first) == sorted(sent), first
    last = [(k, v) for k, v in call.trailing_metadata() if k.startswith("x-echo")]
    assert sorted(last) == sorted(sent), last
    # Without this nobody would know that the calls go through a proxy at all.
    is_direct = os.environ.get("PEER_DIRECT")
    assert is_direct or any(k == "x-request-id" for k, v in call.initial_metadata()), call.initial_metadata()


def check_client_stream(client):
    assert client.total(iter([b"a" * n for n in range(100)]), timeout=10) == b"4950"
    assert client.total(iter([]), timeout=10) == b"0"


def check_server_stream(client):
    answers = list(client.streams("Count")(b"1000 10", timeout=20))
    assert [int(a.split()[0]) for a in answers] == list(range(1000))
    assert list(client.streams("Count")(b"0 0", timeout=10)) == []


def check_both_streams_take_turns(client):
    """Each message is answered before the next is sent: whatever buffers on the way shows."""
    heard = threading.Semaphore(1)

    def say():
        for number in range(200):
            assert heard.acquire(timeout=10), f"nothing came back before {number}"
            yield b"%d" % number

    answers = []
    for answer in client.talk(say(), timeout=60):
        answers.append(answer)
        heard.release()
    assert answers == [b"re: %d" % number for number in range(200)]


def check_large_messages(client):
    for size in (4 << 20, 16 << 20):
        message = os.urandom(size)
        assert client.unary("Echo")(message, timeout=60) == message
    answers = list(client.talk(iter([b"y" * (1 << 20)] * 8), timeout=60))
    assert [len(a) for a in answers] == [(1 << 20) + 4] * 8


def check_a_reader_that_rests_does_not_stop_a_writer(client):
    """The client reads only when it has sent all; 600 kB of answers wait for it somewhere on the way."""
    def say():
        for number in range(600):
            yield b"z" * 1000
        time.sleep(0.2)

    call = client.talk(say(), timeout=60)
    time.sleep(1)
    assert sum(len(answer) for answer in call) == 600 * 1004


def check_cancellation(client):
    before = int(client.unary("Ended")(b"", timeout=10))
    call = client.streams("Wait")(b"60")
    assert next(call) == b"begun"
    call.cancel()
    assert error_of(lambda: next(call)).code() == grpc.StatusCode.CANCELLED
    until = time.monotonic() + 10
    while int(client.unary("Ended")(b"", timeout=10)) <= before:
        assert time.monotonic() < until, "the server was not told"
        time.sleep(0.02)


def check_deadlines(client):
    error = error_of(lambda: list(client.streams("Wait")(b"60", timeout=0.5)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    left = float(client.unary("Remaining")(b"", timeout=20))
    # The library rounds up.
    assert 15 < left < 21, left


def check_refusals(client):
    error = error_of(lambda: client.unary("Refuse")(b"", timeout=10))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "100 % not now: \u00fc\u4e2d", error.details()
    trailing = dict(error.trailing_metadata())
    assert trailing["x-details-bin"] == b"\x00\x01\xff", trailing
    assert trailing["grpc-status-details-bin"] == b"\x08\x09\xf0", trailing
    seen = []
    error = error_of(lambda: [seen.append(m) for m in client.streams("RefuseLate")(b"", timeout=10)])
    assert (seen, error.code(), error.details()) == ([b"one"], grpc.StatusCode.OUT_OF_RANGE, "no more")
    assert ("x-late", "yes") in error.trailing_metadata()
    error = error_of(lambda: client.unary("Nothing")(b"", timeout=10))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def check_many_at_once(client):
    calls = [client.unary("Echo").future(b"%d" % number, timeout=30) for number in range(500)]
    assert [call.result() for call in calls] == [b"%d" % number for number in range(500)]


CHECKS = [
    check_unary,
    check_metadata,
    check_client_stream,
    check_server_stream,
    check_both_streams_take_turns,
    check_large_messages,
    check_a_reader_that_rests_does_not_stop_a_writer,
    check_cancellation,
    check_deadlines,
    check_refusals,
    check_many_at_once,
]


def check_all(port):
    client = Client(port)
    for check in CHECKS:
        check(client)
        print("ok", check.__name__, flush=True)


def die(port):
    """The server dies in the middle of an answer."""
    seen = []
    error = error_of(lambda: [seen.append(m) for m in Client(port).streams("Die")(b"", timeout=20)])
    assert (seen, error.code()) == ([b"one", b"two"], grpc.StatusCode.UNAVAILABLE), (seen, error)
    print("ok", error.details())


def refused(port, code):
    """A call that a proxy refuses, or that reaches nobody."""
    error = error_of(lambda: Client(port).unary("Echo")(b"", timeout=20))
    assert error.code() == grpc.StatusCode[code], error
    print("ok", error.details())


def load(port, seconds):
    client, failures, calls, served = Client(port), [], 0, set()
    lock, until = threading.Lock(), time.monotonic() + seconds

    def run():
        nonlocal calls
        while time.monotonic() < until:
            try:
                _, call = client.unary("Echo").with_call(b"x" * 100, timeout=20)
                with lock:
                    calls += 1
                    served.update(v for k, v in call.trailing_metadata() if k == "x-served-by")
            except grpc.RpcError as error:
                with lock:
                    failures.append(f"{error.code()}: {error.details()}")

    threads = [threading.Thread(target=run) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(f"calls {calls} failed {len(failures)} servers {len(served)}", *failures[:3], flush=True)


if __name__ == "__main__":
    verb, port, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    match verb:
        case "server":
            serve(port)
        case "client":
            check_all(port)
        case "die":
            die(port)
        case "refused":
            refused(port, rest[0])
        case "load":
            load(port, float(rest[0]))
