//! Whether an attempt that failed is followed by another, and after how long. Pure.
//!
//! In:    how it ended, what the request allows, what the policy says, the budget.      Out: a wait, or nothing.
//! Owner: one delivery.
//! Invariant: a request of which a byte may have been processed is sent again only when it is idempotent or its rule names the
//! status that it was answered with; a retry costs of the service's budget unless nothing had been sent.
//! Not here: sending (`once`), what the policy is (`terms`).

use std::time::Duration;

use causeway_wire::ProxyError;

use super::terms::Retries;
use crate::limits;

/// How an attempt ended, as far as a retry cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With an answer that the policy's codes name.
    Named { retry_after: Option<Duration> },
    /// With a sidecar's word that its app did not get the request, or may have.
    Refused { error: ProxyError, retry_after: Option<Duration> },
    /// Without an answer.
    Failed { error: ProxyError, is_unsent: bool, was_reused: bool, is_clients: bool },
}

/// What a request allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// It may be processed twice.
    pub is_idempotent: bool,
    /// Its head and body are at hand.
    pub is_at_hand: bool,
    /// We are in front of the app itself, and its caller's sidecar is in front of us.
    pub is_inbound: bool,
    /// There are other endpoints.
    pub has_others: bool,
    /// Time that is left; without end when none.
    pub left: Option<Duration>,
}

/// After what wait the attempt of this number (the first is 0) is followed by another. `drawn` is from 0 to 1; `pay` takes from the
/// budget and is asked last.
pub(super) fn next(
    ended: Ended,
    allowed: Allowed,
    retries: &Retries<'_>,
    attempt: u32,
    drawn: f64,
    pay: impl FnOnce() -> bool,
) -> Option<Duration> {
    if !allowed.is_at_hand || allowed.left.is_some_and(|left| left.is_zero()) {
        return None;
    }
    let is_race = attempt == 0 && is_idle_race(ended);
    // Nobody need know of it, whatever the policy says of failures. In front of its app a sidecar mends nothing else: whether a
    // request is sent again, and how often, is for the caller to say, or their retries would multiply.
    if is_race && matches!(ended, Ended::Failed { .. }) {
        return Some(Duration::ZERO);
    }
    let has_where = allowed.has_others || is_race || retries.is_asked;
    if allowed.is_inbound || attempt >= retries.attempts || !has_where || !is_safe(ended, allowed) {
        return None;
    }
    let wait = wait(ended, allowed, retries, attempt, drawn)?;
    let is_in_time = allowed.left.is_none_or(|left| wait < left);
    (is_in_time && (is_free(ended) || pay())).then_some(wait)
}

/// The request met the end of a connection that had been idle.
fn is_idle_race(ended: Ended) -> bool {
    match ended {
        Ended::Failed { is_unsent, was_reused, .. } => is_unsent && was_reused,
        // The sidecar in front of the app lost it, and leaves it to us to try again.
        Ended::Refused { error, .. } => error == ProxyError::ConnectionTerminated,
        Ended::Named { .. } => false,
    }
}

fn is_safe(ended: Ended, allowed: Allowed) -> bool {
    match ended {
        // The policy's author says that it may be sent again.
        Ended::Named { .. } => true,
        Ended::Failed { is_clients: true, .. } => false,
        Ended::Failed { is_unsent: true, .. } => true,
        // What it says of the request, and what it says of policies, it says again.
        Ended::Refused { error, .. } if error.status() < 500 => false,
        Ended::Refused { error, .. } if !error.may_be_processed() => true,
        Ended::Failed { error, .. } | Ended::Refused { error, .. } => {
            allowed.is_idempotent && error != ProxyError::ProxyInternalError
        }
    }
}

/// Nothing was sent, so nothing is asked of the service a second time. An endpoint that turns requests away because it has too many
/// is asked again only as far as the budget goes.
fn is_free(ended: Ended) -> bool {
    match ended {
        Ended::Failed { is_unsent, .. } => is_unsent,
        Ended::Refused { error, .. } => {
            !error.may_be_processed() && error != ProxyError::ConnectionLimitReached
        }
        Ended::Named { .. } => false,
    }
}

