//! A request's body for as many tries as it allows: whole, or a stream that can be sent once.
//!
//! In:    the upload.      Out: a body for each try, as long as there is one.
//! Owner: one delivery.
//! Invariant: a stream of which a connection took anything is not given out again.
//! Not here: how its frames go out (`outgoing`), how they come in (`upload`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

use crate::body::BodyError;
use crate::limits;
use crate::outgoing::{Outgoing, Progress};
use crate::upload::Upload;

/// A request's body: whole, so that it can be sent again, or a stream that can be sent once.
#[derive(Debug)]
pub(crate) enum Replay {
    Whole(Option<Bytes>),
    Once(Option<Upload>, Arc<Progress>),
}

impl Replay {
    /// Reads a short body whole; a long one, or one of unknown length, stays a stream.
    pub(crate) async fn prepare(mut body: Upload) -> Result<Self, BodyError> {
        if body.is_end_stream() {
            return Ok(Replay::Whole(None));
        }
        match body.size_hint().exact() {
            Some(length) if length <= limits::REPLAY_BYTES_MAX as u64 => {}
            _ => return Ok(Replay::Once(Some(body), Arc::default())),
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
            Replay::Once(body, upload) => body.take().map(|body| Outgoing::Streamed(body, upload.clone())),
        }
    }

    /// All of it, when all of it is at hand.
    pub(super) fn whole(&self) -> Option<&Option<Bytes>> {
        match self {
            Replay::Whole(bytes) => Some(bytes),
            Replay::Once(..) => None,
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
        !matches!(self, Replay::Once(None, _))
    }
}
