//! HTTP/1.1 as bytes on both sides of a gateway: what is kept, what is framed how, what ends when.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_base::net::{BindOptions, Listener, Stream};
use causeway_proxy::Proxy;
use causeway_testkit::House;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::common::*;

/// One end of a connection, in words.
struct End {
    stream: Stream,
    seen: Vec<u8>,
}

impl End {
    async fn client(house: &House) -> Self {
        End::to(house, gateway_address()).await
    }

    async fn to(house: &House, address: SocketAddr) -> Self {
        End { stream: house.net().connect(address).await.unwrap(), seen: Vec::new() }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until what came ends with `end`, and gives all since the last time.
    async fn until(&mut self, end: &str) -> String {
        while !self.seen.ends_with(end.as_bytes()) {
            let read = self.read().await;
            assert!(read > 0, "ended before {end:?}: {:?}", String::from_utf8_lossy(&self.seen));
        }
        String::from_utf8(std::mem::take(&mut self.seen)).unwrap()
    }

    /// Reads to the end.
    async fn all(&mut self) -> String {
        while self.read().await > 0 {}
        String::from_utf8(std::mem::take(&mut self.seen)).unwrap()
    }

    async fn read(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(1000), self.stream.read(&mut bytes));
        let read = read.await.unwrap_or_else(|_| {
            panic!("nothing comes after {:?}", String::from_utf8_lossy(&self.seen));
        });
        // An end that is broken off is an end.
        let read = read.unwrap_or(0);
        self.seen.extend_from_slice(&bytes[..read]);
        read
    }

    /// Whether nothing comes for a while.
    async fn is_silent(&mut self) -> bool {
        let mut byte = [0; 1];
        tokio::time::timeout(Duration::from_secs(1), self.stream.read(&mut byte)).await.is_err()
    }
}

/// A service that speaks in bytes.
struct Service(Listener);

impl Service {
    async fn next(&mut self) -> End {
        let accepted = tokio::time::timeout(Duration::from_secs(1000), self.0.accept());
        End { stream: accepted.await.expect("a connection comes").unwrap().0, seen: Vec::new() }
    }

    /// Answers one request on a new connection.
    async fn answer(&mut self, answer: &str) -> End {
        let mut end = self.next().await;
        end.until("\r\n\r\n").await;
        end.say(answer).await;
        end
    }

    async fn is_left_alone(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(1), self.0.accept()).await.is_err()
    }
}

async fn gate(house: &House) -> (Service, Proxy) {
    let address = house.address(8000);
    let listener = house.net().bind(address, BindOptions::default()).unwrap();
    house.place("raw", "raw-1", address).put();
    house.put("r", gateway_route(vec![rule("/", vec![backend("raw", 1)])]));
    (Service(listener), start_gateway(house).await)
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test(start_paused = true)]
async fn connections_are_kept_on_both_sides() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    let serve = async {
        let mut end = service.next().await;
        for _ in 0..3 {
            let head = end.until("\r\n\r\n").await;
            assert!(head.starts_with("GET /a HTTP/1.1\r\nhost: h\r\n"), "{head}");
            assert!(!head.to_lowercase().contains("connection:"), "{head}");
            end.say(OK).await;
        }
        assert!(service.is_left_alone().await, "one connection is enough");
    };
    let ask = async {
        for _ in 0..3 {
            client.say(GET).await;
            let answer = client.until("ok").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(
                answer.contains("\r\ncontent-length: 2\r\n") && answer.contains("\r\ndate: "),
                "{answer}"
            );
            assert!(!answer.contains("connection:"), "{answer}");
        }
    };
    tokio::join!(serve, ask);
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    let requests = "POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\none\
                    POST /2 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n\
                    GET /3 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    client.say(requests).await;
    let serve = async {
        let mut end = service.next().await;
        for (line, last) in [("POST /1", "\r\n\r\none"), ("POST /2", "\r\n0\r\n\r\n"), ("GET /3", "\r\n\r\n")]
        {
            let seen = end.until(last).await;
            assert!(seen.starts_with(line), "{seen}");
            let body = &line[line.len() - 1..];
            end.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{body}")).await;
        }
        end
    };
    let (_end, answers) = tokio::join!(serve, client.all());
    let bodies: Vec<char> =
        answers.split("HTTP/1.1 200 OK").filter_map(|answer| answer.chars().last()).collect();
    assert_eq!(bodies, ['1', '2', '3'], "{answers}");
    assert!(answers.contains("connection: close"), "{answers}");
}

