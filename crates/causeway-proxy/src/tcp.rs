//! Connections of bytes: to a service of the mesh, to the sidecar's own app, to a host outside.
//!
//! In:    a client's connection, where it is to go.      Out: bytes both ways; a line when it ends.
//! Owner: a task of the proxy's `connections` scope for each, so that draining waits for it.
//! Invariant: a byte of the client is sent only to an endpoint that has taken the connection, so every failure before that may be
//! tried elsewhere; a client that is not connected, or is cut off, sees a broken connection and not an orderly end.
//! Not here: finding out where it is to go (`listen`, `detect`), moving bytes (`pump`), what sidecars say to each other (`mesh_tcp`).

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::OnFailure;
use causeway_filters::access::Wanted;
use causeway_model::Circuit;
use causeway_wire::ProxyError;
use tokio::time::Instant;

use crate::account::survey;
use crate::attempt::Terms;
use crate::balance::{Ask, Group, Pull};
use crate::bell::Level;
use crate::endpoint::{Endpoint, InFlight, Transport};
use crate::inlet::{Inlet, Way};
use crate::leg::Leg;
use crate::outlier::{self, Verdict};
use crate::plan::Service;
use crate::plan::policy::Said;
use crate::pool::{self, NoConnection};
use crate::pump::{End, Moved, pump};
use crate::settle::{self, Settle};
use crate::story::{self, Lap};
use crate::tally::Tally;
use crate::tls::Spoken;
use crate::worker::{App, Worker};
use crate::{affinity, entry, leash, limits, mesh_tcp, reason};

/// Where a connection is to go.
pub(crate) enum Target {
    /// To a service, at this port or its first.
    Service(Arc<Service>, Option<u16>),
    /// To the sidecar's app, at its main port or this further one, if the caller may.
    App(Option<u16>),
    /// To a host outside the mesh.
    Foreign(Arc<Group>),
}

/// Takes a connection over: connects it to where it is to go, and moves bytes until it ends.
pub(crate) fn start(worker: &Arc<Worker>, inlet: Inlet, client: Leg, target: Target) {
    let mut settle = settle::start_raw(worker, &Arc::new(inlet));
    let scopes = &worker.scopes;
    let ended = scopes.bell.rung(Level::End);
    scopes.connections.spawn("tcp", OnFailure::Log, async move {
        let mut client = client;
        let reached = tokio::select! {
            biased;
            () = ended => Err(NoConnection::new(ProxyError::DestinationUnavailable, "the proxy is stopping")),
            reached = answer(&mut settle, &mut client, &target) => reached,
        };
        match reached {
            Ok(service) => carry(settle, client, service).await,
            Err(none) => {
                client.break_off();
                settle.details = none.details;
                settle.done(none.error.as_str());
            }
        }
        Ok(())
    });
}

/// Writes down why a connection goes nowhere, and breaks it off.
pub(crate) fn refuse(worker: &Arc<Worker>, inlet: Inlet, client: Leg, none: NoConnection) {
    let mut settle = settle::start_raw(worker, &Arc::new(inlet));
    client.break_off();
    settle.details = none.details;
    settle.done(none.error.as_str());
}

/// Moves bytes between two legs until they end or the proxy does, and writes that down.
pub(crate) async fn carry(mut settle: Box<Settle>, mut client: Leg, mut service: Leg) {
    client.keep_alive();
    service.keep_alive();
    let worker = settle.worker.clone();
    settle.converse();
    let mut moved = Moved::default();
    let (idle, age) = limits_of(&settle);
    let oldest = age.map(|age| settle.started + age);
    let aged = async {
        match oldest {
            Some(oldest) => tokio::time::sleep_until(oldest).await,
            None => std::future::pending().await,
        }
    };
    let ended = worker.scopes.bell.rung(Level::End);
    let peer = service.take_peer();
    let (mut refusal, cut) = (None, leash::cut(&worker.shared, &settle, peer.as_deref()));
    let end = tokio::select! {
        biased;
        () = ended => None,
        cut = cut => {
            refusal = Some(cut);
            None
        }
        () = aged => Some(End::Aged),
        end = pump(&mut client, &mut service, &worker.spare, idle, &mut moved) => Some(end),
    };
    settle.bytes = moved.from_service;
    settle.carried = settle.carried.map(|_| moved.from_client);
    let trouble = match &end {
        Some(End::Orderly) => "",
        Some(End::Idle) => reason::IDLE_LIMIT,
        Some(End::Aged) => reason::TIME_LIMIT,
        Some(End::Client(error)) => {
            settle.details = format!("the client's connection broke: {error}");
            reason::CLIENT_LEFT
        }
        Some(End::Service(error)) => {
            settle.details = format!("the service's connection broke: {error}");
            reason::UPSTREAM_BROKE
        }
        None if refusal.is_some() => reason::WITHDRAWN,
        None => reason::DRAINED,
    };
    if let Some(refusal) = refusal {
        settle.withdraw(refusal);
    }
    if !trouble.is_empty() {
        client.break_off();
        service.break_off();
    }
    settle.done(trouble);
}

