//! When to renew a certificate: a pure rule.
//!
//! In:    the certificate's life, when we got it, how often renewing failed, the time.   Out: renew now, or wait until then.
//! Owner: [`crate::Rotator`] asks; anyone may (it decides nothing by itself).
//! Invariant: the first attempt comes at half life at the latest (a twentieth of the life earlier at the earliest); the pause
//! between attempts never exceeds [`backoff_max`]; the old certificate is used until a new one is there.
//! Not here: doing it ([`crate::rotator`]).

use std::time::Duration;

use causeway_base::Seed;
use causeway_model::Timestamp;

/// First pause after a failure, unless the life is so short that this would be a large part of it.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// No pause is longer: an authority that was away for a weekend is asked again within minutes, not hours.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5 * 60);
/// Between two successful renewals at least this part of a life passes, whatever our clock says about the dates: one that
/// runs ahead would otherwise find each new certificate past its half and ask without a pause.
const REST_PART: u32 = 10;
/// The part of a life over which first attempts are spread, so that a thousand sidecars started together do not ask together.
const SPREAD_PART: u32 = 20;

/// What is known about one identity's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When its life begins.
    pub not_before: Timestamp,
    /// When its life ends.
    pub not_after: Timestamp,
    /// When we had it signed; its own beginning when it came from elsewhere (from disk).
    pub since: Timestamp,
    /// Attempts to renew it that failed, one after another.
    pub failures: u32,
    /// When the last one failed.
    pub failed_at: Timestamp,
    /// It is of no use although its life is not over: its root is no longer trusted, or it is revoked.
    pub is_void: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask for a new one now.
    Renew,
    /// Nothing before then.
    Wait {
        /// When to ask again.
        until: Timestamp,
    },
}

/// A share of randomness for one attempt, drawn once: 0 is "as early as may be", 1 "as late as may be".
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// Draws one.
    pub fn draw(seed: &Seed) -> Self {
        Jitter(seed.unit())
    }

    fn of(self, span: Duration) -> Duration {
        span.mul_f64(self.0)
    }
}

impl Standing {
    fn life(&self) -> Duration {
        self.not_after.since(self.not_before)
    }
}

/// The next action. `jitter` stays the same until an attempt was made.
pub fn next(standing: &Standing, jitter: Jitter, now: Timestamp) -> Next {
    let due = match standing.failures {
        0 => first_attempt(standing, jitter),
        failures => standing.failed_at.plus(backoff(standing.life(), failures, jitter)),
    };
    match now >= due {
        true => Next::Renew,
        false => Next::Wait { until: due },
    }
}

/// Longest pause between two attempts for a certificate with this life: a twentieth of it, within [`BACKOFF_FIRST`] and
/// [`BACKOFF_MAX`]; so the second half of a life always has room for several attempts.
pub fn backoff_max(life: Duration) -> Duration {
    (life / 20).clamp(BACKOFF_FIRST, BACKOFF_MAX)
}

fn first_attempt(standing: &Standing, jitter: Jitter) -> Timestamp {
    if standing.is_void {
        return standing.since;
    }
    let life = standing.life();
    let spread = life / SPREAD_PART;
    let due = standing.not_before.plus(life / 2 - spread).plus(jitter.of(spread));
    due.max(standing.since.plus(life / REST_PART))
}

/// 1, 2, 4 … times the first pause up to the longest, of which a random half is left out: those who failed together do not
/// come back together.
fn backoff(life: Duration, failures: u32, jitter: Jitter) -> Duration {
    let first = BACKOFF_FIRST.min(life / 50).max(Duration::from_millis(10));
    let doublings = (failures - 1).min(16);
    let pause = first.saturating_mul(1 << doublings).min(backoff_max(life));
    pause / 2 + jitter.of(pause / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn hour() -> Standing {
        Standing {
            not_before: START,
            not_after: START.plus(Duration::from_secs(3600)),
            since: START,
            failures: 0,
            failed_at: Timestamp::default(),
            is_void: false,
        }
    }

    fn after(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    #[track_caller]
    fn check(standing: Standing, jitter: f64, now: Timestamp, expected: Next) {
        assert_eq!(next(&standing, Jitter(jitter), now), expected);
    }

    #[test]
    fn the_first_attempt_comes_at_half_life_or_a_little_before() {
        check(hour(), 1.0, after(0), Next::Wait { until: after(1800) });
        check(hour(), 0.0, after(0), Next::Wait { until: after(1620) });
        check(hour(), 1.0, after(1799), Next::Wait { until: after(1800) });
        check(hour(), 1.0, after(1800), Next::Renew);
        check(hour(), 1.0, after(9999), Next::Renew);
    }

    #[test]
    fn a_void_one_is_renewed_at_once() {
        check(Standing { is_void: true, ..hour() }, 1.0, after(1), Next::Renew);
    }

    #[test]
    fn a_clock_that_runs_ahead_does_not_make_it_ask_without_pause() {
        let fresh = Standing { since: after(3000), ..hour() };
        check(fresh, 0.5, after(3000), Next::Wait { until: after(3360) });
    }

    #[test]
    fn pauses_double_up_to_a_bound_whatever_the_life_and_the_count() {
        for life in [1, 10, 60, 3600, 86_400, 10 * 365 * 86_400].map(Duration::from_secs) {
            let mut previous = Duration::ZERO;
            for failures in (1..40).chain([u32::MAX]) {
                let standing = Standing { failures, failed_at: START, not_after: START.plus(life), ..hour() };
                let Next::Wait { until } = next(&standing, Jitter(1.0), START) else { panic!("no pause") };
                let pause = until.since(START);
                assert!(pause <= backoff_max(life) && pause >= previous, "{life:?} {failures} {pause:?}");
                assert!(pause > Duration::ZERO);
                previous = pause;
            }
            assert_eq!(previous, backoff_max(life));
        }
        let standing = Standing { failures: 3, failed_at: after(1800), ..hour() };
        check(standing, 1.0, after(1800), Next::Wait { until: after(1804) });
        check(standing, 0.0, after(1800), Next::Wait { until: after(1802) });
        check(standing, 0.0, after(1802), Next::Renew);
    }

    #[test]
    fn the_second_half_of_a_life_has_room_for_several_attempts() {
        for life in [10, 60, 3600, 86_400].map(Duration::from_secs) {
            let mut standing = Standing { not_after: START.plus(life), ..hour() };
            let mut attempts = 0;
            let mut now = START;
            while now < standing.not_after {
                match next(&standing, Jitter(1.0), now) {
                    Next::Wait { until } => now = until,
                    Next::Renew => {
                        attempts += 1;
                        standing = Standing { failures: standing.failures + 1, failed_at: now, ..standing };
                    }
                }
            }
            assert!(attempts >= 5, "{life:?}: {attempts}");
        }
    }
}
