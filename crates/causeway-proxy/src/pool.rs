//! Connections to endpoints: idle ones are kept, one is shared where HTTP/2 is spoken.
//!
//! In:    an endpoint.      Out: a connection that can take a request now, or why there is none.
//! Owner: one worker. Its locks are held for a push or a pop and never waited for: no other worker comes near them (the
//! node's own calls, from several threads, have a pool of their own).
//! Invariant: a connection is lent to one request at a time (HTTP/1.1), and comes back only after a whole answer.
//! Not here: which endpoint (`balance`), what a failure means (`attempt`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::Scope;
use causeway_base::net::{Net, Stream};
use causeway_identity::Peer;
use causeway_wire::ProxyError;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_rustls::client;

use crate::bell::Bell;
use crate::endpoint::{ById, Endpoint, Transport};
use crate::h1::{Line, Shelf};
use crate::http2::client::Channel;
use crate::lease::Lease;
use crate::limits;
use crate::mesh_stream::MeshStream;
use crate::own::OwnAddresses;
use crate::review::Review;
use crate::socket::Socket;
use crate::tls::{MeshTls, Spoken};

/// A worker's connections.
pub(crate) struct Pool {
    net: Net,
    own: OwnAddresses,
    tls: Option<Arc<MeshTls>>,
    review: Arc<Review>,
    scope: Scope,
    bell: Bell,
    http1: Arc<Shelf>,
    http2: Mutex<HashMap<u64, Arc<Shared>, ById>>,
}

/// The HTTP/2 connections to one endpoint, mostly one; `making` lets one request make it while others wait.
#[derive(Default)]
struct Shared {
    channels: Mutex<Vec<Arc<Channel>>>,
    making: tokio::sync::Mutex<()>,
}

/// No connection.
#[derive(Debug)]
pub(crate) struct NoConnection {
    pub error: ProxyError,
    pub details: String,
}

impl NoConnection {
    pub(crate) fn new(error: ProxyError, details: &str) -> Self {
        NoConnection { error, details: details.to_owned() }
    }
}

impl Pool {
    pub(crate) fn new(
        net: Net,
        own: OwnAddresses,
        tls: Option<Arc<MeshTls>>,
        review: Arc<Review>,
        scope: Scope,
        bell: Bell,
    ) -> Self {
        Pool { net, own, tls, review, scope, bell, http1: Arc::default(), http2: Mutex::default() }
    }

    /// A connection to `endpoint`; `upgrades` asks for one of HTTP/1.1 of its own, whatever else is spoken there.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was being made.
    pub(crate) async fn checkout(
        &self,
        endpoint: &Endpoint,
        upgrades: bool,
        is_retry: bool,
        now: Instant,
    ) -> Result<Lease, NoConnection> {
        // Making a connection is rare and its future large (two handshakes): it gets a box of its own, so that the future of a
        // request, for which every connection that came in keeps room, stays small.
        match (&endpoint.transport, upgrades) {
            // A retry takes a new connection: where one idle connection had ended, its neighbours may have too.
            (Transport::Http1, false) => {
                match (!is_retry).then(|| self.http1.take(endpoint.id, now)).flatten() {
                    Some(socket) => {
                        let shelf = Some(self.http1.clone());
                        Ok(Lease::Http1(Line::new(socket, endpoint.id, shelf, true)))
                    }
                    None => Box::pin(self.connect_http1(endpoint, false)).await,
                }
            }
            (_, true) => Box::pin(self.connect_http1(endpoint, true)).await,
            (_, false) => {
                let shared = self.http2.lock().entry(endpoint.id).or_default().clone();
                match shared.reserve(true) {
                    Some(lease) => Ok(lease),
                    None => Box::pin(self.connect_http2(endpoint, shared)).await,
                }
            }
        }
    }

    /// Closes what is idle: no request will follow.
    pub(crate) fn close(&self) {
        self.http1.clear();
    }

    /// Connections of HTTP/1.1 that rest.
    pub(crate) fn idle(&self) -> usize {
        self.http1.len()
    }

    /// Connections of HTTP/2.
    pub(crate) fn channels(&self) -> usize {
        self.http2.lock().values().map(|shared| shared.channels.lock().len()).sum()
    }

    /// Closes what was idle too long, and forgets endpoints without connections.
    pub(crate) fn tidy(&self) {
        self.http1.tidy();
        let looks = (limits::CHANNEL_IDLE.as_secs() / limits::TIDY.as_secs()) as u32;
        self.http2.lock().retain(|_, shared| {
            let mut channels = shared.channels.lock();
            channels.retain(|channel| !channel.is_done(looks));
            !channels.is_empty() || Arc::strong_count(shared) > 1
        });
    }

    /// Makes a connection; one that `upgrades` is for its request alone.
    async fn connect_http1(&self, endpoint: &Endpoint, upgrades: bool) -> Result<Lease, NoConnection> {
        let socket = in_time(endpoint, async {
            match &endpoint.transport {
                Transport::Mesh(expected) => {
                    let stream =
                        self.tls()?.connect(self.dial(endpoint).await?, expected, Spoken::Http1).await;
                    self.hold(stream.map_err(tls_error)?)
                }
                Transport::Http1 | Transport::Http2 => Ok(Socket::Plain(self.dial(endpoint).await?)),
                Transport::Tcp | Transport::MeshTcp(..) => Err(not_http(endpoint)),
            }
        })
        .await?;
        let shelf = (!upgrades).then(|| self.http1.clone());
        Ok(Lease::Http1(Line::new(socket, endpoint.id, shelf, false)))
    }

