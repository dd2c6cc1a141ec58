//! The control port: TLS on, who it is asked, and the streams of `causeway-xds` behind it.
//!
//! In:    connections of proxies.      Out: HTTP/2 requests with the proven [`Peer`] in their extensions.
//! Owner: one accept task; each connection has a task of its own.
//! Invariant: nothing is served before the handshake is done; a connection without a certificate can only have a request signed;
//! a connection ends when its certificate does, or is revoked.
//! Not here: what is said on the streams (`causeway-xds`), who may have which certificate ([`crate::signer`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use causeway_base::net::{Listener, Stream};
use causeway_base::scope::Failure;
use causeway_base::{Clock, OnFailure, Scope};
use causeway_identity::{Peer as Certified, peer};
use causeway_model::Timestamp;
use causeway_registry::Registry;
use causeway_xds::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Peer, Proven};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Longest handshake; a peer that is slower holds a place in the next bound.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes at a time: each costs about 0.2 ms of a core, so that this many are done in a tenth of a second.
const HANDSHAKES_MAX: usize = 512;
/// Streams of one connection: a proxy has a handful.
const STREAMS_MAX: u32 = 64;
/// How long to wait after `accept` fails (no file descriptors, mostly) before it is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long a connection may take to finish what is under way when the node stops.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// What the control port needs.
#[derive(Clone)]
pub struct Control {
    /// TLS with an optional client certificate (`identity::control_server_config`).
    pub tls: Arc<ServerConfig>,
    /// The services behind it (`Signals::routes`).
    pub routes: Router,
    /// Who is asked whether a certificate is revoked.
    pub registry: Registry,
    /// The time.
    pub clock: Clock,
}

impl Control {
    /// Accepts connections until `scope` ends.
    pub fn serve(self, mut listener: Listener, scope: &Scope) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let connections = scope.child("connections");
        let stop = scope.cancelled();
        scope.spawn("accept", OnFailure::StopNode, async move {
            tokio::pin!(stop);
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = &mut stop => return Ok::<(), Failure>(()),
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, from)) => {
                        let (door, handshakes, scope) =
                            (self.clone(), handshakes.clone(), connections.clone());
                        connections.spawn("connection", OnFailure::Log, async move {
                            door.connection(stream, from, &handshakes, &scope).await;
                            Ok(())
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control port cannot accept a connection");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        });
    }

    async fn connection(&self, stream: Stream, from: SocketAddr, handshakes: &Semaphore, scope: &Scope) {
        let handshake = async {
            let _place = handshakes.acquire().await.ok()?;
            match tokio::time::timeout(HANDSHAKE_MAX, TlsAcceptor::from(self.tls.clone()).accept(stream))
                .await
            {
                Ok(Ok(stream)) => Some(stream),
                Ok(Err(error)) => {
                    tracing::info!(%from, %error, "a connection to the control port was refused");
                    None
                }
                Err(_) => None,
            }
        };
        let Some(stream) = handshake.await else { return };
        let proven = peer(stream.get_ref().1);
        let life = proven
            .as_ref()
            .map_or(HANDSHAKE_MAX * 6, |peer| peer.not_after.since(Timestamp::from(self.clock.now())));
        let certificate = proven.clone();
        let identity = Peer(proven.map(|peer| Proven { spiffe: peer.id, serial: peer.serial }));
        let routes = self.routes.clone().layer(axum::Extension(identity));
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
        tokio::pin!(serving);
        tokio::select! {
            biased;
            // Before anything is served, and at once: a revoked peer gets no last word, and no new certificate by it.
            () = self.revoked(certificate.as_ref()) => {
                tracing::warn!(%from, "a connection's certificate was revoked");
                return;
            }
            () = scope.cancelled() => {}
            () = tokio::time::sleep(life) => tracing::info!(%from, "a connection's certificate has ended"),
            // An end by the peer or by the network is nobody's error; the streams' owners have noticed.
            _ = &mut serving => return,
        }
        serving.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(GOODBYE_MAX, serving).await;
    }

    /// Resolves when the certificate is revoked.
    async fn revoked(&self, certificate: Option<&Certified>) {
        let Some(Certified { id, serial, not_before, .. }) = certificate else {
            return std::future::pending().await;
        };
        let mut changes = self.registry.watch();
        let is_revoked =
            changes.wait_for(|picture| picture.revocations().revokes(serial, &id.service, *not_before));
        if is_revoked.await.is_err() {
            std::future::pending().await
        }
    }
}
