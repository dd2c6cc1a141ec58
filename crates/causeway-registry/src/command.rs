//! What can be said to the registry, and what it answers.
//!
//! In:    values checked by their constructors.      Out: the same, for `machine.rs` to decide on.
//! Owner: the caller makes a [`Command`]; the driver gives back an [`Answer`].
//! Invariant: a command says what is wanted, never what the state is to become.
//! Not here: what is written down ([`crate::journal`]), why it is refused ([`crate::error`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use causeway_model::{
    Check, Condition, Epoch, Health, InstanceKey, Lease, Locality, MeshAddress, ObjectKey, Origin, Protocol,
    Revision, ServiceKey, Spec, Timestamp,
};
use minicbor::{Decode, Encode};

use crate::error::Error;
use crate::limits::OWNER_BYTES_MAX;
use crate::token::{Issued, Serial, Token, TokenId};

/// Something said to the registry.
///
/// Where a command takes an `epoch`, it is the one that [`Granted`] gave: the command is refused as
/// [`Kind::StaleOwner`](crate::Kind::StaleOwner) when another owner has registered the key since. Without one (an operator, a
/// neighbour's protocol) it is not fenced.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a registration is the common command: a box would cost it an allocation"
)]
pub enum Command {
    /// Registers an instance, or says again that it is there. Said again unchanged by the same owner it costs no revision:
    /// it renews the lease, binds it to the new connection, and brings a lost or suspect instance back.
    Register(Registration),
    /// The same for many; each is taken or refused for itself ([`Answer::registered`]).
    RegisterMany(Vec<Registration>),
    /// The instance is alive, and fares so.
    Heartbeat {
        /// Which instance.
        key: InstanceKey,
        /// The registration it belongs to.
        epoch: Option<Epoch>,
        /// How it says it fares; as before when absent.
        health: Option<Health>,
    },
    /// A check says how the instance fares. Does not renew a lease: that the app answers does not say that its owner lives.
    Report {
        /// Which instance.
        key: InstanceKey,
        /// The registration that was checked.
        epoch: Option<Epoch>,
        /// How it fares.
        health: Health,
    },
    /// No new calls to the instance; it stays until it is deregistered or its lease ends. Ended by a new owner's registration,
    /// or by a registration without an owner.
    Drain {
        /// Which instance.
        key: InstanceKey,
        /// The registration it belongs to.
        epoch: Option<Epoch>,
    },
    /// Removes the instance.
    Deregister {
        /// Which instance.
        key: InstanceKey,
        /// The registration it belongs to.
        epoch: Option<Epoch>,
    },
    /// A connection broke. Instances that are bound to it are not routable from now on, and removed after
    /// [`CONNECTION_GRACE`](crate::limits::CONNECTION_GRACE) unless the same owner registers them again.
    ConnectionLost {
        /// Which connection.
        connection: ConnectionId,
    },
    /// Time has passed: leases that ran out are seen to. The driver says it; nobody else need.
    Tick,
    /// Writes configuration objects. Each is taken or refused for itself ([`Answer::objects`]); those taken share a revision.
    Apply {
        /// The objects.
        objects: Vec<Proposed>,
        /// Only say what would happen.
        is_dry_run: bool,
        /// Files that are given whole by this command: their other objects are removed.
        prune: Vec<Prune>,
    },
    /// Removes a configuration object.
    Delete {
        /// Which object.
        key: ObjectKey,
        /// Who says so.
        origin: Origin,
    },
    /// Writes a token down.
    IssueToken(Token),
    /// Makes a token worthless.
    RevokeToken {
        /// Which token.
        id: TokenId,
    },
    /// Writes a certificate down before it is handed out.
    RecordIssued {
        /// The certificate.
        issued: Issued,
        /// The certificate with which it was asked for: a revoked one brings no other.
        by: Option<Serial>,
    },
    /// Makes a certificate worthless before its time.
    RevokeIssued {
        /// Which certificate.
        serial: Serial,
    },
    /// Makes every certificate and join token worthless that a service (or gateway) has now.
    RevokeService {
        /// Which service.
        service: ServiceKey,
    },
}

impl Command {
    /// The label of its kind in metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Command::Register(_) => "register",
            Command::RegisterMany(_) => "register_many",
            Command::Heartbeat { .. } => "heartbeat",
            Command::Report { .. } => "report",
            Command::Drain { .. } => "drain",
            Command::Deregister { .. } => "deregister",
            Command::ConnectionLost { .. } => "connection_lost",
            Command::Tick => "tick",
            Command::Apply { .. } => "apply",
            Command::Delete { .. } => "delete",
            Command::IssueToken(_) => "issue_token",
            Command::RevokeToken { .. } => "revoke_token",
            Command::RecordIssued { .. } => "record_issued",
            Command::RevokeIssued { .. } => "revoke_issued",
            Command::RevokeService { .. } => "revoke_service",
        }
    }
}

