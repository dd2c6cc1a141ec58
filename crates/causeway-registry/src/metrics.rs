//! What the registry counts. The doc comments are the reference page's text.

use causeway_base::telemetry::Metrics as Shared;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Counters of one registry; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Instances that are registered, in any state.
    pub(crate) instances: Gauge,
    /// Configuration objects.
    pub(crate) objects: Gauge,
    /// The newest revision.
    pub(crate) revision: Gauge,
    /// Commands by kind and outcome: `changed`, `unchanged`, `refused`, `failed`.
    pub(crate) commands: Family<CommandLabels, Counter>,
    /// Heartbeats that were heard, whether or not they changed anything.
    pub(crate) heartbeats: Counter,
    /// Instances that became suspect: the mass-expiry guard did not believe their expiry.
    pub(crate) suspected: Counter,
    /// Instances that were removed because their lease ended.
    pub(crate) expired: Counter,
    /// Commands decided together.
    pub(crate) batch_commands: Histogram,
    /// Batches that were decided again because someone else wrote first.
    pub(crate) decided_again: Counter,
    /// Times the registry was away (a restart, a stall, a jump of the clock) and gave every lease a fresh grace.
    pub(crate) away: Counter,
}

/// Labels of [`Metrics::commands`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommandLabels {
    pub(crate) kind: &'static str,
    pub(crate) outcome: &'static str,
}

impl Metrics {
    pub(crate) fn new(shared: &Shared) -> Self {
        let metrics = Metrics {
            instances: Gauge::default(),
            objects: Gauge::default(),
            revision: Gauge::default(),
            commands: Family::default(),
            heartbeats: Counter::default(),
            suspected: Counter::default(),
            expired: Counter::default(),
            batch_commands: Histogram::new([1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0]),
            decided_again: Counter::default(),
            away: Counter::default(),
        };
        shared.register("causeway_registry", |registry| {
            let m = metrics.clone();
            registry.register("instances", "Instances that are registered, in any state", m.instances);
            registry.register("objects", "Configuration objects", m.objects);
            registry.register("revision", "The newest revision", m.revision);
            registry.register("commands", "Commands by kind and outcome", m.commands);
            registry.register("heartbeats", "Heartbeats that were heard", m.heartbeats);
            registry.register("suspected", "Instances that became suspect in a mass expiry", m.suspected);
            registry.register("expired", "Instances removed because their lease ended", m.expired);
            registry.register("batch_commands", "Commands decided together", m.batch_commands);
            registry.register("decided_again", "Batches decided again", m.decided_again);
            registry.register("away", "Times that every lease got a fresh grace", m.away);
        });
        metrics
    }
}
