//! Delivers a request: pick -> checkout -> send, again elsewhere while that is safe and allowed.
//!
//! In:    a request's head and body, the endpoints of its service, its terms.      Out: the head of an answer, or why there is none.
//! Owner: the pipeline, once a request.
//! Invariant: a request of which a byte may have been processed is sent again only when it is idempotent; a retry leaves
//! the failed host, and is paid for from the service's budget unless nothing had been sent. A failure says that nothing was
//! processed only when that holds for every attempt. Nothing is sent once the request's time is over.
//! Not here: choosing the service (`pipeline`), what an endpoint's failures lead to (`outlier`).

mod hedge;
mod once;
mod outcome;
mod replay;
mod retry;
mod terms;
mod wait;

use std::time::Duration;

use causeway_wire::ProxyError;
use causeway_wire::deadline::{CAUSEWAY_DEADLINE, GRPC_TIMEOUT, grpc_value, is_grpc, value};
use http::Response;
use tokio::time::Instant;

use self::hedge::{Message, Raced, Tried, race};
use self::once::{begin_span, note, try_once};
use self::outcome::Outcome;
use self::retry::Allowed;
use crate::balance::Ask;
use crate::body::Inflow;
use crate::circuit::Full;
use crate::endpoint::InFlight;
use crate::inlet::Way;
use crate::outgoing::Head;
use crate::settle::Settle;
use crate::story::Lap;
use crate::tally::Tally;

pub(crate) use self::once::Delivery;
pub(crate) use self::outcome::Failure;
pub(crate) use self::replay::Replay;
pub(crate) use self::terms::{Deadline, Terms};

