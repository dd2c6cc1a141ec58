//! Records written by version 1 are read for ever: bytes in `fixtures/v1`, one file for each noun.
//!
//! `UPDATE_FIXTURES=1 cargo test -p causeway-model` writes those that are missing; one that is there is never changed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use causeway_model::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn service(text: &str) -> ServiceKey {
    ServiceKey::parse("default", text).unwrap()
}

fn instance() -> Instance {
    Instance {
        key: InstanceKey { service: service("orders"), id: InstanceId::new("orders-1").unwrap() },
        address: "10.0.0.5".into(),
        port: 8080,
        ports: BTreeMap::from([("admin".into(), 9090)]),
        protocol: Protocol::Grpc,
        version: "1.2".into(),
        tags: ["a".to_owned(), "b".to_owned()].into(),
        metadata: BTreeMap::from([("k".into(), "v".into())]),
        weight: 50,
        locality: Locality { region: "r".into(), zone: "z".into() },
        mesh: Some(MeshAddress { address: "10.0.0.5".into(), port: 15008 }),
        health: Health::Warning,
        lifecycle: Lifecycle::Draining,
        lease: Lease::Ttl(Duration::from_millis(15_500)),
        epoch: Epoch::new(3),
        origin: Origin::Mesh { identity: "spiffe://d/ns/default/svc/orders".into() },
        registered_at: Timestamp::from_millis(1_767_225_600_123),
        revision: Revision::new(41),
        checks: vec![Check {
            kind: CheckKind::Http("http://10.0.0.5:8080/healthz".into()),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
        }],
    }
}

fn object(kind: Kind, spec: Spec) -> Object {
    Object {
        key: ObjectKey { kind, namespace: Name::default_namespace(), name: name("x") },
        origin: Origin::File { path: "shop.yaml".into(), line: 7 },
        revision: Revision::new(9),
        spec,
        conditions: vec![Condition {
            kind: ConditionKind::ResolvedRefs,
            is_true: false,
            reason: "BackendNotFound".into(),
            message: "no service default/y".into(),
            since: Timestamp::from_millis(5),
        }],
        written: "{}".into(),
    }
}

fn route() -> HttpRoute {
    let path = RequestMatch {
        path: PathMatch::Prefix("/cart".into()),
        headers: vec![HeaderMatch { name: "x-canary".into(), value: TextMatch::Exact("yes".into()) }],
        query: vec![QueryMatch { name: "q".into(), value: TextMatch::Regex("a+".into()) }],
        method: Some("GET".into()),
    };
    let edit = HeaderEdit {
        set: vec![("a".into(), "1".into())],
        add: vec![("b".into(), "2".into())],
        remove: vec!["c".into()],
    };
    let rewrite = Filter::Rewrite { hostname: Some("h".into()), path: Some(PathRewrite::Prefix("/".into())) };
    let redirect = Filter::Redirect {
        scheme: Some("https".into()),
        hostname: None,
        path: Some(PathRewrite::Full("/f".into())),
        port: Some(443),
        status: 301,
    };
    let rule = Rule {
        name: Some("first".into()),
        matches: vec![path],
        filters: vec![Filter::RequestHeaders(edit.clone()), Filter::ResponseHeaders(edit), rewrite, redirect],
        backends: vec![Backend { service: service("cart"), port: Some(80), weight: 9, filters: vec![] }],
        timeouts: Timeouts {
            request: Some(Duration::from_secs(3)),
            backend_request: Some(Duration::from_millis(1500)),
        },
        retry: Some(RetryRule { attempts: 2, codes: vec![503], backoff: Some(Duration::from_millis(25)) }),
        affinity: None,
    };
    let parent = ParentRef {
        kind: ParentKind::Gateway,
        namespace: Name::default_namespace(),
        name: name("public"),
        section: Some(name("http")),
        port: Some(80),
    };
    HttpRoute { parents: vec![parent], hostnames: vec!["*.example".into()], rules: vec![rule] }
}

