//! A request's body as its client sends it. What nobody reads any more is drained within bounds, so that an early answer arrives.
//!
//! In:    the body as it comes in.      Out: its frames; when it is dropped unread, nothing.
//! Owner: the request's delivery, then the connection that sends it.
//! Invariant: an early answer is not lost because the client still sends: many clients read no answer before their upload is
//! done, and drop it when the stream is reset (HTTP/2, though RFC 9113 section 8.1 allows it) or the connection ends (HTTP/1.1).
//! Not here: where the frames go (`outgoing`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use causeway_base::{OnFailure, Scope};
use http::HeaderMap;
use http::header::EXPECT;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{BodyError, Inflow};
use crate::limits;

/// A request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Empty once the drain has taken it.
    body: Inflow,
    scope: Option<InScope>,
    /// The client waits to be told to send (`Expect: 100-continue`): the first read tells it.
    waits: bool,
}

/// A scope, without words of its own.
struct InScope(Scope);

impl std::fmt::Debug for InScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InScope")
    }
}

impl Upload {
    /// The body of a request with these fields; `scope` drains it when need be.
    pub(crate) fn new(body: Inflow, headers: &HeaderMap, scope: &Scope) -> Self {
        let scope = (!body.is_end_stream()).then(|| InScope(scope.clone()));
        Upload { body, scope, waits: headers.contains_key(EXPECT) }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.waits = false;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.scope = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.waits || self.is_end_stream() || self.body.is_drained_by_its_connection() {
            return;
        }
        if let Some(InScope(scope)) = self.scope.take() {
            let body = std::mem::replace(&mut self.body, Inflow::Empty);
            scope.spawn("drain", OnFailure::Log, async move {
                // A client that sends for longer than this is cut off.
                let _ = tokio::time::timeout(limits::UNREAD, drain(body)).await;
                Ok(())
            });
        }
    }
}

async fn drain(mut body: Inflow) {
    let mut left = limits::UNREAD_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
