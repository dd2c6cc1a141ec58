//! One subscription as a pure machine: which event goes out when, and what became of it. No IO, no task; time is passed in.
//!
//! In:    offsets offered in order, verdicts on deliveries, the clock's ticks.     Out: assignments, and records for the journal.
//! Owner: the subscription's task (`group.rs`).
//! Invariant: see `invariants.rs`; in one line: every offset between the cursor and the end of what was offered is settled or
//!            pending, never neither.
//! Not here: the events themselves, filters, pushing and pulling.
//!
//! ```text
//! offer -> waiting -> out -> ack -> settled
//!             ^  ^      |
//!    deliverat |  +-- delayed <- retry | defer      -> dead letter (its key parked, in sequenced mode) -> redrive -> waiting
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::Seed;
use causeway_model::{DeadLetterMode, Offset, Ordering, RetryPolicy, Revision, Timestamp};

use crate::journal::{CursorRecord, DeadRecord, Letter, Reason, Span};
use crate::spans::Spans;
use crate::view::Token;

/// Events that are read but not settled: delayed ones, those behind their key, those out. About 150 bytes each; when so many
/// wait, the subscription reads on when one is settled.
pub(crate) const PENDING_MAX: usize = 65_536;
/// Dead letters of a subscription (some 300 bytes each). At this number it stops delivering and says so, rather than drop one.
pub(crate) const LETTERS_MAX: usize = 100_000;
/// How often an event may be put off by its receiver (429, 503 with Retry-After) before that counts as a failed attempt: a
/// receiver that always says "later" for one event must not hold the others for ever.
pub(crate) const DEFERRALS_MAX: u32 = 100;
/// Longest error text that a dead letter keeps.
const ERROR_CHARS_MAX: usize = 200;

/// What the subscription's document says, as the machine needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) ordering: Ordering,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_in_flight: usize,
    pub(crate) dead_letter: DeadLetterMode,
}

/// An event that has come up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    pub(crate) key: Option<Arc<str>>,
    pub(crate) deliver_at: Option<Timestamp>,
    pub(crate) is_wanted: bool,
}

/// An event that is to go out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) token: Token,
    pub(crate) attempt: u32,
    pub(crate) deadline: Timestamp,
}

/// The lease behind a token has ended, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale;

/// What became of a failed delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Retried,
    DeadLettered,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) rules: Rules,
    seed: Seed,
    pub(crate) is_started: bool,
    /// Every event before it is settled.
    pub(crate) cursor: Offset,
    /// The next event to be offered.
    pub(crate) next: Offset,
    /// What is settled at and after the cursor.
    pub(crate) ahead: Spans,
    pub(crate) entries: BTreeMap<Offset, Entry>,
    pub(crate) ready: BTreeSet<Offset>,
    pub(crate) timers: BTreeSet<(Timestamp, Offset)>,
    pub(crate) lanes: HashMap<Arc<str>, Lane>,
    pub(crate) in_flight: usize,
    pub(crate) letters: BTreeMap<Offset, Dead>,
    /// Letters of each key that are not on their way again.
    pub(crate) parked: HashMap<Arc<str>, BTreeSet<Offset>>,
    pub(crate) stopped: Option<Revision>,
    hold_until: Timestamp,
    outbox: Outbox,
}

/// A pending event.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Option<Arc<str>>,
    pub(crate) attempts: u32,
    deferrals: u32,
    pub(crate) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// For its key, or for a free place.
    Waiting,
    /// For its time.
    Delayed { due: Timestamp },
    /// With a receiver.
    Out { nonce: u64, deadline: Timestamp },
}

/// The pending events of one key: the first may go, when none is out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    pub(crate) queue: BTreeSet<Offset>,
    pub(crate) out: Option<Offset>,
    offered: Option<Offset>,
}

/// A dead letter, and when it is due again if it is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    pub(crate) letter: Letter,
    pub(crate) redriven: Option<Timestamp>,
}

/// What is decided and not yet written down.
#[derive(Debug, Default)]
struct Outbox {
    moved: Option<CursorRecord>,
    settled: Spans,
    stop: Option<CursorRecord>,
    dead: Vec<DeadRecord>,
}

/// Records to be appended as one batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) cursor: Vec<CursorRecord>,
    pub(crate) dead: Vec<DeadRecord>,
}

