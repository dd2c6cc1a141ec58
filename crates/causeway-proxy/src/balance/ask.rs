//! What is asked of a group, and what its service's policy says of choosing.
//!
//! In:    a policy; a request's key and token; what was tried.      Out: whether an endpoint is fit for it.
//! Owner: the group holds how it chooses, each attempt brings what it asks.
//! Invariant: an ejected, tried or full endpoint is not fit.
//! Not here: choosing (`balance`), where key and token come from (`affinity`).

use causeway_model::{Algorithm, Balancer, HashOn, Locality, LocalityMode};

use crate::endpoint::{Endpoint, Micros};
use crate::token::Token;

/// A new endpoint's share grows to its whole within this time (cold caches, just-in-time compilers).
const SLOW_START: Micros = 10_000_000;
/// With less than this percentage of healthy endpoints all are used: the few that are left would not stand it.
const PANIC_PERCENT: u8 = 50;

/// How a group chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct How {
    pub algorithm: Algorithm,
    /// What of a request is hashed; only where the algorithm asks for it.
    pub hash: Option<HashOn>,
    /// Where this proxy is, when near endpoints go first.
    pub here: Option<Locality>,
    /// 0 never uses an ejected endpoint.
    pub panic_percent: u8,
    pub slow_start: Micros,
}

/// What ties a request to an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pull {
    /// Requests with the same key go to the same endpoint.
    pub key: Option<u64>,
    /// The endpoint that the client is with.
    pub stay: Option<Token>,
}

/// What is asked of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// Endpoints that failed this request.
    pub tried: &'a [u64],
    pub pull: Pull,
    pub now: Micros,
}

/// Which endpoints will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit<'a> {
    pub tried: &'a [u64],
    pub now: Micros,
    /// Too few are left: the ejected will do too.
    pub is_panic: bool,
}

impl How {
    /// As a policy says, or by default; `here` is this proxy's own place.
    pub(crate) fn new(said: Option<&Balancer>, here: &Locality) -> Self {
        let algorithm = said.map(|said| said.algorithm).unwrap_or_default();
        let is_hashing = matches!(algorithm, Algorithm::RingHash | Algorithm::Maglev);
        let hash = || said.and_then(|said| said.hash.clone()).unwrap_or(HashOn::Source);
        let prefers = said.is_some_and(|said| said.locality == LocalityMode::Prefer);
        let is_somewhere = !here.zone.is_empty() || !here.region.is_empty();
        let slow_start = said.and_then(|said| said.slow_start);
        How {
            algorithm,
            hash: is_hashing.then(hash),
            here: (prefers && is_somewhere).then(|| here.clone()),
            panic_percent: said.and_then(|said| said.panic_percent).unwrap_or(PANIC_PERCENT).min(100),
            slow_start: slow_start
                .map_or(SLOW_START, |time| time.as_micros().min(u128::from(u64::MAX)) as u64),
        }
    }
}

impl How {
    /// The algorithm as documents name it.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self.algorithm {
            Algorithm::PeakEwma => "peakEwma",
            Algorithm::LeastRequest => "leastRequest",
            Algorithm::RoundRobin => "roundRobin",
            Algorithm::Random => "random",
            Algorithm::RingHash => "ringHash",
            Algorithm::Maglev => "maglev",
        }
    }
}

impl Default for How {
    fn default() -> Self {
        How::new(None, &Locality::default())
    }
}

impl<'a> Ask<'a> {
    /// A first attempt that may go anywhere.
    #[cfg(test)]
    pub(crate) fn anywhere(now: Micros) -> Self {
        Ask { tried: &[], pull: Pull::default(), now }
    }

    pub(crate) fn fit(&self, is_panic: bool) -> Fit<'a> {
        Fit { tried: self.tried, now: self.now, is_panic }
    }
}

impl Fit<'_> {
    pub(crate) fn admits(&self, endpoint: &Endpoint) -> bool {
        (self.is_panic || !endpoint.vitals.is_ejected(self.now))
            && !self.tried.contains(&endpoint.id)
            && endpoint.vitals.has_room()
    }
}
