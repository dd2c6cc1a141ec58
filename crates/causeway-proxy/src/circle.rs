//! Endpoints that are judged together: those of one service, whichever route, subset or port a request came by.
//!
//! In:    a service's endpoints and what its policy says of ejection.      Out: how many of them may be out at once.
//! Owner: the plan; every endpoint of a group holds its circle.
//! Invariant: a subset's endpoints are judged in the circle of the whole service: a part of one endpoint could never lose it.
//! Not here: the judgement (`outlier`).

use std::sync::Arc;
use std::time::Duration;

use causeway_model::Outlier;

use crate::vitals::{Micros, Vitals};

/// Failed answers (5xx, timeout, reset) in a row that eject, when no policy says otherwise.
const FAILURES: u32 = 5;
/// First ejection; doubled with each further one.
const BASE: Duration = Duration::from_secs(5);
/// Longest ejection.
const LONGEST: Duration = Duration::from_secs(60);
/// Percent of a circle's endpoints that may be out at once.
const SHARE: u8 = 50;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejection {
    /// Failures in a row; 0 never.
    pub failures: u32,
    pub base: Micros,
    pub longest: Micros,
    pub percent_max: u8,
}

/// Endpoints that are judged together.
#[derive(Debug, Default)]
pub(crate) struct Circle {
    pub ejection: Ejection,
    members: Vec<Arc<Vitals>>,
}

impl Ejection {
    /// As a policy says, or by default.
    pub(crate) fn new(said: Option<&Outlier>) -> Self {
        let micros = |said: Option<Duration>, default: Duration| {
            said.unwrap_or(default).as_micros().clamp(1, u128::from(u64::MAX / 4)) as Micros
        };
        let base = micros(said.and_then(|said| said.base), BASE);
        Ejection {
            failures: said.and_then(|said| said.failures).unwrap_or(FAILURES),
            base,
            longest: micros(said.and_then(|said| said.max), LONGEST).max(base),
            percent_max: said.and_then(|said| said.max_percent).unwrap_or(SHARE).min(100),
        }
    }

    /// How long the ejection after so many others lasts.
    pub(crate) fn length(&self, others: u32) -> Micros {
        self.base.saturating_mul(1 << others.min(16)).min(self.longest)
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection::new(None)
    }
}

impl Circle {
    pub(crate) fn new(ejection: Ejection, members: Vec<Arc<Vitals>>) -> Self {
        Circle { ejection, members }
    }

    /// How many may be out at once: the policy's share, rounded down, so that by default a lone endpoint never is.
    pub(crate) fn out_max(&self) -> usize {
        self.members.len() * usize::from(self.ejection.percent_max) / 100
    }

    /// Whether one more may be ejected.
    pub(crate) fn may_lose_one(&self, now: Micros) -> bool {
        self.members.iter().filter(|vitals| vitals.is_ejected(now)).count() < self.out_max()
    }
}
