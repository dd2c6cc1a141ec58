//! What a proxy tells of requests: why they failed, how many there were, which way they took.

use causeway_proxy::Proxy;
use causeway_testkit::House;
use serde_json::Value;

use crate::common::*;

/// The newest failure that a proxy tells of.
fn told(proxy: &Proxy) -> Value {
    proxy.failures().as_array().unwrap().last().expect("a failure is told").clone()
}

#[tokio::test(start_paused = true)]
async fn a_failure_tells_every_attempt_and_every_endpoint_that_was_not_tried() {
    let house = House::new();
    let apps = house.service("app", 3);
    house
        .place("app", "app-4", house.address(80))
        .with(|i| i.lifecycle = causeway_model::Lifecycle::Draining)
        .put();
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let proxy = start_gateway(&house).await;
    for app in &apps {
        app.kill().await;
    }
    let answer = house.ask(gateway_address(), "GET shop.test/why?secret=1").await;
    assert_eq!(answer.status, 503);
    let failure = told(&proxy);
    assert_eq!(failure["request_id"], answer.header("x-request-id"));
    assert_eq!(failure["request"], "GET shop.test/why", "queries may hold secrets");
    assert_eq!((&failure["side"], &failure["reason"]), (&"gateway".into(), &"connection_refused".into()));
    assert_eq!(failure["rule"], "HTTPRoute default/r rule 1");
    assert_eq!(failure["written_at"], "built in");
    let tried = failure["tried"].as_array().unwrap();
    assert_eq!(tried.len(), 3, "{failure:#}");
    for attempt in tried {
        assert_eq!(
            (&attempt["error"], &attempt["transport"]),
            (&"connection_refused".into(), &"http/1.1".into())
        );
        assert!(attempt["details"].as_str().unwrap().contains("cannot connect to app-"), "{attempt}");
    }
    let passed_over = failure["passed_over"].to_string();
    assert!(passed_over.contains("app-4") && passed_over.contains("draining"), "{passed_over}");
}

#[tokio::test(start_paused = true)]
async fn an_apps_own_failure_is_told_and_a_good_request_is_not() {
    let house = House::new();
    let apps = house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let proxy = start_gateway(&house).await;
    assert_eq!(house.ask(gateway_address(), "GET h/").await.status, 200);
    assert_eq!(proxy.failures(), Value::Array(vec![]));
    apps[0].answer(500);
    assert_eq!(house.ask(gateway_address(), "GET h/").await.status, 500);
    let failure = told(&proxy);
    assert_eq!((&failure["status"], &failure["reason"]), (&500.into(), &"".into()));
    assert_eq!(
        (&failure["tried"][0]["status"], &failure["tried"][0]["endpoint"]),
        (&500.into(), &"app-1".into())
    );
}

#[tokio::test(start_paused = true)]
async fn of_too_many_failures_some_are_told_and_the_rest_is_counted() {
    let house = House::new();
    house.service("app", 1);
    let proxy = start_gateway(&house).await;
    let mut client = causeway_testkit::Client::connect(&house.net(), gateway_address()).await;
    for _ in 0..150 {
        assert_eq!(client.send(House::request("GET h/")).await.unwrap().status, 404);
    }
    assert_eq!(proxy.failures().as_array().unwrap().len(), 100);
    assert!(
        proxy
            .metrics()
            .contains("causeway_proxy_failures_untold_total{direction=\"\",namespace=\"\",service=\"\"} 50")
    );
}
