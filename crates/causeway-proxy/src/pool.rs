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

use causeway_base::net::{Net, Stream};
use causeway_base::{OnFailure, Scope};
use causeway_wire::ProxyError;
use hyper::client::conn::http2;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::bell::{Bell, Level};
use crate::endpoint::{Endpoint, Transport};
use crate::h1::{Line, Shelf};
use crate::lease::Lease;
use crate::limits;
use crate::outgoing::Outgoing;
use crate::own::OwnAddresses;
use crate::socket::Socket;
use crate::tls::{MeshTls, Spoken};

/// A silent HTTP/2 connection is asked whether it lives; a peer that was cut off is noticed within the sum of both.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// A worker's connections.
pub(crate) struct Pool {
    net: Net,
    own: OwnAddresses,
    tls: Option<Arc<MeshTls>>,
    scope: Scope,
    bell: Bell,
    http1: Arc<Shelf>,
    http2: Mutex<HashMap<u64, Arc<Shared>>>,
}

/// One HTTP/2 connection to one endpoint; `making` lets one request make it while others wait.
#[derive(Default)]
struct Shared {
    sender: Mutex<Option<http2::SendRequest<Outgoing>>>,
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
        scope: Scope,
        bell: Bell,
    ) -> Self {
        Pool { net, own, tls, scope, bell, http1: Arc::default(), http2: Mutex::default() }
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
                match shared.live() {
                    Some(sender) => Ok(Lease::Http2 { sender, is_reused: true }),
                    None => Box::pin(self.connect_http2(endpoint, shared)).await,
                }
            }
        }
    }

    /// Closes what is idle: no request will follow.
    pub(crate) fn close(&self) {
        self.http1.clear();
    }

    /// Closes what was idle too long, and forgets endpoints without connections.
    pub(crate) fn tidy(&self) {
        self.http1.tidy();
        self.http2.lock().retain(|_, shared| {
            let is_live = shared.sender.lock().as_ref().is_some_and(|sender| !sender.is_closed());
            is_live || Arc::strong_count(shared) > 1
        });
    }

    /// Makes a connection; one that `upgrades` is for its request alone.
    async fn connect_http1(&self, endpoint: &Endpoint, upgrades: bool) -> Result<Lease, NoConnection> {
        let socket = in_time(endpoint, async {
            match &endpoint.transport {
                Transport::Mesh(expected) => {
                    let stream =
                        self.tls()?.connect(self.dial(endpoint).await?, expected, Spoken::Http1).await;
                    Ok(Socket::other(stream.map_err(tls_error)?))
                }
                Transport::Http1 | Transport::Http2 => Ok(Socket::Plain(self.dial(endpoint).await?)),
                Transport::Tcp | Transport::MeshTcp(..) => Err(not_http(endpoint)),
            }
        })
        .await?;
        let shelf = (!upgrades).then(|| self.http1.clone());
        Ok(Lease::Http1(Line::new(socket, endpoint.id, shelf, false)))
    }

    /// Makes the one connection of an endpoint, or waits for the request that is making it.
    async fn connect_http2(&self, endpoint: &Endpoint, shared: Arc<Shared>) -> Result<Lease, NoConnection> {
        in_time(endpoint, async {
            let _making = shared.making.lock().await;
            if let Some(sender) = shared.live() {
                return Ok(Lease::Http2 { sender, is_reused: true });
            }
            let sender = match &endpoint.transport {
                Transport::Mesh(expected) => {
                    let stream =
                        self.tls()?.connect(self.dial(endpoint).await?, expected, Spoken::Http2).await;
                    self.handshake_http2(stream.map_err(tls_error)?).await?
                }
                Transport::Http1 | Transport::Http2 => {
                    self.handshake_http2(self.dial(endpoint).await?).await?
                }
                Transport::Tcp | Transport::MeshTcp(..) => return Err(not_http(endpoint)),
            };
            *shared.sender.lock() = Some(sender.clone());
            Ok(Lease::Http2 { sender, is_reused: false })
        })
        .await
    }

    async fn handshake_http2<S>(&self, stream: S) -> io::Result<http2::SendRequest<Outgoing>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        TokioIo<S>: Read + Write,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        self.drive(connection);
        Ok(sender)
    }

    /// Runs a connection until its last sender is gone or the proxy ends; its errors reach those who wait for answers.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let ended = self.bell.rung(Level::End);
        self.scope.spawn("connection", OnFailure::Log, async move {
            tokio::select! { biased; () = ended => {}, _ = connection => {} }
            Ok(())
        });
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

    pub(crate) fn tls(&self) -> io::Result<&MeshTls> {
        self.tls.as_deref().ok_or_else(|| tls_error(io::Error::other("this proxy has no identity")))
    }
}

impl Shared {
    fn live(&self) -> Option<http2::SendRequest<Outgoing>> {
        self.sender.lock().as_ref().filter(|sender| !sender.is_closed()).cloned()
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

pub(crate) async fn in_time<T>(
    endpoint: &Endpoint,
    make: impl Future<Output = io::Result<T>>,
) -> Result<T, NoConnection> {
    let place = || format!("{} at {}:{}", endpoint.name, endpoint.host, endpoint.port);
    match tokio::time::timeout(limits::CONNECT, make).await {
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
            let details = format!("cannot connect to {} within {:?}", place(), limits::CONNECT);
            Err(NoConnection { error: ProxyError::ConnectionTimeout, details })
        }
    }
}
