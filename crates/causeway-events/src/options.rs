//! What the events room stands on, handed to it once.
//!
//! In:    the roof's store, clock, seed, picture and way out.     Out: [`Options`].
//! Owner: the roof builds one.
//! Not here: settings of a topic or a subscription (documents; `causeway-model`).

use std::sync::Arc;

use causeway_base::{Clock, Outbound, Seed};
use causeway_model::Snapshot;
use causeway_store::Store;
use tokio::sync::watch;

/// What the room stands on.
pub struct Options {
    /// Where events, cursors and dead letters are kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Jitter and tokens come from it.
    pub seed: Seed,
    /// The picture; its topics and subscriptions run.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Pushes leave through it.
    pub outbound: Arc<dyn Outbound>,
}
