//! One saga as a machine: what has happened, what is to be performed now, what an answer or a command means.
//!
//! In:    outcomes of attempts, commands, the time.      Out: [`Record`]s (decide), a changed [`Saga`] (apply), [`Work`] (next).
//! Owner: `shard.rs` keeps one per open saga; a test runs it a million times without a runtime.
//! Invariant: nothing is performed that the records before it do not ask for; a step that may have happened is compensated,
//! one that certainly did not is not; past the pivot nothing is undone unless a person says so.
//! Not here: sending (`perform.rs`), writing down (`journal.rs`), when this is called (`driver.rs`).
//!
//! ```text
//!             stage done            last stage done
//! Forward ---------------> Forward -----------------> Ended(done)
//!    | refused, unknown, timed out, cancelled (before the pivot; the others of the stage settle first)
//!    +--> Back --> Ended(undone)     +--> Ended(failed)  nothing to compensate
//!    | out of attempts past the pivot        | compensation out of attempts
//!    +------------> Stuck <------------------+        a person: retry, skip, edit, compensate, resolve
//! ```

mod apply;
mod command;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use causeway_model::{RetryPolicy, Timestamp};

use crate::id::SagaId;
use crate::plan::{Plan, Sources};
use crate::record::{Answer, Answered, Kind, Record, Started, Status, Then, Turned, Verdict, Why};

/// Longest wait before a participant that said "not yet" (425) is asked again, unless its `Retry-After` says longer.
pub const NOT_YET_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest `Retry-After` that is obeyed: an hour; a participant that is away for longer needs a person anyway.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// A compensation that is refused (4xx) so often is stuck: waiting for a day, as for a participant that is away, would only
/// hide it.
pub const UNDO_REFUSALS_MAX: u32 = 10;

/// What is the same for every saga of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How long compensations are tried.
    pub(crate) undo: RetryPolicy,
}

/// When a decision is taken, and the luck that spreads retries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) now: Timestamp,
    /// In `0.0..1.0`.
    pub(crate) luck: f64,
}

/// One open saga, or one that ended.
#[derive(Clone, Debug)]
pub(crate) struct Saga {
    pub(crate) id: SagaId,
    pub(crate) plan: Arc<Plan>,
    pub(crate) input: Arc<str>,
    pub(crate) caller: String,
    pub(crate) trace: [u8; 16],
    pub(crate) started: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) ended: Option<Timestamp>,
    pub(crate) phase: Phase,
    pub(crate) steps: Box<[StepNow]>,
    /// Cancelled or timed out: turns back when what is under way has settled, unless the pivot gets done.
    pub(crate) is_aborting: bool,
    /// A person said how it ended.
    pub(crate) is_resolved: bool,
    pub(crate) error: Option<String>,
    /// Steps that were left as done or unknown so far: the order of compensation is the reverse.
    left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Forward { stage: u16 },
    Back,
    Stuck { stage: u16, is_back: bool },
    Ended(Status),
}

#[derive(Clone, Debug)]
pub(crate) struct StepNow {
    pub(crate) progress: Progress,
    /// Attempts that counted, of what it is at.
    pub(crate) attempts: u32,
    pub(crate) not_before: Timestamp,
    /// An attempt may have done it.
    pub(crate) is_maybe: bool,
    /// On the way back: its answer is asked for before it is compensated.
    pub(crate) is_asking: bool,
    /// Its participant said "not yet" last.
    pub(crate) is_waiting: bool,
    not_yets: u32,
    /// From 1, in the order in which steps were left as done or unknown; 0 when it was not.
    pub(crate) order: u32,
    pub(crate) answer: Option<Answer>,
    /// Not journalled: an attempt is under way in this process.
    pub(crate) is_in_flight: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Open,
    Done,
    Refused,
    Unknown,
    Skipped,
    Undone,
}

/// One attempt to perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) step: u16,
    pub(crate) kind: Kind,
    pub(crate) attempt: u32,
}

/// How an attempt ended, as `perform.rs` saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer came.
    Answer {
        answer: Answer,
        retry_after: Option<Duration>,
        /// Made by a proxy on the way, not by the participant.
        is_ours: bool,
        /// For people, where the status is a failure.
        text: Option<String>,
    },
    /// Certainly never sent.
    Unreached(String),
    /// Sent, and no answer: it may have happened.
    Unanswered(String),
    /// The request could not be made from its template.
    Unrendered(String),
}

