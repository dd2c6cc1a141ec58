//! Who may come in to the sidecar's app: asked when a call begins, and again when the answer may have changed.
//!
//! In:    the connection on which a call came, what it wants.      Out: a [`Pass`] that names the document, or a refusal that does.
//! Owner: the task of the call.
//! Invariant: what is asked is the plan of this moment; without a plan the answer is no.
//! Not here: the rules (`causeway-filters::access`), when to ask again (`review`).

use causeway_filters::access::{Call, Refusal, Wanted};
use causeway_identity::Peer;

use crate::inlet::Inlet;
use crate::pass::Pass;
use crate::worker::Shared;

/// Whether a call may come in; `port` is the app's.
///
/// # Errors
/// Why not.
pub(crate) fn ask(shared: &Shared, inlet: &Inlet, wanted: Wanted<'_>, port: u16) -> Result<Pass, Refusal> {
    if let Some(peer) = inlet.peer.as_ref().filter(|peer| shared.is_revoked(peer)) {
        return Err(revoked(peer));
    }
    let plan = shared.plan.load();
    let Some(access) = plan.rules.access.clone() else {
        let details = "this sidecar does not know yet who may call its app";
        return Err(Refusal { details: details.into(), by: None, names: Vec::new() });
    };
    let allowed = access.decide(&Call { caller: inlet.client.identity.as_ref(), wanted, port })?;
    Ok(Pass::new(access, allowed))
}

/// Whether whoever is at the other end of a connection may do anything here at all.
pub(crate) fn admits(shared: &Shared, inlet: &Inlet) -> bool {
    let is_revoked = inlet.peer.as_ref().is_some_and(|peer| shared.is_revoked(peer));
    let plan = shared.plan.load();
    let access = plan.rules.access.as_ref();
    !is_revoked && access.is_some_and(|access| access.admits(inlet.client.identity.as_ref()))
}

/// The refusal of a peer whose certificate is revoked.
pub(crate) fn revoked(peer: &Peer) -> Refusal {
    let details = format!("the certificate of {} was revoked", peer.id.service);
    let by = format!("revocation of {} (serial number {})", peer.id.service, peer.serial);
    Refusal { details, by: Some(by.into()), names: Vec::new() }
}
