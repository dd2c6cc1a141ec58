//! The door of the events room: cheap to clone, safe to call from anywhere.
//!
//! In:    publishes, reads, pulls, acks, seeks, redrives.     Out: their answers; durable where the method says so.
//! Owner: the roof opens one; API doors, sagas and the console hold clones.
//! Invariant: a topic or subscription that a caller has been told of (its revision is published) is known to the next call.
//! Not here: who may call (the doors), HTTP (`binding.rs` is pure, `causeway-api` serves), how it is done (`driver.rs`).
//!
//! ```
//! # async fn example(events: causeway_events::Events) -> Result<(), Box<dyn std::error::Error>> {
//! use causeway_events::{CloudEvent, Pull};
//! use causeway_model::Name;
//! let (namespace, topic, group) = (Name::default_namespace(), Name::new("orders")?, Name::new("mail")?);
//! let event = CloudEvent::new("7", "/shop", "order.placed").with_extension("partitionkey", "customer-3");
//! let published = events.publish(&namespace, &topic, vec![event]).await?;
//! let pull = Pull { max: 10, wait: std::time::Duration::from_secs(5) };
//! for leased in events.pull(&namespace, &topic, &group, pull).await? {
//!     assert!(leased.event.offset >= published.offsets[0]);
//!     events.ack(&namespace, &topic, &group, vec![leased.token]).await?.all()?;
//! }
//! # Ok(()) }
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::outbound::{Pending, Publish as PublishDoor, PublishError};
use causeway_base::telemetry;
use causeway_base::{Clock, Scope};
use causeway_model::{Name, Offset, Snapshot, Timestamp};
use causeway_store::Limit;
use tokio::sync::{mpsc, oneshot, watch};

use crate::binding::{BATCH_EVENTS_MAX, BODY_BYTES_MAX};
use crate::cloudevent::CloudEvent;
use crate::directory::{Call, Directory, Encoded, GroupDoor, Publish, Settle, TopicDoor};
use crate::driver;
use crate::error::{Error, Kind};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::structured;
use crate::tail::{self, Tail};
use crate::view::{
    DeadLetter, From, Leased, PULL_WAIT_MAX, Page, Published, Pull, Redrive, Redriven, Settled,
    SubscriptionView, Token, TopicView,
};

/// How long a call waits for the room to have started what the newest picture declares; it takes milliseconds.
const FOLLOW_WAIT_MAX: Duration = Duration::from_secs(5);
/// Most events that one read gives.
pub const READ_EVENTS_MAX: usize = 4096;
/// Most events that one pull gives.
pub const PULL_EVENTS_MAX: usize = 1000;
/// Most tokens that one ack, nack or extend takes.
pub const TOKENS_MAX: usize = 4096;
/// Most dead letters that one list gives.
pub const DEAD_LETTERS_PAGE_MAX: usize = 1000;
/// Longest delay of a nack and longest extension of a lease: what waits longer wants `deliverat`.
pub const DELAY_MAX: Duration = Duration::from_secs(12 * 3600);
/// What one read takes from the log at a time.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The events room. See the [module](self).
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    directory: watch::Receiver<Arc<Directory>>,
    metrics: Metrics,
}

impl Events {
    /// Starts the room's tasks in `scope`; they end with it. Topics and subscriptions of the snapshot are taken up from the
    /// store where they were left.
    pub fn open(options: Options, metrics: &telemetry::Metrics, scope: &Scope) -> Events {
        let metrics = Metrics::register(metrics);
        let (clock, snapshot) = (options.clock.clone(), options.snapshot.clone());
        let directory = driver::start(options, metrics.clone(), scope);
        Events { shared: Arc::new(Shared { clock, snapshot, directory, metrics }) }
    }

    /// Publishes events to a declared topic, all or none; resolves when they are durable. An event whose (source, id) the
    /// topic has taken within its dedupe window is not taken again: its offset is the first one's.
    ///
    /// # Errors
    /// [`Kind::TopicNotFound`], [`Kind::InvalidEvent`], [`Kind::TooLarge`], [`Kind::Unavailable`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the events are taken; publishing them again is safe within the dedupe window.
    pub async fn publish(
        &self,
        namespace: &Name,
        topic: &Name,
        events: Vec<CloudEvent>,
    ) -> Result<Published, Error> {
        if let Err(error) = check_publish(&events) {
            self.shared.metrics.refused.inc();
            return Err(error);
        }
        let door = self.topic_door(namespace, topic).await?;
        if events.is_empty() {
            return Ok(Published::default());
        }
        let (reply, answer) = oneshot::channel();
        let events = events.into_iter().map(Encoded::new).collect();
        ask(&door.publish, Publish { events, reply }, answer).await
    }

