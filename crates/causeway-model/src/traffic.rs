//! What a proxy saw: calls between services, counted, for the graph and the golden signals.

use minicbor::{Decode, Encode};

use crate::latencies::Latencies;
use crate::names::ServiceKey;

/// Calls from one service to another within one report's time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Edge {
    /// Who called; a gateway is `<namespace>/<gateway's name>` and shown as a gateway.
    #[n(0)]
    pub source: ServiceKey,
    /// Who was called.
    #[n(1)]
    pub target: ServiceKey,
    /// Calls that ended.
    #[n(2)]
    pub requests: u64,
    /// Those that failed: no answer, or 5xx.
    #[n(3)]
    pub failures: u64,
    /// Their durations added up, in microseconds.
    #[n(4)]
    pub micros: u64,
    /// The longest, in microseconds.
    #[n(5)]
    pub micros_max: u64,
    /// Their durations by bucket; since 0.2, empty from older proxies.
    #[n(6)]
    #[cbor(default)]
    pub latencies: Latencies,
    /// Attempts after the first of each; since 0.2.
    #[n(7)]
    #[cbor(default)]
    pub retries: u64,
}

impl Edge {
    /// No calls yet.
    pub fn new(source: ServiceKey, target: ServiceKey) -> Self {
        Edge {
            source,
            target,
            requests: 0,
            failures: 0,
            micros: 0,
            micros_max: 0,
            latencies: Latencies::default(),
            retries: 0,
        }
    }

    /// Adds what another report says of the same pair.
    pub fn add(&mut self, other: &Edge) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.micros = self.micros.saturating_add(other.micros);
        self.micros_max = self.micros_max.max(other.micros_max);
        self.latencies.add(&other.latencies);
        self.retries = self.retries.saturating_add(other.retries);
    }
}

/// What one proxy saw since its last report; sent once a second, only when there is something to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TrafficReport {
    /// By pair of services, each pair at most once, at most [`EDGES_MAX`].
    #[n(0)]
    pub edges: Vec<Edge>,
}

/// Most pairs in one report; the rest is counted under the last.
pub const EDGES_MAX: usize = 500;
