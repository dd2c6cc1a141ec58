//! A body on its way out on a stream of `h2`.
//!
//! In:    a body.      Out: its frames, as far as the peer has opened the window.
//! Owner: the request that sends it, on either side.
//! Invariant: beyond a small body that leaves with its head, nothing waits inside `h2` that the peer does not want yet.
//! Not here: bodies that come in (`inflow`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::http2::pulse::Pulse;
use crate::limits::UNASKED_BYTES;

/// A body that is being sent.
pub(crate) struct Outflow {
    stream: SendStream<Bytes>,
    /// Read of the body, not sent yet for want of window.
    held: Bytes,
    is_last: bool,
    /// Bytes that may be sent without asking for room first.
    unasked: usize,
    sent: u64,
    pulse: Arc<Pulse>,
}

/// Why a body was not sent to its end.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    /// The peer does not want it, or is gone.
    Peer,
    /// It ended early.
    Body(E),
}

/// The stream was reset, or its connection ended.
struct Gone;

impl Outflow {
    pub(crate) fn new(stream: SendStream<Bytes>, pulse: Arc<Pulse>) -> Self {
        Outflow { stream, held: Bytes::new(), is_last: false, unasked: UNASKED_BYTES, sent: 0, pulse }
    }

    /// Sends all of `body`.
    pub(crate) fn poll_send<B>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stop<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            if !self.held.is_empty() {
                ready!(self.poll_held(cx)).map_err(|Gone| Stop::Peer)?;
                if self.is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => {
                    let _reset = ready!(self.stream.poll_reset(cx));
                    return Poll::Ready(Err(Stop::Peer));
                }
                Poll::Ready(None) => {
                    self.send(Bytes::new(), true).map_err(|Gone| Stop::Peer)?;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Stop::Body(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.is_last = body.is_end_stream();
                        if data.is_empty() && !self.is_last {
                            continue;
                        }
                        match self.unasked.checked_sub(data.len()) {
                            Some(unasked) => {
                                self.unasked = unasked;
                                self.send(data, self.is_last).map_err(|Gone| Stop::Peer)?;
                            }
                            None => {
                                self.stream.reserve_capacity(data.len());
                                self.held = data;
                                continue;
                            }
                        }
                        if self.is_last {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        let sent = self.stream.send_trailers(trailers);
                        return Poll::Ready(sent.map_err(|_| Stop::Peer));
                    }
                },
            }
        }
    }

    /// Sends what is held, as far as there is room.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        while !self.held.is_empty() {
            let mut room = self.stream.capacity();
            if room == 0 {
                room = match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
                };
            }
            let piece = self.held.split_to(room.min(self.held.len()));
            if !piece.is_empty() {
                let is_last = self.is_last && self.held.is_empty();
                self.send(piece, is_last)?;
            }
        }
        self.unasked = UNASKED_BYTES;
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, data: Bytes, is_last: bool) -> Result<(), Gone> {
        self.sent += data.len() as u64;
        self.pulse.note_sent();
        self.stream.send_data(data, is_last).map_err(|_| Gone)
    }

    /// Whether bytes wait for the peer to want them; how many went before.
    pub(crate) fn waits(&self) -> Option<u64> {
        (!self.held.is_empty()).then_some(self.sent)
    }

    /// Gives the stream up.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}
