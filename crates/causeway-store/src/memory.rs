//! The memory engine: the store's meaning without a disk, for tests and simulations.
//!
//! In:    batches, and orders of [`Faults`].     Out: the same answers as the disk engine gives.
//! Owner: the test that made the [`Faults`]; several stores may follow one another on one image, one lives at a time.
//! Invariant: no thread and no hidden time: an append does everything inline, so a paused runtime stays in charge.
//! Not here: framing and checksums. It is written apart from the disk engine on purpose, so that each checks the other.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;

use crate::batch::{Batch, Committed, Limit, Record};
use crate::error::{Error, Kind};
use crate::faults::{Faults, Write};
use crate::follow::Followers;
use crate::image::{Image, Pending};
use crate::life::Life;
use crate::limits::STREAMS_MAX;
use crate::metrics::Metrics;
use crate::name::{Position, StreamName};
use crate::options::Recovery;

pub(crate) struct Memory {
    faults: Faults,
    epoch: u64,
    life: Life,
    followers: Followers,
    metrics: Metrics,
}

// === impl Memory ===

impl Memory {
    /// Takes the image over from whoever had it, as a restarted process does: what was not synced is lost.
    pub(crate) fn open(faults: Faults, metrics: Metrics) -> (Self, Recovery) {
        let (epoch, recovery) = {
            let mut image = faults.image.lock();
            if !image.pending.is_empty() {
                image.crash(0);
            }
            image.epoch += 1;
            let (torn_bytes, torn_records) = std::mem::take(&mut image.torn);
            let mut recovery = Recovery { torn_bytes, torn_records, ..Recovery::default() };
            recovery.streams = image.streams.len() as u64;
            recovery.records = image.streams.values().map(|s| s.durable as u64).sum();
            recovery.bytes =
                image.streams.values().flat_map(|s| &s.records).map(|bytes| bytes.len() as u64).sum();
            (image.epoch, recovery)
        };
        metrics.streams.set(recovery.streams as i64);
        let memory = Memory { faults, epoch, life: Life::new(), followers: Followers::default(), metrics };
        (memory, recovery)
    }

    pub(crate) async fn append(&self, batch: Batch) -> Result<Committed, Error> {
        let (ticket, committed) = self.write(batch)?;
        let (is_broken, takes) = self.faults.on_sync();
        if takes > Duration::ZERO {
            tokio::time::sleep(takes).await;
        }
        match is_broken {
            true => {
                Err(self.fail(Error::new(Kind::Failed, "fdatasync of the memory engine was told to fail")))
            }
            false => self.sync(ticket).map(|()| committed),
        }
    }

    fn write(&self, batch: Batch) -> Result<(u64, Committed), Error> {
        let bytes = batch.check()?;
        self.life.check()?;
        let mut image = self.faults.image.lock();
        let image = &mut *image;
        self.owns(image)?;
        if !batch.is_empty() && self.faults.on_write() != Write::Go {
            self.metrics.full.inc();
            return Err(Error::new(Kind::Full, "the memory engine was told to be full"));
        }
        for (stream, expected) in &batch.expected {
            let actual = image.written(stream);
            if actual != *expected {
                self.metrics.conflicts.inc();
                return Err(Error::conflict(stream, *expected, actual));
            }
        }
        let mut committed = Committed::default();
        let mut fresh: Vec<&StreamName> = batch
            .records
            .iter()
            .map(|(stream, _)| stream)
            .filter(|s| !image.streams.contains_key(*s))
            .collect();
        fresh.sort_unstable();
        fresh.dedup();
        if image.streams.len() + fresh.len() > STREAMS_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the store holds {STREAMS_MAX} streams, its bound"),
            ));
        }
        let mut seen = HashSet::new();
        for (stream, bytes) in batch.records {
            if seen.insert(stream.clone()) {
                committed.firsts.push((stream.clone(), image.written(&stream)));
            }
            image.streams.entry(stream).or_default().records.push(bytes);
        }
        let lengths = committed
            .iter()
            .map(|(stream, _)| (stream.clone(), image.written(stream).get() as usize))
            .collect();
        image.next_ticket += 1;
        let ticket = image.next_ticket;
        image.pending.push_back(Pending { ticket, bytes, lengths });
        self.metrics.bytes.inc_by(bytes as u64);
        Ok((ticket, committed))
    }

    /// Makes durable what was written up to `ticket`.
    fn sync(&self, ticket: u64) -> Result<(), Error> {
        self.life.check()?;
        let mut lengths = Vec::new();
        {
            let mut image = self.faults.image.lock();
            self.owns(&image)?;
            while image.pending.front().is_some_and(|batch| batch.ticket <= ticket) {
                lengths.extend(image.pending.front().map(|batch| batch.lengths.clone()).unwrap_or_default());
                self.metrics.records.inc_by(image.sync_first());
                self.metrics.batches.inc();
            }
            self.metrics.commits.inc();
            self.metrics.streams.set(image.streams.len() as i64);
        }
        self.followers
            .publish(lengths.iter().map(|(stream, length)| (stream, Position::new(*length as u64))));
        Ok(())
    }

    pub(crate) fn read(
        &self,
        stream: &StreamName,
        from: Position,
        limit: Limit,
    ) -> Result<Vec<Record>, Error> {
        self.life.check()?;
        let image = self.faults.image.lock();
        self.owns(&image)?;
        let Some(stream) = image.streams.get(stream) else { return Ok(Vec::new()) };
        let (mut records, mut total) = (Vec::new(), 0);
        for index in from.get() as usize..stream.durable {
            let bytes = &stream.records[index];
            if !limit.admits(records.len(), total, bytes.len()) {
                break;
            }
            total += bytes.len();
            records.push(Record { position: Position::new(index as u64), bytes: bytes.clone() });
        }
        self.metrics.reads.inc_by(records.len() as u64);
        Ok(records)
    }

    pub(crate) fn next(&self, stream: &StreamName) -> Position {
        Position::new(self.faults.image.lock().streams.get(stream).map_or(0, |s| s.durable as u64))
    }

    pub(crate) fn streams(&self, prefix: &str) -> Vec<StreamName> {
        let image = self.faults.image.lock();
        let starts =
            image.streams.iter().filter(|(name, s)| s.durable > 0 && name.as_str().starts_with(prefix));
        starts.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn follow(&self, stream: &StreamName) -> watch::Receiver<Position> {
        self.followers.follow(stream, || self.next(stream))
    }

    pub(crate) async fn failed(&self) -> Error {
        self.life.failed().await
    }

    pub(crate) fn close(&self) {
        {
            let mut image = self.faults.image.lock();
            while self.owns(&image).is_ok() && !image.pending.is_empty() {
                image.sync_first();
            }
        }
        self.life.end(Error::closed());
        self.followers.close();
    }

    fn fail(&self, error: Error) -> Error {
        let error = self.life.end(error);
        self.followers.close();
        error
    }

    fn owns(&self, image: &Image) -> Result<(), Error> {
        if image.epoch == self.epoch { Ok(()) } else { Err(Error::closed()) }
    }
}
