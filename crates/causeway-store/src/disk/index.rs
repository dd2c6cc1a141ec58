//! Where each stream's records are: kept in memory, rebuilt from the log at every opening.
//!
//! In:    extents and lengths from recovery and, after each durable commit, from the writer.     Out: places for readers.
//! Owner: the writer thread changes it; readers look, each lock is held for a look-up only.
//! Invariant: a length shown here is durable. An index is a cache: losing it loses nothing.
//! Not here: reading the records (`read.rs`). When topics are copied off into segments of their own, an [`Extent`] will
//! say which file it is in; nothing outside this folder will notice.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::name::{Position, StreamName};

/// How far a reader may have to walk from an indexed record to one that is not: 16 KiB are read in one go anyway, and
/// the index costs 16 bytes for each 16 KiB of the log (one byte for a record of 1 KiB).
pub(crate) const SPARSE_BYTES: u64 = 16 << 10;

/// The record `position` is at `lsn`; those after it, up to the next extent, follow behind it in the same segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) position: u64,
    pub(crate) lsn: u64,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: StreamName,
    pub(crate) id: u32,
    next: AtomicU64,
    extents: Mutex<Vec<Extent>>,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    streams: RwLock<BTreeMap<StreamName, Arc<Stream>>>,
}

impl Stream {
    pub(crate) fn new(name: StreamName, id: u32, next: u64, extents: Vec<Extent>) -> Self {
        Stream { name, id, next: AtomicU64::new(next), extents: Mutex::new(extents) }
    }

    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Shows records up to `next`, whose extents were pushed before.
    pub(crate) fn show(&self, next: u64) {
        self.next.store(next, Ordering::Release);
    }

    pub(crate) fn push(&self, extents: impl IntoIterator<Item = Extent>) {
        self.extents.lock().extend(extents);
    }

    /// The extent that `position` belongs to, and the position at which the next one begins.
    pub(crate) fn find(&self, position: u64) -> Option<(Extent, u64)> {
        let extents = self.extents.lock();
        let after = extents.partition_point(|extent| extent.position <= position);
        let extent = *extents.get(after.checked_sub(1)?)?;
        Some((extent, extents.get(after).map_or(u64::MAX, |next| next.position)))
    }

    pub(crate) fn last(&self) -> Option<Extent> {
        self.extents.lock().last().copied()
    }
}

impl Index {
    pub(crate) fn get(&self, name: &StreamName) -> Option<Arc<Stream>> {
        self.streams.read().get(name).cloned()
    }

    pub(crate) fn insert(&self, stream: Arc<Stream>) {
        self.streams.write().insert(stream.name.clone(), stream);
    }

    pub(crate) fn next(&self, name: &StreamName) -> Position {
        Position::new(self.streams.read().get(name).map_or(0, |stream| stream.next()))
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.read().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Stream>> {
        self.streams.read().values().cloned().collect()
    }

    pub(crate) fn names(&self, prefix: &str) -> Vec<StreamName> {
        let streams = self.streams.read();
        let from = streams.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(name, _)| name).take_while(|name| name.as_str().starts_with(prefix)).cloned().collect()
    }
}
