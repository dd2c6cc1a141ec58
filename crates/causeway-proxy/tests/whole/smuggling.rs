//! Requests and answers that could be read in two ways: what comes from a client is refused before a service sees a second request in
//! it, and what comes from a service never becomes the answer to somebody else's request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::net::{BindOptions, Stream};
use causeway_base::{OnFailure, Scope};
use causeway_proxy::Proxy;
use causeway_testkit::{App, House};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

/// Sends bytes and reads all that comes back until the connection ends or nothing comes for long. Whether it ended.
async fn talk(house: &House, to: SocketAddr, bytes: &[u8]) -> (String, bool) {
    let mut stream = house.net().connect(to).await.unwrap();
    // A proxy that has refused already need not read the rest.
    let _ = stream.write_all(bytes).await;
    read_all(&mut stream).await
}

async fn read_all(stream: &mut Stream) -> (String, bool) {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut buffer)).await;
        match read {
            Ok(Ok(read)) if read > 0 => all.extend_from_slice(&buffer[..read]),
            ended => return (String::from_utf8_lossy(&all).into_owned(), ended.is_ok()),
        }
    }
}

// === a service of bytes ===

/// A service that answers with bytes as a test says, and remembers what it was asked on which connection.
#[derive(Clone, Default)]
struct Service {
    asked: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Service {
    /// Starts it as the only instance of `raw`; `answer` gives what it says to a request line, at once and a little later.
    fn start(house: &House, answer: impl Fn(&str) -> [Vec<u8>; 2] + Send + Sync + 'static) -> Self {
        let service = Service::default();
        let address = house.address(8080);
        let mut listener = house.net().bind(address, BindOptions::default()).unwrap();
        house.place("raw", "raw-1", address).put();
        house.put("r", gateway_route(vec![rule("/", vec![backend("raw", 1)])]));
        let (scope, answer) = (Scope::root("raw"), Arc::new(answer));
        let (child, asked) = (scope.clone(), service.asked.clone());
        scope.spawn("accept", OnFailure::Log, async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await?;
                let (asked, answer) = (asked.clone(), answer.clone());
                child.spawn("serve", OnFailure::Log, async move {
                    serve(stream, connection, asked, answer).await?;
                    Ok(())
                });
            }
            Ok(())
        });
        service
    }

    /// On which connections it was asked for this.
    fn connections(&self, line: &str) -> Vec<usize> {
        let asked = self.asked.lock();
        asked.iter().filter(|(_, asked)| asked.starts_with(line)).map(|(at, _)| *at).collect()
    }

    /// The first lines of what it was asked.
    fn lines(&self) -> Vec<String> {
        let asked = self.asked.lock();
        asked.iter().map(|(_, asked)| asked.lines().next().unwrap_or_default().to_owned()).collect()
    }
}

async fn serve(
    mut stream: Stream,
    connection: usize,
    asked: Arc<Mutex<Vec<(usize, String)>>>,
    answer: Arc<impl Fn(&str) -> [Vec<u8>; 2] + Send + Sync>,
) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&buffer[..read]);
        while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = seen.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            asked.lock().push((connection, head.clone()));
            let [now, later] = answer(&head);
            stream.write_all(&now).await?;
            if !later.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                stream.write_all(&later).await?;
            }
        }
    }
}

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood";

/// A gateway before a service that says `now` and `later` to `/bad`, and what is right to all else.
async fn before(house: &House, now: &[u8], later: &[u8]) -> (Service, Proxy) {
    let (now, later) = (now.to_vec(), later.to_vec());
    let service = Service::start(house, move |head| match head.contains("/bad") {
        true => [now.clone(), later.clone()],
        false => [GOOD.to_vec(), Vec::new()],
    });
    (service, start_gateway(house).await)
}

async fn ask(house: &House, method: &str, path: &str) -> (String, bool) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    talk(house, gateway_address(), request.as_bytes()).await
}

