//! What goes wrong on the way of a message, on whichever side and in whichever protocol.

use causeway_wire::ProxyError;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the time limit of the request passed")]
    TimedOut,
    #[error("nothing moved for too long")]
    Silent,
    #[error("the caller may no longer have it")]
    Withdrawn,
}

impl BodyError {
    /// Whether the peer reset the stream itself, with a reason.
    pub(crate) fn is_reset(&self) -> bool {
        let BodyError::Broken(source) = self else { return false };
        source.downcast_ref::<h2::Error>().is_some_and(|error| error.is_remote() && error.is_reset())
    }

    /// The other end, or the way to it, failed.
    pub(crate) fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        BodyError::Broken(error.into())
    }
}

/// Why no answer came.
#[derive(Debug)]
pub(crate) struct SendError {
    pub error: ProxyError,
    pub details: String,
    /// Not a byte of the request can have been processed.
    pub is_unsent: bool,
}
