//! What others see of a saga.

use std::sync::Arc;
use std::time::Duration;

use causeway_model::{Name, Timestamp};

use crate::id::SagaId;
use crate::journal::Line;
use crate::machine::{Phase, Progress, Saga};
use crate::plan::Plan;
use crate::record::{self, Command, Kind, Record, Status, Verdict, Why};

/// A saga in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: SagaId,
    /// Namespace of its definition.
    pub namespace: Name,
    /// Name of its definition.
    pub definition: Name,
    /// How far it is.
    pub status: Status,
    /// When it was started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it is stuck or turned back, in words.
    pub error: Option<String>,
}

/// Everything about one saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The line of the list.
    pub summary: Summary,
    /// Who started it.
    pub caller: String,
    /// JSON text.
    pub input: String,
    /// When it is undone if it has not ended.
    pub deadline: Option<Timestamp>,
    /// W3C trace id (32 hex digits) that all its calls carry.
    pub trace: String,
    /// Its steps, in the order written.
    pub steps: Vec<StepView>,
    /// What happened, oldest first; at most [`TIMELINE_MAX`] entries, the newest.
    pub timeline: Vec<Moment>,
    /// How many older entries of the timeline are left out.
    pub left_out: usize,
}

/// What starting gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// False: a saga of this id, definition and input was there.
    pub is_new: bool,
    /// How it stands.
    pub view: View,
}

/// Most entries of a timeline in a [`View`]: a compensation that is tried for a day makes 300.
pub const TIMELINE_MAX: usize = 1000;

/// One step as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepView {
    /// Its name.
    pub name: Name,
    /// Which stage it belongs to, from 0; steps of one stage run side by side.
    pub stage: usize,
    /// How it stands.
    pub state: StepState,
    /// Whether it is the point of no return.
    pub is_pivot: bool,
    /// Whether it has a compensation.
    pub has_compensation: bool,
    /// Attempts of what it is at (the step, or its compensation on the way back).
    pub attempts: u32,
    /// When it is tried again.
    pub next_attempt: Option<Timestamp>,
    /// HTTP status of its answer; 0 when it has none.
    pub status: u16,
    /// JSON text of its answer's body.
    pub body: Option<String>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Not begun: its stage was not reached, or its request was never sent.
    Waiting,
    /// Under way or waiting for its next attempt.
    Running,
    /// Done.
    Done,
    /// Certainly not done: refused, or never reached its service.
    Refused,
    /// May have been done: no definite answer. Compensated like a done one.
    Unknown,
    /// Settled by hand.
    Skipped,
    /// Its compensation is under way or waiting for its next attempt.
    Undoing,
    /// Compensated.
    Undone,
}

impl StepState {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            StepState::Waiting => "waiting",
            StepState::Running => "running",
            StepState::Done => "done",
            StepState::Refused => "refused",
            StepState::Unknown => "unknown",
            StepState::Skipped => "skipped",
            StepState::Undoing => "undoing",
            StepState::Undone => "undone",
        }
    }
}

/// One entry of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub time: Timestamp,
    /// The step it is about.
    pub step: Option<Name>,
    /// `started`, `done`, `refused`, `unknown`, `retry`, `not yet`, `undone`, `asking`, `gave up`, `timed out`, `turned back`, or the
    /// verb of a command.
    pub what: &'static str,
    /// Whether it is about the step's compensation.
    pub is_undo: bool,
    /// HTTP status of an answer; 0 when there was none.
    pub status: u16,
    /// Which attempt, from 1; 0 when it is not about one.
    pub attempt: u32,
    /// What went wrong, what a person noted, or what follows, in words.
    pub text: Option<String>,
    /// Who gave the command.
    pub caller: Option<String>,
    /// Status of the saga from here on.
    pub saga: Status,
}

/// Which sagas to list.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only of this status.
    pub status: Option<Status>,
    /// Only of this definition.
    pub definition: Option<Name>,
    /// Only those started at this time or later.
    pub since: Option<Timestamp>,
    /// At most so many, the newest first.
    pub limit: usize,
}

/// [`Filter::limit`] when nothing is said.
pub const LIST_LIMIT: usize = 100;

impl Default for Filter {
    fn default() -> Self {
        Filter { status: None, definition: None, since: None, limit: LIST_LIMIT }
    }
}

impl Summary {
    /// How long it ran; `None` while it is open.
    pub fn took(&self) -> Option<Duration> {
        self.ended.map(|ended| ended.since(self.started))
    }

    /// Whether the filter lets it through (its limit aside).
    pub(crate) fn is_wanted(&self, filter: &Filter) -> bool {
        filter.status.is_none_or(|status| status == self.status)
            && filter.definition.as_ref().is_none_or(|definition| *definition == self.definition)
            && filter.since.is_none_or(|since| self.started >= since)
    }
}

// === from machine and journal ===

