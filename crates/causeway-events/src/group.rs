//! One subscription's task: feeds its machine, carries out what it assigns, writes down what it decides.
//!
//! In:    the topic's growth, calls of the handle, answers to pushes, time, a changed document.
//! Out:   pushes through `Outbound`, leases to pullers, records in the store, figures for the handle.
//! Owner: the task that `driver.rs` starts; the machine is its alone.
//! Invariant: a seek or redrive is answered after it is durable; acks are written within [`FLUSH_AFTER`].
//! Not here: decisions (`machine.rs`), answers' meaning (`push.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::outbound::CallError;
use causeway_base::{Clock, Outbound, Scope};
use causeway_model::{Delivery, Offset, Revision, Subscription, Timestamp};
use causeway_store::Limit;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::directory::{Call, Reply, Settle};
use crate::error::{Error, Kind};
use crate::filter::Filter;
use crate::invariants;
use crate::journal::Reason;
use crate::log::TopicLog;
use crate::machine::{Assignment, Failed, Machine, Offer, Records, Rules, Stale};
use crate::metrics::Metrics;
use crate::push::{self, Verdict};
use crate::recover::{CHECKPOINT_EVERY, Streams};
use crate::view::{DeadLetter, DeadReason, Leased, Redrive, Redriven, Settled, State, Status, Stored, Token};

/// How long acks may wait to be written together: one fdatasync for all of them. A crash repeats that much.
pub(crate) const FLUSH_AFTER: Duration = Duration::from_millis(20);
/// How long the task waits before it tries storage or an unreadable topic again.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);
/// Longest sleep: the wall clock may be set, and due times are wall-clock times.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// How long pushes that are on their way may take to end when the node stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Pushes of one subscription that are on their way at once, whatever its document says: each is a task's worth of memory.
const PUSHES_MAX: usize = 1024;
/// Pulls of one subscription that may wait at once.
const PULLERS_MAX: usize = 1024;
/// Most bytes of events that one pull, or one page of dead letters, gives (one event is always given).
const PULL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is read from the topic at a time.
const CHUNK: Limit = Limit { records: 256, bytes: 1024 * 1024 };
/// Events that are kept in memory between being read and going out; others are read again.
const CACHE_EVENTS_MAX: usize = 512;
const CACHE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A lease outlives its push's own timeout by this, so that the answer is heard first.
const PUSH_MARGIN: Duration = Duration::from_secs(5);

/// A document, as the task runs it.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) spec: Arc<Subscription>,
    pub(crate) revision: Revision,
}

impl Document {
    pub(crate) fn rules(&self) -> Rules {
        let in_flight = (self.spec.max_in_flight as usize).max(1);
        let max_in_flight = match self.spec.delivery {
            Delivery::Push { .. } => in_flight.min(PUSHES_MAX),
            Delivery::Pull => in_flight,
        };
        Rules {
            ordering: self.spec.ordering,
            retry: self.spec.retry,
            max_in_flight,
            dead_letter: self.spec.dead_letter,
        }
    }
}

/// What the driver tells a running task.
#[derive(Clone, Debug)]
pub(crate) enum Orders {
    Run(Document),
    /// End now; pushes that are on their way are given up (they may be repeated).
    End,
}

/// What a task is started with.
pub(crate) struct Group {
    pub(crate) log: TopicLog,
    pub(crate) streams: Streams,
    pub(crate) machine: Machine,
    pub(crate) document: Document,
    pub(crate) outbound: Arc<dyn Outbound>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) status: watch::Sender<Status>,
}

type Pushed = (Token, Result<http::Response<bytes::Bytes>, CallError>);

struct Puller {
    max: usize,
    until: Instant,
    reply: Reply<Vec<Leased>>,
}

struct Task {
    group: Group,
    filter: Result<Option<Filter>, Error>,
    pushes: FuturesUnordered<BoxFuture<'static, Pushed>>,
    pullers: VecDeque<Puller>,
    cache: BTreeMap<Offset, Stored>,
    cache_bytes: usize,
    /// Records that the store has not taken yet, older than what the machine holds.
    unsent: Option<Records>,
    flush_at: Option<Instant>,
    since_checkpoint: usize,
    /// Why the topic cannot be read, and when to try again.
    trouble: Option<(Error, Instant)>,
    is_hungry: bool,
    filter_errors: u64,
    expired: u64,
}

