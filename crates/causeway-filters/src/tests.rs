//! One `check` per filter; a filter needs no socket.

use causeway_model::{
    AccessPolicy, AccessRule, Filter as Model, HeaderEdit, Name, PathRewrite, Peer, ServiceKey, SpiffeId,
};
use http::Request;

use super::*;

fn parts(line: &str, fields: &[(&str, &str)]) -> http::request::Parts {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut builder = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn client(identity: Option<&str>) -> Client {
    Client::new("192.0.2.7".parse().unwrap(), identity.map(|id| SpiffeId::parse(id).unwrap()), false)
}

fn run_now(
    chain: &[Arc<dyn Filter>],
    parts: &mut http::request::Parts,
    matched: usize,
    client: &Client,
) -> Option<Box<Reply>> {
    use std::task::{Context, Poll, Waker};
    let mut exchange = Exchange { request: parts, client, matched, port: 8080 };
    let future = std::pin::pin!(run(chain, &mut exchange));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(reply) => reply,
        Poll::Pending => panic!("these filters do not wait"),
    }
}

fn check_path(rewrite: PathRewrite, matched: usize, target: &str, expected: &str) {
    let chain = compile(&[Model::Rewrite { hostname: Some("inner".into()), path: Some(rewrite) }]).unwrap();
    let mut parts = parts(&format!("GET {target}"), &[("host", "outer")]);
    assert!(run_now(&chain, &mut parts, matched, &client(None)).is_none());
    assert_eq!(parts.uri.to_string(), expected, "{target}");
    assert_eq!(parts.headers["host"], "inner");
}

#[test]
fn paths_are_rewritten_as_gateway_api_says() {
    let prefix = |text: &str| PathRewrite::Prefix(text.into());
    check_path(prefix("/xyz"), 4, "/foo/bar?q=1", "/xyz/bar?q=1");
    check_path(prefix("/xyz/"), 4, "/foo/bar", "/xyz/bar");
    check_path(prefix("/xyz"), 4, "/foo", "/xyz");
    check_path(prefix("/xyz"), 4, "/foo/", "/xyz/");
    check_path(prefix("/"), 4, "/foo", "/");
    check_path(prefix(""), 4, "/foo/bar", "/bar");
    check_path(prefix("/x"), 1, "/bar", "/x/bar");
    check_path(PathRewrite::Full("/all".into()), 1, "/foo/bar?q", "/all?q");
}

#[test]
fn headers_are_set_added_removed() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let edit =
        HeaderEdit { set: vec![pair("a", "new")], add: vec![pair("b", "2")], remove: vec!["c".into()] };
    let chain = compile(&[Model::RequestHeaders(edit.clone()), Model::ResponseHeaders(edit)]).unwrap();
    let mut parts = parts("GET /", &[("a", "old"), ("b", "1"), ("c", "x")]);
    run_now(&chain, &mut parts, 0, &client(None));
    assert_eq!(parts.headers["a"], "new");
    assert_eq!(parts.headers.get_all("b").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert!(!parts.headers.contains_key("c"));
    let mut answer = http::Response::builder().header("c", "x").body(()).unwrap().into_parts().0;
    chain.iter().for_each(|filter| filter.on_response(&mut answer));
    assert!(!answer.headers.contains_key("c") && answer.headers["a"] == "new");
    let bad = HeaderEdit { set: vec![pair("a b", "x")], ..HeaderEdit::default() };
    assert!(compile(&[Model::RequestHeaders(bad)]).is_err());
}

#[test]
fn redirects_say_where() {
    let check = |scheme: Option<&str>, hostname: Option<&str>, port: Option<u16>, expected: &str| {
        let path = Some(PathRewrite::Prefix("/new".into()));
        let (scheme, hostname) = (scheme.map(Into::into), hostname.map(Into::into));
        let chain = compile(&[Model::Redirect { scheme, hostname, path, port, status: 301 }]).unwrap();
        let mut parts = parts("GET /old/a?q=1", &[("host", "shop.example:8080")]);
        let reply = run_now(&chain, &mut parts, 4, &client(None)).unwrap();
        assert_eq!((reply.status.as_u16(), reply.headers["location"].to_str().unwrap()), (301, expected));
    };
    check(None, None, None, "http://shop.example:8080/new/a?q=1");
    check(Some("https"), None, None, "https://shop.example/new/a?q=1");
    check(Some("https"), Some("b"), Some(8443), "https://b:8443/new/a?q=1");
    check(None, None, Some(80), "http://shop.example/new/a?q=1");
}

