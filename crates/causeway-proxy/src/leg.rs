//! One end of a connection whose bytes are not ours to read: a socket, TLS on a socket, or what a request left behind.
//!
//! In:    bytes of the peer.      Out: the same into buffers that are lent for the moment; and back.
//! Owner: the task of the connection (`pump`).
//! Invariant: a leg holds no buffer while nothing comes; the peer's orderly end is told from a broken one.
//! Not here: both directions (`pump`), sockets that need no buffer at all (`splice`).

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::Stream;
use causeway_identity::Peer;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

use crate::limits;
use crate::socket::{Duplex, Socket};
use crate::spare::{Buffer, Size, Spare};

/// See the [module](self).
pub(crate) struct Leg {
    /// Read already; comes before anything else.
    first: Bytes,
    io: Io,
    /// Whose certificate is at its other end, of TLS that we have made.
    peer: Option<Box<Peer>>,
}

enum Io {
    Plain(Stream),
    Tls(Box<Tls>),
    /// A connection that was HTTP before.
    Other(Box<dyn Duplex>),
}

/// TLS driven by hand: it reads and writes as much at a time as there is, where a stream of `tokio-rustls` asks the kernel for
/// every 4 KiB.
pub(crate) struct Tls {
    io: Stream,
    session: rustls::Connection,
    raw: Raw,
    has_said_end: bool,
}

/// Bytes from the socket that TLS has not seen yet.
#[derive(Default)]
struct Raw {
    buffer: Option<Buffer>,
    from: usize,
    to: usize,
}

impl Leg {
    /// Without TLS of ours.
    pub(crate) fn plain(first: Bytes, stream: Stream) -> Self {
        Leg { first, io: Io::Plain(stream), peer: None }
    }

    /// TLS that we have taken.
    pub(crate) fn server(stream: server::TlsStream<Stream>) -> Self {
        let (io, session) = stream.into_inner();
        Leg::tls(io, session.into())
    }

    /// TLS that we have made.
    pub(crate) fn client(stream: client::TlsStream<Stream>, peer: Peer) -> Self {
        let (io, session) = stream.into_inner();
        Leg { peer: Some(Box::new(peer)), ..Leg::tls(io, session.into()) }
    }

    fn tls(io: Stream, mut session: rustls::Connection) -> Self {
        // We bound it ourselves: nothing is read before what was written last is on its way.
        session.set_buffer_limit(None);
        let tls = Tls { io, session, raw: Raw::default(), has_said_end: false };
        Leg { first: Bytes::new(), io: Io::Tls(Box::new(tls)), peer: None }
    }

    /// What a request left behind, of which `first` was read already.
    pub(crate) fn behind(first: Bytes, socket: Socket) -> Self {
        let io = match socket {
            Socket::Plain(stream) => Io::Plain(stream),
            Socket::Other(stream) => Io::Other(stream),
        };
        Leg { first, io, peer: None }
    }