/// `None` when the service asks for more patience than a client has.
fn wait(ended: Ended, allowed: Allowed, retries: &Retries<'_>, attempt: u32, drawn: f64) -> Option<Duration> {
    let base = match (retries.backoff, attempt) {
        (Some(backoff), _) => backoff,
        // It goes to another host, where there is nothing to wait for.
        (None, 0) if allowed.has_others => Duration::ZERO,
        (None, _) => limits::BACKOFF,
    };
    let longest = base.max(limits::BACKOFF_MAX);
    let doubled = base.saturating_mul(1 << attempt.min(16)).min(longest);
    let jittered = doubled + doubled.mul_f64(drawn / 2.0);
    match ended {
        Ended::Named { retry_after: Some(after) } | Ended::Refused { retry_after: Some(after), .. } => {
            (after <= limits::RETRY_AFTER_MAX).then(|| jittered.max(after))
        }
        _ => Some(jittered),
    }
}

#[cfg(test)]
mod tests {
    use ProxyError::{
        ConnectionLimitReached, ConnectionRefused, ConnectionTerminated, HttpRequestDenied, HttpRequestError,
        HttpResponseTimeout, ProxyInternalError,
    };

    use super::*;

    const NAMED: Ended = Ended::Named { retry_after: None };
    const IDEMPOTENT: Allowed =
        Allowed { is_idempotent: true, is_at_hand: true, is_inbound: false, has_others: true, left: None };
    const ONCE: Allowed = Allowed { is_idempotent: false, ..IDEMPOTENT };
    const ALONE: Allowed = Allowed { has_others: false, ..IDEMPOTENT };
    const INBOUND: Allowed = Allowed { is_inbound: true, ..IDEMPOTENT };

    fn failed(error: ProxyError) -> Ended {
        Ended::Failed { error, is_unsent: false, was_reused: false, is_clients: false }
    }

    fn unsent(error: ProxyError) -> Ended {
        Ended::Failed { error, is_unsent: true, was_reused: false, is_clients: false }
    }

    fn raced() -> Ended {
        Ended::Failed { error: ConnectionTerminated, is_unsent: true, was_reused: true, is_clients: false }
    }

    fn refused(error: ProxyError) -> Ended {
        Ended::Refused { error, retry_after: None }
    }

