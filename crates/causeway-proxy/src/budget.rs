//! The retry budget: retries may add a fifth to a service's load, so that they cannot turn a slow service into a dead one.

use crate::endpoint::Micros;

/// Retries allowed for each request.
const RATIO: f64 = 0.2;
/// Retries allowed for each second whatever the traffic, so that a quiet service's calls are tried again too.
const PER_SECOND: f64 = 10.0;
/// Most that can be saved up, and what there is at the start: enough to send again what was under way at one instance that
/// died, too little to double an overloaded service's load for longer than a moment.
const SAVED_MAX: f64 = 500.0;

/// The budget of one service in one worker.
#[derive(Debug)]
pub(crate) struct Budget {
    saved: f64,
    refilled_at: Micros,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { saved: SAVED_MAX, refilled_at: 0 }
    }
}

impl Budget {
    /// A request came in.
    pub(crate) fn deposit(&mut self) {
        self.saved = (self.saved + RATIO).min(SAVED_MAX);
    }

    /// Whether a retry may be sent now.
    pub(crate) fn withdraw(&mut self, now: Micros) -> bool {
        let elapsed = now.saturating_sub(self.refilled_at) as f64 / 1e6;
        self.refilled_at = now;
        self.saved = (self.saved + elapsed * PER_SECOND).min(SAVED_MAX);
        let is_allowed = self.saved >= 1.0;
        if is_allowed {
            self.saved -= 1.0;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_a_fifth_is_retried() {
        let mut budget = Budget::default();
        while budget.withdraw(0) {}
        (0..1000).for_each(|_| budget.deposit());
        let retried = (0..1000).filter(|_| budget.withdraw(0)).count();
        assert!((199..=201).contains(&retried), "{retried}");
        assert!(budget.withdraw(1_000_000), "a second later there is a little again");
    }
}
