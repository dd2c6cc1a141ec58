//! `up`: the order in which a node's rooms are opened and closed, written once.
//!
//! In:    flags, a data directory.      Out: a node that is ready when every room is open and every listener bound.
//! Owner: `main`.
//! Invariant: opened from the store upwards, closed from the doors downwards; nothing is answered before it can be kept.
//! Not here: what the rooms do.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use causeway_api::http::{self, Rooms};
use causeway_api::{Control, Desk, Doorkeeper, Observed};
use causeway_base::net::{BindOptions, Listener, Net};
use causeway_base::telemetry::Metrics;
use causeway_base::{Clock, Outbound, Scope, Seed};
use causeway_events::Events;
use causeway_identity::{control_server_config, control_service};
use causeway_model::{ServiceKey, TrustDomain};
use causeway_registry::Registry;
use causeway_saga::Sagas;
use causeway_store::Store;
use causeway_xds::Signals;
use tokio::sync::watch;

use crate::cli::{Role, Up};
use crate::home::Home;
use crate::house::{self, House};
use crate::{checks, documents, gateways, notify_ready, traces};

/// How long each floor of the house may take to end.
const FLOOR_END_MAX: Duration = Duration::from_secs(10);
/// What is spoken on the control port.
const CONTROL_ALPN: &[&[u8]] = &[b"h2"];

/// The scopes of the floors, closed in this order.
struct Floors {
    root: Scope,
    gateways: Scope,
    doors: Scope,
    workers: Scope,
    callers: Scope,
    registry: Scope,
}

impl Floors {
    fn new() -> Self {
        let root = Scope::root("node");
        Floors {
            gateways: root.child("gateways"),
            doors: root.child("doors"),
            workers: root.child("workers"),
            callers: root.child("callers"),
            registry: root.child("registry"),
            root,
        }
    }

    async fn close(&self, drain: Duration) {
        // The gateways' proxies drain in their own tasks.
        for (scope, within) in [
            (&self.gateways, drain + FLOOR_END_MAX),
            (&self.doors, FLOOR_END_MAX),
            (&self.workers, FLOOR_END_MAX),
            (&self.callers, FLOOR_END_MAX),
            (&self.registry, FLOOR_END_MAX),
            (&self.root, FLOOR_END_MAX),
        ] {
            if !scope.shutdown(within).await {
                tracing::warn!(?scope, tasks = ?self.root.census(), "not everything ended in time");
            }
        }
    }
}

