//! Bodies of the HTTP API: what clients send, and what they are told.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use causeway_model::{CheckKind, Delivery, Health, Lease, Name, Offset, Ordering, Protocol, Spec, Timestamp};
use causeway_spec::body::{self, Definition, Seek};
use causeway_spec::{Problem, parse};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn told(problems: Vec<Problem>) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn registration_as_the_api_shows_it() {
    let text = br#"{"address":"10.0.0.5","port":8080,"protocol":"http","version":"1.2","tags":["a"],
        "metadata":{"k":"v"},"weight":100,"locality":{"region":"r","zone":"z"},"ttl":"15s",
        "checks":[{"http":"http://10.0.0.5:8080/healthz","interval":"5s","timeout":"1s"},{"tcp":"10.0.0.5:8080"}]}"#;
    let registration = body::registration(text).unwrap();
    assert_eq!((registration.port, registration.protocol), (8080, Protocol::Http));
    assert_eq!(registration.lease, Lease::Ttl(Duration::from_secs(15)));
    assert_eq!(registration.locality.zone, "z");
    assert_eq!(registration.checks[0].kind, CheckKind::Http("http://10.0.0.5:8080/healthz".to_owned()));
    assert_eq!(registration.checks[1].interval, Duration::from_secs(5));

    let least =
        body::registration(br#"{"address":"::1","ports":{"admin":1,"http":8080},"checks":[{"ttl":"9s"}]}"#)
            .unwrap();
    assert_eq!((least.port, least.weight, least.lease), (8080, 100, Lease::Ttl(Duration::from_secs(9))));
    assert!(least.checks.is_empty());
    assert_eq!(body::registration(br#"{"address":"a","port":1}"#).unwrap().lease, Lease::Permanent);
}

#[test]
fn a_bad_registration_is_told_everything_at_once() {
    let text = b"{\"adress\":\"10.0.0.5\",\n \"port\":\"8080\", \"protocol\":\"htpp\", \"ttl\":15,\n \"metadata\":{\"k\":1},\n \"checks\":[{\"http\":\"/healthz\",\"tcp\":\"a:1\"},{}]}";
    let told = told(body::registration(text).unwrap_err());
    assert_eq!(
        told,
        r#"body:1:1: missing field "address" in the body [CW-1006]
  hint: write `"address": "10.0.0.5"`
body:1:2: unknown field "adress" in the body [CW-1003]
  hint: did you mean "address"?
body:2:9: port must be a whole number from 1 to 65535, found the text "8080" [CW-1005]
  hint: write it without quotes: 8080
body:2:28: protocol must be one of http, h2c, grpc, tcp, tls, udp, found "htpp" [CW-1008]
  hint: did you mean "http"?
body:2:42: ttl must be a duration with its unit, found the number 15 [CW-1005]
  hint: say the unit: "15s" for seconds, "15ms" for milliseconds
body:3:18: metadata.k must be a text, found the number 1 [CW-1005]
  hint: put it in quotes: "1"
body:4:12: checks[0] must have exactly one of http, tcp, grpc and ttl, found 2 [CW-1016]
  hint: write one check for each: `{"http": "http://…/healthz"}`
body:4:20: checks[0].http must be an http:// or https:// URL, found "/healthz" [CW-1012]
  hint: write it as "http://10.0.0.5:8080/healthz"
body:4:44: checks[1] must have exactly one of http, tcp, grpc and ttl, found 0 [CW-1016]
  hint: write one check for each: `{"http": "http://…/healthz"}`"#
    );
}

#[test]
fn a_body_stands_for_a_document() {
    let text = br#"{"retention":{"age":"7d","bytes":1048576},"dedupe":"24h","partitions":4}"#;
    let topic = body::topic(&name("shop"), &name("orders"), text).unwrap();
    let Spec::Topic(spec) = &topic.spec else { panic!("{topic:?}") };
    assert_eq!(spec.retention_age, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(topic.key.to_string(), "Topic shop/orders");
    assert_eq!(topic.warnings.len(), 1);
    let again = parse("again", &topic.written);
    assert_eq!((&again.documents[0].spec, &again.documents[0].written), (&topic.spec, &topic.written));
    assert!(body::topic(&name("shop"), &name("orders"), b"").is_ok());

    let text =
        br#"{"push":{"service":"mail","path":"/events"},"filter":"true","ordering":"none","maxInFlight":3,
        "retry":{"attempts":5,"backoff":"200ms","maxBackoff":"30s"},"deadLetter":{"mode":"plain"}}"#;
    for group in ["mail", "mail.eu"] {
        let document = body::subscription(&name("shop"), &name("orders.v1"), &name(group), text).unwrap();
        let Spec::Subscription(spec) = &document.spec else { panic!("{document:?}") };
        assert_eq!((spec.group.as_str(), spec.ordering, spec.max_in_flight), (group, Ordering::None, 3));
        assert!(
            matches!(&spec.delivery, Delivery::Push { service, .. } if service.to_string() == "shop/mail")
        );
        let again = parse("again", &document.written);
        assert_eq!(again.documents[0].spec, document.spec, "{}", document.written);
    }

    let text = br#"{"steps":[{"name":"a","call":{"service":"s","path":"/"}}]}"#;
    let saga = body::saga(&name("shop"), &name("buy"), text).unwrap();
    assert_eq!(parse("again", &saga.written).documents[0].spec, saga.spec);
    let told = told(body::saga(&name("shop"), &name("buy"), b"{\"step\":[]}").unwrap_err());
    assert!(told.contains("body:1:2: Saga shop/buy: unknown field \"step\""), "{told}");
    assert!(told.contains("did you mean \"steps\"?"), "{told}");
}

#[test]
fn a_saga_is_started_with_a_name_or_a_definition() {
    let namespace = name("shop");
    let text = br#"{"id":"order-7","definition":"place-order","input":{"b":1.0,"a":[9007199254740993,"\ud83d\ude00"]},"wait":"10s"}"#;
    let start = body::start(&namespace, text).unwrap();
    assert_eq!(start.id.as_deref(), Some("order-7"));
    assert_eq!(start.definition, Definition::Named(name("place-order")));
    assert_eq!(start.input, "{\"a\":[9007199254740993,\"😀\"],\"b\":1.0}");
    assert_eq!(start.wait, Some(Duration::from_secs(10)));

    let text = br#"{"definition":{"steps":[{"name":"a","publish":{"topic":"t","type":"x"}}]}}"#;
    let start = body::start(&namespace, text).unwrap();
    let Definition::Inline(definition) = &start.definition else { panic!("{start:?}") };
    assert_eq!((definition.name.as_str(), definition.namespace.as_str()), ("inline", "shop"));
    assert_eq!((start.id, start.input.as_str()), (None, "null"));

    for bad in [
        r#"{"id":"a/b","definition":"x"}"#,
        r#"{"id":"","definition":"x"}"#,
        r#"{"definition":"x","wait":"2h"}"#,
        r#"{"id":"x"}"#,
        r#"{"definition":{"steps":[]}}"#,
        r#"{"definition":{"steps":[{"name":"a","call":{"service":"s","path":"x"}}]}}"#,
        r#"{"definition":"x","inputs":{}}"#,
        "[]",
        "{\"definition\":\"x\",\"definition\":\"y\"}",
    ] {
        let problems = body::start(&namespace, bad.as_bytes()).unwrap_err();
        assert!(!problems.is_empty() && problems.iter().all(|p| p.hint.is_some()), "{bad}");
    }
}

#[test]
fn events_are_pulled_settled_sought_and_redriven() {
    let pull = body::pull(br#"{"max":7,"wait":"5s"}"#).unwrap();
    assert_eq!((pull.max, pull.wait), (7, Duration::from_secs(5)));
    assert_eq!(body::pull(b"").unwrap().max, body::PULL_DEFAULT);
    assert!(body::pull(br#"{"max":0}"#).is_err() && body::pull(br#"{"wait":"1h"}"#).is_err());

    assert_eq!(body::ack(br#"{"tokens":["a","b"]}"#).unwrap(), ["a", "b"]);
    assert!(body::ack(br#"{"tokens":["a"],"delay":"1s"}"#).is_err());
    assert_eq!(body::nack(br#"{"tokens":["a"],"delay":"0s"}"#).unwrap().delay, Some(Duration::ZERO));
    assert_eq!(body::extend(br#"{"tokens":["a"]}"#).unwrap().delay, None);
    assert!(body::extend(br#"{"tokens":["a"],"delay":"24h"}"#).is_err());
    assert!(body::extend(b"{}").is_err());

    for (text, wanted) in [
        ("{\"to\":42}", Seek::Offset(Offset::new(42))),
        ("{\"to\":\"42\"}", Seek::Offset(Offset::new(42))),
        ("{\"to\":\"earliest\"}", Seek::Earliest),
        ("{\"to\":\"latest\"}", Seek::Latest),
        ("{\"to\":\"1970-01-01T00:00:01Z\"}", Seek::Time(Timestamp::from_millis(1000))),
    ] {
        assert_eq!(body::seek(text.as_bytes()).unwrap(), wanted, "{text}");
    }
    for bad in ["{}", "{\"to\":-1}", "{\"to\":1.5}", "{\"to\":\"now\"}", "{\"to\":\"\"}"] {
        assert!(body::seek(bad.as_bytes()).is_err(), "{bad}");
    }

    let redrive = body::redrive(br#"{"filter":"true","rate":100,"dryRun":true}"#).unwrap();
    assert_eq!(
        (redrive.filter.as_deref(), redrive.rate, redrive.is_dry_run),
        (Some("true"), Some(100), true)
    );
    assert_eq!(body::redrive(b"{}").unwrap(), body::Redrive::default());
}

#[test]
fn heartbeats_and_tokens() {
    assert_eq!(body::heartbeat(br#"{"status":"warning"}"#).unwrap(), Some(Health::Warning));
    assert_eq!(body::heartbeat(b" \n").unwrap(), None);
    assert!(body::heartbeat(br#"{"status":"ok"}"#).is_err());
    let token = body::token(br#"{"name":"orders","ttl":"1h"}"#).unwrap();
    assert_eq!((token.name.as_str(), token.namespace.as_str()), ("orders", "default"));
    assert_eq!(token.ttl, Some(Duration::from_secs(3600)));
    assert!(body::token(br#"{"name":"orders","ttl":"0s"}"#).is_err());
    assert!(body::token(b"\xff{}").is_err());
}
