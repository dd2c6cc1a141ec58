//! What the memory engine has "on disk": it outlives the stores that are opened on it, as a disk outlives processes.
//!
//! In:    writes and syncs of `memory.rs`, crashes ordered through `faults.rs`.     Out: what survived.
//! Owner: the [`crate::Faults`] of a test.
//! Invariant: a crash keeps every synced batch, and of the others only whole ones from the front.
//! Not here: the checks of a batch (`memory.rs`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::name::{Position, StreamName};

/// What is "on disk": shared by the stores that follow one another on it.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// Which store may use it: each opening and each crash takes the next number, and older ones are closed.
    pub(crate) epoch: u64,
    pub(crate) streams: BTreeMap<StreamName, Stream>,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) next_ticket: u64,
    /// Bytes and records that the last crash tore.
    pub(crate) torn: (u64, u64),
}

#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) records: Vec<Bytes>,
    /// How many of them are durable, hence visible.
    pub(crate) durable: usize,
}

/// A batch that is written and not yet synced.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) ticket: u64,
    pub(crate) bytes: usize,
    pub(crate) lengths: Vec<(StreamName, usize)>,
}

// === impl Image ===

impl Image {
    /// Loses what is not synced but its first `kept` bytes; the store on it is dead. Returns the records that survived so.
    pub(crate) fn crash(&mut self, kept: usize) -> u64 {
        self.epoch += 1;
        let mut left = kept;
        let mut survived = 0;
        while let Some(batch) = self.pending.front() {
            if batch.bytes > left {
                break;
            }
            left -= batch.bytes;
            survived += self.sync_first();
        }
        let lost: usize = self.pending.iter().map(|batch| batch.bytes).sum();
        let lost_records: usize = self.streams.values().map(|s| s.records.len() - s.durable).sum();
        self.torn = (left.min(lost) as u64, if left > 0 { lost_records as u64 } else { 0 });
        self.pending.clear();
        self.streams.retain(|_, stream| {
            stream.records.truncate(stream.durable);
            stream.durable > 0
        });
        survived
    }

    /// Makes the oldest written batch durable; returns its records.
    pub(crate) fn sync_first(&mut self) -> u64 {
        let Some(batch) = self.pending.pop_front() else { return 0 };
        let mut records = 0;
        for (name, length) in batch.lengths {
            if let Some(stream) = self.streams.get_mut(&name) {
                records += length - stream.durable;
                stream.durable = length;
            }
        }
        records as u64
    }

    pub(crate) fn written(&self, stream: &StreamName) -> Position {
        Position::new(self.streams.get(stream).map_or(0, |s| s.records.len() as u64))
    }
}
