//! The only loop: takes what waits as one batch, decides it, appends once, applies, publishes once, answers all.
//!
//! In:    submissions from the bounded queue, and the time.      Out: answers, and the published state.
//! Owner: one task, spawned by `handle.rs`; it alone changes the machine and appends to the stream `registry`.
//! Invariant: nothing is published or answered before it is durable; what failed to be written leaves no trace; a batch names
//! the position it was decided at, and if someone was faster it is decided again.
//! Not here: what is decided (`machine.rs`).
//!
//! ```text
//! gather -> decide each, applying as we go (the state before is kept) -> append -> publish -> answer
//!              ^                                                           |
//!              +---- someone was faster: back, catch up, decide again -----+   (anything else: back, say so)
//! ```

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use causeway_base::scope::Failure;
use causeway_base::{Clock, Scope};
use causeway_model::{Snapshot, Timestamp};
use causeway_store::{Batch, Limit, Position, Store, StreamName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::command::{Answer, Command};
use crate::error::Error;
use crate::invariants;
use crate::journal::{Decree, Record, Removal};
use crate::limits::{
    AWAY_MIN, BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, BATCH_RECORDS_MAX, COMMAND_BYTES_MAX, DECIDE_AGAIN_MAX,
    TICK_MIN,
};
use crate::machine::{Decision, Machine};
use crate::metrics::{CommandLabels, Metrics};
use crate::view::View;

/// A command, and where its answer goes. The driver's own ticks have nobody who waits.
pub(crate) struct Submission {
    pub(crate) command: Command,
    pub(crate) reply: Option<oneshot::Sender<Result<Answer, Error>>>,
}

/// How long the driver sleeps at most when no lease is due: often enough to notice that the machine was suspended.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Instances and objects above which debug builds look at the invariants no more: each look costs the state's size.
const INVARIANTS_STATE_MAX: usize = 500;
/// Time between two log lines that say the journal cannot be written: the first is news, the others are reminders.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Driver {
    machine: Machine,
    store: Store,
    stream: StreamName,
    /// How long the stream is as far as the machine has applied it.
    position: Position,
    view: Arc<ArcSwap<View>>,
    watch: watch::Sender<Arc<Snapshot>>,
    metrics: Metrics,
    time: Time,
    ticked_at: Timestamp,
    complained_at: Option<Timestamp>,
}

/// Wall-clock time that does not run back, and notices when it jumps.
struct Time {
    clock: Clock,
    /// The last look: wall, monotone, and what was answered.
    wall: Timestamp,
    instant: Instant,
    now: Timestamp,
}

impl Time {
    fn new(clock: Clock) -> Self {
        let (now, instant) = (Timestamp::from(clock.now()), clock.instant());
        Time { clock, wall: now, instant, now }
    }

    /// The time, and whether the wall clock jumped since the last look.
    fn look(&mut self) -> (Timestamp, bool) {
        let (wall, instant) = (Timestamp::from(self.clock.now()), self.clock.instant());
        let meant = self.wall.plus(instant.duration_since(self.instant));
        let is_jump = wall.since(meant) > AWAY_MIN || meant.since(wall) > AWAY_MIN;
        (self.wall, self.instant) = (wall, instant);
        self.now = if is_jump { wall } else { wall.max(self.now) };
        (self.now, is_jump)
    }
}

/// A batch that is decided and not yet written.
#[derive(Default)]
struct Gathered {
    /// The state before its first record. Taken only then: as long as nothing shares the deadlines, a heartbeat moves one in
    /// place. Observations that came earlier in the batch need no undoing: they hold whether or not it is written.
    before: Option<Machine>,
    bytes: Vec<bytes::Bytes>,
    /// What an operator is told once it is written.
    notable: Vec<Record>,
    decided: Vec<(Submission, Result<Answer, Error>)>,
}

fn is_notable(record: &Record) -> bool {
    match &record.decree {
        Decree::Suspected { .. } => true,
        Decree::Removed { why, .. } => matches!(why, Removal::Expired | Removal::GivenUp),
        _ => false,
    }
}

