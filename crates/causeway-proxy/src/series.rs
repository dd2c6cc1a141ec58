//! Which series a scrape may show: so many in all, whatever the traffic.
//!
//! In:    what the workers counted, summed up.      Out: the same with what does not fit added up as one service, `_other`.
//! Owner: the proxy's handle; asked at each scrape, nothing runs between them.
//! Invariant: never more than [`SERIES_MAX`] series; what once had series of its own keeps them, so that no counter runs backwards.
//! Not here: counting (`ledger`), printing (`metrics`).

use std::collections::{BTreeMap, BTreeSet};

use causeway_model::ServiceKey;

use crate::counts::{BUCKETS, CLASSES, Counts, Durations};
use crate::limits::{POLICIES_SHOWN_MAX, SERIES_MAX, SERIES_POLICIES_MAX};
use crate::tally::{Tallies, Tally};

/// Series of one histogram: its buckets, sum and count.
const HISTOGRAM: usize = BUCKETS.len() + 3;
/// Kept for what is there in any case: the server's side, calls without a service, `_other`, gauges, policies.
const RESERVED: usize = 3 * (CLASSES.len() * HISTOGRAM + Tally::ALL.len())
    + POLICIES_SHOWN_MAX
    + 3 * (SERIES_POLICIES_MAX + 1)
    + 40;

/// Whose counts are shown: none for requests that went to no service of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Whose {
    /// Requests that went to no service of the mesh.
    Nobody,
    Service(ServiceKey),
    /// Services beyond what can be shown.
    Other,
}

/// Sums by whose and status class, and by whose and tally.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub durations: BTreeMap<(Whose, usize), Durations>,
    pub tallies: BTreeMap<Whose, Tallies>,
}

impl Sums {
    pub(crate) fn add(&mut self, whose: &Whose, counts: &Counts) {
        for (class, durations) in counts.classes.iter().enumerate() {
            if let Some(durations) = durations {
                self.durations.entry((whose.clone(), class)).or_default().merge(durations);
            }
        }
        if let Some(tallies) = &counts.tallies {
            let sums = self.tallies.entry(whose.clone()).or_insert([0; Tally::ALL.len()]);
            sums.iter_mut().zip(**tallies).for_each(|(sum, count)| *sum += count);
        }
    }
}

/// What has been given series of its own.
#[derive(Debug, Default)]
pub(crate) struct Series {
    durations: BTreeSet<(ServiceKey, usize)>,
    tallies: BTreeSet<(ServiceKey, usize)>,
}

impl Series {
    /// Adds up what has no series. The busiest services come first when there is a choice.
    pub(crate) fn fit(&mut self, sums: Sums) -> Sums {
        self.grant(&sums);
        let mut shown = Sums::default();
        for ((whose, class), durations) in sums.durations {
            let whose = shown_as(whose, |service| self.durations.contains(&(service.clone(), class)));
            shown.durations.entry((whose, class)).or_default().merge(&durations);
        }
        for (whose, tallies) in sums.tallies {
            for (at, count) in tallies.iter().enumerate().filter(|(_, count)| **count > 0) {
                let whose = shown_as(whose.clone(), |service| self.tallies.contains(&(service.clone(), at)));
                shown.tallies.entry(whose).or_insert([0; Tally::ALL.len()])[at] += count;
            }
        }
        shown
    }

    fn grant(&mut self, sums: &Sums) {
        let mut left =
            (SERIES_MAX - RESERVED).saturating_sub(self.durations.len() * HISTOGRAM + self.tallies.len());
        let mut new: Vec<(u64, ServiceKey, usize)> = Vec::new();
        for ((whose, class), durations) in &sums.durations {
            if let Whose::Service(service) = whose
                && !self.durations.contains(&(service.clone(), *class))
            {
                new.push((durations.count(), service.clone(), *class));
            }
        }
        new.sort_by_key(|(count, ..)| std::cmp::Reverse(*count));
        // A part is left for tallies, which are few and tell most.
        for (_, service, class) in new {
            if left < HISTOGRAM * 10 {
                break;
            }
            left -= HISTOGRAM;
            self.durations.insert((service, class));
        }
        for (whose, tallies) in &sums.tallies {
            let Whose::Service(service) = whose else { continue };
            for at in (0..tallies.len()).filter(|at| tallies[*at] > 0) {
                if left > 0 && self.tallies.insert((service.clone(), at)) {
                    left -= 1;
                }
            }
        }
    }
}

fn shown_as(whose: Whose, has_series: impl Fn(&ServiceKey) -> bool) -> Whose {
    match whose {
        Whose::Service(service) if !has_series(&service) => Whose::Other,
        whose => whose,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: usize) -> Whose {
        Whose::Service(ServiceKey::parse("default", &format!("s{number}")).unwrap())
    }

    fn counts(status: u16, times: usize) -> Counts {
        let mut counts = Counts::default();
        (0..times).for_each(|_| counts.add(status, 700));
        counts.tally(Tally::Retry, 1);
        counts
    }

    fn count(sums: &Sums) -> usize {
        let tallies = sums.tallies.values().flatten().filter(|count| **count > 0).count();
        sums.durations.len() * HISTOGRAM + tallies
    }

    #[test]
    fn the_reserve_leaves_room_for_services() {
        const { assert!(SERIES_MAX - RESERVED >= 1_000) };
    }

    #[test]
    fn thousands_of_services_fit_and_nothing_is_lost() {
        let mut series = Series::default();
        for round in 1..=3 {
            let mut sums = Sums::default();
            for number in 0..5_000 {
                for status in [200, 404, 503] {
                    sums.add(&service(number), &counts(status, round));
                }
            }
            let shown = series.fit(sums);
            assert!(count(&shown) <= SERIES_MAX - RESERVED + CLASSES.len() * HISTOGRAM + Tally::ALL.len());
            let all: u64 = shown.durations.values().map(Durations::count).sum();
            assert_eq!(all as usize, 15_000 * round);
            assert_eq!(shown.tallies.values().flatten().sum::<u64>(), 15_000);
        }
    }

    #[test]
    fn whoever_has_series_keeps_them_and_the_busiest_get_them_first() {
        let mut series = Series::default();
        let mut first = Sums::default();
        first.add(&service(4_999), &counts(200, 50));
        (0..300).for_each(|number| first.add(&service(number), &counts(200, 1)));
        let shown = series.fit(first);
        assert!(shown.durations.contains_key(&(service(4_999), 2)));
        let own: Vec<_> = shown.durations.keys().cloned().collect();
        let mut second = Sums::default();
        (0..5_000).for_each(|number| second.add(&service(number), &counts(200, 100)));
        let shown = series.fit(second);
        assert!(own.iter().all(|key| shown.durations.contains_key(key)), "no counter disappears");
    }
}
