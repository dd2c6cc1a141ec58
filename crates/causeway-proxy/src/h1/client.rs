//! The client's end of a connection that came in: its socket, what it sent beyond what was read, what it has not taken yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::outbox::Outbox;
use super::patience::Patience;
use super::rest::Rest;
use crate::limits;
use crate::socket::Socket;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: Socket,
    pub(super) rest: Rest,
    pub(super) outbox: Outbox,
    pub(super) patience: Patience,
    /// What it sends beyond what was read can be told from nothing any more: no request is read of it again.
    pub(super) is_lost: bool,
    /// What it had taken when it was last found to take nothing.
    stalled_at: Option<u64>,
}

impl Client {
    pub(super) fn new(socket: Socket, first: &[u8]) -> Self {
        Client {
            socket,
            rest: Rest::new(first),
            outbox: Outbox::default(),
            patience: Patience::default(),
            is_lost: false,
            stalled_at: None,
        }
    }

    /// Its socket, and what was read of it and not made use of.
    pub(super) fn into_parts(mut self) -> (Socket, Bytes) {
        let first = self.rest.take_copy(self.rest.as_slice().len());
        (self.socket, first)
    }

    /// Writes until all is taken; a client that takes nothing for too long is given up.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.outbox.poll_flush(&mut self.socket, cx) {
            Poll::Pending => {
                let written = Some(self.outbox.written);
                if self.stalled_at != written {
                    self.stalled_at = written;
                    self.patience.wait(limits::STALL);
                }
                match self.patience.poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Poll::Pending => Poll::Pending,
                }
            }
            flushed => {
                if self.stalled_at.take().is_some() {
                    self.patience.stop();
                }
                flushed
            }
        }
    }

    /// Whether it has left, while nothing is read of it: its end came, and nothing before it. Bytes of a next request are kept.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // With bytes at hand nothing more is read, and its end not seen before they are made use of.
        while self.rest.is_empty() {
            match self.rest.poll_fill(&mut self.socket, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => self.rest.leave_scratch(),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Says that nothing more will be sent.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.patience.poll(cx),
        }
    }

    /// Says that nothing more will be sent, and reads until the client has ended too, within bounds: a socket that is closed while
    /// something lies in it unread takes back what the client has not read yet.
    pub(super) fn poll_part(&mut self, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.socket).poll_shutdown(cx).is_pending() {
            return self.patience.poll(cx);
        }
        loop {
            self.rest.advance(self.rest.as_slice().len());
            match self.rest.poll_fill(&mut self.socket, cx) {
                Poll::Ready(Ok(read)) if read > 0 && read < *left => *left -= read,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.patience.poll(cx),
            }
        }
    }
}
