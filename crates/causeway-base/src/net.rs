//! The seam between the house and sockets: TCP in life, a network in memory with faults in tests.
//!
//! In:    addresses.      Out: [`Stream`]s and [`Listener`]s that behave alike whichever network is below.
//! Owner: the roof picks [`Net::tcp`]; the test bed and the simulation pick [`Net::memory`].
//! Invariant: nothing above the ground names `tokio::net::TcpStream` to connect or listen.
//! Not here: TLS (`causeway-identity` wraps a stream), pooling (`causeway-proxy`).

mod memory;
mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};

pub use memory::MemoryNet;

/// A network to connect and listen on. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Net {
    /// The machine's own.
    Tcp(Tcp),
    /// One in memory, with faults on request.
    Memory(MemoryNet),
}

/// How the machine's own network is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Put on whatever goes out (`SO_MARK`), so that the kernel's rules can tell it from what others send.
    mark: Option<u32>,
}

/// How a listener binds.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindOptions {
    /// `SO_REUSEPORT`: several listeners of this process share the address and the kernel spreads connections over them.
    pub share_port: bool,
}

impl Net {
    /// The machine's own network.
    pub fn tcp() -> Self {
        Net::Tcp(Tcp::default())
    }

    /// The machine's own network, with a mark on whatever goes out, which the kernel lets only the privileged put there
    /// (`CAP_NET_ADMIN`): connecting fails for anybody else.
    pub fn tcp_marked(mark: u32) -> Self {
        Net::Tcp(Tcp { mark: Some(mark) })
    }

    /// A network of its own in memory.
    pub fn memory() -> Self {
        Net::Memory(MemoryNet::default())
    }

    /// Connects to `address` (TCP: `TCP_NODELAY` is set). No time limit: wrap it in the caller's named one.
    ///
    /// # Cancel safety
    /// Dropping the future closes the half-open connection.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        match self {
            Net::Tcp(tcp) => tcp::connect(address, tcp.mark).await.map(Stream::Tcp),
            Net::Memory(net) => net.connect(address).await.map(Stream::Memory),
        }
    }

    /// Listens on `address`; port 0 picks a free one.
    pub fn bind(&self, address: SocketAddr, options: BindOptions) -> io::Result<Listener> {
        match self {
            Net::Tcp(_) => tcp::bind(address, options.share_port).map(Listener::Tcp),
            Net::Memory(net) => net.bind(address).map(Listener::Memory),
        }
    }

    /// Where a connection that came in from `peer` was going before the kernel redirected it here.
    ///
    /// # Errors
    /// When it was not redirected, or the kernel cannot say.
    pub fn original_destination(&self, stream: &Stream, peer: SocketAddr) -> io::Result<SocketAddr> {
        match (self, stream) {
            (Net::Memory(net), _) => net.original_destination(peer),
            (Net::Tcp(_), Stream::Tcp(stream)) => tcp::original_destination(stream),
            (Net::Tcp(_), Stream::Memory(_)) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A socket that takes datagrams at `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// Those of the kernel. In memory there are no datagrams.
    pub async fn bind_datagrams(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        match self {
            Net::Tcp(_) => UdpSocket::bind(address).await,
            Net::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A socket for datagrams to and from one address.
    ///
    /// # Errors
    /// Those of the kernel. In memory there are no datagrams.
    pub async fn datagrams(&self, with: SocketAddr) -> io::Result<UdpSocket> {
        match self {
            Net::Tcp(tcp) => udp::connect(with, tcp.mark).await,
            Net::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub enum Stream {
    /// A TCP socket.
    Tcp(TcpStream),
    /// One end of a pipe in memory.
    Memory(DuplexStream),
}

/// Something that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// A TCP listener.
    Tcp(tokio::net::TcpListener),
    /// A listener of a [`MemoryNet`].
    Memory(memory::MemoryListener),
}

impl Listener {
    /// The next connection and where it comes from. TCP: `TCP_NODELAY` is set.
    ///
    /// # Cancel safety
    /// Safe: a connection is either returned or stays queued.
    pub async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), peer))
            }
            Listener::Memory(listener) => {
                listener.accept().await.map(|(stream, peer)| (Stream::Memory(stream), peer))
            }
        }
    }

    /// The address that was bound, its port resolved.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr(),
            Listener::Memory(listener) => Ok(listener.local_addr()),
        }
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Memory(stream) => stream.is_write_vectored(),
        }
    }
}
