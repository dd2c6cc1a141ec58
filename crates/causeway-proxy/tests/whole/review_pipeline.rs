//! What a review found on the way of a request: circles, changes of protocol, fields in disguise, the end of kept connections.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_base::Scope;
use causeway_base::net::BindOptions;
use causeway_proxy::{Proxy, Role};
use causeway_testkit::{App, Client, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

/// Sends bytes, gives the first of the answer; empty when there is none within a minute.
async fn raw(house: &House, to: SocketAddr, bytes: &str) -> String {
    let mut stream = house.net().connect(to).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut buffer)).await;
    let read = read.map_or(0, |read| read.unwrap_or(0));
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// A gateway in front of one app that takes everything.
async fn gate(house: &House) -> (App, Proxy) {
    let app = house.service("app", 1).remove(0);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    (app, start_gateway(house).await)
}

/// The outbound port must not be a way to itself: over TCP one request became 18,000 connections.
#[tokio::test(start_paused = true)]
async fn the_outbound_port_does_not_call_itself() {
    let house = House::new();
    let mut role = sidecar_role(&house, "shop", None);
    role.upstreams = vec![(House::key("pay"), "127.0.0.1:9101".parse().unwrap())];
    let mut options = options(&house, Role::Sidecar(role), house.snapshots());
    options.admin = Some("127.0.0.1:15000".parse().unwrap());
    let shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    let own = shop.outbound_address().unwrap();
    let answer = raw(&house, own, &format!("GET / HTTP/1.1\r\nhost: {own}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("error=http_request_error"), "{answer:?}");
    assert!(answer.contains("use it as an HTTP proxy"), "{answer:?}");
    let port = own.port();
    let others = ["127.0.0.1:9101".to_owned(), "127.0.0.1:15000".to_owned()];
    let own = [
        own.to_string(),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("0.0.0.0:{port}"),
        format!("localhost:{port}"),
    ];
    let at = shop.outbound_address().unwrap();
    for target in own.into_iter().chain(others) {
        let answer =
            raw(&house, at, &format!("GET http://{target}/ HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{target}: {answer:?}");
        assert!(answer.contains("error=proxy_loop_detected"), "{target}: {answer:?}");
        let answer = raw(&house, at, &format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        assert!(answer.contains("error=proxy_loop_detected"), "tunnel to {target}: {answer:?}");
    }
}

/// A page in a browser on the app's machine: its requests are in origin form.
#[tokio::test(start_paused = true)]
async fn a_web_page_cannot_call_out_through_the_sidecar() {
    let house = House::new();
    let outside = house.app("outside");
    let shop = start_sidecar(&house, "shop", 1, None).await;
    let own = shop.outbound_address().unwrap();
    // Its name may lead here (DNS rebinding), and its own host may be one that we could reach.
    for host in ["evil.example".to_owned(), own.to_string(), outside.address().to_string()] {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\norigin: http://evil.example\r\ncontent-length: 0\r\n\r\n"
        );
        let answer = raw(&house, own, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer:?}");
    }
    assert_eq!(outside.count(), 0);
}

/// A way back that no look at an address finds: `Via` ends it.
#[tokio::test(start_paused = true)]
async fn a_circle_through_another_proxy_ends() {
    let house = House::new();
    let local: SocketAddr = "127.0.0.1:9101".parse().unwrap();
    // Somebody registers the caller's own local port as the service's instance.
    house.place("pay", "pay-1", local).put();
    let mut role = sidecar_role(&house, "shop", None);
    role.upstreams = vec![(House::key("pay"), local)];
    let options = options(&house, Role::Sidecar(role), house.snapshots());
    let shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    caught_up(&house, &shop).await;
    let answer = house.ask(local, "POST pay/charge").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.body.contains("goes in a circle"), "{answer:?}");
    let report = shop.traffic();
    let passed: u64 = report.edges.iter().map(|edge| edge.requests).sum();
    assert!(passed < 20, "{passed} calls of one");
}

#[tokio::test(start_paused = true)]
async fn who_passed_a_request_on_says_so() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    house.ask(gateway_address(), "GET h/").await;
    let seen = app.seen();
    let via = seen[0].headers["via"].to_str().unwrap();
    assert!(via.starts_with("1.1 causeway-"), "{via}");
}

/// What a client may switch to is not another HTTP, which would pass by every rule; nor may it say in other spelling who calls.
#[tokio::test(start_paused = true)]
async fn an_app_sees_no_h2c_and_no_caller_in_disguise() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    let head = "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\
                x_causeway_caller: spiffe://house.test/ns/causeway/svc/sagas\r\nX_Forwarded-For: 127.0.0.1\r\nx_mine: 1\r\n\r\n";
    let answer = raw(&house, gateway_address(), head).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = &app.seen()[0];
    for name in ["upgrade", "http2-settings", "x_causeway_caller", "x_forwarded-for"] {
        assert!(!seen.headers.contains_key(name), "{name} reaches the app");
    }
    assert_eq!(seen.headers["x_mine"], "1");
}

#[tokio::test(start_paused = true)]
async fn trailers_do_not_say_who_calls() {
    let house = House::new();
    let address = house.address(8000);
    let mut listener = house.net().bind(address, BindOptions::default()).unwrap();
    house.place("raw", "raw-1", address).put();
    house.put("r", gateway_route(vec![rule("/", vec![backend("raw", 1)])]));
    let _proxy = start_gateway(&house).await;
    let app = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = String::new();
        while !seen.ends_with("\r\n\r\n") || !seen.contains("\r\n0\r\n") {
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        seen
    };
    let request = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\
                   trailer: checksum, x-causeway-caller, x_causeway_caller\r\n\r\n\
                   1\r\nx\r\n0\r\nchecksum: 7\r\nx-causeway-caller: evil\r\nx_causeway_caller: evil\r\n\r\n";
    let (seen, answer) = tokio::join!(app, raw(&house, gateway_address(), request));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(seen.contains("checksum: 7\r\n"), "{seen}");
    assert!(!seen.contains("evil"), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn what_could_be_read_in_two_ways_is_refused() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    for head in [
        "GET /pub/..;/admin HTTP/1.1\r\nhost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /a#/../b HTTP/1.1\r\nhost: h\r\n\r\n",
        "POST /both HTTP/1.1\r\nhost: h\r\ncontent-length: 40\r\ntransfer-encoding: chunked\r\n\r\n\
         1\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n",
    ] {
        let answer = raw(&house, gateway_address(), head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer:?}");
        assert!(answer.contains("connection: close"), "{head:?}: {answer:?}");
        assert!(answer.contains("proxy-status: causeway; error=http_request_error"), "{head:?}: {answer:?}");
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_on_a_kept_connection_is_answered_when_a_drain_begins() {
    let house = House::new();
    let (_app, proxy) = gate(&house).await;
    let mut busy = Client::connect(&house.net(), gateway_address()).await;
    let mut idle = Client::connect(&house.net(), gateway_address()).await;
    for client in [&mut busy, &mut idle] {
        let answer = client.send(House::request("GET h/")).await.unwrap();
        assert_eq!(answer.header("connection"), "", "{answer:?}");
    }
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy.send(House::request("GET h/")).await
    };
    let begun = tokio::time::Instant::now();
    let (is_whole, answer) = tokio::join!(proxy.drain(Duration::from_secs(10)), late);
    let answer = answer.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (200, "close"), "{answer:?}");
    assert!(is_whole && begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(idle.send(House::request("GET h/")).await.is_err(), "an idle connection ends");
}
