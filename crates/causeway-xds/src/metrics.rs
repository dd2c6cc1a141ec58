//! What the control stream says about itself; each room's reference page is made from these comments.

use causeway_base::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Counters of the server's side. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    /// Streams open now.
    pub(crate) streams: Gauge,
    /// Pushes begun.
    pub(crate) pushes: Counter,
    /// Resources sent.
    pub(crate) resources: Counter,
    /// Resources rejected by proxies.
    pub(crate) rejections: Counter,
    /// Streams dropped because their reader was too slow.
    pub(crate) slow_readers: Counter,
    /// From the first message of a push to the last acknowledgement.
    pub(crate) push_seconds: Histogram,
    /// Presence streams open now.
    pub(crate) holds: Gauge,
}

impl Counters {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        metrics.register("causeway_xds", |registry| {
            let counters = Counters {
                streams: Gauge::default(),
                pushes: Counter::default(),
                resources: Counter::default(),
                rejections: Counter::default(),
                slow_readers: Counter::default(),
                // 0.5 ms to 16 s: a push within a rack, and one to a reader about to be dropped.
                push_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
                holds: Gauge::default(),
            };
            registry.register("streams", "Configuration streams open now", counters.streams.clone());
            registry.register("pushes", "Pushes begun", counters.pushes.clone());
            registry.register("resources_sent", "Resources sent", counters.resources.clone());
            registry.register("rejections", "Resources rejected by proxies", counters.rejections.clone());
            registry.register(
                "slow_readers",
                "Streams dropped because their reader was too slow",
                counters.slow_readers.clone(),
            );
            registry.register(
                "push_seconds",
                "From the first message of a push to its last acknowledgement",
                counters.push_seconds.clone(),
            );
            registry.register("holds", "Presence streams open now", counters.holds.clone());
            counters
        })
    }
}