/// The figures of a machine before its task's first step.
pub(crate) fn first_status(machine: &Machine, end: Offset) -> Status {
    Status {
        cursor: machine.cursor,
        end,
        lag: machine.lag(end),
        in_flight: 0,
        waiting: machine.entries.len(),
        dead_letters: machine.letters.len(),
        parked_keys: machine.parked_keys(),
        filter_errors: 0,
        expired: 0,
        state: State::Active,
    }
}

/// Runs until the orders say so or the scope ends.
pub(crate) async fn run(
    group: Group,
    mut orders: watch::Receiver<Orders>,
    mut calls: mpsc::Receiver<Call>,
    scope: Scope,
) {
    let mut task = Task::new(group);
    let mut end = task.group.log.follow();
    let stopped = scope.cancelled();
    tokio::pin!(stopped);
    loop {
        end.borrow_and_update();
        task.step();
        let wake = task.wake();
        tokio::select! {
            () = &mut stopped => break,
            changed = orders.changed() => {
                let told = orders.borrow_and_update().clone();
                match told {
                    Orders::Run(document) if changed.is_ok() => task.configure(document),
                    _ => return task.end(Duration::ZERO).await,
                }
            }
            call = calls.recv() => match call {
                Some(call) => task.on_call(call).await,
                None => return task.end(Duration::ZERO).await,
            },
            Some(pushed) = task.pushes.next() => task.on_pushed(pushed),
            grown = end.changed() => if grown.is_err() { break },
            () = tokio::time::sleep_until(wake) => {}
            () = std::future::ready(()), if task.is_hungry => tokio::task::yield_now().await,
        }
        task.flush_if_due().await;
    }
    task.end(DRAIN_MAX).await;
}

impl Task {
    fn new(group: Group) -> Self {
        let filter = compile(&group.document);
        Task {
            group,
            filter,
            pushes: FuturesUnordered::new(),
            pullers: VecDeque::new(),
            cache: BTreeMap::new(),
            cache_bytes: 0,
            unsent: None,
            flush_at: None,
            since_checkpoint: 0,
            trouble: None,
            is_hungry: false,
            filter_errors: 0,
            expired: 0,
        }
    }

    fn now(&self) -> Timestamp {
        self.group.clock.now().into()
    }

    /// Everything that can go on without waiting goes on.
    fn step(&mut self) {
        let now = self.now();
        for failed in self.group.machine.tick(now) {
            self.group.metrics.leases_expired.inc();
            self.count(failed);
        }
        self.feed(now);
        self.serve_pulls(now);
        self.send_pushes(now);
        // Asked last: what went out has made room.
        self.is_hungry = self.is_behind() && !self.is_blocked();
        self.note_records();
        self.publish_status();
        if cfg!(debug_assertions) && self.group.machine.entries.len() <= invariants::CHECKED_MAX {
            debug_assert_eq!(invariants::check(&self.group.machine), Ok(()));
        }
    }

    /// When the task has something to do by itself.
    fn wake(&self) -> Instant {
        let (now, instant) = (self.now(), self.group.clock.instant());
        let machine = self.group.machine.wake(now).map(|at| instant + at.since(now));
        let pulls = self.pullers.iter().map(|puller| puller.until);
        let trouble = self.trouble.as_ref().filter(|_| self.is_behind()).map(|(_, until)| *until);
        let all = machine.into_iter().chain(pulls).chain(trouble).chain(self.flush_at);
        all.min().unwrap_or(instant + SLEEP_MAX).min(instant + SLEEP_MAX)
    }

