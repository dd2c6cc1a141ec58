//! The machine's own TCP.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait in the kernel for `accept`; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket_for(address)?.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(super) fn bind(address: SocketAddr, share_port: bool) -> io::Result<TcpListener> {
    let socket = socket_for(address)?;
    socket.set_reuseaddr(true)?;
    if share_port {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