/// How long nothing may move, and how old it may become.
fn limits_of(settle: &Settle) -> (Option<Duration>, Option<Duration>) {
    match &settle.service {
        // What policies say of a service they say to its callers.
        Some(service) if !matches!(settle.inlet.way, Way::Inbound) => {
            let rule = settle.rule.as_deref().unwrap_or(&service.direct);
            Terms::of(rule, Some(service)).tunnel()
        }
        _ => (Some(limits::STREAM_SILENCE), None),
    }
}

/// Connects, and tells a caller on the mesh port whether that went well.
async fn answer(settle: &mut Settle, client: &mut Leg, target: &Target) -> Result<Leg, NoConnection> {
    let Target::App(port) = target else { return reach(settle, target).await };
    let reached = match admit(settle, *port) {
        Ok(service) => reach(settle, &Target::Service(service, None)).await,
        Err(none) => Err(none),
    };
    let word = match &reached {
        Ok(_) => vec![mesh_tcp::GO],
        Err(none) => mesh_tcp::refusal(none.error, &none.details),
    };
    let say = say(client, &word, reached.is_err());
    match tokio::time::timeout(limits::CONNECT, say).await {
        Ok(Ok(())) => reached,
        Ok(Err(error)) => reached.and(Err(left(&error.to_string()))),
        Err(_) => reached.and(Err(left("it takes no bytes"))),
    }
}

fn left(why: &str) -> NoConnection {
    NoConnection::new(
        ProxyError::ConnectionTerminated,
        &format!("the caller left before it was connected: {why}"),
    )
}

/// Whether the caller may have a connection to the app, and to what.
fn admit(settle: &mut Settle, port: Option<u16>) -> Result<Arc<Service>, NoConnection> {
    let worker = settle.worker.clone();
    let app = worker.shared.app.as_ref();
    let service = app.and_then(|app| app.raw.iter().find(|(taken, _)| *taken == port));
    let (_, service) = service.ok_or_else(|| {
        NoConnection::new(ProxyError::ProxyConfigurationError, "the app takes no bytes at that port")
    })?;
    let number = port.or_else(|| app.map(App::port)).unwrap_or_default();
    let inlet = settle.inlet.clone();
    let pass = entry::ask(&worker.shared, &inlet, Wanted::Bytes, number).map_err(|refusal| {
        settle.refused_policies = refusal.names;
        settle.refused_by = refusal.by;
        NoConnection::new(ProxyError::HttpRequestDenied, &refusal.details)
    })?;
    settle.pass = Some(pass);
    settle.raw_port = Some(number);
    Ok(service.clone())
}

async fn say(client: &mut Leg, word: &[u8], is_last: bool) -> io::Result<()> {
    let mut rest = word;
    while !rest.is_empty() {
        let count = poll_fn(|cx| client.poll_drain(cx, rest)).await?;
        rest = &rest[count..];
    }
    poll_fn(|cx| client.poll_flush(cx)).await?;
    if is_last {
        poll_fn(|cx| client.poll_end(cx)).await?;
    }
    Ok(())
}

// === to the service ===

/// Connects to an endpoint of the target: to another one when that fails, as long as there is one and it makes sense.
///
/// # Errors
/// Why the last one did not take the connection.
pub(crate) async fn reach(settle: &mut Settle, target: &Target) -> Result<Leg, NoConnection> {
    let worker = settle.worker.clone();
    let (group, service, port, number) = match target {
        Target::Foreign(group) => (&**group, None, None, None),
        Target::Service(service, port) => {
            settle.service = Some(service.clone());
            let is_ours = worker.shared.app.as_ref().is_some_and(|app| app.has(service));
            let group = service.raw_group(*port).map_err(|why| {
                let details = format!("Service {} {why}", service.key);
                NoConnection::new(ProxyError::ProxyConfigurationError, &details)
            })?;
            (group, Some(service), *port, (!is_ours).then_some(service.number))
        }
        Target::App(_) => unreachable!("`admit` says which service that is"),
    };
    let terms = service.filter(|_| number.is_some()).map(|service| Terms::of(&service.direct, Some(service)));
    let limit = terms.as_ref().map_or(limits::CONNECT, |terms| terms.connect);
    let circuit = service.and_then(|service| service.policy.circuit.as_ref());
    let most = circuit.and_then(|circuit| circuit.wish.connections).filter(|_| number.is_some());
    // Of all that can be hashed bytes have their source alone.
    let key = group
        .how
        .hash
        .as_ref()
        .map(|_| affinity::source(&settle.inlet.way, &settle.inlet.client, worker.shared.source_key));
    let pull = Pull { key, stay: None };
    let mut tried: Vec<u64> = Vec::new();
    loop {
        let begun = Instant::now();
        let now = worker.shared.micros(begun);
        let ask = Ask { tried: &tried, pull, now };
        let endpoint = &worker
            .pick(group, service, |service| service.raw_group(port).ok(), &ask)
            .ok_or_else(|| nobody(group))?;
        settle.attempts += 1;
        settle.endpoint = Some(endpoint.clone());
        let in_flight = settle.in_flight.insert(InFlight::new(&endpoint.vitals, now));
        let reached = match most {
            // It counts with those that are there.
            Some(most) if endpoint.vitals.load() > most => Err(full(most, circuit)),
            _ => {
                let reached = connect(&worker, endpoint, limit).await;
                in_flight.answered();
                note(&worker, number, endpoint, &reached, begun);
                reached
            }
        };
        let none = match reached {
            Ok(leg) => return Ok(leg),
            Err(none) => none,
        };
        let lap = Lap { begun, ended: Instant::now(), span: 0 };
        settle.story.attempt(endpoint, lap, story::End::Failed(none.error, &none.details));
        settle.in_flight = None;
        tried.push(endpoint.id);
        let is_final = matches!(
            none.error,
            ProxyError::HttpRequestDenied
                | ProxyError::ProxyConfigurationError
                | ProxyError::ProxyLoopDetected
        );
        let has_other = group.endpoints.iter().any(|other| !tried.contains(&other.id));
        if is_final || !has_other || tried.len() > limits::RETRIES as usize {
            if let Target::Service(service, port) = target {
                survey(settle, service, *port, worker.shared.micros(Instant::now()));
            }
            return Err(none);
        }
        if let Some(number) = number {
            worker.ledger.count(Some(number), Tally::Retry);
        }
    }
}

