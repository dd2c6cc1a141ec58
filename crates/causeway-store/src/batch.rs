//! What goes in and comes out: a batch, its positions once durable, a record read back, how much to read.

use bytes::Bytes;

use crate::error::{Error, Kind};
use crate::frame;
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, READ_BYTES_MAX, READ_RECORDS_MAX, RECORD_BYTES_MAX};
use crate::name::{Position, StreamName};

/// Records for one or more streams, committed as one: all or none.
#[derive(Clone, Debug, Default)]
#[must_use = "a batch does nothing until it is appended to a store"]
pub struct Batch {
    pub(crate) expected: Vec<(StreamName, Position)>,
    pub(crate) records: Vec<(StreamName, Bytes)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Commits only if `stream` is exactly `next` records long when this batch's turn comes (before its own records).
    pub fn expect(mut self, stream: &StreamName, next: Position) -> Self {
        self.expected.push((stream.clone(), next));
        self
    }

    /// Adds a record to the end of `stream`.
    pub fn append(mut self, stream: &StreamName, bytes: Bytes) -> Self {
        self.records.push((stream.clone(), bytes));
        self
    }

    /// Adds what `other` expects and appends, after what this one does.
    pub fn join(mut self, other: Batch) -> Self {
        self.expected.extend(other.expected);
        self.records.extend(other.records);
        self
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it appends nothing.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// An upper bound of what it takes in the log, framing and the declaration of each stream's name included.
    pub(crate) fn bytes_in_log(&self) -> usize {
        let record = |(stream, bytes): &(StreamName, Bytes)| {
            2 * frame::ITEM_HEADER_BYTES + stream.as_str().len() + bytes.len()
        };
        frame::COMMIT_BYTES + self.records.iter().map(record).sum::<usize>()
    }

    pub(crate) fn check(&self) -> Result<usize, Error> {
        if self.records.len() > BATCH_RECORDS_MAX || self.expected.len() > BATCH_RECORDS_MAX {
            let doing = format!("a batch of {} records is above {BATCH_RECORDS_MAX}", self.records.len());
            return Err(Error::new(Kind::TooLarge, doing));
        }
        if let Some((stream, bytes)) = self.records.iter().find(|(_, bytes)| bytes.len() > RECORD_BYTES_MAX) {
            let doing =
                format!("a record of {} bytes for stream {stream} is above {RECORD_BYTES_MAX}", bytes.len());
            return Err(Error::new(Kind::TooLarge, doing));
        }
        match self.bytes_in_log() {
            size if size > BATCH_BYTES_MAX => {
                Err(Error::new(Kind::TooLarge, format!("a batch of {size} bytes is above {BATCH_BYTES_MAX}")))
            }
            size => Ok(size),
        }
    }
}

/// Where a batch's records went; having one means that they are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub(crate) firsts: Vec<(StreamName, Position)>,
}

impl Committed {
    /// The position of the batch's first record in `stream`; the others follow without a gap. `None`: it had none there.
    pub fn first(&self, stream: &StreamName) -> Option<Position> {
        self.firsts.iter().find(|(name, _)| name == stream).map(|(_, position)| *position)
    }

    /// Each stream that the batch appended to, with its first position there.
    pub fn iter(&self) -> impl Iterator<Item = (&StreamName, Position)> {
        self.firsts.iter().map(|(name, position)| (name, *position))
    }
}

/// A record read back; its checksum held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in its stream.
    pub position: Position,
    /// What was appended.
    pub bytes: Bytes,
}

/// How much one read returns at most. The first record is returned even when it alone is above `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Most records.
    pub records: usize,
    /// Most bytes of records (framing not counted).
    pub bytes: usize,
}

impl Limit {
    /// At most `records` records, 1 MiB of them.
    pub const fn records(records: usize) -> Self {
        Limit { records, bytes: 1 << 20 }
    }

    pub(crate) fn bounded(self) -> Self {
        Limit { records: self.records.min(READ_RECORDS_MAX), bytes: self.bytes.min(READ_BYTES_MAX) }
    }

    /// Whether a record of `size` bytes still fits after `records` that hold `bytes`.
    pub(crate) fn admits(self, records: usize, bytes: usize, size: usize) -> bool {
        records < self.records && (records == 0 || bytes + size <= self.bytes)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Limit::records(1024)
    }
}
