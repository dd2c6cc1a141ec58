//! Ejects endpoints that keep failing, and lets them back in: one request at a time until one has gone well.
//!
//! In:    how each attempt ended.      Out: `ejected_until` in the endpoint's vitals.
//! Owner: the worker that saw the attempt.
//! Invariant: no more of a service's endpoints are out than its policy allows (two workers at the same moment may each eject one).
//! Not here: how many those are (`circle`), what is chosen when too few are left (`balance`: panic, all are used).

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::endpoint::{Endpoint, Micros};

/// A failed connection counts for more: nobody is there, and a second attempt will not find anybody either.
const CONNECT_FAILURE_WEIGHT: u32 = 3;

/// How an attempt ended, as its endpoint's health sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// It answered, badly or too late, or broke while answering.
    Failed,
    /// No connection could be made.
    Unreachable,
}

/// Takes the end of an attempt in, which took so long. Returns whether the endpoint was ejected by it.
pub(crate) fn note(endpoint: &Endpoint, verdict: Verdict, took: Micros, now: Micros) -> bool {
    let vitals = &endpoint.vitals;
    let by = match verdict {
        Verdict::Good => {
            vitals.answered(now, took);
            // A plain load first: on the healthy path no line is written, so none is shared between cores.
            // An answer from before an ejection says nothing of what is after it.
            if vitals.failures.load(Relaxed) != 0 && !vitals.is_ejected(now) {
                vitals.recovered();
            }
            return false;
        }
        Verdict::Failed => 1,
        Verdict::Unreachable => CONNECT_FAILURE_WEIGHT,
    };
    vitals.failed(now, took, verdict == Verdict::Unreachable);
    // Back from an ejection one further failure is enough.
    let failures_max = if vitals.is_on_probation() { 1 } else { endpoint.circle.ejection.failures };
    strike(endpoint, &vitals.failures, by, failures_max, now)
}

/// Takes the end of an answer in that had begun well: it broke, hung, or said in its trailers that the service is at fault. Those are
/// counted by themselves, since the next answer's beginning may be as good.
pub(crate) fn note_end(endpoint: &Endpoint, is_well: bool, now: Micros) -> bool {
    let vitals = &endpoint.vitals;
    if is_well {
        if vitals.late_failures.load(Relaxed) != 0 {
            vitals.late_failures.store(0, Relaxed);
        }
        return false;
    }
    vitals.failed(now, 0, false);
    strike(endpoint, &vitals.late_failures, 1, endpoint.circle.ejection.failures, now)
}

/// Counts failures, and ejects when there were too many in a row.
fn strike(endpoint: &Endpoint, count: &AtomicU32, by: u32, failures_max: u32, now: Micros) -> bool {
    let (vitals, ejection) = (&endpoint.vitals, &endpoint.circle.ejection);
    let failures = count.fetch_add(by, Relaxed).saturating_add(by);
    if ejection.failures == 0 || failures < failures_max || vitals.is_ejected(now) {
        return false;
    }
    if !endpoint.circle.may_lose_one(now) {
        return false;
    }
    let length = ejection.length(vitals.ejections.fetch_add(1, Relaxed));
    vitals.eject(now + length);
    true
}

#[cfg(test)]
#[path = "outlier/tests.rs"]
mod tests;
