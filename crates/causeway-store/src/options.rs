//! How a store is opened, and what opening it found.

use std::time::Duration;

use crate::faults::Faults;
use crate::limits::{SEGMENT_BYTES, SEGMENT_BYTES_MIN};

/// How the disk engine works. `Options::default()` is right for a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size at which a segment file is closed; see [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// Failures to inject, for tests.
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: SEGMENT_BYTES, faults: Faults::default() }
    }
}

impl Options {
    pub(crate) fn bounded(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.max(SEGMENT_BYTES_MIN);
        self
    }
}

/// What opening the log found: one line of the node's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segment files.
    pub segments: u64,
    /// Streams that hold records.
    pub streams: u64,
    /// Records, all streams together.
    pub records: u64,
    /// Bytes of the log that are durable, framing included.
    pub bytes: u64,
    /// Bytes of a torn tail that were cut off: they were never acknowledged.
    pub torn_bytes: u64,
    /// Whole records that the torn tail held (of commits that were never acknowledged, so they are gone with it).
    pub torn_records: u64,
    /// How long it took.
    pub took: Duration,
}
