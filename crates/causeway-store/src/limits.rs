//! Every bound of the store, with its reason. One place, so that an operator's question has one answer.

use std::time::Duration;

/// Longest stream name. A name holds a namespace, a kind and an object's name (253 each at most, in practice far shorter).
pub const STREAM_NAME_BYTES_MAX: usize = 600;

/// Largest record. A message of 1 MiB is the usual broker's bound; sixteen times that leaves room for a registry picture.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// Largest batch, framing included: it must fit into one segment with room to spare, whatever the segment's size.
pub const BATCH_BYTES_MAX: usize = 24 << 20;

/// Most records in one batch: bounds the answer and the time the writer spends on one caller.
pub const BATCH_RECORDS_MAX: usize = 16_384;

/// Most streams in one store. A stream costs about 300 bytes of memory, so a full house is 300 MB.
pub const STREAMS_MAX: usize = 1 << 20;

/// A segment file is closed at this size. Small enough to recycle often, large enough that making one (a directory
/// fsync, about a millisecond) is lost in the noise at full speed (three a second).
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Smallest segment a caller may choose: tests want many segments, but a segment must hold a batch.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 10;

/// What may wait for the writer, in bytes of batches: a fifth of a second at full speed. Above it, appends wait.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// How long an append waits for a place in the queue before it is refused as `Busy`.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Most bytes taken into one commit: bounds the latency that one greedy caller costs the others, and the write buffer.
pub const COMMIT_BYTES_MAX: usize = 4 << 20;

/// Most records one read returns, whatever the caller asked for.
pub const READ_RECORDS_MAX: usize = 65_536;

/// Most bytes one read returns, whatever the caller asked for (one record is always returned).
pub const READ_BYTES_MAX: usize = 16 << 20;
