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

use crate::answer::Answer;
use crate::bell::Level;
use crate::body::Inflow;
use crate::inlet::Inlet;
use crate::leg::Leg;
use crate::mesh_name::mesh_names;
use crate::reason;
use crate::reply::{give, refuse};
use crate::settle::{Settle, start};
use crate::sniff::Rewound;
use crate::socket::Socket;
use crate::tcp::{self, Target};
use crate::worker::Worker;

/// Joins a client's connection and a service's, both about to change their protocol.
pub(crate) fn join(client: OnUpgrade, service: Rewound<Socket>, settle: Box<Settle>) {
    let (first, socket) = service.into_parts();
    run(settle, client, std::future::ready(Ok(Leg::behind(first, socket))));
}

/// Answers `CONNECT host:port`: a tunnel to a host outside the mesh, or to a service of it that speaks no HTTP.
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
    let target = match target(worker, &host, port).await {
        Ok(target) => target,
        Err((error, details)) => return give(settle, *refuse(error, &details)),
    };
    match tcp::reach(&mut settle, &target).await {
        Ok(service) => {
            settle.status = 200;
            run(settle, client, std::future::ready(Ok(service)));
            Response::new(Answer::ours(bytes::Bytes::new(), None))
        }
        Err(none) => give(settle, *refuse(none.error, &none.details)),
    }
}

async fn target(worker: &Worker, host: &str, port: u16) -> Result<Target, (ProxyError, String)> {
    let shared = &worker.shared;
    let Some(names) = mesh_names(host, &shared.mesh_suffix, &shared.namespace) else {
        return Ok(Target::Foreign(worker.foreign(host, port)));
    };
    let unknown = || (ProxyError::DestinationNotFound, format!("no service {host} is known to the mesh"));
    let service = shared.service_of(&names).await.ok_or_else(unknown)?;
    if service.port(Some(port)).is_some_and(|port| !port.protocol.is_raw()) {
        let details =
            format!("{host} is a service of the mesh: call it with http://{host}/, the mesh encrypts");
        return Err((ProxyError::HttpRequestError, details));
    }
    Ok(Target::Service(service, Some(port)))
}

fn run(
    settle: Box<Settle>,
    client: OnUpgrade,
    service: impl Future<Output = std::io::Result<Leg>> + Send + 'static,
) {
    let scopes = settle.worker.scopes.clone();
    let ended = scopes.bell.rung(Level::End);
    scopes.connections.spawn("tunnel", OnFailure::Log, async move {
        let both = async { Ok::<_, std::io::Error>((upgraded(client).await?, service.await?)) };
        let both = tokio::select! { biased; () = ended => None, both = both => both.ok() };
        match both {
            Some((client, service)) => tcp::carry(settle, client, service).await,
            None => settle.done(reason::TUNNEL_BROKE),
        }
        Ok(())
    });
}

async fn upgraded(connection: OnUpgrade) -> std::io::Result<Leg> {
    let connection = connection.await.map_err(std::io::Error::other)?;
    Ok(Leg::other(TokioIo::new(connection)))
}
