//! Who may come in to the sidecar's app: asked when a call begins, and again when the answer may have changed.
//!
//! In:    the connection on which a call came, what it wants.      Out: a [`Pass`] that names the document, or a refusal that does.
//! Owner: the task of the call.
//! Invariant: what is asked is the plan of this moment; without a plan the answer is no.
//! Not here: the rules (`causeway-filters::access`), when to ask again (`review`).

use std::sync::Arc;

use causeway_filters::access::{Access, Allowed, Call, Refusal, Wanted};

use crate::inlet::Inlet;
use crate::worker::Shared;

/// A call that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    access: Arc<Access>,
    allowed: Allowed,
}

impl Pass {
    /// The policy that allowed it.
    pub(crate) fn allowed_by(&self) -> Option<&Arc<str>> {
        self.access.allowed_by(self.allowed)
    }

    /// The policy on trial that would have refused it.
    pub(crate) fn doubted_by(&self) -> Option<&Arc<str>> {
        self.access.doubted_by(self.allowed)
    }
}

/// Whether a call may come in; `port` is the app's.
///
/// # Errors
/// Why not.
pub(crate) fn ask(shared: &Shared, inlet: &Inlet, wanted: Wanted<'_>, port: u16) -> Result<Pass, Refusal> {
    let plan = shared.plan.load();
    let Some(access) = plan.rules.access.clone() else {
        let details = "this sidecar does not know yet who may call its app";
        return Err(Refusal { details: details.into(), by: None, names: Vec::new() });
    };
    let allowed = access.decide(&Call { caller: inlet.client.identity.as_ref(), wanted, port })?;
    Ok(Pass { access, allowed })
}
