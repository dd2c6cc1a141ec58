//! Bodies as they come in, from either side.
//!
//! In:    what a connection reads.      Out: [`Inflow`], frame by frame.
//! Owner: the message that it is the body of.
//! Invariant: a body ends whole or with an error, never short without a word.
//! Not here: answers on their way out (`answer`), requests on theirs (`outgoing`).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the time limit of the route passed")]
    TimedOut,
}

impl BodyError {
    /// The other end, or the way to it, failed.
    pub(crate) fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        BodyError::Broken(error.into())
    }
}

/// The body of a message as it comes in, from a client or from a service.
#[derive(Debug)]
pub(crate) enum Inflow {
    /// There is none.
    Empty,
    /// Of a connection that hyper drives.
    Hyper(Incoming),
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Inflow::Empty => Poll::Ready(None),
            Inflow::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Inflow::Empty => true,
            Inflow::Hyper(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Inflow::Empty => SizeHint::with_exact(0),
            Inflow::Hyper(body) => body.size_hint(),
        }
    }
}
