//! Bytes on their way to a socket that may be slow to take them.
//!
//! In:    heads, chunk lines, pieces of bodies, in order.      Out: as few writes as there can be.
//! Owner: one connection.
//! Invariant: small pieces are copied beside their head and go out in one write; a large one goes out from where it lies. What a slow
//! peer leaves here is bounded: nothing is added while it is full.
//! Not here: where pieces come from.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use causeway_wire::h1::{CHUNK_END, LAST_CHUNK, write_chunk_header, write_trailers};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use crate::socket::Socket;

/// A piece up to this size is copied: cheaper than a second entry for the kernel to look at.
const COPY_BYTES_MAX: usize = 4 * 1024;
/// Gathered before they are written; with a large piece behind them.
const LINES_BYTES_MAX: usize = 16 * 1024;
/// A piece that waits for its peer while it is smaller than this is copied, so that it does not keep a whole scratch.
const PINNED_BYTES_MIN: usize = 16 * 1024;

thread_local! {
    /// A buffer for the next who needs one: almost always it is back before anybody else does.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lines: Vec<u8>,
    /// Of `lines`, already written.
    at: usize,
    /// Behind the lines.
    piece: Bytes,
    /// Behind the piece.
    tail: &'static [u8],
    /// Bytes that the socket took since the connection began.
    pub(super) written: u64,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.lines.len() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Whether it must be flushed before anything is added.
    pub(super) fn is_full(&self) -> bool {
        !self.piece.is_empty() || !self.tail.is_empty() || self.lines.len() >= LINES_BYTES_MAX
    }

    /// For a head. Must not be full.
    pub(super) fn lines(&mut self) -> &mut Vec<u8> {
        debug_assert!(
            self.piece.is_empty() && self.tail.is_empty(),
            "what comes later must not go out first"
        );
        if self.lines.capacity() == 0 {
            self.lines = SPARE.take();
        }
        &mut self.lines
    }

    /// A piece of a body, not empty. Must not be full.
    pub(super) fn put(&mut self, piece: Bytes, is_chunked: bool) {
        let tail = if is_chunked { CHUNK_END } else { b"" };
        let length = piece.len();
        let lines = self.lines();
        if is_chunked {
            write_chunk_header(lines, length);
        }
        if length <= COPY_BYTES_MAX {
            lines.extend_from_slice(&piece);
            lines.extend_from_slice(tail);
        } else {
            (self.piece, self.tail) = (piece, tail);
        }
    }

    /// The end of a chunked body.
    pub(super) fn put_end(&mut self, trailers: Option<&HeaderMap>) {
        match trailers.filter(|trailers| !trailers.is_empty()) {
            None if !self.tail.is_empty() => self.tail = LAST_TAIL,
            None => self.lines().extend_from_slice(LAST_CHUNK),
            Some(trailers) => write_trailers(self.lines(), trailers),
        }
    }

    /// Writes until all is taken.
    pub(super) fn poll_flush(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let lines = &self.lines[self.at..];
            let socket = Pin::new(&mut *socket);
            let written = match (lines.is_empty(), self.piece.is_empty() && self.tail.is_empty()) {
                (_, true) => socket.poll_write(cx, lines),
                (true, false) if self.tail.is_empty() => socket.poll_write(cx, &self.piece),
                _ => {
                    let parts = [IoSlice::new(lines), IoSlice::new(&self.piece), IoSlice::new(self.tail)];
                    socket.poll_write_vectored(cx, &parts)
                }
            };
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(taken)) => self.advance(taken),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.keep_little();
                    return Poll::Pending;
                }
            }
        }
        self.let_go();
        Pin::new(socket).poll_flush(cx)
    }

    fn advance(&mut self, taken: usize) {
        self.written += taken as u64;
        let of_lines = taken.min(self.lines.len() - self.at);
        let of_piece = (taken - of_lines).min(self.piece.len());
        self.at += of_lines;
        self.piece.advance(of_piece);
        self.tail = &self.tail[taken - of_lines - of_piece..];
    }

    fn keep_little(&mut self) {
        if (1..PINNED_BYTES_MIN).contains(&self.piece.len()) {
            self.piece = Bytes::copy_from_slice(&self.piece);
        }
    }

    /// Hands the empty buffer on.
    fn let_go(&mut self) {
        self.at = 0;
        self.lines.clear();
        self.piece = Bytes::new();
        let lines = std::mem::take(&mut self.lines);
        if (1..=2 * LINES_BYTES_MAX).contains(&lines.capacity()) {
            SPARE.set(lines);
        }
    }
}

/// The end of a chunk and the last chunk.
const LAST_TAIL: &[u8] = b"\r\n0\r\n\r\n";