/// What to do about an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Record(Record),
    /// "Not yet" once more: nothing is written, it is asked again at this time.
    Wait(Timestamp),
    /// The attempt is not one that is waited for.
    Stale,
}

/// What is looked at when the consequence of a change is drawn.
#[derive(Clone, Copy)]
struct Look {
    progress: Progress,
    is_maybe: bool,
    is_in_flight: bool,
}

impl Saga {
    /// A saga by its first record.
    pub(crate) fn start(at: Timestamp, started: Started, plan: Arc<Plan>) -> Saga {
        let step = StepNow {
            progress: Progress::Open,
            attempts: 0,
            not_before: Timestamp::default(),
            is_maybe: false,
            is_asking: false,
            is_waiting: false,
            not_yets: 0,
            order: 0,
            answer: None,
            is_in_flight: false,
        };
        Saga {
            id: started.id,
            input: started.input.into(),
            caller: started.caller,
            trace: started.trace,
            started: at,
            deadline: plan.definition.timeout.map(|timeout| at.plus(timeout)),
            ended: None,
            phase: Phase::Forward { stage: 0 },
            steps: vec![step; plan.len()].into(),
            plan,
            is_aborting: false,
            is_resolved: false,
            error: None,
            left: 0,
        }
    }

    pub(crate) fn status(&self) -> Status {
        match self.phase {
            Phase::Forward { .. } => Status::Running,
            Phase::Back => Status::Compensating,
            Phase::Stuck { .. } => Status::Stuck,
            Phase::Ended(status) => status,
        }
    }

    /// After a restart: whatever was open may have been sent by the process before.
    pub(crate) fn resume(&mut self) {
        if let Phase::Forward { stage } = self.phase {
            for n in self.members(stage) {
                let step = &mut self.steps[n];
                step.is_maybe |= step.progress == Progress::Open;
            }
        }
    }

