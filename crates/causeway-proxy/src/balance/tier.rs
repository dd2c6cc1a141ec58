//! Endpoints among which an algorithm chooses: all of a group, or those equally near.
//!
//! In:    endpoints, how to choose, which are fit, a request's key, a seed.      Out: one of them, or none within a few tries.
//! Owner: a group.
//! Invariant: what is chosen is fit; the same seed and key choose the same.
//! Not here: what an endpoint costs (`vitals`), what is done when a few tries find none (`balance`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use causeway_base::Seed;
use causeway_model::Algorithm;

use super::ask::{Fit, How};
use super::maglev::Maglev;
use super::ring::Ring;
use super::rotation::turns;
use crate::endpoint::{Endpoint, Micros};

/// Pairs that are drawn before the slow way is taken, which looks at every endpoint.
const DRAWS: usize = 3;
/// Turns, draws of one, and points of a ring or table that are looked at before the slow way.
const STEPS: usize = 16;

/// Some endpoints of a group.
#[derive(Debug)]
pub(crate) struct Tier {
    /// Which ones.
    pub range: Range<usize>,
    /// Their weights together.
    pub weight: u64,
    /// With those that the registry has taken out because something is wrong with them.
    pub expected: u64,
    /// Running sums of weights; empty when all weights are equal.
    sums: Vec<u32>,
    weight_mean: f64,
    /// When the youngest has warmed up.
    warm_at: Micros,
    slow_start: Micros,
    table: Table,
}

/// What an algorithm needs beside the endpoints themselves.
#[derive(Debug)]
enum Table {
    PeakEwma,
    LeastRequest,
    Random,
    /// The order of turns, empty when it is that of the endpoints, and whose turn it is.
    RoundRobin(Vec<u32>, AtomicUsize),
    Ring(Recipe, Arc<Ring>),
    Maglev(Recipe, Arc<Maglev>),
}

/// Of what a table was made: names' hashes and weights.
type Recipe = Box<[(u64, u32)]>;

impl Tier {
    /// `last` is the tier that this one replaces: its table is taken over when it would be the same.
    pub(crate) fn new(
        all: &[Arc<Endpoint>],
        range: Range<usize>,
        absent: u64,
        how: &How,
        last: Option<&Tier>,
    ) -> Self {
        let endpoints = &all[range.clone()];
        let is_equal = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let mut total = 0_u32;
        let mut sums: Vec<u32> = Vec::new();
        for endpoint in endpoints {
            total = total.saturating_add(endpoint.weight);
            if !is_equal {
                sums.push(total);
            }
        }
        let recipe = || endpoints.iter().map(|endpoint| (endpoint.hash, endpoint.weight)).collect::<Recipe>();
        let table = match how.algorithm {
            Algorithm::PeakEwma => Table::PeakEwma,
            Algorithm::LeastRequest => Table::LeastRequest,
            Algorithm::Random => Table::Random,
            Algorithm::RoundRobin => {
                let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
                let at = match last.map(|last| &last.table) {
                    Some(Table::RoundRobin(_, at)) => at.load(Relaxed),
                    _ => 0,
                };
                Table::RoundRobin(turns(&weights), AtomicUsize::new(at))
            }
            Algorithm::RingHash => match (recipe(), last.map(|last| &last.table)) {
                (recipe, Some(Table::Ring(same, ring))) if recipe == *same => {
                    Table::Ring(recipe, ring.clone())
                }
                (recipe, _) => {
                    let ring = Arc::new(Ring::new(&recipe));
                    Table::Ring(recipe, ring)
                }
            },
            Algorithm::Maglev => match (recipe(), last.map(|last| &last.table)) {
                (recipe, Some(Table::Maglev(same, maglev))) if recipe == *same => {
                    Table::Maglev(recipe, maglev.clone())
                }
                (recipe, _) => {
                    let maglev = Arc::new(Maglev::new(&recipe));
                    Table::Maglev(recipe, maglev)
                }
            },
        };
        let youngest = endpoints.iter().map(|endpoint| endpoint.vitals.born.load(Relaxed)).max().unwrap_or(0);
        let weight = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum::<u64>();
        Tier {
            range,
            weight,
            expected: weight + absent,
            sums,
            weight_mean: f64::from(total) / endpoints.len().max(1) as f64,
            warm_at: if youngest == 0 { 0 } else { youngest.saturating_add(how.slow_start) },
            slow_start: how.slow_start,
            table,
        }
    }