    /// Reads events, oldest first, at most [`READ_EVENTS_MAX`].
    ///
    /// # Errors
    /// [`Kind::TopicNotFound`], [`Kind::InvalidPosition`] beyond the end, [`Kind::Unreadable`].
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn read(
        &self,
        namespace: &Name,
        topic: &Name,
        from: From,
        limit: usize,
    ) -> Result<Page, Error> {
        let log = self.topic_door(namespace, topic).await?.log;
        let from = log.resolve(from, self.now())?;
        let records = limit.min(READ_EVENTS_MAX);
        let events = match records {
            0 => Vec::new(),
            records => log.read(from, Limit { records, bytes: READ_BYTES_MAX })?,
        };
        let next = events.last().map_or(from, |event| event.offset.next());
        Ok(Page { events, next })
    }

    /// The events from `from` on, and then every new one as it is published. Ends when the topic is deleted or the room
    /// stops; an error is its last item.
    ///
    /// # Errors
    /// As [`Events::read`].
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn tail(&self, namespace: &Name, topic: &Name, from: From) -> Result<Tail, Error> {
        let door = self.topic_door(namespace, topic).await?;
        let from = door.log.resolve(from, self.now())?;
        Ok(tail::tail(door.log, from, self.shared.clock.clone(), self.shared.directory.clone()))
    }

    /// Leases events of a pull subscription: as many as are there, waiting up to `pull.wait` for the first. Empty when none came.
    ///
    /// # Errors
    /// [`Kind::TopicNotFound`], [`Kind::SubscriptionNotFound`], [`Kind::NotPulled`], [`Kind::Unavailable`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the leases back at once if they were not received.
    pub async fn pull(
        &self,
        namespace: &Name,
        topic: &Name,
        group: &Name,
        pull: Pull,
    ) -> Result<Vec<Leased>, Error> {
        let door = self.group_door(namespace, topic, group).await?;
        let until = self.shared.clock.instant() + pull.wait.min(PULL_WAIT_MAX);
        let (reply, answer) = oneshot::channel();
        ask(&door.calls, Call::Pull { max: pull.max.clamp(1, PULL_EVENTS_MAX), until, reply }, answer).await
    }

    /// Settles events: they are not delivered again. Written down within some 20 ms; a crash before that delivers them again.
    ///
    /// # Errors
    /// As [`Events::pull`]. Tokens that are stale are told apart in the answer.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the tokens took effect.
    pub async fn ack(
        &self,
        namespace: &Name,
        topic: &Name,
        group: &Name,
        tokens: Vec<Token>,
    ) -> Result<Settled, Error> {
        self.settle(namespace, topic, group, tokens, Settle::Ack).await
    }

    /// Gives events back as failed: again after `delay`, or after the retry policy's wait; dead letters when their attempts
    /// are spent.
    ///
    /// # Errors
    /// As [`Events::ack`].
    ///
    /// # Cancel safety
    /// As [`Events::ack`].
    pub async fn nack(
        &self,
        namespace: &Name,
        topic: &Name,
        group: &Name,
        tokens: Vec<Token>,
        delay: Option<Duration>,
    ) -> Result<Settled, Error> {
        self.settle(namespace, topic, group, tokens, Settle::Nack(delay.map(|delay| delay.min(DELAY_MAX))))
            .await
    }

    /// Lengthens leases to `by` from now, or to another lease.
    ///
    /// # Errors
    /// As [`Events::ack`].
    ///
    /// # Cancel safety
    /// As [`Events::ack`].
    pub async fn extend(
        &self,
        namespace: &Name,
        topic: &Name,
        group: &Name,
        tokens: Vec<Token>,
        by: Option<Duration>,
    ) -> Result<Settled, Error> {
        self.settle(namespace, topic, group, tokens, Settle::Extend(by.map(|by| by.min(DELAY_MAX)))).await
    }

