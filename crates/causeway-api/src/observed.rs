//! What proxies saw: calls between services, requests that failed, traces, live requests. Kept for a while, in memory, within bounds.
//!
//! In:    reports of proxies, those in this node among them.      Out: what the API shows.
//! Owner: the control port and the node's own proxies write, the API reads.
//! Invariant: bounded whatever is reported; what is lost is lost here and nowhere else: no request waits for this.
//! Not here: what proxies report and how often (`causeway-proxy`), long-term storage (OTLP, Prometheus).

pub mod failures;
pub mod taps;
pub mod traces;

use causeway_base::Clock;
use causeway_model::{Observations, TrafficReport};

pub use failures::Failures;
pub use taps::{Live, TapError, Watching};
pub use traces::Traces;

use crate::traffic::Traffic;

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Observed {
    /// Who calls whom.
    pub traffic: Traffic,
    /// Requests that failed.
    pub failures: Failures,
    /// Traces.
    pub traces: Traces,
    /// Live requests, for those who want to see them.
    pub live: Live,
}

impl Observed {
    /// Nothing seen yet.
    pub fn new(clock: Clock) -> Self {
        Observed {
            traffic: Traffic::new(clock),
            failures: Failures::default(),
            traces: Traces::default(),
            live: Live::default(),
        }
    }

    /// Takes a proxy's report of calls.
    pub fn traffic(&self, report: TrafficReport) {
        self.traffic.add(report);
    }

    /// Takes a proxy's report of single requests. `proxy` is whose it is, so that one that has much to say does not push others out.
    pub fn seen(&self, proxy: &str, seen: Observations) {
        let Observations { failures, spans, tapped, lost } = seen;
        if lost > 0 {
            tracing::debug!(proxy, lost, "a proxy had more to report than there was room for");
        }
        self.failures.add(proxy, failures);
        self.traces.add(spans);
        self.live.show(tapped, lost);
    }
}
