//! One place to send requests to.
//!
//! In:    what a document or a registration says of it.      Out: its name, address and expectations.
//! Owner: a plan; what is known of how it fares (`vitals`) hangs on it and outlives it.
//! Invariant: the same number means the same address and the same expectations; it is the key of its connections.
//! Not here: how it fares (`vitals`), choosing (`balance`), when to eject (`outlier`), connections (`pool`).

use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use causeway_model::{Locality, SpiffeId};

use crate::circle::Circle;
use crate::hash;
use crate::token::Token;

pub(crate) use crate::vitals::{InFlight, Micros, Vitals};

/// Endpoints of foreign hosts are numbered from here, those of plans from 1.
pub(crate) const FOREIGN_IDS: u64 = 1 << 63;

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Key of its connections: the same number means the same address and the same expectations.
    pub id: u64,
    /// For records: instance id or address.
    pub name: String,
    /// Of its name: the same in every proxy and every plan.
    pub hash: u64,
    /// Host and port.
    pub host: String,
    pub port: u16,
    /// The address, when the host is one.
    pub address: Option<SocketAddr>,
    pub transport: Transport,
    /// Relative share; at least 1.
    pub weight: u32,
    pub locality: Locality,
    pub vitals: Arc<Vitals>,
    /// Those with whom it is judged, and by which measure.
    pub circle: Arc<Circle>,
    /// What a client that stays with it is given; none for a service that nobody stays with.
    pub token: Option<Token>,
}

/// How an endpoint is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Plaintext HTTP/1.1.
    Http1,
    /// Plaintext HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 on mutual TLS with a sidecar that proves to be this service.
    Mesh(SpiffeId),
    /// Bytes in plaintext.
    Tcp,
    /// Bytes on mutual TLS with such a sidecar, for its app's main port or for this further one.
    MeshTcp(SpiffeId, Option<u16>),
}

impl Transport {
    /// In one word.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Transport::Http1 => "http/1.1",
            Transport::Http2 => "h2c",
            Transport::Mesh(_) => "mesh",
            Transport::Tcp => "tcp",
            Transport::MeshTcp(..) => "mesh tcp",
        }
    }
}

impl Endpoint {
    /// At a host and port, with nothing known of it.
    pub(crate) fn new(id: u64, name: String, host: &str, port: u16, transport: Transport) -> Self {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Endpoint {
            id,
            hash: hash::text(&name),
            name,
            host: bare.to_owned(),
            port,
            address: bare.parse().ok().map(|ip| SocketAddr::new(ip, port)),
            transport,
            weight: 1,
            locality: Locality::default(),
            vitals: Arc::default(),
            circle: Arc::default(),
            token: None,
        }
    }

    pub(crate) fn is_mesh(&self) -> bool {
        matches!(self.transport, Transport::Mesh(_))
    }

    /// Whether the app named it, and not a document of the mesh.
    pub(crate) fn is_foreign(&self) -> bool {
        self.id >= FOREIGN_IDS
    }
}

/// Endpoints' numbers are ours and count up: they are their own hash.
pub(crate) type ById = BuildHasherDefault<OwnNumber>;

/// Of a map by endpoint.
#[derive(Default)]
pub(crate) struct OwnNumber(u64);

impl Hasher for OwnNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        // The map takes its tag from the highest bits, so the low ones are spread there.
        self.0 = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
impl Endpoint {
    pub(crate) fn for_test(id: u64, weight: u32) -> Arc<Self> {
        Arc::new(Endpoint::alone_for_test(id, weight))
    }

    /// One that can still be changed.
    pub(crate) fn alone_for_test(id: u64, weight: u32) -> Self {
        let endpoint = Endpoint::new(id, format!("e{id}"), "10.0.0.1", 80, Transport::Http1);
        Endpoint { weight, ..endpoint }
    }
}