/// Sends a request until an answer comes or no further attempt is allowed. `settle` learns of every attempt. Head and body are there at
/// first; they stay with the caller so that they take room in its future alone.
///
/// # Cancel safety
/// Dropping the future cancels the request; the service may have seen it.
pub(crate) async fn deliver(
    delivery: &Delivery<'_>,
    settle: &mut Settle,
    head: &mut Option<Head>,
    body: &mut Replay,
) -> Result<Response<Inflow>, Failure> {
    enter(delivery, settle).await?;
    let Delivery { worker, group, terms, .. } = delivery;
    let is_idempotent = delivery.is_idempotent || head.as_ref().is_some_and(Head::is_idempotent);
    let has_others = group.endpoints.len() > 1;
    let hedge = terms
        .hedge
        .filter(|_| is_idempotent && has_others && !delivery.upgrades && delivery.service.is_some());
    let mut tried: Vec<u64> = Vec::new();
    // The first attempt that may have been processed.
    let mut doubt: Option<Failure> = None;
    for attempt in 0.. {
        // Without a body to read there is nothing between a request's beginning and its first attempt.
        let is_first = attempt == 0 && matches!(body, Replay::Whole(None));
        let begun = if is_first { settle.started } else { Instant::now() };
        if let Some(message) = head {
            say_deadline(delivery, message, begun).map_err(|late| doubt.take().unwrap_or(late))?;
        }
        let now = worker.shared.micros(begun);
        let ask = Ask { tried: &tried, pull: delivery.pull, now };
        let endpoint = match delivery.pick(&ask) {
            Some(endpoint) => endpoint,
            None => return Err(doubt.unwrap_or_else(|| nobody(delivery))),
        };
        settle.attempts += 1;
        settle.endpoint = Some(endpoint.clone());
        let outcome = match (hedge, &*head) {
            (Some(hedge), Some(head)) => {
                let message = Message { head, is_retry: attempt > 0 };
                let raced =
                    Box::pin(race(delivery, settle, hedge, message, body, endpoint, &tried, begun)).await;
                let Raced { last: Tried { endpoint, in_flight, outcome, lap }, failed, doubt: raised } =
                    raced;
                (settle.in_flight, settle.endpoint) = (Some(in_flight), Some(endpoint.clone()));
                settle.story.attempt(&endpoint, lap, outcome.end());
                tried.extend(failed);
                tried.push(endpoint.id);
                doubt = doubt.or(raised);
                outcome
            }
            _ => {
                settle.in_flight = Some(InFlight::new(&endpoint.vitals, now));
                let is_repeatable = is_idempotent || endpoint.is_mesh() || terms.retries.name_any();
                let has_where = has_others || endpoint.is_mesh() || terms.retries.is_asked;
                let keep = attempt < terms.retries.attempts && is_repeatable && has_where;
                let span = begin_span(settle, head.as_mut());
                let sent = try_once(delivery, &endpoint, attempt > 0, head, keep, body, begun);
                let outcome = sent.await;
                if outcome.is_answered() {
                    settle.in_flight.iter_mut().for_each(InFlight::answered);
                }
                note(delivery, &endpoint, &outcome, begun);
                let lap = Lap { begun, ended: Instant::now(), span };
                settle.story.attempt(&endpoint, lap, outcome.end());
                tried.push(endpoint.id);
                outcome
            }
        };
        let allowed = Allowed {
            is_idempotent,
            is_at_hand: head.is_some() && body.is_there(),
            is_inbound: matches!(settle.inlet.way, Way::Inbound),
            has_others,
            left: None,
        };
        let Some(wait) = retry_wait(delivery, &outcome, allowed, attempt) else {
            return finish(delivery, outcome, doubt, settle);
        };
        delivery.count(Tally::Retry);
        doubt = doubt.or_else(|| outcome.doubt());
        settle.in_flight = None;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
    unreachable!("the loop ends by a return")
}

/// Takes a place among the requests that are under way to the service.
async fn enter(delivery: &Delivery<'_>, settle: &mut Settle) -> Result<(), Failure> {
    let Some(service) = delivery.service else { return Ok(()) };
    let bounds = &delivery.terms.circuit;
    let why = match service.circuit.enter(bounds).await {
        Ok(place) => {
            settle.share = Some(place);
            return Ok(());
        }
        Err(Full::AtOnce) => String::new(),
        Err(Full::InTime) => format!(", and none ended within {:?}", bounds.wait),
    };
    delivery.count(Tally::Refused);
    let by = delivery.terms.circuit_by.unwrap_or("by default");
    let details = format!("{} requests to it are under way, as many as may be ({by}){why}", bounds.requests);
    Err(Failure::unsent(ProxyError::ConnectionLimitReached, details))
}

/// Writes into a head how much time is left for it.
fn say_deadline(delivery: &Delivery<'_>, head: &mut Head, now: Instant) -> Result<(), Failure> {
    let Some(deadline) = delivery.deadline else { return Ok(()) };
    let left = deadline.at.saturating_duration_since(now);
    if left.is_zero() {
        delivery.count(Tally::Expired);
        let details = "the request's time was over before it could be sent".to_owned();
        return Err(Failure::unsent(ProxyError::HttpResponseTimeout, details));
    }
    if is_grpc(&head.headers) {
        head.headers.insert(&GRPC_TIMEOUT, grpc_value(left));
    }
    head.headers.insert(&CAUSEWAY_DEADLINE, value(left));
    Ok(())
}

/// Whether an attempt is followed by another, and after how long.
fn retry_wait(
    delivery: &Delivery<'_>,
    outcome: &Outcome,
    allowed: Allowed,
    attempt: u32,
) -> Option<Duration> {
    let Delivery { worker, service, terms, .. } = delivery;
    let ended = outcome.ended(|| worker.shared.clock.now())?;
    let now = Instant::now();
    let left = delivery.deadline.map(|deadline| deadline.at.saturating_duration_since(now));
    let pay = || match service {
        Some(service) => service.budget.withdraw(terms.retries.grant, worker.shared.micros(now)),
        None => true,
    };
    retry::next(ended, Allowed { left, ..allowed }, &terms.retries, attempt, worker.seed().unit(), pay)
}

/// What the caller learns. That the last attempt was not sent is not the whole truth when an earlier one may have been processed.
fn finish(
    delivery: &Delivery<'_>,
    outcome: Outcome,
    doubt: Option<Failure>,
    settle: &mut Settle,
) -> Result<Response<Inflow>, Failure> {
    if let Some(service) = delivery.service.filter(|_| outcome.is_well()) {
        service.budget.deposit(delivery.terms.retries.grant, service.circuit.under_way());
    }
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

fn nobody(delivery: &Delivery<'_>) -> Failure {
    let (error, details) = match delivery.group.endpoints.is_empty() {
        true => {
            (ProxyError::DestinationUnavailable, "the service has no endpoint that takes calls".to_owned())
        }
        false => {
            delivery.count(Tally::Refused);
            let details = "every endpoint of the service is full or left alone for its failures";
            (ProxyError::ConnectionLimitReached, details.to_owned())
        }
    };
    Failure::unsent(error, details)
}
