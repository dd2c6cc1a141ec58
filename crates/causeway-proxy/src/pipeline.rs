//! The way of a request: accept -> parse -> route -> request filters -> pick -> checkout -> send -> response filters -> record.
//!
//! In:    a request and the connection it came on.      Out: an answer, always.
//! Owner: the connection's task.
//! Invariant: what is routed, authorised, written down and sent is one canonical form; every failure of ours says so in
//! `Proxy-Status`.
//! Not here: connections that came in (`listen`), attempts (`attempt`), tunnels (`tunnel`).

use std::pin::pin;
use std::sync::Arc;

use causeway_filters::Exchange;
use causeway_filters::access::{Refusal, Wanted};
use causeway_wire::authority::Authority;
use causeway_wire::trace::{self, REQUEST_ID, TRACEPARENT};
use causeway_wire::{Ambiguous, ProxyError, hop, path};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body as _;
use tokio::time::Instant;

use crate::account::survey;
use crate::admission::admit;
use crate::affinity;
use crate::answer::Answer;
use crate::attempt::{Deadline, Delivery, Replay, Terms, deliver};
use crate::balance::Group;
use crate::body::Inflow;
use crate::endpoint::Micros;
use crate::entry;
use crate::h1::Reply;
use crate::inlet::{Inlet, Way};
use crate::leash::{Held, Running};
use crate::leg::Leg;
use crate::limits;
use crate::mesh_name::mesh_names;
use crate::mirror;
use crate::outgoing::Head;
use crate::plan::{Plan, Rule, Service};
use crate::reply::{Refused, give, refuse};
use crate::review::Leash;
use crate::routes::Query;
use crate::settle::{Settle, start};
use crate::tally::Tally;
use crate::trace::Trace;
use crate::upload::Upload;
use crate::worker::Worker;

/// A request on its way, and what is known of it.
struct Passage {
    parts: request::Parts,
    settle: Box<Settle>,
    /// The target named its host itself, as requests to a forward proxy do.
    is_absolute: bool,
    /// The client asks to change the protocol of its connection.
    upgrade: Option<HeaderValue>,
    /// Which of the rule's backends was chosen.
    choice: Option<u32>,
    /// What keeps the client with the endpoint that answered.
    keep: Option<Box<(HeaderName, HeaderValue)>>,
}

/// Where a request goes.
struct Route {
    rule: Arc<Rule>,
    matched: usize,
    target: Target,
}

/// Where it goes exactly, and on what terms.
struct Call<'a> {
    service: Option<&'a Arc<Service>>,
    port: Option<u16>,
    terms: Terms<'a>,
    deadline: Option<Deadline>,
}

enum Target {
    /// One of the rule's backends.
    ByRule,
    /// This service.
    Service(Arc<Service>, Option<u16>),
    /// A host outside the mesh.
    Foreign(Arc<Group>),
}

/// Answers one request.
///
/// # Cancel safety
/// Dropping the future cancels the request towards the service too, and settles it.
pub(crate) async fn serve(
    worker: &Arc<Worker>,
    inlet: &Arc<Inlet>,
    request: Request<Inflow>,
) -> Response<Answer> {
    let (mut passage, body) = accept(worker, inlet, request);
    match pass(worker, inlet, &mut passage, body).await {
        Ok(response) => record(passage, response),
        Err(reply) => give(passage.settle, *reply),
    }
}

async fn pass(
    worker: &Arc<Worker>,
    inlet: &Inlet,
    passage: &mut Passage,
    body: Upload,
) -> Result<Response<Inflow>, Refused> {
    parse(passage)?;
    mark(worker, inlet, passage)?;
    if passage.parts.method == Method::CONNECT {
        return Err(refuse(
            ProxyError::HttpRequestError,
            "CONNECT is taken only by a sidecar's outbound port",
        ));
    }
    let route = route(worker, inlet, passage).await?;
    request_filters(worker, inlet, passage, &route).await?;
    let (service, port) = destination(worker, passage, &route).await?;
    let call = call(worker, passage, &route, service.as_ref(), port)?;
    let Passage { parts, settle, .. } = passage;
    let deadline = call.deadline.map(|deadline| deadline.at);
    admit(worker, parts, settle, &route.rule, call.service, deadline).await?;
    let call_of = Running::new(&passage.settle);
    let sent = Held::new(pin!(send(worker, passage, &route, &call, body)), call_of).await;
    let mut response = sent.map_err(|refusal| withdrawn(passage, refusal))??;
    response_filters(passage, &route, &mut response);
    Ok(response)
}

