//! Why the store said no. One error type; `kind` is for code, the text is for the operator.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::limits::STREAM_NAME_BYTES_MAX;
use crate::name::{Position, StreamName};

/// A refusal or a failure. Cheap to clone: one failed commit is told to everyone who waited for it.
#[derive(Clone, Debug)]
pub struct Error {
    /// What code decides by.
    pub kind: Kind,
    doing: Arc<str>,
    source: Option<Arc<io::Error>>,
}

/// The kinds of refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A batch expected another length of a stream: someone was faster. Nothing was written; decide again.
    Conflict {
        /// The stream whose length differed.
        stream: StreamName,
        /// How long it is: the position of its next record.
        actual: Position,
    },
    /// The disk is full (CW-1303). Nothing was written; the store goes on reading, and later appends may succeed.
    Full,
    /// Stored bytes are not what was written (CW-1300).
    Corrupt,
    /// The store was closed, or crashed in a simulation.
    Closed,
    /// A write or fdatasync failed (CW-1302): nothing can be promised any more, the store refuses everything. Whether the
    /// batches that were waiting are durable is unknown until the log is opened again.
    Failed,
    /// A record, a batch or the number of streams is beyond a bound of [`crate::limits`].
    TooLarge,
    /// The writer's queue stayed full for [`crate::limits::QUEUE_WAIT_MAX`]. Nothing was written; try again later.
    Busy,
    /// Another process has the data directory (CW-1301).
    Locked,
    /// The data directory cannot be used (CW-1304).
    Unusable,
    /// The log was written by a newer version of the program (CW-1305).
    Newer,
    /// The name of a stream is not one.
    BadName,
}

impl Error {
    pub(crate) fn new(kind: Kind, doing: impl Into<String>) -> Self {
        Error { kind, doing: doing.into().into(), source: None }
    }

    pub(crate) fn io(kind: Kind, doing: impl Into<String>, source: io::Error) -> Self {
        Error { kind, doing: doing.into().into(), source: Some(Arc::new(source)) }
    }

    pub(crate) fn conflict(stream: &StreamName, expected: Position, actual: Position) -> Self {
        let doing = format!("stream {stream} has {actual} records where {expected} were expected");
        Error::new(Kind::Conflict { stream: stream.clone(), actual }, doing)
    }

    pub(crate) fn closed() -> Self {
        Error::new(Kind::Closed, "the store is closed")
    }

    /// Whether the same call may succeed later, nothing having been written now.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Full | Kind::Busy)
    }

    /// The operator's code, where there is a page for it.
    pub fn code(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Corrupt => Some("CW-1300"),
            Kind::Locked => Some("CW-1301"),
            Kind::Failed => Some("CW-1302"),
            Kind::Full => Some("CW-1303"),
            Kind::Unusable => Some("CW-1304"),
            Kind::Newer => Some("CW-1305"),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        self.code().map_or(Ok(()), |code| write!(f, " [{code}]"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

// === impl StreamName: the ways of making one that can be refused (here, because `name.rs` knows no errors) ===

impl StreamName {
    /// Parses a name; anything but visible ASCII (`!` to `~`), an empty one and one too long is refused.
    pub fn new(name: &str) -> Result<Self, Error> {
        StreamName::parse(name).ok_or_else(|| {
            let doing =
                format!("stream name {name:?} is not 1 to {STREAM_NAME_BYTES_MAX} bytes of visible ASCII");
            Error::new(Kind::BadName, doing)
        })
    }
}

impl std::str::FromStr for StreamName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        StreamName::new(name)
    }
}
