//! Who runs: the doors of every topic's and every subscription's task, as the handle finds them.
//!
//! In:    what `driver.rs` started.     Out: `watch<Arc<Directory>>`, one value per change.
//! Owner: the room's driver publishes it; nobody else builds one.
//! Invariant: a directory of revision R knows every topic and subscription of the Snapshot of revision R.
//! Not here: the tasks (`topic.rs`, `group.rs`), the picture itself (`causeway-model::Snapshot`).

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_model::{Name, Offset, Revision, Subscription, codec};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cloudevent::CloudEvent;
use crate::error::Error;
use crate::log::TopicLog;
use crate::view::{DeadLetter, From, Leased, Published, Redrive, Redriven, Settled, Status, Token};

/// Publishes that may wait for one topic: several batches of the greatest size; above it a publisher is told to come again.
pub(crate) const PUBLISHES_MAX: usize = 4096;
/// Calls that may wait for one subscription.
pub(crate) const CALLS_MAX: usize = 1024;

/// Namespace and topic.
pub(crate) type TopicKey = (Name, Name);

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    pub(crate) revision: Revision,
    /// Shared, because most revisions change neither a topic nor a subscription.
    pub(crate) topics: Arc<BTreeMap<TopicKey, TopicDoor>>,
}

#[derive(Clone, Debug)]
pub(crate) struct TopicDoor {
    pub(crate) log: TopicLog,
    pub(crate) publish: mpsc::Sender<Publish>,
    pub(crate) groups: BTreeMap<Name, GroupDoor>,
}

#[derive(Clone, Debug)]
pub(crate) struct GroupDoor {
    pub(crate) spec: Arc<Subscription>,
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) status: watch::Receiver<Status>,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A publish on its way to its topic's task; the events are checked.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) events: Vec<Encoded>,
    pub(crate) reply: Reply<Published>,
}

impl Publish {
    pub(crate) fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.bytes.len()).sum()
    }
}

/// An event in its journal form, encoded by the publisher's own task, so that the topic's one task does not have to.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) source: String,
    pub(crate) id: String,
    pub(crate) bytes: Vec<u8>,
}

impl Encoded {
    pub(crate) fn new(event: CloudEvent) -> Self {
        let bytes = codec::encode(&event);
        Encoded { source: event.source, id: event.id, bytes }
    }

    /// Whether it is the same event by the specification: source and id.
    pub(crate) fn is_same(&self, other: &Encoded) -> bool {
        self.id == other.id && self.source == other.source
    }
}

/// A call on its way to a subscription's task.
#[derive(Debug)]
pub(crate) enum Call {
    Pull { max: usize, until: Instant, reply: Reply<Vec<Leased>> },
    Settle { tokens: Vec<Token>, how: Settle, reply: Reply<Settled> },
    Seek { to: From, reply: Reply<()> },
    DeadLetters { after: Option<Offset>, limit: usize, reply: Reply<Vec<DeadLetter>> },
    Redrive { redrive: Redrive, reply: Reply<Redriven> },
}

/// What is to be done with leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    Ack,
    /// Again after this, or after the policy's wait.
    Nack(Option<std::time::Duration>),
    /// For this long from now, or for another lease.
    Extend(Option<std::time::Duration>),
}