// === accept ===

fn accept(worker: &Arc<Worker>, inlet: &Arc<Inlet>, request: Request<Inflow>) -> (Passage, Upload) {
    let is_upgrade = request.headers().contains_key(UPGRADE)
        && request.version() == Version::HTTP_11
        // With a body, readers could differ on where the other protocol begins.
        && request.body().is_end_stream();
    let upgrade = is_upgrade.then(|| hop::upgrade(request.headers())).flatten();
    let settle = start(worker, inlet, &request);
    let (parts, body) = request.into_parts();
    let is_absolute = parts.uri.authority().is_some();
    let body = Upload::new(body, &parts.headers, &worker.scopes.connections);
    (Passage { parts, settle, is_absolute, upgrade, choice: None, keep: None }, body)
}

// === parse ===

/// Brings the request into its one form.
fn parse(passage: &mut Passage) -> Result<(), Refused> {
    let Passage { parts, settle, .. } = passage;
    read_form(parts, &settle.inlet.way).map_err(|why| {
        let mut reply = refuse(ProxyError::HttpRequestError, &why.to_string());
        if parts.version < Version::HTTP_2 {
            reply.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    })?;
    settle.path = parts.uri.path_and_query().cloned();
    settle.host = parts.headers.get(HOST).cloned();
    hop::strip(&mut parts.headers);
    hop::strip_disguised(&mut parts.headers);
    identify(parts, settle);
    Ok(())
}

fn read_form(parts: &mut request::Parts, way: &Way) -> Result<(), Ambiguous> {
    if parts.version > Version::HTTP_11 {
        hop::check_framing(&parts.headers)?;
    }
    let authority = Authority::of_request(&parts.uri, &parts.headers)?;
    let is_foreign_form = matches!(way, Way::Outbound) && parts.uri.authority().is_some();
    let field = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if parts.uri.authority().is_some() || !authority.is_canonical(field) {
        let host = match authority.port {
            Some(port) => format!("{}:{port}", authority.host),
            None => authority.host.clone().into_owned(),
        };
        let host = HeaderValue::try_from(host).map_err(|_| Ambiguous::BadHost)?;
        parts.headers.insert(HOST, host);
    }
    let target = parts.uri.path_and_query().ok_or(Ambiguous::BadTarget)?;
    let canonical = path::canonical(target.path());
    match canonical {
        Ok(std::borrow::Cow::Borrowed(_)) => {
            if parts.uri.authority().is_some() {
                parts.uri = Uri::from(target.clone());
            }
        }
        Ok(std::borrow::Cow::Owned(path)) => {
            let text = match target.query() {
                Some(query) => format!("{path}?{query}"),
                None => path,
            };
            parts.uri = Uri::from(PathAndQuery::try_from(text).map_err(|_| Ambiguous::BadTarget)?);
        }
        // The path of a foreign host is not ours to judge; the mesh's names are checked when they are found to be such.
        Err(_) if is_foreign_form => parts.uri = Uri::from(target.clone()),
        Err(why) => return Err(why),
    }
    Ok(())
}

/// Writes down in `Via` that the request passes here, and ends one that goes in a circle. Between the caller's side of the mesh and
/// the app's lies no way back, so the app's side writes nothing.
fn mark(worker: &Worker, inlet: &Inlet, passage: &mut Passage) -> Result<(), Refused> {
    if matches!(inlet.way, Way::Inbound) {
        return Ok(());
    }
    let Passage { parts, .. } = passage;
    if worker.pseudonym.is_circle(&parts.headers) {
        let details = "the request goes in a circle: it has passed this proxy several times (see Via)";
        return Err(refuse(ProxyError::ProxyLoopDetected, details));
    }
    worker.pseudonym.add(&mut parts.headers, parts.version);
    Ok(())
}

/// Gives the request its id and trace, unless it has them.
pub(crate) fn identify(parts: &mut request::Parts, settle: &mut Settle) {
    let seed = settle.worker.seed();
    let known = parts.headers.get_mut(&REQUEST_ID).filter(|id| trace::is_request_id(id)).map(mark_once);
    let traced = parts.headers.get_mut(&TRACEPARENT).filter(|parent| trace::trace_id(parent).is_some());
    let traced = traced.map(mark_once);
    let is_kept = if traced.is_none() { settle.worker.sampler.begins(seed.u64()) } else { None };
    if known.is_none() || is_kept.is_some() {
        let random = [seed.u64(), seed.u64(), seed.u64()];
        let (id, parent) = trace::new_trace(random, is_kept == Some(true));
        if let Some(is_kept) = is_kept {
            parts.headers.insert(&TRACEPARENT, parent.clone());
            settle.trace = Trace::begin(parent, is_kept);
        }
        if known.is_none() {
            parts.headers.insert(&REQUEST_ID, id.clone());
            settle.request_id = Some(id);
        }
    }
    if known.is_some() {
        settle.request_id = known;
    }
    if let Some(parent) = traced {
        let sampler = &settle.worker.sampler;
        settle.trace = Trace::follow(&parts.headers, parent, sampler, seed.u64());
    }
    if settle.trace.kept().is_some() {
        settle.story.tell_all();
        // In front of its app a sidecar has no attempts of its own: the app is called under the request's span.
        if matches!(settle.inlet.way, Way::Inbound) {
            settle.trace.stamp(&mut parts.headers, |kept| kept.span);
        }
    }
}

/// A value that no second message will have: HTTP/2 is not to remember it (see `trace`).
fn mark_once(value: &mut HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value.clone()
}

// === route ===

async fn route(worker: &Worker, inlet: &Inlet, passage: &mut Passage) -> Result<Route, Refused> {
    let route = match &inlet.way {
        Way::Gateway(door) => route_at_gateway(&worker.shared.plan.load(), *door, &passage.parts)?,
        Way::Inbound => {
            let app = worker.shared.app.as_ref().ok_or_else(|| {
                refuse(ProxyError::DestinationUnavailable, "this sidecar has no app that takes calls")
            })?;
            let target = Target::Service(app.service.clone(), None);
            Route { rule: app.service.direct.clone(), matched: 0, target }
        }
        Way::Instance(service) => {
            let target = Target::Service(service.clone(), None);
            Route { rule: service.direct.clone(), matched: 0, target }
        }
        Way::Upstream(key, port) => {
            let service = worker.shared.service(key).await.ok_or_else(|| unknown(&key.to_string()))?;
            route_in_mesh(&worker.shared.plan.load(), service, *port, &passage.parts)?
        }
        Way::Outbound | Way::Transparent | Way::Original(_) => route_out(worker, passage).await?,
    };
    passage.settle.rule = Some(route.rule.clone());
    Ok(route)
}

fn route_at_gateway(
    plan: &Plan,
    door: std::net::SocketAddr,
    parts: &request::Parts,
) -> Result<Route, Refused> {
    let authority = host_of(parts);
    let host = authority.as_ref().map_or("", |authority| authority.host.as_ref());
    let door = plan.rules.doors.iter().find(|candidate| candidate.address == door);
    let hit = door.and_then(|door| door.listener(host)).and_then(|l| l.routes.find(&query(parts, host)));
    match hit {
        Some(hit) => Ok(Route { rule: hit.rule.clone(), matched: hit.matched, target: Target::ByRule }),
        None => Err(refuse(ProxyError::DestinationNotFound, "no route matches this request")),
    }
}

fn route_in_mesh(
    plan: &Plan,
    service: Arc<Service>,
    port: Option<u16>,
    parts: &request::Parts,
) -> Result<Route, Refused> {
    let query = query(parts, "");
    let Some(hit) = plan.mesh_rule(&service, port, &query) else {
        let details = format!("no rule of the routes of {} matches this request", service.key);
        return Err(refuse(ProxyError::DestinationNotFound, &details));
    };
    let (rule, matched) = (hit.rule.clone(), hit.matched);
    let target = match Arc::ptr_eq(&rule, &service.direct) {
        true => Target::Service(service, port),
        false => Target::ByRule,
    };
    Ok(Route { rule, matched, target })
}

async fn route_out(worker: &Worker, passage: &Passage) -> Result<Route, Refused> {
    let Passage { parts, is_absolute, .. } = passage;
    let authority = host_of(parts).ok_or_else(|| refuse(ProxyError::HttpRequestError, "no host"))?;
    let port = authority.port;
    let Some(names) = mesh_names(&authority.host, &worker.shared.mesh_suffix, &worker.shared.namespace)
    else {
        if let Way::Original(original) = &passage.settle.inlet.way {
            let group = worker.foreign(&original.ip().to_string(), original.port());
            return Ok(Route { rule: Arc::default(), matched: 0, target: Target::Foreign(group) });
        }
        // A request in origin form is meant for us: a web page's, a health check's, our own that came back.
        if !is_absolute {
            let details = format!(
                "this is the sidecar's port for calls out: name a service (Host: NAME{}) or use it as an HTTP proxy",
                worker.shared.mesh_suffix
            );
            return Err(refuse(ProxyError::HttpRequestError, &details));
        }
        let group = worker.foreign(&authority.host, port.unwrap_or(80));
        return Ok(Route { rule: Arc::default(), matched: 0, target: Target::Foreign(group) });
    };
    if let Err(why) = path::canonical(parts.uri.path()) {
        return Err(refuse(ProxyError::HttpRequestError, &why.to_string()));
    }
    let service = worker.shared.service_of(&names).await;
    let service = service.ok_or_else(|| unknown(&authority.host))?;
    route_in_mesh(&worker.shared.plan.load(), service, port.filter(|port| *port != 80), parts)
}

fn host_of(parts: &request::Parts) -> Option<Authority<'_>> {
    Some(Authority::of_canonical(parts.headers.get(HOST)?.to_str().ok()?))
}

