//! The disk engine: an append-only log in segment files, one writer thread, readers beside it.
//!
//! ```text
//! append -> Queue -> Writer: check, frame, write, fdatasync -> Index, Followers -> acknowledge
//!                                                                 ^
//! open  -> lock -> recover (scan, cut a torn tail) ---------------+---- read: find, pread, check
//! ```
//! In:    batches and questions from the handle.     Out: the same, durable and checked.
//! Owner: this folder owns the data directory while the lock is held.
//! Invariant: nothing is acknowledged or shown before its fdatasync returned.
//! Not here: framing (`frame.rs`). A checkpoint that lets old segments go, and segments of one topic's own, will be a
//! second task of this folder beside the writer; the handle does not change for them.

mod index;
mod lock;
mod queue;
mod read;
mod recover;
mod scan;
mod segment;
mod shared;
mod writer;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::batch::{Batch, Committed, Limit, Record};
use crate::error::{Error, Kind};
use crate::follow::Followers;
use crate::life::Life;
use crate::metrics::Metrics;
use crate::name::{Position, StreamName};
use crate::options::{Options, Recovery};

use lock::Lock;
use queue::Queue;
use read::Reader;
use shared::Shared;
use writer::Writer;

pub(crate) struct Disk {
    shared: Arc<Shared>,
}

impl Disk {
    pub(crate) fn open(dir: &Path, options: Options, metrics: Metrics) -> Result<(Disk, Recovery), Error> {
        let options = options.bounded();
        segment::make_dir(dir).map_err(|e| {
            Error::io(Kind::Unusable, format!("cannot make data directory {}", dir.display()), e)
        })?;
        let lock = Lock::take(dir)?;
        let recovered = recover::recover(dir, &options)?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            queue: Queue::new(metrics.clone()),
            index: recovered.index,
            reader: Reader::new(dir, recovered.framing, recovered.segments),
            followers: Followers::default(),
            life: Life::new(),
            metrics: metrics.clone(),
            has_ended: watch::channel(false).0,
        });
        metrics.streams.set(recovered.recovery.streams as i64);
        metrics.segments.set(recovered.recovery.segments as i64);
        let writer = Writer::new(shared.clone(), options, recovered.framing, recovered.tail, lock);
        std::thread::Builder::new()
            .name("store.writer".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::io(Kind::Unusable, "cannot start the store's writer thread", e))?;
        Ok((Disk { shared }, recovered.recovery))
    }

    pub(crate) async fn append(&self, batch: Batch) -> Result<Committed, Error> {
        let size = batch.check()?;
        self.shared.life.check()?;
        let answer = self.shared.queue.push(batch, size).await;
        match answer {
            // The queue only knows that it is over; why is known here.
            Err(error) if error.kind == Kind::Closed => Err(self.shared.life.check().err().unwrap_or(error)),
            answer => answer,
        }
    }

    pub(crate) fn read(&self, name: &StreamName, from: Position, limit: Limit) -> Result<Vec<Record>, Error> {
        self.shared.life.check()?;
        let Some(stream) = self.shared.index.get(name) else { return Ok(Vec::new()) };
        let records = self.shared.reader.read(&stream, from.get(), limit)?;
        self.shared.metrics.reads.inc_by(records.len() as u64);
        Ok(records)
    }

    pub(crate) fn next(&self, stream: &StreamName) -> Position {
        self.shared.index.next(stream)
    }

    pub(crate) fn streams(&self, prefix: &str) -> Vec<StreamName> {
        self.shared.index.names(prefix)
    }

    pub(crate) fn follow(&self, stream: &StreamName) -> watch::Receiver<Position> {
        self.shared.followers.follow(stream, || self.next(stream))
    }

    pub(crate) async fn failed(&self) -> Error {
        self.shared.life.failed().await
    }

    pub(crate) async fn close(&self) {
        self.shared.queue.close(Error::closed());
        // An error means that the sender is gone, which it cannot be while `shared` is held here.
        let _ = self.shared.has_ended.subscribe().wait_for(|has_ended| *has_ended).await;
    }
}

impl Drop for Disk {
    /// A store that nobody holds ends as a closed one does: the thread commits what waits and goes.
    fn drop(&mut self) {
        self.shared.queue.close(Error::closed());
    }
}