    fn configure(&mut self, document: Document) {
        self.group.machine.configure(document.rules(), document.revision);
        self.filter = compile(&document);
        self.group.document = document;
        if matches!(self.group.document.spec.delivery, Delivery::Push { .. }) {
            let text = "the subscription is pushed to now";
            let refuse = |puller: Puller| drop(puller.reply.send(Err(Error::new(Kind::NotPulled, text))));
            self.pullers.drain(..).for_each(refuse);
        }
    }

    // === assign: the topic's events into the machine ===

    fn feed(&mut self, now: Timestamp) {
        if !self.is_behind() || self.is_blocked() {
            return;
        }
        match self.read_chunk(now) {
            Ok(()) => self.trouble = None,
            Err(error) => {
                if self.trouble.is_none() {
                    tracing::error!(subscription = %self.name(), %error, "cannot read the topic, trying again");
                }
                self.trouble = Some((error, self.group.clock.instant() + TROUBLE_WAIT));
            }
        }
    }

    /// Whether the topic holds events that the machine would take now.
    fn is_behind(&self) -> bool {
        let machine = &self.group.machine;
        self.filter.is_ok() && machine.room() > 0 && machine.next < self.group.log.next()
    }

    fn is_blocked(&self) -> bool {
        self.trouble.as_ref().is_some_and(|(_, until)| self.group.clock.instant() < *until)
    }

    fn read_chunk(&mut self, now: Timestamp) -> Result<(), Error> {
        let log = &self.group.log;
        let expired = self.group.machine.expire(log.earliest(now)?);
        self.expired += expired;
        self.group.metrics.expired.inc_by(expired);
        let limit = Limit { records: CHUNK.records.min(self.group.machine.room()), ..CHUNK };
        for stored in log.read(self.group.machine.next, limit)? {
            // A machine that jumped ahead (an old span of settled events) wants the rest of the chunk at its place.
            if stored.offset < self.group.machine.next {
                continue;
            }
            let offer = self.offer(&stored);
            self.group.machine.offer(now, offer);
            if self.group.machine.entries.contains_key(&stored.offset) {
                self.remember(stored);
            }
        }
        Ok(())
    }

    fn offer(&mut self, stored: &Stored) -> Offer {
        let is_wanted = match &self.filter {
            Ok(Some(filter)) => filter.matches(&stored.event).unwrap_or_else(|why| {
                self.filter_errors += 1;
                self.group.metrics.filter_errors.inc();
                tracing::debug!(offset = %stored.offset, %why, "a filter failed on an event: not matched");
                false
            }),
            Ok(None) => true,
            Err(_) => false,
        };
        if !is_wanted {
            self.group.metrics.filtered.inc();
        }
        Offer {
            key: stored.event.partition_key().map(Arc::from),
            deliver_at: stored.event.deliver_at(),
            is_wanted,
        }
    }

    fn remember(&mut self, stored: Stored) {
        let size = stored.event.size();
        if self.cache.len() < CACHE_EVENTS_MAX && self.cache_bytes + size <= CACHE_BYTES_MAX {
            self.cache_bytes += size;
            self.cache.insert(stored.offset, stored);
        }
    }

    fn event(&mut self, offset: Offset) -> Result<Stored, Error> {
        if let Some(stored) = self.cache.remove(&offset) {
            self.cache_bytes -= stored.event.size();
            return Ok(stored);
        }
        let missing = || Error::new(Kind::Unreadable, format!("event {offset} is not in its topic"));
        self.group.log.one(offset)?.ok_or_else(missing)
    }

    // === attempt: pulls ===

    fn serve_pulls(&mut self, now: Timestamp) {
        let instant = self.group.clock.instant();
        self.pullers.retain(|puller| !puller.reply.is_closed());
        while self.group.machine.has_work(now)
            && let Some(puller) = self.pullers.pop_front()
        {
            let leased = self.lease(now, puller.max);
            if leased.is_empty() {
                self.pullers.push_front(puller);
                break;
            }
            self.group.metrics.attempts.inc_by(leased.len() as u64);
            if let Err(Ok(returned)) = puller.reply.send(Ok(leased)) {
                for lease in &returned {
                    // It was taken a line ago, so it cannot be stale.
                    let _ = self.group.machine.release(&lease.token);
                }
            }
        }
        while let Some(at) = self.pullers.iter().position(|puller| puller.until <= instant) {
            let puller = self.pullers.remove(at).expect("it was found a line ago");
            let _ = puller.reply.send(Ok(Vec::new()));
        }
    }

