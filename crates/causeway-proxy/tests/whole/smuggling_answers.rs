//! Answers that could be read in two ways: what comes from a service never becomes the answer to somebody else's request.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::net::{BindOptions, Stream};
use causeway_base::{OnFailure, Scope};
use causeway_proxy::Proxy;
use causeway_testkit::House;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;
use crate::smuggling::{read_all, talk};

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
