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
    let mut exchange = Exchange { request: parts, client, matched, port: 8080, would_refuse: None };
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

fn policy(allow: Vec<AccessRule>, is_dry_run: bool) -> (String, AccessPolicy) {
    let targets = vec![ServiceKey::parse("default", "payments").unwrap()];
    ("default/guard".into(), AccessPolicy { targets, allow, is_dry_run, namespaces: vec![] })
}

fn check_access(policies: Vec<(String, AccessPolicy)>, caller: Option<&str>, line: &str) -> String {
    let service = ServiceKey::parse("default", "payments").unwrap();
    let access = Access::new(service, policies.into_iter());
    let client = client(caller.map(|c| format!("spiffe://d/{c}")).as_deref());
    let mut parts = parts(line, &[]);
    let mut exchange =
        Exchange { request: &mut parts, client: &client, matched: 0, port: 1, would_refuse: None };
    match access.on_request(&mut exchange) {
        Flow::Next if exchange.would_refuse.is_some() => "trial".into(),
        Flow::Next => "allowed".into(),
        Flow::Reply(reply) => {
            let details = reply.failure.unwrap().details;
            format!("{} {}", reply.status.as_u16(), details.split(' ').take(2).collect::<Vec<_>>().join(" "))
        }
        Flow::Wait(_) => panic!("access does not wait"),
    }
}
use super::access::Access;

#[test]
fn policies_decide_by_identity_method_and_path() {
    let rule = || AccessRule {
        from: vec![Peer {
            namespace: Name::default_namespace(),
            service: Some(Name::new("orders").unwrap()),
        }],
        methods: vec!["POST".into()],
        paths: vec!["/charges".into(), "/refunds/*".into()],
        ports: vec![],
    };
    let guarded = || vec![policy(vec![rule()], false)];
    let orders = Some("ns/default/svc/orders");
    for (policies, caller, line, expected) in [
        (vec![], orders, "GET /", "allowed"),
        (vec![], Some("ns/other/svc/orders"), "GET /", "403 default/payments has"),
        (vec![], Some("ns/causeway/svc/events"), "POST /", "allowed"),
        (vec![], None, "GET /", "403 the caller"),
        (guarded(), orders, "POST /charges", "allowed"),
        (guarded(), orders, "POST /refunds/7", "allowed"),
        (guarded(), orders, "GET /charges", "403 AccessPolicy default/guard"),
        (guarded(), orders, "POST /charges/7", "403 AccessPolicy default/guard"),
        (guarded(), Some("ns/default/svc/cart"), "POST /charges", "403 AccessPolicy default/guard"),
        (guarded(), Some("ns/other/svc/orders"), "POST /charges", "403 AccessPolicy default/guard"),
        (vec![policy(vec![], false)], orders, "GET /", "403 AccessPolicy default/guard"),
        (vec![policy(vec![], false), policy(vec![rule()], false)], orders, "POST /charges", "allowed"),
        (vec![policy(vec![], true)], orders, "GET /", "trial"),
    ] {
        assert_eq!(check_access(policies, caller, line), expected, "{caller:?} {line}");
    }
}

#[test]
fn a_rule_that_speaks_of_requests_allows_no_bytes() {
    let orders = SpiffeId::parse("spiffe://house.test/ns/default/svc/orders").unwrap();
    let from = || vec![Peer { namespace: Name::default_namespace(), service: None }];
    let methods = AccessRule { from: from(), methods: vec!["GET".into()], ..AccessRule::default() };
    let paths = AccessRule { from: from(), paths: vec!["/*".into()], ..AccessRule::default() };
    let whole = AccessRule { from: from(), ..AccessRule::default() };
    for (policies, expected) in [
        (vec![], Ok(None)),
        (vec![policy(vec![whole], false)], Ok(None)),
        (vec![policy(vec![methods.clone()], false)], Err(())),
        (vec![policy(vec![paths], false)], Err(())),
        (vec![policy(vec![], false)], Err(())),
        (vec![policy(vec![methods], true)], Ok(Some("access-policy"))),
    ] {
        let service = ServiceKey::parse("default", "payments").unwrap();
        let access = Access::new(service, policies.into_iter());
        assert_eq!(access.connection(&orders).map_err(|_| ()), expected, "{access:?}");
    }
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