fn grpc_route() -> HttpRoute {
    let mirror = Filter::Mirror { service: service("next"), port: Some(81), share: Share::new(50_000) };
    let affinity =
        Affinity::Cookie { name: "s".into(), max_age: Some(Duration::from_secs(9)), path: Some("/".into()) };
    let rule = Rule { filters: vec![mirror], affinity: Some(affinity), ..Rule::default() };
    HttpRoute { rules: vec![rule], ..route() }
}

fn traffic_policy() -> TrafficPolicy {
    let second = Some(Duration::from_secs(1));
    let target = PolicyTarget {
        kind: TargetKind::HttpRoute,
        namespace: Name::default_namespace(),
        name: name("cart"),
        section: Some("first".into()),
    };
    TrafficPolicy {
        targets: vec![target],
        balancer: Some(Balancer {
            algorithm: Algorithm::Maglev,
            hash: Some(HashOn::Cookie("c".into())),
            locality: LocalityMode::Prefer,
            panic_percent: Some(40),
            slow_start: second,
        }),
        affinity: Some(Affinity::Header { name: "x-session".into() }),
        outlier: Some(Outlier { failures: Some(3), base: second, max: second, max_percent: Some(30) }),
        circuit: Some(Circuit { connections: Some(1), requests: Some(2), pending: Some(3), wait: second }),
        retry: Some(Retry {
            attempts: Some(1),
            codes: vec![503],
            grpc_codes: vec![14],
            backoff: second,
            budget_percent: Some(10),
            budget_per_second: Some(1),
        }),
        timeouts: Some(TrafficTimeouts {
            request: second,
            per_try: second,
            idle: second,
            stream: second,
            connect: second,
        }),
        hedge: Some(Hedge { after: Duration::from_millis(50), max: 1 }),
        rate_limit: Some(RateLimit {
            requests: 10,
            per: Duration::from_secs(1),
            burst: Some(20),
            by: Some(RateKey::Header("x-tenant".into())),
        }),
        concurrency: Some(Concurrency { max: Some(9), queue: Some(1), wait: second }),
        priority: Some(6),
        fault: Some(Fault {
            delay: Some(FaultDelay { fixed: Duration::from_secs(2), share: Share::new(10_000) }),
            abort: Some(FaultAbort { status: 503, grpc_status: Some(14), share: Share::WHOLE }),
        }),
        mtls: Some(MtlsMode::Permissive),
        egress: Some(Egress::Declared),
    }
}

fn saga() -> SagaDefinition {
    let call = ServiceCall {
        service: service("inventory"),
        method: "POST".into(),
        path: "/reservations/${input.id}".into(),
        headers: BTreeMap::from([("x-a".into(), "1".into())]),
        body: Some("{\"sku\":\"${input.sku}\"}".into()),
    };
    let step = |text: &str, action: Action| Step {
        name: name(text),
        action,
        compensate: Some(call.clone()),
        retry: RetryPolicy::default(),
        timeout: Duration::from_secs(30),
        is_pivot: text == "tell",
    };
    let tell =
        Action::Publish { topic: name("orders"), event_type: "order.placed".into(), data: "{}".into() };
    SagaDefinition {
        namespace: Name::default_namespace(),
        name: name("place-order"),
        timeout: Some(Duration::from_secs(300)),
        stages: vec![
            Stage { steps: vec![step("reserve", Action::Call(call.clone()))] },
            Stage { steps: vec![step("tell", tell)] },
        ],
    }
}

