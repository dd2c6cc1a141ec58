//! Gateway role: routing, splits, rewrites, failures that say why, forwarded fields.

use causeway_model::{Filter, HeaderEdit, Kind, PathRewrite, Spec};
use causeway_testkit::{Client, House};

use crate::common::*;

async fn check(house: &House, line: &str, expected: &str) {
    assert_eq!(house.ask(gateway_address(), line).await.line(), expected, "{line}");
}

#[tokio::test(start_paused = true)]
async fn routes_by_path_and_says_why_not() {
    let house = House::new();
    house.service("cart", 1);
    house.service("shop", 1);
    let broken = rule("/none", vec![]);
    let gone = rule("/gone", vec![backend("nowhere", 1)]);
    let empty = rule("/empty", vec![backend("idle", 1)]);
    let rules = vec![
        rule("/cart", vec![backend("cart", 1)]),
        rule("/shop", vec![backend("shop", 1)]),
        broken,
        gone,
        empty,
    ];
    house.put("shop", gateway_route(rules));
    house.put("idle", Spec::Service(causeway_model::Service::default()));
    let _proxy = start_gateway(&house).await;
    check(&house, "GET any.example/cart/7", "200 cart-1").await;
    check(&house, "GET any.example//shop/./x", "200 shop-1").await;
    check(&house, "GET any.example/cartoon", "404 no route matches this request").await;
    check(&house, "GET any.example/none", "500 the rule has no backend with weight").await;
    check(&house, "GET any.example/gone", "500 backend default/nowhere is not there").await;
    let idle = house.ask(gateway_address(), "GET any.example/empty").await;
    assert_eq!(idle.status, 503);
    assert!(idle.header("proxy-status").starts_with("causeway; error=destination_unavailable; details="));
    let hidden = house.ask(gateway_address(), "GET any.example/cart%2f7").await;
    assert_eq!((hidden.status.as_u16(), hidden.header("connection")), (400, "close"));
}

#[tokio::test(start_paused = true)]
async fn hosts_choose_listener_and_route() {
    let house = House::new();
    for service in ["a", "b", "wild"] {
        house.service(service, 1);
    }
    house.put(
        "public",
        gateway(vec![listener("shop", 8080, Some("*.example")), listener("rest", 8080, None)]),
    );
    let parent = || vec![parent(causeway_model::ParentKind::Gateway, "public")];
    house.put("a", route(parent(), &["a.example"], vec![rule("/", vec![backend("a", 1)])]));
    house.put("w", route(parent(), &["*.example"], vec![rule("/", vec![backend("wild", 1)])]));
    house.put("b", route(parent(), &["b.test"], vec![rule("/", vec![backend("b", 1)])]));
    let _proxy = start_gateway(&house).await;
    check(&house, "GET a.example/", "200 a-1").await;
    check(&house, "GET A.Example:8080/", "200 a-1").await;
    check(&house, "GET q.example/", "200 wild-1").await;
    check(&house, "GET b.test/", "200 b-1").await;
    check(&house, "GET c.test/", "404 no route matches this request").await;
}

#[tokio::test(start_paused = true)]
async fn a_split_keeps_its_weights() {
    let house = House::new();
    let (old, new) = (house.service("old", 1).remove(0), house.service("new", 1).remove(0));
    house.put("r", gateway_route(vec![rule("/", vec![backend("old", 90), backend("new", 10)])]));
    let _proxy = start_gateway(&house).await;
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    for _ in 0..1000 {
        assert_eq!(client.send(House::request("GET h/")).await.unwrap().status, 200);
    }
    assert!((60..140).contains(&new.count()), "{} of 1000", new.count());
    assert_eq!(old.count() + new.count(), 1000);
}