fn query<'a>(parts: &'a request::Parts, host: &'a str) -> Query<'a> {
    Query {
        host,
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
    }
}

// === request filters ===

async fn request_filters(
    worker: &Worker,
    inlet: &Inlet,
    passage: &mut Passage,
    route: &Route,
) -> Result<(), Refused> {
    let Passage { parts, settle, .. } = passage;
    let mut exchange =
        Exchange { request: parts, client: &inlet.client, matched: route.matched, port: inlet.port };
    if let Some(why) = &route.rule.broken {
        return Err(refuse(ProxyError::ProxyConfigurationError, why));
    }
    let shared = &worker.shared;
    if let (Way::Inbound, Some(app)) = (&inlet.way, &shared.app) {
        let request = &exchange.request;
        let wanted = Wanted::Request { method: request.method.as_str(), path: request.uri.path() };
        settle.leash = Some(Leash::new(&inlet.watch));
        settle.pass = Some(entry::ask(shared, inlet, wanted, app.port()).map_err(|refusal| {
            settle.refused_policies = refusal.names.clone();
            refusal.into_reply()
        })?);
    }
    let first = match &inlet.way {
        Way::Gateway(_) => &shared.edge,
        Way::Inbound => &shared.app.as_ref().expect("routing found an app").filters,
        Way::Outbound | Way::Upstream(..) | Way::Transparent | Way::Original(_) | Way::Instance(_) => {
            &shared.outgoing
        }
    };
    for chain in [first, &route.rule.filters] {
        if chain.is_empty() {
            continue;
        }
        if let Some(reply) = causeway_filters::run(chain, &mut exchange).await {
            return Err(reply);
        }
    }
    Ok(())
}

