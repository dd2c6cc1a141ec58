//! The bytes below `h2`: what comes is noted, and from clients measured.
//!
//! In:    a socket.      Out: the same bytes; marks in its connection's [`Pulse`].
//! Owner: the connection.
//! Invariant: bytes of a flood are not handed up; the connection above sees the mark and says why it ends.
//! Not here: how much is a flood (`meter`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::meter::Meter;
use crate::http2::pulse::Pulse;
use crate::socket::Socket;

/// A socket that `h2` reads and writes.
pub(crate) struct Wire {
    socket: Socket,
    pulse: Arc<Pulse>,
    meter: Option<Meter>,
}

impl Wire {
    /// To an endpoint: only noted.
    pub(crate) fn new(socket: Socket, pulse: Arc<Pulse>) -> Self {
        Wire { socket, pulse, meter: None }
    }

    /// Of a client: measured.
    pub(crate) fn metered(socket: Socket, pulse: Arc<Pulse>, meter: Meter) -> Self {
        Wire { socket, pulse, meter: Some(meter) }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.pulse.is_flooded() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
        let new = &buffer.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(()));
        }
        this.pulse.note_read();
        if let Some(meter) = &mut this.meter
            && !meter.admits(new, &this.pulse)
        {
            buffer.set_filled(before);
            this.pulse.note_flood();
            // Whoever polls this looks at the mark next.
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
