//! What the saga room counts.

use causeway_base::telemetry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::machine::Outcome;
use crate::record::{Kind, Status};

/// The room's metrics; clones share their numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Sagas started.
    pub started: Counter,
    /// Sagas ended, by what they ended as.
    pub ended: Family<StatusLabel, Counter>,
    /// Sagas that are open now, by status.
    pub open: Family<StatusLabel, Gauge>,
    /// Durable transitions: records written.
    pub transitions: Counter,
    /// Commits that carried them.
    pub commits: Counter,
    /// Attempts that ended, by what they were for (`do`, `ask`, `undo`) and how (`answered`, `unreached`, `unanswered`, `unrendered`).
    pub attempts: Family<AttemptLabel, Counter>,
    /// Calls that are under way now.
    pub calls: Gauge,
    /// Attempts that wait for a free call.
    pub waiting: Gauge,
    /// Seconds from start to end.
    pub seconds: Histogram,
}

/// A status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    /// The word of the API.
    pub status: &'static str,
}

/// What an attempt was for and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabel {
    /// `do`, `ask` or `undo`.
    pub kind: &'static str,
    /// `answered`, `unreached`, `unanswered` or `unrendered`.
    pub outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            started: Counter::default(),
            ended: Family::default(),
            open: Family::default(),
            transitions: Counter::default(),
            commits: Counter::default(),
            attempts: Family::default(),
            calls: Gauge::default(),
            waiting: Gauge::default(),
            // 1 ms to about 18 hours.
            seconds: Histogram::new(exponential_buckets(0.001, 4.0, 14)),
        }
    }
}

impl Metrics {
    /// New metrics, registered with the node's.
    pub(crate) fn register(metrics: &telemetry::Metrics) -> Self {
        let own = Metrics::default();
        metrics.register("causeway_saga", |registry| {
            registry.register("started", "Sagas started", own.started.clone());
            registry.register("ended", "Sagas ended, by what they ended as", own.ended.clone());
            registry.register("open", "Sagas that are open now, by status", own.open.clone());
            registry.register(
                "transitions",
                "Durable transitions (records written)",
                own.transitions.clone(),
            );
            registry.register("commits", "Commits that carried transitions", own.commits.clone());
            registry.register("attempts", "Attempts that ended, by kind and outcome", own.attempts.clone());
            registry.register("calls", "Calls that are under way now", own.calls.clone());
            registry.register("waiting", "Attempts that wait for a free call", own.waiting.clone());
            registry.register("seconds", "Seconds from start to end", own.seconds.clone());
        });
        own
    }

    pub(crate) fn attempt(&self, kind: Kind, outcome: &Outcome) {
        let kind = match kind {
            Kind::Do => "do",
            Kind::Ask => "ask",
            Kind::Undo => "undo",
        };
        let outcome = match outcome {
            Outcome::Answer { .. } => "answered",
            Outcome::Unreached(_) => "unreached",
            Outcome::Unanswered(_) => "unanswered",
            Outcome::Unrendered(_) => "unrendered",
        };
        self.attempts.get_or_create(&AttemptLabel { kind, outcome }).inc();
    }

    pub(crate) fn moved(&self, before: Option<Status>, after: Status) {
        if before == Some(after) {
            return;
        }
        let label = |status: Status| StatusLabel { status: status.as_str() };
        match before {
            Some(before) => {
                self.open.get_or_create(&label(before)).dec();
            }
            None => {
                self.started.inc();
            }
        }
        if after.is_ended() {
            self.ended.get_or_create(&label(after)).inc();
        } else {
            self.open.get_or_create(&label(after)).inc();
        }
    }

    /// What a restart found open.
    pub(crate) fn found(&self, counts: [u64; 6]) {
        for (status, count) in Status::ALL.into_iter().zip(counts).filter(|(status, _)| !status.is_ended()) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.open.get_or_create(&StatusLabel { status: status.as_str() }).inc_by(count);
        }
    }
}