    /// The socket, when what goes through it is not encrypted.
    #[cfg(target_os = "linux")]
    pub(crate) fn socket(&self) -> Option<&tokio::net::TcpStream> {
        match &self.io {
            Io::Plain(Stream::Tcp(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Whose certificate is at its other end.
    pub(crate) fn take_peer(&mut self) -> Option<Box<Peer>> {
        self.peer.take()
    }

    /// Whether nothing is left of what was read before.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_fresh(&self) -> bool {
        self.first.is_empty()
    }

    fn tcp(&self) -> Option<SockRef<'_>> {
        let stream = match &self.io {
            Io::Plain(stream) => stream,
            Io::Tls(tls) => &tls.io,
            Io::Other(_) => return None,
        };
        match stream {
            Stream::Tcp(stream) => Some(SockRef::from(stream)),
            Stream::Memory(_) => None,
        }
    }

    /// Has the kernel ask now and then whether a silent peer is still there.
    pub(crate) fn keep_alive(&self) {
        if let Some(socket) = self.tcp() {
            let asked = TcpKeepalive::new().with_time(limits::KEEPALIVE).with_interval(limits::KEEPALIVE / 4);
            // Without it a peer that was cut off is noticed at the idle limit.
            let _ = socket.set_tcp_keepalive(&asked);
        }
    }

    /// Ends so that the peer does not take it for an orderly end.
    pub(crate) fn break_off(self) {
        if let Some(socket) = self.tcp() {
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Reads into `into`; 0 is the peer's orderly end.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        spare: &Spare,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(into.len());
            into[..count].copy_from_slice(&self.first.split_to(count));
            if self.first.is_empty() {
                self.first = Bytes::new();
            }
            return Poll::Ready(Ok(count));
        }
        match &mut self.io {
            Io::Plain(stream) => poll_read(stream, cx, into),
            Io::Tls(tls) => tls.poll_fill(cx, spare, into),
            Io::Other(stream) => poll_read(stream, cx, into),
        }
    }

    /// Writes some of `bytes`, which may wait inside for [`Leg::poll_flush`].
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(tls) => tls.poll_drain(cx, bytes),
            Io::Other(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        match ready!(written)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            count => Poll::Ready(Ok(count)),
        }
    }

    /// Has everything that was written on its way.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(tls) => tls.poll_flush(cx),
            Io::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(tls) => tls.poll_end(cx),
            Io::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Tls {
    fn poll_fill(&mut self, cx: &mut Context<'_>, spare: &Spare, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        loop {
            match self.session.reader().read(&mut into[filled..]) {
                Ok(count) => {
                    filled += count;
                    if count == 0 || filled == into.len() {
                        return Poll::Ready(Ok(filled));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It comes again at the next look.
                Err(_) if filled > 0 => return Poll::Ready(Ok(filled)),
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.raw.is_empty() {
                if filled > 0 {
                    self.raw.release(spare);
                    return Poll::Ready(Ok(filled));
                }
                let size = if into.len() > Size::Small.bytes() { Size::Large } else { Size::Small };
                ready!(self.raw.poll_read(cx, &mut self.io, spare, size))?;
            }
            let raw = self.raw.rest();
            let count = self.session.read_tls(&mut &*raw)?;
            self.raw.from += count;
            if let Err(error) = self.session.process_new_packets() {
                // The peer is told why, if it still listens.
                let _ = self.poll_flush(cx);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            if self.session.wants_write() {
                // An answer to a key update; what does not go out now goes with the next bytes.
                let _ = self.poll_flush(cx)?;
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let count = self.session.writer().write(bytes)?;
        let _ = self.poll_flush(cx)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut writer = Writer { io: &mut self.io, cx };
            match self.session.write_tls(&mut writer) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_said_end {
            self.has_said_end = true;
            self.session.send_close_notify();
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Raw {
    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn rest(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[self.from..self.to])
    }

    fn release(&mut self, spare: &Spare) {
        self.buffer.take().into_iter().for_each(|buffer| spare.give(buffer));
    }

    /// Reads when it is empty; after the peer's end it stays so.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream,
        spare: &Spare,
        size: Size,
    ) -> Poll<io::Result<()>> {
        if self.buffer.as_ref().is_none_or(|buffer| buffer.len() != size.bytes()) {
            self.release(spare);
        }
        let buffer = self.buffer.get_or_insert_with(|| spare.take(size));
        let read = poll_read(io, cx, buffer);
        match read {
            Poll::Ready(Ok(count)) if count > 0 => (self.from, self.to) = (0, count),
            _ => self.release(spare),
        }
        read.map_ok(|_| ())
    }
}

fn poll_read(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    cx: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(into);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// A socket as TLS writes to it.
struct Writer<'a, 'b> {
    io: &'a mut Stream,
    cx: &'a mut Context<'b>,
}

impl Writer<'_, '_> {
    fn now(polled: Poll<io::Result<usize>>) -> io::Result<usize> {
        match polled {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Writer<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Writer::now(Pin::new(&mut *self.io).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        Writer::now(Pin::new(&mut *self.io).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
