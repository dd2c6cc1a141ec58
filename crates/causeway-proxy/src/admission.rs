//! Whether a request goes on to its service now: rate limits, urgency, a place at the service's gate; and faults on purpose.
//!
//! In:    a request that may be made (`filters` have said so), its rule and service.      Out: its place, or an answer of ours.
//! Owner: the pipeline, between choosing the service and sending.
//! Invariant: what protects a service is done once: by the proxy in front of it, which is its sidecar, or without one the caller's proxy;
//! a fault is made once, by the caller's proxy. Refusals are answers that no proxy tries again.
//! Not here: who may call (`causeway-filters::access`), limits of the caller's own (`attempt`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use causeway_filters::Reply;
use causeway_model::{Fault, RateKey, RateLimit};
use causeway_wire::priority::{self, PRIORITY, URGENCY_DEFAULT};
use causeway_wire::{ProxyError, ProxyStatus};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode, request};
use tokio::time::Instant;

use crate::gate::{Gate, Shed};
use crate::inlet::Way;
use crate::plan::policy::{Policy, Said, decide};
use crate::plan::{Rule, Service};
use crate::reason;
use crate::reply::Refused;
use crate::settle::Settle;
use crate::worker::Worker;

/// Lets a request go on, at once or after a while; its place is put into `settle`.
///
/// # Errors
/// The answer that it gets instead.
///
/// # Cancel safety
/// Dropping the future gives everything back but the tokens of rate limits.
pub(crate) async fn admit(
    worker: &Worker,
    parts: &mut request::Parts,
    settle: &mut Settle,
    rule: &Rule,
    service: Option<&Arc<Service>>,
    deadline: Option<Instant>,
) -> Result<(), Refused> {
    let is_inbound = matches!(settle.inlet.way, Way::Inbound);
    let plan = is_inbound.then(|| worker.shared.plan.load());
    // What policies say of the service, where this proxy is the one in front of it.
    let guarded: Option<&Policy> = match (&plan, service) {
        (Some(plan), _) => Some(&plan.rules.own),
        (None, Some(service)) if !service.has_sidecars() => Some(&service.policy),
        _ => None,
    };
    let of_service = if is_inbound { guarded } else { service.map(|service| &*service.policy) };
    let urgency =
        urgency(parts, &settle.inlet.way, decide(&rule.policy.priority, of_service.map(|p| &p.priority)));
    for policy in [Some(&*rule.policy), guarded].into_iter().flatten() {
        if let Some(limit) = &policy.rate_limit {
            take(worker, policy, limit, parts, settle)?;
        }
    }
    let now = worker.shared.micros(settle.started);
    let gate = match guarded.and_then(|policy| Some((policy, policy.concurrency.as_ref()?))) {
        Some((policy, wish)) => policy.kept.gate(wish, now).cloned(),
        None if is_inbound => worker.shared.app.as_ref().map(|app| app.gate.clone()),
        None => None,
    };
    let fault = decide(&rule.policy.fault, of_service.map(|policy| &policy.fault)).filter(|_| !is_inbound);
    let fault = fault.map(|fault| (fault.wish.clone(), fault.by.clone()));
    drop(plan);
    if let Some(gate) = gate {
        match gate.enter(urgency, now, deadline).await {
            Ok(place) => settle.place = Some(place),
            Err(why) => return Err(shed(settle, &gate, urgency.unwrap_or(URGENCY_DEFAULT), why)),
        }
    }
    match fault {
        Some((fault, by)) => Box::pin(disturb(worker, settle, fault, by, deadline)).await,
        None => Ok(()),
    }
}