    async fn settle(
        &self,
        namespace: &Name,
        topic: &Name,
        group: &Name,
        tokens: Vec<Token>,
        how: Settle,
    ) -> Result<Settled, Error> {
        if tokens.len() > TOKENS_MAX {
            let text = format!("{} tokens in one call are more than {TOKENS_MAX}", tokens.len());
            return Err(Error::new(Kind::TooLarge, text));
        }
        let door = self.group_door(namespace, topic, group).await?;
        let (reply, answer) = oneshot::channel();
        ask(&door.calls, Call::Settle { tokens, how, reply }, answer).await
    }

    /// Sets the cursor of a subscription; leases end, dead letters stay. Durable when it resolves.
    ///
    /// # Errors
    /// As [`Events::read`] and [`Events::pull`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the cursor is set.
    pub async fn seek(&self, namespace: &Name, topic: &Name, group: &Name, to: From) -> Result<(), Error> {
        let door = self.group_door(namespace, topic, group).await?;
        let (reply, answer) = oneshot::channel();
        ask(&door.calls, Call::Seek { to, reply }, answer).await
    }

    /// Dead letters, oldest offset first, those after `after`, at most [`DEAD_LETTERS_PAGE_MAX`] and some 4 MiB: a page that is
    /// shorter than asked for is not the last one, an empty one is.
    ///
    /// # Errors
    /// As [`Events::pull`].
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn dead_letters(
        &self,
        namespace: &Name,
        topic: &Name,
        group: &Name,
        after: Option<Offset>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let door = self.group_door(namespace, topic, group).await?;
        let (reply, answer) = oneshot::channel();
        let limit = limit.min(DEAD_LETTERS_PAGE_MAX);
        ask(&door.calls, Call::DeadLetters { after, limit, reply }, answer).await
    }

    /// Delivers dead letters again; durable when it resolves. A letter leaves the list when its delivery succeeds.
    ///
    /// # Errors
    /// As [`Events::pull`], and [`Kind::InvalidFilter`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the letters are on their way.
    pub async fn redrive(
        &self,
        namespace: &Name,
        topic: &Name,
        group: &Name,
        redrive: Redrive,
    ) -> Result<Redriven, Error> {
        let door = self.group_door(namespace, topic, group).await?;
        let (reply, answer) = oneshot::channel();
        ask(&door.calls, Call::Redrive { redrive, reply }, answer).await
    }

    /// The figures of one subscription.
    ///
    /// # Errors
    /// [`Kind::TopicNotFound`], [`Kind::SubscriptionNotFound`].
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn lag(&self, namespace: &Name, topic: &Name, group: &Name) -> Result<SubscriptionView, Error> {
        let topic_door = self.topic_door(namespace, topic).await?;
        let door = topic_door.groups.get(group).ok_or_else(|| no_subscription(namespace, topic, group))?;
        Ok(view_group(group, door, topic_door.log.next()))
    }

    /// One topic with its figures and those of its subscriptions.
    ///
    /// # Errors
    /// [`Kind::TopicNotFound`], [`Kind::Unreadable`].
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn topic(&self, namespace: &Name, topic: &Name) -> Result<TopicView, Error> {
        self.view_topic(&self.topic_door(namespace, topic).await?)
    }

    /// Every topic with its figures, by namespace and name.
    ///
    /// # Errors
    /// [`Kind::Unavailable`], [`Kind::Unreadable`].
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn topics(&self) -> Result<Vec<TopicView>, Error> {
        self.directory().await?.topics.values().map(|door| self.view_topic(door)).collect()
    }

    // === how ===

    fn now(&self) -> Timestamp {
        self.shared.clock.now().into()
    }

