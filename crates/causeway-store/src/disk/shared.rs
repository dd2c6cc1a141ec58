//! What the writer thread and the handles share.
//!
//! In:    nothing by itself.     Out: the queue, the index, the reader, the store's life.
//! Owner: `Disk` makes it; the thread holds it to its end, handles as long as they live.
//! Invariant: each part guards itself; no two locks are held at once but a followers' look at a length.
//! Not here: the file that is written to, which is the thread's alone (`writer.rs`).

use std::path::PathBuf;

use tokio::sync::watch;

use crate::follow::Followers;
use crate::life::Life;
use crate::metrics::Metrics;

use super::index::Index;
use super::queue::Queue;
use super::read::Reader;

/// What the writer thread and the handles have in common.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) queue: Queue,
    pub(super) index: Index,
    pub(super) reader: Reader,
    pub(super) followers: Followers,
    pub(super) life: Life,
    pub(super) metrics: Metrics,
    /// True when the writer thread has ended and the lock is free.
    pub(super) has_ended: watch::Sender<bool>,
}