impl Machine {
    pub(crate) fn new(rules: Rules, seed: Seed) -> Self {
        Machine {
            rules,
            seed,
            is_started: false,
            cursor: Offset::default(),
            next: Offset::default(),
            ahead: Spans::default(),
            entries: BTreeMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            lanes: HashMap::new(),
            in_flight: 0,
            letters: BTreeMap::new(),
            parked: HashMap::new(),
            stopped: None,
            hold_until: Timestamp::default(),
            outbox: Outbox::default(),
        }
    }

    // === what was written down ===

    /// Applies a record of the cursor's stream, in order.
    pub(crate) fn apply_cursor(&mut self, record: &CursorRecord) {
        match record {
            CursorRecord::Started { cursor, .. } => {
                self.move_to(*cursor);
                self.stopped = None;
            }
            CursorRecord::Sought { cursor, .. } => self.move_to(*cursor),
            CursorRecord::Settled { spans } => spans.iter().for_each(|span| self.mark(*span)),
            CursorRecord::Checkpoint { cursor, ahead, stopped } => {
                self.move_to(*cursor);
                ahead.iter().for_each(|span| self.mark(*span));
                self.stopped = *stopped;
            }
            CursorRecord::Stopped { revision } => self.stopped = Some(*revision),
            CursorRecord::Resumed => self.stopped = None,
            CursorRecord::Dropped => self.is_started = false,
        }
    }

    /// Applies a record of the dead letters' stream, in order.
    pub(crate) fn apply_dead(&mut self, record: &DeadRecord) {
        match record {
            DeadRecord::Dead(letter) => self.keep(letter.clone()),
            DeadRecord::Redriven { offsets, at, rate } => {
                offsets.iter().zip(0..).for_each(|(offset, place)| {
                    let due = at.plus(spacing(place, *rate));
                    self.mark_redriven(*offset, due);
                });
            }
            DeadRecord::Resolved { offsets } => offsets.iter().for_each(|offset| self.forget(*offset)),
            DeadRecord::Dropped => {
                self.letters.clear();
                self.parked.clear();
            }
        }
    }

    /// After the records: what was on its way again goes on.
    pub(crate) fn resume(&mut self) {
        self.next = self.cursor;
        let redriven: Vec<_> =
            self.letters.iter().filter_map(|(offset, dead)| Some((*offset, dead.redriven?))).collect();
        for (offset, due) in redriven {
            self.pend_letter(offset, due);
        }
    }

    /// Begins at `cursor`, for the first time.
    pub(crate) fn start(&mut self, now: Timestamp, cursor: Offset) {
        let record = CursorRecord::Started { cursor, at: now };
        self.apply_cursor(&record);
        self.outbox.moved = Some(record);
    }

    fn move_to(&mut self, cursor: Offset) {
        (self.is_started, self.cursor, self.next) = (true, cursor, cursor);
        self.ahead = Spans::default();
    }

    // === the way in ===