#[tokio::test(start_paused = true)]
async fn filters_change_request_and_answer() {
    let house = House::new();
    let app = house.service("app", 1).remove(0);
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let edit = |name: &str, value: &str| HeaderEdit { set: pair(name, value), ..HeaderEdit::default() };
    let mut changing = rule("/old", vec![backend("app", 1)]);
    changing.filters = vec![
        Filter::RequestHeaders(edit("x-in", "1")),
        Filter::Rewrite { hostname: Some("inner".into()), path: Some(PathRewrite::Prefix("/new".into())) },
        Filter::ResponseHeaders(edit("x-out", "2")),
    ];
    changing.backends[0].filters = vec![Filter::ResponseHeaders(edit("x-backend", "3"))];
    let mut moved = rule("/moved", vec![]);
    moved.filters = vec![Filter::Redirect {
        scheme: None,
        hostname: Some("b".into()),
        path: None,
        port: None,
        status: 301,
    }];
    house.put("r", gateway_route(vec![changing, moved]));
    let _proxy = start_gateway(&house).await;
    let mut request = House::request("GET outer/old/x?q=1");
    for (name, value) in [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-causeway-caller", "spiffe://x"),
        ("connection", "x-mine"),
        ("x-mine", "1"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = Client::connect(&house.net(), gateway_address()).await.send(request).await.unwrap();
    assert_eq!((answer.header("x-out"), answer.header("x-backend")), ("2", "3"));
    assert_eq!(answer.header("x-request-id").len(), 32);
    let seen = &app.seen()[0];
    assert_eq!(seen.line, "GET /new/x?q=1");
    let field = |name: &str| seen.headers.get(name).map_or("", |value| value.to_str().unwrap());
    assert_eq!((field("host"), field("x-in"), field("x-mine")), ("inner", "1", ""));
    assert_eq!((field("x-forwarded-for"), field("x-forwarded-proto")), ("127.0.0.1", "http"));
    assert_eq!((field("forwarded"), field("x-causeway-caller")), ("for=127.0.0.1;proto=http", ""));
    assert_eq!(field("x-request-id"), answer.header("x-request-id"));
    assert!(field("traceparent").contains(field("x-request-id")), "a new trace has the request's id");
    let moved = house.ask(gateway_address(), "GET outer/moved").await;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (301, "http://b:8080/moved"));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_opens_and_closes_doors_as_its_document_says() {
    let house = House::new();
    house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let proxy = start_gateway(&house).await;
    assert_eq!(proxy.addresses(), [gateway_address()]);
    assert!(proxy.is_ready());
    let second: std::net::SocketAddr = "10.1.0.1:8081".parse().unwrap();
    house.put("public", gateway(vec![listener("two", 8081, None)]));
    until(|| proxy.addresses() == [second]).await;
    assert_eq!(house.ask(second, "GET h/").await.line(), "200 app-1");
    until_async(async || house.net().connect(gateway_address()).await.is_err()).await;
    house.remove(Kind::Gateway, "public");
    until(|| proxy.addresses().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn https_without_a_certificate_is_not_served_at_all() {
    let house = House::new();
    let mut secure = listener("secure", 8443, None);
    secure.protocol = causeway_model::ListenerProtocol::Https;
    secure.tls = Some(causeway_model::ListenerTls { secrets: vec![(name("default"), name("missing"))] });
    house.put("public", gateway(vec![secure]));
    let proxy = start_gateway(&house).await;
    assert!(proxy.addresses().is_empty());
    assert!(proxy.problems()[0].contains("Secret default/missing is not there"), "{:?}", proxy.problems());
    assert!(proxy.problems()[0].contains("CW-1503"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_can_change_its_protocol() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let house = House::new();
    house.service("app", 1);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let _proxy = start_gateway(&house).await;
    let mut request = House::request("GET h/ws");
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    let (status, upgraded) = client.upgrade(request).await.unwrap();
    assert_eq!(status, 101);
    let mut stream = hyper_util::rt::TokioIo::new(upgraded);
    stream.write_all(b"hello").await.unwrap();
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"hello");
}