async fn connect(worker: &Worker, endpoint: &Endpoint, limit: Duration) -> Result<Leg, NoConnection> {
    let pool = &worker.pool;
    let Transport::MeshTcp(expected, port) = &endpoint.transport else {
        return pool::within(limit, endpoint, async {
            pool.dial(endpoint).await.map(|stream| Leg::plain(Bytes::new(), stream))
        })
        .await;
    };
    let word = pool::within(limit, endpoint, async {
        let stream = pool.tls()?.connect(pool.dial(endpoint).await?, expected, Spoken::Tcp(*port)).await;
        let (stream, peer) = stream.map_err(pool::tls_error)?;
        let mut leg = Leg::client(stream, peer);
        let word = hear(worker, &mut leg).await?;
        Ok(word.map(|()| leg))
    });
    word.await?.map_err(|none| NoConnection {
        details: format!("the sidecar of {} says: {}", endpoint.name, none.details),
        ..none
    })
}

/// What the other sidecar says of its app.
async fn hear(worker: &Worker, leg: &mut Leg) -> io::Result<Result<(), NoConnection>> {
    let mut code = [0; 2];
    read_exact(worker, leg, &mut code[..1]).await?;
    if code[0] == mesh_tcp::GO {
        return Ok(Ok(()));
    }
    read_exact(worker, leg, &mut code[1..]).await?;
    let mut words = vec![0; usize::from(code[1])];
    read_exact(worker, leg, &mut words).await?;
    Ok(Err(NoConnection::new(mesh_tcp::error(code[0]), &String::from_utf8_lossy(&words))))
}

async fn read_exact(worker: &Worker, leg: &mut Leg, into: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        match poll_fn(|cx| leg.poll_fill(cx, &worker.spare, &mut into[filled..])).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

/// Tells the endpoint's vitals how an attempt to connect ended.
fn note(
    worker: &Worker,
    number: Option<usize>,
    endpoint: &Endpoint,
    reached: &Result<Leg, NoConnection>,
    begun: Instant,
) {
    let ended = Instant::now();
    let now = worker.shared.micros(ended);
    let took = ended.saturating_duration_since(begun).as_micros() as u64;
    let verdict = match reached {
        Ok(_) => Verdict::Good,
        // That it does not let us in is no sign of ill health.
        Err(none) if none.error == ProxyError::HttpRequestDenied => return,
        Err(_) => Verdict::Unreachable,
    };
    if outlier::note(endpoint, verdict, took, now) {
        tracing::warn!(endpoint = %endpoint.name, "endpoint ejected");
        if let Some(number) = number {
            worker.ledger.count(Some(number), Tally::Ejection);
        }
    }
}

fn full(most: u32, by: Option<&Said<Circuit>>) -> NoConnection {
    let by = by.map_or("by default", |said| &*said.by);
    let details = format!("{most} connections to it are open, as many as may be ({by})");
    NoConnection::new(ProxyError::ConnectionLimitReached, &details)
}

fn nobody(group: &Group) -> NoConnection {
    match group.endpoints.is_empty() {
        true => NoConnection::new(
            ProxyError::DestinationUnavailable,
            "the service has no endpoint that takes connections",
        ),
        false => {
            NoConnection::new(ProxyError::ConnectionLimitReached, "every endpoint of the service is full")
        }
    }
}
