//! How an endpoint fares: what is under way there, what it takes, how often it fails, whether it is left alone.
//!
//! In:    observations of every worker.      Out: what one more request would cost, whether there is room, whether it is ejected.
//! Owner: the endpoint of a plan; the next plan keeps the vitals of an endpoint that it still names.
//! Invariant: atomics, never locked; a lost update of an average costs nothing.
//! Not here: choosing (`balance`), when to eject (`outlier`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::limits::IN_FLIGHT_PER_ENDPOINT_MAX;

/// Microseconds since the proxy started.
pub(crate) type Micros = u64;

/// What is known of latency halves its weight in this time, be it for better news or for none: an endpoint that was a hundred
/// times slower than its peers is asked again after half a minute, and sooner when they have much to do.
const LATENCY_HALF_LIFE: Micros = 5_000_000;
/// What is known of failures halves in this time: an endpoint that failed and is left alone must be asked again soon.
const DISTRESS_HALF_LIFE: Micros = 1_500_000;
/// Differences below a millisecond are noise: without a floor the fastest by a hair would take all calls.
const COST_FLOOR: f64 = 1_000.0;
/// Distress of an endpoint of which every attempt fails.
const DISTRESS_WHOLE: f64 = 65_536.0;
/// By how much of what is missing to the whole a failure adds, and a good answer takes away.
const DISTRESS_STEP: f64 = 1.0 / 16.0;
/// Up to here distress changes nothing. It is what five failures in a row make: an endpoint that fails every request is ejected
/// (`outlier`) and must be asked that often for it, and one with an error now and then is as good as its peers, which have them too.
const DISTRESS_BORNE: f64 = 0.3;
/// How much dearer an endpoint is of which every attempt fails, about: it grows with the square of what is not borne.
const DISTRESS_FACTOR: f64 = 400.0;
/// The least share of a new endpoint.
const WARMTH_MIN: f64 = 0.1;

/// How an endpoint fares.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// Low half: requests under way. High half: those of them whose answer has not begun.
    under_way: AtomicU64,
    /// Microseconds to an answer's beginning, and when that was seen.
    latency: AtomicU64,
    observed_at: AtomicU64,
    /// When it last answered well.
    answered_at: AtomicU64,
    /// Since when somebody waits without a break.
    waits_since: AtomicU64,
    /// Share of failed attempts, of [`DISTRESS_WHOLE`].
    distress: AtomicU32,
    /// In a row; one of a connection counts more.
    pub failures: AtomicU32,
    /// Answers in a row that began well and ended badly.
    pub late_failures: AtomicU32,
    /// Whether the last failure was that nobody was there.
    was_unreachable: AtomicBool,
    /// One after the other, without a good time between them.
    pub ejections: AtomicU32,
    ejected_until: AtomicU64,
    /// Was ejected, and has not yet shown that it is well: one request at a time waits for an answer.
    on_probation: AtomicBool,
    pub born: AtomicU64,
}

impl Vitals {
    /// Of an endpoint that is new among others, which take `latency`: that of one nobody has asked yet is thought to be the same,
    /// or it would seem the fastest of all and take every call.
    pub(crate) fn born_at(now: Micros, latency: Micros) -> Self {
        Vitals {
            born: AtomicU64::new(now),
            latency: AtomicU64::new(latency),
            observed_at: AtomicU64::new(now),
            ..Vitals::default()
        }
    }

    // === load ===

    /// Requests under way.
    pub(crate) fn load(&self) -> u32 {
        self.under_way.load(Relaxed) as u32
    }

    /// Whether it has fewer requests than it may ever have.
    pub(crate) fn has_place(&self) -> bool {
        self.load() < IN_FLIGHT_PER_ENDPOINT_MAX
    }

    /// Whether one more request should be sent there.
    pub(crate) fn has_room(&self) -> bool {
        let under_way = self.under_way.load(Relaxed);
        (under_way as u32) < IN_FLIGHT_PER_ENDPOINT_MAX
            && (under_way < WAITING || !self.on_probation.load(Relaxed))
    }

