//! The real proxy in the gateway role in front of one static upstream, for measurements beside other proxies.
//!
//! ```text
//! cargo run --release -p causeway-proxy --example bench_proxy -- --listen 127.0.0.1:8080 --upstream 127.0.0.1:9000
//!     [--workers 1] [--records /dev/null|PATH|none] [--protocol http|h2c]
//! ```
//! Metrics, access record, retries and ejection are on, as in life. Prints `ready` when it listens; SIGTERM and Ctrl-C drain.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::Scope;
use causeway_model::{
    Backend, Gateway, HttpRoute, Kind, Listener, ListenerProtocol, Name, Object, ObjectKey, Origin,
    ParentKind, ParentRef, Protocol, Revision, Rule, Service, ServiceKey, ServicePort, Snapshot, Spec,
    StaticEndpoint,
};
use causeway_proxy::{Options, Proxy, Role};
use tokio::sync::watch;

/// As the product has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let mut arguments = BTreeMap::new();
    let mut words = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        arguments.insert(name, value);
    }
    let text = |name: &str, default: &str| arguments.get(name).cloned().unwrap_or(default.to_owned());
    let listen: SocketAddr = text("--listen", "127.0.0.1:8080").parse()?;
    let upstream: SocketAddr = text("--upstream", "127.0.0.1:9000").parse()?;
    let protocol = Protocol::find(&text("--protocol", "http")).ok_or("unknown protocol")?;
    let snapshot = picture(listen, upstream, protocol)?;
    let (_keep, snapshots) = watch::channel(Arc::new(snapshot));
    let key = (Name::default_namespace(), Name::new("bench")?);
    let mut options = Options::new(Role::Gateway { key, bind: Some(listen.ip()) }, snapshots);
    options.workers = text("--workers", "1").parse()?;
    options.records = match text("--records", "/dev/null").as_str() {
        "none" => None,
        path => Some(Box::new(std::fs::OpenOptions::new().append(true).create(true).open(path)?)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let scope = Scope::root("bench");
        let proxy = Proxy::start(options, &scope).await?;
        if !proxy.is_ready() {
            return Err(proxy.problems().join("\n").into());
        }
        println!("ready");
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        proxy.drain(Duration::from_secs(5)).await;
        Ok::<(), AnyError>(())
    })
}

fn picture(listen: SocketAddr, upstream: SocketAddr, protocol: Protocol) -> Result<Snapshot, AnyError> {
    let namespace = Name::default_namespace();
    let (gateway, service) =
        (Name::new("bench")?, ServiceKey::new(namespace.clone(), Name::new("upstream")?));
    let parent = ParentRef {
        kind: ParentKind::Gateway,
        namespace: namespace.clone(),
        name: gateway.clone(),
        section: None,
        port: None,
    };
    let backend = Backend { service: service.clone(), port: Some(80), weight: 1, filters: vec![] };
    let rule = Rule { backends: vec![backend], ..Rule::default() };
    let listener = Listener {
        name: Name::new("http")?,
        port: listen.port(),
        protocol: ListenerProtocol::Http,
        hostname: None,
        tls: None,
        is_open_to_all_namespaces: false,
    };
    let endpoint = StaticEndpoint {
        address: upstream.ip().to_string(),
        port: Some(upstream.port()),
        ports: BTreeMap::new(),
        zone: None,
        weight: 100,
    };
    let port = ServicePort { name: None, port: 80, protocol };
    let specs = [
        (
            Kind::Gateway,
            gateway.clone(),
            Spec::Gateway(Gateway { class: "causeway".into(), addresses: vec![], listeners: vec![listener] }),
        ),
        (
            Kind::Service,
            service.name.clone(),
            Spec::Service(Service { ports: vec![port], endpoints: vec![endpoint], ..Service::default() }),
        ),
        (
            Kind::HttpRoute,
            gateway,
            Spec::HttpRoute(HttpRoute { parents: vec![parent], hostnames: vec![], rules: vec![rule] }),
        ),
    ];
    let mut snapshot = Snapshot::default();
    for (at, (kind, name, spec)) in specs.into_iter().enumerate() {
        let object = Object {
            key: ObjectKey { kind, namespace: namespace.clone(), name },
            origin: Origin::Builtin,
            revision: Revision::new(at as u64 + 1),
            spec,
            conditions: vec![],
            written: String::new(),
        };
        snapshot.put_object(Arc::new(object));
    }
    Ok(snapshot)
}
