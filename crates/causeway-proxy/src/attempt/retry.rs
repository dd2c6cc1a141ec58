//! Whether an attempt that failed is followed by another, and after how long.
//!
//! In:    how it ended, the rule, the budget.      Out: a wait, or nothing.
//! Owner: one delivery.
//! Invariant: a request of which a byte may have been processed is sent again only when it is idempotent; that costs of the
//! service's budget.
//! Not here: sending (`once`).

use std::time::Duration;

use causeway_wire::ProxyError;
use tokio::time::Instant;

use super::once::Delivery;
use super::outcome::Outcome;
use crate::inlet::Way;
use crate::limits;

/// Whether an attempt that failed is followed by another, and after how long.
pub(super) fn retry_wait(
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
        Outcome::Failed(failure) | Outcome::Bad(_, Some(failure)) => Some(failure),
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
