//! What a proxy is told when it starts: its role, its network, where its picture comes from.
//!
//! In:    values that the roof made.      Out: [`Options`], read once by [`crate::Proxy::start`].
//! Owner: the roof.
//! Invariant: what changes while the proxy runs is not here but in the Snapshot.
//! Not here: reading flags or the environment (`causeway`), the defaults of the request path (`crate::limits`).

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use causeway_base::net::Net;
use causeway_base::{Clock, Seed};
use causeway_identity::Credentials;
use causeway_model::{Locality, Name, Protocol, ServiceKey, Snapshot};
use tokio::sync::{mpsc, watch};

use crate::otlp::Otlp;

/// What a proxy does.
#[derive(Clone, Debug)]
pub enum Role {
    /// Beside one app: takes mesh calls for it and carries its own calls out.
    Sidecar(Sidecar),
    /// At the edge: takes calls from outside on the listeners of one Gateway document.
    Gateway {
        /// Namespace and name of the Gateway.
        key: (Name, Name),
        /// Binds here instead of where the document says (its ports stay).
        bind: Option<IpAddr>,
    },
    /// The node's own calls (events, sagas, health): no listeners.
    Client {
        /// Who calls, as the graph shows it.
        source: ServiceKey,
    },
}

/// A proxy beside one app.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// The app's service.
    pub service: ServiceKey,
    /// Where the app listens; `None` for an app that only calls out.
    pub app: Option<SocketAddr>,
    /// What it speaks there.
    pub protocol: Protocol,
    /// Further ports of the app, each of which takes bytes.
    pub tcp_ports: Vec<SocketAddr>,
    /// Where mesh calls come in (mutual TLS); `None` takes none.
    pub inbound: Option<SocketAddr>,
    /// The app's HTTP proxy; `None` has none. Must be loopback: whoever reaches it calls as the app.
    pub outbound: Option<SocketAddr>,
    /// Services with a local port of their own.
    pub upstreams: Vec<(ServiceKey, SocketAddr)>,
    /// Where connections come in that were on their way elsewhere and are redirected here, for each family of addresses. Must be
    /// loopback.
    pub transparent: Vec<SocketAddr>,
    /// A wanted address that is taken is replaced by a free port of the same host.
    pub may_move: bool,
}

/// Which requests are traced, and where spans go.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Share of requests without a trace of their own whose trace is kept, 0 to 1. At 0 no traces are made; those that come are
    /// passed on and, when they are flagged, kept.
    pub ratio: f64,
    /// So many a second are kept whatever the ratio says: where there are few, each is wanted.
    pub few_per_second: u32,
    /// Most requests a second of each worker that are kept because they come flagged so.
    pub follow_per_second: u32,
    /// A collector that is sent all spans; without one they are reported to the node alone.
    pub otlp: Option<Otlp>,
}

impl Default for Tracing {
    /// One in a hundred, and at least a few: what a busy mesh can afford and a quiet one can look at.
    fn default() -> Self {
        Tracing { ratio: 0.01, few_per_second: 5, follow_per_second: 50, otlp: None }
    }
}

/// Everything a proxy is told.
pub struct Options {
    /// What it does.
    pub role: Role,
    /// Its network.
    pub net: Net,
    /// Its time.
    pub clock: Clock,
    /// Its randomness.
    pub seed: Seed,
    /// Threads of the data path on TCP; at least one is used. On a network in memory everything runs on the caller's runtime.
    pub workers: usize,
    /// Its identity, kept current by its owner (rotation needs no restart). Without one no mesh call goes in or out.
    pub credentials: Option<Credentials>,
    /// The picture, from the first one on (its owner waits for that: what it does not say about who may call the app is not forbidden);
    /// the newest is compiled into a plan whenever it changes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Told a service's key at its first use, once, when the picture does not hold it; `None` when the picture is whole.
    pub wants: Option<mpsc::UnboundedSender<ServiceKey>>,
    /// Where it is, for policies that let near endpoints go first; nowhere when empty.
    pub locality: Locality,
    /// Its own name, as the registry and other proxies know it; empty when it has none.
    pub instance: String,
    /// Last label of the mesh's host names, `mesh` by default.
    pub mesh_suffix: String,
    /// Where the admin door listens; must be loopback. `None` has none.
    pub admin: Option<SocketAddr>,
    /// Where access records go, one JSON line each, written from a thread of its own; `None` writes none.
    pub records: Option<Box<dyn Write + Send>>,
    /// Traces.
    pub tracing: Tracing,
}

impl Options {
    /// Options with defaults: TCP, the machine's clock, one worker, no identity, no admin door, no records.
    pub fn new(role: Role, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Options {
            role,
            net: Net::tcp(),
            clock: Clock::system(),
            seed: Seed::from_entropy(),
            workers: 1,
            credentials: None,
            snapshots,
            wants: None,
            locality: Locality::default(),
            instance: String::new(),
            mesh_suffix: "mesh".into(),
            admin: None,
            records: None,
            tracing: Tracing::default(),
        }
    }
}
