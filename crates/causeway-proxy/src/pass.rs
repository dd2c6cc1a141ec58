//! What let a call in to the sidecar's app.

use std::sync::Arc;

use causeway_filters::access::{Access, Allowed};

/// A call that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    access: Arc<Access>,
    allowed: Allowed,
}

impl Pass {
    pub(crate) fn new(access: Arc<Access>, allowed: Allowed) -> Self {
        Pass { access, allowed }
    }

    /// The policy that allowed it.
    pub(crate) fn allowed_by(&self) -> Option<&Arc<str>> {
        self.access.allowed_by(self.allowed)
    }

    /// The policy on trial that would have refused it.
    pub(crate) fn doubted_by(&self) -> Option<&Arc<str>> {
        self.access.doubted_by(self.allowed)
    }
}
