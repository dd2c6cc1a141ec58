//! Live requests for whoever wants to see them: compared with their wishes as they end, and shown within bounds.
//!
//! In:    the list of wishes, replaced as a whole; ended requests.      Out: [`Tapped`], collected from the workers' ledgers.
//! Owner: the proxy's handle sets the wishes; workers read them.
//! Invariant: while nobody wishes anything a request costs one load of an atomic that nobody writes.
//! Not here: whose wishes they are (`causeway-api`), how they come here and what was seen goes back (`causeway-xds`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use causeway_model::tap::{TAP_RATE_MAX, TAPS_MAX};
use causeway_model::{ServiceKey, Side, Tap, Tapped, Taps as Wishes, Timestamp};
use tokio::time::Instant;

use crate::account::{caller, protocol, side};
use crate::facts::Facts;
use crate::story::cut;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Taps {
    is_on: AtomicBool,
    open: ArcSwap<Vec<Open>>,
}

/// A wish, and how much of it was shown in the present second.
#[derive(Debug)]
struct Open {
    tap: Tap,
    second: AtomicU64,
    shown: AtomicU32,
}

impl Taps {
    /// Replaces the wishes.
    pub(crate) fn set(&self, wishes: &Wishes) {
        let open: Vec<Open> = wishes
            .taps
            .iter()
            .take(TAPS_MAX)
            .map(|tap| Open { tap: tap.clone(), second: AtomicU64::new(0), shown: AtomicU32::new(0) })
            .collect();
        self.is_on.store(!open.is_empty(), Relaxed);
        self.open.store(Arc::new(open));
    }

    /// Whether anybody wants to see anything.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// The request as those who want it are shown it; nothing when nobody does, or they have seen enough this second.
    pub(crate) fn show(
        &self,
        facts: &Facts,
        ended: Instant,
        now: Timestamp,
        seen_by: &ServiceKey,
    ) -> Option<Tapped> {
        let second = now.as_millis() / 1000;
        let open = self.open.load();
        let side = side(&facts.inlet.way, seen_by);
        let wanted = open.iter().filter(|open| wants(&open.tap, facts, side, seen_by) && open.takes(second));
        let taps: Vec<u64> = wanted.map(|open| open.tap.id).collect();
        if taps.is_empty() {
            return None;
        }
        let took = ended.saturating_duration_since(facts.started);
        Some(Tapped {
            taps,
            at: Timestamp::from_millis(now.as_millis().saturating_sub(took.as_millis() as u64)),
            side,
            seen_by: seen_by.clone(),
            instance: String::new(),
            request_id: facts.request_id().to_owned(),
            trace_id: facts.trace.id().to_owned(),
            caller: caller(&facts.inlet.client),
            service: facts.service.as_ref().map(|service| service.key.clone()),
            endpoint: facts.endpoint.as_ref().map_or_else(String::new, |endpoint| endpoint.name.clone()),
            method: cut(facts.method.as_str()).into(),
            host: cut(facts.host()).into(),
            path: cut(facts.path.as_ref().map_or("", |path| path.path())).into(),
            protocol: protocol(facts).to_owned(),
            status: facts.status,
            reason: facts.reason.to_owned(),
            micros: took.as_micros() as u64,
            bytes: facts.bytes,
            attempts: facts.attempts,
            rule: facts.rule.as_ref().map_or_else(String::new, |rule| rule.label.to_string()),
        })
    }
}

impl Open {
    /// Whether one more may be shown. A race at a second's turn shows a few more.
    fn takes(&self, second: u64) -> bool {
        if self.second.swap(second, Relaxed) != second {
            self.shown.store(0, Relaxed);
        }
        self.shown.fetch_add(1, Relaxed) < self.tap.per_second.min(TAP_RATE_MAX)
    }
}

fn wants(tap: &Tap, facts: &Facts, side: Side, seen_by: &ServiceKey) -> bool {
    let client = &facts.inlet.client;
    let is_seen_here = match tap.side {
        Some(wanted) => wanted == side,
        // A caller of the mesh has a proxy of its own, which shows the call.
        None => side != Side::Callee || client.identity.is_none(),
    };
    let called = facts.service.as_ref().map(|service| &service.key);
    let calls = match side {
        Side::Caller | Side::House => Some(&seen_by.name),
        Side::Gateway | Side::Callee => client.identity.as_ref().map(|identity| &identity.service.name),
    };
    is_seen_here
        && tap.service.as_ref().is_none_or(|wanted| called.is_some_and(|key| key.name == *wanted))
        && tap.namespace.as_ref().is_none_or(|wanted| called.is_some_and(|key| key.namespace == *wanted))
        && tap
            .from
            .as_ref()
            .is_none_or(|wanted| calls == Some(wanted) || side == Side::Gateway && seen_by.name == *wanted)
        && tap.status.is_none_or(|(from, to)| (from..=to).contains(&facts.status))
        && tap.method.as_ref().is_none_or(|wanted| facts.method.as_str() == wanted)
        && tap.path.as_ref().is_none_or(|wanted| {
            facts.path.as_ref().is_some_and(|path| path.path().starts_with(wanted.as_str()))
        })
}
