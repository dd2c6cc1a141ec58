//! The retry budget of a service: what is answered well pays for what is sent again.
//!
//! In:    answers, retries that want to be sent.      Out: whether one may.
//! Owner: the service of the plan; it outlives plans. Atomics, shared by all workers of a proxy.
//! Invariant: in the long run retries are at most a share of the requests that were answered well, and a few each second whatever
//! the traffic: a service that fails altogether gets hardly one request more than it would without retries.
//! Not here: which failures are worth a retry (`attempt::retry`).
//!
//! Requests that failed pay nothing in. Budgets that grow with every request let a dead service have a fifth more load for as long
//! as it is dead, and with three hops in a row 1.2³. What may be saved up follows what is under way: when one of several instances
//! dies, all that it had under way (at most about half of it all) is sent again at once, and none of that fails.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::endpoint::Micros;

/// A retry's price; a request pays so many thousandths of it in.
const PRICE: i64 = 1000;

/// What a budget allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Share (percent) of the requests that may be retries.
    pub percent: u8,
    /// Retries each second whatever the traffic.
    pub per_second: u32,
}

impl Default for Grant {
    fn default() -> Self {
        Grant { percent: 20, per_second: 10 }
    }
}

/// The budget of one service.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    saved: AtomicI64,
    /// The second (upper half) and how many retries it had whatever the traffic (lower half).
    second: AtomicU64,
}

impl Budget {
    /// A request was answered well; `under_way` are the service's requests that were under way with it.
    pub(crate) fn deposit(&self, grant: Grant, under_way: u32) {
        let most = i64::from(grant.per_second) + i64::from(under_way / 2) + 1;
        // A plain load first: on the healthy path the purse is full and no line is written.
        if self.saved.load(Relaxed) < most * PRICE {
            self.saved.fetch_add(i64::from(grant.percent) * PRICE / 100, Relaxed);
        }
    }

    /// Whether a retry may be sent now.
    pub(crate) fn withdraw(&self, grant: Grant, now: Micros) -> bool {
        let second = (now / 1_000_000) << 32;
        let free = self.second.try_update(Relaxed, Relaxed, |held| {
            let count = if held & !0xFFFF_FFFF == second { held & 0xFFFF_FFFF } else { 0 };
            (count < u64::from(grant.per_second)).then_some(second | (count + 1))
        });
        free.is_ok()
            || self
                .saved
                .try_update(Relaxed, Relaxed, |saved| (saved >= PRICE).then_some(saved - PRICE))
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Grant = Grant { percent: 20, per_second: 10 };

    /// Retries allowed when so many requests come in a second, each of which fails and wants another try `wants` times unless the
    /// service answers well the first time, which it does in `good_percent` of the cases.
    fn retries(requests: u64, good_percent: u64, wants: u64) -> u64 {
        let budget = Budget::default();
        let mut sent = 0;
        for request in 0..requests {
            let now = request * 1_000_000 / 1_000;
            if request % 100 < good_percent {
                budget.deposit(USUAL, 32);
            } else {
                sent += (0..wants).filter(|_| budget.withdraw(USUAL, now)).count() as u64;
            }
        }
        sent
    }

    #[test]
    fn a_share_of_what_is_answered_well_is_tried_again() {
        for (good_percent, least, most) in [
            // Everything that fails is tried again once.
            (90, 1_000, 2_000),
            (84, 1_600, 1_800),
            // More than the budget pays for.
            (50, 1_000, 1_130),
            (10, 200, 330),
            // Ten a second.
            (0, 100, 100),
        ] {
            let sent = retries(10_000, good_percent, 2);
            assert!(
                (least..=most).contains(&sent),
                "{good_percent} % good: {sent} retries of 10,000 requests"
            );
        }
    }

    #[test]
    fn what_was_under_way_at_one_of_two_instances_can_be_sent_again_at_once() {
        let budget = Budget::default();
        (0..1000).for_each(|_| budget.deposit(USUAL, 64));
        assert!((0..32).all(|_| budget.withdraw(USUAL, 0)));
        // Ten each second are free, ten more are saved up, and one is what a lone caller's good answers pay for.
        assert!((0..100).filter(|_| budget.withdraw(USUAL, 0)).count() <= 21, "and little more");
    }

    #[test]
    fn a_quiet_service_has_its_few_each_second() {
        let budget = Budget::default();
        for second in 5..8 {
            let sent = (0..100).filter(|n| budget.withdraw(USUAL, second * 1_000_000 + n)).count();
            assert_eq!(sent, 10, "second {second}");
        }
        let none = Grant { percent: 0, per_second: 0 };
        (0..100).for_each(|_| budget.deposit(none, 100));
        assert!(!budget.withdraw(none, 9_000_000));
    }
}
