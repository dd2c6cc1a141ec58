//! What the journal of a saga says: every record tells what happened and what follows from it.
//!
//! In:    decisions of `machine.rs`.      Out: the same, as CBOR with numbered fields (`journal.rs` frames them).
//! Owner: `machine.rs` makes and applies them; nobody else.
//! Invariant: a record carries its consequence ([`Then`]), so that applying an old one never depends on today's rules;
//! a field's number is never given to another field.
//! Not here: positions and links between records (`journal.rs`).

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use causeway_model::{Name, SagaDefinition, Timestamp};

use crate::id::SagaId;

/// How far a saga is. The words are those of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Status {
    /// Going forward.
    #[n(0)]
    Running,
    /// Undoing what was done, the last first.
    #[n(1)]
    Compensating,
    /// Out of attempts where it cannot go on by itself: a person must retry, skip, edit, compensate or resolve.
    #[n(2)]
    Stuck,
    /// Ended: every step was done.
    #[n(3)]
    Done,
    /// Ended: at least one step was compensated, and nothing that has a compensation is left.
    #[n(4)]
    Undone,
    /// Ended without success and without a compensation: refused, cancelled or timed out before anything was done that has
    /// a compensation. Or a person resolved it so.
    #[n(5)]
    Failed,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Status; 6] =
        [Status::Running, Status::Compensating, Status::Stuck, Status::Done, Status::Undone, Status::Failed];

    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Compensating => "compensating",
            Status::Stuck => "stuck",
            Status::Done => "done",
            Status::Undone => "undone",
            Status::Failed => "failed",
        }
    }

    /// Finds a status by its word.
    pub fn find(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing will happen any more.
    pub const fn is_ended(self) -> bool {
        matches!(self, Status::Done | Status::Undone | Status::Failed)
    }
}

/// One thing that happened to a saga.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Record {
    /// It was started.
    #[n(0)]
    Started(#[n(0)] Box<Started>),
    /// An attempt ended.
    #[n(1)]
    Answered(#[n(0)] Answered),
    /// It turned without an answer or a command.
    #[n(2)]
    Turned(#[n(0)] Turned),
    /// Somebody gave a command.
    #[n(3)]
    Commanded(#[n(0)] Box<Commanded>),
}

/// The first record of every saga; the definition rides with it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Started {
    #[n(0)]
    pub(crate) id: SagaId,
    /// CBOR of the [`SagaDefinition`], so that equal definitions are found by comparing bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) definition: Vec<u8>,
    /// JSON text.
    #[n(2)]
    pub(crate) input: String,
    #[n(3)]
    pub(crate) caller: String,
    /// W3C trace id, one for the whole saga.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub(crate) trace: [u8; 16],
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Answered {
    #[n(0)]
    pub(crate) step: u16,
    #[n(1)]
    pub(crate) kind: Kind,
    /// From 1; grows with each attempt that counts.
    #[n(2)]
    pub(crate) attempt: u32,
    #[n(3)]
    pub(crate) verdict: Verdict,
    /// HTTP status; 0 when there was no answer.
    #[n(4)]
    pub(crate) status: u16,
    /// What later templates see; only with [`Verdict::Done`].
    #[n(5)]
    pub(crate) answer: Option<Answer>,
    /// Why it is not done, in words.
    #[n(6)]
    pub(crate) error: Option<String>,
    /// When it is tried again; only with [`Verdict::Again`] and [`Verdict::NotYet`].
    #[n(7)]
    pub(crate) again: Option<Timestamp>,
    #[n(8)]
    pub(crate) then: Then,
}

/// What an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Kind {
    /// The step itself.
    #[n(0)]
    Do,
    /// The step itself once more, to learn what became of it: its compensation needs its answer.
    #[n(1)]
    Ask,
    /// The step's compensation.
    #[n(2)]
    Undo,
}

/// What an attempt's end means for its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Verdict {
    /// The step is done.
    #[n(0)]
    Done,
    /// The step did certainly not happen and will not.
    #[n(1)]
    Refused,
    /// The step may have happened; it is not tried forward any more.
    #[n(2)]
    Unknown,
    /// Once more, later. `is_maybe`: from now on the step may have happened.
    #[n(3)]
    Again {
        #[n(0)]
        is_maybe: bool,
    },
    /// The participant works on it: asked again later, without counting an attempt.
    #[n(4)]
    NotYet,
    /// The step is compensated.
    #[n(5)]
    Undone,
    /// The compensation needs the step's answer, which is not known: the step is asked first.
    #[n(6)]
    Ask,
    /// Out of attempts on the way back.
    #[n(7)]
    GaveUp,
}

/// What later templates see of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Answer {
    #[n(0)]
    pub(crate) status: u16,
    /// Kept only where the definition looks at headers.
    #[n(1)]
    pub(crate) headers: BTreeMap<String, String>,
    /// JSON text.
    #[n(2)]
    pub(crate) body: String,
}

