//! The only loop of a shard: takes events in, decides, writes one batch, applies it, performs what is next.
//!
//! In:    requests of the handle, ends of attempts, timers.      Out: batches to the store, calls through the doors, replies.
//! Owner: one task per shard.
//! Invariant: one batch is under way at a time, and a saga has at most one record in it: every decision is taken on what is
//! durable, and nothing is performed or answered before its record is.
//! Not here: what an event means (`machine.rs`), how a call is made (`perform.rs`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use causeway_base::outbound::Pending;
use causeway_base::scope::Failure;
use causeway_base::{Clock, Seed};
use causeway_model::Timestamp;
use causeway_store::{Batch, Committed, Position, Store};

use crate::error::{Error, ErrorKind};
use crate::id::SagaId;
use crate::journal::{self, Line};
use crate::machine::{At, Decision, Outcome, Rules, Work};
use crate::metrics::Metrics;
use crate::perform::{self, Doors, Marks};
use crate::plan::Plan;
use crate::record::{Command, Record, Started as StartRecord, Status};
use crate::shard::{Place, Shard};
use crate::view::{Moment, Started};

/// Most records in one batch: a batch is decided under the shard's lock, a millisecond at most.
const BATCH_RECORDS_MAX: usize = 1024;
/// Most bytes in one batch, well below the store's own bound.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Events that wait for the batch under way; at this many, nothing more is taken in.
const EVENTS_MAX: usize = 4096;
/// How long ends of calls under way are waited for at shutdown; what is cut off then is sent again after the restart.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Longest sleep until the next timer: it is set by the wall clock, which may jump.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Waits before a batch is tried again while the disk is full or the store is busy.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

pub(crate) struct Driver {
    pub(crate) shard: Arc<Mutex<Shard>>,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) seed: Seed,
    pub(crate) doors: Doors,
    pub(crate) rules: Rules,
    pub(crate) calls_max: usize,
    pub(crate) open_max: usize,
    pub(crate) epoch: u64,
    pub(crate) metrics: Metrics,
}

/// What the handle asks.
pub(crate) enum Request {
    Start { plan: Arc<Plan>, record: Box<StartRecord>, reply: oneshot::Sender<Result<Started, Error>> },
    Command { id: SagaId, command: Command, caller: String, reply: oneshot::Sender<Result<(), Error>> },
}

enum Event {
    Asked(Request),
    Ended(u64, Work, Outcome),
    Time(u64),
}

/// A line of the batch under way and who waits for it.
struct Staged {
    line: Line,
    then: Notify,
}

enum Notify {
    Nobody,
    Starter(Arc<Plan>, oneshot::Sender<Result<Started, Error>>),
    Commander(oneshot::Sender<Result<(), Error>>),
}

/// What the loop holds between two turns.
struct Turn {
    events: VecDeque<Event>,
    staged: Vec<Staged>,
    append: Option<BoxFuture<'static, Result<Committed, causeway_store::Error>>>,
    calls: FuturesUnordered<Pending<(u64, Work, Outcome)>>,
    queue: VecDeque<(u64, Work)>,
    timers: BinaryHeap<Reverse<(Timestamp, u64)>>,
    work: Vec<Work>,
}

impl Driver {
    pub(crate) async fn run(
        self,
        inbox: mpsc::Receiver<Request>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let shard = self.shard.clone();
        let ended = self.drive(inbox, cancelled).await;
        shard.lock().wake_all();
        ended
    }

    async fn drive(
        self,
        mut inbox: mpsc::Receiver<Request>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let mut turn = Turn {
            events: VecDeque::new(),
            staged: Vec::new(),
            append: None,
            calls: FuturesUnordered::new(),
            queue: VecDeque::new(),
            timers: BinaryHeap::new(),
            work: Vec::new(),
        };
        self.resume(&mut turn);
        let mut cancelled = std::pin::pin!(cancelled);
        let mut drained = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut is_draining = false;
        loop {
            if turn.append.is_none() {
                self.decide(&mut turn);
            }
            if !is_draining {
                self.send(&mut turn);
            } else if turn.append.is_none() && turn.calls.is_empty() && turn.events.is_empty() {
                return Ok(());
            }
            if turn.append.is_none() && !turn.events.is_empty() {
                // A request that could not be made has ended already.
                continue;
            }
            let timer = turn.timers.peek().map(|Reverse((time, _))| time.since(now(&self.clock)));
            tokio::select! {
                biased;
                () = &mut cancelled, if !is_draining => {
                    is_draining = true;
                    inbox.close();
                    drained.as_mut().reset(self.clock.instant() + DRAIN_MAX);
                }
                committed = ready(&mut turn.append), if turn.append.is_some() => {
                    turn.append = None;
                    let committed = committed.map_err(|error| {
                        Error::journal("cannot write the journal of sagas", error)
                    })?;
                    self.commit(&mut turn, &committed)?;
                }
                Some(end) = turn.calls.next(), if !turn.calls.is_empty() => self.ended(&mut turn, end),
                Some(request) = inbox.recv(), if !is_draining && turn.events.len() < EVENTS_MAX => {
                    turn.events.push_back(Event::Asked(request));
                    while turn.events.len() < EVENTS_MAX && let Ok(more) = inbox.try_recv() {
                        turn.events.push_back(Event::Asked(more));
                    }
                }
                () = tokio::time::sleep(timer.unwrap_or_default().min(SLEEP_MAX)), if timer.is_some() && !is_draining => {
                    self.ring(&mut turn);
                }
                () = &mut drained, if is_draining => return Ok(()),
            }
        }
    }

