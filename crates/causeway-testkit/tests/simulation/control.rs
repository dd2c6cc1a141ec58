//! The control plane of a simulated house: the real registry, control port and streams, on a store that can lose power.
//!
//! In:    orders of the schedule (crash, restart), commands of an operator.      Out: streams for the nodes, on mutual TLS.
//! Owner: the [`World`](crate::world::World).
//! Invariant: each node reaches the control port by a host of its own, so that one node can be cut off and the others not; a
//! revision that was seen is never followed by a lower one, whatever crashed in between.
//! Not here: when what happens (`schedule.rs`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_api::{Doorkeeper, Observed};
use causeway_base::net::BindOptions;
use causeway_base::outbound::Pending;
use causeway_base::telemetry::Metrics;
use causeway_base::{Scope, Seed};
use causeway_identity::{control_server_config, control_service};
use causeway_model::Revision;
use causeway_registry::limits::RETURN_GRACE;
use causeway_registry::{Command, Kind, Options, Registry};
use causeway_store::{Faults, Store};
use causeway_testkit::House;
use causeway_xds::{PeerIdentity, Reason, Refused, Signals, Signed, Signer};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::world::NODES;

/// How long the tasks of a dead control plane may take to notice.
const END_MAX: Duration = Duration::from_secs(10);
/// An operator tries again this often while nobody takes the command.
const TRY_AGAIN: Duration = Duration::from_millis(250);

pub(crate) struct ControlPlane {
    house: Arc<House>,
    disk: Faults,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    life: Option<Life>,
    /// Since when a node cannot reach it.
    cut_at: [Option<Instant>; NODES],
    newest: Revision,
}

/// One process of the control plane.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) registry: Registry,
    pub(crate) signals: Signals,
    /// From when on an instance that does not come back after the restart is forgotten.
    forgets_from: Instant,
    scope: Scope,
}

impl ControlPlane {
    pub(crate) fn new(house: Arc<House>) -> Self {
        ControlPlane { house, disk: Faults::none(), state: Mutex::default() }
    }

    /// Where a node finds it.
    pub(crate) fn address(node: usize) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, node as u8 + 1)), 7071)
    }

    /// The process that runs now.
    pub(crate) fn life(&self) -> Option<Life> {
        self.state.lock().life.clone()
    }

    /// Starts it, on what the disk holds. Gives the revision it begins with, or what is wrong with that.
    pub(crate) fn start(&self) -> Result<Revision, String> {
        let (house, clock) = (&self.house, self.house.clock());
        let (scope, metrics) = (Scope::root("control"), Metrics::default());
        let store = Store::memory(self.disk.clone());
        let registry = Registry::open(store, clock.clone(), Options::default(), &metrics, &scope)
            .map_err(|error| format!("the registry does not open again: {error}"))?;
        let options = causeway_xds::Options::new("simulated");
        let signals = Signals::new(registry.watch(), clock.clone(), options, &metrics, &scope);
        let presence = Doorkeeper::new(registry.clone(), Observed::new(clock.clone()));
        let routes = signals.routes(Arc::new(Nobody), Arc::new(presence)).into_axum_router();
        let own = house.credentials(&control_service().to_string());
        let tls = control_server_config(&own, &[b"h2"]);
        let mut state = self.state.lock();
        for node in 0..NODES {
            let address = ControlPlane::address(node);
            if state.cut_at[node].is_none() {
                house.faults().heal(address.ip());
            }
            let listener = house.net().bind(address, BindOptions::default()).map_err(|e| e.to_string())?;
            let door = causeway_api::Control {
                tls: tls.clone(),
                routes: routes.clone(),
                registry: registry.clone(),
                clock: clock.clone(),
            };
            door.serve(listener, &scope);
        }
        let (revision, before) = (registry.snapshot().revision(), state.newest);
        let now = clock.instant();
        let forgets_from = if revision > Revision::default() { now + RETURN_GRACE } else { now };
        state.life = Some(Life { registry, signals, forgets_from, scope });
        if revision < before {
            return Err(format!("revision {revision} after a restart, {before} was seen before it"));
        }
        Ok(revision)
    }

    /// The power goes: nothing that was not synced is there afterwards, and every connection breaks.
    pub(crate) async fn crash(&self) {
        self.look();
        let life = self.state.lock().life.take();
        self.disk.crash();
        (0..NODES).for_each(|node| self.house.faults().cut(ControlPlane::address(node).ip()));
        if let Some(life) = life {
            life.scope.shutdown(END_MAX).await;
        }
    }

    /// Cuts the way from a node to the control plane.
    pub(crate) fn cut(&self, node: usize) {
        self.state.lock().cut_at[node] = Some(Instant::now());
        self.house.faults().cut(ControlPlane::address(node).ip());
    }

    /// Undoes that.
    pub(crate) fn heal(&self, node: usize) {
        let mut state = self.state.lock();
        state.cut_at[node] = None;
        if state.life.is_some() {
            self.house.faults().heal(ControlPlane::address(node).ip());
        }
    }

    /// Whether the way from a node is cut.
    pub(crate) fn is_cut(&self, node: usize) -> bool {
        self.state.lock().cut_at[node].is_some()
    }

    /// From when on the instance of a node that cannot be heard must not be routable any more.
    pub(crate) fn gone_from(&self, node: usize) -> Option<Instant> {
        let state = self.state.lock();
        Some(state.cut_at[node]?.max(state.life.as_ref()?.forgets_from))
    }

    /// Looks at the newest revision: whatever was published is durable, so a restart must not come before it.
    pub(crate) fn look(&self) -> Revision {
        let mut state = self.state.lock();
        let now = state.life.as_ref().map(|life| life.registry.snapshot().revision());
        state.newest = state.newest.max(now.unwrap_or_default());
        state.newest
    }

    /// An operator who tries until the registry has taken the command.
    pub(crate) async fn submit(&self, command: Command) -> Revision {
        loop {
            if let Some(life) = self.life() {
                match life.registry.submit(command.clone()).await {
                    Ok(answer) => return answer.revision,
                    // What was to be deleted is not there (any more: a crash may have swallowed the first answer).
                    Err(error) if *error.kind() == Kind::NotFound => return self.look(),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// How slow the disk is from now on.
    pub(crate) fn slow_disk(&self, seed: &Seed) -> Duration {
        let takes = Duration::from_millis(seed.below(40) as u64);
        self.disk.slow_sync(takes);
        takes
    }
}

/// Nobody renews a certificate within a minute.
struct Nobody;

impl Signer for Nobody {
    fn sign(&self, _: PeerIdentity, _: Bytes) -> Pending<Result<Signed, Refused>> {
        Box::pin(async { Err(Refused::new(Reason::Unavailable, "CW-1903", "nothing is signed here")) })
    }
}
