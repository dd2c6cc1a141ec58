//! What a proxy tells of requests: why they failed, how many there were, which way they took.

use std::time::Duration;

use causeway_model::{Attribute, Span, SpanKind};
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
    assert!(proxy.metrics().contains(
        "causeway_proxy_failures_untold_total{direction=\"outbound\",namespace=\"\",service=\"\"} 50"
    ));
}

/// Series of a scrape, and the names that they belong to.
fn series(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[tokio::test(start_paused = true)]
async fn every_metric_says_what_it_is_and_the_text_is_well_formed() {
    let house = House::new();
    let app = house.app("cart");
    let cart = start_sidecar(&house, "cart", 1, Some(&app)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    for path in ["/", "/a"] {
        let answer =
            house.ask(shop.outbound_address().unwrap(), &format!("GET http://cart.mesh{path}")).await;
        assert_eq!(answer.status, 200);
    }
    app.answer(404);
    assert_eq!(house.ask(shop.outbound_address().unwrap(), "GET http://cart.mesh/").await.status, 404);
    let (caller, callee) = (shop.metrics(), cart.metrics());
    for (text, wanted) in [
        (
            &caller,
            "http_client_request_duration_seconds_count{namespace=\"default\",service=\"cart\",http_response_status_code=\"2xx\"} 2",
        ),
        (
            &caller,
            "http_client_request_duration_seconds_count{namespace=\"default\",service=\"cart\",http_response_status_code=\"4xx\"} 1",
        ),
        (
            &callee,
            "http_server_request_duration_seconds_count{namespace=\"default\",service=\"cart\",http_response_status_code=\"2xx\"} 2",
        ),
        (&callee, "causeway_proxy_connections 1"),
        (&caller, "causeway_proxy_upstream_connections{state=\"open\",protocol=\"http/2\"} 1"),
        (&caller, "causeway_proxy_certificate_expiry_seconds 86"),
        (&caller, "causeway_proxy_plan_revision"),
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    for text in [caller, callee] {
        assert!(text.ends_with("# EOF\n"));
        let mut known = std::collections::BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(known.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
                let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
                assert!(help.is_some_and(|help| help.ends_with('.') && help.len() > 10), "{name}: {help:?}");
            }
        }
        for line in series(&text) {
            let (name, value) = (line.split(['{', ' ']).next().unwrap(), line.rsplit_once(' ').unwrap().1);
            let family = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|end| {
                let family = name.strip_suffix(end)?;
                let fits = match known.get(family).map(String::as_str) {
                    Some("counter") => *end == "_total",
                    Some("histogram") => *end != "_total",
                    _ => false,
                };
                fits.then_some(family)
            });
            assert!(family.is_some() || known.get(name).is_some_and(|kind| kind == "gauge"), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn series_are_bounded_whatever_the_traffic() {
    let house = House::new();
    let app = house.app("app");
    for number in 0..5_000 {
        house.place(&format!("s{number}"), "one", app.address()).put();
    }
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let mut client = causeway_testkit::Client::connect(&house.net(), shop.outbound_address().unwrap()).await;
    app.behave(|seen| {
        let status = if seen.line.contains("odd") { 503 } else { 200 };
        (
            std::time::Duration::ZERO,
            http::Response::builder().status(status).body(Default::default()).unwrap(),
        )
    });
    for number in 0..5_000_u32 {
        let path = if number % 2 == 0 { "even" } else { "odd" };
        client.send(House::request(&format!("GET http://s{number}.mesh/{path}/{number}"))).await.unwrap();
        if number % 50 == 0 {
            // Hosts and names that are not there make no series either.
            client.send(House::request(&format!("GET s{number}.nowhere.mesh/"))).await.unwrap();
        }
    }
    let text = shop.metrics();
    let count = series(&text).len();
    assert!((1_000..=2_000).contains(&count), "{count} series");
    let counted: f64 = series(&text)
        .iter()
        .filter(|line| line.starts_with("http_client_request_duration_seconds_count"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    assert_eq!(counted, 5_100.0, "what has no series of its own is counted all the same");
    assert!(text.contains("service=\"_other\""), "{text}");
}

#[tokio::test(start_paused = true)]
async fn paths_and_hosts_make_no_series() {
    let house = House::new();
    house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let proxy = start_gateway(&house).await;
    let mut client = causeway_testkit::Client::connect(&house.net(), gateway_address()).await;
    client.send(House::request("GET h/")).await.unwrap();
    let before = series(&proxy.metrics()).len();
    for number in 0..2_000 {
        client.send(House::request(&format!("GET h{number}.test/{number}?{number}"))).await.unwrap();
    }
    assert_eq!(series(&proxy.metrics()).len(), before);
    let seen = "http_server_request_duration_seconds_count{namespace=\"default\",service=\"public\",http_response_status_code=\"2xx\"} 2001";
    assert!(proxy.metrics().contains(seen), "{}", proxy.metrics());
}

/// What a span says of itself, for comparisons.
fn attribute(span: &Span, name: &str) -> String {
    match span.attributes.iter().find(|(known, _)| known == name) {
        Some((_, Attribute::Text(text))) => text.clone(),
        Some((_, Attribute::Number(number))) => number.to_string(),
        None => String::new(),
    }
}

fn parent_of(seen: &causeway_testkit::Seen) -> (String, u64) {
    let text = seen.headers["traceparent"].to_str().unwrap();
    (text[3..35].to_owned(), u64::from_str_radix(&text[36..52], 16).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_request_is_one_trace_from_the_gateway_to_the_last_app() {
    let house = House::new();
    let (front, back) = (house.app("front"), house.app("back"));
    let front_sidecar = start_sidecar(&house, "front", 1, Some(&front)).await;
    let back_sidecar = start_sidecar(&house, "back", 1, Some(&back)).await;
    house.put("r", gateway_route(vec![rule("/", vec![backend("front", 1)])]));
    let gateway = start_gateway(&house).await;
    caught_up(&house, &front_sidecar).await;
    let answer = house.ask(gateway_address(), "GET shop.test/a?secret=1").await;
    assert_eq!(answer.status, 200);
    // The app calls on, with the context that it was given.
    let mut onward = House::request("GET http://back.mesh/b");
    let context = front.seen()[0].headers["traceparent"].clone();
    onward.headers_mut().insert("traceparent", context);
    onward.headers_mut().insert("tracestate", "vendor=1".parse().unwrap());
    let mut client =
        causeway_testkit::Client::connect(&house.net(), front_sidecar.outbound_address().unwrap()).await;
    assert_eq!(client.send(onward).await.unwrap().status, 200);
    assert_eq!(back.seen()[0].headers["tracestate"], "vendor=1");

    let at_gateway = gateway.observations().spans;
    let at_front = front_sidecar.observations().spans;
    let at_back = back_sidecar.observations().spans;
    assert_eq!((at_gateway.len(), at_front.len(), at_back.len()), (2, 2, 1));
    let [root, out] = at_gateway.as_slice() else { panic!() };
    let [came_in, called] = at_front.as_slice() else { panic!() };
    let [last] = at_back.as_slice() else { panic!() };
    let chain = [root, out, came_in, called, last];
    let kinds = chain.map(|span| span.kind);
    use SpanKind::{Client, Server};
    assert_eq!(kinds, [Server, Client, Server, Client, Server]);
    assert_eq!(chain.map(|span| span.trace.to_string()), [answer.header("x-request-id"); 5]);
    assert_eq!(chain.map(|span| span.parent), [0, root.id, out.id, came_in.id, called.id]);
    assert_eq!(parent_of(&front.seen()[0]), (root.trace.to_string(), came_in.id));
    assert_eq!(parent_of(&back.seen()[0]), (root.trace.to_string(), last.id));
    assert_eq!((called.state.as_str(), last.state.as_str()), ("vendor=1", "vendor=1"));
    assert_eq!(chain.map(|span| span.is_error), [false; 5]);
    for (span, name, value) in [
        (root, "http.request.method", "GET"),
        (root, "url.path", "/a"),
        (root, "server.address", "shop.test"),
        (root, "http.response.status_code", "200"),
        (root, "network.protocol.version", "1.1"),
        (root, "causeway.route", "HTTPRoute default/r rule 1"),
        (out, "causeway.endpoint", "front-1"),
        (out, "causeway.transport", "mesh"),
        (came_in, "network.protocol.version", "2"),
        (came_in, "causeway.caller", "spiffe://house.test/ns/default/svc/public"),
        (called, "server.address", "back.mesh"),
        (called, "causeway.service", "default/back"),
    ] {
        assert_eq!(attribute(span, name), value, "{name} of {span:#?}");
    }
    let now = causeway_model::Timestamp::from(house.clock().now()).as_millis() * 1000;
    assert!(chain.iter().all(|span| span.begun.abs_diff(now) < 60_000_000), "times are the wall's");
}

#[tokio::test(start_paused = true)]
async fn each_attempt_of_a_traced_request_is_a_span_that_its_endpoint_is_told() {
    let house = House::new();
    let apps = house.service("app", 2);
    apps.iter().for_each(|app| app.answer(503));
    let mut retried = rule("/", vec![backend("app", 1)]);
    retried.retry = Some(causeway_model::RetryRule { attempts: 1, codes: vec![503], backoff: None });
    house.put("r", gateway_route(vec![retried]));
    let gateway = start_gateway(&house).await;
    assert_eq!(house.ask(gateway_address(), "GET h/").await.status, 503);
    let spans = gateway.observations().spans;
    let [root, first, second] = spans.as_slice() else { panic!("{spans:#?}") };
    assert!(root.is_error && first.is_error && second.is_error);
    assert_eq!((first.parent, second.parent), (root.id, root.id));
    assert_eq!(attribute(second, "http.request.resend_count"), "1");
    assert_eq!(attribute(first, "error.type"), "503");
    let told: Vec<u64> = apps.iter().map(|app| parent_of(&app.seen()[0]).1).collect();
    assert!(told.contains(&first.id) && told.contains(&second.id) && first.id != second.id);
}

#[tokio::test(start_paused = true)]
async fn few_requests_are_kept_of_many_and_every_failure() {
    let house = House::new();
    let apps = house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let gateway = start_gateway(&house).await;
    let mut client = causeway_testkit::Client::connect(&house.net(), gateway_address()).await;
    for _ in 0..200 {
        client.send(House::request("GET h/")).await.unwrap();
    }
    let kept = gateway.observations().spans.len() / 2;
    assert!((1..20).contains(&kept), "{kept} of 200");
    let flags: Vec<String> = apps[0]
        .seen()
        .iter()
        .map(|seen| seen.headers["traceparent"].to_str().unwrap()[52..].to_owned())
        .collect();
    assert_eq!(flags.iter().filter(|flag| *flag == "-01").count(), kept, "the rest is said not to be kept");
    apps[0].kill().await;
    let answer = client.send(House::request("GET h/")).await.unwrap();
    assert_eq!(answer.status, 503);
    let spans = gateway.observations().spans;
    assert_eq!(spans[0].trace.to_string(), answer.header("x-request-id"));
    assert_eq!(attribute(&spans[0], "error.type"), "connection_refused");
    assert!(spans.len() > 1 && spans[1..].iter().all(|span| span.parent == spans[0].id), "{spans:#?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_ratio_no_trace_is_made_and_those_that_come_are_followed() {
    let house = House::new();
    let apps = house.service("app", 1);
    house.put("public", gateway(vec![listener("http", 8080, None)]));
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let role = causeway_proxy::Role::Gateway { key: (name("default"), name("public")), bind: None };
    let mut options = options(&house, role, house.snapshots());
    options.tracing.ratio = 0.0;
    let gateway = Proxy::start(options, &causeway_base::Scope::root("gateway")).await.unwrap();
    let ask = async |parent: Option<&'static str>| {
        let mut request = House::request("GET h/");
        if let Some(parent) = parent {
            request.headers_mut().insert("traceparent", parent.parse().unwrap());
        }
        let mut client = causeway_testkit::Client::connect(&house.net(), gateway_address()).await;
        client.send(request).await.unwrap();
        apps[0].seen().last().unwrap().headers.get("traceparent").cloned()
    };
    assert_eq!(ask(None).await, None);
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    assert_eq!(ask(Some(unsampled)).await.unwrap(), unsampled, "passed on as it came");
    assert!(gateway.observations().spans.is_empty());
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let told = ask(Some(sampled)).await.unwrap();
    let spans = gateway.observations().spans;
    assert_eq!(
        (spans[0].parent, spans[0].trace.to_string().as_str()),
        (0xb7ad_6b71_6920_3331, &sampled[3..35])
    );
    assert_eq!(told.to_str().unwrap()[36..52], format!("{:016x}", spans[1].id));
}

fn wish(change: impl FnOnce(&mut causeway_model::Tap)) -> causeway_model::Taps {
    let mut tap = causeway_model::Tap { id: 7, per_second: 100, ..Default::default() };
    change(&mut tap);
    causeway_model::Taps { taps: vec![tap] }
}

#[tokio::test(start_paused = true)]
async fn live_requests_are_shown_to_whoever_wishes_and_to_nobody_else() {
    let house = House::new();
    let app = house.app("cart");
    let cart = start_sidecar(&house, "cart", 1, Some(&app)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let call = async |path: &str| {
        house.ask(shop.outbound_address().unwrap(), &format!("GET http://cart.mesh{path}")).await
    };
    call("/unseen").await;
    assert!(shop.observations().tapped.is_empty(), "nobody wished anything");
    let everything = wish(|_| {});
    [&shop, &cart].into_iter().for_each(|proxy| proxy.tap(&everything));
    let answer = call("/a?secret=1").await;
    let shown = shop.observations().tapped;
    assert_eq!(shown.len(), 1);
    let tapped = &shown[0];
    assert_eq!((tapped.taps.as_slice(), tapped.path.as_str(), tapped.status), (&[7][..], "/a", 200));
    assert_eq!(tapped.request_id, answer.header("x-request-id"));
    assert_eq!((tapped.endpoint.as_str(), tapped.bytes, tapped.attempts), ("cart-1", 4, 1));
    assert_eq!(tapped.service, Some(House::key("cart")));
    assert!(cart.observations().tapped.is_empty(), "each call is shown once, beside its caller");
    cart.tap(&wish(|tap| {
        tap.side = Some(causeway_model::Side::Callee);
        tap.from = Some(name("shop"));
    }));
    call("/b").await;
    let beside_callee = cart.observations().tapped;
    assert_eq!(beside_callee[0].caller, "spiffe://house.test/ns/default/svc/shop");
    app.answer(503);
    for (of_wish, is_shown) in [
        (wish(|tap| tap.status = Some((500, 599))), true),
        (wish(|tap| tap.status = Some((200, 499))), false),
        (wish(|tap| tap.path = Some("/a/".into())), true),
        (wish(|tap| tap.path = Some("/b".into())), false),
        (wish(|tap| tap.service = Some(name("cart"))), true),
        (wish(|tap| tap.service = Some(name("shop"))), false),
        (wish(|tap| tap.namespace = Some(name("other"))), false),
        (wish(|tap| tap.from = Some(name("shop"))), true),
        (wish(|tap| tap.from = Some(name("cart"))), false),
        (wish(|tap| tap.method = Some("POST".into())), false),
        (wish(|tap| tap.side = Some(causeway_model::Side::Gateway)), false),
        (causeway_model::Taps::default(), false),
    ] {
        shop.tap(&of_wish);
        shop.observations();
        call("/a/b").await;
        assert_eq!(!shop.observations().tapped.is_empty(), is_shown, "{of_wish:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_live_requests_are_shown_than_was_wished() {
    let house = House::new();
    house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let gateway = start_gateway(&house).await;
    let mut client = causeway_testkit::Client::connect(&house.net(), gateway_address()).await;
    gateway.tap(&wish(|tap| tap.per_second = 3));
    let mut shown = 0;
    for _ in 0..3 {
        for _ in 0..10 {
            client.send(House::request("GET h/")).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        shown += gateway.observations().tapped.len();
    }
    assert_eq!(shown, 9);
    gateway.tap(&wish(|tap| tap.per_second = 1_000_000));
    for _ in 0..1_500 {
        client.send(House::request("GET h/")).await.unwrap();
    }
    let seen = gateway.observations();
    assert_eq!(seen.tapped.len(), 1_000, "a wish is bounded, whoever wishes it");
}
