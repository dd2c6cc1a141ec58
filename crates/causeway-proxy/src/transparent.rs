//! Connections that were on their way elsewhere and were redirected here: where each goes on to.
//!
//! In:    a connection and where it was going.      Out: requests for `listen` to serve, or bytes on their way.
//! Owner: the connection's task.
//! Invariant: a connection to a virtual address goes to its service or nowhere; one to anywhere else that the mesh does not know
//! goes where it was going, untouched.
//! Not here: redirecting (the roof asks the kernel), finding out what is spoken (`detect`), requests (`pipeline`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use causeway_base::net::Stream;
use causeway_filters::Client;
use causeway_wire::ProxyError;
use causeway_wire::sniff::Hello;

use crate::detect::{Detected, detect};
use crate::inlet::{Inlet, Way};
use crate::leg::Leg;
use crate::mesh_name::mesh_names;
use crate::plan::Service;
use crate::pool::NoConnection;
use crate::tcp::{self, Target};
use crate::virtuals::is_virtual;
use crate::worker::Worker;

/// What becomes of a connection.
#[expect(clippy::large_enum_variant, reason = "made once for a connection and taken apart at once")]
pub(crate) enum Onward {
    /// Requests are to be served on it; whether they are HTTP/2 when that is known.
    Requests { inlet: Inlet, first: Bytes, stream: Stream, is_h2: Option<bool> },
    /// It is on its way, or was refused.
    Done,
}

/// Leads a redirected connection on.
///
/// # Errors
/// Those of the connection; that it was not redirected, or was going to this very proxy.
pub(crate) async fn lead(
    worker: &Arc<Worker>,
    port: u16,
    mut stream: Stream,
    peer: SocketAddr,
) -> io::Result<Onward> {
    let shared = &worker.shared;
    let inlet = |way| Inlet::new(way, Client::new(peer.ip(), None, false), port, &worker.review);
    let original = shared.net.original_destination(&stream, peer)?;
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    shared.own.check(original)?;
    if is_virtual(original.ip()) {
        let key = shared.virtuals.service(original.ip());
        let service = match &key {
            Some(key) => shared.service(key).await,
            None => None,
        };
        let Some(service) = service else {
            let details = match key {
                Some(key) => format!("no service {key} is known to the mesh"),
                None => format!("{original} stands for no service: it was given out by an earlier proxy"),
            };
            return Ok(refuse(worker, inlet(Way::Transparent), stream, &details));
        };
        // Requests to port 80 of a name are to whatever takes requests there.
        let asked = (original.port() != 80).then_some(original.port());
        let way = Way::Upstream(service.key.clone(), asked);
        return Ok(to_service(worker, inlet(way), stream, service, asked));
    }
    if let Some(instance) = shared.plan.load().instance_at(original) {
        let way = Way::Instance(instance.clone());
        return Ok(to_service(worker, inlet(way), stream, instance, None));
    }
    let (detected, first) = detect(&mut stream, b"").await?;
    match detected {
        Detected::Http1(host) if is_of_mesh(worker, &host) => {
            let inlet = inlet(Way::Original(original));
            Ok(Onward::Requests { inlet, first, stream, is_h2: Some(false) })
        }
        Detected::Tls(hello) => {
            let client = Leg::plain(first, stream);
            by_name(worker, inlet(Way::Original(original)), client, &hello, Some(original)).await;
            Ok(Onward::Done)
        }
        Detected::Http1(_) | Detected::Http2 | Detected::Bytes => {
            let target = out(worker, original);
            tcp::start(worker, inlet(Way::Original(original)), Leg::plain(first, stream), target);
            Ok(Onward::Done)
        }
    }
}

/// Leads a TLS connection that is not ours to open by the name that its client gives: to a service of the mesh, else to where it
/// was going.
pub(crate) async fn by_name(
    worker: &Arc<Worker>,
    inlet: Inlet,
    client: Leg,
    hello: &Hello,
    original: Option<SocketAddr>,
) {
    let shared = &worker.shared;
    let name = hello.server_name.as_deref().unwrap_or("");
    let target = match (mesh_names(name, &shared.mesh_suffix, &shared.namespace), original) {
        (Some(names), _) => match shared.service_of(&names).await {
            Some(service) => Ok(Target::Service(service, original.map(|original| original.port()))),
            None => Err((ProxyError::DestinationNotFound, format!("no service {name} is known to the mesh"))),
        },
        (None, Some(original)) => Ok(out(worker, original)),
        (None, None) => {
            let details =
                format!("TLS on the port for calls out goes to services of the mesh only, not to {name:?}");
            Err((ProxyError::DestinationNotFound, details))
        }
    };
    match target {
        Ok(target) => tcp::start(worker, inlet, client, target),
        Err((error, details)) => tcp::refuse(worker, inlet, client, NoConnection { error, details }),
    }
}

/// The way out of the mesh: whoever restricts it asks here.
fn out(worker: &Worker, original: SocketAddr) -> Target {
    Target::Foreign(worker.foreign(&original.ip().to_string(), original.port()))
}

/// To a service whose protocol is declared: nothing is waited for to find it out.
fn to_service(
    worker: &Arc<Worker>,
    inlet: Inlet,
    stream: Stream,
    service: Arc<Service>,
    port: Option<u16>,
) -> Onward {
    if !service.takes_requests(port) {
        let client = Leg::plain(Bytes::new(), stream);
        tcp::start(worker, inlet, client, Target::Service(service, port));
        return Onward::Done;
    }
    Onward::Requests { inlet, first: Bytes::new(), stream, is_h2: None }
}

fn refuse(worker: &Arc<Worker>, inlet: Inlet, stream: Stream, details: &str) -> Onward {
    let none = NoConnection::new(ProxyError::DestinationNotFound, details);
    tcp::refuse(worker, inlet, Leg::plain(Bytes::new(), stream), none);
    Onward::Done
}

/// Whether a host, as a request writes it, is a name of the mesh.
fn is_of_mesh(worker: &Worker, host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    mesh_names(&name, &worker.shared.mesh_suffix, &worker.shared.namespace).is_some()
}
