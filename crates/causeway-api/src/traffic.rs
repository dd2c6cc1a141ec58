//! Who calls whom: the last seconds of every proxy's reports, added up for the graph.
//!
//! In:    reports, one a second from each proxy that saw something.      Out: rates by pair of services over [`WINDOW`].
//! Owner: the control port writes, the API reads.
//! Invariant: bounded by [`PAIRS_MAX`] pairs and the window's seconds, whatever is reported.
//! Not here: metrics for a time-series database (each proxy's own admin door).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::Clock;
use causeway_model::{Edge, ServiceKey, TrafficReport};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How far back the graph looks: long enough to be calm, short enough to be live.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Pairs of services that are remembered.
pub const PAIRS_MAX: usize = 5_000;

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Traffic {
    clock: Clock,
    seconds: Arc<Mutex<VecDeque<Second>>>,
}

struct Second {
    began: Instant,
    edges: BTreeMap<(ServiceKey, ServiceKey), Edge>,
}

/// Calls between two services over the window.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Who called.
    pub source: ServiceKey,
    /// Who was called.
    pub target: ServiceKey,
    /// Calls per second.
    pub rate: f64,
    /// Failed calls per second.
    pub failure_rate: f64,
    /// Mean duration in milliseconds.
    pub latency_ms: f64,
    /// Longest duration in milliseconds.
    pub latency_ms_max: f64,
}

/// Golden signals of the calls to one service, or of one service to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Who called; none when all callers are added up.
    pub source: Option<ServiceKey>,
    /// Who was called.
    pub target: ServiceKey,
    /// Calls per second.
    pub rate: f64,
    /// Failed calls per second.
    pub failure_rate: f64,
    /// Share of calls that did not fail, 0 to 1.
    pub success: f64,
    /// Further attempts per second.
    pub retry_rate: f64,
    /// Mean duration in milliseconds.
    pub latency_ms: f64,
    /// What 50, 95 and 99 of a hundred calls did not exceed, in milliseconds; nothing when proxies do not tell.
    pub quantiles_ms: [Option<f64>; 3],
    /// Longest duration in milliseconds.
    pub latency_ms_max: f64,
}

/// How calls are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By caller and callee.
    Edge,
    /// By callee.
    Service,
}

impl Signal {
    fn new(edge: Edge, by: By, span: f64) -> Self {
        let calls = edge.requests.max(1) as f64;
        let quantile =
            |share| edge.latencies.quantile(share).map(|us| us.min(edge.micros_max) as f64 / 1000.0);
        Signal {
            source: (by == By::Edge).then_some(edge.source),
            rate: edge.requests as f64 / span,
            failure_rate: edge.failures as f64 / span,
            success: 1.0 - edge.failures as f64 / calls,
            retry_rate: edge.retries as f64 / span,
            latency_ms: edge.micros as f64 / 1000.0 / calls,
            quantiles_ms: [0.5, 0.95, 0.99].map(quantile),
            latency_ms_max: edge.micros_max as f64 / 1000.0,
            target: edge.target,
        }
    }
}

impl Traffic {
    /// Nothing seen yet.
    pub fn new(clock: Clock) -> Self {
        Traffic { clock, seconds: Arc::default() }
    }

    /// Adds a report to the present second.
    pub fn add(&self, report: TrafficReport) {
        let now = self.clock.instant();
        let mut seconds = self.seconds.lock();
        forget(&mut seconds, now);
        if seconds.back().is_none_or(|last| now - last.began >= Duration::from_secs(1)) {
            seconds.push_back(Second { began: now, edges: BTreeMap::new() });
        }
        let Some(second) = seconds.back_mut() else { return };
        for edge in report.edges {
            let is_room = second.edges.len() < PAIRS_MAX;
            let pair = (edge.source.clone(), edge.target.clone());
            match second.edges.get_mut(&pair) {
                Some(sum) => sum.add(&edge),
                None if is_room => drop(second.edges.insert(pair, edge)),
                None => {}
            }
        }
    }

    /// Golden signals of the last `window` (at most [`WINDOW`], at least a second) of the calls that are `wanted`, by source and
    /// target.
    pub fn signals(
        &self,
        window: Duration,
        by: By,
        wanted: impl Fn(&ServiceKey, &ServiceKey) -> bool,
    ) -> Vec<Signal> {
        let window = window.clamp(Duration::from_secs(1), WINDOW);
        let now = self.clock.instant();
        let mut seconds = self.seconds.lock();
        forget(&mut seconds, now);
        let mut sums: BTreeMap<(Option<ServiceKey>, ServiceKey), Edge> = BTreeMap::new();
        let recent = seconds.iter().filter(|second| now - second.began <= window);
        for ((source, target), edge) in recent.flat_map(|second| &second.edges) {
            if !wanted(source, target) {
                continue;
            }
            let key = ((by == By::Edge).then(|| source.clone()), target.clone());
            let new = || Edge::new(source.clone(), target.clone());
            sums.entry(key).or_insert_with(new).add(edge);
        }
        sums.into_values().map(|edge| Signal::new(edge, by, window.as_secs_f64())).collect()
    }

    /// The flows of the last [`WINDOW`], by source and target.
    pub fn flows(&self) -> Vec<Flow> {
        let now = self.clock.instant();
        let mut seconds = self.seconds.lock();
        forget(&mut seconds, now);
        let mut sums: BTreeMap<(ServiceKey, ServiceKey), Edge> = BTreeMap::new();
        for (pair, edge) in seconds.iter().flat_map(|second| &second.edges) {
            match sums.get_mut(pair) {
                Some(sum) => sum.add(edge),
                None => drop(sums.insert(pair.clone(), edge.clone())),
            }
        }
        let span = WINDOW.as_secs_f64();
        let flows = sums.into_values().map(|edge| Flow {
            rate: edge.requests as f64 / span,
            failure_rate: edge.failures as f64 / span,
            latency_ms: edge.micros as f64 / 1000.0 / edge.requests.max(1) as f64,
            latency_ms_max: edge.micros_max as f64 / 1000.0,
            source: edge.source,
            target: edge.target,
        });
        flows.collect()
    }
}

fn forget(seconds: &mut VecDeque<Second>, now: Instant) {
    while seconds.front().is_some_and(|first| now - first.began > WINDOW) {
        seconds.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(requests: u64) -> TrafficReport {
        let key = |name| ServiceKey::parse("default", name).unwrap();
        let edge = Edge {
            requests,
            failures: 1,
            micros: 2000 * requests,
            micros_max: 3000,
            ..Edge::new(key("a"), key("b"))
        };
        TrafficReport { edges: vec![edge] }
    }

    #[tokio::test(start_paused = true)]
    async fn reports_are_added_up_and_forgotten() {
        let traffic = Traffic::new(Clock::simulated());
        traffic.add(report(10));
        tokio::time::advance(Duration::from_secs(2)).await;
        traffic.add(report(30));
        let flows = traffic.flows();
        assert_eq!(
            (flows.len(), flows[0].rate, flows[0].failure_rate, flows[0].latency_ms),
            (1, 4.0, 0.2, 2.0)
        );
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(traffic.flows()[0].rate, 3.0, "the first report is forgotten");
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(traffic.flows().is_empty());
    }
}