/// The caller may no longer have what it waits for.
fn withdrawn(passage: &mut Passage, refusal: Refusal) -> Refused {
    passage.settle.withdraw(refusal.clone());
    Box::new(refusal.into_reply())
}

// === to the service ===

/// The service that the request goes to; for a rule with several backends, one of them, by weight.
async fn destination(
    worker: &Worker,
    passage: &mut Passage,
    route: &Route,
) -> Result<(Option<Arc<Service>>, Option<u16>), Refused> {
    let Passage { parts, settle, choice: chosen_at, .. } = passage;
    let configuration = |why: &str| refuse(ProxyError::ProxyConfigurationError, why);
    match &route.target {
        Target::Foreign(_) => Ok((None, None)),
        Target::Service(service, port) => {
            settle.service = Some(service.clone());
            Ok((Some(service.clone()), *port))
        }
        Target::ByRule => {
            let kept = affinity::backend(&worker.shared.plan.load(), &route.rule, &parts.headers);
            let chosen = kept.or_else(|| route.rule.choose(&worker.seed()));
            let chosen = chosen.ok_or_else(|| configuration("the rule has no backend with weight"))?;
            *chosen_at = u32::try_from(chosen).ok();
            let choice = &route.rule.choices[chosen];
            if let Some(why) = &choice.broken {
                return Err(configuration(why));
            }
            let missing = || configuration(&format!("backend {} is not there", choice.service));
            let service = worker.shared.service(&choice.service).await.ok_or_else(missing)?;
            settle.service = Some(service.clone());
            if !choice.filters.is_empty() {
                let (client, port) = (&settle.inlet.client, settle.inlet.port);
                let mut exchange = Exchange { request: parts, client, matched: route.matched, port };
                if let Some(reply) = causeway_filters::run(&choice.filters, &mut exchange).await {
                    return Err(reply);
                }
            }
            Ok((Some(service), choice.port))
        }
    }
}

