//! One connection that came in: which door it took and who is at its other end.

use std::net::SocketAddr;

use causeway_filters::Client;
use causeway_model::ServiceKey;

/// Where a connection came in.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// A gateway's listener.
    Gateway(SocketAddr),
    /// The app's HTTP proxy.
    Outbound,
    /// A local port that stands for one service.
    Upstream(ServiceKey),
    /// The sidecar's mesh port.
    Inbound,
}

/// A connection that came in.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub way: Way,
    pub client: Client,
    /// The port at which it came in.
    pub port: u16,
}
