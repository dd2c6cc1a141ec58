//! Why the room says no.

use std::fmt;

use causeway_model::Name;

use crate::id::SagaId;
use crate::record::Status;

/// An error of the saga room. `Display` names the saga and ends with its code.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The definition cannot be run; every problem with its place in it. CW-1801.
    Definition {
        /// Name of the definition.
        definition: Name,
        /// All of them.
        problems: Vec<Problem>,
    },
    /// The input is not JSON or too long. CW-1802.
    Input(String),
    /// The id is taken by a saga with another definition or input. CW-1803.
    Conflict {
        /// The id.
        id: SagaId,
        /// What differs.
        differs: &'static str,
    },
    /// No such saga. CW-1804.
    NotFound(SagaId),
    /// The command does not fit the state the saga is in. CW-1805.
    NotNow {
        /// The saga.
        id: SagaId,
        /// The command's verb.
        verb: &'static str,
        /// Where the saga is.
        status: Status,
        /// Why it does not fit.
        why: String,
    },
    /// A bound of the node is reached: try later. CW-1806.
    Busy {
        /// Which bound.
        bound: &'static str,
        /// How high it is.
        max: usize,
    },
    /// The room is shutting down or has failed. CW-1807.
    Closed,
    /// The journal cannot be read or written. CW-1808.
    Journal(String),
}

/// One thing that is wrong in a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a path in the document's `spec`: `steps.charge.compensate.path`.
    pub place: String,
    /// What, and what to do.
    pub message: String,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// After so many milliseconds.
    AfterMs(u64),
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller's.
    Client,
    /// This node's.
    Us,
}

impl Error {
    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The code with a page of its own.
    pub fn code(&self) -> &'static str {
        match self.kind {
            ErrorKind::Definition { .. } => "CW-1801",
            ErrorKind::Input(_) => "CW-1802",
            ErrorKind::Conflict { .. } => "CW-1803",
            ErrorKind::NotFound(_) => "CW-1804",
            ErrorKind::NotNow { .. } => "CW-1805",
            ErrorKind::Busy { .. } => "CW-1806",
            ErrorKind::Closed => "CW-1807",
            ErrorKind::Journal(_) => "CW-1808",
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self.kind {
            ErrorKind::Busy { .. } | ErrorKind::Closed | ErrorKind::Journal(_) => Blame::Us,
            _ => Blame::Client,
        }
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self.kind {
            ErrorKind::Busy { .. } | ErrorKind::Closed => Retry::AfterMs(1000),
            _ => Retry::Never,
        }
    }

    pub(crate) fn journal(doing: impl Into<String>, source: causeway_store::Error) -> Self {
        Error { kind: ErrorKind::Journal(doing.into()), source: Some(Box::new(source)) }
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Error { kind, source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ErrorKind::Definition { definition, problems } => {
                write!(f, "saga definition {definition} cannot be run: ")?;
                for (n, problem) in problems.iter().enumerate() {
                    write!(f, "{}{problem}", if n == 0 { "" } else { "; " })?;
                }
            }
            ErrorKind::Input(why) => write!(f, "the input of the saga is not accepted: {why}")?,
            ErrorKind::Conflict { id, differs } => {
                write!(f, "saga {id} exists already with another {differs}")?;
            }
            ErrorKind::NotFound(id) => write!(f, "no saga has the id {id}")?,
            ErrorKind::NotNow { id, verb, status, why } => {
                write!(f, "cannot {verb} saga {id}, which is {}: {why}", status.as_str())?;
            }
            ErrorKind::Busy { bound, max } => write!(f, "too many {bound} (at most {max}), try again later")?,
            ErrorKind::Closed => write!(f, "this node runs no sagas now: it is shutting down or has failed")?,
            ErrorKind::Journal(doing) => write!(f, "{doing}")?,
        }
        write!(f, " [{}]", self.code())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
