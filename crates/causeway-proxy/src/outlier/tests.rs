use std::sync::Arc;
use std::time::Duration;

use causeway_model::Outlier;

use super::*;
use crate::circle::{Circle, Ejection};

const SECOND: Micros = 1_000_000;

fn endpoints(n: u64, policy: Option<&Outlier>) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = (0..n).map(|id| Endpoint::alone_for_test(id, 1)).collect();
    let members = endpoints.iter().map(|endpoint| endpoint.vitals.clone()).collect();
    let circle = Arc::new(Circle::new(Ejection::new(policy), members));
    endpoints.iter_mut().for_each(|endpoint| endpoint.circle = circle.clone());
    endpoints
}

fn fail(endpoint: &Endpoint, now: Micros) -> bool {
    note(endpoint, Verdict::Failed, 1, now)
}

#[test]
fn failures_in_a_row_eject_and_longer_each_time() {
    let all = endpoints(2, None);
    let bad = &all[0];
    assert_eq!((0..4).filter(|_| fail(bad, 0)).count(), 0);
    note(bad, Verdict::Good, 1, 0);
    assert_eq!((0..5).filter(|_| fail(bad, 0)).count(), 1);
    assert!(bad.vitals.is_ejected(5 * SECOND - 1) && !bad.vitals.is_ejected(5 * SECOND));
    assert!(fail(bad, 5 * SECOND), "back on probation: one failure");
    assert!(bad.vitals.is_ejected(15 * SECOND - 1) && !bad.vitals.is_ejected(15 * SECOND));
    note(bad, Verdict::Good, 1, 15 * SECOND);
    assert_eq!((0..4).filter(|_| fail(bad, 16 * SECOND)).count(), 0, "well again: it takes as many as ever");
    assert!(fail(bad, 16 * SECOND));
}

#[test]
fn answers_that_begin_well_and_end_badly_eject_too() {
    let all = endpoints(2, None);
    let bad = &all[0];
    let late = |now| {
        note(bad, Verdict::Good, 1, now);
        note_end(bad, false, now)
    };
    assert!(!(0..4).any(|_| late(0)));
    assert!(!note_end(bad, true, 0), "one that ends well makes all good");
    assert!(!(0..4).any(|_| late(0)));
    assert!(late(0) && bad.vitals.is_ejected(1));
    assert!(late(6 * SECOND), "back from an ejection one more is enough");
}

#[test]
fn a_policy_says_after_how_many_for_how_long_and_how_many_at_once() {
    let seconds = |n| Some(Duration::from_secs(n));
    let policy = Outlier { failures: Some(2), base: seconds(1), max: seconds(3), max_percent: Some(100) };
    let all = endpoints(2, Some(&policy));
    let mut now = 0;
    for expected in [1, 2, 3, 3] {
        while !fail(&all[0], now) {}
        assert!(all[0].vitals.is_ejected(now + expected * SECOND - 1));
        now += expected * SECOND;
        assert!(!all[0].vitals.is_ejected(now));
    }
    assert!(!fail(&all[1], now) && fail(&all[1], now));
    assert!(fail(&all[0], now) && all.iter().all(|e| e.vitals.is_ejected(now)), "all of them may be out");
    let never = endpoints(4, Some(&Outlier { failures: Some(0), ..Outlier::default() }));
    assert!((0..100).all(|_| !fail(&never[0], 0)));
}

#[test]
fn by_default_at_most_half_are_out() {
    for (n, expected) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
        let all = endpoints(n, None);
        for endpoint in &all {
            for _ in 0..10 {
                note(endpoint, Verdict::Unreachable, 1, 0);
            }
        }
        assert_eq!(all.iter().filter(|e| e.vitals.is_ejected(1)).count(), expected, "of {n}");
    }
}

#[test]
fn a_part_of_one_endpoint_can_lose_it_to_the_whole() {
    // Four instances of the service, one of which is all of its subset: the circle is the whole's.
    let all = endpoints(4, None);
    let subset = &all[3];
    while !fail(subset, 0) {}
    assert!(subset.vitals.is_ejected(1));
}
