//! One running copy of a service: where it is, how it fares, who vouches for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::ids::{Epoch, Revision, Timestamp};
use crate::names::InstanceKey;
use crate::origin::Origin;
use crate::service::{Protocol, Subset};

/// A registered instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Instance {
    /// Service and id.
    #[n(0)]
    pub key: InstanceKey,
    /// IP address or host name of the app, as callers outside the mesh reach it.
    #[n(1)]
    pub address: String,
    /// Its port there.
    #[n(2)]
    pub port: u16,
    /// Further ports by name.
    #[n(3)]
    pub ports: BTreeMap<String, u16>,
    /// What is spoken on `port`.
    #[n(4)]
    pub protocol: Protocol,
    /// Version of the program; empty when not said.
    #[n(5)]
    pub version: String,
    /// Free tags.
    #[n(6)]
    pub tags: BTreeSet<String>,
    /// Free metadata.
    #[n(7)]
    pub metadata: BTreeMap<String, String>,
    /// Relative share of calls; 100 when not said, 0 takes none.
    #[n(8)]
    pub weight: u32,
    /// Where it stands.
    #[n(9)]
    pub locality: Locality,
    /// The sidecar in front of it; without one, callers in the mesh reach `address:port` in plaintext.
    #[n(10)]
    pub mesh: Option<MeshAddress>,
    /// What its checks say.
    #[n(11)]
    pub health: Health,
    /// Where it is in its life.
    #[n(12)]
    pub lifecycle: Lifecycle,
    /// What keeps it registered.
    #[n(13)]
    pub lease: Lease,
    /// Whose registration this is: grows with each registration of the same key; an older owner's writes are refused.
    #[n(14)]
    pub epoch: Epoch,
    /// Who registered it.
    #[n(15)]
    pub origin: Origin,
    /// When it was first registered.
    #[n(16)]
    pub registered_at: Timestamp,
    /// When the registry last changed it.
    #[n(17)]
    pub revision: Revision,
    /// Checks that the node runs.
    #[n(18)]
    pub checks: Vec<Check>,
}

impl Instance {
    /// Whether new calls may be sent to it.
    pub fn is_routable(&self) -> bool {
        self.weight > 0
            && matches!(self.lifecycle, Lifecycle::Up | Lifecycle::Suspect)
            && self.health != Health::Critical
    }

    /// Whether it belongs to `subset` (which service that is of is the caller's to check).
    pub fn is_in(&self, subset: &Subset) -> bool {
        subset.version.as_ref().is_none_or(|version| *version == self.version)
            && subset.tags.iter().all(|tag| self.tags.contains(tag))
    }
}

/// Region and zone; empty when not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Locality {
    /// Region.
    #[n(0)]
    pub region: String,
    /// Zone within the region.
    #[n(1)]
    pub zone: String,
}

/// Where an instance's sidecar takes mesh calls (HTTP/2 on mTLS).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MeshAddress {
    /// IP address or host name.
    #[n(0)]
    pub address: String,
    /// The inbound port.
    #[n(1)]
    pub port: u16,
}

/// What the checks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Health {
    /// Takes calls.
    #[default]
    #[n(0)]
    Passing,
    /// Takes calls, but somebody should look.
    #[n(1)]
    Warning,
    /// Takes no calls.
    #[n(2)]
    Critical,
}

impl Health {
    /// As the API says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Critical => "critical",
        }
    }

    /// Reads what the API says.
    pub fn find(text: &str) -> Option<Self> {
        [Health::Passing, Health::Warning, Health::Critical].into_iter().find(|h| h.as_str() == text)
    }
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Lifecycle {
    /// In service.
    #[default]
    #[n(0)]
    Up,
    /// Finishing what it has; no new calls.
    #[n(1)]
    Draining,
    /// Its lease ran out while so many others' did that the cause is likely ours: kept, and still called.
    #[n(2)]
    Suspect,
    /// The connection that keeps it broke: no new calls, and gone within a second unless its owner comes back.
    #[n(3)]
    Lost,
}

impl Lifecycle {
    /// As the API says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Lifecycle::Up => "up",
            Lifecycle::Draining => "draining",
            Lifecycle::Suspect => "suspect",
            Lifecycle::Lost => "lost",
        }
    }
}

/// What keeps an instance registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Lease {
    /// Nothing: it stays until it is deregistered.
    #[n(0)]
    Permanent,
    /// A heartbeat within this time.
    #[n(1)]
    Ttl(#[n(0)] Duration),
    /// The connection over which it was registered.
    #[n(2)]
    Connection,
}

/// A check of an instance that the node runs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Check {
    /// What is asked.
    #[n(0)]
    pub kind: CheckKind,
    /// How often.
    #[n(1)]
    pub interval: Duration,
    /// How long to wait for the answer.
    #[n(2)]
    pub timeout: Duration,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CheckKind {
    /// GET of this URL answers 2xx (429 is a warning).
    #[n(0)]
    Http(#[n(0)] String),
    /// A TCP connection to `host:port` can be made.
    #[n(1)]
    Tcp(#[n(0)] String),
    /// `grpc.health.v1.Health/Check` at `host:port[/service]` says SERVING.
    #[n(2)]
    Grpc(#[n(0)] String),
}
