//! A request on its way to a service: its head, and its body, streamed as it comes or whole so that it can be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use causeway_wire::hop;
use http::header::HeaderName;
use http::{HeaderMap, Method, Uri};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::body::BodyError;
use crate::upload::Upload;

/// A request that carries this may be sent again whatever its method (draft-ietf-httpapi-idempotency-key-header).
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request's head on its way out: target in origin form, `Host` among the fields.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

/// A request's body towards a service.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// All of it; taken when sent. Nothing when the request has none.
    Whole(Option<Bytes>),
    /// As it comes in; the delivery looks on.
    Streamed(Upload, Arc<Progress>),
}

/// How a streamed body fares at the client's end, for the delivery that sends it: what the client does to its own upload is not
/// the service's failure.
#[derive(Debug)]
pub(crate) struct Progress {
    state: AtomicU8,
    origin: Instant,
    /// Microseconds after `origin` at which bytes went out last.
    moved: AtomicU64,
}

/// Bytes are at hand, or not yet wanted.
const FLOWS: u8 = 0;
/// The service's side would take more, the client has not sent it.
const WAITS: u8 = 1;
/// The client broke it off, or sent what is no body.
const BROKE: u8 = 2;

impl Default for Progress {
    fn default() -> Self {
        Progress { state: AtomicU8::new(FLOWS), origin: Instant::now(), moved: AtomicU64::new(0) }
    }
}

impl Progress {
    pub(crate) fn is_broken(&self) -> bool {
        self.state.load(Relaxed) == BROKE
    }

    /// When bytes went out last; at first, when the body was begun.
    pub(crate) fn moved_at(&self) -> Instant {
        self.origin + Duration::from_micros(self.moved.load(Relaxed))
    }

    /// Bytes went out.
    pub(crate) fn move_on(&self) {
        self.moved.store(self.origin.elapsed().as_micros() as u64, Relaxed);
    }

    /// Whether the client owes bytes that the service's side would take.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.state.load(Relaxed) == WAITS
    }
}

impl Head {
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent() || self.headers.contains_key(&IDEMPOTENCY_KEY)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Outgoing::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Outgoing::Streamed(body, progress) => {
                progress.state.store(WAITS, Relaxed);
                let frame = ready!(Pin::new(body).poll_frame(cx));
                let state = if matches!(frame, Some(Err(_))) { BROKE } else { FLOWS };
                progress.state.store(state, Relaxed);
                progress.move_on();
                Poll::Ready(frame.map(|frame| frame.map(cleaned)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Whole(bytes) => bytes.is_none(),
            Outgoing::Streamed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Outgoing::Streamed(body, _) => body.size_hint(),
        }
    }
}

/// Trailers say nothing that only a head may say.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hop::strip_trailers(trailers);
    }
    frame
}
