//! A service that people declare by document (one that registers itself needs none).

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::names::Name;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Protocol {
    /// HTTP/1.1 (and whatever a request upgrades to).
    #[default]
    #[n(0)]
    Http,
    /// HTTP/2 in plaintext with prior knowledge.
    #[n(1)]
    H2c,
    /// gRPC: HTTP/2 as above, statuses read from trailers.
    #[n(2)]
    Grpc,
    /// Bytes.
    #[n(3)]
    Tcp,
    /// TLS that is not ours to open, routed by SNI.
    #[n(4)]
    Tls,
    /// Datagrams.
    #[n(5)]
    Udp,
}

impl Protocol {
    /// As written in documents, upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "HTTP",
            Protocol::H2c => "H2C",
            Protocol::Grpc => "GRPC",
            Protocol::Tcp => "TCP",
            Protocol::Tls => "TLS",
            Protocol::Udp => "UDP",
        }
    }

    /// Reads a protocol in any case.
    pub fn find(text: &str) -> Option<Self> {
        use Protocol::{Grpc, H2c, Http, Tcp, Tls, Udp};
        [Http, H2c, Grpc, Tcp, Tls, Udp].into_iter().find(|p| p.as_str().eq_ignore_ascii_case(text))
    }

    /// Whether it is bytes to us: nothing of HTTP is looked for in it.
    pub const fn is_raw(self) -> bool {
        matches!(self, Protocol::Tcp | Protocol::Tls)
    }

    /// Whether the app behind is spoken to in HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Protocol::H2c | Protocol::Grpc)
    }
}

/// A declared service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Service {
    /// Its ports; may be empty when its instances register themselves.
    #[n(0)]
    pub ports: Vec<ServicePort>,
    /// Endpoints that do not register themselves.
    #[n(1)]
    pub endpoints: Vec<StaticEndpoint>,
    /// How the node probes those endpoints.
    #[n(2)]
    pub health: Option<HealthProbe>,
    /// The service is a part of another one: its instances are those of `subset.of` that match.
    #[n(3)]
    pub subset: Option<Subset>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServicePort {
    /// Name, unique within the service.
    #[n(0)]
    pub name: Option<Name>,
    /// Number that a backendRef selects.
    #[n(1)]
    pub port: u16,
    /// What is spoken there.
    #[n(2)]
    pub protocol: Protocol,
}

/// An endpoint written down by hand.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StaticEndpoint {
    /// IP address or host name.
    #[n(0)]
    pub address: String,
    /// The port for every service port, or…
    #[n(1)]
    pub port: Option<u16>,
    /// …one for each named service port.
    #[n(2)]
    pub ports: BTreeMap<String, u16>,
    /// Its zone.
    #[n(3)]
    pub zone: Option<String>,
    /// Relative share of calls; 100 when not given, 0 takes none.
    #[n(4)]
    pub weight: u32,
}

/// How an endpoint's health is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HealthProbe {
    /// Path of an HTTP probe; a TCP connect when absent.
    #[n(0)]
    pub http_path: Option<String>,
    /// How often.
    #[n(1)]
    pub interval: Duration,
    /// How long to wait.
    #[n(2)]
    pub timeout: Duration,
}

/// Which instances of another service belong to this one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Subset {
    /// The service they register as (same namespace).
    #[n(0)]
    pub of: Name,
    /// Their version, exactly.
    #[n(1)]
    pub version: Option<String>,
    /// Tags that they all have.
    #[n(2)]
    pub tags: Vec<String>,
}
