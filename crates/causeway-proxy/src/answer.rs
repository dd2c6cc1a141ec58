//! Answers' bodies on their way through, streamed as they come.
//!
//! In:    an [`Inflow`], or bytes of ours.      Out: [`Answer`] towards a client.
//! Owner: the connection that sends it.
//! Invariant: an answer settles exactly once: at its end, at an error, or when it is dropped.
//! Not here: requests' bodies (`outgoing`), what settling writes down (`ledger`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::body::{BodyError, Inflow};
use crate::leg::Leg;
use crate::reason;
use crate::settle::Settle;

/// An answer's body towards a client.
pub(crate) struct Answer {
    content: Content,
    settle: Option<Box<Settle>>,
    /// Only where a route bounds the whole request.
    deadline: Option<Pin<Box<Sleep>>>,
}

enum Content {
    Ours(Option<Bytes>),
    Theirs(Inflow),
    /// None once it was taken.
    Tunnel(Option<Box<Tunnel>>),
}

/// The service's end of a connection that is no longer HTTP, and the request that it began with.
pub(crate) struct Tunnel {
    pub service: Leg,
    pub settle: Box<Settle>,
}

impl Answer {
    pub(crate) fn ours(bytes: Bytes, settle: Option<Box<Settle>>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Answer { content: Content::Ours(bytes), settle, deadline: None }
    }

    pub(crate) fn theirs(body: Inflow, settle: Box<Settle>, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        let mut answer = Answer { content: Content::Theirs(body), settle: Some(settle), deadline };
        if answer.is_end_stream() {
            answer.settle("");
        }
        answer
    }

    /// From the answer's head on both ends are joined.
    pub(crate) fn tunnel(service: Leg, settle: Box<Settle>) -> Self {
        let tunnel = Box::new(Tunnel { service, settle });
        Answer { content: Content::Tunnel(Some(tunnel)), settle: None, deadline: None }
    }

    /// What is to be joined with the client's end, when that is the answer.
    pub(crate) fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        match &mut self.content {
            Content::Tunnel(tunnel) => tunnel.take(),
            Content::Ours(_) | Content::Theirs(_) => None,
        }
    }

    /// Ends an answer of which only the head is sent.
    pub(crate) fn pass_over(&mut self) {
        self.settle("");
    }

    /// Goes on sending the request, while its answer waits for the client.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        if let Content::Theirs(body) = &mut self.content {
            body.poll_rest(cx);
        }
    }

    fn settle(&mut self, trouble: &'static str) {
        if let Some(settle) = self.settle.take() {
            settle.done(trouble);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            this.settle(reason::TIME_LIMIT);
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        let frame = match &mut this.content {
            Content::Ours(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Theirs(body) => ready!(Pin::new(body).poll_frame(cx)),
            Content::Tunnel(_) => None,
        };
        Poll::Ready(match frame {
            None => {
                this.settle("");
                None
            }
            Some(Err(error)) => {
                this.settle(reason::UPSTREAM_BROKE);
                Some(Err(error))
            }
            Some(Ok(frame)) => {
                if let (Some(data), Some(settle)) = (frame.data_ref(), &mut this.settle) {
                    settle.bytes += data.len() as u64;
                }
                if this.is_end_stream() {
                    this.settle("");
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Ours(bytes) => bytes.is_none(),
            Content::Theirs(body) => body.is_end_stream(),
            Content::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Ours(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Content::Theirs(body) => body.size_hint(),
            Content::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let trouble = if self.is_end_stream() { "" } else { reason::CLIENT_LEFT };
        self.settle(trouble);
    }
}
