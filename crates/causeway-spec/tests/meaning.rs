//! What is written is what is meant: fields of each kind, and the defaults of those that are left out.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use causeway_model::{
    Action, DeadLetterMode, Delivery, Filter, ListenerProtocol, ParentKind, PathMatch, PathRewrite, Protocol,
    RetryPolicy, Spec, Subscription, TextMatch,
};
use causeway_spec::parse;

fn read(name: &str) -> Vec<Spec> {
    let path = format!("{}/fixtures/valid/{name}", env!("CARGO_MANIFEST_DIR"));
    let parsed = parse(name, &std::fs::read_to_string(path).unwrap());
    parsed.documents.into_iter().map(|document| document.spec).collect()
}

#[test]
fn routes() {
    let Some(Spec::HttpRoute(route)) = read("routes.yaml").pop() else { panic!() };
    assert_eq!(route.hostnames, ["shop.example", "*.shop.example"]);
    assert_eq!((route.parents[0].kind, route.parents[1].kind), (ParentKind::Gateway, ParentKind::Service));
    assert_eq!(route.parents[0].section.as_ref().unwrap().as_str(), "https");
    assert_eq!(route.parents[1].namespace.as_str(), "shop");

    let [canary, old, images] = route.rules.as_slice() else { panic!() };
    let one = &canary.matches[0];
    assert_eq!(one.path, PathMatch::Prefix("/cart".to_owned()));
    assert_eq!(
        (one.headers[0].name.as_str(), &one.headers[0].value),
        ("x-canary", &TextMatch::Exact("yes".to_owned()))
    );
    assert_eq!(one.headers[1].value, TextMatch::Regex(".*curl.*".to_owned()));
    assert_eq!((one.query[0].name.as_str(), one.method.as_deref()), ("page", Some("GET")));
    let Filter::RequestHeaders(edit) = &canary.filters[0] else { panic!() };
    assert_eq!(edit.set, [("x-env".to_owned(), "prod".to_owned())]);
    assert_eq!((edit.add.len(), edit.remove.as_slice()), (1, ["x-gone".to_owned()].as_slice()));
    assert!(
        matches!(&canary.filters[2], Filter::Rewrite { path: Some(PathRewrite::Prefix(to)), .. } if to == "/")
    );
    assert_eq!(canary.backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [90, 10]);
    assert_eq!(
        (canary.backends[1].service.to_string(), canary.backends[1].filters.len()),
        ("shop/cart-v2".into(), 1)
    );
    assert_eq!(canary.timeouts.request, Some(Duration::from_secs(120)));
    assert_eq!(canary.timeouts.backend_request, Some(Duration::from_secs(90)));
    let retry = canary.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, retry.codes.as_slice()), (3, [500, 503].as_slice()));

    let Filter::Redirect { scheme, port, status, path, .. } = &old.filters[0] else { panic!() };
    assert_eq!((scheme.as_deref(), *port, *status), (Some("https"), Some(8443), 308));
    assert_eq!(path, &Some(PathRewrite::Full("/new".to_owned())));
    assert_eq!((images.backends[0].weight, images.backends[0].port, &images.retry), (1, None, &None));
}

#[test]
fn a_rule_without_matches_takes_every_request() {
    let text = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{name: g}], rules: [{}]}";
    let Spec::HttpRoute(route) = &parse("t", text).documents[0].spec else { panic!() };
    assert_eq!(route.rules[0].matches[0].path, PathMatch::Prefix("/".to_owned()));
    assert!(route.rules[0].backends.is_empty());
}

#[test]
fn gateways_and_secrets() {
    let specs = read("gateway-tls.yaml");
    let (Spec::Gateway(gateway), Spec::Secret(secret)) = (&specs[0], &specs[1]) else { panic!() };
    assert!(
        gateway.listeners[0].is_open_to_all_namespaces && !gateway.listeners[1].is_open_to_all_namespaces
    );
    assert_eq!(gateway.listeners[1].protocol, ListenerProtocol::Https);
    assert_eq!(gateway.listeners[1].tls.as_ref().unwrap().secrets[0].1.as_str(), "shop-tls");
    assert_eq!(secret.entries["tls.crt"].as_slice(), b"certificate");
    assert_eq!(secret.entries["tls.key"].as_slice(), b"private");
}

