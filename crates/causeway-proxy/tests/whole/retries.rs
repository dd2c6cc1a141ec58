//! Retries by policy: what is tried again, where, how often; and that no outage is made worse by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{OnFailure, Scope};
use causeway_model::{Protocol, Retry, RetryRule, Spec, TrafficPolicy, TrafficTimeouts};
use causeway_proxy::Proxy;
use causeway_testkit::{App, Client, House};
use http::{Request, Response};
use tokio::time::Instant;

use crate::common::*;

const MILLI: Duration = Duration::from_millis(1);

/// A gateway in front of so many instances of `app`, with a policy for it.
async fn front(house: &House, instances: usize, policy: TrafficPolicy) -> (Vec<App>, Proxy) {
    let apps = house.service("app", instances);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    house.put("p", Spec::TrafficPolicy(policy));
    (apps, start_gateway(house).await)
}

fn retrying(retry: Retry) -> TrafficPolicy {
    TrafficPolicy { retry: Some(retry), ..service_policy("app") }
}

fn codes(codes: &[u16]) -> Retry {
    Retry { codes: codes.to_vec(), ..Retry::default() }
}

/// Sends so many requests, from 32 clients at once. Returns how many were answered 200.
async fn flood(house: &House, at: SocketAddr, line: &'static str, requests: usize) -> usize {
    let (left, done, good) = (Arc::new(AtomicUsize::new(requests)), Arc::default(), Arc::default());
    let (done, good): (Arc<AtomicUsize>, Arc<AtomicUsize>) = (done, good);
    let scope = Scope::root("flood");
    for _ in 0..32 {
        let (net, left, done, good) = (house.net(), left.clone(), done.clone(), good.clone());
        scope.spawn("client", OnFailure::Log, async move {
            let mut client = Client::connect(&net, at).await;
            while left.try_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                let answer = client.send(House::request(line)).await.unwrap();
                good.fetch_add(usize::from(answer.status == 200), Relaxed);
                done.fetch_add(1, Relaxed);
                if answer.header("connection") == "close" {
                    client = Client::connect(&net, at).await;
                }
            }
            Ok(())
        });
    }
    until(|| done.load(Relaxed) == requests).await;
    good.load(Relaxed)
}

fn total(apps: &[App]) -> usize {
    apps.iter().map(App::count).sum()
}

