//! How many requests are let through in a time: a token bucket as one number, the generic cell rate algorithm (ITU-T I.371).
//!
//! In:    the time of a request and its key.      Out: go, or how long to wait.
//! Owner: the plan hangs it on a service or rule; it outlives plans that do not change it.
//! Invariant: in any span of time no more than `burst + span x rate` pass; memory is bounded whatever the keys.
//! Not here: what a request's key is (`admission`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::endpoint::Micros;
use crate::limits::RATE_KEYS_MAX;

/// Nanoseconds since the proxy started: at 10^6 requests a second a microsecond is too coarse.
type Nanos = u64;

/// Parts of the keyed buckets, so that workers seldom meet at one lock.
const SHARDS: usize = 16;

/// A limit.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Time between two requests at the full rate.
    interval: Nanos,
    /// How far ahead of its time a request may be: the burst.
    ahead: Nanos,
    one: AtomicU64,
    keyed: Vec<Mutex<HashMap<u64, Nanos>>>,
}

impl Rate {
    /// `requests` in `per`, and `burst` at once after a quiet time.
    pub(crate) fn new(requests: u32, per: std::time::Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX).max(1);
        let interval = (per / u64::from(requests.max(1))).max(1);
        let ahead = interval.saturating_mul(u64::from(burst.max(1)) - 1);
        let keyed = (0..SHARDS).map(|_| Mutex::default()).collect();
        Rate { interval, ahead, one: AtomicU64::new(0), keyed }
    }

    /// Lets a request through, or says after how many microseconds there is room again.
    pub(crate) fn take(&self, key: Option<u64>, now: Micros) -> Result<(), Micros> {
        let now = now.saturating_mul(1000);
        let Some(key) = key else { return self.take_one(now) };
        let mut buckets = self.keyed[key as usize % SHARDS].lock();
        if buckets.len() >= RATE_KEYS_MAX / SHARDS && !buckets.contains_key(&key) {
            // Buckets whose time has come are full again: forgetting them changes nothing.
            buckets.retain(|_, due| *due > now);
            if buckets.len() >= RATE_KEYS_MAX / SHARDS {
                // So many keys at once: those that are new share the one bucket, so that inventing keys gains nothing.
                drop(buckets);
                return self.take_one(now);
            }
        }
        let due = buckets.get(&key).copied().unwrap_or(0);
        let next = self.next(due, now)?;
        buckets.insert(key, next);
        Ok(())
    }

    fn take_one(&self, now: Nanos) -> Result<(), Micros> {
        let mut due = self.one.load(Relaxed);
        loop {
            let next = self.next(due, now)?;
            match self.one.compare_exchange_weak(due, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }

    /// When the bucket is full again after one more request.
    fn next(&self, due: Nanos, now: Nanos) -> Result<Nanos, Micros> {
        let early = due.saturating_sub(now);
        match early > self.ahead {
            true => Err((early - self.ahead).div_ceil(1000)),
            false => Ok(due.max(now) + self.interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Micros = 1_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate::new(10, Duration::from_secs(1), 5);
        let passed = |now| (0..100).filter(|_| rate.take(None, now).is_ok()).count();
        assert_eq!(passed(SECOND), 5);
        assert_eq!(passed(SECOND), 0);
        assert_eq!(rate.take(None, SECOND), Err(SECOND / 10));
        assert_eq!(passed(SECOND + SECOND / 10), 1);
        assert_eq!(passed(10 * SECOND), 5, "a quiet time saves up no more than the burst");
    }

    #[test]
    fn keys_have_buckets_of_their_own_and_inventing_them_gains_nothing() {
        let rate = Rate::new(1, Duration::from_secs(1), 1);
        assert!(rate.take(Some(1), SECOND).is_ok() && rate.take(Some(2), SECOND).is_ok());
        assert!(rate.take(Some(1), SECOND).is_err());
        let passed = (10..10 + 3 * RATE_KEYS_MAX as u64).filter(|key| rate.take(Some(*key), SECOND).is_ok());
        assert!(passed.count() <= RATE_KEYS_MAX + 1);
        let kept: usize = rate.keyed.iter().map(|shard| shard.lock().len()).sum();
        assert!(kept <= RATE_KEYS_MAX);
        assert!(rate.take(Some(u64::MAX), 3 * SECOND).is_ok(), "later there is room again");
    }
}
