//! Rate limits, urgency under overload, and faults on purpose.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{OnFailure, Scope};
use causeway_model::{
    Concurrency, Fault, FaultAbort, FaultDelay, Filter, Name, PolicyTarget, RateKey, RateLimit, Rule, Share,
    Spec, TargetKind, TrafficPolicy,
};
use causeway_testkit::{Answer, App, Client, House};
use http::Request;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::common::*;

fn policy(kind: TargetKind, of: &str) -> TrafficPolicy {
    let target = PolicyTarget { kind, namespace: Name::default_namespace(), name: name(of), section: None };
    TrafficPolicy { targets: vec![target], ..TrafficPolicy::default() }
}

async fn behind_a_gateway(house: &House, policy: TrafficPolicy) -> (App, causeway_proxy::Proxy) {
    let app = house.service("app", 1).remove(0);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    house.put("p", Spec::TrafficPolicy(policy));
    (app, start_gateway(house).await)
}

fn request(fields: &[(&str, &str)]) -> Request<Bytes> {
    let request = Request::get("/").header("host", "h");
    fields
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .body(Bytes::new())
        .unwrap()
}

async fn send(house: &House, fields: &[(&str, &str)]) -> Answer {
    Client::connect(&house.net(), gateway_address()).await.send(request(fields)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_lets_a_burst_pass_and_then_says_when_to_come_again() {
    let house = House::new();
    let by = Some(RateKey::Header("x-tenant".into()));
    let limit = RateLimit { requests: 2, per: Duration::from_secs(10), burst: Some(3), by };
    let wish = TrafficPolicy { rate_limit: Some(limit), ..policy(TargetKind::HttpRoute, "r") };
    let (app, proxy) = behind_a_gateway(&house, wish).await;
    for _ in 0..3 {
        assert_eq!(send(&house, &[("x-tenant", "a")]).await.status, 200);
    }
    let refused = send(&house, &[("x-tenant", "a")]).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "5"));
    assert_eq!(send(&house, &[("x-tenant", "b")]).await.status, 200, "others have a bucket of their own");
    assert_eq!(app.count(), 4, "what is refused never reaches the service");
    let failures = proxy.failures().to_string();
    assert!(failures.contains("rate_limited") && failures.contains("TrafficPolicy default/p"), "{failures}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(send(&house, &[("x-tenant", "a")]).await.status, 200);
    assert_eq!(send(&house, &[("x-tenant", "a")]).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn faults_are_made_on_purpose_and_say_so() {
    let house = House::new();
    let abort = FaultAbort { status: 418, grpc_status: None, share: Share::WHOLE };
    let delay = FaultDelay { fixed: Duration::from_secs(2), share: Share::WHOLE };
    let wish = Fault { delay: Some(delay), abort: Some(abort) };
    let (app, proxy) =
        behind_a_gateway(&house, TrafficPolicy { fault: Some(wish), ..policy(TargetKind::Service, "app") })
            .await;
    let begun = Instant::now();
    let refused = send(&house, &[]).await;
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!((refused.status.as_u16(), app.count()), (418, 0));
    assert!(proxy.failures().to_string().contains("fault_injected"));
}

#[tokio::test(start_paused = true)]
async fn a_share_of_calls_is_disturbed() {
    let house = House::new();
    let abort = FaultAbort { status: 503, grpc_status: None, share: Share::new(250_000) };
    let wish = Fault { delay: None, abort: Some(abort) };
    let (_app, _proxy) =
        behind_a_gateway(&house, TrafficPolicy { fault: Some(wish), ..policy(TargetKind::Service, "app") })
            .await;
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    let mut failed = 0;
    for _ in 0..1000 {
        failed += usize::from(client.send(request(&[])).await.unwrap().status == 503);
    }
    assert!((200..300).contains(&failed), "{failed}");
}

/// One caller's calls: when they were made, what came of them.
type Ends = Arc<Mutex<Vec<(u8, u16, Duration)>>>;

/// Twice what the app can do: each call comes at its time whatever became of the others. Half are urgent.
async fn overload(
    house: &House,
    at: std::net::SocketAddr,
    host: &'static str,
    per_second: u64,
    seconds: u64,
) -> Ends {
    let (ends, scope) = (Ends::default(), Scope::root("load"));
    for n in 0..per_second * seconds {
        let (net, ends) = (house.net(), ends.clone());
        let urgency = if n % 2 == 0 { 1 } else { 6 };
        scope.spawn("call", OnFailure::StopNode, async move {
            tokio::time::sleep(Duration::from_micros(n * 1_000_000 / per_second)).await;
            let begun = Instant::now();
            let mut client = Client::connect(&net, at).await;
            let request = Request::get("/").header("host", host).header("priority", format!("u={urgency}"));
            let status = client
                .send(request.body(Bytes::new()).unwrap())
                .await
                .map_or(0, |answer| answer.status.as_u16());
            ends.lock().push((urgency, status, begun.elapsed()));
            Ok(())
        });
    }
    until(|| ends.lock().len() as u64 == per_second * seconds).await;
    ends
}

fn in_time(ends: &Ends, urgency: u8, from: usize, within: Duration) -> f64 {
    let ends = ends.lock();
    let of: Vec<_> = ends.iter().skip(from).filter(|(of, ..)| *of == urgency).collect();
    let good = of.iter().filter(|(_, status, took)| *status == 200 && *took <= within).count();
    good as f64 / of.len() as f64
}

#[tokio::test(start_paused = true)]
async fn under_overload_the_less_urgent_are_shed_first_without_configuration() {
    let house = House::new();
    let app = house.app("cart");
    // 200 a second: 10 at once, each 50 ms.
    app.workers(10);
    app.delay(Duration::from_millis(50));
    let _cart = start_sidecar(&house, "cart", 1, Some(&app)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let ends = overload(&house, shop.outbound_address().unwrap(), "cart.mesh", 400, 6).await;
    let urgent = in_time(&ends, 1, 400, Duration::from_millis(500));
    assert!(urgent >= 0.95, "{urgent} of the urgent calls were in time");
    let total = ends.lock().iter().filter(|(_, status, _)| *status == 200).count();
    assert!(total >= 1_050, "the service stays busy: {total} of 1200 that it can do");
    assert!(ends.lock().iter().all(|(_, status, _)| [200, 503].contains(status)));
}

#[tokio::test(start_paused = true)]
async fn a_fixed_bound_holds_and_calls_wait_for_their_turn() {
    let house = House::new();
    let wish = Concurrency { max: Some(2), queue: Some(1), wait: Some(Duration::from_secs(5)) };
    let (app, _proxy) = behind_a_gateway(
        &house,
        TrafficPolicy { concurrency: Some(wish), ..policy(TargetKind::Service, "app") },
    )
    .await;
    app.delay(Duration::from_secs(1));
    let calls = (0..4).map(|_| send(&house, &[]));
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(calls).await.iter().map(|a| a.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 503]);
    assert_eq!(app.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn copies_go_to_a_second_service_and_nobody_notices() {
    let house = House::new();
    let app = house.service("app", 1).remove(0);
    let next = house.service("next", 1).remove(0);
    let mirror = Filter::Mirror { service: House::key("next"), port: None, share: Share::WHOLE };
    let rule = Rule { filters: vec![mirror], ..rule("/", vec![backend("app", 1)]) };
    house.put("r", gateway_route(vec![rule]));
    let proxy = start_gateway(&house).await;
    // It is slow and fails; the caller sees neither.
    next.behave(|_| {
        (Duration::from_secs(5), http::Response::builder().status(500).body(Bytes::new()).unwrap())
    });
    let begun = Instant::now();
    let request = Request::post("/a?b=c").header("host", "h").body(Bytes::from_static(b"money")).unwrap();
    let answer = Client::connect(&house.net(), gateway_address()).await.send(request).await.unwrap();
    assert_eq!(answer.line(), "200 app-1");
    assert!(begun.elapsed() < Duration::from_secs(1));
    until(|| next.count() == 1).await;
    let (seen, copied) = (app.seen(), next.seen());
    assert_eq!((&seen[0].line, &seen[0].body), (&copied[0].line, &copied[0].body));
    assert_eq!(copied[0].headers["host"], "h");
    until(|| proxy.metrics().contains("causeway_proxy_mirrored_total{")).await;
    next.kill().await;
    assert_eq!(send(&house, &[]).await.status, 200);
}
