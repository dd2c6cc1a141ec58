//! Finds out how many requests a service can work on at once, from how long they take. Pure: time and latencies are passed in.
//!
//! In:    each request's latency and how many were under way.      Out: the limit.
//! Owner: the gate of one service.
//! Invariant: the limit stays between its bounds; it grows only while it is used, and shrinks only while latency says that requests queue
//! behind one another in the service.
//! Not here: who waits and who is shed (`gate`).
//!
//! A service that works on `c` requests at once answers each in its own time as long as no more are under way; with `n > c` each
//! takes `n / c` times as long. So the limit follows `limit x (own time x TOLERANCE) / (time now) + sqrt(limit)`, once a window (the
//! gradient of Netflix's concurrency-limits). The own time is the least average of a window within the last while. Where a service was
//! never seen without a queue that would be too high: when the limit has been full for long, it is halved for one window to look again.

use crate::endpoint::Micros;

/// Samples that a window needs at least, so that one slow request decides nothing.
const SAMPLES_MIN: u32 = 16;
/// A window lasts at least so long…
const WINDOW_MIN: Micros = 50_000;
/// …and, with few samples, at most so long before it is begun anew.
const WINDOW_MAX: Micros = 2_000_000;
/// Latency may be so many times the service's own before the limit shrinks: some queueing keeps every worker busy.
const TOLERANCE: f64 = 1.5;
/// The limit's change within one window.
const SHRINK_MAX: f64 = 0.5;
/// How long a least average counts; kept as two halves, so that it is forgotten smoothly.
const MEMORY: Micros = 30_000_000;
/// The limit was full for this long without a new least average: look again.
const PROBE_AFTER: Micros = 5_000_000;
/// Where it begins: doubled each window while latency stays as it is.
const LIMIT_START: f64 = 16.0;
/// A service that works on fewer requests at once than this is not told from one that is slow.
const LIMIT_MIN: f64 = 4.0;
/// Above this there is nothing to protect.
pub(super) const LIMIT_MAX: f64 = 10_000.0;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Limiter {
    limit: f64,
    window: Window,
    /// Least averages of this half of the memory and of the one before.
    least: [Option<f64>; 2],
    half_began: Micros,
    /// Since when the limit has been full without a new least average.
    full_since: Option<Micros>,
    /// The limit to go back to after a window of probing.
    before_probe: Option<f64>,
    /// Latency has never been above tolerance: the limit may double.
    is_starting: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began: Micros,
    sum: u64,
    count: u32,
    in_flight_max: u32,
}

impl Limiter {
    pub(super) fn new(now: Micros) -> Self {
        Limiter {
            limit: LIMIT_START,
            window: Window { began: now, ..Window::default() },
            least: [None, None],
            half_began: now,
            full_since: None,
            before_probe: None,
            is_starting: true,
        }
    }

    /// How many may be under way now.
    pub(super) fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// A request ended that took `latency` while at most `in_flight` were under way. Returns whether the limit may have changed.
    pub(super) fn observe(&mut self, now: Micros, latency: Micros, in_flight: u32) -> bool {
        let window = &mut self.window;
        window.sum += latency;
        window.count += 1;
        window.in_flight_max = window.in_flight_max.max(in_flight);
        let age = now.saturating_sub(window.began);
        if age < WINDOW_MIN || (window.count < SAMPLES_MIN && age < WINDOW_MAX) {
            return false;
        }
        let ended = std::mem::replace(window, Window { began: now, ..Window::default() });
        // A long window of few samples says nothing of a queue.
        if ended.count >= SAMPLES_MIN {
            self.decide(now, ended);
        }
        true
    }

