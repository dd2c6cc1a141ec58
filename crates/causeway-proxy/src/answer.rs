//! Answers' bodies on their way through, streamed as they come.
//!
//! In:    an [`Inflow`], or bytes of ours.      Out: [`Answer`] towards a client.
//! Owner: the connection that sends it.
//! Invariant: an answer settles exactly once: at its end, at an error, or when it is dropped.
//! Not here: requests' bodies (`outgoing`), what settling writes down (`ledger`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::body::{BodyError, Inflow};
use crate::grpc;
use crate::leash::poll_cut;
use crate::leg::Leg;
use crate::patience::{Over, Patience};
use crate::reason;
use crate::settle::Settle;

/// An answer's body towards a client.
pub(crate) struct Answer {
    content: Content,
    settle: Option<Box<Settle>>,
    patience: Patience,
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
        Answer { content: Content::Ours(bytes), settle, patience: Patience::default() }
    }

    pub(crate) fn theirs(body: Inflow, mut settle: Box<Settle>) -> Self {
        let patience = std::mem::take(&mut settle.patience);
        let mut answer = Answer { content: Content::Theirs(body), settle: Some(settle), patience };
        if answer.is_end_stream() {
            answer.end("", true);
        }
        answer
    }

    /// From the answer's head on both ends are joined.
    pub(crate) fn tunnel(service: Leg, settle: Box<Settle>) -> Self {
        let tunnel = Box::new(Tunnel { service, settle });
        Answer { content: Content::Tunnel(Some(tunnel)), settle: None, patience: Patience::default() }
    }

    /// What is to be joined with the client's end, when that is the answer.
    pub(crate) fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        match &mut self.content {
            Content::Tunnel(tunnel) => tunnel.take(),
            Content::Ours(_) | Content::Theirs(_) => None,
        }
    }

    /// Ready when its caller may no longer have it; it is then settled.
    pub(crate) fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(settle) = &mut self.settle else { return Poll::Pending };
        let Some(mut leash) = settle.leash else { return Poll::Pending };
        let cut = poll_cut(&mut leash, settle, cx);
        settle.leash = Some(leash);
        settle.withdraw(ready!(cut));
        self.settle(reason::WITHDRAWN);
        Poll::Ready(())
    }

    /// Ends an answer of which only the head is sent.
    pub(crate) fn pass_over(&mut self) {
        self.settle("");
    }

    /// Ends an answer that takes too long.
    fn give_up(&mut self, over: Over) -> Option<Result<Frame<Bytes>, BodyError>> {
        let (trouble, status, error) = match over {
            Over::End => (reason::TIME_LIMIT, grpc::DEADLINE_EXCEEDED, BodyError::TimedOut),
            Over::Idle => (reason::IDLE_LIMIT, grpc::UNAVAILABLE, BodyError::Silent),
        };
        // That a long stream is at its end at last is nobody's fault; an answer that stood still until its time was over has hung.
        let life = self.settle.as_ref().map_or(Duration::ZERO, |settle| settle.started.elapsed());
        let is_well = over == Over::End && self.patience.silent_for() < life / 2;
        self.end_early(trouble, is_well, status, error)
    }

    /// Ends an answer that the service broke off. What its app says itself by resetting the stream is passed on as it is.
    fn break_off(&mut self, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        if error.is_reset() {
            self.end(reason::UPSTREAM_BROKE, false);
            return Some(Err(error));
        }
        self.end_early(reason::UPSTREAM_BROKE, false, grpc::UNAVAILABLE, error)
    }

    /// Ends an answer in the way of its protocol: by a status in the trailers, or by breaking it off.
    fn end_early(
        &mut self,
        trouble: &'static str,
        is_well: bool,
        status: u16,
        error: BodyError,
    ) -> Option<Result<Frame<Bytes>, BodyError>> {
        // What calls itself gRPC-Web has its trailers in its body.
        let kind = self.settle.as_ref().and_then(|settle| settle.grpc.as_ref());
        let is_grpc = kind.is_some_and(|kind| !kind.as_bytes().starts_with(b"application/grpc-web"));
        self.end(trouble, is_well);
        self.content = Content::Ours(None);
        match is_grpc {
            true => Some(Ok(Frame::trailers(grpc::trailers(status, &error.to_string())))),
            false => Some(Err(error)),
        }
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

    /// The same, and says how the service ended its answer.
    fn end(&mut self, trouble: &'static str, is_well: bool) {
        if let (Content::Theirs(_), Some(settle)) = (&self.content, &self.settle) {
            settle.judge(is_well);
        }
        self.settle(trouble);
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
        if this.poll_withdrawn(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Withdrawn)));
        }
        let frame = match &mut this.content {
            Content::Ours(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Theirs(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let over = ready!(this.patience.poll_over(cx));
                    return Poll::Ready(this.give_up(over));
                }
            },
            Content::Tunnel(_) => None,
        };
        if matches!(frame, Some(Ok(_)))
            && let Err(over) = this.patience.moved()
        {
            return Poll::Ready(this.give_up(over));
        }
        Poll::Ready(match frame {
            None => {
                this.end("", true);
                None
            }
            Some(Err(error)) => this.break_off(error),
            Some(Ok(frame)) => {
                if let (Some(data), Some(settle)) = (frame.data_ref(), &mut this.settle) {
                    settle.bytes += data.len() as u64;
                }
                let is_fault = frame.trailers_ref().is_some_and(grpc::is_fault);
                if is_fault || this.is_end_stream() {
                    this.end("", !is_fault);
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
