//! Chooses an endpoint: the cheaper of two drawn by weight (peak-EWMA, power of two choices). Pure.
//!
//! In:    a group's endpoints, which of them were tried, a seed, the time.      Out: one of them.
//! Owner: the plan holds groups; a worker brings its own seed.
//! Invariant: an ejected or tried endpoint is chosen only when there is no other; the same seed chooses the same.
//! Not here: what an endpoint costs (`endpoint`), when it is ejected (`outlier`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use causeway_base::Seed;

use crate::endpoint::{Endpoint, Micros};
use crate::limits::IN_FLIGHT_PER_ENDPOINT_MAX;

/// Draws of a pair before the slow way is taken.
const DRAWS: usize = 3;

/// The endpoints of one service on one port.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Running sums of weights; empty when all weights are equal.
    sums: Vec<u32>,
    weight_mean: f64,
}

impl Group {
    pub(crate) fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let is_equal = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let mut total = 0_u32;
        let mut sums: Vec<u32> = Vec::new();
        for endpoint in &endpoints {
            total = total.saturating_add(endpoint.weight);
            if !is_equal {
                sums.push(total);
            }
        }
        let weight_mean = f64::from(total) / (endpoints.len().max(1) as f64);
        Group { endpoints, sums, weight_mean }
    }

    /// The endpoint for the next attempt. `tried` are ids of endpoints that failed this request.
    pub(crate) fn pick(&self, tried: &[u64], seed: &Seed, now: Micros) -> Option<&Arc<Endpoint>> {
        match self.endpoints.as_slice() {
            [] => None,
            [only] => has_room(only).then_some(only),
            _ => self.draw_pair(tried, seed, now).or_else(|| self.pick_slowly(tried, seed, now)),
        }
    }

    fn draw_pair(&self, tried: &[u64], seed: &Seed, now: Micros) -> Option<&Arc<Endpoint>> {
        for _ in 0..DRAWS {
            let (first, mut second) = (self.draw(seed), self.draw(seed));
            if first == second {
                second = (first + 1 + seed.below(self.endpoints.len() - 1)) % self.endpoints.len();
            }
            let (first, second) = (&self.endpoints[first], &self.endpoints[second]);
            match (is_fit(first, tried, now), is_fit(second, tried, now)) {
                (true, true) => return Some(self.cheaper(first, second, now)),
                (true, false) => return Some(first),
                (false, true) if self.sums.is_empty() => return Some(second),
                _ => {}
            }
        }
        None
    }

    /// Every endpoint is looked at: first those that are fit, then (all ejected: panic) those not tried, then any.
    fn pick_slowly(&self, tried: &[u64], seed: &Seed, now: Micros) -> Option<&Arc<Endpoint>> {
        let of = |wanted: &dyn Fn(&Arc<Endpoint>) -> bool| {
            let fit = || self.endpoints.iter().filter(|endpoint| has_room(endpoint) && wanted(endpoint));
            let total: u64 = fit().map(|endpoint| u64::from(endpoint.weight)).sum();
            let mut at = seed.below(usize::try_from(total).unwrap_or(usize::MAX)) as u64;
            fit().find(|endpoint| match at.checked_sub(u64::from(endpoint.weight)) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            })
        };
        of(&|endpoint| is_fit(endpoint, tried, now))
            .or_else(|| of(&|endpoint| !tried.contains(&endpoint.id)))
            .or_else(|| of(&|_| true))
    }

    fn draw(&self, seed: &Seed) -> usize {
        match self.sums.last() {
            None => seed.below(self.endpoints.len()),
            Some(total) => {
                let at = seed.below(*total as usize) as u32;
                self.sums.partition_point(|sum| *sum <= at)
            }
        }
    }

    /// The first drawn, unless the other is clearly cheaper.
    fn cheaper<'a>(
        &self,
        first: &'a Arc<Endpoint>,
        second: &'a Arc<Endpoint>,
        now: Micros,
    ) -> &'a Arc<Endpoint> {
        let cost = |endpoint: &Endpoint| {
            let share = f64::from(endpoint.weight) / self.weight_mean * endpoint.vitals.warmth(now);
            endpoint.vitals.cost(now, share)
        };
        if cost(second) < cost(first) { second } else { first }
    }
}

