//! What is known of a connection beside what `h2` tells: whether it lives, what runs on it, and what its peer may still ask.
//!
//! In:    marks of the wire below and of the streams above.      Out: answers to those who hold the connection.
//! Owner: shared by the halves of one connection; nobody else writes, so nothing here is ever waited for.
//! Invariant: `load` counts every request that holds a [`Load`].
//! Not here: what follows from it (`heart`, `meter`, `server`, `client`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};

use crate::limits::EARLY_RESETS;

/// One connection's.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    reads: AtomicU32,
    load: AtomicU32,
    begun: AtomicU32,
    credit: AtomicU32,
    /// Requests taken back early, less those answered.
    early: AtomicI32,
    is_closed: AtomicBool,
    is_flooded: AtomicBool,
}

impl Pulse {
    /// Bytes came.
    pub(crate) fn note_read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    /// How often bytes came; only that it changes means something.
    pub(crate) fn reads(&self) -> u32 {
        self.reads.load(Relaxed)
    }

    /// A request begins, unless `limit` run already.
    pub(crate) fn begin(self: &Arc<Self>, limit: u32) -> Option<Load> {
        if self.load.load(Relaxed) >= limit {
            return None;
        }
        self.load.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        Some(Load(self.clone()))
    }

    /// Requests that run.
    pub(crate) fn load(&self) -> u32 {
        self.load.load(Relaxed)
    }

    /// Requests that ever began; only that it changes means something.
    pub(crate) fn begun(&self) -> u32 {
        self.begun.load(Relaxed)
    }

    /// Something was sent to which the peer may say something (a window update).
    pub(crate) fn note_sent(&self) {
        self.credit.fetch_add(1, Relaxed);
    }

    /// What was sent since the last call.
    pub(crate) fn take_sent(&self) -> u32 {
        self.credit.swap(0, Relaxed)
    }

    /// A request was taken back early.
    pub(crate) fn note_early(&self) {
        if self.early.fetch_add(1, Relaxed) >= EARLY_RESETS {
            self.note_flood();
        }
    }

    /// A request was answered.
    pub(crate) fn note_answer(&self) {
        if self.early.load(Relaxed) > 0 {
            self.early.fetch_sub(1, Relaxed);
        }
    }

    /// Time has passed.
    pub(crate) fn forgive(&self) {
        self.early.store(0, Relaxed);
    }

    /// No further request can be sent.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    /// The peer asked for more than it may.
    pub(crate) fn note_flood(&self) {
        self.is_flooded.store(true, Relaxed);
    }

    pub(crate) fn is_flooded(&self) -> bool {
        self.is_flooded.load(Relaxed)
    }
}

/// One request that runs on a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Load(Arc<Pulse>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Relaxed);
    }
}