    /// One of `endpoints` (this tier's own) that is fit; `None` when a few tries found none.
    pub(crate) fn pick<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        fit: &Fit<'_>,
        key: Option<u64>,
        seed: &Seed,
    ) -> Option<&'a Arc<Endpoint>> {
        match (&self.table, key) {
            (Table::PeakEwma, _) => {
                self.pick_pair(endpoints, fit, seed, |endpoint, share| endpoint.vitals.cost(fit.now, share))
            }
            (Table::LeastRequest, _) => self
                .pick_pair(endpoints, fit, seed, |endpoint, share| f64::from(endpoint.vitals.load()) / share),
            (Table::RoundRobin(turns, at), _) => self.pick_turn(endpoints, fit, seed, turns, at),
            (Table::Ring(_, ring), Some(key)) => first_fit(endpoints, fit, ring.after(key)),
            (Table::Maglev(_, maglev), Some(key)) => first_fit(endpoints, fit, maglev.after(key)),
            // Also for a request without what is hashed.
            (Table::Random | Table::Ring(..) | Table::Maglev(..), _) => self.pick_any(endpoints, fit, seed),
        }
    }

    /// The cheaper of two drawn.
    fn pick_pair<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        fit: &Fit<'_>,
        seed: &Seed,
        cost: impl Fn(&Endpoint, f64) -> f64,
    ) -> Option<&'a Arc<Endpoint>> {
        if let [only] = endpoints {
            return fit.admits(only).then_some(only);
        }
        for _ in 0..DRAWS {
            let (first, mut second) = (self.draw(endpoints, seed), self.draw(endpoints, seed));
            if first == second {
                second = (first + 1 + seed.below(endpoints.len() - 1)) % endpoints.len();
            }
            let (first, second) = (&endpoints[first], &endpoints[second]);
            match (fit.admits(first), fit.admits(second)) {
                (true, true) => {
                    let price = |endpoint: &Endpoint| cost(endpoint, self.share(endpoint, fit.now));
                    // The first drawn, unless the other is clearly cheaper.
                    let (cheap, dear) = match price(second) < price(first) {
                        true => (second, first),
                        false => (first, second),
                    };
                    return Some(if self.is_too_cold(cheap, Some(dear), fit.now, seed) {
                        dear
                    } else {
                        cheap
                    });
                }
                (true, false) => return Some(first),
                (false, true) if self.sums.is_empty() => return Some(second),
                _ => {}
            }
        }
        None
    }

    fn pick_any<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        fit: &Fit<'_>,
        seed: &Seed,
    ) -> Option<&'a Arc<Endpoint>> {
        let mut cold = None;
        for _ in 0..STEPS {
            let drawn = &endpoints[self.draw(endpoints, seed)];
            match fit.admits(drawn) {
                true if !self.is_too_cold(drawn, None, fit.now, seed) => return Some(drawn),
                true => cold = cold.or(Some(drawn)),
                false => {}
            }
        }
        cold
    }

    fn pick_turn<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        fit: &Fit<'_>,
        seed: &Seed,
        turns: &[u32],
        at: &AtomicUsize,
    ) -> Option<&'a Arc<Endpoint>> {
        let mut cold = None;
        for _ in 0..STEPS {
            let turn = at.fetch_add(1, Relaxed);
            let index = match turns {
                [] => turn % endpoints.len(),
                turns => turns[turn % turns.len()] as usize,
            };
            let next = &endpoints[index];
            match fit.admits(next) {
                true if !self.is_too_cold(next, None, fit.now, seed) => return Some(next),
                true => cold = cold.or(Some(next)),
                false => {}
            }
        }
        cold
    }

    fn draw(&self, endpoints: &[Arc<Endpoint>], seed: &Seed) -> usize {
        match self.sums.last() {
            None => seed.below(endpoints.len()),
            Some(total) => {
                let at = seed.below(*total as usize) as u32;
                self.sums.partition_point(|sum| *sum <= at)
            }
        }
    }

    /// Weight relative to the mean, less while it is young.
    fn share(&self, endpoint: &Endpoint, now: Micros) -> f64 {
        let share = f64::from(endpoint.weight) / self.weight_mean;
        match now < self.warm_at {
            true => share * endpoint.vitals.warmth(now, self.slow_start),
            false => share,
        }
    }

    /// Whether a young endpoint leaves its turn to another, older one: as often as its share is short of its whole.
    fn is_too_cold(&self, endpoint: &Endpoint, other: Option<&Endpoint>, now: Micros, seed: &Seed) -> bool {
        if now >= self.warm_at {
            return false;
        }
        let warmth = |endpoint: &Endpoint| endpoint.vitals.warmth(now, self.slow_start);
        !seed.chance(warmth(endpoint) / other.map_or(1.0, warmth))
    }
}

fn first_fit<'a>(
    endpoints: &'a [Arc<Endpoint>],
    fit: &Fit<'_>,
    order: impl Iterator<Item = usize>,
) -> Option<&'a Arc<Endpoint>> {
    order.take(STEPS).map(|index| &endpoints[index]).find(|endpoint| fit.admits(endpoint))
}

#[cfg(test)]
impl Tier {
    /// Whether both use one and the same table.
    pub(super) fn has_table_of(&self, other: &Tier) -> bool {
        match (&self.table, &other.table) {
            (Table::Ring(_, mine), Table::Ring(_, theirs)) => Arc::ptr_eq(mine, theirs),
            (Table::Maglev(_, mine), Table::Maglev(_, theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        }
    }
}