impl Saga {
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            id: self.id.clone(),
            namespace: self.plan.definition.namespace.clone(),
            definition: self.plan.definition.name.clone(),
            status: self.status(),
            started: self.started,
            ended: self.ended,
            error: self.error.clone(),
        }
    }

    pub(crate) fn view(&self, mut timeline: Vec<Moment>) -> View {
        let left_out = timeline.len().saturating_sub(TIMELINE_MAX);
        timeline.drain(..left_out);
        View {
            summary: self.summary(),
            caller: self.caller.clone(),
            input: self.input.to_string(),
            deadline: self.deadline,
            trace: hex(&self.trace),
            steps: (0..self.steps.len()).map(|n| self.step_view(n)).collect(),
            timeline,
            left_out,
        }
    }

    fn step_view(&self, n: usize) -> StepView {
        let (step, now) = (self.plan.step(n), &self.steps[n]);
        let stage = self.plan.stage_of(n);
        let is_back = matches!(self.phase, Phase::Back | Phase::Stuck { is_back: true, .. });
        let is_here = matches!(self.phase, Phase::Forward { stage: here } if here == stage);
        let is_busy = now.attempts > 0 || now.is_in_flight || now.is_waiting || now.is_asking;
        let state = match now.progress {
            Progress::Done | Progress::Unknown if is_back && is_busy => StepState::Undoing,
            Progress::Done => StepState::Done,
            Progress::Unknown => StepState::Unknown,
            Progress::Refused => StepState::Refused,
            Progress::Skipped => StepState::Skipped,
            Progress::Undone => StepState::Undone,
            Progress::Open if is_here => StepState::Running,
            Progress::Open if now.is_maybe => StepState::Unknown,
            Progress::Open => StepState::Waiting,
        };
        let is_waiting = matches!(state, StepState::Running | StepState::Undoing) && !now.is_in_flight;
        StepView {
            name: step.name.clone(),
            stage: usize::from(stage),
            state,
            is_pivot: step.is_pivot,
            has_compensation: step.compensate.is_some(),
            attempts: now.attempts,
            next_attempt: is_waiting.then_some(now.not_before),
            status: now.answer.as_ref().map_or(0, |answer| answer.status),
            body: now.answer.as_ref().map(|answer| answer.body.clone()),
        }
    }

    /// Applies a saga's lines one after the other; gives what the timeline says of each.
    pub(crate) fn tell(
        first: Timestamp,
        started: record::Started,
        plan: Arc<Plan>,
        lines: Vec<Line>,
    ) -> (Saga, Vec<Moment>) {
        let mut timeline = vec![Moment::of_start(first, &started)];
        let mut saga = Saga::start(first, started, plan);
        for line in lines {
            let mut moment = saga.moment(line.at, &line.record);
            saga.apply(line.at, line.record);
            moment.saga = saga.status();
            timeline.push(moment);
        }
        (saga, timeline)
    }

    fn moment(&self, time: Timestamp, record: &Record) -> Moment {
        let name =
            |step: u16| self.plan.definition.steps().nth(usize::from(step)).map(|step| step.name.clone());
        let mut moment = Moment {
            time,
            step: None,
            what: "",
            is_undo: false,
            status: 0,
            attempt: 0,
            text: None,
            caller: None,
            saga: self.status(),
        };
        match record {
            Record::Started(_) => moment.what = "started",
            Record::Answered(answered) => {
                moment.step = name(answered.step);
                moment.is_undo = answered.kind == Kind::Undo;
                moment.status = answered.status;
                moment.attempt = answered.attempt;
                moment.text = answered.error.clone();
                moment.what = match answered.verdict {
                    Verdict::Done => "done",
                    Verdict::Refused => "refused",
                    Verdict::Unknown => "unknown",
                    Verdict::Again { .. } => "retry",
                    Verdict::NotYet => "not yet",
                    Verdict::Undone => "undone",
                    Verdict::Ask => "asking",
                    Verdict::GaveUp => "gave up",
                };
            }
            Record::Turned(turned) => {
                moment.what = match turned.why {
                    Why::TimedOut => "timed out",
                    Why::Settled => "turned back",
                };
            }
            Record::Commanded(commanded) => {
                moment.what = commanded.command.verb();
                moment.step = commanded.step.and_then(name);
                moment.caller = Some(commanded.caller.clone());
                moment.text = match &commanded.command {
                    Command::Compensate { reason } | Command::Cancel { reason } => Some(reason.clone()),
                    Command::Resolve { status, note } => Some(format!("as {}: {note}", status.as_str())),
                    _ => None,
                };
            }
        }
        moment
    }
}

impl Moment {
    pub(crate) fn of_start(time: Timestamp, started: &record::Started) -> Moment {
        Moment {
            time,
            step: None,
            what: "started",
            is_undo: false,
            status: 0,
            attempt: 0,
            text: None,
            caller: Some(started.caller.clone()),
            saga: Status::Running,
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
