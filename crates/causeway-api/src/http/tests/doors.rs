//! The server on a network in memory: who is let in, WebSockets, the end.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_base::Scope;
use causeway_base::net::{BindOptions, Net, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::{House, router};
use crate::http::{guarded, serve};

const DOOR: &str = "127.0.0.1:7070";

/// Serves the house's router; gives the network and the scope that ends the door.
fn open(house: &House, address: &str) -> (Net, Scope) {
    let net = Net::memory();
    let listener = net.bind(address.parse().unwrap(), BindOptions::default()).unwrap();
    let scope = house.scope.child("doors");
    serve(listener, router(house.rooms.clone()), &scope);
    (net, scope)
}

async fn connect(net: &Net, address: &str) -> Stream {
    net.connect(address.parse::<SocketAddr>().unwrap()).await.unwrap()
}

/// Reads until `end` was read, or the connection ends.
async fn read_until(stream: &mut Stream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.windows(end.len()).any(|window| window == end.as_bytes()) {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await.unwrap() {
            0 => break,
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(start_paused = true)]
async fn web_pages_of_others_are_kept_out_on_loopback() {
    let house = House::open().await;
    let router = guarded(house.router.clone());
    for (headers, status) in [
        (vec![("host", "127.0.0.1:7070")], 200),
        (vec![("host", "localhost:7070"), ("origin", "http://localhost:7070")], 200),
        (vec![("host", "rebound.example:7070")], 403),
        (vec![("host", "127.0.0.1:7070"), ("origin", "http://evil.example")], 403),
        (vec![("host", "127.0.0.1:7070"), ("origin", "null")], 403),
    ] {
        let mut request = http::Request::builder().uri("/v1/version");
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        let answer = router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_door_on_loopback_is_guarded_and_another_is_not() {
    let house = House::open().await;
    for (address, status) in [(DOOR, "403"), ("10.0.0.1:7070", "200")] {
        let (net, _scope) = open(&house, address);
        let mut stream = connect(&net, address).await;
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: node.example\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{address}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_and_connections_end_with_the_door() {
    let house = House::open().await;
    let (net, scope) = open(&house, DOOR);
    let mut watching = connect(&net, DOOR).await;
    watching.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert!(read_until(&mut watching, "\r\n\r\n").await.contains("text/event-stream"));
    let mut idle = connect(&net, DOOR).await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut idle, "ok\n").await;
    let before = house.rooms.clock.instant();
    assert!(scope.shutdown(Duration::from_secs(10)).await);
    assert!(house.rooms.clock.instant() - before < Duration::from_secs(1), "nobody had to be waited for");
    // The chunked body's end, and then the connection's.
    assert!(read_until(&mut watching, "\0").await.ends_with("0\r\n\r\n"));
    assert_eq!(read_until(&mut idle, "\0").await, "");
    assert!(net.connect(DOOR.parse().unwrap()).await.is_err(), "nobody listens");
}

#[tokio::test(start_paused = true)]
async fn a_websocket_tails_a_topic() {
    let house = House::open().await;
    house.put("/v1/topics/orders", "").await.is(200);
    let event = [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s"), ("ce-id", "e1")];
    house.ask_with("POST", "/v1/topics/orders/events", &event, "").await.is(200);
    let (net, _scope) = open(&house, DOOR);
    let mut stream = connect(&net, DOOR).await;
    let upgrade = "GET /v1/topics/orders/events?from=0 HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{answer}"
    );
    let message = answer.split_once('{').map(|(_, rest)| format!("{{{rest}")).unwrap();
    let message: serde_json::Value = serde_json::from_str(&message).unwrap();
    assert_eq!((&message["id"], &message["causewayoffset"]), (&"e1".into(), &"0".into()));

    // Not a WebSocket's request in full.
    let headers = [("upgrade", "websocket"), ("connection", "upgrade")];
    house.ask_with("GET", "/v1/topics/orders/events", &headers, "").await.refuses(400, "CW-1913");
}
