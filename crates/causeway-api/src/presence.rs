//! Sidecars at the registry's door: what they say over their streams becomes commands.
//!
//! In:    words of proven peers.      Out: commands to the registry; reports to [`Observed`].
//! Owner: the control port.
//! Invariant: a registration lives as long as the stream it came by; the loss of a stream is said once, for its own epoch.
//! Not here: which service a peer may speak for (`causeway-xds` has checked it), leases (`causeway-registry`).

use std::collections::HashMap;
use std::sync::Arc;

use causeway_base::outbound::Pending;
use causeway_model::{
    Epoch, Health, Instance, InstanceKey, Lease, Observations, Origin, Revision, SpiffeId, Taps,
    TrafficReport,
};
use causeway_registry::{Command, ConnectionId, Kind, Owner, Registration, Registry};
use causeway_xds::{Held, Presence, Reason, Refused};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::observed::Observed;

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Doorkeeper {
    registry: Registry,
    observed: Observed,
    /// Which connection keeps which registration; bounded by the streams that are open.
    connections: Arc<Mutex<HashMap<(InstanceKey, Epoch), ConnectionId>>>,
}

impl Doorkeeper {
    /// A doorkeeper of this registry.
    pub fn new(registry: Registry, observed: Observed) -> Self {
        Doorkeeper { registry, observed, connections: Arc::default() }
    }

    async fn registered(&self, peer: SpiffeId, instance: Instance) -> Result<Held, Refused> {
        let connection = self.registry.connection();
        let key = instance.key.clone();
        let registration = Registration {
            key: instance.key.clone(),
            address: instance.address,
            port: instance.port,
            ports: instance.ports,
            protocol: instance.protocol,
            version: instance.version,
            tags: instance.tags,
            metadata: instance.metadata,
            weight: instance.weight,
            locality: instance.locality,
            mesh: instance.mesh,
            health: Some(instance.health),
            checks: instance.checks,
            lease: Lease::Connection,
            origin: Origin::Mesh { identity: peer.to_string() },
            // A sidecar's instance id is its own from its first start on (kept in its state directory), so it names the owner too.
            owner: Owner::new(instance.key.id.as_str()),
            connection: Some(connection),
            epoch: None,
        };
        let answer =
            self.registry.submit(Command::Register(registration)).await.map_err(|error| refused(&error))?;
        let granted = match answer.registered.into_iter().next() {
            Some(granted) => granted.map_err(|error| refused(&error))?,
            None => return Err(Refused::new(Reason::Unavailable, "CW-1903", "the registry gave no answer")),
        };
        self.connections.lock().insert((key, granted.epoch), connection);
        Ok(Held { revision: answer.revision, epoch: granted.epoch })
    }

    async fn told(self, command: Command) -> Result<Revision, Refused> {
        match self.registry.submit(command).await {
            Ok(answer) => Ok(answer.revision),
            Err(error) => Err(refused(&error)),
        }
    }

    async fn withdrawn(self, key: InstanceKey, epoch: Epoch) -> Result<Revision, Refused> {
        self.connections.lock().remove(&(key.clone(), epoch));
        match self.registry.submit(Command::Deregister { key, epoch: Some(epoch) }).await {
            Ok(answer) => Ok(answer.revision),
            Err(error) if *error.kind() == Kind::NotFound => Ok(self.registry.snapshot().revision()),
            Err(error) => Err(refused(&error)),
        }
    }

    async fn gone(self, key: InstanceKey, epoch: Epoch) {
        let Some(connection) = self.connections.lock().remove(&(key.clone(), epoch)) else { return };
        if let Err(error) = self.registry.submit(Command::ConnectionLost { connection }).await {
            tracing::warn!(instance = %key, %error, "the loss of a connection could not be written down");
        }
    }
}

impl Presence for Doorkeeper {
    fn register(&self, peer: SpiffeId, instance: Instance) -> Pending<Result<Held, Refused>> {
        let door = self.clone();
        Box::pin(async move { door.registered(peer, instance).await })
    }

    fn health(&self, key: InstanceKey, epoch: Epoch, health: Health) -> Pending<Result<Revision, Refused>> {
        Box::pin(self.clone().told(Command::Heartbeat { key, epoch: Some(epoch), health: Some(health) }))
    }

    fn drain(&self, key: InstanceKey, epoch: Epoch) -> Pending<Result<Revision, Refused>> {
        Box::pin(self.clone().told(Command::Drain { key, epoch: Some(epoch) }))
    }

    fn withdraw(&self, key: InstanceKey, epoch: Epoch) -> Pending<Result<Revision, Refused>> {
        Box::pin(self.clone().withdrawn(key, epoch))
    }

    fn lost(&self, key: InstanceKey, epoch: Epoch) -> Pending<()> {
        Box::pin(self.clone().gone(key, epoch))
    }

    fn traffic(&self, _peer: SpiffeId, report: TrafficReport) {
        self.observed.traffic(report);
    }

    fn observed(&self, peer: SpiffeId, seen: Observations) {
        self.observed.seen(&peer.service.to_string(), seen);
    }

    fn taps(&self) -> watch::Receiver<Arc<Taps>> {
        self.observed.live.wanted()
    }
}

fn refused(error: &causeway_registry::Error) -> Refused {
    let reason = match error.kind() {
        Kind::NotFound | Kind::Invalid => Reason::Invalid,
        Kind::Conflict { .. } | Kind::StaleOwner { .. } => Reason::Conflict,
        Kind::Full | Kind::Unavailable | Kind::Corrupt => Reason::Unavailable,
    };
    Refused::new(reason, error.code().unwrap_or("CW-1904"), error.to_string())
}