#[test]
fn services() {
    let specs = read("services.yaml");
    let (Spec::Service(subset), Spec::Service(db)) = (&specs[1], &specs[2]) else { panic!() };
    let subset = subset.subset.as_ref().unwrap();
    assert_eq!((subset.of.as_str(), subset.version.as_deref(), subset.tags.len()), ("orders", Some("2"), 1));
    assert_eq!((db.ports[0].protocol, db.ports[1].protocol), (Protocol::Tcp, Protocol::Http));
    assert_eq!((db.endpoints[0].address.as_str(), db.endpoints[0].ports["admin"]), ("db.internal", 8080));
    assert_eq!((db.endpoints[0].weight, db.endpoints[1].weight, db.endpoints[1].port), (0, 100, Some(3000)));
    let health = db.health.as_ref().unwrap();
    let half = Duration::from_millis(500);
    assert_eq!((health.http_path.as_deref(), health.interval, health.timeout), (None, half, half));
}

#[test]
fn events() {
    let specs = read("events.yaml");
    let (Spec::Topic(topic), Spec::Subscription(mail), Spec::Subscription(audit)) =
        (&specs[0], &specs[1], &specs[2])
    else {
        panic!()
    };
    assert_eq!((topic.retention_bytes, topic.dedupe), (Some(10 << 30), Some(Duration::from_secs(86_400))));
    assert_eq!((mail.topic.as_str(), mail.group.as_str()), ("orders", "mail"));
    assert!(matches!(&mail.delivery, Delivery::Push { path, .. } if path == "/events"));
    assert_eq!((mail.retry.attempts, mail.dead_letter), (8, DeadLetterMode::Sequenced));
    assert_eq!((audit.group.as_str(), &audit.delivery), ("audit.eu", &Delivery::Pull));
    assert_eq!((audit.lease, audit.retry), (Duration::from_secs(120), RetryPolicy::default()));
    assert_eq!((mail.lease, audit.max_in_flight), (Subscription::LEASE, Subscription::MAX_IN_FLIGHT));
}

#[test]
fn sagas() {
    let Some(Spec::Saga(saga)) = read("saga.yaml").pop() else { panic!() };
    assert_eq!(saga.timeout, Some(Duration::from_secs(7200)));
    assert_eq!(saga.stages.iter().map(|stage| stage.steps.len()).collect::<Vec<_>>(), [2, 1, 1]);
    let steps: Vec<_> = saga.steps().collect();
    let Action::Call(flight) = &steps[0].action else { panic!() };
    assert_eq!((flight.method.as_str(), flight.service.to_string()), ("POST", "travel/flights".to_owned()));
    let body = r#"{"map":"${ {'a': '}'}['a'] }","seats":2,"to":"${input.to}"}"#;
    assert_eq!(flight.body.as_deref(), Some(body));
    let Action::Call(hotel) = &steps[1].action else { panic!() };
    assert_eq!(
        (hotel.service.to_string().as_str(), hotel.headers["x-tenant"].as_str()),
        ("partners/hotels", "${input.tenant}")
    );
    assert_eq!((steps[1].retry.attempts, steps[1].timeout), (3, Duration::from_secs(5)));
    assert_eq!((steps[0].timeout, steps[2].is_pivot), (Duration::from_secs(30), true));
    assert!(matches!(&steps[3].action, Action::Publish { data, .. } if data == "null"));
}

#[test]
fn access_policies() {
    let policies: Vec<_> =
        read("api.yaml").into_iter().filter(|spec| matches!(spec, Spec::AccessPolicy(_))).collect();
    let [Spec::AccessPolicy(policy)] = policies.as_slice() else { panic!() };
    assert_eq!((policy.targets[0].to_string().as_str(), policy.is_dry_run), ("default/payments", false));
    let rule = &policy.allow[0];
    assert_eq!(rule.from[0].service.as_ref().unwrap().as_str(), "orders");
    assert_eq!(
        (rule.from[0].namespace.as_str(), rule.methods.as_slice()),
        ("default", ["POST".to_owned()].as_slice())
    );
    assert_eq!(rule.paths, ["/charges"]);
}

#[test]
fn the_examples_of_the_page_on_traffic_policies_are_valid() {
    let page = include_str!("../../../docs/traffic-policy.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 5, "{}", examples.len());
    for example in examples {
        let parsed = parse("traffic-policy.md", example);
        assert!(parsed.problems.is_empty(), "{example}\n{:?}", parsed.problems);
        assert!(matches!(parsed.documents[0].spec, Spec::TrafficPolicy(_)), "{example}");
    }
}
