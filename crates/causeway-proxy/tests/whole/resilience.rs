//! What happens when things break: retries, ejection, time limits, drain, plans that change under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{OnFailure, Scope};
use causeway_model::{RetryRule, Timeouts};
use causeway_testkit::{Client, House};
use http::Request;

use crate::common::*;

/// A gateway in front of `app` with so many instances.
async fn front(house: &House, instances: usize) -> (Vec<causeway_testkit::App>, causeway_proxy::Proxy) {
    let apps = house.service("app", instances);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let proxy = start_gateway(house).await;
    (apps, proxy)
}

fn post(body: &'static [u8], key: Option<&str>) -> Request<Bytes> {
    let mut builder = Request::post("/pay").header("host", "h");
    if let Some(key) = key {
        builder = builder.header("idempotency-key", key);
    }
    builder.body(Bytes::from_static(body)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn no_request_fails_when_one_of_two_instances_is_killed() {
    let house = House::new();
    let (apps, proxy) = front(&house, 2).await;
    for app in &apps {
        app.delay(Duration::from_millis(20));
    }
    let (failed, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let scope = Scope::root("load");
    for _ in 0..32 {
        let (net, failed, done) = (house.net(), failed.clone(), done.clone());
        scope.spawn("client", OnFailure::StopNode, async move {
            let mut client = Client::connect(&net, gateway_address()).await;
            for _ in 0..100 {
                let answer = client.send(House::request("GET h/")).await;
                let is_good = answer.is_ok_and(|answer| answer.status == 200);
                if is_good {
                    done.fetch_add(1, Relaxed)
                } else {
                    failed.fetch_add(1, Relaxed)
                };
            }
            Ok(())
        });
    }
    until(|| done.load(Relaxed) > 500).await;
    apps[0].kill().await;
    until(|| done.load(Relaxed) + failed.load(Relaxed) == 3200).await;
    assert_eq!(failed.load(Relaxed), 0);
    assert!(proxy.metrics().contains("causeway_proxy_retries_total"));
    assert!(proxy.metrics().contains("causeway_proxy_ejections_total"));
    let before = apps[0].count();
    apps[0].revive();
    tokio::time::sleep(Duration::from_secs(30)).await;
    for _ in 0..50 {
        assert_eq!(house.ask(gateway_address(), "GET h/").await.status, 200);
    }
    assert!(apps[0].count() > before, "it is let back in");
}

#[tokio::test(start_paused = true)]
async fn a_post_is_sent_again_only_when_nothing_was_sent_or_it_says_so() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 2).await;
    // Connection refused: nothing was sent.
    apps[0].kill().await;
    for _ in 0..10 {
        let mut client = Client::connect(&house.net(), gateway_address()).await;
        let answer = client.send(post(b"money", None)).await.unwrap();
        assert_eq!(answer.line(), "200 app-2");
    }
    assert!(apps[1].seen().iter().all(|seen| seen.body.as_ref() == b"money"));
    // Broken off after it was read: it may have been done.
    apps[0].revive();
    apps.iter().for_each(|app| app.break_off(true));
    let (first, second) = (apps[0].count(), apps[1].count());
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    let answer = client.send(post(b"money", None)).await.unwrap();
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.header("proxy-status").contains("error=connection_terminated"));
    assert_eq!(apps[0].count() + apps[1].count(), first + second + 1, "sent once");
    // With a key it is idempotent: both are tried.
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    client.send(post(b"money", Some("k1"))).await.unwrap();
    assert!(apps[0].count() > first && apps[1].count() > second);
}