    /// How many more events may be offered now.
    pub(crate) fn room(&self) -> usize {
        let is_hungry = self.ready.len() < self.rules.max_in_flight;
        match is_hungry && self.stopped.is_none() && !self.is_full() {
            true => PENDING_MAX.saturating_sub(self.entries.len()),
            false => 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.letters.len() >= LETTERS_MAX
    }

    /// Takes the event at `self.next` in.
    pub(crate) fn offer(&mut self, now: Timestamp, offer: Offer) {
        let offset = self.next;
        self.next = offset.next();
        if offset < self.cursor || self.ahead.contains(offset) || self.entries.contains_key(&offset) {
            return;
        }
        if !offer.is_wanted {
            return self.settle(offset);
        }
        if offer.key.as_ref().is_some_and(|key| self.is_parked(key)) {
            match self.letters.contains_key(&offset) {
                true => self.settle(offset),
                false => self.bury(
                    now,
                    offset,
                    offer.key,
                    0,
                    Reason::Behind,
                    "an earlier event of its key is a dead letter",
                ),
            }
            return;
        }
        let due = offer.deliver_at.filter(|due| *due > now);
        self.pend(offset, offer.key, due);
    }

    /// Retention has passed over everything before `earliest`: what was not offered yet is settled. Returns how many.
    pub(crate) fn expire(&mut self, earliest: Offset) -> u64 {
        let mut expired = 0;
        while self.next < earliest {
            let (from, mut until) = (self.next, earliest);
            if let Some((&pending, _)) = self.entries.range(from..earliest).next() {
                until = pending;
            }
            if from < until {
                let span = Span { from, until };
                let known = self.ahead.count_from(from) - self.ahead.count_from(until);
                expired += until.get() - from.get() - known;
                self.outbox.settled.insert(span);
                self.mark(span);
            }
            let passed = if until < earliest { until.next() } else { earliest };
            self.next = self.next.max(passed);
        }
        expired
    }

    fn pend(&mut self, offset: Offset, key: Option<Arc<str>>, due: Option<Timestamp>) {
        let key = key.filter(|_| self.rules.ordering == Ordering::Key);
        let phase = match due {
            Some(due) => Phase::Delayed { due },
            None => Phase::Waiting,
        };
        if let Phase::Delayed { due } = phase {
            self.timers.insert((due, offset));
        }
        if let Some(key) = &key {
            self.lanes.entry(key.clone()).or_default().queue.insert(offset);
        }
        self.entries.insert(offset, Entry { key, attempts: 0, deferrals: 0, phase });
        self.refresh(offset);
    }

    // === the way out ===

    /// Up to `max` events that may go out now, each for as long as `lease`.
    pub(crate) fn take(&mut self, now: Timestamp, max: usize, lease: Duration) -> Vec<Assignment> {
        let mut taken = Vec::new();
        while taken.len() < max && self.may_take(now) {
            let Some(offset) = self.ready.pop_first() else { break };
            taken.push(self.send(now, offset, lease));
        }
        taken
    }

    /// Whether [`Machine::take`] would give something.
    pub(crate) fn has_work(&self, now: Timestamp) -> bool {
        self.may_take(now) && !self.ready.is_empty()
    }

    fn may_take(&self, now: Timestamp) -> bool {
        self.in_flight < self.rules.max_in_flight
            && self.stopped.is_none()
            && now >= self.hold_until
            && !self.is_full()
    }

    fn send(&mut self, now: Timestamp, offset: Offset, lease: Duration) -> Assignment {
        let (nonce, deadline) = (self.seed.u64(), now.plus(lease));
        let entry = self.entries.get_mut(&offset).expect("what is ready is pending");
        entry.attempts += 1;
        entry.phase = Phase::Out { nonce, deadline };
        let (attempt, key) = (entry.attempts, entry.key.clone());
        self.timers.insert((deadline, offset));
        self.in_flight += 1;
        if let Some(lane) = key.and_then(|key| self.lanes.get_mut(&key)) {
            lane.offered = None;
            lane.out = Some(offset);
        }
        Assignment { token: Token { offset, nonce }, attempt, deadline }
    }

    /// Delivered: settled, and a dead letter no more.
    pub(crate) fn ack(&mut self, token: &Token) -> Result<(), Stale> {
        self.back(token)?;
        self.remove(token.offset);
        if self.letters.contains_key(&token.offset) {
            self.forget(token.offset);
            self.outbox.dead.push(DeadRecord::Resolved { offsets: vec![token.offset] });
        }
        self.settle(token.offset);
        Ok(())
    }

    /// Not delivered: again after `delay` or the policy's wait; a dead letter when the attempts are spent.
    pub(crate) fn fail(
        &mut self,
        now: Timestamp,
        token: &Token,
        error: &str,
        delay: Option<Duration>,
    ) -> Result<Failed, Stale> {
        let attempts = self.back(token)?;
        if attempts >= self.rules.retry.attempts.max(1) {
            self.kill(now, token.offset, Reason::Attempts, error);
            return Ok(Failed::DeadLettered);
        }
        let wait = delay.unwrap_or_else(|| self.jittered(self.rules.retry.wait_before(attempts + 1)));
        self.delay(token.offset, now.plus(wait));
        Ok(Failed::Retried)
    }

    /// The receiver never wants it: a dead letter at once.
    pub(crate) fn refuse(&mut self, now: Timestamp, token: &Token, error: &str) -> Result<(), Stale> {
        self.back(token)?;
        self.kill(now, token.offset, Reason::Refused, error);
        Ok(())
    }

    /// The receiver wants nothing before `until`: not an attempt, and the whole subscription waits.
    pub(crate) fn defer(&mut self, now: Timestamp, token: &Token, until: Timestamp) -> Result<(), Stale> {
        let is_spent = self.entries.get(&token.offset).is_some_and(|entry| entry.deferrals >= DEFERRALS_MAX);
        if is_spent {
            return self.fail(now, token, "put off too often by its receiver", None).map(drop);
        }
        self.back(token)?;
        let entry = self.entries.get_mut(&token.offset).expect("it was out a line ago");
        entry.attempts -= 1;
        entry.deferrals += 1;
        self.hold_until = self.hold_until.max(until);
        self.delay(token.offset, until);
        Ok(())
    }

    /// It never left: as if it had not been taken.
    pub(crate) fn release(&mut self, token: &Token) -> Result<(), Stale> {
        self.back(token)?;
        let entry = self.entries.get_mut(&token.offset).expect("it was out a line ago");
        entry.attempts -= 1;
        self.refresh(token.offset);
        Ok(())
    }

    /// The receiver is gone for good (410): nothing goes out until the subscription, now at `revision`, is changed.
    pub(crate) fn stop(&mut self, token: &Token, revision: Revision) -> Result<(), Stale> {
        self.release(token)?;
        self.stopped = Some(revision);
        self.outbox.stop = Some(CursorRecord::Stopped { revision });
        Ok(())
    }

    /// The lease lasts until `by` from now.
    pub(crate) fn extend(&mut self, now: Timestamp, token: &Token, by: Duration) -> Result<(), Stale> {
        let (entry, old) = self.out(token)?;
        let deadline = now.plus(by);
        entry.phase = Phase::Out { nonce: token.nonce, deadline };
        self.timers.remove(&(old, token.offset));
        self.timers.insert((deadline, token.offset));
        Ok(())
    }

    /// Time passes: delayed events come up, leases end. Returns what became of each event whose lease ended.
    pub(crate) fn tick(&mut self, now: Timestamp) -> Vec<Failed> {
        let mut ended = Vec::new();
        while let Some(&(due, offset)) = self.timers.first()
            && due <= now
        {
            match self.entries.get_mut(&offset).map(|entry| (entry.phase, entry)) {
                Some((Phase::Out { nonce, .. }, _)) => {
                    let failed =
                        self.fail(now, &Token { offset, nonce }, "the lease ended without an answer", None);
                    ended.extend(failed);
                }
                Some((_, entry)) => {
                    entry.phase = Phase::Waiting;
                    self.timers.remove(&(due, offset));
                    self.refresh(offset);
                }
                None => drop(self.timers.remove(&(due, offset))),
            }
        }
        ended
    }

    /// When something happens next by itself.
    pub(crate) fn wake(&self, now: Timestamp) -> Option<Timestamp> {
        let held = (self.hold_until > now && !self.ready.is_empty()).then_some(self.hold_until);
        self.timers.first().map(|(at, _)| *at).into_iter().chain(held).min()
    }

    // === orders from outside ===

    /// The document was changed. What is pending stays where it is; the rules count from now on.
    pub(crate) fn configure(&mut self, rules: Rules, revision: Revision) {
        self.rules = rules;
        if self.stopped.is_some_and(|stopped| stopped != revision) {
            self.stopped = None;
            self.outbox.stop = Some(CursorRecord::Resumed);
        }
    }

    /// The cursor is set; leases end, dead letters stay, and those on their way again go on.
    pub(crate) fn seek(&mut self, now: Timestamp, to: Offset) {
        let record = CursorRecord::Sought { cursor: to, at: now };
        self.apply_cursor(&record);
        self.outbox.moved = Some(record);
        self.outbox.settled = Spans::default();
        self.entries.clear();
        self.ready.clear();
        self.timers.clear();
        self.lanes.clear();
        self.in_flight = 0;
        self.hold_until = Timestamp::default();
        self.resume();
    }

    /// Of the letters that a filter chose, those that may go again: in sequenced mode a key's letters follow each other.
    pub(crate) fn redrivable(&self, chosen: &BTreeSet<Offset>) -> Vec<Offset> {
        let mut blocked: BTreeSet<&str> = BTreeSet::new();
        let mut offsets = Vec::new();
        for (offset, dead) in self.letters.iter().filter(|(_, dead)| dead.redriven.is_none()) {
            let key = dead.letter.key.as_deref().filter(|_| self.is_sequenced());
            if key.is_some_and(|key| blocked.contains(key)) {
                continue;
            }
            match chosen.contains(offset) {
                true => offsets.push(*offset),
                false => blocked.extend(key),
            }
        }
        offsets
    }

    /// Puts letters on their way again, `rate` of them a second.
    pub(crate) fn redrive(&mut self, now: Timestamp, offsets: Vec<Offset>, rate: Option<u32>) {
        if offsets.is_empty() {
            return;
        }
        let record = DeadRecord::Redriven { offsets: offsets.clone(), at: now, rate };
        self.apply_dead(&record);
        self.outbox.dead.push(record);
        for offset in offsets {
            if let Some(due) = self.letters.get(&offset).and_then(|dead| dead.redriven) {
                self.pend_letter(offset, due);
            }
        }
        self.tick(now);
    }

    // === what is to be written down ===

    pub(crate) fn has_records(&self) -> bool {
        let Outbox { moved, settled, stop, dead } = &self.outbox;
        moved.is_some() || !settled.is_empty() || stop.is_some() || !dead.is_empty()
    }

    /// Takes what is to be written, as one batch.
    pub(crate) fn drain(&mut self) -> Records {
        let Outbox { moved, mut settled, stop, dead } = std::mem::take(&mut self.outbox);
        let settled = (!settled.is_empty()).then(|| CursorRecord::Settled { spans: settled.drain() });
        Records { cursor: moved.into_iter().chain(settled).chain(stop).collect(), dead }
    }

    /// The whole picture, as of everything drained so far.
    pub(crate) fn checkpoint(&self) -> CursorRecord {
        CursorRecord::Checkpoint {
            cursor: self.cursor,
            ahead: self.ahead.iter().collect(),
            stopped: self.stopped,
        }
    }

    // === steps ===

    fn is_sequenced(&self) -> bool {
        self.rules.dead_letter == DeadLetterMode::Sequenced && self.rules.ordering == Ordering::Key
    }

    fn is_parked(&self, key: &str) -> bool {
        self.is_sequenced() && self.parked.contains_key(key)
    }

    /// How many keys are parked.
    pub(crate) fn parked_keys(&self) -> usize {
        if self.is_sequenced() { self.parked.len() } else { 0 }
    }

    /// Events up to `end` that are not settled.
    pub(crate) fn lag(&self, end: Offset) -> u64 {
        let settled_beyond = self.ahead.count_from(end);
        end.get().saturating_sub(self.cursor.get()).saturating_sub(self.ahead.count() - settled_beyond)
    }

    fn out(&mut self, token: &Token) -> Result<(&mut Entry, Timestamp), Stale> {
        match self.entries.get_mut(&token.offset) {
            Some(entry) => match entry.phase {
                Phase::Out { nonce, deadline } if nonce == token.nonce => Ok((entry, deadline)),
                _ => Err(Stale),
            },
            None => Err(Stale),
        }
    }

    /// The event is no longer out; it waits. Returns its attempts.
    fn back(&mut self, token: &Token) -> Result<u32, Stale> {
        let (entry, deadline) = self.out(token)?;
        entry.phase = Phase::Waiting;
        let (attempts, key) = (entry.attempts, entry.key.clone());
        self.timers.remove(&(deadline, token.offset));
        self.in_flight -= 1;
        if let Some(lane) = key.and_then(|key| self.lanes.get_mut(&key)) {
            lane.out = None;
        }
        Ok(attempts)
    }

    fn delay(&mut self, offset: Offset, due: Timestamp) {
        let entry = self.entries.get_mut(&offset).expect("only a pending event is delayed");
        entry.phase = Phase::Delayed { due };
        self.timers.insert((due, offset));
        self.refresh(offset);
    }

    /// Between a half and the whole of the wait, so that those who failed together do not come back together.
    fn jittered(&self, wait: Duration) -> Duration {
        wait.mul_f64(0.5 + self.seed.unit() / 2.0)
    }

    /// Brings `ready` up to date for the event and its key.
    fn refresh(&mut self, offset: Offset) {
        let Some(entry) = self.entries.get(&offset) else { return };
        match entry.key.clone() {
            Some(key) => self.refresh_lane(&key),
            None if entry.phase == Phase::Waiting => drop(self.ready.insert(offset)),
            None => drop(self.ready.remove(&offset)),
        }
    }

    fn refresh_lane(&mut self, key: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if let Some(offered) = lane.offered.take() {
            self.ready.remove(&offered);
        }
        match lane.queue.first() {
            None => drop(self.lanes.remove(key)),
            Some(first) => {
                let is_waiting = self.entries.get(first).is_some_and(|entry| entry.phase == Phase::Waiting);
                if is_waiting && lane.out.is_none() {
                    lane.offered = Some(*first);
                    self.ready.insert(*first);
                }
            }
        }
    }

    /// Takes a pending event that is not out away.
    fn remove(&mut self, offset: Offset) -> Option<Entry> {
        let entry = self.entries.remove(&offset)?;
        self.ready.remove(&offset);
        if let Phase::Delayed { due } = entry.phase {
            self.timers.remove(&(due, offset));
        }
        if let Some(key) = &entry.key {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.queue.remove(&offset);
            }
            self.refresh_lane(key);
        }
        Some(entry)
    }