/// How urgent a request is, and what its field says from here on. What comes from outside is no more urgent than what says nothing: a
/// visitor's word must not put calls of the house behind.
fn urgency(parts: &mut request::Parts, way: &Way, policy: Option<&Said<u8>>) -> Option<u8> {
    if let Some(said) = policy {
        parts.headers.insert(&PRIORITY, priority::field(said.wish));
        return Some(said.wish);
    }
    let said = priority::urgency(&parts.headers)?;
    if matches!(way, Way::Gateway(_)) && said < URGENCY_DEFAULT {
        parts.headers.insert(&PRIORITY, priority::field(URGENCY_DEFAULT));
        return Some(URGENCY_DEFAULT);
    }
    Some(said)
}

fn take(
    worker: &Worker,
    policy: &Policy,
    limit: &Said<RateLimit>,
    parts: &request::Parts,
    settle: &mut Settle,
) -> Result<(), Refused> {
    let key = limit.wish.by.as_ref().map(|by| key(by, parts, settle));
    let wait = match policy.kept.rate(limit).take(key, worker.shared.micros(settle.started)) {
        Ok(()) => return Ok(()),
        Err(wait) => wait,
    };
    settle.reason = reason::RATE_LIMITED;
    let details = "too many requests: the rate limit of a policy is reached";
    let seconds = wait.div_ceil(1_000_000).max(1);
    Err(refusal(StatusCode::TOO_MANY_REQUESTS, details.to_owned(), seconds, Some(limit.by.clone())))
}

/// Requests of one key share a bucket.
fn key(by: &RateKey, parts: &request::Parts, settle: &Settle) -> u64 {
    let client = &settle.inlet.client;
    let mut hasher = DefaultHasher::new();
    match by {
        // Who has no identity is one caller.
        RateKey::Identity => client.identity.as_ref().map(|identity| &identity.service).hash(&mut hasher),
        RateKey::Address => client.address.hash(&mut hasher),
        RateKey::Header(name) => parts.headers.get(name).map(HeaderValue::as_bytes).hash(&mut hasher),
    }
    hasher.finish()
}

fn shed(settle: &mut Settle, gate: &Gate, urgency: u8, why: Shed) -> Refused {
    settle.reason = reason::SHED;
    let (limit, ..) = gate.figures();
    let details = match why {
        Shed::Full => format!(
            "the service is overloaded ({limit} requests at once) and calls at least as urgent as {urgency} wait"
        ),
        Shed::TooLong => {
            format!("the service is overloaded ({limit} requests at once) and this call waited too long")
        }
    };
    refusal(StatusCode::SERVICE_UNAVAILABLE, details, 1, None)
}

/// An answer that no proxy on its way back takes for a reason to try again: more of the same is what it is to prevent.
fn refusal(status: StatusCode, details: String, retry_after: u64, by: Option<Arc<str>>) -> Refused {
    let mut reply = Reply::failure(ProxyStatus { error: ProxyError::HttpRequestDenied, details });
    reply.status = status;
    reply.headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
    reply.by = by;
    Box::new(reply)
}

/// Waits or answers as a policy wishes, to see how callers bear it.
async fn disturb(
    worker: &Worker,
    settle: &mut Settle,
    fault: Fault,
    by: Arc<str>,
    deadline: Option<Instant>,
) -> Result<(), Refused> {
    let seed = worker.seed();
    if let Some(delay) = fault.delay.filter(|delay| delay.share.takes(seed.unit())) {
        settle.story.note(format!("delayed by {:?} on purpose: {by}", delay.fixed));
        let end = Instant::now() + delay.fixed;
        tokio::time::sleep_until(deadline.map_or(end, |deadline| end.min(deadline))).await;
    }
    let Some(abort) = fault.abort.filter(|abort| abort.share.takes(seed.unit())) else { return Ok(()) };
    settle.reason = reason::FAULT_INJECTED;
    let details = "a fault was injected on purpose".to_owned();
    let mut reply = Reply::failure(ProxyStatus { error: ProxyError::HttpRequestDenied, details });
    reply.status = StatusCode::from_u16(abort.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if let Some(status) = abort.grpc_status {
        reply.headers.insert("grpc-status", HeaderValue::from(status));
    }
    reply.by = Some(by);
    Err(Box::new(reply))
}