    fn usual() -> Retries<'static> {
        Retries::default()
    }

    /// `stop`, `free` or `paid`.
    fn what(ended: Ended, allowed: Allowed, retries: &Retries<'_>, attempt: u32) -> &'static str {
        let mut is_paid = false;
        let pay = || {
            is_paid = true;
            true
        };
        match next(ended, allowed, retries, attempt, 0.0, pay) {
            None => "stop",
            Some(_) if is_paid => "paid",
            Some(_) => "free",
        }
    }

    #[test]
    fn what_is_tried_again_and_who_pays() {
        let clients =
            Ended::Failed { error: HttpRequestError, is_unsent: false, was_reused: false, is_clients: true };
        let gone = Allowed { is_at_hand: false, ..IDEMPOTENT };
        let over = Allowed { left: Some(Duration::ZERO), ..IDEMPOTENT };
        for (case, ended, allowed, attempt, expected) in [
            ("no connection", unsent(ConnectionRefused), ONCE, 0, "free"),
            ("no connection, again", unsent(ConnectionRefused), ONCE, 1, "free"),
            ("no connection, too often", unsent(ConnectionRefused), ONCE, 2, "stop"),
            ("no connection, nobody else", unsent(ConnectionRefused), ALONE, 0, "stop"),
            ("stream refused", unsent(ConnectionTerminated), ONCE, 0, "free"),
            ("broken off, idempotent", failed(ConnectionTerminated), IDEMPOTENT, 0, "paid"),
            ("broken off, not idempotent", failed(ConnectionTerminated), ONCE, 0, "stop"),
            ("late, idempotent", failed(HttpResponseTimeout), IDEMPOTENT, 0, "paid"),
            ("late, not idempotent", failed(HttpResponseTimeout), ONCE, 0, "stop"),
            ("the client's upload broke", clients, IDEMPOTENT, 0, "stop"),
            ("we are broken", failed(ProxyInternalError), IDEMPOTENT, 0, "stop"),
            ("a named status", NAMED, ONCE, 0, "paid"),
            ("a streamed body was begun", failed(ConnectionTerminated), gone, 0, "stop"),
            ("a named status, a streamed body", NAMED, gone, 0, "stop"),
            ("no time is left", unsent(ConnectionRefused), over, 0, "stop"),
            ("idle race", raced(), ONCE, 0, "free"),
            ("idle race, nobody else", raced(), ALONE, 0, "free"),
            ("idle race, a second time", raced(), ALONE, 1, "stop"),
            ("idle race in front of the app", raced(), INBOUND, 0, "free"),
            ("idle race in front of the app, a second time", raced(), INBOUND, 1, "stop"),
            ("no connection to the app", unsent(ConnectionRefused), INBOUND, 0, "stop"),
            ("the app's answer broke off", failed(ConnectionTerminated), INBOUND, 0, "stop"),
            ("the app says a named status", NAMED, INBOUND, 0, "stop"),
            ("the sidecar says that its app is not there", refused(ConnectionRefused), ONCE, 0, "free"),
            ("the sidecar says that its app broke off", refused(ConnectionTerminated), ONCE, 0, "stop"),
            ("the same, idempotent, nobody else", refused(ConnectionTerminated), ALONE, 0, "paid"),
            ("the sidecar has too many", refused(ConnectionLimitReached), ONCE, 0, "paid"),
            ("the sidecar says that we may not", refused(HttpRequestDenied), IDEMPOTENT, 0, "stop"),
        ] {
            assert_eq!(what(ended, allowed, &usual(), attempt), expected, "{case}");
        }
    }

    #[test]
    fn the_policy_says_how_often_and_an_empty_purse_ends_it() {
        let never = Retries { attempts: 0, is_asked: true, ..usual() };
        assert_eq!(what(NAMED, IDEMPOTENT, &never, 0), "stop");
        assert_eq!(what(unsent(ConnectionRefused), IDEMPOTENT, &never, 0), "stop");
        assert_eq!(what(raced(), IDEMPOTENT, &never, 0), "free", "nothing was sent and nobody need know");
        let often = Retries { attempts: 5, is_asked: true, ..usual() };
        assert_eq!(what(NAMED, ALONE, &often, 4), "paid", "asked for, so at the same host too");
        assert_eq!(what(NAMED, ALONE, &often, 5), "stop");
        assert_eq!(next(NAMED, IDEMPOTENT, &often, 0, 0.0, || false), None);
        let free = next(unsent(ConnectionRefused), IDEMPOTENT, &often, 0, 0.0, || panic!("asked to pay"));
        assert_eq!(free, Some(Duration::ZERO));
    }

    #[test]
    fn waits_double_with_jitter_and_follow_retry_after() {
        let millis = Duration::from_millis;
        let slow = Retries { backoff: Some(millis(100)), attempts: 10, ..usual() };
        let after = |seconds| Ended::Named { retry_after: Some(Duration::from_secs(seconds)) };
        let soon = Allowed { left: Some(millis(150)), ..IDEMPOTENT };
        let many = Retries { attempts: 10, ..usual() };
        for (case, ended, allowed, retries, attempt, drawn, expected) in [
            ("the first goes elsewhere at once", NAMED, IDEMPOTENT, &many, 0, 0.9, Some(millis(0))),
            ("or waits when there is no elsewhere", raced(), ALONE, &many, 0, 0.9, Some(millis(0))),
            ("the second waits", NAMED, IDEMPOTENT, &many, 1, 0.0, Some(millis(10))),
            ("at least what is written", NAMED, IDEMPOTENT, &slow, 0, 0.0, Some(millis(100))),
            ("and at most half more", NAMED, IDEMPOTENT, &slow, 0, 1.0, Some(millis(150))),
            ("doubled", NAMED, IDEMPOTENT, &slow, 2, 0.0, Some(millis(400))),
            ("within bounds", NAMED, IDEMPOTENT, &slow, 9, 0.0, Some(limits::BACKOFF_MAX)),
            ("the service asks for a second", after(1), IDEMPOTENT, &slow, 0, 0.0, Some(millis(1000))),
            ("less than we wait anyway", after(0), IDEMPOTENT, &slow, 0, 0.0, Some(millis(100))),
            ("more than a client waits", after(60), IDEMPOTENT, &slow, 0, 0.0, None),
            ("more than is left", NAMED, soon, &slow, 0, 1.0, None),
            ("less than is left", NAMED, soon, &slow, 0, 0.5, Some(millis(125))),
        ] {
            assert_eq!(next(ended, allowed, retries, attempt, drawn, || true), expected, "{case}");
        }
    }
}
