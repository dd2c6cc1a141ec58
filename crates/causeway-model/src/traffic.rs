//! What a proxy saw: calls between services, counted, for the graph and the golden signals.

use minicbor::{Decode, Encode};

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
