//! So many a second: what is told, sampled or shown must not grow with the traffic.

use std::time::Duration;

use tokio::time::Instant;

/// A number of things each second; what was not used is saved up for one second.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_second: f64,
    left: f64,
    since: Option<Instant>,
}

impl Allowance {
    pub(crate) fn per_second(per_second: f64) -> Self {
        Allowance { per_second, left: per_second.max(1.0), since: None }
    }

    /// Takes one, when there is one left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.since = Some(now);
        self.left = (self.left + passed.as_secs_f64() * self.per_second).min(self.per_second.max(1.0));
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second_and_no_more() {
        let mut allowance = Allowance::per_second(10.0);
        let mut taken = || (0..100).filter(|_| allowance.take(Instant::now())).count();
        assert_eq!((taken(), taken()), (10, 0));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(taken(), 5);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken(), 10, "a second's worth is saved up, not a minute's");
    }

    #[tokio::test(start_paused = true)]
    async fn less_than_one_a_second_is_one_now_and_then() {
        let mut allowance = Allowance::per_second(0.5);
        assert!(allowance.take(Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!allowance.take(Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(allowance.take(Instant::now()));
    }
}
