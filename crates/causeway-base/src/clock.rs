//! Time, passed in: the wall clock as a value that a test can own.
//!
//! In:    nothing, or `tokio`'s paused time in a test.      Out: [`Clock::now`] (wall), [`Clock::instant`] (monotone).
//! Owner: `node` in the roof makes one and hands it down; machines never see it, they get `now` as an argument.
//! Invariant: a clock made by [`Clock::simulated`] moves only as tokio's (pausable) time moves, and never backwards.
//! Not here: waiting (use `tokio::time`, which simulated time drives as well).

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A source of time. Cheap to clone; see the [module](self) for who makes one.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Wall time is `wall` plus what tokio's clock has moved since `origin`.
    Simulated {
        wall: SystemTime,
        origin: Instant,
    },
}

/// Where simulated wall time starts: 2026-01-01T00:00:00Z, so that logs of a simulation read like logs.
pub const SIMULATED_START: Duration = Duration::from_secs(1_767_225_600);

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Clock { source: Source::System }
    }

    /// A clock that follows tokio's time, which `#[tokio::test(start_paused = true)]` stops and advances.
    /// Must be called inside a tokio runtime.
    pub fn simulated() -> Self {
        let source =
            Source::Simulated { wall: SystemTime::UNIX_EPOCH + SIMULATED_START, origin: Instant::now() };
        Clock { source }
    }

    /// Wall-clock time: for what is written down or shown. It may jump; never measure a duration with it.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
    pub fn now(&self) -> SystemTime {
        match &self.source {
            Source::System => SystemTime::now(),
            Source::Simulated { wall, origin } => *wall + origin.elapsed(),
        }
    }

    /// Monotone time: for deadlines and durations. Follows tokio's pause and advance in tests.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_time_moves_only_with_tokio() {
        let clock = Clock::simulated();
        let before = clock.now();
        assert_eq!(clock.now(), before);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), before + Duration::from_secs(90));
    }
}