impl Driver {
    /// Reads the journal and publishes its state; every lease begins anew.
    pub(crate) fn open(store: Store, clock: Clock, metrics: Metrics) -> Result<Self, Error> {
        let corrupt =
            |error: causeway_store::Error| Error::corrupt("cannot open the registry's journal", error);
        let stream = StreamName::new(crate::journal::STREAM).map_err(corrupt)?;
        let mut driver = Driver {
            machine: Machine::default(),
            store,
            stream,
            position: Position::START,
            view: Arc::default(),
            watch: watch::Sender::new(Arc::default()),
            metrics,
            time: Time::new(clock),
            ticked_at: Timestamp::default(),
            complained_at: None,
        };
        driver.catch_up()?;
        let now = driver.time.look().0;
        driver.machine.resume(now);
        driver.publish();
        Ok(driver)
    }

    pub(crate) fn view(&self) -> Arc<ArcSwap<View>> {
        self.view.clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.watch.subscribe()
    }

    /// Runs until the scope is cancelled; what was submitted by then is still decided.
    pub(crate) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Submission>,
        scope: Scope,
    ) -> Result<(), Failure> {
        let cancelled = scope.cancelled();
        tokio::pin!(cancelled);
        let mut waiting = Vec::with_capacity(BATCH_COMMANDS_MAX);
        loop {
            let due = self.next_look();
            let mut is_closing = false;
            tokio::select! {
                biased;
                () = &mut cancelled => { queue.close(); is_closing = true; }
                count = queue.recv_many(&mut waiting, BATCH_COMMANDS_MAX) => is_closing = count == 0,
                () = tokio::time::sleep_until(due) => {}
            }
            if is_closing {
                self.last_turn(&mut queue, waiting).await;
                return Ok(());
            }
            self.turn(due, &mut waiting).await;
        }
    }

    async fn last_turn(&mut self, queue: &mut mpsc::Receiver<Submission>, mut waiting: Vec<Submission>) {
        while let Ok(submission) = queue.try_recv() {
            waiting.push(submission);
        }
        while !waiting.is_empty() {
            self.batch(&mut waiting).await;
        }
    }

    /// When to look at the leases again, whether or not anybody says anything.
    fn next_look(&self) -> Instant {
        let next = self.machine.seats.next_due().map(|due| due.max(self.ticked_at.plus(TICK_MIN)));
        let wait = next.map_or(SLEEP_MAX, |at| at.since(self.time.now).min(SLEEP_MAX));
        self.time.instant + wait.max(Duration::from_millis(1))
    }

    /// Decides everything that waits, then sees to the leases: whoever was heard by now is not late.
    async fn turn(&mut self, due: Instant, waiting: &mut Vec<Submission>) {
        let (now, is_jump) = self.time.look();
        let is_late = self.time.instant.saturating_duration_since(due) > AWAY_MIN;
        if is_jump || is_late {
            self.was_away(now);
        }
        let began = self.time.instant;
        while !waiting.is_empty() {
            self.batch(waiting).await;
        }
        let (now, is_jump) = self.time.look();
        if is_jump || self.time.instant.duration_since(began) > AWAY_MIN {
            self.was_away(now); // a slow disk: heartbeats wait in the queue, so nobody could renew
        }
        self.tick(now).await;
    }

    async fn tick(&mut self, now: Timestamp) {
        let is_due = self.machine.seats.next_due().is_some_and(|due| due <= now);
        if !is_due || now < self.ticked_at.plus(TICK_MIN) && self.ticked_at <= now {
            return;
        }
        self.ticked_at = now;
        self.machine.settle(now);
        if self.machine.seats.expired(now).next().is_some() {
            self.batch(&mut vec![Submission { command: Command::Tick, reply: None }]).await;
        }
    }

    fn was_away(&mut self, now: Timestamp) {
        self.metrics.away.inc();
        self.ticked_at = Timestamp::default();
        if self.machine.seats.next_due().is_some() {
            tracing::warn!("the registry was away for a moment: every lease begins anew");
            self.machine.resume(now);
        }
    }

    /// One batch from the front of `waiting`: decided, written, published, answered.
    async fn batch(&mut self, waiting: &mut Vec<Submission>) {
        let mut again = 0;
        loop {
            let now = self.time.look().0;
            let batch = self.decide(now, waiting);
            let written = match batch.bytes.is_empty() {
                true => Ok(()),
                false => self.append(&batch.bytes).await,
            };
            let Err(error) = written else { return self.finish(batch) };
            if let Some(before) = batch.before {
                self.machine = before;
            }
            waiting.splice(0..0, batch.decided.into_iter().map(|(submission, _)| submission));
            let is_raced = matches!(error.kind, causeway_store::Kind::Conflict { .. });
            again += 1;
            if is_raced && again <= DECIDE_AGAIN_MAX && self.catch_up().is_ok() {
                self.metrics.decided_again.inc();
                continue;
            }
            return self.give_up(now, waiting, &error);
        }
    }

    /// Decides from the front of `waiting` until a batch is full, applying as it goes.
    fn decide(&mut self, now: Timestamp, waiting: &mut Vec<Submission>) -> Gathered {
        self.machine.settle(now);
        let mut batch = Gathered::default();
        let (mut size, mut outcomes) = (0, Vec::new());
        for submission in waiting.iter() {
            if batch.bytes.len() >= BATCH_RECORDS_MAX || size >= BATCH_BYTES_MAX {
                break;
            }
            outcomes.push(self.decide_one(now, &submission.command, &mut batch, &mut size));
        }
        batch.decided = waiting.drain(..outcomes.len()).zip(outcomes).collect();
        batch
    }

    fn decide_one(
        &mut self,
        now: Timestamp,
        command: &Command,
        batch: &mut Gathered,
        size: &mut usize,
    ) -> Result<Answer, Error> {
        let Decision { records, mut answer } = self.machine.decide(now, command)?;
        let encoded: Vec<bytes::Bytes> = records.iter().map(|record| record.encode().into()).collect();
        let bytes: usize = encoded.iter().map(bytes::Bytes::len).sum();
        if bytes > COMMAND_BYTES_MAX {
            return Err(Error::full("cannot take the command", "bytes in one command", COMMAND_BYTES_MAX));
        }
        if !records.is_empty() && batch.before.is_none() {
            batch.before = Some(self.machine.clone());
        }
        *size += bytes;
        batch.bytes.extend(encoded);
        for record in records {
            self.machine.apply(&record);
            if is_notable(&record) {
                batch.notable.push(record);
            }
        }
        self.machine.observe(now, command, &answer);
        self.machine.complete(&mut answer);
        Ok(answer)
    }

    async fn append(&mut self, records: &[bytes::Bytes]) -> Result<(), causeway_store::Error> {
        let mut batch = Batch::new().expect(&self.stream, self.position);
        for record in records {
            batch = batch.append(&self.stream, record.clone());
        }
        self.store.append(batch).await?;
        self.position = Position::new(self.position.get() + records.len() as u64);
        Ok(())
    }

    fn finish(&mut self, batch: Gathered) {
        self.check(batch.before.as_ref());
        drop(batch.before); // before the next change, which would otherwise copy what the two share
        self.publish();
        batch.notable.iter().for_each(|record| self.note(record));
        self.metrics.batch_commands.observe(batch.decided.len() as f64);
        for (submission, outcome) in batch.decided {
            let is_changed = outcome.as_ref().is_ok_and(|answer| answer.is_changed);
            let label = match (&outcome, is_changed) {
                (Err(_), _) => "refused",
                (Ok(_), true) => "changed",
                (Ok(_), false) => "unchanged",
            };
            self.count(&submission.command, label);
            answer(submission, outcome);
        }
    }

    /// The batch cannot be written. Commands that need no record are taken all the same, so that a full disk does not make
    /// the living look dead; the others are told.
    fn give_up(&mut self, now: Timestamp, waiting: &mut Vec<Submission>, error: &causeway_store::Error) {
        if self.complained_at.is_none_or(|at| now.since(at) >= COMPLAINT_EVERY) {
            self.complained_at = Some(now);
            tracing::error!(%error, "the registry cannot write its journal [CW-1205]");
        }
        self.publish();
        for submission in waiting.drain(..) {
            let outcome = match self.machine.decide(now, &submission.command) {
                Ok(Decision { records, answer }) if records.is_empty() => {
                    self.machine.observe(now, &submission.command, &answer);
                    Ok(answer)
                }
                Ok(_) => Err(Error::unavailable("cannot write the command down", error)),
                Err(refused) => Err(refused),
            };
            let label = if outcome.is_ok() { "unchanged" } else { "failed" };
            self.count(&submission.command, label);
            answer(submission, outcome);
        }
    }

    fn count(&self, command: &Command, outcome: &'static str) {
        if matches!(command, Command::Heartbeat { .. }) {
            self.metrics.heartbeats.inc();
        }
        self.metrics.commands.get_or_create(&CommandLabels { kind: command.label(), outcome }).inc();
    }

    /// Applies what the stream holds beyond what is applied: everything at the start, another writer's later.
    fn catch_up(&mut self) -> Result<(), Error> {
        let doing = "cannot read the registry's journal";
        loop {
            let limit = Limit { records: 16_384, bytes: 8 << 20 };
            let read = self.store.read(&self.stream, self.position, limit);
            let stored = read.map_err(|error| Error::corrupt(doing, error))?;
            if stored.is_empty() {
                return Ok(());
            }
            for stored in stored {
                let at = stored.position;
                let record = Record::decode(&stored.bytes).map_err(|error| {
                    Error::corrupt(format_args!("{doing} at position {}", at.get()), error)
                })?;
                self.machine.apply(&record);
                self.position = at.next();
            }
        }
    }

    /// Publishes the state, if it is newer than what is published (it may be so by another's writes alone).
    fn publish(&mut self) {
        if self.watch.borrow().revision() == self.machine.revision() {
            return;
        }
        let snapshot = Arc::new(self.machine.snapshot.clone());
        self.metrics.instances.set(snapshot.instance_count() as i64);
        self.metrics.objects.set(snapshot.object_count() as i64);
        self.metrics.revision.set(snapshot.revision().get() as i64);
        self.view.store(Arc::new(View {
            snapshot: snapshot.clone(),
            services: self.machine.services.clone(),
            tokens: self.machine.tokens.clone(),
            issued: self.machine.issued.clone(),
        }));
        self.watch.send_replace(snapshot);
    }

    /// Tells an operator what they would tell a colleague.
    fn note(&self, record: &Record) {
        match &record.decree {
            Decree::Suspected { key } => {
                self.metrics.suspected.inc();
                tracing::warn!(instance = %key, "kept as suspect: too many expired with it [CW-1207]");
            }
            Decree::Removed { key, why: Removal::Expired | Removal::GivenUp } => {
                self.metrics.expired.inc();
                tracing::info!(instance = %key, "removed: its lease ended");
            }
            _ => {}
        }
    }

    /// In debug builds: what must hold does, from the state before the batch to this one.
    fn check(&self, before: Option<&Machine>) {
        let size = self.machine.snapshot.instance_count() + self.machine.snapshot.object_count();
        if cfg!(debug_assertions) && size <= INVARIANTS_STATE_MAX {
            let step = before.map_or(Ok(()), |before| invariants::check_step(before, &self.machine));
            let checked = invariants::check(&self.machine).and(step);
            debug_assert_eq!(checked, Ok(()), "the registry's state is not sound");
        }
    }
}

fn answer(submission: Submission, outcome: Result<Answer, Error>) {
    if let Some(reply) = submission.reply {
        let _ = reply.send(outcome); // who no longer waits need not know
    }
}