#[test]
fn what_a_client_says_of_itself_is_not_believed() {
    let chain: Chain = vec![Arc::new(forwarded::Forwarded), Arc::new(caller::Caller)];
    let mut parts = parts(
        "GET /",
        &[
            ("host", "a"),
            ("x-forwarded-for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-causeway-caller", "spiffe://x/ns/a/svc/b"),
        ],
    );
    run_now(&chain, &mut parts, 0, &client(None));
    assert_eq!(parts.headers["x-forwarded-for"], "192.0.2.7");
    assert_eq!(parts.headers["forwarded"], "for=192.0.2.7;proto=http");
    assert_eq!(parts.headers["x-forwarded-proto"], "http");
    assert!(!parts.headers.contains_key("x-real-ip"));
    assert!(!parts.headers.contains_key("x-causeway-caller"));
    let known = client(Some("spiffe://d/ns/default/svc/orders"));
    run_now(&chain, &mut parts, 0, &known);
    assert_eq!(parts.headers["x-causeway-caller"], "spiffe://d/ns/default/svc/orders");
}

use super::access::{Access, Call, Document, Wanted};

fn guard(name: &str, policy: AccessPolicy) -> Document {
    let place = format!("{name}.yaml:4");
    Document { name: format!("default/{name}").into(), place, policy }
}

/// A policy for the service `default/payments`.
fn policy(allow: Vec<AccessRule>, is_dry_run: bool) -> Document {
    let targets = vec![ServiceKey::parse("default", "payments").unwrap()];
    guard("guard", AccessPolicy { targets, allow, is_dry_run, ..AccessPolicy::default() })
}

/// One for every service of a namespace.
fn of_namespace(namespace: &str, allow: Vec<AccessRule>) -> Document {
    let namespaces = vec![Name::new(namespace).unwrap()];
    guard("all", AccessPolicy { namespaces, allow, ..AccessPolicy::default() })
}

fn from(namespace: &str, service: Option<&str>) -> AccessRule {
    let service = service.map(|service| Name::new(service).unwrap());
    let from = vec![Peer { namespace: Name::new(namespace).unwrap(), service }];
    AccessRule { from, ..AccessRule::default() }
}

fn payments(documents: Vec<Document>) -> Access {
    Access::new(ServiceKey::parse("default", "payments").unwrap(), documents.into_iter())
}

/// `allowed by NAME`, `allowed, doubted by NAME`, or the refusal's first words; `line` is `METHOD PATH` or `bytes`.
fn check_access(documents: Vec<Document>, caller: Option<&str>, line: &str, port: u16) -> String {
    let access = payments(documents);
    let identity = caller.map(|c| SpiffeId::parse(&format!("spiffe://d/{c}")).unwrap());
    let wanted = match line.split_once(' ') {
        Some((method, path)) => Wanted::Request { method, path },
        None => Wanted::Bytes,
    };
    let call = Call { caller: identity.as_ref(), wanted, port };
    let decided = access.decide(&call);
    assert!(decided.is_err() || access.admits(call.caller), "whoever is allowed something is admitted");
    match decided {
        Ok(allowed) => match (access.allowed_by(allowed), access.doubted_by(allowed)) {
            (None, None) => "allowed".into(),
            (Some(by), None) => format!("allowed by {by}"),
            (None, Some(doubt)) => format!("doubted by {doubt}"),
            (Some(by), Some(doubt)) => panic!("allowed by {by} and doubted by {doubt}"),
        },
        Err(refusal) => {
            let shown = refusal.details.split(' ').take(2).collect::<Vec<_>>().join(" ");
            assert!(!refusal.details.contains(".yaml"), "a caller learns no places: {}", refusal.details);
            assert_eq!(refusal.clone().into_reply().status, 403);
            match refusal.by {
                Some(by) => format!("refused: {shown} | {by}"),
                None => format!("refused: {shown}"),
            }
        }
    }
}

