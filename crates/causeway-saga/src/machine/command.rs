//! What a command of a person or a program means for one saga.
//!
//! In:    a [`Command`] and the saga as it stands.      Out: a record that carries the consequence, nothing, or why it does not fit.
//! Owner: `machine.rs`; this is its part for the failure desk.
//! Invariant: a command never touches an attempt that is under way.
//! Not here: what applying it changes (`apply.rs`).

use causeway_model::Name;

use super::{Look, Phase, Progress, Saga};
use crate::plan::{self, Plan};
use crate::record::{Command, Commanded, Edit, Record, Status, Then};

impl Saga {
    /// What a command means: a record, nothing when it is so already, or why it does not fit.
    pub(crate) fn command(&self, caller: &str, command: Command) -> Result<Option<Record>, String> {
        let record = |step: Option<usize>, then: Then, definition: Option<Vec<u8>>, command: Command| {
            let step = step.map(|step| step as u16);
            let commanded = Commanded { caller: caller.into(), command, step, then, definition };
            Ok(Some(Record::Commanded(Box::new(commanded))))
        };
        if let Phase::Ended(status) = self.phase {
            let is_so = matches!(command, Command::Cancel { .. } | Command::Compensate { .. })
                && status != Status::Done;
            return if is_so { Ok(None) } else { Err("it has ended".into()) };
        }
        match &command {
            Command::Retry => record(None, self.after_retry(), None, command),
            Command::Skip { step } => {
                let (step, then) = self.after_skip(step.as_ref())?;
                record(Some(step), then, None, command)
            }
            Command::Edit(edit) => {
                let (step, definition) = self.edited(edit)?;
                record(step, Then::Stay, definition, command)
            }
            Command::Compensate { .. } => match self.phase {
                Phase::Back => Ok(None),
                Phase::Stuck { is_back: true, .. } => {
                    record(None, Then::Back { unknown: vec![] }, None, command)
                }
                Phase::Stuck { stage, .. } => {
                    record(None, self.turn(stage, &|n| self.look(n), true), None, command)
                }
                _ => record(None, self.after_abort()?, None, command),
            },
            Command::Cancel { .. } => match self.phase {
                Phase::Back => Ok(None),
                Phase::Stuck { .. } => {
                    Err("a stuck saga is not cancelled but compensated or resolved".into())
                }
                _ => record(None, self.after_abort()?, None, command),
            },
            Command::Resolve { status, .. } if !status.is_ended() => {
                Err(format!("a saga is resolved as done, undone or failed, not as {}", status.as_str()))
            }
            Command::Resolve { status, .. } => {
                self.no_attempt_is_under_way()?;
                record(None, Then::Ended(*status), None, command)
            }
        }
    }

    fn after_retry(&self) -> Then {
        match self.phase {
            Phase::Stuck { is_back: true, .. } => Then::Back { unknown: vec![] },
            Phase::Stuck { stage, .. } => Then::Stage(stage),
            _ => Then::Stay,
        }
    }

    fn after_abort(&self) -> Result<Then, String> {
        match self.pivot_passed() {
            Some(pivot) => Err(format!(
                "its pivot {} is done, it only goes forward (a stuck one can be compensated)",
                self.plan.step(pivot).name
            )),
            None => Ok(self.consequence(None, true)),
        }
    }

    fn after_skip(&self, name: Option<&Name>) -> Result<(usize, Then), String> {
        let named = match name {
            Some(name) => Some(self.plan.find(name).ok_or_else(|| format!("it has no step {name}"))?),
            None => None,
        };
        let (stage, is_back) = match self.phase {
            Phase::Forward { stage } => (stage, false),
            Phase::Stuck { stage, is_back } => (stage, is_back),
            Phase::Back | Phase::Ended(_) => (0, true),
        };
        if is_back {
            let step = self.to_undo(None).ok_or("there is nothing to compensate")?;
            if named.is_some_and(|named| named != step) {
                let at = &self.plan.step(step).name;
                return Err(format!("it is at the compensation of {at}: skip that one first"));
            }
            self.not_under_way(step)?;
            let skipped = Look { progress: Progress::Undone, is_maybe: false, is_in_flight: false };
            return Ok((step, self.back_or_end(Some((step, skipped)))));
        }
        let is_skippable = |n: &usize| {
            matches!(self.steps[*n].progress, Progress::Open | Progress::Refused | Progress::Unknown)
        };
        let failed = |n: &usize| matches!(self.steps[*n].progress, Progress::Refused | Progress::Unknown);
        let step = match named {
            Some(step) if self.members(stage).contains(&step) && is_skippable(&step) => step,
            Some(step) => {
                return Err(format!("step {} is not what it is at", self.plan.step(step).name));
            }
            None => self.members(stage).find(failed).ok_or("no step is stuck: name one")?,
        };
        self.not_under_way(step)?;
        let skipped = Look { progress: Progress::Skipped, is_maybe: false, is_in_flight: false };
        Ok((step, self.forward_consequence(stage, Some((step, skipped)), self.is_aborting)))
    }

    fn edited(&self, edit: &Edit) -> Result<(Option<usize>, Option<Vec<u8>>), String> {
        if let Some(input) = &edit.input {
            serde_json::from_str::<serde::de::IgnoredAny>(input)
                .map_err(|error| format!("the new input is not JSON: {error}"))?;
        }
        let Some(change) = &edit.step else {
            return match edit.input {
                Some(_) => Ok((None, None)),
                None => Err("the edit changes nothing".into()),
            };
        };
        let step = self.plan.find(&change.step).ok_or_else(|| format!("it has no step {}", change.step))?;
        let plan = Plan::compile(plan::edited(&self.plan.definition, step, change)?).map_err(|all| {
            let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
            texts.join("; ")
        })?;
        Ok((Some(step), Some(plan.bytes)))
    }

    fn not_under_way(&self, step: usize) -> Result<(), String> {
        match self.steps[step].is_in_flight {
            true => Err(format!(
                "an attempt of step {} is under way: try again when it has ended",
                self.plan.step(step).name
            )),
            false => Ok(()),
        }
    }

    fn no_attempt_is_under_way(&self) -> Result<(), String> {
        (0..self.steps.len()).try_for_each(|step| self.not_under_way(step))
    }
}