/// Runs a node until it is told to stop.
pub(crate) async fn run(up: Up) -> Result<ExitCode> {
    let floors = Floors::new();
    let (clock, metrics) = (Clock::system(), Metrics::default());
    let home = Home::open(&up.data_dir)?;
    let (store, recovery) = Store::open(&home.log(), causeway_store::Options::default())?;
    tracing::info!(records = recovery.records, torn_bytes = recovery.torn_bytes, took = ?recovery.took, "the log is open");
    store.metrics().register(&metrics);

    let outcome = serve(&up, &floors, &home, &store, &clock, &metrics).await;
    floors.close(up.drain.drain).await;
    store.close().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    up: &Up,
    floors: &Floors,
    home: &Home,
    store: &Store,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<()> {
    let has = |role: Role| up.roles.contains(&role) || up.roles.contains(&Role::All);
    if !has(Role::Registry) {
        bail!(
            "a node without the registry role has nothing to show yet: add `registry` to --roles [CW-2007]"
        );
    }
    let (seed, net) = (Seed::from_entropy(), Net::tcp());
    // Listeners first: a port that is taken is said before anything else is done.
    let api = bind(&net, "API", up.listen_api)?;
    let control =
        has(Role::Control).then(|| bind(&net, "configuration stream", up.listen_config)).transpose()?;
    if !up.listen_api.ip().is_loopback() || !up.listen_config.ip().is_loopback() {
        bail!(
            "the API and the configuration stream listen on loopback only in this version: {} and {} were asked for [CW-2008]",
            up.listen_api,
            up.listen_config
        );
    }

    let registry = Registry::open(
        store.clone(),
        clock.clone(),
        causeway_registry::Options::default(),
        metrics,
        &floors.registry,
    )?;
    let problems =
        documents::follow(up.config.clone(), registry.clone(), clock.clone(), &floors.doors).await?;

    let trust_domain = TrustDomain::new(&up.trust_domain)?;
    let authorities = home.authorities(&trust_domain, clock)?;
    let desk = Desk::new(authorities, trust_domain, registry.clone(), clock.clone(), up.cert_ttl);
    let house = House {
        desk: desk.clone(),
        clock: clock.clone(),
        net: net.clone(),
        registry: registry.clone(),
        tracing: traces::wanted(&up.data_path)?,
        locality: up.place.locality(),
    };
    let observed = Observed::new(clock.clone());

    // The house's own callers, then the rooms that call.
    let events = match has(Role::Events) {
        true => {
            let outbound = caller(&house, "events", &observed, seed.fork(), floors).await?;
            let snapshot = registry.watch();
            let options = causeway_events::Options {
                store: store.clone(),
                clock: clock.clone(),
                seed: seed.fork(),
                snapshot,
                outbound,
            };
            Some(Events::open(options, metrics, &floors.workers))
        }
        false => None,
    };
    let sagas = match (has(Role::Sagas), &events) {
        (true, Some(events)) => {
            let outbound = caller(&house, "sagas", &observed, seed.fork(), floors).await?;
            let doors = causeway_saga::Doors { outbound, publish: Arc::new(events.clone()) };
            let options = causeway_saga::Options::default();
            Some(
                Sagas::open(
                    store.clone(),
                    clock.clone(),
                    seed.fork(),
                    doors,
                    options,
                    metrics,
                    &floors.workers,
                )
                .await?,
            )
        }
        (true, None) => bail!("the role sagas needs the role events: a saga's step may publish [CW-2007]"),
        (false, _) => None,
    };

    // The doors.
    checks::follow(registry.clone(), net.clone(), clock.clone(), seed.fork(), metrics, &floors.doors);
    let signals = Signals::new(
        registry.watch(),
        clock.clone(),
        causeway_xds::Options::new(home.lineage()?),
        metrics,
        &floors.doors,
    );
    if let Some(listener) = control {
        let names = vec![up.listen_config.ip().to_string(), "localhost".to_owned()];
        let credentials = house.credentials(control_service(), names, seed.fork(), &floors.doors).await?;
        let doorkeeper = Doorkeeper::new(registry.clone(), observed.clone());
        let door = Control {
            tls: control_server_config(&credentials, CONTROL_ALPN),
            routes: signals.routes(Arc::new(desk.clone()), Arc::new(doorkeeper)).into_axum_router(),
            registry: registry.clone(),
            clock: clock.clone(),
        };
        door.serve(listener, &floors.doors);
    }
    if has(Role::Gateway) {
        gateways::follow(&house, up, &observed, &seed, &floors.gateways);
    }
    let (ready, is_ready) = watch::channel(false);
    let rooms = Rooms {
        registry,
        events,
        sagas,
        hub: has(Role::Control).then(|| signals.hub()),
        desk: has(Role::Control).then(|| desk.clone()),
        observed,
        metrics: metrics.clone(),
        problems,
        clock: clock.clone(),
        is_ready,
    };
    http::serve(api, http::router(rooms), &floors.doors);
    ready.send_replace(true);
    notify_ready::notify();
    tracing::info!(api = %up.listen_api, control = %up.listen_config, data = %up.data_dir.display(), "the node is ready");

    let outcome = tokio::select! {
        () = crate::signals::stop() => Ok(()),
        cause = floors.root.failed() => Err(anyhow!(cause)),
        error = store.failed() => Err(anyhow!("{error}")),
    };
    ready.send_replace(false);
    tracing::info!("stopping");
    outcome
}

fn bind(net: &Net, what: &str, address: SocketAddr) -> Result<Listener> {
    net.bind(address, BindOptions::default())
        .with_context(|| format!("cannot bind the {what} to {address} [CW-2009]"))
}

/// The way out for one of the house's rooms, as its own identity.
async fn caller(
    house: &House,
    name: &str,
    observed: &Observed,
    seed: Seed,
    floors: &Floors,
) -> Result<Arc<dyn Outbound>> {
    let source = ServiceKey::parse(control_service().namespace.as_str(), name)?;
    let role = causeway_proxy::Role::Client { source: source.clone() };
    let proxy = house.proxy(role, source.clone(), house::DataPath::caller(), seed, &floors.callers).await?;
    house::report(&proxy, &source, observed, &floors.callers);
    Ok(proxy.outbound())
}
