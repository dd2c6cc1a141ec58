//! A mesh connection that breaks when its peer's certificate is revoked, whatever is spoken on it.
//!
//! In:    a stream after its handshake, whose certificate is at the other end.      Out: the same stream, or an error once that is revoked.
//! Owner: whoever speaks on it.
//! Invariant: a revoked peer gets no further byte and none of its bytes is read; a silent connection is woken for it.
//! Not here: connections whose TLS is driven by hand (`leg`, which `leash` ends), what may be called (`entry`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use causeway_identity::Peer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::review::{Review, Watch};
use crate::tls::MeshTls;

/// A mesh connection that breaks when its peer's certificate is revoked, whatever is spoken on it.
pub(crate) struct MeshStream<S> {
    stream: S,
    peer: Peer,
    tls: Arc<MeshTls>,
    watch: Watch,
    seen: u64,
    is_cut: bool,
}

impl<S> MeshStream<S> {
    pub(crate) fn new(stream: S, peer: Peer, tls: &Arc<MeshTls>, review: &Arc<Review>) -> Self {
        // It begins with a look: what was revoked during the handshake is not missed.
        MeshStream {
            stream,
            peer,
            tls: tls.clone(),
            watch: Watch::new(review),
            seen: u64::MAX,
            is_cut: false,
        }
    }

    fn check(&mut self) -> io::Result<()> {
        let number = self.watch.number();
        if self.seen != number {
            self.seen = number;
            self.is_cut |= self.tls.is_revoked(&self.peer);
        }
        match self.is_cut {
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the certificate of {} was revoked", self.peer.id.service),
            )),
            false => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeshStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() {
            self.watch.register(cx.waker());
            self.check()?;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeshStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Not even a polite end for whoever was revoked.
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
