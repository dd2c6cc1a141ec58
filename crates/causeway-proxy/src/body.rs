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

use crate::h1::Reply;
use crate::http2::inflow::Received;

pub(crate) use crate::trouble::BodyError;

/// The body of a message as it comes in, from a client or from a service.
#[derive(Debug)]
pub(crate) enum Inflow {
    /// There is none.
    Empty,
    /// Of a connection that hyper drives.
    Hyper(Incoming),
    /// Of an answer in HTTP/1.1.
    Reply(Reply),
    /// Of a stream of HTTP/2.
    Http2(Received),
}

impl Inflow {
    /// Goes on sending the request that this answers, without reading the answer.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        match self {
            Inflow::Reply(reply) => reply.poll_rest(cx),
            Inflow::Http2(body) => body.poll_rest(cx),
            Inflow::Empty | Inflow::Hyper(_) => {}
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
            Inflow::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::broken),
            Inflow::Reply(reply) => Pin::new(reply).poll_frame(cx),
            Inflow::Http2(body) => body.poll_frame(cx).map_err(BodyError::broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Inflow::Empty => true,
            Inflow::Hyper(body) => body.is_end_stream(),
            Inflow::Reply(reply) => reply.is_end_stream(),
            Inflow::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Inflow::Empty => SizeHint::with_exact(0),
            Inflow::Hyper(body) => body.size_hint(),
            Inflow::Reply(reply) => reply.size_hint(),
            Inflow::Http2(body) => body.size_hint(),
        }
    }
}
