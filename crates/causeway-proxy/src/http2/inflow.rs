//! A body as `h2` receives it.
//!
//! In:    a stream of `h2`.      Out: its frames.
//! Owner: whoever passes the body on.
//! Invariant: the peer may send on only as far as was taken out here; dropping a body that has not ended resets its stream.
//! Not here: bodies on their way out (`outflow`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

use crate::http2::pulse::Load;

/// What is still to be sent of a request while its answer is read already.
pub(crate) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that comes in.
pub(crate) struct Received {
    stream: RecvStream,
    left: Option<u64>,
    has_ended: bool,
    has_data: bool,
    rest: Option<Rest>,
    /// Counted as a request of its connection until it is dropped.
    _load: Option<Load>,
}

impl Received {
    /// The body of a message with these fields.
    pub(crate) fn new(stream: RecvStream, fields: &HeaderMap) -> Self {
        let length = fields.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Received { stream, left: length, has_ended: false, has_data: true, rest: None, _load: None }
    }

    /// While this body is read, `rest` is driven too.
    pub(crate) fn beside(self, rest: Option<Rest>, load: Load) -> Self {
        Received { rest, _load: Some(load), ..self }
    }

    /// Drives what is still to be sent, without reading anything.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        if let Some(rest) = &mut self.rest
            && rest.as_mut().poll(cx).is_ready()
        {
            self.rest = None;
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.poll_rest(cx);
        if self.has_ended {
            return Poll::Ready(None);
        }
        if self.has_data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.has_ended = self.stream.is_end_stream();
                    if !self.has_ended {
                        // It fails only for a stream that is gone, which the next read tells.
                        let _ = self.stream.flow_control().release_capacity(data.len());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return self.end(error),
                None => self.has_data = false,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        match trailers {
            Ok(trailers) => {
                self.has_ended = true;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => self.end(error),
        }
    }

    /// After a whole message a peer may reset the stream without an error: it wants no more of ours (RFC 9113 section 8.1).
    fn end(&mut self, error: h2::Error) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.has_ended = true;
        let is_whole = self.left.is_none_or(|left| left == 0);
        let is_end = error.is_remote() && error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
        Poll::Ready(if is_end && is_whole { None } else { Some(Err(error)) })
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("stream", &self.stream)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
