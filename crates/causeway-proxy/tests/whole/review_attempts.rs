//! Attempts as callers see them: whose word is believed, what may have been processed, whose fault a failure is.

use std::time::Duration;

use bytes::Bytes;
use causeway_base::outbound::{Call, CallError};
use causeway_base::{OnFailure, Scope, Seed};
use causeway_model::{AccessPolicy, Spec};
use causeway_proxy::{Proxy, Role};
use causeway_testkit::{Client, House};
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

/// Sends bytes, gives the first of the answer; empty when there is none within a minute.
async fn raw(house: &House, to: std::net::SocketAddr, bytes: &str) -> String {
    let mut stream = house.net().connect(to).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut buffer)).await;
    let read = read.map_or(0, |read| read.unwrap_or(0));
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// An app that relays what its own sidecar said of another call (any BFF or reverse proxy) has processed the request itself.
#[tokio::test(start_paused = true)]
async fn what_an_app_says_in_proxy_status_is_not_its_sidecars_word() {
    let house = House::new();
    let (one, two) = (house.app("one"), house.app("two"));
    let _first = start_sidecar(&house, "pay", 1, Some(&one)).await;
    let _second = start_sidecar(&house, "pay", 2, Some(&two)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    for app in [&one, &two] {
        app.behave(|_| {
            let relayed = "causeway; error=connection_refused";
            let answer =
                Response::builder().status(503).header("proxy-status", relayed).body(Bytes::new()).unwrap();
            (Duration::ZERO, answer)
        });
    }
    let mut client = Client::connect(&house.net(), shop.outbound_address().unwrap()).await;
    let request =
        Request::post("/charges").header("host", "pay.mesh").body(Bytes::from_static(b"money")).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 503);
    assert_eq!(one.count() + two.count(), 1, "a POST without a key was charged more than once");
}

/// `Unreachable` means that no attempt was sent, not that the last one was not.
#[tokio::test(start_paused = true)]
async fn a_call_of_which_one_attempt_was_read_is_never_unreachable() {
    for (broken, dead) in [(0, 1), (1, 0)] {
        let house = House::new();
        let apps = house.service("pay", 2);
        let source = House::key("causeway/sagas");
        let mut options = options(&house, Role::Client { source }, house.snapshots());
        options.credentials = Some(house.credentials("causeway/sagas"));
        let proxy = Proxy::start(options, &Scope::root("sagas")).await.unwrap();
        caught_up(&house, &proxy).await;
        apps[broken].break_off(true);
        apps[dead].kill().await;
        let call = Call {
            namespace: "default".into(),
            service: "pay".into(),
            port: None,
            request: Request::post("/charges")
                .header("idempotency-key", "k")
                .body(Bytes::from_static(b"{}"))
                .unwrap(),
            timeout: Duration::from_secs(5),
            is_idempotent: true,
            answer_bytes_max: 100,
        };
        let error = proxy.outbound().call(call).await.unwrap_err();
        let was_read = apps[broken].count() > 0;
        assert!(
            !(was_read && matches!(error, CallError::Unreachable { .. })),
            "{error:?} although {} were read",
            apps[broken].count()
        );
    }
}