/// Where the saga goes from a record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Then {
    /// On as it was.
    #[n(0)]
    Stay,
    /// To this stage.
    #[n(1)]
    Stage(#[n(0)] u16),
    /// Back: compensations begin. `unknown`: these steps may have happened and are compensated like done ones.
    #[n(2)]
    Back {
        #[n(0)]
        unknown: Vec<u16>,
    },
    /// To a person.
    #[n(3)]
    Stuck {
        #[n(0)]
        unknown: Vec<u16>,
        #[n(1)]
        why: String,
    },
    /// Ended.
    #[n(4)]
    Ended(#[n(0)] Status),
}

/// A turn that the saga took by itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Turned {
    #[n(0)]
    pub(crate) why: Why,
    #[n(1)]
    pub(crate) then: Then,
}

/// Why a saga turned by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Why {
    /// Its time is up.
    #[n(0)]
    TimedOut,
    /// A step failed and the ones beside it have settled.
    #[n(1)]
    Settled,
}

/// A command and what it changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Commanded {
    #[n(0)]
    pub(crate) caller: String,
    #[n(1)]
    pub(crate) command: Command,
    /// The step it is about.
    #[n(2)]
    pub(crate) step: Option<u16>,
    #[n(3)]
    pub(crate) then: Then,
    /// CBOR of the definition from now on; only with [`Command::Edit`] that changes a step.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub(crate) definition: Option<Vec<u8>>,
}

/// What a person or a program may ask of a saga that has been started.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// Try again now what waits or is stuck; its attempts are counted anew.
    #[n(0)]
    Retry,
    /// Take a step (or a compensation, on the way back) as settled by hand: nothing more is sent for it. `None`: the one
    /// that is stuck.
    #[n(1)]
    Skip {
        /// The step.
        #[n(0)]
        step: Option<Name>,
    },
    /// Change what is sent from now on. Does not retry by itself.
    #[n(2)]
    Edit(#[n(0)] Edit),
    /// Undo it, also when it is stuck past its pivot (a person's decision).
    #[n(3)]
    Compensate {
        /// Why, for the timeline.
        #[n(0)]
        reason: String,
    },
    /// A person settled it by hand: it ends as said ([`Status::Done`], [`Status::Undone`] or [`Status::Failed`]).
    #[n(4)]
    Resolve {
        /// What it ends as.
        #[n(0)]
        status: Status,
        /// What was done by hand, for the timeline.
        #[n(1)]
        note: String,
    },
    /// Undo it before its pivot.
    #[n(5)]
    Cancel {
        /// Why, for the timeline.
        #[n(0)]
        reason: String,
    },
}

/// What [`Command::Edit`] changes; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Edit {
    /// JSON text: the saga's input.
    #[n(0)]
    pub input: Option<String>,
    /// A step's request.
    #[n(1)]
    pub step: Option<StepEdit>,
}

/// A change of one step's request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StepEdit {
    /// The step.
    #[n(0)]
    pub step: Name,
    /// Its compensation instead of its action.
    #[n(1)]
    pub is_undo: bool,
    /// Path and query, with `${…}`.
    #[n(2)]
    pub path: Option<String>,
    /// JSON text of the body (of the event's data, for a publishing step), with `${…}`.
    #[n(3)]
    pub body: Option<String>,
}

impl Command {
    /// The verb of the API.
    pub const fn verb(&self) -> &'static str {
        match self {
            Command::Retry => "retry",
            Command::Skip { .. } => "skip",
            Command::Edit(_) => "edit",
            Command::Compensate { .. } => "compensate",
            Command::Resolve { .. } => "resolve",
            Command::Cancel { .. } => "cancel",
        }
    }
}

/// The bytes under which a definition rides with a saga.
pub(crate) fn definition_bytes(definition: &SagaDefinition) -> Vec<u8> {
    causeway_model::codec::encode(definition)
}
