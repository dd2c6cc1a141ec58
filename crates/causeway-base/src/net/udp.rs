//! The machine's own UDP.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockRef;
use tokio::net::UdpSocket;

/// A socket on a port that the kernel draws, which takes datagrams of `with` alone.
pub(super) async fn connect(with: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let any: SocketAddr = match with {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    if let Some(mark) = mark {
        super::tcp::mark(SockRef::from(&socket), mark)?;
    }
    socket.connect(with).await?;
    Ok(socket)
}
