//! One attempt: checkout -> send -> the answer's head, and what its endpoint's vitals learn of it.
//!
//! In:    an endpoint, head and body.      Out: an answer's head, or why there is none.
//! Owner: one delivery.
//! Invariant: a head and body that were not sent are put back.
//! Not here: whether another attempt follows (`retry`).

use std::pin::{Pin, pin};
use std::sync::Arc;

use causeway_wire::ProxyError;
use causeway_wire::deadline::is_grpc;
use http::Response;
use tokio::time::Instant;

use super::outcome::{Blame, Failure, Outcome, Word};
use super::replay::Replay;
use super::terms::{Deadline, Terms};
use super::wait::{Late, Wait};
use crate::balance::{Ask, Group, Pull};
use crate::body::Inflow;
use crate::endpoint::Endpoint;
use crate::inlet::Way;
use crate::lease::Departure;
use crate::outgoing::Head;
use crate::outlier;
use crate::plan::Service;
use crate::progress::Progress;
use crate::settle::Settle;
use crate::tally::Tally;
use crate::worker::Worker;

/// Everything a delivery needs.
pub(crate) struct Delivery<'a> {
    pub worker: &'a Arc<Worker>,
    pub group: &'a Group,
    /// None for what is no service of the plan: a foreign host, the sidecar's own app.
    pub service: Option<&'a Arc<Service>>,
    /// Which port of it.
    pub port: Option<u16>,
    pub terms: &'a Terms<'a>,
    /// What ties the request to one of the group's endpoints.
    pub pull: Pull,
    /// Wants a connection of its own that may change its protocol.
    pub upgrades: bool,
    /// End of the whole request.
    pub deadline: Option<Deadline>,
    /// Whether the caller vouches that the request may be sent again.
    pub is_idempotent: bool,
}

impl Delivery<'_> {
    /// The service's number in the ledger.
    pub(super) fn number(&self) -> Option<usize> {
        self.service.map(|service| service.number)
    }

    /// The endpoint for the next attempt, of the newest plan: one that is gone since the request began is not asked.
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<Arc<Endpoint>> {
        self.worker.pick(self.group, self.service, |service| service.http_group(self.port).ok(), ask)
    }

    pub(super) fn count(&self, what: Tally) {
        if let Some(number) = self.number() {
            self.worker.ledger.count(Some(number), what);
        }
    }
}

/// The span of an attempt, which the endpoint is told; 0 when the request is not traced, or is told already.
pub(super) fn begin_span(settle: &Settle, head: Option<&mut Head>) -> u64 {
    match (head, &settle.inlet.way) {
        (_, Way::Inbound) | (None, _) => 0,
        (Some(head), _) => settle.trace.stamp(&mut head.headers, |_| settle.worker.seed().u64() | 1),
    }
}

/// One attempt. A head and body that were not sent are put back; the head is kept when `keep` says so.
pub(super) async fn try_once(
    delivery: &Delivery<'_>,
    endpoint: &Endpoint,
    is_retry: bool,
    head: &mut Option<Head>,
    keep: bool,
    body: &mut Replay,
    begun: Instant,
) -> Outcome {
    match send(delivery, endpoint, is_retry, head, keep, body, begun).await {
        Ok(response) => Outcome::of(endpoint, &delivery.terms.retries, response),
        Err(failure) => Outcome::Failed(failure),
    }
}

