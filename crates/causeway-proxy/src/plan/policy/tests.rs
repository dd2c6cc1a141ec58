use causeway_model::{ConditionKind, ObjectKey, Origin, Revision};

use super::*;

fn service(text: &str) -> ServiceKey {
    let (namespace, name) = text.split_once('/').unwrap();
    ServiceKey::parse(namespace, name).unwrap()
}

/// A policy `NAMESPACE/NAME` for `KIND NAME[#SECTION]` that wishes so many retries and, when it is not 0, so urgent calls.
fn policy(key: &str, target: &str, attempts: u32, priority: u8) -> Object {
    let key = service(key);
    let (kind, name) = target.split_once(' ').unwrap();
    let (name, section) = name.split_once('#').map_or((name, None), |(name, section)| (name, Some(section)));
    let kind = match kind {
        "Namespace" => TargetKind::Namespace,
        "Service" => TargetKind::Service,
        "HTTPRoute" => TargetKind::HttpRoute,
        _ => TargetKind::GrpcRoute,
    };
    let target = PolicyTarget {
        kind,
        namespace: key.namespace.clone(),
        name: Name::new(name).unwrap(),
        section: section.map(str::to_owned),
    };
    let spec = TrafficPolicy {
        targets: vec![target],
        retry: Some(Retry { attempts: Some(attempts), ..Retry::default() }),
        priority: (priority > 0).then_some(priority),
        ..TrafficPolicy::default()
    };
    Object {
        origin: Origin::File { path: "t.yaml".into(), line: attempts },
        key: ObjectKey { kind: Kind::TrafficPolicy, namespace: key.namespace, name: key.name },
        revision: Revision::new(1),
        spec: Spec::TrafficPolicy(spec),
        conditions: vec![],
        written: String::new(),
    }
}

fn picture(objects: Vec<Object>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    objects.into_iter().for_each(|object| snapshot.put_object(Arc::new(object)));
    snapshot
}

fn policies(objects: Vec<Object>) -> Policies {
    Policies::new(&picture(objects), |_| false, Policies::default())
}

/// Retries and urgency with the documents that decided them.
fn told(policy: &Policy) -> String {
    let retry = policy.retry.as_ref().map(|said| (said.attempts.unwrap_or(0), said.by.to_string()));
    let priority = policy.priority.as_ref().map(|said| (said.wish, said.by.to_string()));
    let text =
        |part: Option<(String, String)>| part.map_or("-".into(), |(wish, by)| format!("{wish} by {by}"));
    let (retry, priority) =
        (retry.map(|(n, by)| (n.to_string(), by)), priority.map(|(n, by)| (n.to_string(), by)));
    format!("{}, {}", text(retry), text(priority))
}

#[test]
fn a_service_goes_before_its_namespace_part_by_part_and_the_first_name_wins() {
    let policies = policies(vec![
        policy("shop/all", "Namespace shop", 1, 6),
        policy("shop/b", "Service cart", 2, 0),
        policy("shop/c", "Service cart", 3, 5),
        policy("other/all", "Namespace other", 4, 0),
        policy("shop/v", "Service cart-v2", 7, 0),
    ]);
    for (of, expected) in [
        ("shop/cart", "2 by TrafficPolicy shop/b at t.yaml:2, 5 by TrafficPolicy shop/c at t.yaml:3"),
        ("shop/pay", "1 by TrafficPolicy shop/all at t.yaml:1, 6 by TrafficPolicy shop/all at t.yaml:1"),
        ("other/cart", "4 by TrafficPolicy other/all at t.yaml:4, -"),
        ("third/cart", "-, -"),
    ] {
        assert_eq!(told(&policies.of_service(&service(of), None)), expected, "{of}");
    }
    let subset = policies.of_service(&service("shop/cart-v2"), Some(&Name::new("cart").unwrap()));
    let expected = "7 by TrafficPolicy shop/v at t.yaml:7, 5 by TrafficPolicy shop/c at t.yaml:3";
    assert_eq!(told(&subset), expected, "a subset's own before its whole's");
}

fn route(kind: Kind) -> Object {
    let ServiceKey { namespace, name } = service("shop/r");
    let key = ObjectKey { kind, namespace, name };
    Object { key, ..policy("shop/r", "Service x", 9, 0) }
}

#[test]
fn a_rule_goes_before_its_route_and_what_stands_in_it_before_both() {
    let policies = policies(vec![
        policy("shop/a", "HTTPRoute r", 1, 3),
        policy("shop/b", "HTTPRoute r#pay", 2, 0),
        policy("shop/c", "GRPCRoute r", 4, 0),
        policy("other/c", "HTTPRoute r", 5, 0),
    ]);
    for (kind, rule, expected) in [
        (
            Kind::HttpRoute,
            Some("pay"),
            "2 by TrafficPolicy shop/b at t.yaml:2, 3 by TrafficPolicy shop/a at t.yaml:1",
        ),
        (
            Kind::HttpRoute,
            Some("list"),
            "1 by TrafficPolicy shop/a at t.yaml:1, 3 by TrafficPolicy shop/a at t.yaml:1",
        ),
        (
            Kind::HttpRoute,
            None,
            "1 by TrafficPolicy shop/a at t.yaml:1, 3 by TrafficPolicy shop/a at t.yaml:1",
        ),
        (Kind::GrpcRoute, Some("pay"), "4 by TrafficPolicy shop/c at t.yaml:4, -"),
    ] {
        let label = format!("{rule:?}").into();
        assert_eq!(told(&policies.of_rule(&route(kind), rule, &label, None)), expected, "{kind} {rule:?}");
    }
    let own = Affinity::Header { name: "session".into() };
    let label: Arc<str> = "HTTPRoute shop/r rule 1".into();
    let policy = policies.of_rule(&route(Kind::HttpRoute), None, &label, Some(&own));
    let affinity = policy.affinity.as_ref().unwrap();
    assert_eq!((&affinity.wish, &*affinity.by), (&own, "HTTPRoute shop/r rule 1 at t.yaml:9"));
    let under = policies.of_service(&service("shop/cart"), None);
    assert_eq!(decide(&policy.retry, Some(&under.retry)).unwrap().attempts, Some(1));
    assert!(decide(&under.retry, None).is_none());
}

#[test]
fn refused_documents_do_not_count_and_what_stays_the_same_stays_the_same_place() {
    let mut refused = policy("shop/a", "Service cart", 1, 0);
    refused.conditions.push(causeway_model::Condition {
        kind: ConditionKind::Accepted,
        is_true: false,
        reason: "Invalid".into(),
        message: String::new(),
        since: causeway_model::Timestamp::from_millis(0),
    });
    let is_refused = |object: &Object| !object.conditions.is_empty();
    let cart = service("shop/cart");
    let with = |attempts, last| {
        let objects = vec![refused.clone(), policy("shop/b", "Service cart", attempts, 0)];
        Policies::new(&picture(objects), is_refused, last)
    };
    let first = with(2, Policies::default());
    let of_first = first.of_service(&cart, None);
    assert_eq!(of_first.retry.as_ref().unwrap().attempts, Some(2));
    let second = with(2, first);
    assert!(Arc::ptr_eq(&of_first, &second.of_service(&cart, None)));
    let third = with(3, second);
    assert!(!Arc::ptr_eq(&of_first, &third.of_service(&cart, None)));
    assert!(Arc::ptr_eq(&third.of_service(&service("x/y"), None), &third.nothing));
}
