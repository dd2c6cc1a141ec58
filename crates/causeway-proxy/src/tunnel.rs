//! Bytes both ways: connections that changed their protocol, and CONNECT through a sidecar's outbound port.
//!
//! In:    two ends.      Out: their bytes, until both have ended.
//! Owner: a task of the proxy's `connections` scope, so that draining waits for it.
//! Invariant: a tunnel ends with its proxy; it is written down when it ends.
//! Not here: mutual TLS (a tunnel through the mesh runs on a connection that has it).

use std::sync::Arc;

use causeway_base::OnFailure;
use causeway_wire::ProxyError;
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use crate::answer::Answer;
use crate::bell::Level;
use crate::body::Inflow;
use crate::inlet::Inlet;
use crate::limits;
use crate::mesh_name::mesh_names;
use crate::own::OwnAddresses;
use crate::reason;
use crate::reply::{give, refuse};
use crate::settle::{Settle, start};
use crate::sniff::Rewound;
use crate::socket::Socket;
use crate::worker::Worker;

/// Copied at a time in each direction.
const COPY_BYTES: usize = 32 * 1024;

/// Joins a client's connection and a service's, both about to change their protocol.
pub(crate) fn join(client: OnUpgrade, service: Rewound<Socket>, settle: Box<Settle>) {
    run(settle, client, async move { Ok(service) });
}

/// Answers `CONNECT host:port`: a tunnel to a host outside the mesh.
pub(crate) async fn connect(
    worker: &Arc<Worker>,
    inlet: &Arc<Inlet>,
    mut request: Request<Inflow>,
) -> Response<Answer> {
    let client = hyper::upgrade::on(&mut request);
    let mut settle = start(worker, inlet, &request);
    let authority = request.uri().authority().map(|a| (a.host().to_owned(), a.port_u16()));
    let Some((host, Some(port))) = authority else {
        return give(settle, *refuse(ProxyError::HttpRequestError, "CONNECT needs host:port"));
    };
    if mesh_names(&host, &worker.shared.mesh_suffix, &worker.shared.namespace).is_some() {
        let details =
            format!("{host} is a service of the mesh: call it with http://{host}/, the mesh encrypts");
        return give(settle, *refuse(ProxyError::HttpRequestError, &details));
    }
    let dialed = tokio::time::timeout(limits::CONNECT, worker.pool.dial_foreign(&host, port)).await;
    match dialed {
        Ok(Ok(stream)) => {
            settle.status = 200;
            run(settle, client, async move { Ok(stream) });
            Response::new(Answer::ours(bytes::Bytes::new(), None))
        }
        Ok(Err(error)) if OwnAddresses::is_refusal(&error) => {
            give(settle, *refuse(ProxyError::ProxyLoopDetected, &error.to_string()))
        }
        Ok(Err(error)) => {
            let details = format!("cannot connect to {host}:{port}: {error}");
            give(settle, *refuse(ProxyError::ConnectionRefused, &details))
        }
        Err(_) => {
            let details = format!("cannot connect to {host}:{port} within {:?}", limits::CONNECT);
            give(settle, *refuse(ProxyError::ConnectionTimeout, &details))
        }
    }
}

fn run<S>(
    mut settle: Box<Settle>,
    client: OnUpgrade,
    service: impl Future<Output = std::io::Result<S>> + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let scopes = settle.worker.scopes.clone();
    let ended = scopes.bell.rung(Level::End);
    scopes.connections.spawn("tunnel", OnFailure::Log, async move {
        let copy = async {
            let (client, mut service) = (client.await.map_err(std::io::Error::other)?, service.await?);
            let mut client = TokioIo::new(client);
            copy_bidirectional_with_sizes(&mut client, &mut service, COPY_BYTES, COPY_BYTES).await
        };
        let copied = tokio::select! {
            biased;
            () = ended => Err(std::io::ErrorKind::Interrupted.into()),
            copied = copy => copied,
        };
        let trouble = match copied {
            Ok((_, to_client)) => {
                settle.bytes = to_client;
                ""
            }
            Err(_) => reason::TUNNEL_BROKE,
        };
        settle.done(trouble);
        Ok(())
    });
}
