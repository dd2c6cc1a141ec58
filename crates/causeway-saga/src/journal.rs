//! The journal: sharded streams of the store, every record linked to the one before it of the same saga.
//!
//! In:    records of one saga.      Out: lines (CBOR) for a batch; a saga's chain of lines, or a whole shard's, read back.
//! Owner: the driver of a shard is the only writer of its stream, and says at which length it writes.
//! Invariant: a line is never changed; version 1 is read for ever (`fixtures/journal-v1.cbor`); a chain read backwards from its
//! last line ends at the saga's start.
//! Not here: what a record means (`machine.rs`), where a saga's last line is (`shard.rs`).
//!
//! Why shards and not a stream per saga: the store keeps every stream's name in memory, and a million open sagas with 200 bytes
//! of name each would cost more than the sagas. Why several: each has a driver, so that cores share the work, and all their
//! batches still go into one commit and one fdatasync.

use minicbor::{Decode, Encode};

use causeway_model::{Timestamp, codec};
use causeway_store::{Batch, Limit, Position, Store, StreamName};

use crate::error::{Error, ErrorKind};
use crate::record::{Record, Started};

/// How many streams (and drivers). Fixed: a saga's id says which one is its own. Four busy cores of sagas are more than the
/// network beside them carries.
pub const SHARDS: usize = 4;
/// Most lines of one saga that are read to show it: 100 steps, each compensation tried for a day, and a person's retries.
pub const CHAIN_MAX: usize = 100_000;
/// Lines read at a time when a shard is replayed.
const REPLAY_CHUNK: Limit = Limit { records: 4096, bytes: 4 << 20 };
/// The version written by this release.
const VERSION: u8 = 1;

/// One record in its stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Line {
    #[n(0)]
    version: u8,
    /// Position of the saga's first line; its own in that one.
    #[n(1)]
    pub(crate) saga: u64,
    /// Position of the saga's line before this.
    #[n(2)]
    pub(crate) before: Option<u64>,
    #[n(3)]
    pub(crate) at: Timestamp,
    #[n(4)]
    pub(crate) record: Record,
}

impl Line {
    pub(crate) fn new(saga: u64, before: Option<u64>, at: Timestamp, record: Record) -> Self {
        Line { version: VERSION, saga, before, at, record }
    }

    pub(crate) fn encode(&self) -> bytes::Bytes {
        codec::encode(self).into()
    }

    fn decode(stream: &StreamName, position: Position, bytes: &[u8]) -> Result<Line, Error> {
        let broken = |why: String| {
            Error::from(ErrorKind::Journal(format!(
                "cannot read record {position} of stream {stream}: {why}"
            )))
        };
        let line: Line = codec::decode(bytes).map_err(|error| broken(error.to_string()))?;
        match line.version {
            VERSION => Ok(line),
            newer => Err(broken(format!("it has version {newer}, this release knows {VERSION}"))),
        }
    }
}

/// The stream of a shard.
pub(crate) fn stream(shard: usize) -> StreamName {
    StreamName::new(&format!("saga/{shard}")).expect("a short ASCII name")
}

/// Takes the next epoch: one record in a stream of its own for each time the room was opened. Steps carry it, so that a
/// participant can refuse a node that was replaced.
pub(crate) async fn next_epoch(store: &Store, now: Timestamp) -> Result<u64, Error> {
    let stream = StreamName::new("saga/epoch").expect("a short ASCII name");
    let length = store.next(&stream);
    let batch = Batch::new().expect(&stream, length).append(&stream, codec::encode(&now).into());
    store.append(batch).await.map_err(|error| Error::journal("cannot take an epoch for sagas", error))?;
    Ok(length.get() + 1)
}

/// Every line of a shard, in order.
pub(crate) fn replay(
    store: &Store,
    stream: &StreamName,
    mut each: impl FnMut(u64, Line) -> Result<(), Error>,
) -> Result<Position, Error> {
    let mut from = Position::START;
    loop {
        let records = store
            .read(stream, from, REPLAY_CHUNK)
            .map_err(|error| Error::journal(format!("cannot read stream {stream} from {from}"), error))?;
        let Some(last) = records.last() else { return Ok(from) };
        from = last.position.next();
        for record in &records {
            each(record.position.get(), Line::decode(stream, record.position, &record.bytes)?)?;
        }
    }
}

/// One line.
pub(crate) fn line(store: &Store, stream: &StreamName, position: u64) -> Result<Line, Error> {
    let position = Position::new(position);
    let records = store.read(stream, position, Limit::records(1)).map_err(|error| {
        Error::journal(format!("cannot read record {position} of stream {stream}"), error)
    })?;
    match records.first() {
        Some(record) => Line::decode(stream, position, &record.bytes),
        None => Err(ErrorKind::Journal(format!("stream {stream} has no record {position}")).into()),
    }
}

/// How a saga began.
pub(crate) fn started(store: &Store, stream: &StreamName, saga: u64) -> Result<(Timestamp, Started), Error> {
    let line = line(store, stream, saga)?;
    match line.record {
        Record::Started(started) => Ok((line.at, *started)),
        _ => Err(ErrorKind::Journal(format!("record {saga} of stream {stream} starts no saga")).into()),
    }
}

/// A saga's lines, oldest first, from its last one backwards.
pub(crate) fn chain(store: &Store, stream: &StreamName, last: u64) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    let mut next = Some(last);
    while let Some(position) = next {
        if lines.len() >= CHAIN_MAX {
            let why = format!("a saga in stream {stream} has more than {CHAIN_MAX} records");
            return Err(ErrorKind::Journal(why).into());
        }
        let line = line(store, stream, position)?;
        next = line.before.filter(|before| *before < position);
        lines.push(line);
    }
    lines.reverse();
    Ok(lines)
}
