//! Why a command was not taken: what the caller should answer, and whether to come back.

use std::fmt;

use causeway_model::{Epoch, Origin};

use crate::limits;

/// An error of the registry. `Display` is for people; [`Error::kind`] is what a door answers by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    /// What was being done, to what.
    doing: String,
    /// Why it could not be.
    why: String,
}

/// What sort of error it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such thing (404); for a heartbeat: register again.
    NotFound,
    /// Somebody else wrote it (409).
    Conflict {
        /// Who, and where it was written.
        place: Origin,
    },
    /// The command is wrong in itself (400 or 422): the same again cannot help.
    Invalid,
    /// A newer owner has registered the key (409): the caller's registration is over.
    StaleOwner {
        /// The newer owner's epoch.
        epoch: Epoch,
    },
    /// A bound of [`limits`] is reached (429 or 507).
    Full,
    /// Not now (503): the same command may be sent again. Whether this one took effect is not known when the journal failed.
    Unavailable,
    /// The journal holds what cannot be read: the node does not start.
    Corrupt,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller's.
    Client,
    /// Ours.
    Us,
}

/// Whether to send the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It cannot help.
    Never,
    /// After this many milliseconds.
    AfterMs(u64),
}

impl Error {
    pub(crate) fn new(kind: Kind, doing: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error { kind, doing: doing.to_string(), why: why.to_string() }
    }

    pub(crate) fn not_found(what: impl fmt::Display) -> Self {
        Error::new(Kind::NotFound, format_args!("cannot find {what}"), "there is none")
    }

    pub(crate) fn invalid(doing: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error::new(Kind::Invalid, doing, why)
    }

    pub(crate) fn conflict(doing: impl fmt::Display, place: &Origin) -> Self {
        let why =
            format_args!("it belongs to {place}, where it must be changed or removed first").to_string();
        Error::new(Kind::Conflict { place: place.clone() }, doing, why)
    }

    pub(crate) fn stale(doing: impl fmt::Display, epoch: Epoch) -> Self {
        Error::new(
            Kind::StaleOwner { epoch },
            doing,
            format_args!("a newer owner holds it since epoch {epoch}"),
        )
    }

    pub(crate) fn full(doing: impl fmt::Display, what: &str, most: usize) -> Self {
        Error::new(Kind::Full, doing, format_args!("there may be at most {most} {what}"))
    }

    pub(crate) fn unavailable(doing: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error::new(Kind::Unavailable, doing, why)
    }

    pub(crate) fn corrupt(doing: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error::new(Kind::Corrupt, doing, why)
    }

    /// What sort of error it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The code with a page in `docs/errors`, for the kinds that an operator meets.
    pub fn code(&self) -> Option<&'static str> {
        match self.kind {
            Kind::NotFound => None,
            Kind::Conflict { .. } => Some("CW-1201"),
            Kind::StaleOwner { .. } => Some("CW-1202"),
            Kind::Full => Some("CW-1203"),
            Kind::Invalid => Some("CW-1204"),
            Kind::Unavailable => Some("CW-1205"),
            Kind::Corrupt => Some("CW-1206"),
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self.kind {
            Kind::Unavailable | Kind::Corrupt => Blame::Us,
            _ => Blame::Client,
        }
    }

    /// Whether to send the same again.
    pub fn retry(&self) -> Retry {
        match self.kind {
            Kind::Unavailable => Retry::AfterMs(limits::TICK_MIN.as_millis() as u64),
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.why)?;
        self.code().map_or(Ok(()), |code| write!(f, " [{code}]"))
    }
}

impl std::error::Error for Error {}