/// A client that breaks off its own upload says nothing about the service's instances.
#[tokio::test(start_paused = true)]
async fn a_broken_upload_ejects_nobody() {
    let house = House::new();
    let apps = house.service("app", 2);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let proxy = start_gateway(&house).await;
    let mut answer = String::new();
    for _ in 0..20 {
        let upload = "POST /up HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n";
        answer = raw(&house, gateway_address(), upload).await;
    }
    let ejections: String =
        proxy.metrics().lines().filter(|l| l.starts_with("causeway_proxy_ejections_total")).collect();
    assert!(ejections.is_empty() || ejections.ends_with(" 0"), "{ejections}; {} apps", apps.len());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

/// What is refused before its body was read gets its answer all the same (RFC 9113 section 8.1).
#[tokio::test(start_paused = true)]
async fn an_early_refusal_over_http2_reaches_a_client_that_still_sends() {
    let house = House::new();
    house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/app", vec![backend("app", 1)])]));
    let _proxy = start_gateway(&house).await;
    let stream = house.net().connect(gateway_address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    Scope::root("client").spawn("connection", OnFailure::Log, async move { Ok(connection.await?) });
    for megabytes in [1, 3, 12] {
        let request = Request::post("http://h/nowhere").body(()).unwrap();
        let (answer, mut upload) = client.send_request(request, false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 404);
        let mut text = answer.into_body();
        assert!(text.data().await.unwrap().unwrap().starts_with(b"no route"));
        // A client that sends all before it reads: a reset of its stream would end it.
        let mut left = megabytes << 20;
        while left > 0 {
            upload.reserve_capacity(left);
            let room = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await;
            let room = room.unwrap_or_else(|| panic!("{megabytes} MB: reset with {left} to go")).unwrap();
            left -= room;
            upload.send_data(Bytes::from(vec![b'x'; room]), left == 0).unwrap();
        }
    }
}

/// So it does inside the mesh, where the caller's sidecar is the client.
#[tokio::test(start_paused = true)]
async fn an_early_refusal_inside_the_mesh_reaches_a_caller_that_still_sends() {
    let house = House::new();
    let app = house.app("pay");
    let pay = start_sidecar(&house, "pay", 1, Some(&app)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    let nobody = AccessPolicy {
        targets: vec![House::key("pay")],
        allow: vec![],
        is_dry_run: false,
        ..AccessPolicy::default()
    };
    house.put("guard", Spec::AccessPolicy(nobody));
    caught_up(&house, &pay).await;
    caught_up(&house, &shop).await;
    for megabytes in [0, 1, 3, 12] {
        let mut client = Client::connect(&house.net(), shop.outbound_address().unwrap()).await;
        let body = Bytes::from(vec![b'x'; megabytes << 20]);
        let request = Request::post("http://pay.mesh/charges").header("host", "pay.mesh").body(body).unwrap();
        let answer = client.send(request).await.unwrap_or_else(|e| panic!("{megabytes} MB: {e:?}"));
        assert_eq!(answer.status, 403, "{megabytes} MB: {answer:?}");
    }
    assert_eq!(app.count(), 0);
}

/// In front of its app a sidecar leaves it to the caller how often a request is sent.
#[tokio::test(start_paused = true)]
async fn retries_do_not_multiply_along_the_way() {
    let house = House::new();
    let (one, two) = (house.app("one"), house.app("two"));
    let _first = start_sidecar(&house, "pay", 1, Some(&one)).await;
    let _second = start_sidecar(&house, "pay", 2, Some(&two)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    // Both sidecars hold idle connections to their apps.
    while one.count() == 0 || two.count() == 0 {
        assert_eq!(house.ask(shop.outbound_address().unwrap(), "GET http://pay.mesh/").await.status, 200);
    }
    let before = one.count() + two.count();
    [&one, &two].iter().for_each(|app| app.break_off(true));
    assert_eq!(house.ask(shop.outbound_address().unwrap(), "GET http://pay.mesh/").await.status, 502);
    assert_eq!(one.count() + two.count() - before, 3, "one attempt and two retries");
}

/// The same through sidecars: the last one's "not reached" does not hide what the first one's app had read.
#[tokio::test(start_paused = true)]
async fn a_call_that_one_sidecars_app_read_is_never_unreachable() {
    for turn in 0..6 {
        let house = House::new();
        let apps = [house.app("one"), house.app("two")];
        let _first = start_sidecar(&house, "pay", 1, Some(&apps[0])).await;
        let _second = start_sidecar(&house, "pay", 2, Some(&apps[1])).await;
        let source = House::key("causeway/sagas");
        let mut options = options(&house, Role::Client { source }, house.snapshots());
        options.credentials = Some(house.credentials("causeway/sagas"));
        options.seed = Seed::from_number(turn);
        let proxy = Proxy::start(options, &Scope::root("sagas")).await.unwrap();
        caught_up(&house, &proxy).await;
        apps[0].break_off(true);
        apps[1].kill().await;
        let call = Call {
            namespace: "default".into(),
            service: "pay".into(),
            port: None,
            request: Request::post("/charges").body(Bytes::from_static(b"{}")).unwrap(),
            timeout: Duration::from_secs(5),
            is_idempotent: true,
            answer_bytes_max: 100,
        };
        let error = proxy.outbound().call(call).await.unwrap_err();
        assert!(apps[0].count() > 0, "it was tried");
        assert!(matches!(error, CallError::Broken(_)), "turn {turn}: {error:?}");
    }
}

/// Over HTTP/2 the broken upload reaches us as a stream of ours that was reset: still the client's doing.
#[tokio::test(start_paused = true)]
async fn a_broken_upload_into_the_mesh_ejects_nobody() {
    let house = House::new();
    let (one, two) = (house.app("one"), house.app("two"));
    let _first = start_sidecar(&house, "pay", 1, Some(&one)).await;
    let _second = start_sidecar(&house, "pay", 2, Some(&two)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    for _ in 0..20 {
        let upload = "POST http://pay.mesh/up HTTP/1.1\r\nhost: pay.mesh\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n";
        let answer = raw(&house, shop.outbound_address().unwrap(), upload).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let summary = shop.summary().to_string();
    assert!(summary.contains("pay-1") && !summary.contains("\"ejected\":true"), "{summary}");
}
