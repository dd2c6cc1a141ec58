//! Who may call a service.

use minicbor::{Decode, Encode};

use crate::names::{Name, ServiceKey};

/// An access policy: a call to a target must be allowed by one of its policies' rules. Without any policy, a namespace's
/// services are open to its mesh identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AccessPolicy {
    /// The services it guards.
    #[n(0)]
    pub targets: Vec<ServiceKey>,
    /// What is allowed; an empty list allows nothing.
    #[n(1)]
    pub allow: Vec<AccessRule>,
    /// Only says what it would have refused.
    #[n(2)]
    pub is_dry_run: bool,
    /// Namespaces of which it guards every service.
    #[n(3)]
    #[cbor(default)]
    pub namespaces: Vec<Name>,
    /// The document cannot be used as it is written, and no earlier form of it is known: this stands in its place and allows nothing.
    /// What is wrong, where, with its code.
    #[n(4)]
    pub broken: Option<String>,
}

/// One thing that is allowed: all non-empty parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AccessRule {
    /// Callers; every mesh identity when empty.
    #[n(0)]
    pub from: Vec<Peer>,
    /// Methods, upper case; all when empty.
    #[n(1)]
    pub methods: Vec<String>,
    /// Paths, exact, or a prefix of whole elements with a trailing `/*`; all when empty.
    #[n(2)]
    pub paths: Vec<String>,
    /// Ports of the service's instances; all when empty.
    #[n(3)]
    #[cbor(default)]
    pub ports: Vec<u16>,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Peer {
    /// Its namespace; the policy's own when not written.
    #[n(0)]
    pub namespace: Name,
    /// Its service; all of the namespace when absent.
    #[n(1)]
    pub service: Option<Name>,
}
