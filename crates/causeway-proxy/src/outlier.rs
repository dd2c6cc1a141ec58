//! Ejects endpoints that keep failing, and lets them back in.
//!
//! In:    how each attempt ended.      Out: `ejected_until` in the endpoint's vitals.
//! Owner: the worker that saw the attempt.
//! Invariant: never more than half of a group's endpoints (rounded down) are out, so a lone endpoint never is.
//! Not here: what is chosen when all are out (`balance`: panic, all are used).

use std::sync::atomic::Ordering::Relaxed;

use crate::balance::Group;
use crate::endpoint::{Endpoint, Micros};

/// Failed answers (5xx, timeout, reset) in a row that eject.
const FAILURES_MAX: u32 = 5;
/// A failed connection counts for more: nobody is there, and a second attempt will not find anybody either.
const CONNECT_FAILURE_WEIGHT: u32 = 2;
/// First ejection; doubled with each further one.
const EJECTION_BASE: Micros = 5_000_000;
/// Longest ejection.
const EJECTION_MAX: Micros = 60_000_000;

/// How an attempt ended, as its endpoint's health sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// It answered, badly or too late, or broke while answering.
    Failed,
    /// No connection could be made.
    Unreachable,
}

/// Takes the end of an attempt in. Returns whether the endpoint was ejected by it.
pub(crate) fn note(group: &Group, endpoint: &Endpoint, verdict: Verdict, now: Micros) -> bool {
    let vitals = &endpoint.vitals;
    let by = match verdict {
        Verdict::Good => {
            // A plain load first: on the healthy path no line is written, so none is shared between cores.
            if vitals.failures.load(Relaxed) != 0 {
                vitals.failures.store(0, Relaxed);
                vitals.ejections.store(vitals.ejections.load(Relaxed) / 2, Relaxed);
            }
            return false;
        }
        Verdict::Failed => 1,
        Verdict::Unreachable => CONNECT_FAILURE_WEIGHT,
    };
    let failures = vitals.failures.fetch_add(by, Relaxed) + by;
    if failures < FAILURES_MAX || vitals.is_ejected(now) {
        return false;
    }
    let out = group.endpoints.iter().filter(|other| other.vitals.is_ejected(now)).count();
    if (out + 1) * 2 > group.endpoints.len() {
        return false;
    }
    let times = vitals.ejections.fetch_add(1, Relaxed).min(16);
    vitals.ejected_until.store(now + (EJECTION_BASE << times).min(EJECTION_MAX), Relaxed);
    // When it comes back, one further failure is enough.
    vitals.failures.store(FAILURES_MAX - 1, Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u64) -> Group {
        Group::new((0..n).map(|id| Endpoint::for_test(id, 1)).collect())
    }

    #[test]
    fn failures_in_a_row_eject_and_longer_each_time() {
        let group = group(2);
        let bad = &group.endpoints[0];
        let fail = |now| note(&group, bad, Verdict::Failed, now);
        assert_eq!((0..4).map(|_| fail(0)).filter(|out| *out).count(), 0);
        note(&group, bad, Verdict::Good, 0);
        assert_eq!((0..5).map(|_| fail(0)).filter(|out| *out).count(), 1);
        assert!(bad.vitals.is_ejected(EJECTION_BASE - 1) && !bad.vitals.is_ejected(EJECTION_BASE));
        assert!(fail(EJECTION_BASE), "back on probation: one failure");
        assert!(bad.vitals.is_ejected(EJECTION_BASE * 3 - 1));
    }

    #[test]
    fn at_most_half_are_out() {
        for (n, expected) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
            let group = group(n);
            for endpoint in &group.endpoints {
                for _ in 0..10 {
                    note(&group, endpoint, Verdict::Unreachable, 0);
                }
            }
            let out = group.endpoints.iter().filter(|e| e.vitals.is_ejected(1)).count();
            assert_eq!(out, expected, "of {n}");
        }
    }
}
