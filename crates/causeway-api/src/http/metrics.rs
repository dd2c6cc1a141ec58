//! What the HTTP doors count.

use causeway_base::telemetry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Labels of a count of answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AnswerLabel {
    /// Method of the request.
    pub(super) method: &'static str,
    /// Path as the API's description has it, such as `/v1/services/{name}`.
    pub(super) path: &'static str,
    /// Status of the answer.
    pub(super) status: u16,
}

/// Counts of the HTTP doors.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// Answers, by method, path as described and status.
    pub(super) answers: Family<AnswerLabel, Counter>,
}

impl Metrics {
    /// The counts, registered as `causeway_api_…`.
    pub(super) fn register(metrics: &telemetry::Metrics) -> Self {
        let counts = Metrics::default();
        metrics.register("causeway_api", |registry| {
            registry.register(
                "answers",
                "Answers of the HTTP API by path and status",
                counts.answers.clone(),
            );
        });
        counts
    }
}