    fn settle(&mut self, offset: Offset) {
        if offset < self.cursor || self.ahead.contains(offset) {
            return;
        }
        let span = Span { from: offset, until: offset.next() };
        self.outbox.settled.insert(span);
        self.mark(span);
    }

    fn mark(&mut self, span: Span) {
        self.ahead.insert(Span { from: span.from.max(self.cursor), until: span.until });
        self.cursor = self.ahead.advance(self.cursor);
        self.next = self.next.max(self.cursor);
    }

    // === dead letters ===

    /// A pending event dies; in sequenced mode the rest of its key follows it.
    fn kill(&mut self, now: Timestamp, offset: Offset, reason: Reason, error: &str) {
        let Some(entry) = self.remove(offset) else { return };
        let key = entry.key.clone();
        self.bury(now, offset, entry.key, entry.attempts, reason, error);
        let Some(key) = key.filter(|key| self.is_parked(key)) else { return };
        let behind: Vec<Offset> =
            self.lanes.get(&key).map(|lane| lane.queue.iter().copied().collect()).unwrap_or_default();
        for offset in behind {
            if let Some(entry) = self.remove(offset) {
                let why = "an earlier event of its key is a dead letter";
                self.bury(now, offset, entry.key, entry.attempts, Reason::Behind, why);
            }
        }
    }

