//! Counts of requests that ended: how many, how they were answered, how long they took.
//!
//! In:    a status and a duration, for each request.      Out: sums, for Prometheus and for the traffic report.
//! Owner: a worker's ledger has one of each kind for each service that it called.
//! Invariant: a service that was never called costs a few words; a status class that never came costs one.
//! Not here: which series are shown (`series`), how (`metrics`).

use causeway_model::{Edge, LATENCY_BUCKETS, Latencies, ServiceKey, latency_bucket};

use crate::endpoint::Micros;
use crate::tally::{Tallies, Tally};

/// Upper bounds of the duration histogram, in microseconds; the last bucket has none. From a cache's answer to a client's patience.
pub(crate) const BUCKETS: [u64; 7] = [1_000, 5_000, 25_000, 100_000, 250_000, 1_000_000, 5_000_000];
/// Classes of answers, as they are shown; the first is no answer at all.
pub(crate) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// How long requests took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations {
    pub buckets: [u64; BUCKETS.len() + 1],
    pub micros: u64,
}

impl Durations {
    fn add(&mut self, micros: Micros) {
        self.buckets[BUCKETS.partition_point(|bound| *bound < micros)] += 1;
        self.micros += micros;
    }

    pub(crate) fn merge(&mut self, other: &Durations) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.micros += other.micros;
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Counts for one service, or for all that has none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub classes: [Option<Box<Durations>>; CLASSES.len()],
    pub tallies: Option<Box<Tallies>>,
}

impl Counts {
    pub(crate) fn add(&mut self, status: u16, micros: Micros) {
        let class = usize::from(status / 100).min(CLASSES.len() - 1);
        self.classes[class].get_or_insert_default().add(micros);
    }

    pub(crate) fn tally(&mut self, what: Tally, by: u64) {
        self.tallies.get_or_insert_with(|| Box::new([0; Tally::ALL.len()]))[what as usize] += by;
    }
}

/// Counts since the last traffic report.
#[derive(Clone, Debug)]
pub(crate) struct EdgeCounts {
    pub requests: u64,
    pub failures: u64,
    pub micros: u64,
    pub micros_max: u64,
    pub retries: u64,
    latencies: [u32; LATENCY_BUCKETS],
}

impl Default for EdgeCounts {
    fn default() -> Self {
        let latencies = [0; LATENCY_BUCKETS];
        EdgeCounts { requests: 0, failures: 0, micros: 0, micros_max: 0, retries: 0, latencies }
    }
}

impl EdgeCounts {
    pub(crate) fn add(&mut self, status: u16, micros: Micros) {
        self.requests += 1;
        self.failures += u64::from(status == 0 || status >= 500);
        self.micros += micros;
        self.micros_max = self.micros_max.max(micros);
        self.latencies[latency_bucket(micros)] += 1;
    }

    /// As it is reported.
    pub(crate) fn into_edge(self, source: ServiceKey, target: ServiceKey) -> Edge {
        let EdgeCounts { requests, failures, micros, micros_max, retries, latencies } = self;
        let latencies = Latencies::of(&latencies);
        Edge { source, target, requests, failures, micros, micros_max, latencies, retries }
    }
}
