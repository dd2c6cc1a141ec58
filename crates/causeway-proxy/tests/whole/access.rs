//! Who may call, as callers, records, metrics and `why` see it.

use causeway_base::Scope;
use causeway_model::{AccessPolicy, AccessRule, Kind, Origin, Peer, Spec};
use causeway_proxy::{Proxy, Role};
use causeway_testkit::{App, House};
use tokio::sync::watch;

use crate::common::*;

/// A rule for one caller of the namespace `default`.
pub(crate) fn rule_for(service: &str) -> AccessRule {
    let key = House::key(service);
    AccessRule {
        from: vec![Peer { namespace: key.namespace, service: Some(key.name) }],
        ..AccessRule::default()
    }
}

pub(crate) fn policy(target: &str, allow: Vec<AccessRule>) -> AccessPolicy {
    AccessPolicy { targets: vec![House::key(target)], allow, ..AccessPolicy::default() }
}

fn of_namespace(allow: Vec<AccessRule>) -> AccessPolicy {
    AccessPolicy { namespaces: vec![name("default")], allow, ..AccessPolicy::default() }
}

fn put(house: &House, label: &str, line: u32, policy: AccessPolicy) {
    let origin = Origin::File { path: "policies.yaml".into(), line };
    house.put_from(origin, label, Spec::AccessPolicy(policy));
}

async fn ask(house: &House, proxy: &Proxy, line: &str) -> String {
    house.ask(proxy.outbound_address().unwrap(), line).await.line()
}

/// The sidecar of `cart` with its access records, and that of `shop`.
async fn recorded(house: &House) -> (App, Proxy, Proxy, std::sync::mpsc::Receiver<String>) {
    let app = house.app("cart");
    let role = Role::Sidecar(sidecar_role(house, "cart", Some(&app)));
    let mut options = options(house, role, house.snapshots());
    options.credentials = Some(house.credentials("cart"));
    let (sender, lines) = std::sync::mpsc::channel();
    options.records = Some(Box::new(Lines(sender)));
    let cart = Proxy::start(options, &Scope::root("cart")).await.unwrap();
    house.place("cart", "cart-1", app.address()).mesh(cart.inbound_address().unwrap()).put();
    let shop = start_sidecar(house, "shop", 1, None).await;
    caught_up(house, &shop).await;
    caught_up(house, &cart).await;
    (app, cart, shop, lines)
}

