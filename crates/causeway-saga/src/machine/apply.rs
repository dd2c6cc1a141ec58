//! What a record changes in one saga. Nothing is decided here.
//!
//! In:    records, live or replayed.      Out: the changed [`Saga`].
//! Owner: `machine.rs`; this is its other half.
//! Invariant: the same records give the same saga, today and in every later release: what follows from a record is in it.
//! Not here: making records (`machine.rs`, `command.rs`).

use std::sync::Arc;

use causeway_model::Timestamp;

use super::{Phase, Progress, Saga, Work};
use crate::plan;
use crate::record::{Answered, Command, Commanded, Kind, Record, Status, Then, Verdict, Why};

impl Saga {
    /// Changes the saga as the record says. It never decides anything.
    pub(crate) fn apply(&mut self, at: Timestamp, record: Record) {
        match record {
            Record::Started(_) => {}
            Record::Answered(answered) => self.apply_answered(at, answered),
            Record::Turned(turned) => {
                if turned.why == Why::TimedOut {
                    self.is_aborting = true;
                    let timeout = self.plan.definition.timeout.unwrap_or_default();
                    self.error = Some(format!("not ended within {timeout:?}"));
                }
                self.go(at, turned.then);
            }
            Record::Commanded(commanded) => self.apply_commanded(at, *commanded),
        }
    }

    fn apply_answered(&mut self, at: Timestamp, answered: Answered) {
        let order = self.left + 1;
        let Some(step) = self.steps.get_mut(usize::from(answered.step)) else { return };
        step.is_in_flight = false;
        let is_waiting = step.is_waiting;
        step.is_waiting = false;
        if answered.verdict != Verdict::NotYet {
            step.attempts = answered.attempt;
            step.not_yets = 0;
        }
        match answered.verdict {
            Verdict::Done => {
                step.progress = Progress::Done;
                step.answer = answered.answer;
                if answered.kind == Kind::Ask {
                    step.is_asking = false;
                    step.attempts = 0;
                    step.not_before = at;
                }
            }
            Verdict::Refused => {
                step.progress = Progress::Refused;
                step.is_asking = false;
            }
            Verdict::Unknown => step.progress = Progress::Unknown,
            Verdict::Again { is_maybe } => {
                step.is_maybe |= is_maybe;
                step.not_before = answered.again.unwrap_or(at);
            }
            Verdict::NotYet => {
                step.is_maybe = true;
                step.is_waiting = true;
                step.not_yets = if is_waiting { step.not_yets.saturating_add(1) } else { 1 };
                step.not_before = answered.again.unwrap_or(at);
            }
            Verdict::Undone => step.progress = Progress::Undone,
            Verdict::Ask => {
                step.is_asking = true;
                step.attempts = 0;
                step.not_before = at;
            }
            Verdict::GaveUp => {}
        }
        if matches!(step.progress, Progress::Done | Progress::Unknown) && step.order == 0 {
            step.order = order;
            self.left = order;
        }
        if let (Verdict::Refused | Verdict::Unknown, Kind::Do, Some(error)) =
            (answered.verdict, answered.kind, &answered.error)
        {
            let name = &self.plan.step(usize::from(answered.step)).name;
            self.error.get_or_insert(format!("step {name}: {error}"));
        }
        self.go(at, answered.then);
    }

    fn apply_commanded(&mut self, at: Timestamp, commanded: Commanded) {
        if let Some(plan) = commanded.definition.as_deref().and_then(plan::load_bytes) {
            self.plan = Arc::new(plan);
        }
        let is_stuck = matches!(self.phase, Phase::Stuck { .. });
        match commanded.command {
            Command::Retry => self.reopen(at, is_stuck),
            Command::Skip { .. } => {
                if let Some(step) = commanded.step.and_then(|n| self.steps.get_mut(usize::from(n))) {
                    let is_back = matches!(self.phase, Phase::Back | Phase::Stuck { is_back: true, .. });
                    step.progress = if is_back { Progress::Undone } else { Progress::Skipped };
                    step.is_waiting = false;
                }
            }
            Command::Edit(edit) => {
                if let Some(input) = edit.input {
                    self.input = input.into();
                }
            }
            Command::Compensate { reason } => self.abort("compensate", &commanded.caller, &reason),
            Command::Cancel { reason } => self.abort("cancel", &commanded.caller, &reason),
            Command::Resolve { status, note } => {
                self.is_resolved = true;
                let caller = &commanded.caller;
                self.error = (status != Status::Done).then(|| format!("resolved by {caller}: {note}"));
            }
        }
        self.go(at, commanded.then);
    }

    fn abort(&mut self, verb: &str, caller: &str, reason: &str) {
        self.is_aborting = true;
        let colon = if reason.is_empty() { "" } else { ": " };
        self.error = Some(format!("{verb} by {caller}{colon}{reason}"));
    }

    /// Retry by hand: what failed is open again, its attempts are counted anew. Out of [`Phase::Stuck`] a person has taken
    /// over, so neither the deadline nor an earlier wish to go back counts any more.
    fn reopen(&mut self, at: Timestamp, is_stuck: bool) {
        if is_stuck {
            self.error = None;
        }
        if let Phase::Stuck { stage, is_back: false } = self.phase {
            self.is_aborting = false;
            self.deadline = None;
            for n in self.members(stage) {
                let step = &mut self.steps[n];
                if matches!(step.progress, Progress::Refused | Progress::Unknown) {
                    step.is_maybe |= step.progress == Progress::Unknown;
                    step.progress = Progress::Open;
                    step.order = 0;
                }
            }
        }
        for step in &mut self.steps {
            step.attempts = 0;
            step.not_before = at;
            step.not_yets = 0;
        }
    }

    fn go(&mut self, at: Timestamp, then: Then) {
        let stage_now = match self.phase {
            Phase::Forward { stage } | Phase::Stuck { stage, .. } => stage,
            Phase::Back | Phase::Ended(_) => 0,
        };
        match then {
            Then::Stay => {}
            Then::Stage(stage) => self.phase = Phase::Forward { stage },
            Then::Back { unknown } => {
                self.leave_unknown(&unknown);
                self.phase = Phase::Back;
                for step in &mut self.steps {
                    (step.attempts, step.not_before, step.not_yets) = (0, at, 0);
                    step.is_waiting = false;
                }
            }
            Then::Stuck { unknown, why } => {
                self.leave_unknown(&unknown);
                let is_back = matches!(self.phase, Phase::Back);
                self.phase = Phase::Stuck { stage: stage_now, is_back };
                self.error = Some(match self.error.take() {
                    Some(before) if !is_back => format!("{why} ({before})"),
                    _ => why,
                });
            }
            Then::Ended(status) => {
                self.phase = Phase::Ended(status);
                self.ended = Some(at);
                if status == Status::Done {
                    self.error = None;
                }
            }
        }
    }

    fn leave_unknown(&mut self, unknown: &[u16]) {
        for n in unknown {
            let Some(step) = self.steps.get_mut(usize::from(*n)) else { continue };
            step.progress = Progress::Unknown;
            self.left += 1;
            step.order = self.left;
        }
    }

    /// "Not yet" once more: not journalled.
    pub(crate) fn wait(&mut self, work: Work, until: Timestamp) {
        let step = &mut self.steps[usize::from(work.step)];
        step.is_in_flight = false;
        step.not_before = until;
        step.not_yets = step.not_yets.saturating_add(1);
    }
}
