//! Delivers a request: pick -> checkout -> send, again elsewhere while that is safe and allowed.
//!
//! In:    a request's head and body, the endpoints of its service, its rule.      Out: the head of an answer, or why there is none.
//! Owner: the pipeline, once a request.
//! Invariant: a request of which a byte may have been processed is sent again only when it is idempotent; a retry leaves
//! the failed host, and is paid for from the service's budget unless nothing had been sent. A failure says that nothing was
//! processed only when that holds for every attempt.
//! Not here: choosing the service (`pipeline`), what an endpoint's failures lead to (`outlier`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use causeway_wire::proxy_status::PROXY_STATUS;
use causeway_wire::{ProxyError, ProxyStatus};
use http::Response;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::balance::Group;
use crate::body::{BodyError, Inflow};
use crate::endpoint::{Endpoint, FAILURE_COST, InFlight};
use crate::inlet::Way;
use crate::lease::{Departure, Lease};
use crate::limits;
use crate::outgoing::{Head, Outgoing, Progress};
use crate::outlier::{self, Verdict};
use crate::plan::Rule;
use crate::settle::Settle;
use crate::upload::Upload;
use crate::worker::Worker;

/// A request's body: whole, so that it can be sent again, or a stream that can be sent once.
#[derive(Debug)]
pub(crate) enum Replay {
    Whole(Option<Bytes>),
    Once(Option<Upload>, Arc<Progress>),
}

/// Everything a delivery needs.
pub(crate) struct Delivery<'a> {
    pub worker: &'a Arc<Worker>,
    pub group: &'a Group,
    /// The service's number in the ledger; none for what is no service of the plan.
    pub number: Option<usize>,
    pub rule: &'a Rule,
    /// Wants a connection of its own that may change its protocol.
    pub upgrades: bool,
    /// End of the whole request.
    pub deadline: Option<Instant>,
    /// Whether the caller vouches that the request may be sent again.
    pub is_idempotent: bool,
}

/// Why a delivery failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: ProxyError,
    pub details: String,
    /// No byte of it can have been processed.
    is_unsent: bool,
    /// The connection had served before: perhaps its idle end crossed our request.
    was_reused: bool,
    /// It is the client's upload that failed: that says nothing of the endpoint.
    is_clients: bool,
}

impl Replay {
    /// Reads a short body whole; a long one, or one of unknown length, stays a stream.
    pub(crate) async fn prepare(mut body: Upload) -> Result<Self, BodyError> {
        if body.is_end_stream() {
            return Ok(Replay::Whole(None));
        }
        match body.size_hint().exact() {
            Some(length) if length <= limits::REPLAY_BYTES_MAX as u64 => {}
            _ => return Ok(Replay::Once(Some(body), Arc::default())),
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) if first.is_empty() => first = data,
                Ok(data) => {
                    if rest.is_empty() {
                        rest.extend_from_slice(&first);
                    }
                    rest.extend_from_slice(&data);
                }
                // Trailers of a body of known length: nobody reads them.
                Err(_) => {}
            }
            if body.is_end_stream() {
                break;
            }
        }
        Ok(Replay::Whole(Some(if rest.is_empty() { first } else { rest.freeze() })))
    }

    fn take(&mut self) -> Option<Outgoing> {
        match self {
            Replay::Whole(bytes) => Some(Outgoing::Whole(bytes.clone())),
            Replay::Once(body, upload) => body.take().map(|body| Outgoing::Streamed(body, upload.clone())),
        }
    }

    fn put_back(&mut self, body: Outgoing) {
        if let (Replay::Once(slot, _), Outgoing::Streamed(body, _)) = (self, body) {
            *slot = Some(body);
        }
    }

    /// How the client fares with a body that is streamed.
    fn progress(&self) -> Option<&Progress> {
        match self {
            Replay::Whole(_) => None,
            Replay::Once(_, progress) => Some(progress),
        }
    }

    fn is_there(&self) -> bool {
        !matches!(self, Replay::Once(None, _))
    }
}