    fn decide(&mut self, now: Micros, window: Window) {
        let average = (window.sum as f64 / f64::from(window.count)).max(1.0);
        self.remember(now, average);
        if let Some(before) = self.before_probe.take() {
            // The window was measured at half the limit; what was learnt shows in the next one.
            self.limit = before;
            return;
        }
        let own = self.own().unwrap_or(average);
        let gradient = (own * TOLERANCE / average).clamp(SHRINK_MAX, 1.0);
        let is_full = f64::from(window.in_flight_max) >= self.limit * 0.9;
        self.is_starting &= gradient >= 1.0;
        let room = if self.is_starting { self.limit } else { self.limit.sqrt() };
        // A limit that is not used says nothing about what would happen above it.
        let target = match is_full {
            true => self.limit * gradient + room,
            false => self.limit * gradient.max(f64::from(window.in_flight_max) / self.limit).min(1.0),
        };
        self.limit = target.clamp(LIMIT_MIN, LIMIT_MAX);
        self.probe(now, is_full, gradient);
    }

    /// Halves the limit for a window when it has been full and slow for long.
    fn probe(&mut self, now: Micros, is_full: bool, gradient: f64) {
        if !is_full || gradient >= 1.0 && self.is_starting {
            self.full_since = None;
            return;
        }
        let since = *self.full_since.get_or_insert(now);
        if now.saturating_sub(since) >= PROBE_AFTER && self.limit > LIMIT_MIN {
            self.full_since = None;
            self.before_probe = Some(self.limit);
            self.limit = (self.limit / 2.0).max(LIMIT_MIN);
        }
    }

    fn remember(&mut self, now: Micros, average: f64) {
        if now.saturating_sub(self.half_began) >= MEMORY / 2 {
            self.half_began = now;
            self.least = [None, self.least[0]];
        }
        if self.own().is_none_or(|own| average < own) {
            self.full_since = None;
        }
        self.least[0] = Some(self.least[0].map_or(average, |least| least.min(average)));
    }

    /// The service's own time for a request.
    fn own(&self) -> Option<f64> {
        match self.least {
            [Some(now), Some(before)] => Some(now.min(before)),
            [one, other] => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service of `workers` that each take `own` for a request, under a load that always fills the limit (or `offered`, when that is
    /// less). Returns the limit after `seconds`, as an average over the last fifth.
    fn run(limiter: &mut Limiter, from: Micros, workers: f64, own: f64, offered: f64, seconds: u64) -> f64 {
        let (mut now, end, mut sum, mut count) = (from as f64, (from + seconds * 1_000_000) as f64, 0.0, 0.0);
        while now < end {
            let in_flight = f64::from(limiter.limit()).min(offered);
            let latency = own * (in_flight / workers).max(1.0);
            // Requests end one after the other.
            now += latency / in_flight;
            limiter.observe(now as Micros, latency as Micros, in_flight as u32);
            if now > end - seconds as f64 * 200_000.0 {
                sum += f64::from(limiter.limit());
                count += 1.0;
            }
        }
        sum / count
    }

    #[test]
    fn the_limit_settles_somewhat_above_what_the_service_can_do_at_once() {
        for workers in [4.0, 20.0, 100.0] {
            let mut limiter = Limiter::new(0);
            let limit = run(&mut limiter, 0, workers, 20_000.0, 1e6, 60);
            let bound = workers * TOLERANCE * 1.2 + 2.0 * workers.sqrt() + 8.0;
            assert!((workers..bound).contains(&limit), "{limit} for {workers}");
        }
    }

    #[test]
    fn a_quiet_service_keeps_its_room_and_is_not_throttled_by_its_own_pace() {
        let mut limiter = Limiter::new(0);
        run(&mut limiter, 0, 50.0, 10_000.0, 30.0, 30);
        assert!(limiter.limit() >= 30, "{}", limiter.limit());
    }

    #[test]
    fn a_service_that_gets_slower_for_everybody_is_believed_by_and_by() {
        let mut limiter = Limiter::new(0);
        run(&mut limiter, 0, 50.0, 10_000.0, 1e6, 20);
        // Each request takes twice as long (more work, no queue): after the memory the limit is back.
        let limit = run(&mut limiter, 20_000_000, 50.0, 20_000.0, 1e6, 90);
        assert!(limit >= 40.0, "{limit}");
    }

    #[test]
    fn one_slow_request_changes_nothing() {
        let mut limiter = Limiter::new(0);
        let before = limiter.limit();
        limiter.observe(3_000_000, 3_000_000, 1);
        assert_eq!(limiter.limit(), before);
    }
}
