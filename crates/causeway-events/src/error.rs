//! What can go wrong at this room's door, in three voices: for code, for the client, for the operator.
//!
//! In:    refusals of `binding`, `structured`, `machine`; errors of the store.     Out: [`Error`].
//! Owner: whoever called the handle.
//! Invariant: every error bears a `CW-17xx` code that has a page in `docs/errors/`.
//! Not here: its `problem+json` form (`causeway-api`).

use std::fmt;
use std::time::Duration;

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The topic is not declared (CW-1700).
    TopicNotFound,
    /// The subscription is not declared (CW-1701).
    SubscriptionNotFound,
    /// The CloudEvent breaks a rule of the specification (CW-1702).
    InvalidEvent,
    /// The event or the request is larger than the bound (CW-1703).
    TooLarge,
    /// The token's lease ended or was another's (CW-1704).
    StaleToken,
    /// Storage, shutdown or a full queue: the same may be sent again (CW-1705).
    Unavailable,
    /// The CEL filter cannot be compiled (CW-1706).
    InvalidFilter,
    /// The place in the topic does not exist yet, or an argument is out of its range (CW-1707).
    InvalidPosition,
    /// The subscription is pushed to and cannot be pulled from (CW-1708).
    NotPulled,
    /// A record that was read back is not one (CW-1710).
    Unreadable,
}

/// Who has to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller.
    Client,
    /// This node.
    Us,
}

/// Whether the same call can help later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No.
    Never,
    /// Yes, after this.
    After(Duration),
}

/// An error of the events room. `Display` says what was being done and why it failed, with the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    text: String,
}

/// What a caller is told to wait when the room is busy: long enough for a queue of thousands to be worked off.
pub const RETRY_AFTER: Duration = Duration::from_millis(200);

impl Error {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Error { kind, text: text.into() }
    }

    pub(crate) fn unavailable(text: impl Into<String>) -> Self {
        Error::new(Kind::Unavailable, text)
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The code of its page.
    pub fn code(&self) -> &'static str {
        match self.kind {
            Kind::TopicNotFound => "CW-1700",
            Kind::SubscriptionNotFound => "CW-1701",
            Kind::InvalidEvent => "CW-1702",
            Kind::TooLarge => "CW-1703",
            Kind::StaleToken => "CW-1704",
            Kind::Unavailable => "CW-1705",
            Kind::InvalidFilter => "CW-1706",
            Kind::InvalidPosition => "CW-1707",
            Kind::NotPulled => "CW-1708",
            Kind::Unreadable => "CW-1710",
        }
    }

    /// Who has to do something.
    pub fn blame(&self) -> Blame {
        match self.kind {
            Kind::Unavailable | Kind::Unreadable => Blame::Us,
            _ => Blame::Client,
        }
    }

    /// Whether the same call can help later.
    pub fn retry(&self) -> Retry {
        match self.kind {
            Kind::Unavailable => Retry::After(RETRY_AFTER),
            _ => Retry::Never,
        }
    }

    /// The text without the code.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.text, self.code())
    }
}

impl std::error::Error for Error {}
