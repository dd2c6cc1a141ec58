//! A request's body for as many tries as it allows: whole, or a stream that can be sent once.
//!
//! In:    the upload.      Out: a body for each try, as long as there is one.
//! Owner: one delivery.
//! Invariant: a stream of which a connection took anything is given out again only when it has ended and all of it was kept.
//! Not here: how its frames go out (`outgoing`), how they come in (`upload`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

use crate::body::BodyError;
use crate::limits;
use crate::outgoing::Outgoing;
use crate::progress::Progress;
use crate::upload::Upload;

/// A request's body: whole, so that it can be sent again, or a stream that can be sent once.
#[derive(Debug)]
pub(crate) enum Replay {
    Whole(Option<Bytes>),
    Once(Option<Upload>, Arc<Progress>),
}

impl Replay {
    /// Reads a short body whole; a long one, or one of unknown length, stays a stream, of which a copy is kept while it is short when
    /// `keeps` says that the request may be worth sending again (calls of gRPC never say their length).
    pub(crate) async fn prepare(mut body: Upload, keeps: bool) -> Result<Self, BodyError> {
        if body.is_end_stream() {
            return Ok(Replay::Whole(None));
        }
        match body.size_hint().exact() {
            Some(length) if length <= limits::REPLAY_BYTES_MAX as u64 => {}
            length => {
                let progress = Progress::new(keeps && length.is_none());
                return Ok(Replay::Once(Some(body), Arc::new(progress)));
            }
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) if first.is_empty() => first = data,
                Ok(data) => {
                    if rest.is_empty() {
                        rest.extend_from_slice(&first);
                    }
                    rest.extend_from_slice(&data);
                }
                // Trailers of a body of known length: nobody reads them.
                Err(_) => {}
            }
            if body.is_end_stream() {
                break;
            }
        }
        Ok(Replay::Whole(Some(if rest.is_empty() { first } else { rest.freeze() })))
    }

    /// Bytes of a body that is here whole.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Replay::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Replay::Once(..) => 0,
        }
    }

    /// What tells how the upload goes on.
    pub(crate) fn upload(&self) -> Option<Arc<Progress>> {
        match self {
            Replay::Whole(_) => None,
            Replay::Once(_, progress) => Some(progress.clone()),
        }
    }

    pub(super) fn take(&mut self) -> Option<Outgoing> {
        match self {
            Replay::Whole(bytes) => Some(Outgoing::Whole(bytes.clone())),
            Replay::Once(Some(_), progress) => {
                let progress = progress.clone();
                self.take_stream().map(|body| Outgoing::Streamed(body, progress))
            }
            Replay::Once(None, progress) => progress.whole().map(|bytes| Outgoing::Whole(Some(bytes))),
        }
    }

    fn take_stream(&mut self) -> Option<Upload> {
        match self {
            Replay::Whole(_) => None,
            Replay::Once(body, _) => body.take(),
        }
    }

    /// All of it, for tries at the same time.
    pub(super) fn copy(&self) -> Copy {
        match self {
            Replay::Whole(bytes) => Copy::Whole(bytes.clone()),
            Replay::Once(_, progress) => Copy::Later(progress.clone()),
        }
    }

    pub(super) fn put_back(&mut self, body: Outgoing) {
        if let (Replay::Once(slot, _), Outgoing::Streamed(body, _)) = (self, body) {
            *slot = Some(body);
        }
    }

    /// How the client fares with a body that is streamed.
    pub(super) fn progress(&self) -> Option<&Progress> {
        match self {
            Replay::Whole(_) => None,
            Replay::Once(_, progress) => Some(progress),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        match self {
            Replay::Whole(_) | Replay::Once(Some(_), _) => true,
            Replay::Once(None, progress) => progress.whole().is_some(),
        }
    }
}

/// A body, all of it, now or as soon as it has ended.
pub(super) enum Copy {
    Whole(Option<Bytes>),
    Later(Arc<Progress>),
}

impl Copy {
    pub(super) fn get(&self) -> Option<Replay> {
        match self {
            Copy::Whole(bytes) => Some(Replay::Whole(bytes.clone())),
            Copy::Later(progress) => progress.whole().map(|bytes| Replay::Whole(Some(bytes))),
        }
    }
}

/// Whoever delivered it is done.
impl Drop for Replay {
    fn drop(&mut self) {
        if let Replay::Once(_, progress) = self {
            progress.forget();
        }
    }
}