fn has_room(endpoint: &Endpoint) -> bool {
    endpoint.vitals.load.load(Relaxed) < IN_FLIGHT_PER_ENDPOINT_MAX
}

fn is_fit(endpoint: &Endpoint, tried: &[u64], now: Micros) -> bool {
    !endpoint.vitals.is_ejected(now) && !tried.contains(&endpoint.id) && has_room(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = 100_000_000;

    fn shares(group: &Group, tried: &[u64]) -> Vec<usize> {
        let seed = Seed::from_number(1);
        let mut counts = vec![0; group.endpoints.len()];
        for _ in 0..10_000 {
            let picked = group.pick(tried, &seed, NOW).unwrap();
            counts[picked.id as usize] += 1;
        }
        counts
    }

    fn group(weights: &[u32]) -> Group {
        Group::new(weights.iter().enumerate().map(|(id, w)| Endpoint::for_test(id as u64, *w)).collect())
    }

    #[test]
    fn equals_share_equally_and_weights_are_kept() {
        assert!(shares(&group(&[1, 1, 1, 1]), &[]).iter().all(|n| (2_200..2_800).contains(n)));
        let counts = shares(&group(&[300, 100]), &[]);
        assert!((7_200..7_800).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn the_loaded_and_the_slow_get_less() {
        let loaded = group(&[1, 1]);
        loaded.endpoints[0].vitals.load.store(5, Relaxed);
        assert_eq!(shares(&loaded, &[])[0], 0);
        let slow = group(&[1, 1, 1]);
        slow.endpoints[2].vitals.observe(NOW, 50_000);
        assert_eq!(shares(&slow, &[])[2], 0, "two of three are always cheaper");
    }

    #[test]
    fn a_peak_is_forgotten_with_time() {
        let group = group(&[1, 1]);
        group.endpoints[0].vitals.observe(0, FAILURE);
        assert!(group.endpoints[0].vitals.cost(1_000, 1.0) > 1_000_000.0);
        assert!(group.endpoints[0].vitals.cost(100_000_000, 1.0) < 2_000.0);
    }
    const FAILURE: Micros = crate::endpoint::FAILURE_COST;

    #[test]
    fn the_ejected_and_the_tried_are_left_out_until_nobody_else_is_there() {
        let group = group(&[1, 1, 1]);
        group.endpoints[0].vitals.ejected_until.store(NOW + 1, Relaxed);
        assert_eq!(shares(&group, &[])[0], 0);
        assert_eq!(shares(&group, &[1])[..2], [0, 0]);
        assert_eq!(shares(&group, &[1, 2])[0], 10_000, "panic: the ejected one is used");
        group.endpoints.iter().for_each(|e| e.vitals.ejected_until.store(NOW + 1, Relaxed));
        assert!(shares(&group, &[]).iter().all(|n| *n > 3_000), "panic: all are used");
        assert!(Group::new(vec![]).pick(&[], &Seed::from_number(1), NOW).is_none());
    }

    #[test]
    fn a_full_endpoint_takes_no_more() {
        let group = group(&[1]);
        group.endpoints[0].vitals.load.store(IN_FLIGHT_PER_ENDPOINT_MAX, Relaxed);
        assert!(group.pick(&[], &Seed::from_number(1), NOW).is_none());
    }

    #[test]
    fn a_young_endpoint_warms_up() {
        let vitals = crate::endpoint::Vitals::born_at(NOW);
        assert_eq!(vitals.warmth(NOW), 0.1);
        assert_eq!(vitals.warmth(NOW + 60_000_000), 1.0);
    }
}
