//! A request's body on its way from the connection to whoever reads it.
//!
//! In:    frames, one at a time, when the reader asks.      Out: [`Intake`], the body that travels with the request.
//! Owner: the connection has the [`Feed`] and alone touches the socket; the reader may be another task.
//! Invariant: nothing is read that nobody asked for, except what a reader that left has left behind, within bounds.
//! Not here: bodies that lay whole beside their head: these need no feeding.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use causeway_wire::h1::{CONTINUE, Decoder, Framing, Limits};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::client::Client;
use super::frames;
use crate::limits;
use crate::trouble::BodyError;

/// The connection's end.
#[derive(Debug)]
pub(super) struct Feed {
    slot: Arc<Mutex<Slot>>,
    decoder: Decoder,
    /// The reader may hold what it gets for as long as the request takes.
    keeps: bool,
    /// The client waits to be told to send.
    awaits_word: bool,
    /// Of a body that nobody reads.
    unread_left: usize,
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Intake {
    slot: Arc<Mutex<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    frame: Option<Result<Frame<Bytes>, BodyError>>,
    /// Content that the reader has not got yet, where the head said it.
    left: Option<u64>,
    /// Whether no frame follows the one that is there.
    is_ended: bool,
    is_wanted: bool,
    /// The reader is gone.
    is_left: bool,
    reader: Option<Waker>,
    connection: Option<Waker>,
}

/// What came of feeding.
pub(super) enum Fed {
    /// Something for the reader.
    Some,
    /// The body's end was read: nothing more is to be fed.
    All,
    /// What follows on the connection cannot be told from the body.
    Lost,
}

/// Both ends for a body that is framed so.
pub(super) fn feed(framing: Framing, awaits_word: bool) -> (Feed, Intake) {
    let left = match framing {
        Framing::Length(length) => Some(length),
        _ => None,
    };
    let slot = Arc::new(Mutex::new(Slot { left, ..Slot::default() }));
    let decoder = Decoder::new(framing, &Limits::default());
    let keeps = left.is_some_and(|length| length <= limits::REPLAY_BYTES_MAX as u64);
    let unread_left = limits::UNREAD_BYTES_MAX;
    (Feed { slot: slot.clone(), decoder, keeps, awaits_word, unread_left }, Intake { slot })
}

impl Feed {
    /// Whether the client has not been told to send.
    pub(super) fn awaits_word(&self) -> bool {
        self.awaits_word
    }

    /// Reads on as far as the reader asks; `has_answered` says that the answer has begun to go out.
    pub(super) fn poll(
        &mut self,
        client: &mut Client,
        has_answered: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Fed> {
        let mut slot = self.slot.lock();
        if slot.is_left {
            drop(slot);
            return self.poll_unread(client, cx);
        }
        if !slot.connection.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.connection = Some(cx.waker().clone());
        }
        if !slot.is_wanted || slot.frame.is_some() {
            return Poll::Pending;
        }
        if std::mem::take(&mut self.awaits_word) && !has_answered {
            client.outbox.lines().extend_from_slice(CONTINUE);
        }
        if !has_answered && ready!(client.poll_flush(cx)).is_err() {
            slot.put(Some(Err(BodyError::broken("the client is gone"))), true, cx);
            return Poll::Ready(Fed::Lost);
        }
        let Client { socket, rest, .. } = client;
        let frame = ready!(frames::poll_frame(socket, rest, &mut self.decoder, self.keeps, cx));
        let is_lost = matches!(frame, Some(Err(_)));
        let is_ended = is_lost || self.decoder.is_ended();
        slot.put(frame, is_ended, cx);
        Poll::Ready(match is_ended {
            _ if is_lost => Fed::Lost,
            true => Fed::All,
            false => Fed::Some,
        })
    }

    /// Reads and drops, so that a client that sends all before it reads is answered.
    fn poll_unread(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<Fed> {
        if self.awaits_word {
            return Poll::Ready(Fed::Lost);
        }
        let Client { socket, rest, .. } = client;
        loop {
            match ready!(frames::poll_frame(socket, rest, &mut self.decoder, false, cx)) {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    let Some(left) = self.unread_left.checked_sub(bytes) else {
                        return Poll::Ready(Fed::Lost);
                    };
                    self.unread_left = left;
                }
                Some(Err(_)) => return Poll::Ready(Fed::Lost),
                None => return Poll::Ready(Fed::All),
            }
        }
    }
}

impl Slot {
    fn put(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>, is_ended: bool, cx: &Context<'_>) {
        self.frame = frame;
        self.is_ended = is_ended;
        self.is_wanted = false;
        // A reader in the connection's own task is looked at next anyway.
        if let Some(reader) = self.reader.take()
            && !reader.will_wake(cx.waker())
        {
            reader.wake();
        }
    }
}

impl Body for Intake {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut slot = self.slot.lock();
        if let Some(frame) = slot.frame.take() {
            if let (Ok(frame), Some(left)) = (&frame, &mut slot.left) {
                *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            return Poll::Ready(Some(frame));
        }
        if slot.is_ended {
            return Poll::Ready(None);
        }
        slot.is_wanted = true;
        if !slot.reader.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.reader = Some(cx.waker().clone());
        }
        if let Some(connection) = &slot.connection
            && !connection.will_wake(cx.waker())
        {
            connection.wake_by_ref();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let slot = self.slot.lock();
        slot.is_ended && slot.frame.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.slot.lock().left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let mut slot = self.slot.lock();
        slot.is_left = true;
        if !slot.is_ended
            && let Some(connection) = slot.connection.take()
        {
            connection.wake();
        }
    }
}