    /// What templates may see.
    pub(crate) fn sources(&self) -> Sources<'_> {
        let answers = self.steps.iter().enumerate().filter_map(|(n, step)| Some((n, step.answer.as_ref()?)));
        Sources { id: &self.id, input: &self.input, started: self.started, answers: answers.collect() }
    }

    // --- next: what to perform ---

    /// Puts what is to be performed now into `work`; gives the time at which there may be more.
    pub(crate) fn next(&self, now: Timestamp, work: &mut Vec<Work>) -> Option<Timestamp> {
        let mut wake: Option<Timestamp> = None;
        let mut later = |time: Timestamp| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        match self.phase {
            Phase::Forward { stage } => {
                let is_past_pivot = self.is_past_pivot();
                if let (Some(deadline), false, false) = (self.deadline, is_past_pivot, self.is_aborting) {
                    later(deadline);
                }
                if self.is_turning() {
                    return wake;
                }
                for n in self.members(stage) {
                    let step = &self.steps[n];
                    match step.progress == Progress::Open && !step.is_in_flight {
                        true if step.not_before <= now => work.push(self.work(n, Kind::Do)),
                        true => later(step.not_before),
                        false => {}
                    }
                }
            }
            Phase::Back => {
                if let Some(n) = self.to_undo(None) {
                    let step = &self.steps[n];
                    let kind = if step.is_asking { Kind::Ask } else { Kind::Undo };
                    match !step.is_in_flight {
                        true if step.not_before <= now => work.push(self.work(n, kind)),
                        true => later(step.not_before),
                        false => {}
                    }
                }
            }
            Phase::Stuck { .. } | Phase::Ended(_) => {}
        }
        wake
    }

    fn work(&self, step: usize, kind: Kind) -> Work {
        Work { step: step as u16, kind, attempt: self.steps[step].attempts + 1 }
    }

    /// Marks an attempt as under way.
    pub(crate) fn begin(&mut self, work: Work) {
        self.steps[usize::from(work.step)].is_in_flight = true;
    }

    /// Whether an attempt that was queued is still wanted; if not, it is taken back as if it had never been begun.
    pub(crate) fn still_wants(&mut self, now: Timestamp, work: Work) -> bool {
        let step = usize::from(work.step);
        self.steps[step].is_in_flight = false;
        let mut wanted = Vec::new();
        self.next(now, &mut wanted);
        let is_wanted = wanted.contains(&work);
        self.steps[step].is_in_flight = is_wanted;
        is_wanted
    }

    // --- decide: what an outcome, the time, a command means ---

    /// What the end of an attempt means.
    pub(crate) fn answer(&self, rules: &Rules, at: At, work: Work, outcome: Outcome) -> Decision {
        let Some(step) = self.steps.get(usize::from(work.step)) else { return Decision::Stale };
        if !step.is_in_flight {
            return Decision::Stale;
        }
        let attempt = Attempt::of(&outcome);
        let verdict = match work.kind {
            Kind::Do => self.judge_forward(work, &attempt),
            Kind::Ask => self.judge_ask(rules, work, &attempt),
            Kind::Undo => self.judge_undo(rules, work, &attempt),
        };
        let policy = match work.kind {
            Kind::Do => self.plan.step(usize::from(work.step)).retry,
            Kind::Ask | Kind::Undo => rules.undo,
        };
        let again = match verdict {
            Verdict::Again { .. } => {
                let wait = spread(policy.wait_before(work.attempt + 1), at.luck);
                Some(at.now.plus(wait.max(attempt.retry_after)))
            }
            Verdict::NotYet => {
                let policy = RetryPolicy { max_backoff: NOT_YET_WAIT_MAX, ..policy };
                let wait = spread(policy.wait_before(step.not_yets + 2), at.luck);
                Some(at.now.plus(wait.max(attempt.retry_after)))
            }
            _ => None,
        };
        if let (Verdict::NotYet, true, Some(again)) = (verdict, step.is_waiting, again) {
            return Decision::Wait(again);
        }
        let then = self.after_verdict(work, verdict, &attempt.text);
        let status = attempt.status;
        let (answer, error) = match (verdict, outcome) {
            (Verdict::Done, Outcome::Answer { answer, .. }) => (Some(answer), None),
            (Verdict::Undone, _) => (None, None),
            _ => (None, Some(attempt.text)),
        };
        let Work { step, kind, attempt } = work;
        Decision::Record(Record::Answered(Answered {
            step,
            kind,
            attempt,
            verdict,
            status,
            answer,
            error,
            again,
            then,
        }))
    }

    fn judge_forward(&self, work: Work, attempt: &Attempt) -> Verdict {
        let step = usize::from(work.step);
        let is_maybe = self.steps[step].is_maybe;
        let given_up = |is_maybe| if is_maybe { Verdict::Unknown } else { Verdict::Refused };
        match attempt.says {
            Says::Done => Verdict::Done,
            Says::No => Verdict::Refused,
            Says::NotYet if self.is_turning() => Verdict::Unknown,
            Says::NotYet => Verdict::NotYet,
            Says::NotHere => given_up(is_maybe),
            Says::Nothing { is_sent } => {
                let is_maybe = is_maybe || is_sent;
                match self.is_turning() || work.attempt >= self.plan.step(step).retry.attempts {
                    true => given_up(is_maybe),
                    false => Verdict::Again { is_maybe },
                }
            }
            Says::Unmade => given_up(is_maybe),
        }
    }

    fn judge_ask(&self, rules: &Rules, work: Work, attempt: &Attempt) -> Verdict {
        match attempt.says {
            Says::Done => Verdict::Done,
            Says::No => Verdict::Refused,
            Says::NotYet => Verdict::NotYet,
            Says::Unmade => Verdict::GaveUp,
            Says::NotHere if work.attempt >= UNDO_REFUSALS_MAX.min(rules.undo.attempts) => Verdict::GaveUp,
            Says::Nothing { .. } if work.attempt >= rules.undo.attempts => Verdict::GaveUp,
            Says::NotHere | Says::Nothing { .. } => Verdict::Again { is_maybe: true },
        }
    }

    fn judge_undo(&self, rules: &Rules, work: Work, attempt: &Attempt) -> Verdict {
        match attempt.says {
            Says::Done => Verdict::Undone,
            Says::NotYet => Verdict::NotYet,
            Says::Unmade if self.steps[usize::from(work.step)].progress == Progress::Unknown => Verdict::Ask,
            Says::Unmade => Verdict::GaveUp,
            Says::No | Says::NotHere if work.attempt >= UNDO_REFUSALS_MAX.min(rules.undo.attempts) => {
                Verdict::GaveUp
            }
            Says::Nothing { .. } if work.attempt >= rules.undo.attempts => Verdict::GaveUp,
            Says::No | Says::NotHere | Says::Nothing { .. } => Verdict::Again { is_maybe: true },
        }
    }

    fn after_verdict(&self, work: Work, verdict: Verdict, text: &str) -> Then {
        let step = usize::from(work.step);
        let now = self.look(step);
        let progress = match verdict {
            Verdict::Done => Progress::Done,
            Verdict::Refused => Progress::Refused,
            Verdict::Unknown => Progress::Unknown,
            Verdict::Undone => Progress::Undone,
            Verdict::GaveUp => {
                let what = if work.kind == Kind::Ask { "what became of it" } else { "its compensation" };
                let why = format!("step {}: {what}: {text}", self.plan.step(step).name);
                return Then::Stuck { unknown: vec![], why };
            }
            Verdict::Again { .. } | Verdict::NotYet | Verdict::Ask => now.progress,
        };
        let is_maybe = now.is_maybe || matches!(verdict, Verdict::Again { is_maybe: true } | Verdict::NotYet);
        self.consequence(Some((step, Look { progress, is_maybe, is_in_flight: false })), self.is_aborting)
    }

    /// Whether the passing of time alone turns it.
    pub(crate) fn tick(&self, now: Timestamp) -> Option<Record> {
        let Phase::Forward { .. } = self.phase else { return None };
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        if is_late && !self.is_aborting && !self.is_past_pivot() {
            let then = self.consequence(None, true);
            return Some(Record::Turned(Turned { why: Why::TimedOut, then }));
        }
        match self.consequence(None, self.is_aborting) {
            Then::Stay => None,
            then => Some(Record::Turned(Turned { why: Why::Settled, then })),
        }
    }

    // --- consequences ---

    fn look(&self, step: usize) -> Look {
        let StepNow { progress, is_maybe, is_in_flight, .. } = self.steps[step];
        Look { progress, is_maybe, is_in_flight }
    }

    /// Where the saga goes when one step changes as said.
    fn consequence(&self, changed: Option<(usize, Look)>, is_aborting: bool) -> Then {
        match self.phase {
            Phase::Forward { stage } => self.forward_consequence(stage, changed, is_aborting),
            Phase::Back => match self.back_or_end(changed) {
                Then::Back { .. } => Then::Stay,
                then => then,
            },
            Phase::Stuck { .. } | Phase::Ended(_) => Then::Stay,
        }
    }

    fn forward_consequence(&self, stage: u16, changed: Option<(usize, Look)>, is_aborting: bool) -> Then {
        let look = |n: usize| match changed {
            Some((step, look)) if step == n => look,
            _ => self.look(n),
        };
        let is_past_pivot = (0..self.steps.len()).any(|n| {
            self.plan.step(n).is_pivot && matches!(look(n).progress, Progress::Done | Progress::Skipped)
        });
        let bad =
            self.members(stage).find(|n| matches!(look(*n).progress, Progress::Refused | Progress::Unknown));
        let any = |test: fn(&Look) -> bool| self.members(stage).any(|n| test(&look(n)));
        if !is_past_pivot && (is_aborting || bad.is_some()) {
            return match any(|look| look.is_in_flight) {
                true => Then::Stay,
                false => self.turn(stage, &look, false),
            };
        }
        if any(|look| look.progress == Progress::Open) {
            return Then::Stay;
        }
        match bad {
            Some(step) => {
                let why =
                    format!("step {} failed past the pivot: only forward is left", self.plan.step(step).name);
                Then::Stuck { unknown: vec![], why }
            }
            None if usize::from(stage) + 1 < self.plan.definition.stages.len() => Then::Stage(stage + 1),
            None => Then::Ended(Status::Done),
        }
    }

    /// Back, to a person, or to the end at once. `is_ordered`: a person has decided that back it is.
    fn turn(&self, stage: u16, look: &dyn Fn(usize) -> Look, is_ordered: bool) -> Then {
        let unknown: Vec<u16> = self
            .members(stage)
            .filter(|n| look(*n).progress == Progress::Open && look(*n).is_maybe)
            .map(|n| n as u16)
            .collect();
        let may_have_happened =
            |n: usize| look(n).progress == Progress::Unknown || unknown.contains(&(n as u16));
        let lost_pivot = (0..self.steps.len())
            .find(|n| self.plan.step(*n).is_pivot && !self.plan.has_undo(*n) && may_have_happened(*n));
        if let (Some(pivot), false) = (lost_pivot, is_ordered) {
            let why = format!(
                "whether the pivot {} happened is not known, and it has no compensation",
                self.plan.step(pivot).name
            );
            return Then::Stuck { unknown, why };
        }
        let has_work = (0..self.steps.len())
            .any(|n| self.plan.has_undo(n) && (look(n).progress == Progress::Done || may_have_happened(n)));
        match has_work {
            true => Then::Back { unknown },
            false => Then::Ended(Status::Failed),
        }
    }

    fn back_or_end(&self, changed: Option<(usize, Look)>) -> Then {
        if self.to_undo(changed).is_some() {
            return Then::Back { unknown: vec![] };
        }
        let is_undone = |n: usize| match changed {
            Some((step, look)) if step == n => look.progress == Progress::Undone,
            _ => self.steps[n].progress == Progress::Undone,
        };
        match (0..self.steps.len()).any(is_undone) {
            true => Then::Ended(Status::Undone),
            false => Then::Ended(Status::Failed),
        }
    }

    /// The step to compensate next: the last that was left as done or unknown.
    fn to_undo(&self, changed: Option<(usize, Look)>) -> Option<usize> {
        let progress = |n: usize| match changed {
            Some((step, look)) if step == n => look.progress,
            _ => self.steps[n].progress,
        };
        (0..self.steps.len())
            .filter(|n| self.plan.has_undo(*n) && matches!(progress(*n), Progress::Done | Progress::Unknown))
            .max_by_key(|n| self.steps[*n].order)
    }

    pub(crate) fn members(&self, stage: u16) -> Range<usize> {
        let before =
            self.plan.definition.stages[..usize::from(stage)].iter().map(|stage| stage.steps.len()).sum();
        before..before + self.plan.definition.stages[usize::from(stage)].steps.len()
    }

    fn pivot_passed(&self) -> Option<usize> {
        (0..self.steps.len()).find(|n| {
            matches!(self.steps[*n].progress, Progress::Done | Progress::Skipped)
                && self.plan.step(*n).is_pivot
        })
    }

    fn is_past_pivot(&self) -> bool {
        self.pivot_passed().is_some()
    }

    /// Whether nothing new is sent forward: it goes back as soon as what is under way has settled.
    fn is_turning(&self) -> bool {
        let Phase::Forward { stage } = self.phase else { return false };
        let has_failed = || {
            self.members(stage)
                .any(|n| matches!(self.steps[n].progress, Progress::Refused | Progress::Unknown))
        };
        (self.is_aborting || has_failed()) && !self.is_past_pivot()
    }
}