    /// The directory, once it is as new as the picture.
    async fn directory(&self) -> Result<Arc<Directory>, Error> {
        let revision = self.shared.snapshot.borrow().revision();
        let mut directory = self.shared.directory.clone();
        let is_new = directory.wait_for(|directory| directory.revision >= revision);
        match tokio::time::timeout(FOLLOW_WAIT_MAX, is_new).await {
            Ok(Ok(directory)) => Ok(directory.clone()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(Error::unavailable("the room is behind the configuration")),
        }
    }

    async fn topic_door(&self, namespace: &Name, topic: &Name) -> Result<TopicDoor, Error> {
        let directory = self.directory().await?;
        let door = directory.topics.get(&(namespace.clone(), topic.clone()));
        door.cloned().ok_or_else(|| {
            let text = format!(
                "topic {namespace}/{topic} is not declared: PUT /v1/namespaces/{namespace}/topics/{topic}, \
                 or a document of kind Topic, declares it"
            );
            Error::new(Kind::TopicNotFound, text)
        })
    }

    async fn group_door(&self, namespace: &Name, topic: &Name, group: &Name) -> Result<GroupDoor, Error> {
        let door = self.topic_door(namespace, topic).await?;
        door.groups.get(group).cloned().ok_or_else(|| no_subscription(namespace, topic, group))
    }

    fn view_topic(&self, door: &TopicDoor) -> Result<TopicView, Error> {
        let log = &door.log;
        let (earliest, next) = (log.earliest(self.now())?, log.next());
        Ok(TopicView {
            namespace: log.namespace.clone(),
            name: log.name.clone(),
            spec: log.spec.clone(),
            earliest,
            next,
            records: next.get() - earliest.get(),
            bytes: log.bytes_before(next)?.saturating_sub(log.bytes_before(earliest)?),
            subscriptions: door.groups.iter().map(|(group, door)| view_group(group, door, next)).collect(),
        })
    }
}

fn view_group(group: &Name, door: &GroupDoor, next: Offset) -> SubscriptionView {
    let mut status = door.status.borrow().clone();
    // The task's own figure is as old as its last step; what was published since is unsettled too.
    status.lag += next.get().saturating_sub(status.end.get());
    status.end = next.max(status.end);
    SubscriptionView { group: group.clone(), spec: door.spec.clone(), status }
}

fn no_subscription(namespace: &Name, topic: &Name, group: &Name) -> Error {
    let text = format!(
        "subscription {group} of topic {namespace}/{topic} is not declared: \
         PUT /v1/namespaces/{namespace}/topics/{topic}/subscriptions/{group}, or a document of kind Subscription, declares it"
    );
    Error::new(Kind::SubscriptionNotFound, text)
}

fn check_publish(events: &[CloudEvent]) -> Result<(), Error> {
    if events.len() > BATCH_EVENTS_MAX {
        let text = format!("{} events in one publish are more than {BATCH_EVENTS_MAX}", events.len());
        return Err(Error::new(Kind::TooLarge, text));
    }
    events.iter().try_for_each(CloudEvent::check)?;
    match events.iter().map(CloudEvent::size).sum::<usize>() {
        size if size > BODY_BYTES_MAX => {
            let text = format!("a publish of {size} bytes is larger than {BODY_BYTES_MAX}");
            Err(Error::new(Kind::TooLarge, text))
        }
        _ => Ok(()),
    }
}

/// Hands a message to a task that may be busy (never waits in a queue that is full) and waits for its answer.
async fn ask<M, T>(
    door: &mpsc::Sender<M>,
    message: M,
    answer: oneshot::Receiver<Result<T, Error>>,
) -> Result<T, Error> {
    door.try_send(message).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Error::unavailable("too many calls wait already"),
        mpsc::error::TrySendError::Closed(_) => stopping(),
    })?;
    answer.await.unwrap_or_else(|_| Err(stopping()))
}

fn stopping() -> Error {
    Error::unavailable("the topic or subscription is stopping")
}

impl PublishDoor for Events {
    fn publish(&self, namespace: &str, topic: &str, event: Bytes) -> Pending<Result<(), PublishError>> {
        let events = self.clone();
        let names = Name::new(namespace).and_then(|namespace| Ok((namespace, Name::new(topic)?)));
        Box::pin(async move {
            let (namespace, topic) = names.map_err(|error| PublishError::Refused(error.to_string()))?;
            let event = structured::decode(&event).map_err(refusal)?;
            events.publish(&namespace, &topic, vec![event]).await.map_err(refusal)?;
            Ok(())
        })
    }
}

fn refusal(error: Error) -> PublishError {
    match error.kind() {
        Kind::Unavailable | Kind::Unreadable => PublishError::Unavailable(error.to_string()),
        _ => PublishError::Refused(error.to_string()),
    }
}
