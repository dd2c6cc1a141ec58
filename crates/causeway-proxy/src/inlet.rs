//! One connection that came in: which door it took and who is at its other end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use causeway_filters::Client;
use causeway_identity::Peer;
use causeway_model::ServiceKey;

use crate::bell::Level;
use crate::plan::Service;
use crate::review::{Review, Watch};

/// Where a connection came in.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// A gateway's listener.
    Gateway(SocketAddr),
    /// The app's HTTP proxy.
    Outbound,
    /// A local port, or a virtual address, that stands for one service (and one of its ports).
    Upstream(ServiceKey, Option<u16>),
    /// The port to which connections that go elsewhere are redirected.
    Transparent,
    /// Such a connection, and where it was going.
    Original(SocketAddr),
    /// Such a connection to an instance of a service by the instance's own address: a service of that instance alone.
    Instance(Arc<Service>),
    /// The sidecar's mesh port.
    Inbound,
}

impl Inlet {
    pub(crate) fn new(way: Way, client: Client, port: u16, review: &Arc<Review>) -> Self {
        Inlet { way, client, peer: None, port, watch: Watch::new(review) }
    }

    /// A mesh connection: who called is what its certificate says.
    pub(crate) fn mesh(address: IpAddr, peer: Peer, port: u16, review: &Arc<Review>) -> Self {
        let client = Client::new(address, Some(peer.id.clone()), true);
        Inlet { peer: Some(Box::new(peer)), ..Inlet::new(Way::Inbound, client, port, review) }
    }

    /// Whether it came in at the mesh port without TLS (a service that takes both while its callers are moved into the mesh).
    pub(crate) fn is_plaintext(&self) -> bool {
        matches!(self.way, Way::Inbound) && !self.client.is_tls
    }
}

impl Way {
    /// At which level of the bell its connections finish: calls for an app before those that it makes itself, which it may need to answer.
    pub(crate) fn finish(&self) -> Level {
        match self {
            Way::Inbound => Level::Retire,
            _ => Level::Finish,
        }
    }
}

/// A connection that came in.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub way: Way,
    pub client: Client,
    /// The certificate at its other end, on the mesh port.
    pub peer: Option<Box<Peer>>,
    /// The port at which it came in.
    pub port: u16,
    /// Its place among those that are told when what is allowed may have changed.
    pub watch: Watch,
}
