//! Connections that come in: accepted, opened (TLS, HTTP/1.1 or HTTP/2), served, and finished when asked to.
//!
//! In:    addresses to open, from the doorkeeper.      Out: connections' tasks.
//! Owner: each worker has listeners of its own on the same addresses; the kernel spreads connections over them.
//! Invariant: the mesh port speaks to nobody who has not proved an identity; an HTTPS door never speaks plaintext.
//! Not here: which addresses (`doors`), what is done with a request (`pipeline`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::{BindOptions, Listener, Net, Stream};
use causeway_base::{OnFailure, Scope};
use causeway_filters::Client;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, watch};
use tokio::time::error::Elapsed;

use crate::bell::Level;
use crate::detect::{Detected, detect};
use crate::inlet::{Inlet, Way};
use crate::leg::Leg;
use crate::limits;
use crate::mesh_stream::MeshStream;
use crate::sniff::{self, Rewound};
use crate::socket::Socket;
use crate::tally::Tally;
use crate::tcp::{self, Target};
use crate::tls::Spoken;
use crate::transparent::{self, Onward};
use crate::worker::Worker;
use crate::{h1, http2};

/// After an error of `accept` (out of file descriptors): long enough for connections to end, short enough to be missed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An address to listen on.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub address: SocketAddr,
    pub way: Way,
}

/// What a worker says of an opening.
pub(crate) type Opened = (SocketAddr, Result<(), String>);

/// Keeps a worker's listeners as the doorkeeper wants them.
pub(crate) async fn keep(
    worker: Arc<Worker>,
    mut wanted: watch::Receiver<Arc<Vec<Opening>>>,
    opened: mpsc::UnboundedSender<Opened>,
) {
    let mut open: BTreeMap<SocketAddr, Scope> = BTreeMap::new();
    let stopped = worker.scopes.accept.cancelled();
    tokio::pin!(stopped);
    loop {
        let openings = wanted.borrow_and_update().clone();
        open.retain(|address, scope| {
            let is_wanted = openings.iter().any(|opening| opening.address == *address);
            if !is_wanted {
                scope.cancel();
            }
            is_wanted
        });
        for opening in openings.iter() {
            let Entry::Vacant(place) = open.entry(opening.address) else { continue };
            let result = open_one(&worker, opening).map(|scope| {
                place.insert(scope);
            });
            // The doorkeeper may be gone at shutdown.
            let _ = opened.send((opening.address, result.map_err(|error| error.to_string())));
        }
        tokio::select! {
            biased;
            () = &mut stopped => break,
            changed = wanted.changed() => if changed.is_err() { break },
        }
    }
}

fn open_one(worker: &Arc<Worker>, opening: &Opening) -> io::Result<Scope> {
    let share_port = matches!(worker.shared.net, Net::Tcp(_));
    let listener = worker.shared.net.bind(opening.address, BindOptions { share_port })?;
    let listeners = match opening.way {
        Way::Inbound => &worker.scopes.arrive,
        _ => &worker.scopes.accept,
    };
    let scope = listeners.child("listener");
    let (worker, opening, stop) = (worker.clone(), opening.clone(), scope.cancelled());
    scope.spawn("accept", OnFailure::Log, async move {
        let accepting = accept(&worker, &opening, listener);
        tokio::select! { biased; () = stop => {}, () = accepting => {} }
        Ok(())
    });
    Ok(scope)
}

