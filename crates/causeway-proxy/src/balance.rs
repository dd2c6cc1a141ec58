//! Chooses an endpoint, as the service's policy says; by default the cheaper of two drawn (peak-EWMA, power of two choices). Pure.
//!
//! In:    a group's endpoints, what a request asks, a seed.      Out: one of them.
//! Owner: the plan holds groups; a worker brings its own seed.
//! Invariant: an ejected, tried or full endpoint is chosen only when there is no other; the same seed and key choose the same.
//! Not here: what an endpoint costs (`vitals`), when it is ejected (`outlier`), what ties a request to one (`affinity`).
//!
//! ```text
//! group: near tier -> next tier -> all the rest      each: peak-EWMA | least request | round robin | random | ring | maglev
//! ```

mod ask;
mod maglev;
mod outlook;
mod ring;
mod rotation;
mod tier;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use causeway_base::Seed;
use causeway_model::Locality;

use self::ask::Fit;
use self::outlook::{Outlook, Standing, TIERS_MAX};
use self::tier::Tier;
use crate::endpoint::{Endpoint, Micros};
use crate::hash;
use crate::token::Token;

pub(crate) use self::ask::{Ask, How, Pull};

/// For so many microseconds (65 ms) the shares of tiers stay as they were found.
const OUTLOOK_BITS: u32 = 16;
/// An outlook's bits beside the time at which it was made.
const PACKED_BITS: u32 = 27;

/// The endpoints of one service on one port.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// By nearness.
    pub endpoints: Vec<Arc<Endpoint>>,
    pub how: How,
    /// The nearest first; none is empty.
    tiers: Vec<Tier>,
    /// Which endpoint a token says, by token; empty for a service that nobody stays with.
    tokens: Vec<(Token, u32)>,
    /// Whether shares of tiers or a panic are to be looked at.
    is_watchful: bool,
    /// When it was made, and the packed [`Outlook`].
    outlook: AtomicU64,
}

/// How near an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nearness {
    Zone,
    Region,
    Far,
}

/// Endpoints that are equally near, and what they take together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'a> {
    /// None for a group whose endpoints are all alike.
    pub nearness: Option<Nearness>,
    pub endpoints: &'a [Arc<Endpoint>],
    pub percent: u8,
    pub is_panic: bool,
}

impl Nearness {
    /// An endpoint that does not say its region is where its zone is.
    fn of(endpoint: &Locality, here: &Locality) -> Self {
        let is_region = endpoint.region == here.region;
        let is_silent = endpoint.region.is_empty() || here.region.is_empty();
        match () {
            () if !here.zone.is_empty() && endpoint.zone == here.zone && (is_region || is_silent) => {
                Nearness::Zone
            }
            () if is_region && !here.region.is_empty() => Nearness::Region,
            () => Nearness::Far,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Nearness::Zone => "zone",
            Nearness::Region => "region",
            Nearness::Far => "far",
        }
    }
}