    /// Goes on with every open saga.
    fn resume(&self, turn: &mut Turn) {
        let mut shard = self.shard.lock();
        let now = now(&self.clock);
        for key in shard.open_keys() {
            self.schedule(&mut shard, turn, key, now);
        }
    }

    // --- decide: events -> one batch ---

    /// Turns the events that wait into the next batch. An event of a saga that has a record in it already waits for the next.
    fn decide(&self, turn: &mut Turn) {
        if turn.events.is_empty() {
            return;
        }
        let mut shard = self.shard.lock();
        let now = now(&self.clock);
        let first = shard.next;
        let stream = shard.stream.clone();
        let mut batch = Batch::new().expect(&stream, first);
        let mut bytes = 0;
        let mut touched: HashSet<u64> = HashSet::new();
        let mut starting: HashSet<SagaId> = HashSet::new();
        let mut deferred: VecDeque<Event> = VecDeque::new();
        while turn.staged.len() < BATCH_RECORDS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Some(event) = turn.events.pop_front()
        {
            let position = first.plus(turn.staged.len() as u64).get();
            let staged = match event {
                Event::Asked(Request::Start { plan, record, reply }) => {
                    if starting.contains(&record.id) {
                        deferred.push_back(Event::Asked(Request::Start { plan, record, reply }));
                        continue;
                    }
                    let is_full = shard.open_count() + starting.len() >= self.open_max;
                    match self.start(&shard, &plan, &record, is_full) {
                        Some(answer) => {
                            // The starter may have gone away.
                            let _ = reply.send(answer);
                            continue;
                        }
                        None => {
                            starting.insert(record.id.clone());
                            let line = Line::new(position, None, now, Record::Started(record));
                            Staged { line, then: Notify::Starter(plan, reply) }
                        }
                    }
                }
                Event::Asked(Request::Command { id, command, caller, reply }) => {
                    let Some(Place { first: key, is_open, .. }) = shard.find(&id) else {
                        if starting.contains(&id) {
                            deferred.push_back(Event::Asked(Request::Command { id, command, caller, reply }));
                        } else {
                            let _ = reply.send(Err(ErrorKind::NotFound(id).into()));
                        }
                        continue;
                    };
                    if touched.contains(&key) {
                        deferred.push_back(Event::Asked(Request::Command { id, command, caller, reply }));
                        continue;
                    }
                    match self.command(&shard, key, is_open, &id, command, &caller) {
                        Ok(Some(record)) => {
                            let last = shard.get(key).map(|open| open.last);
                            Staged { line: Line::new(key, last, now, record), then: Notify::Commander(reply) }
                        }
                        answer => {
                            let _ = reply.send(answer.map(|_| ()));
                            continue;
                        }
                    }
                }
                Event::Ended(key, work, outcome) => {
                    if touched.contains(&key) {
                        deferred.push_back(Event::Ended(key, work, outcome));
                        continue;
                    }
                    let Some(open) = shard.get_mut(key) else { continue };
                    let at = At { now, luck: self.seed.unit() };
                    match open.saga.answer(&self.rules, at, work, outcome) {
                        Decision::Record(record) => {
                            let line = Line::new(key, Some(open.last), now, record);
                            Staged { line, then: Notify::Nobody }
                        }
                        Decision::Wait(until) => {
                            open.saga.wait(work, until);
                            self.schedule(&mut shard, turn, key, now);
                            continue;
                        }
                        Decision::Stale => continue,
                    }
                }
                Event::Time(key) => {
                    if touched.contains(&key) {
                        deferred.push_back(Event::Time(key));
                        continue;
                    }
                    let Some(open) = shard.get(key) else { continue };
                    match open.saga.tick(now) {
                        Some(record) => {
                            let line = Line::new(key, Some(open.last), now, record);
                            Staged { line, then: Notify::Nobody }
                        }
                        None => {
                            self.schedule(&mut shard, turn, key, now);
                            continue;
                        }
                    }
                }
            };
            touched.insert(staged.line.saga);
            let line = staged.line.encode();
            bytes += line.len();
            batch = batch.append(&stream, line);
            turn.staged.push(staged);
        }
        deferred.append(&mut turn.events);
        turn.events = deferred;
        if !turn.staged.is_empty() {
            turn.append = Some(append(self.store.clone(), batch).boxed());
        }
    }