    fn bury(
        &mut self,
        now: Timestamp,
        offset: Offset,
        key: Option<Arc<str>>,
        attempts: u32,
        reason: Reason,
        error: &str,
    ) {
        let before = self.letters.get(&offset).map_or(0, |dead| dead.letter.attempts);
        let letter = Letter {
            offset,
            key: key.map(|key| key.to_string()),
            reason,
            error: error.chars().take(ERROR_CHARS_MAX).collect(),
            attempts: before.saturating_add(attempts),
            at: now,
        };
        self.keep(letter.clone());
        self.outbox.dead.push(DeadRecord::Dead(letter));
        self.settle(offset);
    }

    fn keep(&mut self, letter: Letter) {
        if let Some(key) = &letter.key {
            self.parked.entry(key.as_str().into()).or_default().insert(letter.offset);
        }
        self.letters.insert(letter.offset, Dead { letter, redriven: None });
    }

    fn forget(&mut self, offset: Offset) {
        if let Some(dead) = self.letters.remove(&offset) {
            self.unpark(&dead.letter);
        }
    }

    fn mark_redriven(&mut self, offset: Offset, due: Timestamp) {
        let Some(dead) = self.letters.get_mut(&offset) else { return };
        dead.redriven = Some(due);
        let letter = dead.letter.clone();
        self.unpark(&letter);
    }

    fn unpark(&mut self, letter: &Letter) {
        let Some(key) = letter.key.as_deref() else { return };
        if let Some(offsets) = self.parked.get_mut(key) {
            offsets.remove(&letter.offset);
            if offsets.is_empty() {
                self.parked.remove(key);
            }
        }
    }

    fn pend_letter(&mut self, offset: Offset, due: Timestamp) {
        let key = self.letters.get(&offset).and_then(|dead| dead.letter.key.as_deref().map(Arc::from));
        if !self.entries.contains_key(&offset) {
            self.pend(offset, key, Some(due));
        }
    }
}

fn spacing(place: u32, rate: Option<u32>) -> Duration {
    rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) * place / rate.max(1))
}

#[cfg(test)]
#[path = "machine/tests.rs"]
mod tests;