    // === latency and failures ===

    /// Takes a good answer in: a higher latency at once (the peak), a lower one by and by.
    pub(crate) fn answered(&self, now: Micros, latency: Micros) {
        self.answered_at.store(now, Relaxed);
        let since = now.saturating_sub(self.observed_at.swap(now, Relaxed));
        let before = self.latency.load(Relaxed) as f64;
        let keep = halved(1.0, since, LATENCY_HALF_LIFE);
        let after = (before * keep + latency as f64 * (1.0 - keep)).max(latency as f64);
        self.latency.store(after as u64, Relaxed);
        let distress = self.distress.load(Relaxed);
        if distress != 0 {
            let rest = halved(f64::from(distress), since, DISTRESS_HALF_LIFE) * (1.0 - DISTRESS_STEP);
            self.distress.store(rest as u32, Relaxed);
        }
    }

    /// Takes a failure in. That it came soon does not make the endpoint a fast one.
    pub(crate) fn failed(&self, now: Micros, took: Micros, is_unreachable: bool) {
        let since = now.saturating_sub(self.observed_at.swap(now, Relaxed));
        let latency = halved(self.latency.load(Relaxed) as f64, since, LATENCY_HALF_LIFE) as u64;
        self.latency.store(latency.max(took), Relaxed);
        self.was_unreachable.store(is_unreachable, Relaxed);
        let before = halved(f64::from(self.distress.load(Relaxed)), since, DISTRESS_HALF_LIFE);
        let after = before + (DISTRESS_WHOLE - before) * DISTRESS_STEP;
        self.distress.store(after as u32, Relaxed);
    }

    /// An attempt was given up that would have taken longer than this: news only if that is longer than it is thought to take.
    pub(crate) fn given_up(&self, now: Micros, took: Micros) {
        if took as f64 > self.known_latency(now) {
            self.observed_at.store(now, Relaxed);
            self.latency.store(took, Relaxed);
        }
    }

    /// Whether it has answered anybody well since then.
    pub(crate) fn has_answered_since(&self, then: Micros) -> bool {
        self.answered_at.load(Relaxed) > then
    }

    /// The latency to expect, in microseconds.
    pub(crate) fn latency(&self, now: Micros) -> f64 {
        let known = self.known_latency(now);
        if self.under_way.load(Relaxed) >> 32 == 0 {
            return known;
        }
        // Somebody waits, and nothing has come for so long: then an answer takes at least that long. So one that hangs is fled
        // long before a time limit says so.
        let since = self.observed_at.load(Relaxed).max(self.waits_since.load(Relaxed));
        known.max(now.saturating_sub(since) as f64)
    }

    /// As it was seen, whoever waits now.
    fn known_latency(&self, now: Micros) -> f64 {
        let since = now.saturating_sub(self.observed_at.load(Relaxed));
        halved(self.latency.load(Relaxed) as f64, since, LATENCY_HALF_LIFE)
    }

    /// What one more request would cost here: expected latency times the queue it joins, times what failures make of it. `share` is
    /// the endpoint's weight relative to the mean of its group.
    pub(crate) fn cost(&self, now: Micros, share: f64) -> f64 {
        let mut cost = self.latency(now).max(COST_FLOOR) * (f64::from(self.load()) / share + 1.0);
        let distress = self.distress.load(Relaxed);
        if distress != 0 {
            let since = now.saturating_sub(self.observed_at.load(Relaxed));
            let distress = halved(f64::from(distress), since, DISTRESS_HALF_LIFE) / DISTRESS_WHOLE;
            cost *= 1.0 + DISTRESS_FACTOR * (distress - DISTRESS_BORNE).max(0.0).powi(2);
        }
        cost
    }

    // === ejection ===

    pub(crate) fn is_ejected(&self, now: Micros) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    pub(crate) fn ejected_until(&self) -> Micros {
        self.ejected_until.load(Relaxed)
    }