/// Whether what follows an answer's head is a conversation (an upgraded connection, server-sent events).
fn waits(response: &Response<Inflow>) -> bool {
    let is_of_events = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/event-stream");
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || response.headers().get(CONTENT_TYPE).is_some_and(is_of_events)
}

/// The terms of a call, unless its time is over already.
fn call<'a>(
    worker: &Worker,
    passage: &Passage,
    route: &'a Route,
    service: Option<&'a Arc<Service>>,
    port: Option<u16>,
) -> Result<Call<'a>, Refused> {
    let Passage { parts, settle, .. } = passage;
    let terms = match settle.inlet.way {
        Way::Inbound => Terms::inbound(&route.rule),
        _ => Terms::of(&route.rule, service.map(|service| &**service)),
    };
    let deadline = Deadline::of(&terms, &parts.headers, settle.started);
    if deadline.is_some_and(|deadline| deadline.at <= settle.started) {
        let number = service.filter(|_| !matches!(settle.inlet.way, Way::Inbound)).map(|s| s.number);
        worker.ledger.count(number, Tally::Expired);
        return Err(refuse(ProxyError::HttpResponseTimeout, "the request's time was over when it came"));
    }
    Ok(Call { service, port, terms, deadline })
}

async fn send(
    worker: &Arc<Worker>,
    passage: &mut Passage,
    route: &Route,
    call: &Call<'_>,
    body: Upload,
) -> Result<Response<Inflow>, Refused> {
    let &Call { service, port, ref terms, deadline } = call;
    let chosen = passage.choice;
    let Passage { parts, settle, upgrade, keep, .. } = passage;
    let group = match (&route.target, service) {
        (Target::Foreign(group), _) => group,
        (_, Some(service)) => service.http_group(port).map_err(|why| {
            refuse(ProxyError::ProxyConfigurationError, &format!("Service {} {why}", service.key))
        })?,
        (_, None) => return Err(refuse(ProxyError::ProxyInternalError, "no destination")),
    };
    let is_inbound = matches!(settle.inlet.way, Way::Inbound);
    let mut headers = std::mem::take(&mut parts.headers);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    let uri = std::mem::take(&mut parts.uri);
    let mut head = Some(Head { method: parts.method.clone(), uri, headers });
    let mut body = match body.is_end_stream() {
        true => Replay::Whole(None),
        // Its future is larger than all others together.
        false => {
            let is_repeatable = head.as_ref().is_some_and(Head::is_idempotent) || terms.retries.name_any();
            Box::pin(prepare(body, is_repeatable, deadline)).await?
        }
    };
    let called = service.filter(|_| !is_inbound);
    let of_choice = chosen.map_or(&[][..], |at| &route.rule.choices[at as usize].mirrors);
    for mirrors in [&route.rule.mirrors[..], of_choice].into_iter().filter(|mirrors| !mirrors.is_empty()) {
        if let (Some(head), false) = (&head, upgrade.is_some()) {
            mirror::copy(worker, settle, mirrors, head, &body);
        }
    }
    let stays = called.and_then(|service| affinity::said(&route.rule, service));
    let own = worker.shared.source_key;
    let pull = head.as_ref().map(|head| affinity::pull(group, stays, head, &settle.inlet, own));
    let pull = pull.unwrap_or_default();
    let sent = Instant::now();
    let upload = body.upload();
    settle.sent = body.len();
    settle.upload = upload.clone();
    let upgrades = upgrade.is_some();
    let is_idempotent = false;
    let delivery =
        Delivery { worker, group, service: called, port, terms, upgrades, deadline, is_idempotent, pull };
    let delivered = deliver(&delivery, settle, &mut head, &mut body).await;
    if let Some(place) = &settle.place {
        let now = Instant::now();
        let latency = now.saturating_duration_since(sent).as_micros() as Micros;
        place.answered(worker.shared.micros(now), latency);
        // From here on it mostly waits for something to happen, which is no work.
        if delivered.as_ref().is_ok_and(waits) {
            settle.place = None;
        }
    }
    if let Some(service) = service
        && delivered.as_ref().map_or(true, |response| response.status().is_server_error())
    {
        survey(settle, service, port, worker.shared.micros(Instant::now()));
    }
    if let Some(affinity) = delivery.service.and_then(|service| affinity::said(&route.rule, service))
        && let Ok(response) = &delivered
        && !response.status().is_server_error()
        && let Some(token) = settle.endpoint.as_ref().and_then(|endpoint| endpoint.token)
    {
        let kept = affinity::keep(affinity, token, delivery.pull.stay, settle.inlet.client.is_tls);
        *keep = kept.map(Box::new);
    }
    if let Ok(response) = &delivered {
        settle.patience = terms.patience(response.headers(), settle.started, deadline, upload);
    }
    delivered.map_err(|failure| {
        let name = service.map_or_else(String::new, |service| format!("{}: ", service.key));
        refuse(failure.error, &format!("{name}{}", failure.details))
    })
}