#[tokio::test(start_paused = true)]
async fn a_dead_app_behind_its_sidecar_is_left_for_another() {
    let house = House::new();
    let (one, two) = (house.app("one"), house.app("two"));
    let _first = start_sidecar(&house, "pay", 1, Some(&one)).await;
    let _second = start_sidecar(&house, "pay", 2, Some(&two)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    one.kill().await;
    for _ in 0..20 {
        let mut client = Client::connect(&house.net(), shop.outbound_address().unwrap()).await;
        let mut request = post(b"money", None);
        request.headers_mut().insert("host", "pay.mesh".parse().unwrap());
        assert_eq!(client.send(request).await.unwrap().line(), "200 two");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_say_what_is_tried_again() {
    let house = House::new();
    let apps = house.service("app", 2);
    let mut trying = rule("/", vec![backend("app", 1)]);
    trying.retry =
        Some(RetryRule { attempts: 3, codes: vec![503], backoff: Some(Duration::from_millis(10)) });
    let mut never = rule("/never", vec![backend("app", 1)]);
    never.retry = Some(RetryRule { attempts: 0, codes: vec![503], backoff: None });
    house.put("r", gateway_route(vec![trying, never]));
    let _proxy = start_gateway(&house).await;
    apps[0].answer(503);
    for _ in 0..10 {
        assert_eq!(house.ask(gateway_address(), "GET h/").await.line(), "200 app-2");
    }
    apps[1].answer(503);
    let before = apps[0].count() + apps[1].count();
    assert_eq!(house.ask(gateway_address(), "GET h/").await.status, 503, "the service's own answer");
    assert_eq!(apps[0].count() + apps[1].count(), before + 4);
    assert_eq!(house.ask(gateway_address(), "GET h/never").await.status, 503);
    assert_eq!(apps[0].count() + apps[1].count(), before + 5);
}

#[tokio::test(start_paused = true)]
async fn time_limits_hold() {
    let house = House::new();
    let apps = house.service("app", 2);
    let mut whole = rule("/whole", vec![backend("app", 1)]);
    whole.timeouts = Timeouts { request: Some(Duration::from_millis(100)), backend_request: None };
    let mut each = rule("/each", vec![backend("app", 1)]);
    each.timeouts =
        Timeouts { request: Some(Duration::from_secs(5)), backend_request: Some(Duration::from_millis(50)) };
    house.put("r", gateway_route(vec![whole, each]));
    let _proxy = start_gateway(&house).await;
    apps.iter().for_each(|app| app.delay(Duration::from_secs(60)));
    let begun = tokio::time::Instant::now();
    let late = house.ask(gateway_address(), "GET h/whole").await;
    assert_eq!(late.status, 504);
    assert!(late.header("proxy-status").contains("error=http_response_timeout"));
    assert!((100..150).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    apps[1].delay(Duration::ZERO);
    for _ in 0..5 {
        assert_eq!(house.ask(gateway_address(), "GET h/each").await.line(), "200 app-2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_is_ejected_and_when_all_fail_all_are_used() {
    let house = House::new();
    let (apps, proxy) = front(&house, 4).await;
    apps[0].answer(500);
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    let mut bad = 0;
    for _ in 0..200 {
        tokio::time::advance(Duration::from_millis(1)).await;
        bad += usize::from(client.send(House::request("GET h/")).await.unwrap().status == 500);
    }
    assert!(bad <= 5, "{bad} answers of a failing endpoint");
    apps.iter().for_each(|app| app.answer(500));
    let mut before = 0;
    for _ in 0..100 {
        before += 1;
        assert_eq!(client.send(House::request("GET h/")).await.unwrap().status, 500, "attempt {before}");
    }
    let ejected = proxy.summary().to_string().matches("\"ejected\":true").count();
    assert!(ejected <= 2, "{ejected} of 4 are out");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_ended_is_not_noticed_by_the_client() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 1).await;
    assert_eq!(house.ask(gateway_address(), "GET h/").await.status, 200);
    apps[0].kill().await;
    apps[0].revive();
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    assert_eq!(client.send(post(b"x", None)).await.unwrap().line(), "200 app-1");
    assert_eq!(apps[0].connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn connections_are_used_again() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 1).await;
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    for _ in 0..50 {
        assert_eq!(client.send(post(b"x", None)).await.unwrap().status, 200);
        assert_eq!(client.send(House::request("HEAD h/")).await.unwrap().status, 200);
    }
    assert_eq!(apps[0].connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn drain_finishes_what_runs_and_takes_nothing_new() {
    let house = House::new();
    let (apps, proxy) = front(&house, 1).await;
    apps[0].delay(Duration::from_secs(3));
    let mut idle = Client::connect(&house.net(), gateway_address()).await;
    let mut busy = Client::connect(&house.net(), gateway_address()).await;
    let request = async { busy.send(House::request("GET h/")).await };
    let drain = async {
        until(|| apps[0].count() == 1).await;
        assert!(proxy.drain(Duration::from_secs(10)).await, "all finished in time");
    };
    let (answer, ()) = tokio::join!(request, drain);
    let answer = answer.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (200, "close"));
    assert!(idle.send(House::request("GET h/")).await.is_err());
    assert!(house.net().connect(gateway_address()).await.is_err());
    assert!(!proxy.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_takes_too_long_is_cut_off() {
    let house = House::new();
    let (apps, proxy) = front(&house, 1).await;
    apps[0].delay(Duration::from_secs(3600));
    let mut busy = Client::connect(&house.net(), gateway_address()).await;
    let request = async { busy.send(House::request("GET h/")).await };
    let drain = async {
        until(|| apps[0].count() == 1).await;
        assert!(!proxy.drain(Duration::from_secs(1)).await);
    };
    let (answer, ()) = tokio::join!(request, drain);
    let line = answer.map_or_else(|_| "cut off".to_owned(), |answer| answer.status.to_string());
    assert!(matches!(line.as_str(), "cut off" | "502 Bad Gateway"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn plans_change_under_load_without_a_failure() {
    let house = House::new();
    let (apps, proxy) = front(&house, 2).await;
    let failed = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let scope = Scope::root("load");
    for _ in 0..8 {
        let (net, failed, done) = (house.net(), failed.clone(), done.clone());
        scope.spawn("client", OnFailure::StopNode, async move {
            let mut client = Client::connect(&net, gateway_address()).await;
            for _ in 0..200 {
                let answer = client.send(House::request("GET h/")).await;
                failed.fetch_add(usize::from(!answer.is_ok_and(|answer| answer.status == 200)), Relaxed);
                done.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        });
    }
    for turn in 0..100 {
        house.withdraw("app", "app-1");
        tokio::time::sleep(Duration::from_millis(1)).await;
        house.place("app", "app-1", apps[0].address()).put();
        if turn % 10 == 0 {
            house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1 + turn)])]));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until(|| done.load(Relaxed) == 1600).await;
    assert_eq!(failed.load(Relaxed), 0);
    caught_up(&house, &proxy).await;
    assert_eq!(proxy.plan_revision(), house.revision());
}

#[tokio::test(start_paused = true)]
async fn access_records_are_one_json_line_each() {
    let house = House::new();
    house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    house.put("public", gateway(vec![listener("http", 8080, None)]));
    let role = causeway_proxy::Role::Gateway { key: (name("default"), name("public")), bind: None };
    let mut options = options(&house, role, house.snapshots());
    let (sender, lines) = std::sync::mpsc::channel();
    options.records = Some(Box::new(Lines(sender)));
    let proxy = causeway_proxy::Proxy::start(options, &Scope::root("gateway")).await.unwrap();
    let mut request = House::request("GET h/a%22b?secret=1");
    request.headers_mut().insert("x-request-id", "req-7".parse().unwrap());
    Client::connect(&house.net(), gateway_address()).await.send(request).await.unwrap();
    proxy.drain(Duration::from_secs(1)).await;
    let text = lines.recv_timeout(Duration::from_secs(5)).unwrap();
    let record: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    for (field, value) in [
        ("protocol", "HTTP/1.1"),
        ("host", "h"),
        ("path", "/a%22b"),
        ("service", "app"),
        ("endpoint", "app-1"),
        ("route", "HTTPRoute default/r rule 1"),
        ("request_id", "req-7"),
        ("reason", ""),
    ] {
        assert_eq!(record[field], value, "{field}");
    }
    assert_eq!(record["trace_id"].as_str().unwrap().len(), 32);
    assert!(record["client"].as_str().unwrap().parse::<std::net::IpAddr>().is_ok());
    assert_eq!(
        (&record["status"], &record["bytes_out"], &record["attempts"]),
        (&200.into(), &5.into(), &1.into())
    );
}

struct Lines(std::sync::mpsc::Sender<String>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
