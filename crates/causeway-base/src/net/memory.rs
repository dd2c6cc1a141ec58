//! A network in memory: the same addresses and errors as TCP, with faults on request, deterministic under paused time.
//!
//! A host is an IP address. Faults are per host: [`MemoryNet::cut`] breaks its connections and drops new ones,
//! [`MemoryNet::delay`] holds new connections to it back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes in flight in each direction of a connection before a writer waits, as a socket buffer would make it.
const PIPE_BYTES: usize = 64 * 1024;
/// Connections that may wait for `accept` before the next is refused.
const BACKLOG: usize = 1024;
/// Where ports for "any port" start.
const FIRST_FREE_PORT: u16 = 32_768;

/// See the [module](self). Cheap to clone; clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct MemoryNet {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    listeners: HashMap<SocketAddr, mpsc::Sender<(DuplexStream, SocketAddr)>>,
    hosts: HashMap<IpAddr, Host>,
    next_port: u16,
    /// Where redirected connections were going, by their peers.
    redirected: HashMap<SocketAddr, SocketAddr>,
}

#[derive(Debug, Default)]
struct Host {
    is_cut: bool,
    delay: Duration,
    /// Cancelled by a cut: breaks the connections that existed then.
    life: CancellationToken,
}

impl MemoryNet {
    /// Cuts `host` off: its connections break with `ConnectionReset`, new ones fail with `TimedOut`.
    pub fn cut(&self, host: IpAddr) {
        let mut state = self.state.lock();
        let host = state.hosts.entry(host).or_default();
        host.is_cut = true;
        host.life.cancel();
    }

    /// Undoes [`MemoryNet::cut`]; broken connections stay broken.
    pub fn heal(&self, host: IpAddr) {
        let mut state = self.state.lock();
        let host = state.hosts.entry(host).or_default();
        host.is_cut = false;
        host.life = CancellationToken::new();
    }

    /// Makes every new connection to `host` take this long.
    pub fn delay(&self, host: IpAddr, by: Duration) {
        self.state.lock().hosts.entry(host).or_default().delay = by;
    }

    pub(super) fn bind(&self, address: SocketAddr) -> io::Result<MemoryListener> {
        let mut state = self.state.lock();
        let address = match address.port() {
            0 => SocketAddr::new(address.ip(), state.free_port()),
            _ => address,
        };
        let taken = state.listeners.get(&address).is_some_and(|queue| !queue.is_closed());
        if taken {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address} is taken in memory")));
        }
        let (queue, incoming) = mpsc::channel(BACKLOG);
        state.listeners.insert(address, queue);
        Ok(MemoryListener { address, incoming })
    }

    /// Connects to `to` as the kernel does with a connection to `original` that it redirects there.
    pub async fn connect_redirected(&self, original: SocketAddr, to: SocketAddr) -> io::Result<DuplexStream> {
        self.connect_as(to, Some(original)).await
    }

    pub(super) fn original_destination(&self, peer: SocketAddr) -> io::Result<SocketAddr> {
        self.state.lock().redirected.remove(&peer).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<DuplexStream> {
        self.connect_as(address, None).await
    }

    async fn connect_as(
        &self,
        address: SocketAddr,
        original: Option<SocketAddr>,
    ) -> io::Result<DuplexStream> {
        let delay = self.state.lock().hosts.get(&address.ip()).map_or(Duration::ZERO, |host| host.delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.state.lock();
        let host = state.hosts.entry(address.ip()).or_default();
        if host.is_cut {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} is cut off")));
        }
        let life = host.life.clone();
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), state.free_port());
        let queue = state.listeners.get(&address).cloned();
        state.redirected.extend(original.map(|original| (peer, original)));
        drop(state);
        let refused = || {
            io::Error::new(io::ErrorKind::ConnectionRefused, format!("nobody listens on {address} in memory"))
        };
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        queue.ok_or_else(refused)?.try_send((breakable(far, life), peer)).map_err(|_| refused())?;
        Ok(near)
    }
}

impl State {
    fn free_port(&mut self) -> u16 {
        self.next_port = self.next_port.max(FIRST_FREE_PORT).checked_add(1).unwrap_or(FIRST_FREE_PORT);
        self.next_port
    }
}

/// Puts a relay between the two ends that dies with `life`, so that a cut breaks what is open.
fn breakable(far: DuplexStream, life: CancellationToken) -> DuplexStream {
    let (served, mut relay) = tokio::io::duplex(PIPE_BYTES);
    let mut far = far;
    #[allow(
        clippy::disallowed_methods,
        reason = "the network itself is below scopes; the relay ends with its streams"
    )]
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = life.cancelled() => {}
            _ = tokio::io::copy_bidirectional(&mut far, &mut relay) => {}
        }
    });
    served
}

/// A listener of a [`MemoryNet`]; dropping it makes the address refuse.
#[derive(Debug)]
pub struct MemoryListener {
    address: SocketAddr,
    incoming: mpsc::Receiver<(DuplexStream, SocketAddr)>,
}

impl MemoryListener {
    pub(super) async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        self.incoming
            .recv()
            .await
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the network in memory is gone"))
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{BindOptions, Net};
    use super::*;

    fn memory() -> (Net, MemoryNet) {
        let net = MemoryNet::default();
        (Net::Memory(net.clone()), net)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_flow_both_ways_and_addresses_are_exclusive() {
        let (net, _) = memory();
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let mut listener = net.bind(address, BindOptions::default()).unwrap();
        let taken = net.bind(address, BindOptions::default()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let mut near = net.connect(address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        far.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        drop(listener);
        assert_eq!(net.connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_breaks_what_is_open_and_heals() {
        let (net, faults) = memory();
        let address: SocketAddr = "10.0.0.2:80".parse().unwrap();
        let mut listener = net.bind(address, BindOptions::default()).unwrap();
        let mut near = net.connect(address).await.unwrap();
        let (_far, _) = listener.accept().await.unwrap();
        faults.cut(address.ip());
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0, "the open connection ends");
        assert_eq!(net.connect(address).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        faults.heal(address.ip());
        net.connect(address).await.unwrap();
    }
}
