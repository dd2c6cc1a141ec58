//! Consistent hashing on a ring: every endpoint stands at many points, a key goes to the next point at or after it.
//!
//! In:    hashes of endpoints' names, weights.      Out: for a key, endpoints in order of preference.
//! Owner: a tier of a group; made with the plan, kept while its endpoints stay the same.
//! Invariant: an endpoint's points depend on its name and weight alone, so that one that comes or goes moves no other's keys.
//! Not here: passing over those that are not fit (`tier`).

use crate::hash;

/// Points of an endpoint of mean weight, about: shares then differ by a tenth.
const POINTS: f64 = 160.0;
/// Most points of a ring: 1 MiB.
const POINTS_MAX: f64 = 65_536.0;

/// A ring.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Place and index of the endpoint, by place.
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// Of endpoints as hash and weight.
    pub(crate) fn new(endpoints: &[(u64, u32)]) -> Self {
        let total: f64 = endpoints.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mean = total / endpoints.len().max(1) as f64;
        // A power of two, so that it (and with it everybody's points) seldom changes when endpoints come and go.
        let mut scale = (POINTS / mean.max(1e-9)).log2().round().exp2();
        while total * scale > POINTS_MAX {
            scale /= 2.0;
        }
        let mut points = Vec::new();
        for (index, (hash, weight)) in endpoints.iter().enumerate() {
            let count = (f64::from(*weight) * scale).round().max(1.0) as u64;
            points.extend((0..count).map(|k| (hash::both(*hash, k), index as u32)));
        }
        points.sort_unstable_by_key(|(place, index)| (*place, endpoints[*index as usize].0));
        Ring { points: points.into() }
    }

    /// Endpoints in the order in which they come after the key, some of them more than once, each point once.
    pub(crate) fn after(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let from = self.points.partition_point(|(place, _)| *place < key);
        let (before, after) = self.points.split_at(from);
        after.iter().chain(before).map(|(_, index)| *index as usize)
    }
}
