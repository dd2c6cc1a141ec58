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

use crate::h1::{Intake, Reply};
use crate::http2::inflow::Received;

pub(crate) use crate::trouble::BodyError;

/// The body of a message as it comes in, from a client or from a service.
#[derive(Debug)]
pub(crate) enum Inflow {
    /// There is none.
    Empty,
    /// All of it, at hand.
    Whole(Bytes),
    /// Of a request in HTTP/1.1.
    Request(Intake),
    /// Of an answer in HTTP/1.1.
    Reply(Reply),
    /// Of a stream of HTTP/2.
    Http2(Received),
}

impl Inflow {
    /// Whether its connection reads by itself what nobody reads any more.
    pub(crate) fn is_drained_by_its_connection(&self) -> bool {
        matches!(self, Inflow::Request(_))
    }

    /// Goes on sending the request that this answers, without reading the answer.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        match self {
            Inflow::Reply(reply) => reply.poll_rest(cx),
            Inflow::Http2(body) => body.poll_rest(cx),
            Inflow::Empty | Inflow::Whole(_) | Inflow::Request(_) => {}
        }
    }
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
            whole @ Inflow::Whole(_) => match std::mem::replace(whole, Inflow::Empty) {
                Inflow::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Inflow::Request(intake) => Pin::new(intake).poll_frame(cx),
            Inflow::Reply(reply) => Pin::new(reply).poll_frame(cx),
            Inflow::Http2(body) => body.poll_frame(cx).map_err(BodyError::broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Inflow::Empty => true,
            Inflow::Whole(_) => false,
            Inflow::Request(intake) => intake.is_end_stream(),
            Inflow::Reply(reply) => reply.is_end_stream(),
            Inflow::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Inflow::Empty => SizeHint::with_exact(0),
            Inflow::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inflow::Request(intake) => intake.size_hint(),
            Inflow::Reply(reply) => reply.size_hint(),
            Inflow::Http2(body) => body.size_hint(),
        }
    }
}
