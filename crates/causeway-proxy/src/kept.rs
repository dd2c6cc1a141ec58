//! What a policy's limits count with.
//!
//! In:    the limits as they are written.      Out: the bucket and the gate that count for them.
//! Owner: the policy hung on a service or rule; made at the first request, and kept as long as the policy says the same.
//! Not here: when they are asked (`admission`).

use std::sync::{Arc, OnceLock};

use causeway_model::{Concurrency, RateLimit};

use crate::endpoint::Micros;
use crate::gate::{Gate, Mode, Terms};
use crate::limits::{GATE_QUEUE, GATE_WAIT};
use crate::rate::Rate;

/// See the [module](self). A copy begins anew, and two that count differently are equal: what counts is what is written.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    rate: OnceLock<Rate>,
    gate: OnceLock<Arc<Gate>>,
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        Kept::default()
    }
}

impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Kept {}

impl Kept {
    pub(crate) fn rate(&self, limit: &RateLimit) -> &Rate {
        let burst = limit.burst.unwrap_or(limit.requests);
        self.rate.get_or_init(|| Rate::new(limit.requests, limit.per, burst))
    }

    pub(crate) fn gate(&self, wish: &Concurrency, now: Micros) -> Option<&Arc<Gate>> {
        let mode = match wish.max {
            Some(0) => return None,
            Some(max) => Mode::Fixed(max),
            None => Mode::Adaptive,
        };
        let queue = wish.queue.map_or(GATE_QUEUE, |queue| queue as usize);
        let terms = Terms { mode, queue, wait: wish.wait.unwrap_or(GATE_WAIT) };
        Some(self.gate.get_or_init(|| Gate::new(terms, now)))
    }
}

/// The gate of an app of which no policy speaks.
pub(crate) fn app_gate() -> Arc<Gate> {
    Gate::new(Terms::default(), 0)
}
