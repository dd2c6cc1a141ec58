//! Requests that could be read in two ways are refused at every door before a service sees a second request in them.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_base::net::Stream;
use causeway_proxy::Proxy;
use causeway_testkit::{App, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

/// Sends bytes and reads all that comes back until the connection ends or nothing comes for long. Whether it ended.
pub(crate) async fn talk(house: &House, to: SocketAddr, bytes: &[u8]) -> (String, bool) {
    let mut stream = house.net().connect(to).await.unwrap();
    // A proxy that has refused already need not read the rest.
    let _ = stream.write_all(bytes).await;
    read_all(&mut stream).await
}

pub(crate) async fn read_all(stream: &mut Stream) -> (String, bool) {
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
