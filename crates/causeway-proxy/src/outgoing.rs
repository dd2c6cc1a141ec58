//! A request on its way to a service: its head, and its body, streamed as it comes or whole so that it can be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use causeway_wire::hop;
use http::header::HeaderName;
use http::{HeaderMap, Method, Uri};
use http_body::{Body, Frame, SizeHint};

use crate::body::BodyError;
use crate::progress::Progress;
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
                progress.wait();
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                progress.note(frame.as_ref(), body.is_end_stream());
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