#[test]
fn policies_decide_by_identity_method_and_path() {
    let rule = || AccessRule {
        methods: vec!["POST".into()],
        paths: vec!["/charges".into(), "/refunds/*".into()],
        ..from("default", Some("orders"))
    };
    let guarded = || vec![policy(vec![rule()], false)];
    let orders = Some("ns/default/svc/orders");
    let no = "refused: AccessPolicy default/guard | AccessPolicy default/guard at guard.yaml:4";
    for (documents, caller, line, expected) in [
        (vec![], orders, "GET /", "allowed"),
        (vec![], Some("ns/other/svc/orders"), "GET /", "refused: default/payments has"),
        (vec![], Some("ns/causeway/svc/events"), "POST /", "allowed"),
        (guarded(), orders, "POST /charges", "allowed by default/guard"),
        (guarded(), orders, "POST /refunds/7", "allowed by default/guard"),
        (guarded(), orders, "GET /charges", no),
        (guarded(), orders, "post /charges", no),
        (guarded(), orders, "POST /charges/7", no),
        (guarded(), orders, "POST /charges2", no),
        (guarded(), orders, "POST /refunds2/7", no),
        (guarded(), Some("ns/default/svc/cart"), "POST /charges", no),
        (guarded(), Some("ns/default/svc/orders2"), "POST /charges", no),
        (guarded(), Some("ns/other/svc/orders"), "POST /charges", no),
        (guarded(), Some("ns/causeway/svc/events"), "POST /charges", no),
        (vec![policy(vec![], false)], orders, "GET /", no),
        (
            vec![policy(vec![], false), policy(vec![rule()], false)],
            orders,
            "POST /charges",
            "allowed by default/guard",
        ),
        (
            vec![policy(vec![AccessRule::default()], false)],
            Some("ns/other/svc/x"),
            "GET /",
            "allowed by default/guard",
        ),
        (vec![policy(vec![], true)], orders, "GET /", "doubted by default/guard"),
        (vec![policy(vec![rule()], true)], orders, "POST /charges", "allowed"),
        (vec![policy(vec![rule()], true)], Some("ns/other/svc/x"), "GET /", "refused: default/payments has"),
    ] {
        assert_eq!(check_access(documents, caller, line, 80), expected, "{caller:?} {line}");
    }
}

#[test]
fn a_namespace_is_guarded_whole_and_its_services_documents_open_it() {
    let orders = || from("default", Some("orders"));
    let closed = || of_namespace("default", vec![]);
    let no = "refused: AccessPolicy default/all | AccessPolicy default/all at all.yaml:4";
    let both = "refused: AccessPolicy default/all, | AccessPolicy default/all at all.yaml:4, default/guard at guard.yaml:4";
    for (documents, caller, expected) in [
        (vec![closed()], "ns/default/svc/orders", no),
        (vec![closed()], "ns/causeway/svc/health", no),
        (vec![of_namespace("other", vec![])], "ns/default/svc/orders", "allowed"),
        (vec![closed(), policy(vec![orders()], false)], "ns/default/svc/orders", "allowed by default/guard"),
        (vec![closed(), policy(vec![orders()], false)], "ns/default/svc/cart", both),
        (vec![of_namespace("default", vec![orders()])], "ns/default/svc/orders", "allowed by default/all"),
        // What is on trial beside an enforced document says nothing of calls that this one allows or refuses.
        (vec![closed(), policy(vec![orders()], true)], "ns/default/svc/orders", no),
        (
            vec![of_namespace("default", vec![orders()]), policy(vec![], true)],
            "ns/default/svc/orders",
            "allowed by default/all",
        ),
    ] {
        assert_eq!(check_access(documents, Some(caller), "GET /", 80), expected, "{caller}");
    }
    let many: Vec<Document> =
        (0..9).map(|n| Document { name: format!("default/p{n}").into(), ..policy(vec![], false) }).collect();
    let refusal = check_access(many, Some("ns/default/svc/orders"), "GET /", 80);
    assert!(refusal.ends_with("default/p2 at guard.yaml:4, and 6 more"), "{refusal}");
}

#[test]
fn a_rule_may_speak_of_ports() {
    let admin = || AccessRule { ports: vec![9000, 9001], ..from("default", Some("ops")) };
    let all = || AccessRule { ports: vec![80], ..AccessRule::default() };
    let no = "refused: AccessPolicy default/guard | AccessPolicy default/guard at guard.yaml:4";
    for (caller, port, expected) in [
        ("ns/default/svc/ops", 9000, "allowed by default/guard"),
        ("ns/default/svc/ops", 9001, "allowed by default/guard"),
        ("ns/default/svc/ops", 80, "allowed by default/guard"),
        ("ns/default/svc/shop", 80, "allowed by default/guard"),
        ("ns/default/svc/shop", 9000, no),
        ("ns/default/svc/ops", 9002, no),
    ] {
        for line in ["GET /", "bytes"] {
            let documents = vec![policy(vec![admin(), all()], false)];
            assert_eq!(check_access(documents, Some(caller), line, port), expected, "{caller} {line} {port}");
        }
    }
}