/// Sends a request until an answer comes or no further attempt is allowed. `settle` learns of every attempt and takes the
/// connection of the last.
///
/// # Cancel safety
/// Dropping the future cancels the request; the service may have seen it.
pub(crate) async fn deliver(
    delivery: &Delivery<'_>,
    settle: &mut Settle,
    head: Head,
    mut body: Replay,
) -> Result<Response<Inflow>, Failure> {
    let Delivery { worker, group, number, rule, .. } = delivery;
    if let Some(number) = number {
        worker.ledger.deposit(*number);
    }
    let retries = rule.retries.unwrap_or(limits::RETRIES);
    let is_idempotent = delivery.is_idempotent || head.is_idempotent();
    let mut head = Some(head);
    let mut tried: Vec<u64> = Vec::new();
    // The first attempt that may have been processed.
    let mut doubt: Option<Failure> = None;
    for attempt in 0.. {
        // Without a body to read there is nothing between a request's beginning and its first attempt.
        let is_first = attempt == 0 && matches!(body, Replay::Whole(None));
        let begun = if is_first { settle.started } else { Instant::now() };
        let now = worker.shared.micros(begun);
        let endpoint = match group.pick(&tried, &worker.seed(), now) {
            Some(endpoint) => endpoint,
            None => return Err(doubt.unwrap_or_else(|| nobody(group))),
        };
        settle.attempts += 1;
        settle.endpoint = Some(endpoint.clone());
        settle.in_flight = Some(InFlight::new(&endpoint.vitals));
        let has_more = attempt < retries;
        let keep = has_more && (is_idempotent || endpoint.is_mesh() || !rule.retry_codes.is_empty());
        let sent = try_once(delivery, endpoint, attempt > 0, &mut head, keep, &mut body, begun).await;
        let outcome = match sent {
            Ok((mut response, lease)) => {
                // Only a sidecar, which has proved who it is, may say how far a request came; an app could say anything.
                if !endpoint.is_mesh() {
                    response.headers_mut().remove(&PROXY_STATUS);
                }
                judge(endpoint, rule, response, lease)
            }
            Err(failure) => Outcome::Failed(failure),
        };
        note(delivery, endpoint, &outcome, begun);
        let wait = match &outcome {
            Outcome::Good(..) => None,
            _ if !has_more || head.is_none() || !body.is_there() => None,
            _ => retry_wait(delivery, &settle.inlet.way, &outcome, is_idempotent, attempt),
        };
        let Some(wait) = wait else { return finish(outcome, doubt, settle) };
        if let Some(number) = number {
            worker.ledger.count_retry(*number);
        }
        tried.push(endpoint.id);
        doubt = doubt.or_else(|| outcome.doubt());
        settle.in_flight = None;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
    unreachable!("the loop ends by a return")
}

/// How an attempt ended.
enum Outcome {
    /// An answer to be given back.
    Good(Response<Inflow>, Lease),
    /// An answer that says that nothing, or nothing useful, was done: perhaps another endpoint does better.
    Bad(Response<Inflow>, Lease, Option<Failure>),
    Failed(Failure),
}

impl Outcome {
    /// Why the request may have been processed by this attempt, which is followed by another.
    fn doubt(self) -> Option<Failure> {
        match self {
            Outcome::Failed(failure) | Outcome::Bad(_, _, Some(failure)) => {
                (!failure.is_unsent).then_some(failure)
            }
            Outcome::Good(response, _) | Outcome::Bad(response, _, None) => Some(Failure {
                error: ProxyError::ConnectionTerminated,
                details: format!("an attempt was answered {}", response.status()),
                is_unsent: false,
                was_reused: false,
                is_clients: false,
            }),
        }
    }
}

/// What the caller learns. That the last attempt was not sent is not the whole truth when an earlier one may have been processed.
fn finish(
    outcome: Outcome,
    doubt: Option<Failure>,
    settle: &mut Settle,
) -> Result<Response<Inflow>, Failure> {
    let (response, lease) = match (outcome, doubt) {
        (Outcome::Failed(last) | Outcome::Bad(_, _, Some(last)), Some(first)) if last.is_unsent => {
            settle.in_flight = None;
            let details = format!("{}; tried again: {}", first.details, last.details);
            return Err(Failure { details, ..first });
        }
        (Outcome::Good(response, lease) | Outcome::Bad(response, lease, _), _) => (response, lease),
        (Outcome::Failed(failure), _) => {
            settle.in_flight = None;
            return Err(failure);
        }
    };
    if let Lease::Http1 { sender, id, .. } = lease {
        settle.lent = Some((id, sender));
    }
    Ok(response)
}

/// One attempt. A head and body that were not sent are put back.
async fn try_once(
    delivery: &Delivery<'_>,
    endpoint: &Endpoint,
    is_retry: bool,
    head: &mut Option<Head>,
    keep: bool,
    body: &mut Replay,
    begun: Instant,
) -> Result<(Response<Inflow>, Lease), Failure> {
    let limit = attempt_end(delivery, begun);
    let checkout = delivery.worker.pool.checkout(endpoint, delivery.upgrades, is_retry, begun);
    let mut lease = checkout.await.map_err(|none| Failure {
        error: none.error,
        details: none.details,
        is_unsent: true,
        was_reused: false,
        is_clients: false,
    })?;
    let was_reused = lease.is_reused();
    let mut outgoing = body.take();
    let sent = lease.send(Departure { endpoint, head, body: &mut outgoing, keep });
    let sent = match limit {
        Some(limit) => tokio::time::timeout_at(limit, sent).await,
        None => Ok(sent.await),
    };
    match sent {
        Ok(Ok(response)) => Ok((response, lease)),
        Ok(Err(error)) => {
            if let Some(outgoing) = outgoing {
                body.put_back(outgoing);
            }
            if body.progress().is_some_and(Progress::is_broken) {
                let details = format!("the request's body ended early on its way to {}", endpoint.name);
                let error = ProxyError::HttpRequestError;
                return Err(Failure { error, details, is_unsent: false, was_reused, is_clients: true });
            }
            let details = format!("no answer from {}: {}", endpoint.name, error.details);
            let is_unsent = error.is_unsent;
            Err(Failure { error: error.error, details, is_unsent, was_reused, is_clients: false })
        }
        Err(_) => {
            let details = format!("no answer from {} within {:?}", endpoint.name, begun.elapsed());
            Err(Failure {
                error: ProxyError::HttpResponseTimeout,
                details,
                is_unsent: false,
                was_reused: false,
                is_clients: body.progress().is_some_and(Progress::waits_for_client),
            })
        }
    }
}

/// When an attempt must have brought an answer's head.
fn attempt_end(delivery: &Delivery<'_>, begun: Instant) -> Option<Instant> {
    let rule = delivery.rule;
    let own = match (rule.try_timeout, rule.timeout, delivery.deadline) {
        (Some(limit), ..) => (!limit.is_zero()).then(|| begun + limit),
        (None, None, None) => Some(begun + limits::ANSWER),
        (None, ..) => None,
    };
    match (own, delivery.deadline) {
        (Some(own), Some(whole)) => Some(own.min(whole)),
        (own, whole) => own.or(whole),
    }
}

/// Looks at an answer's head: a sidecar's own failure, or a status that the rule tries again.
fn judge(endpoint: &Endpoint, rule: &Rule, response: Response<Inflow>, lease: Lease) -> Outcome {
    let status = response.status().as_u16();
    if status < 400 {
        return Outcome::Good(response, lease);
    }
    if endpoint.is_mesh()
        && status >= 500
        && let Some(error) = response.headers().get(&PROXY_STATUS).and_then(ProxyStatus::error_in)
    {
        let is_unsent = !error.may_be_processed();
        let details = format!("the sidecar of {} says {}", endpoint.name, error.as_str());
        // Where the sidecar lost the race against the end of an idle connection to its app, it leaves it to us to try again.
        let was_reused = error == ProxyError::ConnectionTerminated;
        let failure = Failure { error, details, is_unsent, was_reused, is_clients: false };
        return Outcome::Bad(response, lease, Some(failure));
    }
    match rule.retry_codes.contains(&status) {
        true => Outcome::Bad(response, lease, None),
        false => Outcome::Good(response, lease),
    }
}

/// Tells the endpoint's vitals how an attempt ended.
fn note(delivery: &Delivery<'_>, endpoint: &Endpoint, outcome: &Outcome, begun: Instant) {
    let ended = Instant::now();
    let now = delivery.worker.shared.micros(ended);
    let took = ended.saturating_duration_since(begun).as_micros() as u64;
    let verdict = match outcome {
        Outcome::Good(response, _) if response.status().as_u16() < 500 => Verdict::Good,
        Outcome::Good(..) | Outcome::Bad(_, _, None) => Verdict::Failed,
        // An idle connection that ended is no sign of ill health.
        Outcome::Failed(failure) if failure.is_unsent && failure.was_reused => return,
        Outcome::Failed(failure) if failure.is_clients => return,
        Outcome::Bad(_, _, Some(failure)) | Outcome::Failed(failure) => match failure.is_unsent {
            true => Verdict::Unreachable,
            false => Verdict::Failed,
        },
    };
    let latency = if verdict == Verdict::Good { took } else { took.max(FAILURE_COST) };
    endpoint.vitals.observe(now, latency);
    if outlier::note(delivery.group, endpoint, verdict, now) {
        tracing::warn!(endpoint = %endpoint.name, "endpoint ejected");
        if let Some(number) = delivery.number {
            delivery.worker.ledger.count_ejection(number);
        }
    }
}

/// Whether an attempt that failed is followed by another, and after how long.
fn retry_wait(
    delivery: &Delivery<'_>,
    way: &Way,
    outcome: &Outcome,
    is_idempotent: bool,
    attempt: u32,
) -> Option<Duration> {
    let Delivery { worker, group, number, rule, deadline, .. } = delivery;
    let now = Instant::now();
    if deadline.is_some_and(|deadline| now >= deadline) {
        return None;
    }
    let failure = match outcome {
        Outcome::Failed(failure) | Outcome::Bad(_, _, Some(failure)) => Some(failure),
        Outcome::Good(..) | Outcome::Bad(..) => None,
    };
    // In front of its app a sidecar only mends what no caller need know of; whether a request is sent again, and how often, is
    // for the caller to say, or their retries would multiply.
    if matches!(way, Way::Inbound) && !failure.is_some_and(|failure| failure.is_unsent && failure.was_reused)
    {
        return None;
    }
    let is_safe = match failure {
        Some(failure) if failure.is_clients => false,
        // A status that the rule names: its author says that it may be sent again.
        None => true,
        Some(failure) if failure.is_unsent => failure.error != ProxyError::HttpRequestDenied,
        Some(failure) => is_idempotent && failure.error != ProxyError::ProxyInternalError,
    };
    // There must be somewhere else to go, unless the idle race was lost or the rule asks for it.
    let has_where = group.endpoints.len() > 1
        || failure.is_some_and(|failure| failure.was_reused && attempt == 0)
        || rule.retries.is_some();
    if !is_safe || !has_where {
        return None;
    }
    let is_free = failure.is_some_and(|failure| failure.is_unsent);
    if !is_free
        && let Some(number) = number
        && !worker.ledger.may_retry(*number, worker.shared.micros(now))
    {
        return None;
    }
    let base = match (rule.backoff, attempt) {
        (Some(backoff), _) => backoff,
        (None, 0) => return Some(Duration::ZERO),
        (None, _) => limits::BACKOFF,
    };
    let doubled = base.saturating_mul(1 << attempt.min(6));
    Some(doubled + doubled.mul_f64(worker.seed().unit() / 2.0))
}

fn nobody(group: &Group) -> Failure {
    let (error, details) = match group.endpoints.is_empty() {
        true => {
            (ProxyError::DestinationUnavailable, "the service has no endpoint that takes calls".to_owned())
        }
        false => (ProxyError::ConnectionLimitReached, "every endpoint of the service is full".to_owned()),
    };
    Failure { error, details, is_unsent: true, was_reused: false, is_clients: false }
}