fn assert_little_more(seen: usize, requests: usize, what: &str) {
    assert!(seen > requests, "{what}: nothing was tried again ({seen} of {requests})");
    assert!(seen * 10 <= requests * 12, "{what}: {seen} requests reached the service for {requests}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_altogether_gets_at_most_a_fifth_more() {
    let slow = TrafficTimeouts { per_try: Some(100 * MILLI), ..TrafficTimeouts::default() };
    type Ailment = fn(&App);
    let cases: [(&str, TrafficPolicy, Ailment); 3] = [
        ("503", retrying(codes(&[503])), |app| app.answer(503)),
        ("connections broken off", service_policy("app"), |app| app.break_off(true)),
        ("hangs", TrafficPolicy { timeouts: Some(slow), ..service_policy("app") }, |app| {
            app.delay(Duration::from_secs(3600));
        }),
    ];
    for (what, policy, fail) in cases {
        for is_known_good in [false, true] {
            let house = House::new();
            let (apps, _proxy) = front(&house, 4, policy.clone()).await;
            if is_known_good {
                assert_eq!(flood(&house, gateway_address(), "GET h/", 1000).await, 1000);
            }
            let before = total(&apps);
            apps.iter().for_each(fail);
            assert_eq!(flood(&house, gateway_address(), "GET h/", 1000).await, 0, "{what}");
            assert_little_more(total(&apps) - before, 1000, what);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retries_do_not_multiply_along_a_chain_of_three_hops() {
    let house = House::new();
    let apps = ["b", "c", "d"].map(|name| house.app(name));
    let edge = start_sidecar(&house, "a", 1, None).await;
    let mut sidecars = Vec::new();
    for (app, name) in apps.iter().zip(["b", "c", "d"]) {
        sidecars.push(start_sidecar(&house, name, 1, Some(app)).await);
        let policy = TrafficPolicy { retry: Some(codes(&[503])), ..service_policy(name) };
        house.put(name, Spec::TrafficPolicy(policy));
    }
    apps[0].relay(sidecars[0].outbound_address().unwrap(), "GET http://c.mesh/");
    apps[1].relay(sidecars[1].outbound_address().unwrap(), "GET http://d.mesh/");
    for proxy in sidecars.iter().chain([&edge]) {
        caught_up(&house, proxy).await;
    }
    let at = edge.outbound_address().unwrap();
    assert_eq!(flood(&house, at, "GET http://b.mesh/", 200).await, 200);
    let before = total(&apps[2..]);
    apps[2].answer(503);
    assert_eq!(flood(&house, at, "GET http://b.mesh/", 1000).await, 0);
    assert_little_more(total(&apps[2..]) - before, 1000, "the last of the chain");
}

#[tokio::test(start_paused = true)]
async fn with_some_failures_all_succeed_within_the_budget() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 4, retrying(codes(&[503]))).await;
    assert_eq!(flood(&house, gateway_address(), "GET h/", 500).await, 500);
    // Every tenth request fails, wherever it goes: no endpoint is worse than another.
    let count = Arc::new(AtomicUsize::new(0));
    for app in &apps {
        let count = count.clone();
        app.behave(move |_| {
            let status = if count.fetch_add(1, Relaxed).is_multiple_of(10) { 503 } else { 200 };
            (MILLI, Response::builder().status(status).body(Bytes::new()).unwrap())
        });
    }
    let good = flood(&house, gateway_address(), "GET h/", 2000).await;
    // Three tries of which each meets a tenth request fail now and then.
    assert!(good >= 1990, "{good}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_leaves_the_dead_host() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 3, service_policy("app")).await;
    assert_eq!(flood(&house, gateway_address(), "GET h/", 100).await, 100);
    apps[0].kill().await;
    // Not one fails, and none is kept waiting: the dead host is not asked a second time for the same request.
    let begun = Instant::now();
    assert_eq!(flood(&house, gateway_address(), "GET h/", 500).await, 500);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn when_all_hosts_are_dead_it_is_said_at_once() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 3, service_policy("app")).await;
    for app in &apps {
        app.kill().await;
    }
    let begun = Instant::now();
    let answer = house.ask(gateway_address(), "GET h/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("proxy-status").contains("error=connection_refused"), "{answer:?}");
    assert!(begun.elapsed() < 100 * MILLI, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_dies_amid_requests_fails_none_that_may_be_repeated() {
    let house = House::new();
    let (apps, proxy) = front(&house, 2, service_policy("app")).await;
    apps.iter().for_each(|app| app.delay(50 * MILLI));
    assert_eq!(flood(&house, gateway_address(), "GET h/", 200).await, 200);
    let dying = async {
        let before = apps[0].count();
        until(|| apps[0].count() > before + 20).await;
        apps[0].kill().await;
    };
    let (good, ()) = tokio::join!(flood(&house, gateway_address(), "GET h/", 500), dying);
    assert_eq!(good, 500);
    assert!(proxy.metrics().contains("retries"), "{}", proxy.metrics());
}

/// Rolling out and scaling down: an instance is withdrawn, learns it, finishes what runs and goes.
#[tokio::test(start_paused = true)]
async fn scaling_down_fails_nothing() {
    for has_sidecars in [false, true] {
        let house = House::new();
        let apps = ["one", "two", "three"].map(|name| house.app(name));
        apps.iter().for_each(|app| app.delay(20 * MILLI));
        let mut sidecars = Vec::new();
        for (id, app) in (1..).zip(&apps) {
            match has_sidecars {
                true => sidecars.push(start_sidecar(&house, "app", id, Some(app)).await),
                false => drop(house.place("app", &format!("app-{id}"), app.address()).put()),
            }
        }
        let shop = start_sidecar(&house, "shop", 1, None).await;
        caught_up(&house, &shop).await;
        let at = shop.outbound_address().unwrap();
        let leaving = async {
            for (at, app) in apps.iter().enumerate().take(2) {
                until(|| app.count() > 30).await;
                house.withdraw("app", &format!("app-{}", at + 1));
                caught_up(&house, &shop).await;
                if let Some(sidecar) = sidecars.get(at) {
                    assert!(sidecar.drain(Duration::from_secs(5)).await, "it finishes in time");
                } else {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                app.kill().await;
            }
        };
        let (good, ()) = tokio::join!(flood(&house, at, "GET http://app.mesh/", 3000), leaving);
        assert_eq!(good, 3000, "with sidecars: {has_sidecars}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_try_has_its_time_and_the_next_goes_elsewhere() {
    let house = House::new();
    let timeouts = TrafficTimeouts { per_try: Some(100 * MILLI), ..TrafficTimeouts::default() };
    let policy = TrafficPolicy { timeouts: Some(timeouts), ..service_policy("app") };
    let (apps, _proxy) = front(&house, 2, policy).await;
    apps[0].delay(Duration::from_secs(60));
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(house.ask(gateway_address(), "GET h/").await.line(), "200 app-2");
        assert!(begun.elapsed() < 150 * MILLI, "{:?}", begun.elapsed());
    }
    // A request that may be done only once gets one try.
    apps[1].delay(Duration::from_secs(60));
    let before = total(&apps);
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    let post = Request::post("/").header("host", "h").body(Bytes::from_static(b"money")).unwrap();
    let answer = client.send(post).await.unwrap();
    assert_eq!((answer.status.as_u16(), total(&apps) - before), (504, 1));
    assert!(answer.header("proxy-status").contains("error=http_response_timeout"));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_followed_when_it_is_short() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 2, retrying(codes(&[429, 503]))).await;
    let say = |after: &'static str| {
        let first = Arc::new(AtomicUsize::new(0));
        for app in &apps {
            let first = first.clone();
            app.behave(move |_| {
                let is_first = first.fetch_add(1, Relaxed) == 0;
                let answer = match is_first {
                    true => Response::builder().status(429).header("retry-after", after),
                    false => Response::builder().status(200),
                };
                (Duration::ZERO, answer.body(Bytes::new()).unwrap())
            });
        }
    };
    for (after, status, least, most) in [("1", 200, 1000, 1100), ("0", 200, 0, 100), ("60", 429, 0, 100)] {
        say(after);
        let begun = Instant::now();
        assert_eq!(house.ask(gateway_address(), "GET h/").await.status, status, "Retry-After: {after}");
        let took = begun.elapsed().as_millis();
        assert!((least..most).contains(&took), "Retry-After: {after}: {took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_goes_before_the_policy_of_its_service() {
    let house = House::new();
    let apps = house.service("app", 3);
    let mut once = rule("/once", vec![backend("app", 1)]);
    once.retry = Some(RetryRule { attempts: 1, codes: vec![502], backoff: None });
    house.put("r", gateway_route(vec![once, rule("/", vec![backend("app", 1)])]));
    house.put("p", Spec::TrafficPolicy(retrying(Retry { attempts: Some(2), ..codes(&[503]) })));
    let _proxy = start_gateway(&house).await;
    for (status, path, tries) in [(503, "/", 3), (502, "/", 1), (502, "/once", 2), (503, "/once", 1)] {
        apps.iter().for_each(|app| app.answer(status));
        let before = total(&apps);
        assert_eq!(house.ask(gateway_address(), &format!("GET h{path}")).await.status, status);
        assert_eq!(total(&apps) - before, tries, "{path} answered {status}");
        // So that what was spent is there again, and nobody is ejected.
        apps.iter().for_each(|app| app.answer(200));
        tokio::time::sleep(Duration::from_secs(61)).await;
        for _ in 0..20 {
            assert_eq!(house.ask(gateway_address(), "GET h/").await.status, 200);
        }
    }
}

/// Calls `app.mesh` with gRPC over HTTP/2; returns HTTP status, gRPC status and the answer's fields.
async fn grpc(house: &House, at: SocketAddr, fields: &[(&str, &str)]) -> (u16, String, http::HeaderMap) {
    let stream = house.net().connect(at).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    Scope::root("client").spawn("connection", OnFailure::Log, async move { Ok(connection.await?) });
    let request = Request::post("http://app.mesh/shop.Cart/Add").header("content-type", "application/grpc");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let (answer, mut upload) = client.send_request(request.body(()).unwrap(), false).unwrap();
    upload.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), true).unwrap();
    let answer = answer.await.unwrap();
    let status = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    (answer.status().as_u16(), status.unwrap_or_default(), answer.headers().clone())
}

/// An answer that is all head.
fn say_grpc(app: &App, status: u16) {
    app.behave(move |_| {
        let answer = Response::builder().header("content-type", "application/grpc");
        (Duration::ZERO, answer.header("grpc-status", status).body(Bytes::new()).unwrap())
    });
}

#[tokio::test(start_paused = true)]
async fn statuses_of_grpc_are_tried_again_as_the_policy_says() {
    let house = House::new();
    let apps = [house.app("one"), house.app("two")];
    for (id, app) in (1..).zip(&apps) {
        house.place("app", &format!("app-{id}"), app.address()).with(|i| i.protocol = Protocol::Grpc).put();
    }
    house.put("p", Spec::TrafficPolicy(retrying(Retry { grpc_codes: vec![14], ..Retry::default() })));
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let at = shop.outbound_address().unwrap();
    say_grpc(&apps[0], 14);
    say_grpc(&apps[1], 0);
    for _ in 0..8 {
        assert_eq!(grpc(&house, at, &[]).await.1, "0");
    }
    // One that is not named is the caller's to see.
    say_grpc(&apps[1], 9);
    say_grpc(&apps[0], 9);
    let before = total(&apps);
    assert_eq!(grpc(&house, at, &[]).await.1, "9");
    assert_eq!(total(&apps) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn callers_of_grpc_are_told_in_its_own_words() {
    let house = House::new();
    let app = house.app("one");
    let place = |port| house.place("app", "app-1", port).with(|i| i.protocol = Protocol::Grpc).put();
    place(app.address());
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let at = shop.outbound_address().unwrap();
    app.kill().await;
    let (status, grpc_status, fields) = grpc(&house, at, &[]).await;
    assert_eq!((status, &*grpc_status), (200, "14"), "{fields:?}");
    assert_eq!(fields["content-type"], "application/grpc");
    assert!(fields["proxy-status"].to_str().unwrap().contains("connection_refused"), "{fields:?}");
    assert!(!fields["grpc-message"].is_empty());
    // Its time is over when it comes: nobody is asked.
    app.revive();
    let before = app.count();
    let (status, grpc_status, fields) = grpc(&house, at, &[("grpc-timeout", "0m")]).await;
    assert_eq!((status, &*grpc_status, app.count() - before), (200, "4", 0), "{fields:?}");
    assert!(fields["proxy-status"].to_str().unwrap().contains("http_response_timeout"));
    // It is over while the service works.
    app.delay(Duration::from_secs(60));
    let begun = Instant::now();
    let (_, grpc_status, _) = grpc(&house, at, &[("grpc-timeout", "200m")]).await;
    assert_eq!(grpc_status, "4");
    assert!((200..250).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(app.count(), before + 1);
}