    fn lease(&mut self, now: Timestamp, max: usize) -> Vec<Leased> {
        let (mut leased, mut bytes) = (Vec::new(), 0);
        while leased.len() < max && bytes < PULL_BYTES_MAX {
            let lease = self.group.document.spec.lease;
            let Some(Assignment { token, attempt, deadline }) = self.group.machine.take(now, 1, lease).pop()
            else {
                break;
            };
            match self.event(token.offset) {
                Ok(event) => {
                    bytes += event.event.size();
                    leased.push(Leased { event, token, attempt, deadline });
                }
                Err(error) => self.fail(now, &token, &error.to_string(), None),
            }
        }
        leased
    }

    // === attempt: pushes ===

    fn send_pushes(&mut self, now: Timestamp) {
        let Delivery::Push { service, path } = self.group.document.spec.delivery.clone() else { return };
        let timeout = self.group.document.spec.lease;
        for Assignment { token, .. } in self.group.machine.take(now, PUSHES_MAX, timeout + PUSH_MARGIN) {
            match self.event(token.offset) {
                Ok(stored) => {
                    self.group.metrics.attempts.inc();
                    let answer =
                        self.group.outbound.call(push::call(&stored.event, &service, &path, timeout));
                    self.pushes.push(Box::pin(async move { (token, answer.await) }));
                }
                Err(error) => self.fail(now, &token, &error.to_string(), None),
            }
        }
    }

    fn on_pushed(&mut self, (token, answer): Pushed) {
        let now = self.now();
        let machine = &mut self.group.machine;
        // A verdict on a lease that has ended (a seek, a lease's end) says nothing any more.
        let heard = match push::verdict(now, answer) {
            Verdict::Acked => machine.ack(&token).map(|()| self.group.metrics.acked.inc()),
            Verdict::Later { until } => {
                machine.defer(now, &token, until).map(|()| self.group.metrics.deferred.inc())
            }
            Verdict::Refused { error } => {
                machine.refuse(now, &token, &error).map(|()| self.group.metrics.dead_lettered.inc())
            }
            Verdict::Gone => self.on_gone(&token),
            Verdict::Failed { error } => {
                machine.fail(now, &token, &error, None).map(|failed| self.count(failed))
            }
        };
        if heard.is_err() {
            tracing::debug!(offset = %token.offset, "an answer came after its lease had ended");
        }
    }

    fn on_gone(&mut self, token: &Token) -> Result<u64, Stale> {
        self.group.machine.stop(token, self.group.document.revision)?;
        let subscription = self.name();
        tracing::warn!(
            subscription,
            "the receiver answered 410: nothing is pushed until the subscription is changed [CW-1709]"
        );
        Ok(self.group.metrics.stopped.inc())
    }

    fn fail(&mut self, now: Timestamp, token: &Token, error: &str, delay: Option<Duration>) {
        if let Ok(failed) = self.group.machine.fail(now, token, error, delay) {
            self.count(failed);
        }
    }

    fn count(&self, failed: Failed) -> u64 {
        match failed {
            Failed::Retried => self.group.metrics.retried.inc(),
            Failed::DeadLettered => self.group.metrics.dead_lettered.inc(),
        }
    }

    // === calls ===

    async fn on_call(&mut self, call: Call) {
        match call {
            Call::Pull { max, until, reply } => self.on_pull(Puller { max, until, reply }),
            Call::Settle { tokens, how, reply } => {
                let settled = self.on_settle(tokens, how);
                self.publish_status();
                let _ = reply.send(Ok(settled));
            }
            Call::Seek { to, reply } => {
                let sought = self.on_seek(to).await;
                let _ = reply.send(sought);
            }
            Call::DeadLetters { after, limit, reply } => {
                let _ = reply.send(Ok(self.dead_letters(after, limit)));
            }
            Call::Redrive { redrive, reply } => {
                let redriven = self.on_redrive(redrive).await;
                let _ = reply.send(redriven);
            }
        }
    }

