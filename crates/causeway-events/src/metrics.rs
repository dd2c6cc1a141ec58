//! What the events room counts. The doc comments are the reference.
//!
//! In:    steps of `topic.rs` and `group.rs`.     Out: series `causeway_events_*`, no label but few: cardinality is constant.
//! Owner: the room; clones share the counters.
//! Not here: figures per subscription (`handle::Events::topics`, which the API serves).

use causeway_base::telemetry;
use prometheus_client::metrics::counter::Counter;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $metric:literal;)+) => {
        /// The counters of the room.
        #[derive(Clone, Debug, Default)]
        pub struct Metrics { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        impl Metrics {
            /// New counters, registered as `causeway_events_*`.
            pub fn register(metrics: &telemetry::Metrics) -> Self {
                let counters = Metrics::default();
                metrics.register("causeway_events", |registry| {
                    $(registry.register($metric, concat!($($doc),+).trim(), counters.$name.clone());)+
                });
                counters
            }
        }
    };
}

counters! {
    /// Events taken and made durable.
    published = "published";
    /// Bytes of them, as kept.
    published_bytes = "published_bytes";
    /// Events not taken because their source and id were known.
    duplicates = "duplicates";
    /// Publishes refused: not CloudEvents, or too large.
    refused = "publishes_refused";
    /// Publishes that storage did not take.
    failed = "publishes_failed";
    /// Identities forgotten before their dedupe window was over, because too many were remembered.
    dedupe_evicted = "dedupe_evicted";
    /// Deliveries begun: pushes sent and events pulled.
    attempts = "delivery_attempts";
    /// Deliveries acknowledged.
    acked = "delivery_acked";
    /// Deliveries that failed and are tried again.
    retried = "delivery_retried";
    /// Deliveries put off because the receiver asked for it (429 or 503 with Retry-After).
    deferred = "delivery_deferred";
    /// Leases that ended without an answer.
    leases_expired = "leases_expired";
    /// Tokens refused as stale.
    tokens_stale = "tokens_stale";
    /// Events put among the dead letters.
    dead_lettered = "dead_lettered";
    /// Dead letters sent on their way again.
    redriven = "redriven";
    /// Events that a filter left out.
    filtered = "filtered";
    /// Events that a filter failed on; they count as not matched.
    filter_errors = "filter_errors";
    /// Events that retention passed over before they were delivered.
    expired = "expired";
    /// Subscriptions stopped because their receiver answered 410.
    stopped = "subscriptions_stopped";
}