async fn send(
    delivery: &Delivery<'_>,
    endpoint: &Endpoint,
    is_retry: bool,
    head: &mut Option<Head>,
    keep: bool,
    body: &mut Replay,
    begun: Instant,
) -> Result<Response<Inflow>, Failure> {
    let terms = delivery.terms;
    let is_grpc = head.as_ref().is_some_and(|head| is_grpc(&head.headers));
    let mut wait = Wait {
        deadline: delivery.deadline.map(|deadline| deadline.at),
        per_try: terms.per_try.map(|limit| begun + limit),
        silence: terms.silence(is_grpc, delivery.deadline.is_some()),
        since: begun,
    };
    let checkout = delivery.worker.pool.checkout(endpoint, delivery.upgrades, is_retry, begun);
    let checkout = match wait.connected() {
        Some(at) => tokio::time::timeout_at(at, checkout).await.map_err(|_| {
            let details = format!("no connection to {} within {:?}", endpoint.name, begun.elapsed());
            Failure::unsent(ProxyError::ConnectionTimeout, details)
        })?,
        None => checkout.await,
    };
    let lease = checkout.map_err(|none| Failure::unsent(none.error, none.details))?;
    let was_reused = lease.is_reused();
    if !was_reused {
        wait.since = Instant::now();
    }
    let mut outgoing = body.take();
    let sent = {
        // Pinned here: handed over, it would take its room twice.
        let answer = pin!(lease.send(Departure { endpoint, head, body: &mut outgoing, keep }));
        in_time(answer, &wait, body.progress()).await
    };
    match sent {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            if let Some(outgoing) = outgoing {
                body.put_back(outgoing);
            }
            let (is_unsent, blame) = (error.is_unsent, Blame::Endpoint);
            if body.progress().is_some_and(Progress::is_broken) {
                let details = format!("the request's body ended early on its way to {}", endpoint.name);
                let (error, is_unsent, blame) = (ProxyError::HttpRequestError, false, Blame::Client);
                return Err(Failure { error, details, is_unsent, was_reused, blame });
            }
            let details = format!("no answer from {}: {}", endpoint.name, error.details);
            Err(Failure { error: error.error, details, is_unsent, was_reused, blame })
        }
        Err(late) => {
            let blame = blame(delivery, endpoint, body, &wait, late, is_grpc);
            let why = match late {
                Late::Deadline if delivery.deadline.is_some_and(|deadline| deadline.is_callers) => {
                    ": the deadline that its caller set"
                }
                Late::Deadline => ": the request's time limit",
                Late::PerTry => ": the time limit of each try",
                Late::Silence => ", and nothing moved",
            };
            let details = format!("no answer from {} within {:?}{why}", endpoint.name, begun.elapsed());
            let error = ProxyError::HttpResponseTimeout;
            Err(Failure { error, details, is_unsent: false, was_reused: false, blame })
        }
    }
}

/// Waits for a head as long as the limits allow, which an upload that moves puts off.
async fn in_time<T>(
    mut answer: Pin<&mut impl Future<Output = T>>,
    wait: &Wait,
    upload: Option<&Progress>,
) -> Result<T, Late> {
    let moved = || upload.map(Progress::moved_at);
    while let Some((at, _)) = wait.due(moved()) {
        if let Ok(answer) = tokio::time::timeout_at(at, answer.as_mut()).await {
            return Ok(answer);
        }
        if let Some((at, late)) = wait.due(moved())
            && at <= Instant::now()
        {
            return Err(late);
        }
    }
    Ok(answer.await)
}

/// Whose fault it is that no answer came in time.
fn blame(
    delivery: &Delivery<'_>,
    endpoint: &Endpoint,
    body: &Replay,
    wait: &Wait,
    late: Late,
    is_grpc: bool,
) -> Blame {
    if let Some(progress) = body.progress().filter(|progress| progress.waits_for_client()) {
        // In a stream both sides may rightly wait for the other; but an endpoint that has answered nobody since has hung.
        let since = delivery.worker.shared.micros(progress.moved_at().max(wait.since));
        let has_hung = late == Late::Silence && is_grpc && !endpoint.vitals.has_answered_since(since);
        return if has_hung { Blame::Endpoint } else { Blame::Client };
    }
    match (late, delivery.deadline) {
        (Late::Deadline, Some(Deadline { is_callers: true, .. })) => Blame::Nobody,
        _ => Blame::Endpoint,
    }
}

/// Tells the endpoint's vitals how an attempt ended.
pub(super) fn note(delivery: &Delivery<'_>, endpoint: &Endpoint, outcome: &Outcome, begun: Instant) {
    let ended = Instant::now();
    let now = delivery.worker.shared.micros(ended);
    let took = ended.saturating_duration_since(begun).as_micros() as u64;
    let verdict = match outcome.word() {
        Word::Verdict(verdict) => verdict,
        Word::Longer => return endpoint.vitals.given_up(now, took),
        Word::Nothing => return,
    };
    if outlier::note(endpoint, verdict, took, now) {
        tracing::warn!(endpoint = %endpoint.name, "endpoint ejected");
        delivery.count(Tally::Ejection);
    }
}