/// Somebody else's request after it: its own answer, on a connection of its own.
async fn check_next(house: &House, service: &Service, case: &str) {
    let (answer, _) = ask(house, "GET", "/next").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\ngood"), "{case}: {answer}");
    let bad = service.connections("");
    let next = service.connections("GET /next");
    assert_eq!(next.len(), 1, "{case}");
    assert_eq!(
        bad.iter().filter(|at| **at == next[0]).count(),
        1,
        "{case}: a doubtful connection was used again"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_can_be_read_in_two_ways_is_a_bad_gateway() {
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nevil");
    for answer in [
        with("content-length: 4\r\ntransfer-encoding: chunked"),
        with("transfer-encoding: chunked\r\ncontent-length: 4"),
        with("content-length: 4\r\ncontent-length: 4"),
        with("content-length: 4\r\ncontent-length: 40"),
        with("content-length: 4, 4"),
        with("content-length: +4"),
        with("content-length: 0x4"),
        with("content-length: "),
        with("content-length: 99999999999999999999"),
        with("content-length : 4"),
        with("transfer-encoding: chunked, identity"),
        with("transfer-encoding: gzip, chunked"),
        with("transfer-encoding: identity"),
        with("transfer-encoding: \x0bchunked"),
        with("transfer-encoding : chunked"),
        with("transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
        with("x: y\r\n folded: z\r\ncontent-length: 4"),
        with("x: y\nevil: z\r\ncontent-length: 4"),
        with("x: y\0\r\ncontent-length: 4"),
        with("x: y\rz\r\ncontent-length: 4"),
        with(": y\r\ncontent-length: 4"),
        "HTTP/1.1 200 OK\ncontent-length: 4\n\nevil".to_owned(),
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 100 Continue\r\ncontent-length: 4\r\n\r\nevil".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nevil".to_owned(),
        "HTTP/1.1 103 Hints\r\n\r\n".repeat(1000),
        "HTTP/2.0 200 OK\r\n\r\n".to_owned(),
        "\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "evil\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100_000)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(1000)),
    ] {
        let house = House::new();
        let (service, _proxy) = before(&house, answer.as_bytes(), b"").await;
        let case = format!("{:?}", &answer[..answer.len().min(90)]);
        let (answer, has_ended) = ask(&house, "GET", "/bad").await;
        assert!(answer.starts_with("HTTP/1.1 502") && has_ended, "{case}: {answer}");
        assert!(answer.contains("error=http_protocol_error"), "{case}: {answer}");
        assert!(!answer.contains("evil"), "{case}: {answer}");
        check_next(&house, &service, &case).await;
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_that_can_be_read_in_two_ways_break_the_answer_off() {
    for chunks in [
        "4\r\nevil",
        "4\r\nevil!\r\n0\r\n\r\n",
        "4\nevil\r\n0\r\n\r\n",
        "4\r\nevil\n0\r\n\r\n",
        "0x4\r\nevil\r\n0\r\n\r\n",
        "+4\r\nevil\r\n0\r\n\r\n",
        " 4\r\nevil\r\n0\r\n\r\n",
        "4 \r\nevil\r\n0\r\n\r\n",
        "4;\nevil\r\n0\r\n\r\n",
        "4;a\nevil\r\n0\r\n\r\n",
        "10000000000000004\r\nevil\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nevil\r\n0\r\n\r\n",
        "4\r\nevil\r\n0\r\nx : y\r\n\r\n",
        "4\r\nevil\r\n0\r\nx: y\n\r\n",
    ] {
        let house = House::new();
        let bad = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let (service, proxy) = before(&house, bad.as_bytes(), b"").await;
        // The service has gone silent within the first of these: the client would wait for the rest.
        let waits = chunks == "4\r\nevil";
        let mut stream = house.net().connect(gateway_address()).await.unwrap();
        stream.write_all(b"GET /bad HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let (answer, has_ended) = read_all(&mut stream).await;
        assert!(!answer.ends_with("0\r\n\r\n"), "{chunks:?}: {answer}");
        assert!(waits || has_ended, "{chunks:?}: {answer}");
        if waits {
            drop(stream);
        }
        check_next(&house, &service, chunks).await;
        drop(proxy);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_an_answer_are_nobodys_answer() {
    const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let with_evil = |answer: &[u8]| [answer, EVIL].concat();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n";
    let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
    let same = b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n";
    let lying = b"HTTP/1.1 204 No Content\r\ncontent-length: 44\r\n\r\n";
    for (method, now, later) in [
        ("GET", with_evil(GOOD), vec![]),
        ("GET", GOOD.to_vec(), EVIL.to_vec()),
        ("GET", GOOD.to_vec(), b"\r\n".to_vec()),
        ("GET", with_evil(chunked), vec![]),
        ("GET", chunked.to_vec(), EVIL.to_vec()),
        ("GET", with_evil(empty), vec![]),
        ("GET", empty.to_vec(), EVIL.to_vec()),
        ("GET", with_evil(same), vec![]),
        ("GET", same.to_vec(), b"evil".to_vec()),
        ("GET", lying.to_vec(), vec![]),
        ("HEAD", EVIL.to_vec(), vec![]),
        ("HEAD", GOOD[..GOOD.len() - 4].to_vec(), b"evil".to_vec()),
    ] {
        let house = House::new();
        let (service, _proxy) = before(&house, &now, &later).await;
        let case =
            format!("{method} {:?} {:?}", String::from_utf8_lossy(&now), String::from_utf8_lossy(&later));
        let (answer, _) = ask(&house, method, "/bad").await;
        let status = now[9..12].escape_ascii().to_string();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{case}: {answer}");
        assert!(!answer.contains("evil"), "{case}: {answer}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        check_next(&house, &service, &case).await;
    }
}

/// What the tests above would not show if connections were never used again at all.
#[tokio::test(start_paused = true)]
async fn a_connection_whose_answer_was_right_is_used_again() {
    let house = House::new();
    let (service, _proxy) = before(&house, b"", b"").await;
    for _ in 0..3 {
        let (answer, _) = ask(&house, "GET", "/good").await;
        assert!(answer.ends_with("good"), "{answer}");
    }
    assert_eq!(service.connections("GET /good"), [0, 0, 0]);
    assert_eq!(service.lines().len(), 3);
}

// === from clients ===

/// What an attacker wants a service to see as a request of its own.
const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nhost: app.mesh\r\n\r\n";

/// A gateway and a sidecar before one app, and where each listens for requests.
async fn doors(house: &House) -> (App, [SocketAddr; 2], [Proxy; 2]) {
    let app = house.service("app", 1).remove(0);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let gateway = start_gateway(house).await;
    let sidecar = start_sidecar(house, "shop", 1, None).await;
    caught_up(house, &sidecar).await;
    let doors = [gateway_address(), sidecar.outbound_address().unwrap()];
    (app, doors, [gateway, sidecar])
}

/// Sends each to each door: one answer with this status, the connection ends, and the app sees nothing.
async fn check_refused(attacks: &[(u16, String)]) {
    let house = House::new();
    let (app, doors, _proxies) = doors(&house).await;
    for (status, attack) in attacks {
        let case = format!("{:?}", &attack[..attack.len().min(160)]);
        for door in doors {
            let (answer, has_ended) = talk(&house, door, attack.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{case}: {answer:?}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{case}: {answer:?}");
            assert!(answer.contains("\r\nconnection: close\r\n") && has_ended, "{case}: {answer:?}");
            assert_eq!(app.count(), 0, "{case}: {:?}", app.seen());
        }
    }
    // The doors are open to those who speak plainly.
    for door in doors {
        let (answer, _) =
            talk(&house, door, b"GET / HTTP/1.1\r\nhost: app.mesh\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(app.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_can_be_read_in_two_ways_is_refused() {
    // The body is a chunked one to one reader; to another it has a length, and a request follows.
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let fields = [
        (400, "content-length: 5\r\ntransfer-encoding: chunked"),
        (400, "transfer-encoding: chunked\r\ncontent-length: 5"),
        (400, "transfer-encoding: chunked\r\ncontent-length: 0"),
        (400, "content-length: 5\r\ncontent-length: 5"),
        (400, "content-length: 0\r\ncontent-length: 44"),
        (400, "content-length: 5, 5"),
        (400, "content-length: 5,44"),
        (400, "content-length: +5"),
        (400, "content-length: -5"),
        (400, "content-length: 0x5"),
        (400, "content-length: 5 5"),
        (400, "content-length: 5a"),
        (400, "content-length: "),
        (400, "content-length: \"5\""),
        (400, "content-length: 18446744073709551621"),
        (400, "content-length: \x0b5"),
        (400, "content-length : 5"),
        (400, "content-length\t: 5"),
        (400, "transfer-encoding: chunked, identity"),
        (400, "transfer-encoding: chunked, chunked"),
        (400, "transfer-encoding: identity"),
        (400, "transfer-encoding: gzip"),
        (400, "transfer-encoding: xchunked"),
        (400, "transfer-encoding: chunked;q=1"),
        (400, "transfer-encoding: \"chunked\""),
        (400, "transfer-encoding: , chunked"),
        (400, "transfer-encoding: \x0bchunked"),
        (400, "transfer-encoding: chunked\x0c"),
        (400, "transfer-encoding: chunked\0"),
        (400, "transfer-encoding:\r\n chunked"),
        (400, "transfer-encoding : chunked"),
        (400, "transfer-encoding\x0b: chunked"),
        (400, "transfer-encoding: chunked\r\ntransfer-encoding: identity"),
        (400, "transfer-encoding: identity\r\ntransfer-encoding: chunked"),
        (400, "transfer-encoding: chunked\r\ntransfer-encoding: x"),
        (501, "transfer-encoding: gzip, chunked"),
        (501, "transfer-encoding: identity, chunked"),
        (400, "x: y\r\n content-length: 5"),
        (400, "x: y\r\n\ttransfer-encoding: chunked"),
        (400, " transfer-encoding: chunked"),
        (400, "x: y\ntransfer-encoding: chunked"),
        (400, "x: y\rtransfer-encoding: chunked"),
        (400, "x: y\0"),
        (400, "x: y\r\n\0: z"),
        (400, ": y"),
        (400, "x"),
        (400, "x y: z"),
        (400, "host: other"),
    ];
    let request = |line: &str, fields: &str| format!("{line}\r\nhost: app.mesh\r\n{fields}\r\n\r\n{body}");
    let mut attacks: Vec<_> =
        fields.iter().map(|(status, fields)| (*status, request("POST / HTTP/1.1", fields))).collect();
    attacks.extend([
        (400, request("POST / HTTP/1.0", "transfer-encoding: chunked")),
        (400, request("POST / HTTP/1.0", "transfer-encoding: chunked\r\nconnection: keep-alive")),
        (400, format!("GET / HTTP/1.1\nhost: app.mesh\r\n\r\n{SMUGGLED}")),
        (400, format!("GET / HTTP/1.1\r\nhost: app.mesh\n\n{SMUGGLED}")),
        (400, format!("GET / HTTP/1.1\r\nhost: app.mesh\r\n\n{SMUGGLED}")),
        (400, format!("GET / HTTP/1.1\r\nhost: app.mesh\n\r\n{SMUGGLED}")),
        (400, format!("\nGET / HTTP/1.1\r\nhost: app.mesh\r\n\r\n{SMUGGLED}")),
        (400, format!("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: app.mesh\r\n\r\n{SMUGGLED}")),
    ]);
    check_refused(&attacks).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_line_that_can_be_read_in_two_ways_is_refused() {
    let request = |line: &str| format!("{line}\r\nhost: app.mesh\r\n\r\n{SMUGGLED}");
    let lines = [
        (400, "GET /a#/../admin HTTP/1.1"),
        (400, "GET /# HTTP/1.1"),
        (400, "GET http://app.mesh/#@other/ HTTP/1.1"),
        (400, "GET /a b HTTP/1.1"),
        (400, "GET  / HTTP/1.1"),
        (400, "GET /\tHTTP/1.1"),
        (400, "GET / HTTP/1.1 "),
        (400, "GET /\0 HTTP/1.1"),
        (400, "GET /caf\u{e9} HTTP/1.1"),
        (400, "GET admin HTTP/1.1"),
        (400, "GET * HTTP/1.1"),
        (400, "GET app.mesh:80 HTTP/1.1"),
        (400, "GET ftp://app/ HTTP/1.1"),
        (400, "GET http:///admin HTTP/1.1"),
        (400, "GET http://other/ HTTP/1.1"),
        (400, "OPTIONS *a HTTP/1.1"),
        (400, "GET / http/1.1"),
        (400, "GET / HTTP/1.1\r"),
        (400, "GET /"),
        (400, " GET / HTTP/1.1"),
        (400, "G\u{e9}T / HTTP/1.1"),
        (505, "GET / HTTP/1.2"),
        (505, "GET / HTTP/2.0"),
        (505, "GET / HTTP/0.9"),
    ];
    let mut attacks: Vec<_> = lines.iter().map(|(status, line)| (*status, request(line))).collect();
    attacks.extend([
        (414, request(&format!("GET /{} HTTP/1.1", "a".repeat(40_000)))),
        (431, request(&format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(100_000)))),
        (431, request(&format!("GET / HTTP/1.1\r\n{}z: z", "x: y\r\n".repeat(200)))),
    ]);
    check_refused(&attacks).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_can_be_read_in_two_ways_is_refused() {
    let head = "POST / HTTP/1.1\r\nhost: app.mesh\r\ntransfer-encoding: chunked\r\n\r\n";
    let bodies = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "100000000000000000005\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "0\n\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
    ];
    let attacks: Vec<_> = bodies.iter().map(|body| (400, format!("{head}{body}{SMUGGLED}"))).collect();
    check_refused(&attacks).await;
}

/// A body that looks like a request is a body, and a request behind a body is a request.
#[tokio::test(start_paused = true)]
async fn bodies_end_where_they_say() {
    let house = House::new();
    let (app, doors, _proxies) = doors(&house).await;
    for door in doors {
        let before = app.count();
        let chunk = format!("{:x};a=b\r\n{SMUGGLED}\r\n", SMUGGLED.len());
        let all = format!(
            "POST /one HTTP/1.1\r\nhost: app.mesh\r\ncontent-length: {}\r\n\r\n{SMUGGLED}\
             POST /two HTTP/1.1\r\nhost: app.mesh\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\nhost: other\r\n\r\n\
             POST /three HTTP/1.1\r\nhost: app.mesh\r\n\r\n\
             POST /four HTTP/1.1\r\nhost: app.mesh\r\ncontent-length: 00\r\nconnection: close\r\n\r\n{SMUGGLED}",
            SMUGGLED.len()
        );
        let (answer, has_ended) = talk(&house, door, all.as_bytes()).await;
        assert!(has_ended);
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 4, "{answer}");
        let seen = app.seen().split_off(before);
        let seen: Vec<_> = seen.iter().map(|seen| (seen.line.as_str(), seen.body.as_ref())).collect();
        let smuggled = SMUGGLED.as_bytes();
        let none: &[u8] = b"";
        assert_eq!(
            seen,
            [("POST /one", smuggled), ("POST /two", smuggled), ("POST /three", none), ("POST /four", none)]
        );
    }
}

/// What stands behind a body must not be read as the beginning of another protocol by one and as a request by another.
#[tokio::test(start_paused = true)]
async fn a_request_with_a_body_does_not_change_the_protocol() {
    let house = House::new();
    let (app, doors, _proxies) = doors(&house).await;
    let upgrade = "POST / HTTP/1.1\r\nhost: app.mesh\r\nupgrade: websocket\r\nconnection: upgrade\r\n";
    for door in doors {
        for body in
            ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
        {
            let (answer, _) = talk(&house, door, format!("{upgrade}{body}").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let seen = app.seen().pop().unwrap();
            assert_eq!(seen.body, "hello");
            assert!(!seen.headers.contains_key("upgrade"), "{seen:?}");
        }
        let old = format!("{upgrade}\r\n").replace("HTTP/1.1", "HTTP/1.0");
        let (answer, _) = talk(&house, door, old.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (answer, _) = talk(&house, door, format!("{upgrade}\r\nhello").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    }
}
