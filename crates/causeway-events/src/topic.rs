//! Writing a topic: one task per topic is its only writer.
//!
//! In:    publishes from the handle's queue.     Out: records in the topic's stream, offsets to the publishers.
//! Owner: the task that `driver.rs` starts; it lives as long as the topic's document stays as it is.
//! Invariant: an offset is told only after its record is durable; a publish is taken whole or not at all.
//! Not here: reading (`log.rs`). Publishes that come while a commit is on its way wait and become the next batch, so that
//! publishers share an fdatasync without a timer; topics share the store's.

use std::collections::HashMap;

use bytes::Bytes;
use causeway_base::{Clock, Scope};
use causeway_model::{Offset, Timestamp};
use causeway_store::{Batch, Limit, Position};
use tokio::sync::mpsc;

use crate::directory::{Encoded, Publish};
use crate::error::{Error, Kind};
use crate::journal;
use crate::log::{TopicLog, of_store};
use crate::metrics::Metrics;
use crate::view::Published;
use crate::window::{IDENTITIES_MAX, Window};

/// Most events of one commit, and most bytes: some milliseconds of a disk's time, well below the store's own bounds.
const BATCH_EVENTS_MAX: usize = 8192;
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records that are read before other tasks get a turn, when the window is rebuilt.
const REBUILD_CHUNK: usize = 4096;
/// How often a commit that found the stream longer than known is decided again (another writer is a bug, not a habit).
const CONFLICTS_MAX: usize = 3;

/// The writing side of one topic.
pub(crate) struct Topic {
    log: TopicLog,
    window: Window,
    /// Bytes of every record of the topic.
    bytes: u64,
    last_published: Timestamp,
    next: Offset,
    clock: Clock,
    metrics: Metrics,
}

/// A batch that is decided: what each publish will be answered, and the records.
#[derive(Default)]
struct Decided {
    answers: Vec<Published>,
    records: Vec<Bytes>,
    identities: Vec<u128>,
    duplicates: u64,
}

/// Runs until the scope ends or nobody can publish any more.
pub(crate) async fn run(
    log: TopicLog,
    mut queue: mpsc::Receiver<Publish>,
    clock: Clock,
    metrics: Metrics,
    scope: Scope,
) {
    let mut topic = match Topic::open(log, clock, metrics).await {
        Ok(topic) => topic,
        Err(error) => return refuse_all(queue, error, scope).await,
    };
    let stopped = scope.cancelled();
    tokio::pin!(stopped);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = &mut stopped => return,
            first = queue.recv() => match first {
                Some(first) => gather(&mut batch, first, &mut queue),
                None => return,
            },
        }
        topic.commit(std::mem::take(&mut batch)).await;
    }
}

fn gather(batch: &mut Vec<Publish>, first: Publish, queue: &mut mpsc::Receiver<Publish>) {
    let (mut events, mut bytes) = (first.events.len(), first.bytes());
    batch.push(first);
    while events < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(publish) = queue.try_recv() else { return };
        events += publish.events.len();
        bytes += publish.bytes();
        batch.push(publish);
    }
}

/// A topic that cannot be read is not written either: its dedupe window would be wrong.
async fn refuse_all(mut queue: mpsc::Receiver<Publish>, error: Error, scope: Scope) {
    tracing::error!(%error, "a topic cannot be opened and takes no events");
    let stopped = scope.cancelled();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            publish = queue.recv() => match publish {
                Some(publish) => drop(publish.reply.send(Err(error.clone()))),
                None => return,
            },
        }
    }
}

impl Topic {
    async fn open(log: TopicLog, clock: Clock, metrics: Metrics) -> Result<Topic, Error> {
        let next = log.next();
        let mut topic = Topic {
            window: Window::new(log.spec.dedupe),
            bytes: log.bytes_before(next)?,
            last_published: log.last_published()?,
            next,
            log,
            clock,
            metrics,
        };
        topic.rebuild().await?;
        Ok(topic)
    }

    /// Reads the window back from the log.
    async fn rebuild(&mut self) -> Result<(), Error> {
        if !self.window.is_on() {
            return Ok(());
        }
        let begin = self.log.at_time(self.window.begin(self.clock.now().into()))?;
        let remembered = Offset::new(self.next.get().saturating_sub(IDENTITIES_MAX as u64));
        let mut from = Position::new(begin.max(remembered).get());
        let limit = Limit { records: REBUILD_CHUNK, bytes: BATCH_BYTES_MAX };
        loop {
            let records = self.log.store().read(&self.log.stream, from, limit).map_err(of_store)?;
            let Some(last) = records.last() else { return Ok(()) };
            from = last.position.next();
            for record in &records {
                let unreadable = |why: String| {
                    Error::new(
                        Kind::Unreadable,
                        format!("record {} of {}: {why}", record.position, self.log.stream),
                    )
                };
                let event = journal::decode_event(&record.bytes).map_err(unreadable)?;
                let identity = journal::decode_identity(event.event).map_err(unreadable)?;
                let hash = self.window.hash(identity.source, identity.id);
                self.window.remember(event.published, hash, Offset::new(record.position.get()));
            }
            tokio::task::yield_now().await;
        }
    }