#[test]
fn a_rule_that_speaks_of_requests_allows_no_bytes() {
    let near = || from("default", None);
    let methods = || AccessRule { methods: vec!["GET".into()], ..near() };
    let paths = || AccessRule { paths: vec!["/*".into()], ..near() };
    let no = "refused: AccessPolicy default/guard | AccessPolicy default/guard at guard.yaml:4";
    for (documents, expected) in [
        (vec![], "allowed"),
        (vec![policy(vec![near()], false)], "allowed by default/guard"),
        (vec![policy(vec![methods()], false)], no),
        (vec![policy(vec![paths()], false)], no),
        (vec![policy(vec![methods(), paths(), near()], false)], "allowed by default/guard"),
        (vec![policy(vec![], false)], no),
        (vec![policy(vec![methods()], true)], "doubted by default/guard"),
    ] {
        assert_eq!(check_access(documents, Some("ns/default/svc/orders"), "bytes", 80), expected);
    }
}

#[test]
fn without_an_identity_nothing_is_allowed_by_a_rule() {
    let no = "refused: AccessPolicy default/guard | AccessPolicy default/guard at guard.yaml:4";
    for (documents, expected) in [
        (vec![], "allowed"),
        (vec![policy(vec![AccessRule::default()], false)], no),
        (vec![policy(vec![], false)], no),
        (vec![policy(vec![AccessRule::default()], true)], "doubted by default/guard"),
    ] {
        for line in ["GET /", "bytes"] {
            assert_eq!(check_access(documents.clone(), None, line, 80), expected, "{line}");
        }
    }
}

#[test]
fn a_broken_document_closes_what_it_guards_and_says_so() {
    let broken = |allow| {
        let mut document = policy(allow, false);
        document.policy.broken = Some("guard.yaml:7: allow[0].form is not a field [CW-1003]".into());
        document
    };
    let orders = Some("ns/default/svc/orders");
    let no = "refused: AccessPolicy default/guard | AccessPolicy default/guard at guard.yaml:4: \
              guard.yaml:7: allow[0].form is not a field [CW-1003]";
    assert_eq!(check_access(vec![broken(vec![])], orders, "GET /", 80), no);
    assert_eq!(
        check_access(vec![broken(vec![AccessRule::default()])], orders, "GET /", 80),
        no,
        "whatever it holds"
    );
    let other =
        Document { name: "default/other".into(), ..policy(vec![from("default", Some("orders"))], false) };
    let documents = || vec![broken(vec![]), other.clone()];
    assert_eq!(
        check_access(documents(), orders, "GET /", 80),
        "allowed by default/other",
        "it could only have added"
    );
    let cart = check_access(documents(), Some("ns/default/svc/cart"), "GET /", 80);
    assert!(cart.contains("[CW-1003]"), "{cart}");
}

#[test]
fn who_may_do_nothing_at_all_is_not_admitted() {
    let rule = AccessRule { methods: vec!["POST".into()], ..from("default", Some("orders")) };
    let access = payments(vec![policy(vec![rule], false)]);
    let id = |text: &str| SpiffeId::parse(&format!("spiffe://d/{text}")).unwrap();
    assert!(access.admits(Some(&id("ns/default/svc/orders"))), "it may POST");
    assert!(!access.admits(Some(&id("ns/default/svc/cart"))) && !access.admits(None));
    let open = payments(vec![]);
    assert!(open.admits(None) && open.admits(Some(&id("ns/default/svc/cart"))));
    assert!(!open.admits(Some(&id("ns/other/svc/cart"))));
}

#[test]
fn only_what_changes_a_decision_is_a_change() {
    let rule = || from("default", Some("orders"));
    let base = || payments(vec![policy(vec![rule()], false)]);
    let moved = payments(vec![Document { place: "elsewhere.yaml:9".into(), ..policy(vec![rule()], false) }]);
    assert!(base().decides_like(&base()) && base().decides_like(&moved));
    for other in [
        payments(vec![]),
        payments(vec![policy(vec![], false)]),
        payments(vec![policy(vec![rule()], true)]),
        payments(vec![policy(vec![rule()], false), of_namespace("default", vec![])]),
        payments(vec![Document { name: "default/other".into(), ..policy(vec![rule()], false) }]),
    ] {
        assert!(!base().decides_like(&other), "{other:?}");
    }
    assert!(base().decides_like(&payments(vec![policy(vec![rule()], false), of_namespace("other", vec![])])));
}

#[test]
fn a_filter_that_waits_is_waited_for() {
    #[derive(Debug)]
    struct CallOut;
    impl Filter for CallOut {
        fn on_request(&self, _: &mut Exchange<'_>) -> Flow {
            Flow::Wait(Box::pin(async {
                let reply = Reply {
                    status: StatusCode::UNAUTHORIZED,
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                    failure: None,
                    by: None,
                };
                Flow::Reply(Box::new(reply))
            }))
        }
    }
    let chain: Chain = vec![Arc::new(CallOut)];
    let reply = run_now(&chain, &mut parts("GET /", &[]), 0, &client(None)).unwrap();
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}