struct Lines(std::sync::mpsc::Sender<String>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn every_decision_names_its_document() {
    let house = House::new();
    let (app, cart, shop, lines) = recorded(&house).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/open").await, "200 cart");
    put(&house, "trial", 3, AccessPolicy { is_dry_run: true, ..policy("cart", vec![rule_for("orders")]) });
    caught_up(&house, &cart).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/trial").await, "200 cart");
    house.remove(Kind::AccessPolicy, "trial");
    put(&house, "all", 9, of_namespace(vec![]));
    put(
        &house,
        "guard",
        21,
        policy("cart", vec![AccessRule { methods: vec!["GET".into()], ..rule_for("shop") }]),
    );
    caught_up(&house, &cart).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/allowed").await, "200 cart");
    let refused = house.ask(shop.outbound_address().unwrap(), "POST http://cart.mesh/refused").await;
    assert_eq!(refused.status, 403);
    let told = refused.header("proxy-status").to_owned();
    assert!(told.contains("error=http_request_denied"), "{told}");
    assert!(
        told.contains("AccessPolicy default/all, default/guard does not allow default/shop to POST"),
        "{told}"
    );
    assert!(!format!("{refused:?}").contains(".yaml"), "a caller learns no places: {refused:?}");
    assert_eq!(app.count(), 3);

    let metrics = cart.metrics();
    for line in [
        "causeway_proxy_access_decisions_total{policy=\"default/trial\",decision=\"would_refuse\"} 1",
        "causeway_proxy_access_decisions_total{policy=\"default/guard\",decision=\"allowed\"} 1",
        "causeway_proxy_access_decisions_total{policy=\"default/guard\",decision=\"refused\"} 1",
        "causeway_proxy_access_decisions_total{policy=\"default/all\",decision=\"refused\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    cart.drain(std::time::Duration::from_secs(1)).await;
    // The writer is a thread of its own.
    let mut text = String::new();
    while text.lines().count() < 4 {
        text.push_str(&lines.recv_timeout(std::time::Duration::from_secs(5)).unwrap());
    }
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |path: &str| records.iter().find(|record| record["path"] == path).unwrap();
    let (open, trial, allowed, refused) = (of("/open"), of("/trial"), of("/allowed"), of("/refused"));
    assert!(open.get("policy").is_none() && open.get("would_refuse").is_none(), "{open}");
    assert_eq!((&trial["would_refuse"], trial.get("policy")), (&"default/trial".into(), None));
    assert_eq!(allowed["policy"], "default/guard");
    assert_eq!(
        refused["refused_by"],
        "AccessPolicy default/all at policies.yaml:9, default/guard at policies.yaml:21"
    );
    assert_eq!((&refused["caller"], &refused["reason"]), (&"shop".into(), &"http_request_denied".into()));
    assert!(open.get("transport").is_none(), "mutual TLS is what goes without saying");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_closed_by_one_document_and_opened_service_by_service() {
    let house = House::new();
    let (cart_app, pay_app) = (house.app("cart"), house.app("pay"));
    let cart = start_sidecar(&house, "cart", 1, Some(&cart_app)).await;
    let pay = start_sidecar(&house, "pay", 1, Some(&pay_app)).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    let far = start_sidecar(&house, "far/shop", 1, None).await;
    put(&house, "closed", 1, of_namespace(vec![]));
    put(&house, "pay", 5, policy("pay", vec![rule_for("shop"), rule_for("far/shop")]));
    for proxy in [&cart, &pay, &shop, &far] {
        caught_up(&house, proxy).await;
    }
    assert!(ask(&house, &shop, "GET http://cart.mesh/").await.starts_with("403"));
    assert_eq!(ask(&house, &shop, "GET http://pay.mesh/").await, "200 pay");
    assert_eq!(ask(&house, &far, "GET http://pay.default.mesh/").await, "200 pay");
    assert!(ask(&house, &far, "GET http://cart.default.mesh/").await.starts_with("403"));
}

#[tokio::test(start_paused = true)]
async fn a_rule_speaks_of_the_apps_port() {
    let house = House::new();
    let (_app, cart, shop, _lines) = recorded(&house).await;
    let port = |port| AccessRule { ports: vec![port], ..rule_for("shop") };
    put(&house, "guard", 1, policy("cart", vec![port(15008)]));
    caught_up(&house, &cart).await;
    assert!(ask(&house, &shop, "GET http://cart.mesh/").await.starts_with("403"), "not the sidecar's own");
    put(&house, "guard", 1, policy("cart", vec![port(8080)]));
    caught_up(&house, &cart).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/").await, "200 cart");
}

/// A part of a service has no sidecars of its own: who names it as a target guards the whole.
#[tokio::test(start_paused = true)]
async fn a_policy_for_a_part_guards_the_whole() {
    let house = House::new();
    let (app, cart, shop, _lines) = recorded(&house).await;
    let subset = causeway_model::Subset { of: name("cart"), version: Some("2".into()), tags: vec![] };
    house.put(
        "cart-v2",
        Spec::Service(causeway_model::Service { subset: Some(subset), ..Default::default() }),
    );
    put(&house, "guard", 1, policy("cart-v2", vec![rule_for("orders")]));
    caught_up(&house, &cart).await;
    assert!(ask(&house, &shop, "GET http://cart.mesh/").await.starts_with("403"));
    assert_eq!(app.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_picture_nobody_is_let_in() {
    let house = House::new();
    let app = house.app("cart");
    let (part, snapshots) = watch::channel(Default::default());
    let role = Role::Sidecar(sidecar_role(&house, "cart", Some(&app)));
    let mut options = options(&house, role, snapshots);
    options.credentials = Some(house.credentials("cart"));
    let cart = Proxy::start(options, &Scope::root("cart")).await.unwrap();
    house.place("cart", "cart-1", app.address()).mesh(cart.inbound_address().unwrap()).put();
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let answer = ask(&house, &shop, "GET http://cart.mesh/").await;
    assert_eq!(answer, "403 this sidecar does not know yet who may call its app");
    assert_eq!(app.count(), 0);
    // The first picture differs from nothing by instances alone.
    part.send_replace(house.snapshots().borrow().clone());
    caught_up(&house, &cart).await;
    assert_eq!(ask(&house, &shop, "GET http://cart.mesh/").await, "200 cart");
}
