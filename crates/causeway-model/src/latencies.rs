//! How long calls took, counted in buckets that grow by a quarter: any quantile is right within a quarter, mostly much better.
//!
//! In:    durations in microseconds, or counts by bucket.      Out: quantiles.
//! Owner: whoever adds them up.
//! Invariant: the buckets never change: counts of different proxies and versions are added up bucket by bucket.
//! Not here: the few buckets that Prometheus is shown (`causeway-proxy`).

use minicbor::{Decode, Encode};

/// Buckets in all: four for each doubling from 16 us to 268 s.
pub const LATENCY_BUCKETS: usize = 96;
/// Doublings below the first bucket: what is faster than 16 us counts as that.
const FIRST: u32 = 4;

/// The bucket of a duration.
pub fn latency_bucket(micros: u64) -> usize {
    let octave = u64::BITS - 1 - (micros | 1).leading_zeros();
    match octave.checked_sub(FIRST) {
        None => 0,
        Some(octaves) => {
            let quarter = (micros >> (octave - 2)) & 3;
            (octaves as usize * 4 + quarter as usize).min(LATENCY_BUCKETS - 1)
        }
    }
}

/// The shortest duration of a bucket, in microseconds.
fn lower_bound(bucket: usize) -> u64 {
    (4 + bucket as u64 % 4) << (bucket as u32 / 4 + FIRST - 2)
}

/// Counts by bucket; only those that are not zero are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Latencies {
    /// Bucket and count, by bucket.
    #[n(0)]
    counts: Vec<(u8, u64)>,
}

impl Latencies {
    /// From a count for each bucket.
    pub fn of(counts: &[u32; LATENCY_BUCKETS]) -> Self {
        let counts = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Latencies { counts: counts.map(|(at, count)| (at as u8, u64::from(*count))).collect() }
    }

    /// Adds others' counts.
    pub fn add(&mut self, other: &Latencies) {
        for (bucket, count) in &other.counts {
            match self.counts.binary_search_by_key(bucket, |(known, _)| *known) {
                Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(*count),
                Err(at) if usize::from(*bucket) < LATENCY_BUCKETS => {
                    self.counts.insert(at, (*bucket, *count))
                }
                Err(_) => {}
            }
        }
    }

    /// How many calls there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    /// The duration that a share (0 to 1) of all calls did not exceed, in microseconds; none when there were no calls.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let all = self.count();
        let wanted = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut below = 0_u64;
        for (bucket, count) in &self.counts {
            if below.saturating_add(*count) >= wanted {
                let (from, to) = (lower_bound(usize::from(*bucket)), lower_bound(usize::from(*bucket) + 1));
                let part = (wanted - below) as f64 / *count as f64;
                return Some(from + ((to - from) as f64 * part) as u64);
            }
            below = below.saturating_add(*count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: impl Iterator<Item = u64>) -> Latencies {
        let mut counts = [0; LATENCY_BUCKETS];
        micros.for_each(|micros| counts[latency_bucket(micros)] += 1);
        Latencies::of(&counts)
    }

    #[test]
    fn buckets_grow_by_at_most_a_quarter_and_hold_what_they_say() {
        for bucket in 0..LATENCY_BUCKETS {
            let (from, to) = (lower_bound(bucket), lower_bound(bucket + 1));
            assert!(from < to && to - from <= from / 4, "{bucket}: {from} to {to}");
            assert_eq!((latency_bucket(from), latency_bucket(to - 1)), (bucket, bucket));
        }
        assert_eq!((latency_bucket(0), latency_bucket(u64::MAX)), (0, LATENCY_BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_right_within_a_quarter() {
        let latencies = of(1..=100_000);
        for share in [0.01, 0.5, 0.9, 0.95, 0.99, 1.0] {
            let (is, should) = (latencies.quantile(share).unwrap() as f64, 100_000.0 * share);
            assert!((is - should).abs() <= should / 4.0, "{share}: {is} instead of {should}");
        }
        assert_eq!(Latencies::default().quantile(0.5), None);
        let mut both = of([100].into_iter());
        both.add(&of(std::iter::repeat_n(1_000_000, 99)));
        both.add(&Latencies { counts: vec![(200, 5)] });
        assert_eq!(both.count(), 100);
        assert!(both.quantile(0.005).unwrap() < 200 && both.quantile(0.5).unwrap() > 900_000);
    }
}
