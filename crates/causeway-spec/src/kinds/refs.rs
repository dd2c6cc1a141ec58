//! What references from one object to another have in common: groups, and the rule about namespaces.
//!
//! In:    fields of a reference.     Out: problems.
//! Owner: nobody; functions.
//! Invariant: without a ReferenceGrant, which this version does not have, a reference stays in its own namespace.
//! Not here: whether what is named exists (registry).

use causeway_model::{Name, ServiceKey};

use crate::problem::Code;
use crate::reader::{At, Fields, Reader};

/// The group of Gateway API's kinds.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The groups under which a Service may be named: upstream's core group, and ours.
pub(crate) const SERVICE_GROUPS: [(&str, ()); 2] = [("", ()), ("causeway.dev", ())];

/// A namespace that a policy is for must be its own.
pub(crate) fn only_own_namespace(r: &mut Reader<'_>, at: &At<'_>, named: &Name, own: &Name) {
    let message = format!("is {named:?}, but the policy is in {own:?}: nothing permits that");
    at.report(r, Code::CrossNamespace, message, "a policy is for its own namespace: move it there");
}

/// A reference's `namespace`, which must be the object's own.
pub(crate) fn own_namespace(r: &mut Reader<'_>, f: &mut Fields<'_>, own: &Name, hint: &str) {
    let Some(at) = f.take("namespace") else { return };
    if let Some(named) = at.name(r).filter(|named| named != own) {
        let message = format!("is {named:?}, but the object is in {own:?}: nothing permits the reference");
        at.report(r, Code::CrossNamespace, message, hint);
    }
}

/// A reference to a Service of the object's own namespace: its `group`, `kind`, `name` and `namespace`.
pub(crate) fn service(r: &mut Reader<'_>, f: &mut Fields<'_>, own: &Name) -> Option<ServiceKey> {
    if let Some(at) = f.take("group") {
        at.choice(r, &SERVICE_GROUPS);
    }
    if let Some(at) = f.take("kind") {
        at.choice(r, &[("Service", ())]);
    }
    let name = f.need(r, "name", "orders").and_then(|at| at.name(r));
    let hint = "ReferenceGrant is not supported by this version: put the route into the backend's namespace, and let the \
                Gateway's listener take it with `allowedRoutes: {namespaces: {from: All}}`";
    own_namespace(r, f, own, hint);
    Some(ServiceKey::new(own.clone(), name?))
}
