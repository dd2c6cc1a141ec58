//! The door of the store: cheap to clone, the same for every engine.
//!
//! In:    batches and questions from any task.     Out: durable positions, records, lengths.
//! Owner: the roof opens and closes it; rooms hold clones.
//! Invariant: what [`Store::append`] returned is found by every read after it, in this process and the next one.
//! Not here: how it is done (`disk.rs`, `memory.rs`).

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::batch::{Batch, Committed, Limit, Record};
use crate::disk::Disk;
use crate::error::Error;
use crate::faults::Faults;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::name::{Position, StreamName};
use crate::options::{Options, Recovery};

/// A log of many streams. See the [crate] for its promises. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
    metrics: Metrics,
}

enum Engine {
    Disk(Disk),
    Memory(Memory),
}

impl Store {
    /// Opens the log in `dir` (made if it is not there), takes its lock, cuts a torn tail off and starts the writer.
    /// Blocking: it reads the whole log. Fails with `Locked`, `Corrupt` or `Unusable`, and then changed nothing.
    pub fn open(dir: &Path, options: Options) -> Result<(Store, Recovery), Error> {
        let metrics = Metrics::default();
        let (disk, recovery) = Disk::open(dir, options, metrics.clone())?;
        Ok((Store { engine: Arc::new(Engine::Disk(disk)), metrics }, recovery))
    }

    /// A store in memory that fails as `faults` says; what was durable on them before is there again.
    pub fn memory(faults: Faults) -> Store {
        Store::reopen_memory(faults).0
    }

    /// As [`Store::memory`], with what the reopening found.
    pub fn reopen_memory(faults: Faults) -> (Store, Recovery) {
        let metrics = Metrics::default();
        let (memory, recovery) = Memory::open(faults, metrics.clone());
        (Store { engine: Arc::new(Engine::Memory(memory)), metrics }, recovery)
    }

    /// Appends a batch; returns when it is durable, or with the reason why nothing of it was written (after `Failed`, and
    /// `Closed` by a crash, that is unknown until the log is opened again).
    ///
    /// # Cancel safety
    /// Dropping the future before it has waited for the queue writes nothing; after that the batch may or may not be
    /// committed. Do not drop it when that matters: spawn it in a `Scope`.
    pub async fn append(&self, batch: Batch) -> Result<Committed, Error> {
        match &*self.engine {
            Engine::Disk(disk) => disk.append(batch).await,
            Engine::Memory(memory) => memory.append(batch).await,
        }
    }

    /// Reads the records of `stream` at and after `from`, as many as `limit` allows; empty at the end of the stream and
    /// for a stream that does not exist. Synchronous: a `pread`, mostly from the page cache.
    pub fn read(&self, stream: &StreamName, from: Position, limit: Limit) -> Result<Vec<Record>, Error> {
        match &*self.engine {
            Engine::Disk(disk) => disk.read(stream, from, limit.bounded()),
            Engine::Memory(memory) => memory.read(stream, from, limit.bounded()),
        }
    }

    /// How long `stream` is: the position its next record will have. Counts durable records only.
    pub fn next(&self, stream: &StreamName) -> Position {
        match &*self.engine {
            Engine::Disk(disk) => disk.next(stream),
            Engine::Memory(memory) => memory.next(stream),
        }
    }

    /// The streams whose name begins with `prefix` and that hold records, in order of their names.
    pub fn streams(&self, prefix: &str) -> Vec<StreamName> {
        match &*self.engine {
            Engine::Disk(disk) => disk.streams(prefix),
            Engine::Memory(memory) => memory.streams(prefix),
        }
    }

    /// The length of `stream` as it grows; the stream need not exist yet. A slow follower sees only the newest length.
    /// The channel closes when the store is closed or fails.
    pub fn follow(&self, stream: &StreamName) -> watch::Receiver<Position> {
        match &*self.engine {
            Engine::Disk(disk) => disk.follow(stream),
            Engine::Memory(memory) => memory.follow(stream),
        }
    }

    /// Resolves when the store has failed for good (a write or fdatasync failed): the node must stop. Never resolves for
    /// a store that is only closed.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn failed(&self) -> Error {
        match &*self.engine {
            Engine::Disk(disk) => disk.failed().await,
            Engine::Memory(memory) => memory.failed().await,
        }
    }

    /// Commits what waits, stops the writer and releases the lock; every later call answers `Closed`.
    ///
    /// # Cancel safety
    /// Dropping it leaves the store closing; calling it again waits on.
    pub async fn close(&self) {
        match &*self.engine {
            Engine::Disk(disk) => disk.close().await,
            Engine::Memory(memory) => memory.close(),
        }
    }

    /// What the store counts; register it with the node's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}