    /// Why it is left alone, in words; nothing when it is not.
    pub(crate) fn ejected_for(&self, now: Micros) -> Option<String> {
        let failures = self.failures.load(Relaxed).max(self.late_failures.load(Relaxed));
        self.is_ejected(now).then(|| match self.was_unreachable.load(Relaxed) {
            true => "no connection could be made".to_owned(),
            false => format!("{failures} failures in a row"),
        })
    }

    /// Leaves it alone until then. What is known of it is of its bad time: when that is over one request finds out.
    pub(crate) fn eject(&self, until: Micros) {
        self.on_probation.store(true, Relaxed);
        self.latency.store(0, Relaxed);
        self.distress.store(0, Relaxed);
        self.ejected_until.store(until, Relaxed);
    }

    /// Whether it was ejected and has not shown yet that it is well.
    pub(crate) fn is_on_probation(&self) -> bool {
        self.on_probation.load(Relaxed)
    }

    /// It answers well again.
    pub(crate) fn recovered(&self) {
        self.failures.store(0, Relaxed);
        self.ejections.store(self.ejections.load(Relaxed) / 2, Relaxed);
        self.on_probation.store(false, Relaxed);
    }

    // === youth ===

    /// How much of its weight a young endpoint takes, 0.1 to 1, when it is to take its whole after `slow_start`.
    pub(crate) fn warmth(&self, now: Micros, slow_start: Micros) -> f64 {
        let age = now.saturating_sub(self.born.load(Relaxed));
        match age >= slow_start {
            true => 1.0,
            false => (age as f64 / slow_start as f64).max(WARMTH_MIN),
        }
    }
}

/// What is left of a value after a time: a straight line between whole halvings is near enough.
fn halved(value: f64, since: Micros, half_life: Micros) -> f64 {
    let (halvings, rest) = (since / half_life, since % half_life);
    if halvings >= 64 {
        return 0.0;
    }
    value / (1_u64 << halvings) as f64 * (1.0 - rest as f64 / (2 * half_life) as f64)
}

/// One request under way at an endpoint; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    vitals: Arc<Vitals>,
    waits: bool,
}

/// One that waits, in the high half.
const WAITING: u64 = 1 << 32;

impl InFlight {
    pub(crate) fn new(vitals: &Arc<Vitals>, now: Micros) -> Self {
        let before = vitals.under_way.fetch_add(WAITING | 1, Relaxed);
        if before >> 32 == 0 {
            vitals.waits_since.store(now, Relaxed);
        }
        InFlight { vitals: vitals.clone(), waits: true }
    }

