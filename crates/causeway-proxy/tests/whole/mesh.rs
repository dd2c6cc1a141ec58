//! Sidecars: mutual TLS both ways, policies, names, foreign hosts, first use, drain.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_base::Scope;
use causeway_base::outbound::{Call, CallError};
use causeway_model::{AccessPolicy, AccessRule, Kind, ParentKind, Peer, Spec, Subset};
use causeway_proxy::{Options, Proxy, Role};
use causeway_testkit::{Client, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::common::*;

async fn ask(house: &House, proxy: &Proxy, line: &str) -> String {
    house.ask(proxy.outbound_address().unwrap(), line).await.line()
}

/// A house with `cart` behind a sidecar, and the sidecar of `shop`, which calls out.
async fn pair(house: &House) -> (causeway_testkit::App, Proxy, Proxy) {
    let app = house.app("cart");
    let cart = start_sidecar(house, "cart", 1, Some(&app)).await;
    let shop = start_sidecar(house, "shop", 1, None).await;
    caught_up(house, &shop).await;
    (app, cart, shop)
}

#[tokio::test(start_paused = true)]
async fn a_call_crosses_the_mesh_and_the_app_learns_who_called() {
    let house = House::new();
    let (app, _cart, shop) = pair(&house).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/items?x=1").await, "200 cart");
    assert_eq!(ask(&house, &shop, "GET http://cart.default.mesh/").await, "200 cart");
    assert_eq!(ask(&house, &shop, "GET cart.mesh/by-host").await, "200 cart");
    let seen = app.seen();
    assert_eq!(seen[0].line, "GET /items?x=1");
    assert_eq!(seen[0].headers["x-causeway-caller"], "spiffe://house.test/ns/default/svc/shop");
    assert_eq!(seen[0].headers["host"], "cart.mesh");
    let report = shop.traffic();
    assert_eq!(report.edges.len(), 1);
    let edge = &report.edges[0];
    assert_eq!((edge.source.name.as_str(), edge.target.name.as_str()), ("shop", "cart"));
    assert_eq!((edge.requests, edge.failures), (3, 0));
    assert!(shop.traffic().edges.is_empty(), "a report holds what is new");
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_there_say_so_and_foreign_hosts_pass() {
    let house = House::new();
    let (_app, _cart, shop) = pair(&house).await;
    let unknown = house.ask(shop.outbound_address().unwrap(), "GET http://nobody.mesh/").await;
    assert_eq!(unknown.line(), "404 no service nobody.mesh is known to the mesh");
    assert!(unknown.header("proxy-status").contains("error=destination_not_found"));
    let outside = house.app("outside");
    let url = format!("GET http://{}/a%2Fb/../c", outside.address());
    assert_eq!(ask(&house, &shop, &url).await, "200 outside");
    assert_eq!(outside.seen()[0].line, "GET /a%2Fb/../c", "a foreign path is not ours to change");
}

#[tokio::test(start_paused = true)]
async fn connect_tunnels_to_foreign_hosts_only() {
    let house = House::new();
    let (_app, _cart, shop) = pair(&house).await;
    let outside = house.app("outside");
    let mut stream = house.net().connect(shop.outbound_address().unwrap()).await.unwrap();
    let at = outside.address();
    stream.write_all(format!("CONNECT {at} HTTP/1.1\r\nhost: {at}\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = vec![0; 256];
    let n = stream.read(&mut text).await.unwrap();
    assert!(text[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&text[..n]));
    stream.write_all(b"GET /through HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let n = stream.read(&mut text).await.unwrap();
    assert!(text[..n].starts_with(b"HTTP/1.1 200"));
    assert_eq!(outside.seen()[0].line, "GET /through");
    let mut stream = house.net().connect(shop.outbound_address().unwrap()).await.unwrap();
    stream.write_all(b"CONNECT cart.mesh:443 HTTP/1.1\r\nhost: cart.mesh:443\r\n\r\n").await.unwrap();
    let n = stream.read(&mut text).await.unwrap();
    assert!(text[..n].starts_with(b"HTTP/1.1 400"));
}

#[tokio::test(start_paused = true)]
async fn the_mesh_port_refuses_plaintext_and_other_trust_domains() {
    let house = House::new();
    let (app, cart, _shop) = pair(&house).await;
    let inbound = cart.inbound_address().unwrap();
    let mut plain = Client::connect(&house.net(), inbound).await;
    assert!(plain.send(House::request("GET cart/")).await.is_err());
    let role = Role::Sidecar(sidecar_role(&house, "spy", None));
    let mut options = options(&house, role, house.snapshots());
    options.credentials = Some(house.foreign_credentials("spy"));
    let spy = Proxy::start(options, &Scope::root("spy")).await.unwrap();
    let answer = house.ask(spy.outbound_address().unwrap(), "GET http://cart.mesh/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.header("proxy-status").contains("error=tls_protocol_error"), "{answer:?}");
    assert_eq!(app.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_impostor_at_the_address_is_not_spoken_to() {
    let house = House::new();
    let app = house.app("evil");
    let evil = start_sidecar(&house, "evil", 1, Some(&app)).await;
    // Somebody registers evil's mesh port as an instance of `bank`.
    house.place("bank", "bank-1", app.address()).mesh(evil.inbound_address().unwrap()).put();
    let shop = start_sidecar(&house, "shop", 1, None).await;
    let answer = house.ask(shop.outbound_address().unwrap(), "GET http://bank.mesh/").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(app.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn policies_allow_refuse_and_try() {
    let house = House::new();
    let (app, cart, shop) = pair(&house).await;
    let policy = |service: &str, is_dry_run| {
        let from = vec![Peer { namespace: House::key("x").namespace, service: Some(name(service)) }];
        let allow = vec![AccessRule { from, methods: vec!["GET".into()], paths: vec![], ports: vec![] }];
        Spec::AccessPolicy(AccessPolicy {
            targets: vec![House::key("cart")],
            allow,
            is_dry_run,
            ..AccessPolicy::default()
        })
    };
    house.put("guard", policy("orders", false));
    caught_up(&house, &cart).await;
    let answer = house.ask(shop.outbound_address().unwrap(), "GET http://cart.mesh/").await;
    assert_eq!(answer.status, 403);
    assert!(answer.header("proxy-status").contains("AccessPolicy default/guard"), "{answer:?}");
    assert_eq!(app.count(), 0, "refused before the app, and not tried again");
    house.put("guard", policy("orders", true));
    caught_up(&house, &cart).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/").await, "200 cart");
    house.put("guard", policy("shop", false));
    caught_up(&house, &cart).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/").await, "200 cart");
    assert!(ask(&house, &shop, "POST http://cart.mesh/").await.starts_with("403"));
    house.remove(Kind::AccessPolicy, "guard");
    caught_up(&house, &cart).await;
    let far = start_sidecar(&house, "far/shop", 1, None).await;
    let answer = house.ask(far.outbound_address().unwrap(), "GET http://cart.default.mesh/").await;
    assert_eq!(answer.status, 403, "without a policy a service is open to its own namespace");
}

#[tokio::test(start_paused = true)]
async fn routes_on_services_split_by_subset() {
    let house = House::new();
    let (_old, _new) = (house.app("one"), house.app("two"));
    house.place("cart", "one", _old.address()).version("1").put();
    house.place("cart", "two", _new.address()).version("2").put();
    let subset = |version: &str| {
        let subset = Subset { of: name("cart"), version: Some(version.into()), tags: vec![] };
        Spec::Service(causeway_model::Service { subset: Some(subset), ..Default::default() })
    };
    house.put("cart-v1", subset("1"));
    house.put("cart-v2", subset("2"));
    let parents = || vec![parent(ParentKind::Service, "cart")];
    let rules = vec![rule("/beta", vec![backend("cart-v2", 1)]), rule("/", vec![backend("cart-v1", 1)])];
    house.put("split", route(parents(), &[], rules));
    let shop = start_sidecar(&house, "shop", 1, None).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/beta").await, "200 two");
    for _ in 0..5 {
        assert_eq!(ask(&house, &shop, "GET http://cart.mesh/").await, "200 one");
    }
    assert_eq!(ask(&house, &shop, "GET http://cart-v2.mesh/").await, "200 two");
    // An instance changes: only its services are compiled again, the subset among them.
    house.withdraw("cart", "two");
    let third = house.app("three");
    house.place("cart", "three", third.address()).version("2").put();
    caught_up(&house, &shop).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/beta").await, "200 three");
}

#[tokio::test(start_paused = true)]
async fn first_use_asks_for_a_service_once_and_waits_for_it() {
    let house = House::new();
    house.service("cart", 1);
    let (part, snapshots) = watch::channel(Default::default());
    let (wants, mut wanted) = mpsc::unbounded_channel();
    let mut options: Options = options(&house, Role::Sidecar(sidecar_role(&house, "shop", None)), snapshots);
    options.wants = Some(wants);
    let shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    let whole = house.snapshots().borrow().clone();
    let answer = async {
        let key = wanted.recv().await.unwrap();
        assert_eq!(key, House::key("cart"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        part.send_replace(whole);
    };
    let both = tokio::join!(
        ask(&house, &shop, "GET http://cart.mesh/"),
        ask(&house, &shop, "GET http://cart.mesh/"),
        answer
    );
    assert_eq!((both.0.as_str(), both.1.as_str()), ("200 cart-1", "200 cart-1"));
    assert!(wanted.try_recv().is_err(), "asked once");
    let begun = tokio::time::Instant::now();
    assert!(ask(&house, &shop, "GET http://nobody.mesh/").await.starts_with("404"));
    assert!((1900..2500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_port_stands_for_its_service() {
    let house = House::new();
    house.service("pay", 1);
    let mut role = sidecar_role(&house, "shop", None);
    let local: SocketAddr = "127.0.0.1:9101".parse().unwrap();
    role.upstreams = vec![(House::key("pay"), local)];
    let options = options(&house, Role::Sidecar(role), house.snapshots());
    let _shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    assert_eq!(house.ask(local, "GET 127.0.0.1:9101/charge").await.line(), "200 pay-1");
}

#[tokio::test(start_paused = true)]
async fn an_outbound_port_for_everybody_is_refused() {
    let house = House::new();
    let mut role = sidecar_role(&house, "shop", None);
    role.outbound = Some("0.0.0.0:15001".parse().unwrap());
    let options = options(&house, Role::Sidecar(role), house.snapshots());
    let error = Proxy::start(options, &Scope::root("shop")).await.err().unwrap().to_string();
    assert!(error.contains("CW-1505"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_admin_door_answers_this_machine_only() {
    let house = House::new();
    house.service("cart", 1);
    let role = Role::Sidecar(sidecar_role(&house, "shop", None));
    let mut options = options(&house, role, house.snapshots());
    options.admin = Some("127.0.0.1:15000".parse().unwrap());
    let shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/").await, "200 cart-1");
    assert!(ask(&house, &shop, "GET http://nobody.mesh/why").await.starts_with("404"));
    let admin = shop.admin_address().unwrap();
    assert_eq!(house.ask(admin, "GET localhost/readyz").await.line(), "200 ok");
    assert_eq!(house.ask(admin, "GET evil.example/config").await.status, 403);
    let metrics = house.ask(admin, "GET localhost/metrics").await.body;
    let counted = "http_client_request_duration_seconds_count{namespace=\"default\",service=\"cart\",http_response_status_code=\"2xx\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));
    let config = house.ask(admin, "GET localhost/config").await.body;
    assert!(config.contains("\"service\": \"default/cart\""), "{config}");
    let failures = house.ask(admin, "GET localhost/failures").await.body;
    assert!(
        failures.contains("GET nobody.mesh/why") && failures.contains("destination_not_found"),
        "{failures}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_house_calls_out_as_itself() {
    let house = House::new();
    let (app, _cart, _shop) = pair(&house).await;
    let source = House::key("causeway/events");
    let mut options = options(&house, Role::Client { source }, house.snapshots());
    options.credentials = Some(house.credentials("causeway/events"));
    let proxy = Proxy::start(options, &Scope::root("events")).await.unwrap();
    let call = |service: &str, bytes: usize| Call {
        namespace: "default".into(),
        service: service.into(),
        port: None,
        request: http::Request::post("/events?x").body(bytes::Bytes::from_static(b"{}")).unwrap(),
        timeout: Duration::from_secs(5),
        is_idempotent: true,
        answer_bytes_max: bytes,
    };
    let outbound = proxy.outbound();
    let answer = outbound.call(call("cart", 100)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (200, b"cart".as_slice()));
    let seen = &app.seen()[0];
    assert_eq!((seen.line.as_str(), seen.body.as_ref()), ("POST /events?x", b"{}".as_slice()));
    assert_eq!(seen.headers["x-causeway-caller"], "spiffe://house.test/ns/causeway/svc/events");
    assert_eq!(outbound.call(call("cart", 2)).await.unwrap_err(), CallError::AnswerTooLarge(2));
    let missing = outbound.call(call("nobody", 2)).await.unwrap_err();
    assert!(matches!(missing, CallError::Unreachable { .. }), "{missing:?}");
    app.kill().await;
    let dead = outbound.call(call("cart", 100)).await.unwrap_err();
    assert!(
        matches!(dead, CallError::Unreachable { .. }),
        "the sidecar says that the app was not reached: {dead:?}"
    );
}
