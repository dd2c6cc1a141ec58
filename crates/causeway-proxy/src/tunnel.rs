//! Bytes both ways: connections that changed their protocol, and CONNECT through a sidecar's outbound port.
//!
//! In:    two ends.      Out: their bytes, until both have ended.
//! Owner: the client's connection's task, so that draining waits for it.
//! Invariant: a tunnel ends with its proxy; it is written down when it ends.
//! Not here: mutual TLS (a tunnel through the mesh runs on a connection that has it).

use std::sync::Arc;

use bytes::Bytes;
use causeway_wire::ProxyError;
use http::{Request, Response};

use crate::answer::{Answer, Tunnel};
use crate::body::Inflow;
use crate::inlet::Inlet;
use crate::leg::Leg;
use crate::mesh_name::mesh_names;
use crate::reply::{give, refuse};
use crate::settle::start;
use crate::socket::Socket;
use crate::tcp::{self, Target};
use crate::worker::Worker;

/// Joins a client's end, of which `first` was read, with the service's.
pub(crate) async fn join(client: Socket, first: Bytes, tunnel: Tunnel) {
    tcp::carry(tunnel.settle, Leg::behind(first, client), tunnel.service).await;
}

/// Answers `CONNECT host:port`: a tunnel to a host outside the mesh, or to a service of it that speaks no HTTP.
pub(crate) async fn connect(
    worker: &Arc<Worker>,
    inlet: &Arc<Inlet>,
    request: Request<Inflow>,
) -> Response<Answer> {
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
            Response::new(Answer::tunnel(service, settle))
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