    /// `None`: it is new. Otherwise the answer.
    fn start(
        &self,
        shard: &Shard,
        plan: &Plan,
        record: &StartRecord,
        is_full: bool,
    ) -> Option<Result<Started, Error>> {
        let id = &record.id;
        let Some(place) = shard.find(id) else {
            let full = ErrorKind::Busy { bound: "open sagas in a shard", max: self.open_max };
            return is_full.then(|| Err(full.into()));
        };
        match journal::started(&self.store, &shard.stream, place.first) {
            Err(error) => Some(Err(error)),
            // Two ids with one hash, and the other one ended: this one is new.
            Ok((_, there)) if there.id != *id => None,
            Ok((_, there)) if there.definition != plan.bytes => {
                Some(Err(ErrorKind::Conflict { id: id.clone(), differs: "definition" }.into()))
            }
            Ok((_, there)) if !is_same_json(&there.input, &record.input) => {
                Some(Err(ErrorKind::Conflict { id: id.clone(), differs: "input" }.into()))
            }
            Ok(_) => Some(self.there_already(shard, place)),
        }
    }

    fn there_already(&self, shard: &Shard, place: Place) -> Result<Started, Error> {
        let mut lines = journal::chain(&self.store, &shard.stream, place.last)?;
        let rest = lines.split_off(1);
        let (at, started) = journal::started(&self.store, &shard.stream, place.first)?;
        let plan = match shard.known_plan(&started.definition) {
            Some(plan) => plan,
            None => Arc::new(crate::plan::load_bytes(&started.definition).ok_or_else(|| {
                ErrorKind::Journal(format!("cannot read the definition of saga {}", started.id))
            })?),
        };
        let (saga, timeline) = crate::machine::Saga::tell(at, started, plan, rest);
        Ok(Started { is_new: false, view: saga.view(timeline) })
    }

    fn command(
        &self,
        shard: &Shard,
        key: u64,
        is_open: bool,
        id: &SagaId,
        command: Command,
        caller: &str,
    ) -> Result<Option<Record>, Error> {
        let verb = command.verb();
        let not_now = |status: Status, why: String| {
            Error::from(ErrorKind::NotNow { id: id.clone(), verb, status, why })
        };
        match shard.get(key) {
            Some(open) if is_open => {
                open.saga.command(caller, command).map_err(|why| not_now(open.saga.status(), why))
            }
            _ => {
                let place = shard.find(id).ok_or_else(|| ErrorKind::NotFound(id.clone()))?;
                let view = self.there_already(shard, place)?.view;
                if view.summary.id != *id {
                    return Err(ErrorKind::NotFound(id.clone()).into());
                }
                let status = view.summary.status;
                let is_so = matches!(command, Command::Cancel { .. } | Command::Compensate { .. })
                    && status != Status::Done;
                if is_so { Ok(None) } else { Err(not_now(status, "it has ended".into())) }
            }
        }
    }

    // --- commit: the batch is durable ---

