//! Bytes that were read of a connection and not made use of yet.
//!
//! In:    what a socket has.      Out: bytes to look at, to pass over, to take.
//! Owner: one connection; the scratch that reads go into is the thread's.
//! Invariant: a connection that waits holds at most what it has read and cannot use yet, in a buffer of just that size.
//! Not here: what the bytes mean (`causeway_wire::h1`).

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use crate::socket::Socket;

/// What one read may bring: an answer of 10 kB with its head comes in one, and a large body in few.
const SCRATCH_BYTES: usize = 64 * 1024;
/// With less room than this left, because pieces of the scratch are still on their way, a new one is made.
const ROOM_BYTES_MIN: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Bytes at hand.
#[derive(Debug, Default)]
pub(super) struct Rest {
    bytes: BytesMut,
    /// They lie in the scratch.
    is_scratch: bool,
}

impl Rest {
    /// Bytes that somebody else read.
    pub(super) fn new(bytes: &[u8]) -> Self {
        Rest { bytes: BytesMut::from(bytes), is_scratch: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn advance(&mut self, length: usize) {
        self.bytes.advance(length);
    }

    /// The next `length` bytes, where they lie.
    pub(super) fn take(&mut self, length: usize) -> Bytes {
        self.bytes.split_to(length).freeze()
    }

    /// The next `length` bytes, in a buffer of their own: for those who keep them.
    pub(super) fn take_copy(&mut self, length: usize) -> Bytes {
        let bytes = Bytes::copy_from_slice(&self.bytes[..length]);
        self.bytes.advance(length);
        bytes
    }

    /// Reads what there is; zero is the end. While nothing comes, the scratch is let go.
    pub(super) fn poll_fill(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let filled = SCRATCH.with_borrow_mut(|scratch| {
            if !scratch.try_reclaim(SCRATCH_BYTES) && scratch.capacity() < ROOM_BYTES_MIN {
                *scratch = BytesMut::with_capacity(SCRATCH_BYTES);
            }
            let read = ready!(pin!(socket.read_buf(scratch)).poll(cx))?;
            match self.bytes.is_empty() {
                true => {
                    self.bytes = scratch.split();
                    self.is_scratch = true;
                }
                false => {
                    self.leave_scratch();
                    self.bytes.extend_from_slice(scratch);
                    scratch.clear();
                }
            }
            Poll::Ready(Ok(read))
        });
        if filled.is_pending() {
            self.leave_scratch();
        }
        filled
    }

    /// Keeps what is left in a buffer of just that size, or none.
    pub(super) fn leave_scratch(&mut self) {
        if self.is_scratch || self.bytes.is_empty() {
            self.bytes = BytesMut::from(&self.bytes[..]);
            self.is_scratch = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use causeway_base::net::Stream;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_kept_in_a_buffer_of_its_own_and_nothing_otherwise() {
        let (mut peer, near) = tokio::io::duplex(1024);
        let mut socket = Socket::Plain(Stream::Memory(near));
        let mut cx = Context::from_waker(Waker::noop());
        let mut rest = Rest::default();
        peer.write_all(b"GET / HTT").await.unwrap();
        assert!(rest.poll_fill(&mut socket, &mut cx).is_ready());
        assert!(rest.poll_fill(&mut socket, &mut cx).is_pending());
        assert!(!rest.is_scratch && rest.bytes.capacity() < 64, "{}", rest.bytes.capacity());
        peer.write_all(b"P/1.1\r\n").await.unwrap();
        assert!(rest.poll_fill(&mut socket, &mut cx).is_ready());
        assert_eq!(rest.as_slice(), b"GET / HTTP/1.1\r\n");
        rest.advance(4);
        assert_eq!(rest.take(1), "/");
        assert_eq!(rest.take_copy(11), " HTTP/1.1\r\n");
        assert!(rest.is_empty());
        assert!(rest.poll_fill(&mut socket, &mut cx).is_pending());
        assert_eq!(rest.bytes.capacity(), 0);
        drop(peer);
        assert!(matches!(rest.poll_fill(&mut socket, &mut cx), Poll::Ready(Ok(0))));
    }
}