    fn on_pull(&mut self, puller: Puller) {
        let refusal = match &self.group.document.spec.delivery {
            Delivery::Push { service, .. } => {
                let text =
                    format!("subscription {} is pushed to {service}: it cannot be pulled from", self.name());
                Some(Error::new(Kind::NotPulled, text))
            }
            Delivery::Pull if self.pullers.len() >= PULLERS_MAX => {
                Some(Error::unavailable(format!("{PULLERS_MAX} pulls wait already")))
            }
            Delivery::Pull => self.filter.as_ref().err().cloned(),
        };
        match refusal {
            Some(error) => drop(puller.reply.send(Err(error))),
            None => self.pullers.push_back(puller),
        }
    }

    fn on_settle(&mut self, tokens: Vec<Token>, how: Settle) -> Settled {
        let (now, mut settled) = (self.now(), Settled::default());
        for token in tokens {
            match self.settle_one(now, &token, how) {
                Ok(()) => settled.done += 1,
                Err(Stale) => settled.stale.push(token),
            }
        }
        self.group.metrics.tokens_stale.inc_by(settled.stale.len() as u64);
        settled
    }

    fn settle_one(&mut self, now: Timestamp, token: &Token, how: Settle) -> Result<(), Stale> {
        let machine = &mut self.group.machine;
        match how {
            Settle::Ack => {
                machine.ack(token)?;
                self.group.metrics.acked.inc();
                Ok(())
            }
            Settle::Nack(delay) => {
                let failed = machine.fail(now, token, "given back by its puller", delay)?;
                self.count(failed);
                Ok(())
            }
            Settle::Extend(by) => machine.extend(now, token, by.unwrap_or(self.group.document.spec.lease)),
        }
    }

    async fn on_seek(&mut self, to: crate::view::From) -> Result<(), Error> {
        let now = self.now();
        let to = self.group.log.resolve(to, now)?;
        self.group.machine.seek(now, to);
        self.cache.clear();
        self.cache_bytes = 0;
        self.publish_status();
        self.flush().await
    }

    fn dead_letters(&self, after: Option<Offset>, limit: usize) -> Vec<DeadLetter> {
        let from = after.map_or(Offset::default(), Offset::next);
        let earliest = self.group.log.earliest(self.now()).unwrap_or_default();
        let mut bytes = 0;
        let letters = self.group.machine.letters.range(from..).take(limit);
        letters
            .map_while(|(offset, dead)| {
                if bytes >= PULL_BYTES_MAX {
                    return None;
                }
                let event = match *offset >= earliest {
                    true => self.group.log.one(*offset).ok().flatten(),
                    false => None,
                };
                bytes += event.as_ref().map_or(0, |stored| stored.event.size());
                Some(DeadLetter {
                    offset: *offset,
                    reason: match dead.letter.reason {
                        Reason::Attempts => DeadReason::Attempts,
                        Reason::Refused => DeadReason::Refused,
                        Reason::Behind => DeadReason::Behind,
                    },
                    error: dead.letter.error.clone(),
                    attempts: dead.letter.attempts,
                    at: dead.letter.at,
                    key: event
                        .as_ref()
                        .and_then(|stored| stored.event.partition_key())
                        .or(dead.letter.key.clone()),
                    is_redriven: dead.redriven.is_some(),
                    event,
                })
            })
            .collect()
    }

    async fn on_redrive(&mut self, redrive: Redrive) -> Result<Redriven, Error> {
        let filter = redrive.filter.as_deref().map(Filter::compile).transpose()?;
        let mut chosen = BTreeSet::new();
        for offset in self.group.machine.letters.keys() {
            let is_chosen = match &filter {
                None => true,
                Some(filter) => {
                    let event = self.group.log.one(*offset)?;
                    event.is_some_and(|stored| filter.matches(&stored.event).unwrap_or(false))
                }
            };
            if is_chosen {
                chosen.insert(*offset);
            }
        }
        let offsets = self.group.machine.redrivable(&chosen);
        if redrive.is_dry_run || offsets.is_empty() {
            return Ok(Redriven { offsets });
        }
        let now = self.now();
        self.group.machine.redrive(now, offsets.clone(), redrive.rate);
        self.group.metrics.redriven.inc_by(offsets.len() as u64);
        self.publish_status();
        self.flush().await?;
        Ok(Redriven { offsets })
    }

