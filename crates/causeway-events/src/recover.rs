//! A subscription's state in the store: read back, begun, dropped.
//!
//! In:    the streams `group/…` and `dead/…`.     Out: a machine as it was left; a first or a last record.
//! Owner: `driver.rs`, before a subscription's task starts and after it ended.
//! Invariant: a machine that is read back has settled nothing that was not written down, and lost no dead letter.
//! Not here: running (`group.rs`).

use std::time::Duration;

use bytes::Bytes;
use causeway_base::Seed;
use causeway_model::{Name, codec};
use causeway_store::{Batch, Limit, Position, Store, StreamName};

use crate::error::{Error, Kind};
use crate::journal::{self, CursorRecord, DeadRecord};
use crate::log::of_store;
use crate::machine::{Machine, Records, Rules};

/// Records after which the whole picture is written again, so that opening reads no more than about this many.
pub(crate) const CHECKPOINT_EVERY: usize = 512;
/// How often a first or last record is tried, and after how long again: starting others must not wait long.
const STORAGE_TRIES: u32 = 3;
const STORAGE_WAIT: Duration = Duration::from_millis(100);
/// Records that are read at a time.
const CHUNK: u64 = 1024;
const CHUNK_LIMIT: Limit = Limit { records: CHUNK as usize, bytes: 16 * 1024 * 1024 };

/// Where a subscription's records lie.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    store: Store,
    cursor: StreamName,
    dead: StreamName,
}

impl Streams {
    pub(crate) fn new(store: Store, namespace: &Name, topic: &Name, group: &Name) -> Self {
        let cursor = journal::group_stream(namespace, topic, group);
        Streams { store, cursor, dead: journal::dead_stream(namespace, topic, group) }
    }

    /// The machine as it was left.
    pub(crate) fn recover(&self, rules: Rules, seed: Seed) -> Result<Machine, Error> {
        let mut machine = Machine::new(rules, seed);
        let mut from = self.last_picture()?;
        loop {
            let records = self.store.read(&self.cursor, from, CHUNK_LIMIT).map_err(of_store)?;
            let Some(last) = records.last() else { break };
            from = last.position.next();
            for record in &records {
                machine.apply_cursor(&self.decode(&self.cursor, record)?);
            }
        }
        let mut from = Position::START;
        loop {
            let records = self.store.read(&self.dead, from, CHUNK_LIMIT).map_err(of_store)?;
            let Some(last) = records.last() else { break };
            from = last.position.next();
            for record in &records {
                machine.apply_dead(&self.decode(&self.dead, record)?);
            }
        }
        machine.resume();
        Ok(machine)
    }

    /// Where the last record lies that needs none before it. Whole pictures are at most [`CHECKPOINT_EVERY`] records apart,
    /// so one or two chunks from the end are read, however long the stream is.
    fn last_picture(&self) -> Result<Position, Error> {
        let mut end = self.store.next(&self.cursor).get();
        while end > 0 {
            let begin = end.saturating_sub(CHUNK);
            let limit = Limit { records: (end - begin) as usize, ..CHUNK_LIMIT };
            let (mut from, mut found) = (Position::new(begin), None);
            while from.get() < end {
                let records = self.store.read(&self.cursor, from, limit).map_err(of_store)?;
                let Some(last) = records.last() else { break };
                from = last.position.next();
                for record in records.iter().filter(|record| record.position.get() < end) {
                    if is_picture(&self.decode(&self.cursor, record)?) {
                        found = Some(record.position);
                    }
                }
            }
            if let Some(found) = found {
                return Ok(found);
            }
            end = begin;
        }
        Ok(Position::START)
    }

    fn decode<'b, T: minicbor::Decode<'b, ()>>(
        &self,
        stream: &StreamName,
        record: &'b causeway_store::Record,
    ) -> Result<T, Error> {
        codec::decode(&record.bytes).map_err(|error| {
            Error::new(
                Kind::Unreadable,
                format!("cannot read record {} of {stream}: {error}", record.position),
            )
        })
    }

    /// The subscription was deleted: what was written is void. The bytes stay until the log is recycled.
    pub(crate) async fn drop_state(&self) -> Result<(), Error> {
        if self.store.next(&self.cursor) == Position::START {
            return Ok(());
        }
        self.persist(&Records { cursor: vec![CursorRecord::Dropped], dead: vec![DeadRecord::Dropped] }).await
    }

    /// Writes records as one batch, and tries again a few times when storage is busy or full for a moment.
    pub(crate) async fn persist(&self, records: &Records) -> Result<(), Error> {
        for _ in 1..STORAGE_TRIES {
            match self.append(records).await {
                Err(error) if error.kind() == Kind::Unavailable => tokio::time::sleep(STORAGE_WAIT).await,
                result => return result,
            }
        }
        self.append(records).await
    }

    /// Writes records as one batch.
    pub(crate) async fn append(&self, records: &Records) -> Result<(), Error> {
        let bytes_of = |record: &CursorRecord| Bytes::from(codec::encode(record));
        let cursor = records.cursor.iter().fold(Batch::new(), |b, r| b.append(&self.cursor, bytes_of(r)));
        let batch = records.dead.iter().fold(cursor, |b, r| b.append(&self.dead, codec::encode(r).into()));
        self.store.append(batch).await.map(drop).map_err(of_store)
    }
}

fn is_picture(record: &CursorRecord) -> bool {
    matches!(record, CursorRecord::Started { .. } | CursorRecord::Checkpoint { .. } | CursorRecord::Dropped)
}