    /// Its answer has begun: what is under way from now on is no sign of a slow endpoint.
    pub(crate) fn answered(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.vitals.under_way.fetch_sub(WAITING, Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let waiting = if self.waits { WAITING } else { 0 };
        self.vitals.under_way.fetch_sub(waiting | 1, Relaxed);
    }
}

#[cfg(test)]
impl Vitals {
    pub(crate) fn set_load(&self, load: u32) {
        self.under_way.store(u64::from(load), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_with_time() {
        let vitals = Vitals::default();
        vitals.answered(0, 500_000);
        assert_eq!(vitals.latency(0), 500_000.0);
        assert_eq!(vitals.latency(5 * SECOND), 250_000.0);
        assert!(vitals.latency(35 * SECOND) < 5_000.0);
        // A good answer never makes it look worse than the silence before it had.
        let before = vitals.latency(10 * SECOND);
        vitals.answered(10 * SECOND, 5_000);
        assert!(vitals.latency(10 * SECOND) <= before + 5_000.0, "{}", vitals.latency(10 * SECOND));
        vitals.answered(10 * SECOND, 400_000);
        assert_eq!(vitals.latency(10 * SECOND), 400_000.0);
    }

    #[test]
    fn failures_now_and_then_count_nothing_and_many_count_much() {
        let vitals = Vitals::default();
        vitals.answered(0, 1_000);
        let well = vitals.cost(0, 1.0);
        let dearer = |now| vitals.cost(now, 1.0) / well;
        (0..5).for_each(|_| vitals.failed(0, 10, false));
        assert_eq!(dearer(0), 1.0, "so that it is asked until it is ejected");
        (0..10).for_each(|_| vitals.failed(0, 10, false));
        assert!(dearer(0) > 10.0, "{}", dearer(0));
        (0..40).for_each(|_| vitals.failed(0, 10, true));
        assert!(dearer(0) > 150.0, "{}", dearer(0));
        assert_eq!(dearer(3 * SECOND), 1.0, "forgotten");
        // Every second attempt fails: never so many in a row that it would be ejected, but dear.
        for _ in 0..40 {
            vitals.failed(3 * SECOND, 10, false);
            vitals.answered(3 * SECOND, 10);
        }
        assert!((2.0..40.0).contains(&dearer(3 * SECOND)), "{}", dearer(3 * SECOND));
        // One in ten.
        for _ in 0..20 {
            vitals.failed(9 * SECOND, 10, false);
            (0..9).for_each(|_| vitals.answered(9 * SECOND, 10));
        }
        assert_eq!(dearer(9 * SECOND), 1.0);
    }

    #[test]
    fn one_that_is_silent_while_somebody_waits_is_known_before_any_time_limit() {
        let vitals = Arc::new(Vitals::default());
        vitals.answered(0, 5_000);
        let mut first = InFlight::new(&vitals, SECOND);
        assert_eq!(vitals.load(), 1);
        assert!(vitals.latency(SECOND) <= 5_000.0, "nobody has waited yet");
        assert_eq!(vitals.latency(3 * SECOND), 2.0 * SECOND as f64);
        first.answered();
        assert!(vitals.latency(3 * SECOND) <= 5_000.0, "its answer streams on, which is no delay");
        assert_eq!(vitals.load(), 1);
        first.answered();
        drop(first);
        drop(InFlight::new(&vitals, SECOND));
        assert_eq!((vitals.load(), vitals.under_way.load(Relaxed)), (0, 0));
    }

    #[test]
    fn who_gives_up_knows_only_that_it_would_have_taken_longer() {
        let vitals = Arc::new(Vitals::default());
        vitals.answered(0, 5_000);
        vitals.given_up(0, 1_000);
        assert_eq!(vitals.latency(0), 5_000.0, "an impatient client is no news");
        let waits = InFlight::new(&vitals, 0);
        vitals.given_up(80_000, 80_000);
        drop(waits);
        assert_eq!(vitals.latency(80_000), 80_000.0, "also when it was the only one under way");
        assert_eq!((vitals.failures.load(Relaxed), vitals.distress.load(Relaxed)), (0, 0), "and no failure");
        assert!(!vitals.has_answered_since(0));
        vitals.answered(90_000, 5_000);
        assert!(vitals.has_answered_since(80_000) && !vitals.has_answered_since(90_000));
    }

    #[test]
    fn a_young_endpoint_warms_up() {
        let vitals = Vitals::born_at(100 * SECOND, 7_000);
        assert_eq!(vitals.latency(100 * SECOND), 7_000.0, "as its peers");
        assert_eq!(vitals.warmth(100 * SECOND, 10 * SECOND), 0.1);
        assert_eq!(vitals.warmth(105 * SECOND, 10 * SECOND), 0.5);
        assert_eq!(vitals.warmth(110 * SECOND, 10 * SECOND), 1.0);
        assert_eq!(vitals.warmth(100 * SECOND, 0), 1.0, "without slow start");
    }

    #[test]
    fn on_probation_one_request_at_a_time() {
        let vitals = Arc::new(Vitals::default());
        vitals.eject(5);
        assert!(vitals.is_ejected(4) && !vitals.is_ejected(5) && vitals.has_room());
        let mut stream = InFlight::new(&vitals, 5);
        stream.answered();
        assert!(vitals.has_room(), "what streams since before is no probe");
        let probe = InFlight::new(&vitals, 5);
        assert!(!vitals.has_room());
        vitals.recovered();
        assert!(vitals.has_room());
        drop((probe, stream));
        vitals.set_load(IN_FLIGHT_PER_ENDPOINT_MAX);
        assert!(!vitals.has_room());
    }
}
