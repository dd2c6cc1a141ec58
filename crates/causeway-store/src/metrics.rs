//! What the store counts.

use causeway_base::telemetry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The store's metrics; clones share their numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Commits: each is one write and one fdatasync, and carries every batch that waited.
    pub commits: Counter,
    /// Batches acknowledged.
    pub batches: Counter,
    /// Records made durable.
    pub records: Counter,
    /// Bytes written to the log, framing included.
    pub bytes: Counter,
    /// Batches refused because a stream was not as long as expected.
    pub conflicts: Counter,
    /// Commits refused because the disk was full.
    pub full: Counter,
    /// Records read back.
    pub reads: Counter,
    /// Seconds that each fdatasync took.
    pub fdatasync_seconds: Histogram,
    /// Bytes of batches that wait for the writer.
    pub queue_bytes: Gauge,
    /// Segment files.
    pub segments: Gauge,
    /// Streams that hold records.
    pub streams: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            commits: Counter::default(),
            batches: Counter::default(),
            records: Counter::default(),
            bytes: Counter::default(),
            conflicts: Counter::default(),
            full: Counter::default(),
            reads: Counter::default(),
            // 50 us (an NVMe drive with a capacitor) to 1.6 s (a disk that is dying).
            fdatasync_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            queue_bytes: Gauge::default(),
            segments: Gauge::default(),
            streams: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Shows them in the node's exposition as `store_…`.
    pub fn register(&self, metrics: &telemetry::Metrics) {
        metrics.register("store", |r| {
            r.register("commits", "Commits: one write and one fdatasync each", self.commits.clone());
            r.register("batches", "Batches acknowledged", self.batches.clone());
            r.register("records", "Records made durable", self.records.clone());
            r.register("bytes", "Bytes written to the log, framing included", self.bytes.clone());
            r.register(
                "conflicts",
                "Batches that expected another length of a stream",
                self.conflicts.clone(),
            );
            r.register("full", "Commits refused because the disk was full", self.full.clone());
            r.register("reads", "Records read back", self.reads.clone());
            r.register("fdatasync_seconds", "Seconds of each fdatasync", self.fdatasync_seconds.clone());
            r.register("queue_bytes", "Bytes of batches that wait for the writer", self.queue_bytes.clone());
            r.register("segments", "Segment files", self.segments.clone());
            r.register("streams", "Streams that hold records", self.streams.clone());
        });
    }
}
