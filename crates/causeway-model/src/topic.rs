//! Topics and subscriptions, as declared.

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::names::{Name, ServiceKey};

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Topic {
    /// Oldest event that is kept; for ever when absent.
    #[n(0)]
    pub retention_age: Option<Duration>,
    /// Most bytes that are kept; no bound when absent.
    #[n(1)]
    pub retention_bytes: Option<u64>,
    /// For how long an event of the same (source, id) is recognised; the built-in window when absent, zero switches it off.
    #[n(2)]
    pub dedupe: Option<Duration>,
}

/// A group of consumers of a topic. Its object's name is `<topic>.<group>`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Subscription {
    /// The topic, same namespace.
    #[n(0)]
    pub topic: Name,
    /// The group.
    #[n(1)]
    pub group: Name,
    /// How events get there.
    #[n(2)]
    pub delivery: Delivery,
    /// CEL over `event` and `data`; every event when absent.
    #[n(3)]
    pub filter: Option<String>,
    /// Whether events of one key wait for each other.
    #[n(4)]
    pub ordering: Ordering,
    /// When and how often to try again.
    #[n(5)]
    pub retry: RetryPolicy,
    /// Most events out for delivery at a time.
    #[n(6)]
    pub max_in_flight: u32,
    /// What happens to an event that cannot be delivered.
    #[n(7)]
    pub dead_letter: DeadLetterMode,
    /// For how long a pulled event is the puller's.
    #[n(8)]
    pub lease: Duration,
}

impl Subscription {
    /// [`Subscription::max_in_flight`] when not written.
    pub const MAX_IN_FLIGHT: u32 = 64;
    /// [`Subscription::lease`] when not written.
    pub const LEASE: Duration = Duration::from_secs(30);
}

/// How events reach a group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Delivery {
    /// POSTed through the mesh, binary mode.
    #[n(0)]
    Push {
        /// To this service.
        #[n(0)]
        service: ServiceKey,
        /// At this path.
        #[n(1)]
        path: String,
    },
    /// Fetched with leases.
    #[n(1)]
    Pull,
}

/// Order within a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Ordering {
    /// Events of one `partitionkey` one after the other.
    #[default]
    #[n(0)]
    Key,
    /// None.
    #[n(1)]
    None,
}

/// What happens to an event after its last attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum DeadLetterMode {
    /// It is put aside, the next of its key goes on.
    #[default]
    #[n(0)]
    Plain,
    /// Its key is parked: later events of the key join it in order, other keys flow.
    #[n(1)]
    Sequenced,
}

/// How often and when something is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    #[n(0)]
    pub attempts: u32,
    /// Wait before the second attempt; doubled each time, with jitter.
    #[n(1)]
    pub backoff: Duration,
    /// Longest wait.
    #[n(2)]
    pub max_backoff: Duration,
}

impl RetryPolicy {
    /// The wait before attempt `next` (2 is the first retry), without jitter.
    pub fn wait_before(&self, next: u32) -> Duration {
        let doublings = next.saturating_sub(2).min(20);
        self.backoff.saturating_mul(1 << doublings).min(self.max_backoff)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { attempts: 5, backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(30) }
    }
}
