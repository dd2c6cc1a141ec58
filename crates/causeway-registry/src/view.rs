//! What the driver publishes with each change, and every question is answered from.
//!
//! In:    the state after a batch.      Out: look-ups without a wait.
//! Owner: the driver stores one; the handle reads the newest.
//! Invariant: immutable; a question sees one state, never two halves.
//! Not here: what changes it (`machine.rs`), waiting for the next (`handle.rs`).

use std::sync::Arc;

use causeway_model::{Revision, ServiceKey, Snapshot};
use imbl::OrdMap;

use crate::services::Services;
use crate::token::{Issued, Serial, Token, TokenId};

/// What is published with each change, for lookups without a wait.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) services: Services,
    pub(crate) tokens: OrdMap<TokenId, Arc<Token>>,
    pub(crate) issued: OrdMap<Serial, Arc<Issued>>,
}

impl View {
    /// The revision at which the service last changed, its whole's included when it is a subset.
    pub(crate) fn service_revision(&self, service: &ServiceKey) -> Revision {
        let subset = self.snapshot.service(service).and_then(|declared| declared.subset.as_ref());
        let whole = subset.map(|subset| ServiceKey::new(service.namespace.clone(), subset.of.clone()));
        let of_whole = whole.map(|whole| self.services.revision(&whole)).unwrap_or_default();
        self.services.revision(service).max(of_whole)
    }
}
