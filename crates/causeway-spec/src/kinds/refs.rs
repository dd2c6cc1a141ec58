//! What references from one object to another have in common: groups, and the rule about namespaces.
//!
//! In:    fields of a reference.     Out: problems.
//! Owner: nobody; functions.
//! Invariant: without a ReferenceGrant, which this version does not have, a reference stays in its own namespace.
//! Not here: whether what is named exists (registry).

use causeway_model::Name;

use crate::problem::Code;
use crate::reader::{Fields, Reader};

/// The group of Gateway API's kinds.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The groups under which a Service may be named: upstream's core group, and ours.
pub(crate) const SERVICE_GROUPS: [(&str, ()); 2] = [("", ()), ("causeway.dev", ())];

/// A reference's `namespace`, which must be the object's own.
pub(crate) fn own_namespace(r: &mut Reader<'_>, f: &mut Fields<'_>, own: &Name, hint: &str) {
    let Some(at) = f.take("namespace") else { return };
    if let Some(named) = at.name(r).filter(|named| named != own) {
        let message = format!("is {named:?}, but the object is in {own:?}: nothing permits the reference");
        at.report(r, Code::CrossNamespace, message, hint);
    }
}