#[tokio::test(start_paused = true)]
async fn chunks_pass_both_ways_as_they_come() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4;x=\"y\"\r\nabcd\r\n").await;
    let mut end = service.next().await;
    let head = end.until("\r\n\r\n4\r\nabcd\r\n").await;
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
    // The service answers before it has all: an echo.
    end.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nABCD\r\n").await;
    let answer = client.until("4\r\nABCD\r\n").await;
    assert!(answer.contains("\r\ntransfer-encoding: chunked\r\n"), "{answer}");
    for n in 0..100 {
        let chunk = format!("5\r\nn={n:03}\r\n");
        client.say(&chunk).await;
        assert_eq!(end.until(&chunk).await, chunk);
        end.say(&chunk).await;
        client.until(&chunk).await;
    }
    client.say("0\r\n\r\n").await;
    end.until("0\r\n\r\n").await;
    end.say("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
    client.say(GET).await;
    end.until("\r\n\r\n").await;
    end.say(OK).await;
    client.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn trailers_reach_a_client_that_takes_them() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
                  grpc-status: 0\r\ncontent-length: 7\r\n\r\n";
    for (te, tail) in
        [("te: trailers\r\n", "1\r\nx\r\n0\r\ngrpc-status: 0\r\n\r\n"), ("", "1\r\nx\r\n0\r\n\r\n")]
    {
        let mut client = End::client(&house).await;
        client.say(&format!("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{te}\r\n")).await;
        let (_end, seen) = tokio::join!(service.answer(answer), client.all());
        assert!(seen.ends_with(&format!("\r\n\r\n{tail}")), "{te}: {seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_without_a_body_end_with_their_head() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    let mut end = None;
    for (method, answer, says) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", "\r\ncontent-length: 1000\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "200"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "204"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: 1\r\n\r\n",
            "\r\ncontent-length: 5\r\n",
        ),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "\r\ncontent-length: 0\r\n"),
    ] {
        client.say(&format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        let end = match &mut end {
            Some(end) => end,
            None => end.insert(service.next().await),
        };
        end.until("\r\n\r\n").await;
        end.say(answer).await;
        let seen = client.until("\r\n\r\n").await;
        assert!(seen.contains(says), "{answer:?}: {seen}");
        assert!(!seen.contains("transfer-encoding") && !seen.contains("connection:"), "{answer:?}: {seen}");
    }
    // What we say ourselves to a HEAD has no body either.
    client.say("HEAD /..;x HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(client.all().await.ends_with("\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn old_clients_get_what_they_understand() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let mut client = End::client(&house).await;
    client.say("GET / HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n").await;
    let (mut end, seen) = tokio::join!(service.answer(chunked), client.all());
    assert!(seen.ends_with("\r\n\r\nabc") && seen.contains("\r\nconnection: close\r\n"), "{seen}");
    assert!(!seen.contains("transfer-encoding"), "{seen}");
    // With a length it is kept, but only when it asks for it.
    let mut client = End::client(&house).await;
    client.say("GET / HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n").await;
    end.until("\r\n\r\n").await;
    end.say(OK).await;
    let seen = client.until("ok").await;
    assert!(seen.contains("\r\nconnection: keep-alive\r\n"), "{seen}");
    client.say("GET / HTTP/1.0\r\nhost: h\r\n\r\n").await;
    end.until("\r\n\r\n").await;
    end.say(OK).await;
    let seen = client.all().await;
    assert!(seen.ends_with("ok") && seen.contains("\r\nconnection: close\r\n"), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_told_to_send_when_its_body_is_wanted() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    };
    client.say(&head("/")).await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("hello").await;
    let mut end = service.next().await;
    end.until("\r\n\r\nhello").await;
    end.say("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
    end.say(OK).await;
    let answer = client.until("ok").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A body that came with its head needs no word.
    client.say(&format!("{}hello", head("/"))).await;
    end.until("\r\n\r\nhello").await;
    end.say(OK).await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    // Refused before anybody reads the body: it is not asked for, and may come or not, so the connection ends.
    client.say(&head("/..;x")).await;
    let answer = client.all().await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_is_given_and_the_rest_of_the_body_read_over() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n").await;
    let mut end = service.next().await;
    end.until("\r\n\r\n").await;
    end.say("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await;
    drop(end);
    let answer = client.until("no").await;
    assert!(answer.starts_with("HTTP/1.1 413") && !answer.contains("connection: close"), "{answer}");
    // It sends all the same, and then its next request.
    client.say(&"x".repeat(1_000_000)).await;
    client.say(GET).await;
    let (_end, answer) = tokio::join!(service.answer(OK), client.until("ok"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_nobody_reads_is_read_over_within_bounds() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100000000\r\n\r\n").await;
    let answer = service.answer("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno");
    let (_end, answer) = tokio::join!(answer, client.until("no"));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let mut sent = 0;
    while client.stream.write_all(&[b'x'; 10_000]).await.is_ok() {
        sent += 10_000;
        assert!(sent < 50_000_000, "it reads on without end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_sent_request_reaches_nobody_and_a_half_sent_body_no_end() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say("POST / HTTP/1.1\r\nhost: h\r\ncontent-le").await;
    assert!(service.is_left_alone().await);
    client.say("ngth: 1\r\nbad name: 1\r\n\r\nx").await;
    let answer = client.all().await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("\r\nproxy-status: causeway; error=http_request_error"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    // A short body is waited for whole.
    let mut client = End::client(&house).await;
    client.say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n12345").await;
    assert!(service.is_left_alone().await);
    drop(client);
    // A stream is not: the service sees that it broke, and no last chunk.
    let mut client = End::client(&house).await;
    client.say("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let mut end = service.next().await;
    end.until("5\r\nhello\r\n").await;
    drop(client);
    assert_eq!(end.all().await, "");
    assert!(service.is_left_alone().await, "it is not sent again");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_in_ends_at_its_limit() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    let begun = Instant::now();
    client.say("GET / HTTP/1.1\r\n").await;
    let (mut read, mut write) = tokio::io::split(client.stream);
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if write.write_all(b"x-a: 1\r\n").await.is_err() {
                return;
            }
        }
    };
    let mut answer = String::new();
    let watch = async { read.read_to_string(&mut answer).await };
    tokio::select! { () = drip => {}, _ = watch => {} }
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
    assert!(service.is_left_alone().await);
    // One that says nothing at all is told nothing.
    let mut client = End::client(&house).await;
    client.say(GET).await;
    let _end = tokio::join!(service.answer(OK), client.until("ok"));
    let begun = Instant::now();
    assert_eq!(client.all().await, "");
    assert!((70..90).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_changed_protocol_loses_no_byte_of_either_side() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    // Both sides say something before they can know that the other has changed.
    client
        .say("GET /chat HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo/2, h2c\r\n\r\nfirst")
        .await;
    let mut end = service.next().await;
    let head = end.until("\r\n\r\n").await;
    assert!(
        head.contains("\r\nupgrade: echo/2\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    end.say("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/2\r\n\r\nhello").await;
    assert_eq!(end.until("first").await, "first");
    let answer = client.until("hello").await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(answer.contains("\r\nupgrade: echo/2\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    for n in 0..3 {
        let text = format!("<{n}>");
        client.say(&text).await;
        assert_eq!(end.until(">").await, text);
        end.say(&text).await;
        assert_eq!(client.until(">").await, text);
    }
    // An end of one side leaves the other its say.
    client.stream.shutdown().await.unwrap();
    assert_eq!(end.all().await, "");
    end.say("bye").await;
    drop(end);
    assert_eq!(client.all().await, "bye");
}

#[tokio::test(start_paused = true)]
async fn a_service_changes_no_protocol_unasked() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    let answer =
        service.answer("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n");
    let (_end, answer) = tokio::join!(answer, client.until("\n"));
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn events_pass_at_once() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say(GET).await;
    let mut end = service.answer("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await;
    // The head goes out before there is anything of a body.
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
    for n in 0..3 {
        tokio::time::sleep(Duration::from_secs(500)).await;
        end.say(&format!("data: {n}\n\n")).await;
        assert_eq!(client.until("\n\n\r\n").await, format!("9\r\ndata: {n}\n\n\r\n"));
    }
    // It ends with its connection, which is not used again.
    drop(end);
    client.until("0\r\n\r\n").await;
    client.say(GET).await;
    let (_end, _) = tokio::join!(service.answer(OK), client.until("ok"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_the_service_back_and_is_given_up() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say(GET).await;
    let mut end = service.answer("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
    let begun = Instant::now();
    let mut sent = 0;
    while end.stream.write_all(&[b'x'; 10_000]).await.is_ok() {
        sent += 10_000;
    }
    // What lies in the pipes of the network in memory, and one read of ours.
    assert!(sent < 1_000_000, "{sent} bytes are held for a client that does not read");
    assert!((290..400).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_all() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    client.say(GET).await;
    let body: String = (0..100_000).map(|n| format!("{n:09}\n")).collect();
    let serve = async {
        let mut end =
            service.answer(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await;
        end.say(&body).await;
        end
    };
    let read = async {
        let head = loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.read().await;
            if let Some(at) = client.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        while client.seen.len() < head + body.len() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(client.read().await > 0);
        }
        assert!(client.seen[head..] == *body.as_bytes(), "another body came");
    };
    tokio::join!(serve, read);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    // Before the answer, and within it.
    for answer in ["", "HTTP/1.1 200 OK\r\n\r\nsome"] {
        let mut client = End::client(&house).await;
        client.say(GET).await;
        let mut end = service.answer(answer).await;
        assert!(end.is_silent().await);
        drop(client);
        assert_eq!(end.all().await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_breaks_off_is_not_taken_for_one_that_has_ended() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let mut client = End::client(&house).await;
        client.say(GET).await;
        let body = if head.starts_with('c') { "12345" } else { "5\r\n12345\r\n" };
        let tail = if head.starts_with('c') { "12345" } else { "12345\r\n" };
        let end = service.answer(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}")).await;
        client.until(tail).await;
        drop(end);
        let rest = client.all().await;
        assert!(!rest.contains('0'), "{head}: {rest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_only_when_nothing_is_left_on_it() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    let mut asked = async |service: &mut Service, answer: &str, end: &str| {
        client.say(GET).await;
        let (kept, seen) = tokio::join!(service.answer(answer), client.until(end));
        assert!(seen.starts_with("HTTP/1.1 "), "{seen}");
        kept
    };
    // A failure that was said whole is no reason.
    let failed = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
    let mut first = asked(&mut service, failed, "no").await;
    let again = async {
        first.until("\r\n\r\n").await;
        // More than it was asked for: that must not become the next answer.
        first.say(&format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")).await;
    };
    client.say(GET).await;
    tokio::join!(again, client.until("ok"));
    let mut asked = async |service: &mut Service, answer: &str, end: &str| {
        client.say(GET).await;
        let (kept, seen) = tokio::join!(service.answer(answer), client.until(end));
        assert!(seen.ends_with(end) && !seen.contains("evil"), "{seen}");
        kept
    };
    let mut late = asked(&mut service, OK, "ok").await;
    // Bytes that come later, before the next request.
    late.say("HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nevil").await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let _closes =
        asked(&mut service, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", "ok")
            .await;
    let _old = asked(&mut service, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok").await;
    let gone = asked(&mut service, OK, "ok").await;
    drop(gone);
    let _last = asked(&mut service, OK, "ok").await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_none_are_failures_of_the_service() {
    let house = House::new();
    let (mut service, _proxy) = gate(&house).await;
    for wrong in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        &"HTTP/1.1 100 Continue\r\n\r\n".repeat(100),
    ] {
        let mut client = End::client(&house).await;
        client.say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
        let (_end, answer) = tokio::join!(service.answer(wrong), client.until("\n"));
        assert!(answer.starts_with("HTTP/1.1 502"), "{wrong:?}: {answer}");
        assert!(answer.contains("error=http_protocol_error"), "{wrong:?}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_a_request_in_flight_end_and_says_that_it_is_the_last() {
    let house = House::new();
    let (mut service, proxy) = gate(&house).await;
    let mut client = End::client(&house).await;
    let mut silent = End::client(&house).await;
    client.say(GET).await;
    let mut end = service.next().await;
    end.until("\r\n\r\n").await;
    let answer = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        end.say(OK).await;
    };
    let (is_whole, (), seen) = tokio::join!(proxy.drain(Duration::from_secs(10)), answer, client.all());
    assert!(is_whole && seen.ends_with("ok") && seen.contains("\r\nconnection: close\r\n"), "{seen}");
    assert_eq!(silent.all().await, "");
}
