//! Delivers a request: pick -> checkout -> send, again elsewhere while that is safe and allowed.
//!
//! In:    a request's head and body, the endpoints of its service, its rule.      Out: the head of an answer, or why there is none.
//! Owner: the pipeline, once a request.
//! Invariant: a request of which a byte may have been processed is sent again only when it is idempotent; a retry leaves
//! the failed host, and is paid for from the service's budget unless nothing had been sent. A failure says that nothing was
//! processed only when that holds for every attempt.
//! Not here: choosing the service (`pipeline`), what an endpoint's failures lead to (`outlier`).

mod once;
mod outcome;
mod replay;
mod retry;

use causeway_wire::ProxyError;
use causeway_wire::proxy_status::PROXY_STATUS;
use http::Response;
use tokio::time::Instant;

use self::once::{note, try_once};
use self::outcome::{Outcome, judge};
use self::retry::retry_wait;
use crate::balance::{Ask, Group};
use crate::body::Inflow;
use crate::endpoint::InFlight;
use crate::inlet::Way;
use crate::limits;
use crate::outgoing::Head;
use crate::settle::Settle;
use crate::story::Lap;

pub(crate) use self::once::Delivery;
pub(crate) use self::outcome::Failure;
pub(crate) use self::replay::Replay;

/// Sends a request until an answer comes or no further attempt is allowed. `settle` learns of every attempt.
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
        let ask = Ask { tried: &tried, pull: delivery.pull, now };
        let endpoint = match group.pick(&ask, &worker.seed()) {
            Some(endpoint) => endpoint,
            None => return Err(doubt.unwrap_or_else(|| nobody(group))),
        };
        settle.attempts += 1;
        settle.endpoint = Some(endpoint.clone());
        settle.in_flight = Some(InFlight::new(&endpoint.vitals, now));
        let has_more = attempt < retries;
        let keep = has_more && (is_idempotent || endpoint.is_mesh() || !rule.retry_codes.is_empty());
        let span = begin_span(settle, head.as_mut());
        let sent = try_once(delivery, endpoint, attempt > 0, &mut head, keep, &mut body, begun).await;
        let outcome = match sent {
            Ok(mut response) => {
                settle.in_flight.iter_mut().for_each(InFlight::answered);
                // Only a sidecar, which has proved who it is, may say how far a request came; an app could say anything.
                if !endpoint.is_mesh() {
                    response.headers_mut().remove(&PROXY_STATUS);
                }
                judge(endpoint, rule, response)
            }
            Err(failure) => Outcome::Failed(failure),
        };
        note(delivery, endpoint, &outcome, begun);
        let lap = Lap { begun, ended: Instant::now(), span };
        settle.story.attempt(endpoint, lap, outcome.end());
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

/// The span of an attempt, which the endpoint is told; 0 when the request is not traced, or is told already.
fn begin_span(settle: &Settle, head: Option<&mut Head>) -> u64 {
    match (head, &settle.inlet.way) {
        (_, Way::Inbound) | (None, _) => 0,
        (Some(head), _) => settle.trace.stamp(&mut head.headers, |_| settle.worker.seed().u64() | 1),
    }
}

/// What the caller learns. That the last attempt was not sent is not the whole truth when an earlier one may have been processed.
fn finish(
    outcome: Outcome,
    doubt: Option<Failure>,
    settle: &mut Settle,
) -> Result<Response<Inflow>, Failure> {
    match (outcome, doubt) {
        (Outcome::Failed(last) | Outcome::Bad(_, Some(last)), Some(first)) if last.is_unsent => {
            settle.in_flight = None;
            let details = format!("{}; tried again: {}", first.details, last.details);
            Err(Failure { details, ..first })
        }
        (Outcome::Good(response) | Outcome::Bad(response, _), _) => Ok(response),
        (Outcome::Failed(failure), _) => {
            settle.in_flight = None;
            Err(failure)
        }
    }
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