/// An instance as its owner describes it: [`causeway_model::Instance`] without what the registry adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Service and id.
    pub key: InstanceKey,
    /// IP address or host name of the app.
    pub address: String,
    /// Its port there.
    pub port: u16,
    /// Further ports by name.
    pub ports: BTreeMap<String, u16>,
    /// What is spoken on `port`.
    pub protocol: Protocol,
    /// Version of the program; empty when not said.
    pub version: String,
    /// Free tags.
    pub tags: BTreeSet<String>,
    /// Free metadata.
    pub metadata: BTreeMap<String, String>,
    /// Relative share of calls; 100 when not said, 0 takes none.
    pub weight: u32,
    /// Where it stands.
    pub locality: Locality,
    /// The sidecar in front of it.
    pub mesh: Option<MeshAddress>,
    /// Its health to begin with; one that is registered already keeps what its checks say when absent.
    pub health: Option<Health>,
    /// Checks that the node is to run.
    pub checks: Vec<Check>,
    /// What keeps it registered.
    pub lease: Lease,
    /// Who registers it.
    pub origin: Origin,
    /// Which run of a program registers it. Two with different owners (or one with none) are different registrations: the
    /// later one gets a new epoch and the earlier one's commands are refused.
    pub owner: Option<Owner>,
    /// The connection that keeps it, for [`Lease::Connection`].
    pub connection: Option<ConnectionId>,
    /// The epoch that an owner was granted before, when it comes back: refused if somebody else has taken the key since.
    pub epoch: Option<Epoch>,
}

impl Registration {
    /// A registration with everything else as when it is not said: HTTP, weight 100, a permanent lease, no owner.
    pub fn new(key: InstanceKey, address: &str, port: u16, origin: Origin) -> Self {
        Registration {
            key,
            address: address.to_owned(),
            port,
            ports: BTreeMap::new(),
            protocol: Protocol::default(),
            version: String::new(),
            tags: BTreeSet::new(),
            metadata: BTreeMap::new(),
            weight: 100,
            locality: Locality::default(),
            mesh: None,
            health: None,
            checks: Vec::new(),
            lease: Lease::Permanent,
            origin,
            owner: None,
            connection: None,
            epoch: None,
        }
    }
}

/// A run of a program that registers instances: an id that it makes up when it starts and keeps over reconnections.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Arc<str>);

impl Owner {
    /// Reads one: 1 to 256 bytes of visible ASCII; `None` when it is not that.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=OWNER_BYTES_MAX).contains(&text.len());
        (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Owner(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<C> Encode<C> for Owner {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Owner {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Owner::new(d.str()?).ok_or_else(|| minicbor::decode::Error::message("not an owner"))
    }
}

/// A connection that keeps instances registered, numbered by [`Registry::connection`](crate::Registry::connection). It means
/// nothing after a restart of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(crate) u64);

/// An object that somebody wants written.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// Which one.
    pub key: ObjectKey,
    /// Who writes it, and where.
    pub origin: Origin,
    /// What it says.
    pub spec: Spec,
    /// The document as JSON text, secrets' values left out.
    pub written: String,
}

/// A file that an [`Command::Apply`] gives whole.
#[derive(Clone, Debug)]
pub struct Prune {
    /// Its path, as in `Origin::File`.
    pub path: String,
    /// Objects that it still holds but that could not be read just now: the last good ones are kept.
    pub keep: Vec<ObjectKey>,
}

/// What the registry answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The state that holds what was said; the present one when nothing changed.
    pub revision: Revision,
    /// Whether the command changed anything that is written down.
    pub is_changed: bool,
    /// For a registration: one for each, in the order given.
    pub registered: Vec<Result<Granted, Error>>,
    /// For an `Apply`: one for each object in the order given, then one for each that was pruned.
    pub objects: Vec<Applied>,
    /// For a revocation: what it made worthless.
    pub revoked: Revoked,
}

/// What a revocation made worthless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Certificates that had not expired.
    pub certificates: usize,
    /// Join tokens.
    pub tokens: usize,
}

/// What a registration got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// To be shown with later commands about the instance.
    pub epoch: Epoch,
    /// What keeps it.
    pub lease: Lease,
    /// When a lease by heartbeat ends unless it is renewed.
    pub expires_at: Option<Timestamp>,
}

/// What became of one object of an `Apply`.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Which one.
    pub key: ObjectKey,
    /// What became of it.
    pub outcome: AppliedOutcome,
    /// What is to be said of it in the state that this `Apply` leads to (a dry run: would lead to).
    pub conditions: Vec<Condition>,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppliedOutcome {
    /// It is new.
    Created,
    /// It replaced an older form.
    Changed,
    /// It was written so already; nothing was done.
    Unchanged,
    /// Its file holds it no more.
    Removed,
    /// It was not taken; an older form stays in force.
    Refused(Error),
}
