//! A second try before the first has failed: whichever answers well first wins, the others are cancelled.
//!
//! In:    a request that may be sent twice, the policy.      Out: the try that won, or the last one that failed.
//! Owner: one delivery.
//! Invariant: no two tries are under way to one endpoint; each after the first is paid for as a retry is; one that is cancelled
//! leaves no mark on its endpoint but that it would have taken longer.
//! Not here: what follows when all have failed (`retry`).

use std::sync::Arc;

use causeway_model::Hedge;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::once::{Delivery, begin_span, note, try_once};
use super::outcome::{Failure, Outcome};
use super::replay::Replay;
use crate::balance::{Ask, Pull};
use crate::endpoint::{Endpoint, InFlight};
use crate::outgoing::Head;
use crate::settle::Settle;
use crate::story::{End, Lap};
use crate::tally::Tally;

/// A try that ended.
pub(super) struct Tried {
    pub endpoint: Arc<Endpoint>,
    pub in_flight: InFlight,
    pub outcome: Outcome,
    pub lap: Lap,
}

/// What a race came to.
pub(super) struct Raced {
    /// The winner, or the last that failed.
    pub last: Tried,
    /// Endpoints that failed before.
    pub failed: Vec<u64>,
    /// Why the request may have been processed by one of those.
    pub doubt: Option<Failure>,
}

/// What is sent, to every endpoint alike.
pub(super) struct Message<'a> {
    pub head: &'a Head,
    pub is_retry: bool,
}

/// Sends to `first`, and to a further endpoint whenever there was no answer for a while.
///
/// # Cancel safety
/// Dropping the future cancels all tries.
#[expect(clippy::too_many_arguments, reason = "the state of the delivery that calls it, lent for the race")]
pub(super) async fn race(
    delivery: &Delivery<'_>,
    settle: &mut Settle,
    hedge: &Hedge,
    message: Message<'_>,
    body: &mut Replay,
    first: Arc<Endpoint>,
    tried: &[u64],
    begun: Instant,
) -> Raced {
    let mut running = FuturesUnordered::new();
    let copy = body.copy();
    let mut racers: Vec<(Arc<Endpoint>, Lap)> = Vec::new();
    let (head, span) = stamped(settle, &message);
    let lap = Lap { begun, ended: begun, span };
    racers.push((first.clone(), lap));
    running.push(run(delivery, &message, head, Body::Own(body), first, lap));
    let mut failed: Vec<u64> = Vec::new();
    let mut doubt = None;
    let mut further = hedge.max;
    let next = tokio::time::sleep_until(begun + hedge.after);
    tokio::pin!(next);
    loop {
        let ended = tokio::select! {
            biased;
            ended = running.next(), if !running.is_empty() => ended,
            () = &mut next, if further > 0 => None,
        };
        let now = Instant::now();
        let Some(ended) = ended else {
            further -= 1;
            next.as_mut().reset(now + hedge.after);
            let known: Vec<u64> =
                tried.iter().copied().chain(racers.iter().map(|(endpoint, _)| endpoint.id)).collect();
            // A stream that is not yet known to be short may be by then.
            let Some(body) = copy.get() else { continue };
            match another(delivery, settle, &known, now) {
                Some(endpoint) => {
                    settle.attempts += 1;
                    let (head, span) = stamped(settle, &message);
                    let lap = Lap { begun: now, ended: now, span };
                    racers.push((endpoint.clone(), lap));
                    running.push(run(delivery, &message, head, Body::Copy(body), endpoint, lap));
                }
                None => further = 0,
            }
            continue;
        };
        racers.retain(|(endpoint, _)| endpoint.id != ended.endpoint.id);
        if matches!(ended.outcome, Outcome::Good(..)) || running.is_empty() {
            for (endpoint, lap) in racers {
                give_up(delivery, settle, &endpoint, Lap { ended: now, ..lap });
            }
            return Raced { last: ended, failed, doubt };
        }
        settle.story.attempt(&ended.endpoint, ended.lap, ended.outcome.end());
        failed.push(ended.endpoint.id);
        doubt = doubt.or_else(|| ended.outcome.doubt());
    }
}

/// The request's body: the first try's is the delivery's own, which it may go on sending.
enum Body<'a> {
    Own(&'a mut Replay),
    Copy(Replay),
}

async fn run(
    delivery: &Delivery<'_>,
    message: &Message<'_>,
    head: Head,
    body: Body<'_>,
    endpoint: Arc<Endpoint>,
    lap: Lap,
) -> Tried {
    let begun = lap.begun;
    let mut in_flight = InFlight::new(&endpoint.vitals, delivery.worker.shared.micros(begun));
    let mut head = Some(head);
    let mut own;
    let body = match body {
        Body::Own(body) => body,
        Body::Copy(copy) => {
            own = copy;
            &mut own
        }
    };
    let outcome = try_once(delivery, &endpoint, message.is_retry, &mut head, false, body, begun).await;
    if outcome.is_answered() {
        in_flight.answered();
    }
    note(delivery, &endpoint, &outcome, begun);
    let lap = Lap { ended: Instant::now(), ..lap };
    Tried { endpoint, in_flight, outcome, lap }
}

/// The head of a try of its own, and its span.
fn stamped(settle: &Settle, message: &Message<'_>) -> (Head, u64) {
    let mut head = message.head.clone();
    let span = begin_span(settle, Some(&mut head));
    (head, span)
}

/// An endpoint that has no part in the request yet, if the budget allows for one.
fn another(delivery: &Delivery<'_>, settle: &Settle, known: &[u64], now: Instant) -> Option<Arc<Endpoint>> {
    let now = delivery.worker.shared.micros(now);
    // What ties the request to one endpoint has been followed with the first try.
    let ask = Ask { tried: known, pull: Pull::default(), now };
    let endpoint = delivery.pick(&ask)?;
    if known.contains(&endpoint.id) {
        return None;
    }
    let service = delivery.service?;
    if !service.budget.withdraw(delivery.terms.retries.grant, now) {
        return None;
    }
    debug_assert!(settle.attempts > 0, "the first was counted by the delivery");
    delivery.count(Tally::Hedge);
    Some(endpoint)
}

fn give_up(delivery: &Delivery<'_>, settle: &mut Settle, endpoint: &Arc<Endpoint>, lap: Lap) {
    let took = lap.ended.saturating_duration_since(lap.begun).as_micros() as u64;
    endpoint.vitals.given_up(delivery.worker.shared.micros(lap.ended), took);
    settle.story.attempt(endpoint, lap, End::GivenUp("another endpoint was faster"));
}