impl Group {
    /// Of endpoints that are all alike, as without a policy.
    pub(crate) fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        Group::build(endpoints, &[], How::default(), None)
    }

    /// `absent` are places and weights of instances that the registry has taken out because something is wrong with them. `last` is
    /// the group that this one replaces.
    pub(crate) fn build(
        mut endpoints: Vec<Arc<Endpoint>>,
        absent: &[(Locality, u32)],
        how: How,
        last: Option<&Group>,
    ) -> Self {
        let nearness =
            |place: &Locality| how.here.as_ref().map_or(Nearness::Zone, |here| Nearness::of(place, here));
        endpoints.sort_by_key(|endpoint| nearness(&endpoint.locality));
        let mut tiers: Vec<Tier> = Vec::new();
        let mut from = 0;
        for near in [Nearness::Zone, Nearness::Region, Nearness::Far] {
            let to = endpoints.partition_point(|endpoint| nearness(&endpoint.locality) <= near);
            if to == from {
                continue;
            }
            let missing = absent.iter().filter(|(place, _)| nearness(place) == near);
            let missing = missing.map(|(_, weight)| u64::from(*weight)).sum();
            let last = last.and_then(|last| last.tiers.get(tiers.len()));
            tiers.push(Tier::new(&endpoints, from..to, missing, &how, last));
            from = to;
        }
        // With the default limits so many stay in that there is never a panic: then nobody need look out for one.
        let out_max = endpoints.first().map_or(0, |endpoint| endpoint.circle.out_max());
        let least = endpoints.len().saturating_sub(out_max);
        let may_panic = least * 100 < endpoints.len() * usize::from(how.panic_percent);
        let mut tokens: Vec<(Token, u32)> =
            endpoints.iter().enumerate().filter_map(|(at, e)| Some((e.token?, at as u32))).collect();
        tokens.sort_unstable();
        let is_watchful = tiers.len() > 1 || may_panic;
        Group { endpoints, how, tiers, tokens, is_watchful, outlook: AtomicU64::new(0) }
    }

    /// The endpoint for the next attempt.
    pub(crate) fn pick(&self, ask: &Ask<'_>, seed: &Seed) -> Option<&Arc<Endpoint>> {
        match self.endpoints.as_slice() {
            [] => return None,
            [only] => return only.vitals.has_place().then_some(only),
            _ => {}
        }
        let (at, is_panic) = self.tier(ask, seed);
        let fit = ask.fit(is_panic);
        if let Some(stays) = ask.pull.stay.and_then(|token| self.find(token))
            && fit.admits(stays)
        {
            return Some(stays);
        }
        let tier = &self.tiers[at];
        tier.pick(&self.endpoints[tier.range.clone()], &fit, ask.pull.key, seed)
            .or_else(|| self.pick_slowly(at, &fit, ask, seed))
    }

    /// The endpoint that a token says.
    pub(crate) fn find(&self, token: Token) -> Option<&Arc<Endpoint>> {
        let at = self.tokens.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        self.endpoints.get(self.tokens[at].1 as usize)
    }

    /// Which endpoints take what percentage of the calls together, the nearest first; one line for a group without preference.
    pub(crate) fn shares(&self, now: Micros) -> impl Iterator<Item = Share<'_>> {
        let outlook = self.look(now);
        let mut before = 0;
        self.tiers.iter().zip(0..).map(move |(tier, at)| {
            let endpoints = &self.endpoints[tier.range.clone()];
            let here = self.how.here.as_ref();
            let nearness = here.and_then(|here| Some(Nearness::of(&endpoints.first()?.locality, here)));
            let percent = outlook.up_to[at].saturating_sub(before);
            before = outlook.up_to[at];
            Share { nearness, endpoints, percent, is_panic: outlook.is_panic[at] }
        })
    }

    // === which tier ===

    fn tier(&self, ask: &Ask<'_>, seed: &Seed) -> (usize, bool) {
        if !self.is_watchful {
            return (0, false);
        }
        let moment = (ask.now >> OUTLOOK_BITS) + 1;
        let known = self.outlook.load(Relaxed);
        let outlook = match known >> PACKED_BITS == moment {
            true => Outlook::unpack(known),
            false => {
                let outlook = self.look(ask.now);
                self.outlook.store(moment << PACKED_BITS | outlook.pack(), Relaxed);
                outlook
            }
        };
        let drawn = match ask.pull.key {
            // The same key goes the same way.
            Some(key) => (hash::both(key, 0) % 100) as u8,
            None => seed.below(100) as u8,
        };
        outlook.tier(drawn)
    }

    fn look(&self, now: Micros) -> Outlook {
        let mut standings = [Standing { there: 0, healthy: 0, expected: 0 }; TIERS_MAX];
        for (standing, tier) in standings.iter_mut().zip(&self.tiers) {
            let healthy = self.endpoints[tier.range.clone()].iter().filter(|e| !e.vitals.is_ejected(now));
            let healthy = healthy.map(|endpoint| u64::from(endpoint.weight)).sum();
            *standing = Standing { there: tier.weight, healthy, expected: tier.expected };
        }
        Outlook::new(&standings[..self.tiers.len()], self.how.panic_percent)
    }

    // === the slow way ===

    /// Every endpoint is looked at: the fit ones of the tier, of the nearest other one, then (panic) those not tried, then any.
    fn pick_slowly(&self, at: usize, fit: &Fit<'_>, ask: &Ask<'_>, seed: &Seed) -> Option<&Arc<Endpoint>> {
        let others = (0..self.tiers.len()).filter(|other| *other != at);
        for at in [at].into_iter().chain(others) {
            let endpoints = &self.endpoints[self.tiers[at].range.clone()];
            let found = choose(endpoints, ask.pull.key, seed, |endpoint| fit.admits(endpoint));
            if found.is_some() {
                return found;
            }
        }
        let may_panic = self.how.panic_percent > 0;
        let may = |endpoint: &Endpoint| {
            endpoint.vitals.has_place() && (may_panic || !endpoint.vitals.is_ejected(ask.now))
        };
        choose(&self.endpoints, ask.pull.key, seed, |endpoint| {
            !ask.tried.contains(&endpoint.id) && may(endpoint)
        })
        .or_else(|| choose(&self.endpoints, ask.pull.key, seed, may))
    }
}

/// One of those that are wanted: by weight, or always the same for the same key.
fn choose<'a>(
    endpoints: &'a [Arc<Endpoint>],
    key: Option<u64>,
    seed: &Seed,
    is_wanted: impl Fn(&Endpoint) -> bool,
) -> Option<&'a Arc<Endpoint>> {
    let wanted = || endpoints.iter().filter(|endpoint| is_wanted(endpoint));
    if let Some(key) = key {
        return wanted().max_by_key(|endpoint| hash::both(endpoint.hash, key));
    }
    let total: u64 = wanted().map(|endpoint| u64::from(endpoint.weight)).sum();
    let mut at = seed.below(usize::try_from(total).unwrap_or(usize::MAX)) as u64;
    wanted().find(|endpoint| match at.checked_sub(u64::from(endpoint.weight)) {
        Some(rest) => {
            at = rest;
            false
        }
        None => true,
    })
}

#[cfg(test)]
#[path = "balance/tests.rs"]
mod tests;
