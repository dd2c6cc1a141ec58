//! One attempt: checkout -> send -> the answer's head, and what its endpoint's vitals learn of it.
//!
//! In:    an endpoint, head and body.      Out: an answer's head, or why there is none.
//! Owner: one delivery.
//! Invariant: a head and body that were not sent are put back.
//! Not here: whether another attempt follows (`retry`).

use std::sync::Arc;

use causeway_wire::ProxyError;
use http::Response;
use tokio::time::Instant;

use super::outcome::{Failure, Outcome};
use super::replay::Replay;
use crate::balance::{Group, Pull};
use crate::body::Inflow;
use crate::endpoint::Endpoint;
use crate::lease::Departure;
use crate::limits;
use crate::outgoing::{Head, Progress};
use crate::outlier::{self, Verdict};
use crate::plan::Rule;
use crate::worker::Worker;

/// Everything a delivery needs.
pub(crate) struct Delivery<'a> {
    pub worker: &'a Arc<Worker>,
    pub group: &'a Group,
    /// The service's number in the ledger; none for what is no service of the plan.
    pub number: Option<usize>,
    pub rule: &'a Rule,
    /// What ties the request to one of the group's endpoints.
    pub pull: Pull,
    /// Wants a connection of its own that may change its protocol.
    pub upgrades: bool,
    /// End of the whole request.
    pub deadline: Option<Instant>,
    /// Whether the caller vouches that the request may be sent again.
    pub is_idempotent: bool,
}

/// One attempt. A head and body that were not sent are put back.
pub(super) async fn try_once(
    delivery: &Delivery<'_>,
    endpoint: &Endpoint,
    is_retry: bool,
    head: &mut Option<Head>,
    keep: bool,
    body: &mut Replay,
    begun: Instant,
) -> Result<Response<Inflow>, Failure> {
    let limit = attempt_end(delivery, begun);
    let checkout = delivery.worker.pool.checkout(endpoint, delivery.upgrades, is_retry, begun);
    let lease = checkout.await.map_err(|none| Failure {
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
        Ok(Ok(response)) => Ok(response),
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

/// Tells the endpoint's vitals how an attempt ended.
pub(super) fn note(delivery: &Delivery<'_>, endpoint: &Endpoint, outcome: &Outcome, begun: Instant) {
    let ended = Instant::now();
    let now = delivery.worker.shared.micros(ended);
    let took = ended.saturating_duration_since(begun).as_micros() as u64;
    let verdict = match outcome {
        Outcome::Good(response) if response.status().as_u16() < 500 => Verdict::Good,
        Outcome::Good(..) | Outcome::Bad(_, None) => Verdict::Failed,
        // An idle connection that ended is no sign of ill health.
        Outcome::Failed(failure) if failure.is_unsent && failure.was_reused => return,
        Outcome::Failed(failure) if failure.is_clients => return,
        Outcome::Bad(_, Some(failure)) | Outcome::Failed(failure) => match failure.is_unsent {
            true => Verdict::Unreachable,
            false => Verdict::Failed,
        },
    };
    if outlier::note(endpoint, verdict, took, now) {
        tracing::warn!(endpoint = %endpoint.name, "endpoint ejected");
        if let Some(number) = delivery.number {
            delivery.worker.ledger.count_ejection(number);
        }
    }
}
