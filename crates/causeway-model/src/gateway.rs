//! A gateway: the addresses and ports at which traffic from outside comes in (Gateway API v1.6, kind Gateway).

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::names::Name;

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Gateway {
    /// `spec.gatewayClassName`; ours is `causeway`.
    #[n(0)]
    pub class: String,
    /// Addresses to bind; every one of the machine when empty.
    #[n(1)]
    pub addresses: Vec<String>,
    /// Its listeners; names are unique.
    #[n(2)]
    pub listeners: Vec<Listener>,
}

/// One port of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Listener {
    /// Name (`sectionName` of a parentRef).
    #[n(0)]
    pub name: Name,
    /// Port to bind.
    #[n(1)]
    pub port: u16,
    /// What is spoken.
    #[n(2)]
    pub protocol: ListenerProtocol,
    /// Hosts it takes (`shop.example`, `*.example`); all when absent.
    #[n(3)]
    pub hostname: Option<String>,
    /// Certificates, for HTTPS.
    #[n(4)]
    pub tls: Option<ListenerTls>,
    /// Namespaces whose routes may attach: only the gateway's own, or all.
    #[n(5)]
    pub is_open_to_all_namespaces: bool,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ListenerProtocol {
    /// Plaintext HTTP/1.1, or HTTP/2 with prior knowledge.
    #[n(0)]
    Http,
    /// The same on TLS that ends here.
    #[n(1)]
    Https,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListenerTls {
    /// Secrets that hold certificate and key, first is the default.
    #[n(0)]
    pub secrets: Vec<(Name, Name)>,
}

/// A secret: bytes by key (`tls.crt`, `tls.key`). `Debug` shows no value.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Secret {
    /// The bytes.
    #[n(0)]
    pub entries: BTreeMap<String, minicbor::bytes::ByteVec>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.entries.keys().map(|key| (key, "***"))).finish()
    }
}