    fn commit(&self, turn: &mut Turn, committed: &Committed) -> Result<(), Error> {
        let mut shard = self.shard.lock();
        let first = committed.first(&shard.stream).unwrap_or(shard.next);
        let now = now(&self.clock);
        let staged = std::mem::take(&mut turn.staged);
        shard.next = Position::new(first.get() + staged.len() as u64);
        self.metrics.commits.inc();
        self.metrics.transitions.inc_by(staged.len() as u64);
        for (position, Staged { line, then }) in (first.get()..).zip(staged) {
            let (key, at) = (line.saga, line.at);
            let moment = match (&then, &line.record) {
                (Notify::Starter(..), Record::Started(started)) => Some(Moment::of_start(at, started)),
                _ => None,
            };
            if let Notify::Starter(plan, _) = &then
                && shard.known_plan(&plan.bytes).is_none()
            {
                shard.keep(plan);
            }
            let began = shard.get(key).map(|open| open.saga.started);
            let (before, after) = shard.apply(position, line)?;
            self.metrics.moved(before, after);
            match then {
                // Whoever asked may have gone away.
                Notify::Starter(_, reply) => {
                    if let Some(open) = shard.get(key) {
                        let view = open.saga.view(moment.into_iter().collect());
                        let _ = reply.send(Ok(Started { is_new: true, view }));
                    }
                }
                Notify::Commander(reply) => {
                    let _ = reply.send(Ok(()));
                }
                Notify::Nobody => {}
            }
            match (after.is_ended(), began) {
                (true, Some(began)) => self.metrics.seconds.observe(now.since(began).as_secs_f64()),
                (true, None) => {}
                (false, _) => self.schedule(&mut shard, turn, key, now),
            }
        }
        Ok(())
    }

    // --- perform ---

    /// Queues what a saga has to perform now, and sets its timer.
    fn schedule(&self, shard: &mut Shard, turn: &mut Turn, key: u64, now: Timestamp) {
        let Some(open) = shard.get_mut(key) else { return };
        if open.saga.tick(now).is_some() {
            turn.events.push_back(Event::Time(key));
            return;
        }
        turn.work.clear();
        let wake = open.saga.next(now, &mut turn.work);
        for work in turn.work.drain(..) {
            open.saga.begin(work);
            turn.queue.push_back((key, work));
        }
        if let Some(wake) = wake
            && open.wake.is_none_or(|set| wake < set)
        {
            open.wake = Some(wake);
            turn.timers.push(Reverse((wake, key)));
        }
    }

    /// Takes attempts from the queue while calls are free.
    fn send(&self, turn: &mut Turn) {
        if turn.queue.is_empty() || turn.calls.len() >= self.calls_max {
            return;
        }
        let mut shard = self.shard.lock();
        let now = now(&self.clock);
        while turn.calls.len() < self.calls_max
            && turn.events.len() < EVENTS_MAX
            && let Some((key, work)) = turn.queue.pop_front()
        {
            let Some(open) = shard.get_mut(key) else { continue };
            if !open.saga.still_wants(now, work) {
                self.schedule(&mut shard, turn, key, now);
                continue;
            }
            let marks = Marks { epoch: self.epoch, span: self.seed.u64() | 1, now };
            match perform::perform(&self.doors, &open.saga, work, &marks) {
                Ok(call) => turn.calls.push(Box::pin(call.map(move |outcome| (key, work, outcome)))),
                Err(outcome) => self.note(turn, (key, work, outcome)),
            }
        }
        self.metrics.calls.set(turn.calls.len() as i64);
        self.metrics.waiting.set(turn.queue.len() as i64);
    }

    /// An attempt ended; and whichever others have by now.
    fn ended(&self, turn: &mut Turn, end: (u64, Work, Outcome)) {
        self.note(turn, end);
        while turn.events.len() < EVENTS_MAX
            && let Some(Some(end)) = turn.calls.next().now_or_never()
        {
            self.note(turn, end);
        }
    }

    fn note(&self, turn: &mut Turn, (key, work, outcome): (u64, Work, Outcome)) {
        self.metrics.attempt(work.kind, &outcome);
        turn.events.push_back(Event::Ended(key, work, outcome));
    }

    /// The timers that are due.
    fn ring(&self, turn: &mut Turn) {
        let mut shard = self.shard.lock();
        let now = now(&self.clock);
        while let Some(Reverse((time, key))) = turn.timers.peek().copied()
            && time <= now
        {
            turn.timers.pop();
            let Some(open) = shard.get_mut(key) else { continue };
            if open.wake == Some(time) {
                open.wake = None;
            }
            self.schedule(&mut shard, turn, key, now);
        }
    }
}

/// Appends a batch; while the disk is full or the store is busy (nothing was written), again.
async fn append(store: Store, batch: Batch) -> Result<Committed, causeway_store::Error> {
    let mut wait = RETRY_WAITS.0;
    loop {
        match store.append(batch.clone()).await {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, ?wait, "sagas wait for the store");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_WAITS.1);
            }
            result => return result,
        }
    }
}

/// The future inside, which is there (the arm's condition says so).
async fn ready<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn is_same_json(a: &str, b: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    a == b || parse(a) == parse(b)
}

/// Now, as machines take it.
fn now(clock: &Clock) -> Timestamp {
    clock.now().into()
}