    // === what is written down and shown ===

    fn note_records(&mut self) {
        let has_records = self.unsent.is_some() || self.group.machine.has_records();
        if has_records && self.flush_at.is_none() {
            self.flush_at = Some(self.group.clock.instant() + FLUSH_AFTER);
        }
    }

    async fn flush_if_due(&mut self) {
        if self.flush_at.is_some_and(|at| at <= self.group.clock.instant())
            && let Err(error) = self.flush().await
        {
            tracing::warn!(subscription = %self.name(), %error, "cannot write acks down, trying again");
        }
    }

    /// Writes everything that is decided; on an error it stays, in order, for the next time.
    async fn flush(&mut self) -> Result<(), Error> {
        while self.unsent.is_some() || self.group.machine.has_records() {
            let records = match self.unsent.take() {
                Some(records) => records,
                None => self.next_records(),
            };
            if let Err(error) = self.group.streams.append(&records).await {
                self.unsent = Some(records);
                self.flush_at = Some(self.group.clock.instant() + TROUBLE_WAIT);
                return Err(error);
            }
        }
        self.flush_at = None;
        Ok(())
    }

    fn next_records(&mut self) -> Records {
        let mut records = self.group.machine.drain();
        self.since_checkpoint += records.cursor.len();
        if self.since_checkpoint >= CHECKPOINT_EVERY {
            self.since_checkpoint = 0;
            records.cursor.push(self.group.machine.checkpoint());
        }
        records
    }

    fn publish_status(&self) {
        let machine = &self.group.machine;
        let end = self.group.log.next();
        let state = match (&self.filter, &self.trouble) {
            (Err(error), _) | (_, Some((error, _))) => State::Broken { why: error.to_string() },
            _ if machine.stopped.is_some() => State::Stopped,
            _ if machine.is_full() => State::Full,
            _ => State::Active,
        };
        let status = Status {
            cursor: machine.cursor,
            end,
            lag: machine.lag(end),
            in_flight: machine.in_flight,
            waiting: machine.entries.len() - machine.in_flight,
            dead_letters: machine.letters.len(),
            parked_keys: machine.parked_keys(),
            filter_errors: self.filter_errors,
            expired: self.expired,
            state,
        };
        self.group.status.send_if_modified(|known| {
            let is_news = *known != status;
            *known = status;
            is_news
        });
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.group.log.namespace, self.group.log.name, self.group.document.spec.group)
    }

    /// Waits for pushes that are on their way, writes down, and is gone.
    async fn end(mut self, drain: Duration) {
        let deadline = self.group.clock.instant() + drain;
        while !self.pushes.is_empty() {
            match tokio::time::timeout_at(deadline, self.pushes.next()).await {
                Ok(Some(pushed)) => self.on_pushed(pushed),
                _ => break,
            }
        }
        if let Err(error) = self.flush().await {
            tracing::warn!(subscription = %self.name(), %error, "the last acks are not written down: they are repeated");
        }
    }
}

fn compile(document: &Document) -> Result<Option<Filter>, Error> {
    if let Delivery::Push { path, .. } = &document.spec.delivery
        && !push::is_path(path)
    {
        return Err(Error::new(Kind::InvalidFilter, format!("push path {path:?} is not a path")));
    }
    let filter = document.spec.filter.as_deref().map(Filter::compile).transpose();
    filter.inspect_err(|error| tracing::error!(group = %document.spec.group, %error, "a subscription waits for a filter that works"))
}

/// Tells whoever waits that the task has ended.
pub(crate) struct Ended(pub(crate) Option<oneshot::Sender<()>>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            let _ = ended.send(());
        }
    }
}