async fn accept(worker: &Arc<Worker>, opening: &Opening, mut listener: Listener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (worker, opening) = (worker.clone(), opening.clone());
                let connections = worker.scopes.connections.clone();
                connections.spawn("in", OnFailure::Log, async move {
                    serve_connection(worker, opening, stream, peer).await;
                    Ok(())
                });
            }
            Err(error) => {
                tracing::warn!(%error, address = %opening.address, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(worker: Arc<Worker>, opening: Opening, stream: Stream, peer: SocketAddr) {
    let ended = worker.scopes.bell.rung(Level::End);
    tokio::select! {
        biased;
        // First, so that a tunnel that ends because everything does can say so.
        served = open_and_serve(worker, opening, stream, peer) => {
            if let Err(error) = served {
                tracing::debug!(%error, %peer, "connection ended");
            }
        }
        () = ended => {}
    }
}

/// The end of a handshake; one that failed is counted.
fn handshake<T>(worker: &Worker, accepted: Result<io::Result<T>, Elapsed>) -> io::Result<T> {
    let accepted = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    accepted.inspect_err(|_| worker.ledger.count(None, Tally::HandshakeFailure))
}

async fn open_and_serve(
    worker: Arc<Worker>,
    opening: Opening,
    stream: Stream,
    peer: SocketAddr,
) -> io::Result<()> {
    let port = opening.address.port();
    match opening.way.clone() {
        Way::Inbound => {
            let tls = worker.shared.tls.clone().ok_or_else(|| io::Error::other("no identity yet"))?;
            let accepted = tokio::time::timeout(limits::HANDSHAKE, tls.accept(stream)).await;
            let (stream, proven, spoken) = handshake(&worker, accepted)?;
            let inlet = Inlet::mesh(peer.ip(), proven.clone(), port, &worker.review);
            let held = |stream| Socket::other(MeshStream::new(stream, proven, &tls, &worker.review));
            match spoken {
                Spoken::Http1 => serve_http(worker.clone(), inlet, held(stream), Some(false)).await,
                Spoken::Http2 => serve_http(worker.clone(), inlet, held(stream), Some(true)).await,
                Spoken::Tcp(asked) => {
                    tcp::start(&worker, inlet, Leg::server(stream), Target::App(asked));
                    Ok(())
                }
            }
        }
        Way::Gateway(address) => {
            let plan = worker.shared.plan.load_full();
            let door = plan.rules.doors.iter().find(|door| door.address == address);
            let door = door.ok_or_else(|| io::Error::other("the listener was taken away"))?;
            let is_tls = door.tls.is_some();
            let inlet = Inlet::new(opening.way, Client::new(peer.ip(), None, is_tls), port, &worker.review);
            match door.tls.clone() {
                Some(tls) => {
                    drop(plan);
                    let accepted = tokio::time::timeout(limits::HANDSHAKE, tls.accept(stream)).await;
                    let (stream, is_h2) = handshake(&worker, accepted)?;
                    serve_http(worker, inlet, Socket::other(stream), Some(is_h2)).await
                }
                None => {
                    drop(plan);
                    serve_http(worker, inlet, Socket::Plain(stream), None).await
                }
            }
        }
        Way::Upstream(key, asked) => {
            let inlet = Inlet::new(opening.way, Client::new(peer.ip(), None, false), port, &worker.review);
            // Of a service that nobody knows yet nothing is known but that requests for it are answered so.
            let service = Box::pin(worker.shared.service(&key)).await;
            match service.filter(|service| !service.takes_requests(asked)) {
                Some(service) => {
                    let target = Target::Service(service, asked);
                    tcp::start(&worker, inlet, Leg::plain(Bytes::new(), stream), target);
                    Ok(())
                }
                None => serve_http(worker, inlet, Socket::Plain(stream), None).await,
            }
        }
        Way::Outbound => {
            let inlet = Inlet::new(opening.way, Client::new(peer.ip(), None, false), port, &worker.review);
            let Some((is_h2, first, mut stream)) = sniff_one(&worker, stream).await? else { return Ok(()) };
            if first.first() == Some(&sniff::TLS) {
                let (Detected::Tls(hello), first) = detect(&mut stream, &first).await? else { return Ok(()) };
                transparent::by_name(&worker, inlet, Leg::plain(first, stream), &hello, None).await;
                return Ok(());
            }
            serve_known(worker, inlet, first, Socket::Plain(stream), is_h2).await
        }
        Way::Transparent => match Box::pin(transparent::lead(&worker, port, stream, peer)).await? {
            Onward::Done => Ok(()),
            Onward::Requests { inlet, first, stream, is_h2: Some(is_h2) } => {
                serve_known(worker, inlet, first, Socket::Plain(stream), is_h2).await
            }
            Onward::Requests { inlet, stream, is_h2: None, .. } => {
                serve_http(worker, inlet, Socket::Plain(stream), None).await
            }
        },
        Way::Original(_) | Way::Instance(_) => Err(io::Error::other("a connection's way, and no listener's")),
    }
}

/// Serves HTTP on a connection until it ends or everything is asked to finish. `is_h2` is known from ALPN, else found out.
async fn serve_http(
    worker: Arc<Worker>,
    inlet: Inlet,
    socket: Socket,
    is_h2: Option<bool>,
) -> io::Result<()> {
    match is_h2 {
        Some(is_h2) => serve_known(worker, inlet, Bytes::new(), socket, is_h2).await,
        None => match sniff_one(&worker, socket).await? {
            Some((is_h2, first, socket)) => serve_known(worker, inlet, first, socket, is_h2).await,
            None => Ok(()),
        },
    }
}

/// Waits for the first bytes of a connection; nothing when it is to finish before it began.
async fn sniff_one<S: AsyncRead + Unpin>(worker: &Worker, stream: S) -> io::Result<Option<(bool, Bytes, S)>> {
    tokio::select! {
        biased;
        () = worker.scopes.bell.rung(Level::Finish) => Ok(None),
        sniffed = sniff::sniff(stream) => sniffed.map(Some),
    }
}

async fn serve_known(
    worker: Arc<Worker>,
    inlet: Inlet,
    first: Bytes,
    socket: Socket,
    is_h2: bool,
) -> io::Result<()> {
    match is_h2 {
        true if first.is_empty() => Box::pin(http2::server::serve(worker, inlet, socket)).await,
        true => {
            let socket = Socket::other(Rewound::new(first, socket));
            Box::pin(http2::server::serve(worker, inlet, socket)).await
        }
        false => Box::pin(h1::serve(worker, Arc::new(inlet), socket, first)).await,
    }
}