    /// Makes a connection that takes the request, or waits for the request that is making one.
    async fn connect_http2(&self, endpoint: &Endpoint, shared: Arc<Shared>) -> Result<Lease, NoConnection> {
        let made = in_time(endpoint, async {
            let _making = shared.making.lock().await;
            if let Some(lease) = shared.reserve(true) {
                return Ok(Some(lease));
            }
            if shared.channels.lock().len() >= limits::CONNECTIONS_PER_ENDPOINT_MAX {
                return Ok(None);
            }
            let (socket, pings) = match &endpoint.transport {
                Transport::Mesh(expected) => {
                    let stream =
                        self.tls()?.connect(self.dial(endpoint).await?, expected, Spoken::Http2).await;
                    (self.hold(stream.map_err(tls_error)?)?, true)
                }
                Transport::Http1 | Transport::Http2 => (Socket::Plain(self.dial(endpoint).await?), false),
                Transport::Tcp | Transport::MeshTcp(..) => return Err(not_http(endpoint)),
            };
            let channel = Channel::open(socket, pings, &self.scope, &self.bell).await?;
            shared.channels.lock().push(Arc::new(channel));
            Ok(shared.reserve(false))
        });
        made.await?.ok_or_else(|| NoConnection {
            error: ProxyError::ConnectionLimitReached,
            details: format!("{} takes no more requests at a time", endpoint.name),
        })
    }

    pub(crate) async fn dial(&self, endpoint: &Endpoint) -> io::Result<Stream> {
        match endpoint.address {
            _ if endpoint.is_foreign() => self.dial_foreign(&endpoint.host, endpoint.port).await,
            Some(address) => self.net.connect(address).await,
            None => self.dial_host(&endpoint.host, endpoint.port, |_| Ok(())).await,
        }
    }

    /// Connects to a host that the app named: wherever that is, it is not one of our own addresses.
    pub(crate) async fn dial_foreign(&self, host: &str, port: u16) -> io::Result<Stream> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        self.dial_host(bare, port, |address| self.own.check(address)).await
    }

    /// Connects to the first address of a host that may be called and answers.
    async fn dial_host(
        &self,
        host: &str,
        port: u16,
        check: impl Fn(SocketAddr) -> io::Result<()>,
    ) -> io::Result<Stream> {
        let not_found = |why: String| io::Error::new(io::ErrorKind::NotFound, why);
        let addresses = tokio::net::lookup_host((host, port)).await.map_err(|e| not_found(e.to_string()))?;
        let mut last = not_found(format!("{host} has no address"));
        for address in addresses {
            // An own address ends it: at another one of the same host the app cannot mean to find somebody else.
            check(address)?;
            match self.net.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A mesh connection as a socket: it breaks when its peer is revoked.
    fn hold(&self, (stream, peer): (client::TlsStream<Stream>, Peer)) -> io::Result<Socket> {
        Ok(Socket::other(MeshStream::new(stream, peer, self.tls()?, &self.review)))
    }

    pub(crate) fn tls(&self) -> io::Result<&Arc<MeshTls>> {
        self.tls.as_ref().ok_or_else(|| tls_error(io::Error::other("this proxy has no identity")))
    }
}

impl Shared {
    /// Room for a request on the first connection that has any, so that those beyond what is needed become idle and end.
    fn reserve(&self, is_reused: bool) -> Option<Lease> {
        let mut channels = self.channels.lock();
        let found = channels.iter().find_map(|channel| channel.reserve().map(|load| (channel.clone(), load)));
        if found.is_none() {
            channels.retain(|channel| channel.is_open());
        }
        found.map(|(channel, load)| Lease::Http2 { channel, load, is_reused })
    }
}

/// The pipeline keeps requests away from what speaks no HTTP; this is the second lock on that door.
fn not_http(endpoint: &Endpoint) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{} speaks no HTTP", endpoint.name))
}

/// Marks an error of the TLS layer, so that it is told from one of the network.
pub(crate) fn tls_error(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn in_time<T>(
    endpoint: &Endpoint,
    make: impl Future<Output = io::Result<T>>,
) -> Result<T, NoConnection> {
    within(limits::CONNECT, endpoint, make).await
}

/// Makes a connection, or says why there is none.
pub(crate) async fn within<T>(
    limit: Duration,
    endpoint: &Endpoint,
    make: impl Future<Output = io::Result<T>>,
) -> Result<T, NoConnection> {
    let place = || format!("{} at {}:{}", endpoint.name, endpoint.host, endpoint.port);
    match tokio::time::timeout(limit, make).await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) => {
            let kind = match error.kind() {
                _ if OwnAddresses::is_refusal(&error) => ProxyError::ProxyLoopDetected,
                io::ErrorKind::InvalidData => ProxyError::TlsProtocolError,
                io::ErrorKind::NotFound => ProxyError::DnsError,
                io::ErrorKind::TimedOut => ProxyError::ConnectionTimeout,
                _ => ProxyError::ConnectionRefused,
            };
            Err(NoConnection { error: kind, details: format!("cannot connect to {}: {error}", place()) })
        }
        Err(_) => {
            let details = format!("cannot connect to {} within {limit:?}", place());
            Err(NoConnection { error: ProxyError::ConnectionTimeout, details })
        }
    }
}