/// Reads a body that can be sent again, in the time that there is for it.
async fn prepare(body: Upload, keeps: bool, deadline: Option<Deadline>) -> Result<Replay, Refused> {
    let limit = Instant::now() + limits::ANSWER;
    let limit = deadline.map_or(limit, |deadline| deadline.at.min(limit));
    match tokio::time::timeout_at(limit, Replay::prepare(body, keeps)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let details = format!("the request's body ended early: {error}");
            Err(refuse(ProxyError::HttpRequestError, &details))
        }
        Err(_) => {
            let details = "the request's body did not come in time";
            if deadline.is_some_and(|deadline| deadline.at == limit) {
                return Err(refuse(ProxyError::HttpResponseTimeout, details));
            }
            let mut reply = refuse(ProxyError::HttpRequestError, details);
            reply.status = StatusCode::REQUEST_TIMEOUT;
            Err(reply)
        }
    }
}

// === back ===

fn response_filters(passage: &mut Passage, route: &Route, response: &mut Response<Inflow>) {
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if !is_upgrade {
        hop::strip(response.headers_mut());
    }
    *response.version_mut() = Version::HTTP_11;
    let choice = passage.choice.map_or(&[][..], |at| &route.rule.choices[at as usize].filters);
    if !route.rule.filters.is_empty() || !choice.is_empty() {
        let placeholder = std::mem::replace(response.headers_mut(), http::HeaderMap::new());
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = response.status();
        parts.headers = placeholder;
        for filter in choice.iter().chain(&route.rule.filters) {
            filter.on_response(&mut parts);
        }
        *response.headers_mut() = parts.headers;
    }
    if let Some(keep) = passage.keep.take() {
        affinity::put(response.headers_mut(), *keep);
    }
    match (response.headers_mut().get_mut(&REQUEST_ID), &passage.settle.request_id) {
        (Some(id), _) => id.set_sensitive(true),
        (None, Some(id)) => drop(response.headers_mut().insert(&REQUEST_ID, id.clone())),
        (None, None) => {}
    }
}

/// Hands the answer over; it is written down when its body has ended.
fn record(passage: Passage, response: Response<Inflow>) -> Response<Answer> {
    let Passage { mut settle, .. } = passage;
    settle.status = response.status().as_u16();
    let (parts, body) = response.into_parts();
    let body = match body {
        Inflow::Reply(Reply::Upgraded(socket, first)) => {
            return Response::from_parts(parts, Answer::tunnel(Leg::behind(first, socket), settle));
        }
        body => body,
    };
    Response::from_parts(parts, Answer::theirs(body, settle))
}

fn unknown(name: &str) -> Refused {
    refuse(ProxyError::DestinationNotFound, &format!("no service {name} is known to the mesh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<'a, F: Future>(
        _: impl FnOnce(&'a Arc<Worker>, &'a Arc<Inlet>, Request<Inflow>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_requests_future_stays_small() {
        // A box of this size for each request under way; idle connections hold none.
        let size = size_of_future(serve);
        assert!(size <= 4608, "{size} bytes");
    }
}
