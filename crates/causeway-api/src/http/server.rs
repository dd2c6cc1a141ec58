//! Serves a router on a listener: HTTP/1.1 and HTTP/2, WebSockets, a bounded end.
//!
//! In:    connections.      Out: requests to the router.
//! Owner: one accept task; each connection has a task of its own.
//! Invariant: a door on loopback is [`guarded`]; when the scope ends, streams end, what is under way has [`GOODBYE_MAX`] to finish,
//! and no connection is left.
//! Not here: what is answered (the router).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use causeway_base::net::{Listener, Stream};
use causeway_base::scope::Failure;
use causeway_base::{OnFailure, Scope};
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use super::guard::guarded;

/// Connections at a time: each is a task of some 30 KiB. More wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 4096;
/// How long a request's head may take; a slower one holds a place in the bound above.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(30);
/// Requests of one HTTP/2 connection at a time.
const REQUESTS_MAX: u32 = 128;
/// How often a silent HTTP/2 connection is asked whether it lives, and for how long.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long to wait after `accept` fails (no file descriptors, mostly) before it is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long a connection may take to finish what is under way when the node stops.
pub(super) const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Serves `router` until `scope` ends. On a loopback address every request's `Host` and `Origin` is checked ([`guarded`]).
pub fn serve(mut listener: Listener, router: Router, scope: &Scope) {
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let router = if is_loopback { guarded(router) } else { router };
    let router = ending_with(router, scope);
    let connections = scope.child("connections");
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stop = scope.cancelled();
    scope.spawn("accept", OnFailure::StopNode, async move {
        tokio::pin!(stop);
        loop {
            let accepted = async {
                // Nobody closes the semaphore.
                let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>((listener.accept().await?.0, place))
            };
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    let (router, scope) = (router.clone(), connections.clone());
                    connections.spawn("connection", OnFailure::Log, async move {
                        connection(stream, router, &scope).await;
                        drop(place);
                        Ok::<(), Failure>(())
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        // The listener is closed before the connections are.
        drop(listener);
        connections.shutdown(GOODBYE_MAX * 2).await;
        Ok(())
    });
}

async fn connection(stream: Stream, router: Router, scope: &Scope) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .max_concurrent_streams(REQUESTS_MAX);
    let serving =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    tokio::select! {
        biased;
        // An end by the peer or by the network is nobody's error.
        _ = &mut serving => return,
        () = scope.cancelled() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GOODBYE_MAX, serving).await;
}

/// Ends every event stream when the scope ends: such an answer has no end of its own that could be waited for.
fn ending_with(router: Router, scope: &Scope) -> Router {
    let scope = scope.clone();
    router.layer(axum::middleware::map_response(move |response: Response| {
        let scope = scope.clone();
        async move {
            let is_stream = response
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
            if !is_stream {
                return response;
            }
            response.map(|body| Body::from_stream(body.into_data_stream().take_until(scope.cancelled())))
        }
    }))
}
