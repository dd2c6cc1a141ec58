//! Specs in short, and proxies in their roles.

use std::net::SocketAddr;
use std::sync::Arc;

use causeway_base::{Scope, Seed};
use causeway_model::{
    Backend, Gateway, HttpRoute, Listener, ListenerProtocol, Name, ParentKind, ParentRef, PathMatch,
    PolicyTarget, Protocol, RequestMatch, Rule, ServiceKey, Snapshot, Spec, TargetKind, TrafficPolicy,
};
use causeway_proxy::{Options, Proxy, Role, Sidecar};
use causeway_testkit::{App, House};
use tokio::sync::watch;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn backend(service: &str, weight: u32) -> Backend {
    Backend { service: House::key(service), port: None, weight, filters: vec![] }
}

pub(crate) fn prefix(path: &str) -> RequestMatch {
    RequestMatch { path: PathMatch::Prefix(path.into()), headers: vec![], query: vec![], method: None }
}

pub(crate) fn rule(path: &str, backends: Vec<Backend>) -> Rule {
    Rule { matches: vec![prefix(path)], backends, ..Rule::default() }
}

pub(crate) fn parent(kind: ParentKind, of: &str) -> ParentRef {
    let ServiceKey { namespace, name } = House::key(of);
    ParentRef { kind, namespace, name, section: None, port: None }
}

pub(crate) fn route(parents: Vec<ParentRef>, hosts: &[&str], rules: Vec<Rule>) -> Spec {
    Spec::HttpRoute(HttpRoute { parents, hostnames: hosts.iter().map(|h| (*h).into()).collect(), rules })
}

/// A policy for calls to a service.
pub(crate) fn service_policy(of: &str) -> TrafficPolicy {
    let ServiceKey { namespace, name } = House::key(of);
    let target = PolicyTarget { kind: TargetKind::Service, namespace, name, section: None };
    TrafficPolicy { targets: vec![target], ..TrafficPolicy::default() }
}

pub(crate) fn gateway_route(rules: Vec<Rule>) -> Spec {
    route(vec![parent(ParentKind::Gateway, "public")], &[], rules)
}

pub(crate) fn listener(label: &str, port: u16, hostname: Option<&str>) -> Listener {
    Listener {
        name: name(label),
        port,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(Into::into),
        tls: None,
        is_open_to_all_namespaces: false,
    }
}

pub(crate) fn gateway(listeners: Vec<Listener>) -> Spec {
    Spec::Gateway(Gateway { class: "causeway".into(), addresses: vec!["10.1.0.1".into()], listeners })
}

/// Where the gateway of [`start_gateway`] listens.
pub(crate) fn gateway_address() -> SocketAddr {
    "10.1.0.1:8080".parse().unwrap()
}

pub(crate) fn options(house: &House, role: Role, snapshots: watch::Receiver<Arc<Snapshot>>) -> Options {
    let mut options = Options::new(role, snapshots);
    options.net = house.net();
    options.clock = house.clock();
    options.seed = Seed::from_number(42);
    options
}

/// A gateway `public` on port 8080 with one listener, unless the house has one already.
pub(crate) async fn start_gateway(house: &House) -> Proxy {
    let has_one = house.snapshots().borrow().objects_of(causeway_model::Kind::Gateway).next().is_some();
    if !has_one {
        house.put("public", gateway(vec![listener("http", 8080, None)]));
    }
    let role = Role::Gateway { key: (name("default"), name("public")), bind: None };
    let mut options = options(house, role, house.snapshots());
    options.credentials = Some(house.credentials("public"));
    Proxy::start(options, &Scope::root("gateway")).await.unwrap()
}

pub(crate) fn sidecar_role(house: &House, service: &str, app: Option<&App>) -> Sidecar {
    let host = house.address(15008);
    Sidecar {
        service: House::key(service),
        app: app.map(App::address),
        protocol: Protocol::Http,
        tcp_ports: vec![],
        inbound: app.map(|_| host),
        outbound: Some(SocketAddr::new("127.0.0.1".parse().unwrap(), 0)),
        upstreams: vec![],
        transparent: vec![],
        may_move: false,
    }
}

/// A sidecar; with an app it takes mesh calls for it and is registered as the instance `service-ID`.
pub(crate) async fn start_sidecar(house: &House, service: &str, id: u8, app: Option<&App>) -> Proxy {
    let role = sidecar_role(house, service, app);
    let mut options = options(house, Role::Sidecar(role), house.snapshots());
    options.credentials = Some(house.credentials(service));
    let proxy = Proxy::start(options, &Scope::root("sidecar")).await.unwrap();
    if let (Some(app), Some(inbound)) = (app, proxy.inbound_address()) {
        let id = format!("{}-{id}", House::key(service).name);
        house.place(service, &id, app.address()).mesh(inbound).put();
    }
    proxy
}

pub(crate) async fn caught_up(house: &House, proxy: &Proxy) {
    proxy.planned(house.revision()).await;
}

/// Waits for a condition; a paused clock makes it quick, and a test that waits in vain ends.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    until_async(async || holds()).await;
}

pub(crate) async fn until_async(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..10_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("waited in vain");
}
