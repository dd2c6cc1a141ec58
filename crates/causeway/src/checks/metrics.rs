//! What the checks count. The doc comments are the reference page's text.

use causeway_base::telemetry::Metrics as Shared;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::schedule::Outcome;

/// Counters of the checks; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// Checks that the node runs.
    pub(super) checks: Gauge,
    /// Probes that ended, by kind (`http`, `tcp`, `grpc`) and outcome (`passed`, `warned`, `failed`).
    probes: Family<ProbeLabels, Counter>,
    /// Probes that started more than a second after their time because too many were under way.
    pub(super) late: Counter,
    /// Reports to the registry by outcome: `taken`, `refused`.
    reports: Family<ReportLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReportLabels {
    outcome: &'static str,
}

impl Metrics {
    pub(super) fn new(shared: &Shared) -> Self {
        let metrics = Metrics::default();
        shared.register("causeway_checks", |registry| {
            let m = metrics.clone();
            registry.register("running", "Checks that the node runs", m.checks);
            registry.register("probes", "Probes that ended, by kind and outcome", m.probes);
            registry.register("late", "Probes that started more than a second after their time", m.late);
            registry.register("reports", "Reports to the registry by outcome", m.reports);
        });
        metrics
    }

    pub(super) fn probed(&self, kind: &'static str, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Passed => "passed",
            Outcome::Warned(_) => "warned",
            Outcome::Failed(_) => "failed",
        };
        self.probes.get_or_create(&ProbeLabels { kind, outcome }).inc();
    }

    pub(super) fn reported(&self, is_taken: bool) {
        let outcome = if is_taken { "taken" } else { "refused" };
        self.reports.get_or_create(&ReportLabels { outcome }).inc();
    }
}