    async fn commit(&mut self, publishes: Vec<Publish>) {
        match self.append(&publishes).await {
            Ok(answers) => {
                let replies = publishes.into_iter().map(|publish| publish.reply);
                replies.zip(answers).for_each(|(reply, answer)| drop(reply.send(Ok(answer))));
            }
            Err(error) => {
                self.metrics.failed.inc_by(publishes.len() as u64);
                publishes.into_iter().for_each(|publish| drop(publish.reply.send(Err(error.clone()))));
            }
        }
    }

    async fn append(&mut self, publishes: &[Publish]) -> Result<Vec<Published>, Error> {
        for _ in 0..CONFLICTS_MAX {
            let now = Timestamp::from(self.clock.now()).max(self.last_published);
            let decided = self.decide(now, publishes)?;
            if decided.records.is_empty() {
                self.metrics.duplicates.inc_by(decided.duplicates);
                return Ok(decided.answers);
            }
            let expected = Batch::new().expect(&self.log.stream, Position::new(self.next.get()));
            let append = |batch: Batch, record: &Bytes| batch.append(&self.log.stream, record.clone());
            let batch = decided.records.iter().fold(expected, append);
            match self.log.store().append(batch).await {
                Ok(_) => return Ok(self.apply(now, decided)),
                Err(error) if matches!(error.kind, causeway_store::Kind::Conflict { .. }) => {
                    tracing::warn!(topic = %self.log.stream, %error, "another writer in a topic's stream, deciding again");
                    *self = Topic::open(self.log.clone(), self.clock.clone(), self.metrics.clone()).await?;
                }
                Err(error) => return Err(of_store(error)),
            }
        }
        Err(Error::unavailable("the topic's stream grows under another writer"))
    }

    fn decide(&mut self, now: Timestamp, publishes: &[Publish]) -> Result<Decided, Error> {
        let mut decided = Decided::default();
        let mut fresh: HashMap<u128, Vec<(usize, Offset)>> = HashMap::new();
        let events: Vec<&Encoded> = publishes.iter().flat_map(|publish| &publish.events).collect();
        let (mut next, mut bytes, mut place) = (self.next, self.bytes, 0);
        for publish in publishes {
            let mut answer = Published::default();
            for (at, event) in publish.events.iter().enumerate() {
                let hash = self.window.hash(&event.source, &event.id);
                let known = match self.window.is_on() {
                    true => fresh
                        .get(&hash)
                        .and_then(|same| same.iter().find(|(other, _)| event.is_same(events[*other])))
                        .map(|(_, offset)| *offset),
                    false => None,
                };
                let known = match known {
                    None => self.find(now, hash, event)?,
                    known => known,
                };
                match known {
                    Some(offset) => {
                        answer.offsets.push(offset);
                        answer.duplicates.push(at);
                        decided.duplicates += 1;
                    }
                    None => {
                        let record = journal::encode_event(now, bytes, &event.bytes);
                        bytes += record.len() as u64;
                        decided.records.push(record);
                        decided.identities.push(hash);
                        answer.offsets.push(next);
                        fresh.entry(hash).or_default().push((place, next));
                        next = next.next();
                    }
                }
                place += 1;
            }
            decided.answers.push(answer);
        }
        Ok(decided)
    }

    /// Where the same event lies, when the topic took it within its window. The log has the last word.
    fn find(&mut self, now: Timestamp, hash: u128, event: &Encoded) -> Result<Option<Offset>, Error> {
        if !self.window.is_on() {
            return Ok(None);
        }
        let Some(offset) = self.window.find(now, hash) else { return Ok(None) };
        let known = self.log.one(offset)?;
        let is_same =
            known.is_some_and(|known| known.event.id == event.id && known.event.source == event.source);
        Ok(is_same.then_some(offset))
    }

    fn apply(&mut self, now: Timestamp, decided: Decided) -> Vec<Published> {
        self.last_published = now;
        let bytes: u64 = decided.records.iter().map(|record| record.len() as u64).sum();
        self.bytes += bytes;
        let mut evicted = 0;
        for hash in decided.identities {
            evicted += self.window.remember(now, hash, self.next);
            self.next = self.next.next();
        }
        self.metrics.published.inc_by(decided.records.len() as u64);
        self.metrics.published_bytes.inc_by(bytes);
        self.metrics.duplicates.inc_by(decided.duplicates);
        self.metrics.dedupe_evicted.inc_by(evicted);
        decided.answers
    }
}