fn objects() -> Vec<(&'static str, Object)> {
    let declared = Service {
        ports: vec![ServicePort { name: Some(name("http")), port: 80, protocol: Protocol::Http }],
        endpoints: vec![StaticEndpoint {
            address: "127.0.0.1".into(),
            port: Some(3000),
            ports: BTreeMap::from([("http".into(), 3001)]),
            zone: Some("a".into()),
            weight: 100,
        }],
        health: Some(HealthProbe {
            http_path: Some("/healthz".into()),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
        }),
        subset: Some(Subset { of: name("echo"), version: Some("v1".into()), tags: vec!["t".into()] }),
    };
    let gateway = Gateway {
        class: "causeway".into(),
        addresses: vec!["127.0.0.1".into()],
        listeners: vec![Listener {
            name: name("https"),
            port: 443,
            protocol: ListenerProtocol::Https,
            hostname: Some("shop.example".into()),
            tls: Some(ListenerTls { secrets: vec![(Name::default_namespace(), name("cert"))] }),
            is_open_to_all_namespaces: true,
        }],
    };
    let policy = AccessPolicy {
        targets: vec![service("payments")],
        allow: vec![AccessRule {
            from: vec![Peer { namespace: Name::default_namespace(), service: Some(name("orders")) }],
            methods: vec!["POST".into()],
            paths: vec!["/charges/*".into()],
            ports: vec![],
        }],
        is_dry_run: true,
        ..AccessPolicy::default()
    };
    let of_namespace = AccessPolicy {
        targets: vec![],
        allow: vec![AccessRule { ports: vec![8080], ..AccessRule::default() }],
        is_dry_run: false,
        namespaces: vec![Name::default_namespace()],
        broken: None,
    };
    let subscription = Subscription {
        topic: name("orders"),
        group: name("mail"),
        delivery: Delivery::Push { service: service("mail"), path: "/events".into() },
        filter: Some("event.type == 'a'".into()),
        ordering: Ordering::None,
        retry: RetryPolicy::default(),
        max_in_flight: 8,
        dead_letter: DeadLetterMode::Sequenced,
        lease: Duration::from_secs(30),
    };
    let topic = Topic {
        retention_age: Some(Duration::from_secs(60)),
        retention_bytes: Some(1 << 30),
        dedupe: Some(Duration::ZERO),
    };
    let secret = Secret { entries: BTreeMap::from([("tls.key".into(), vec![1, 2, 3].into())]) };
    vec![
        ("service", object(Kind::Service, Spec::Service(declared))),
        ("gateway", object(Kind::Gateway, Spec::Gateway(gateway))),
        ("http-route", object(Kind::HttpRoute, Spec::HttpRoute(route()))),
        ("access-policy", object(Kind::AccessPolicy, Spec::AccessPolicy(policy))),
        ("topic", object(Kind::Topic, Spec::Topic(topic))),
        ("subscription", object(Kind::Subscription, Spec::Subscription(subscription))),
        ("saga", object(Kind::Saga, Spec::Saga(saga()))),
        ("grpc-route", object(Kind::GrpcRoute, Spec::GrpcRoute(grpc_route()))),
        ("traffic-policy", object(Kind::TrafficPolicy, Spec::TrafficPolicy(traffic_policy()))),
        ("access-policy-2", object(Kind::AccessPolicy, Spec::AccessPolicy(of_namespace))),
        ("secret", object(Kind::Secret, Spec::Secret(secret))),
    ]
}

fn fixture(noun: &str, bytes_now: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/v1/{noun}.cbor"));
    if !path.exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, bytes_now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn version_1_is_read_for_ever() {
    let written = fixture("instance", &codec::encode(&instance()));
    assert_eq!(codec::decode::<Instance>(&written).unwrap(), instance());
    for (noun, object) in objects() {
        let written = fixture(noun, &codec::encode(&object));
        assert_eq!(codec::decode::<Object>(&written).unwrap(), object, "{noun}");
    }
}

#[test]
fn a_field_from_a_later_version_is_skipped() {
    // A locality with a third field.
    let later = [0x83, 0x61, b'r', 0x61, b'z', 0x64, b'r', b'a', b'c', b'k'];
    let read: Locality = codec::decode(&later).unwrap();
    assert_eq!(read, Locality { region: "r".into(), zone: "z".into() });
}

#[test]
fn a_secret_shows_no_value() {
    let (_, object) = objects().pop().unwrap();
    assert!(!format!("{object:?}").contains("[1, 2, 3]"));
    assert!(format!("{object:?}").contains("***"));
}