/// What an outcome says, in the terms of the contract with participants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// 2xx.
    Done,
    /// 409, or another 4xx that the participant itself gave: it has not happened and will not, under this key.
    No,
    /// 425.
    NotYet,
    /// A 4xx that says nothing about earlier attempts: made by a proxy, or 408 and 429.
    NotHere,
    /// Anything else, or no answer.
    Nothing { is_sent: bool },
    /// The request could not be made.
    Unmade,
}

struct Attempt {
    says: Says,
    status: u16,
    retry_after: Duration,
    text: String,
}

impl Attempt {
    fn of(outcome: &Outcome) -> Attempt {
        let (says, status, retry_after, text) = match outcome {
            Outcome::Answer { answer, retry_after, is_ours, text } => {
                let says = match answer.status {
                    200..=299 => Says::Done,
                    409 => Says::No,
                    425 => Says::NotYet,
                    408 | 429 => Says::NotHere,
                    400..=499 if *is_ours => Says::NotHere,
                    400..=499 => Says::No,
                    _ => Says::Nothing { is_sent: true },
                };
                let text = match text {
                    Some(text) => format!("answered {}: {text}", answer.status),
                    None => format!("answered {}", answer.status),
                };
                (says, answer.status, *retry_after, text)
            }
            Outcome::Unreached(why) => (Says::Nothing { is_sent: false }, 0, None, why.clone()),
            Outcome::Unanswered(why) => (Says::Nothing { is_sent: true }, 0, None, why.clone()),
            Outcome::Unrendered(why) => (Says::Unmade, 0, None, format!("its request cannot be made: {why}")),
        };
        Attempt { says, status, retry_after: retry_after.unwrap_or_default().min(RETRY_AFTER_MAX), text }
    }
}

/// A fifth more or less, so that sagas that failed together do not come back together.
fn spread(wait: Duration, luck: f64) -> Duration {
    wait.mul_f64(0.8 + 0.4 * luck)
}

#[cfg(test)]
mod tests;
