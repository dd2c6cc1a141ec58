//! The mass-expiry guard: when too many leases of one service or zone end at once, the cause is likely ours.
//!
//! In:    which instances are present, lapse and return.      Out: whether a lapse is to be believed.
//! Owner: `machine.rs`; follows from the journal alone (each record bears its time).
//! Invariant: an instance counts once in its service and once in its zone; what lapsed longer ago than the window does not.
//! Not here: what becomes of a suspect (`machine.rs`).

use causeway_model::{Instance, InstanceKey, Locality, ServiceKey, Timestamp};
use imbl::{HashMap, OrdMap, OrdSet};

use crate::limits::{GUARD_EXPIRIES_MIN, GUARD_SHARE_PERCENT, GUARD_WINDOW, GUARD_ZONE_EXPIRIES_MIN};

/// Things that fail together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Domain {
    Service(ServiceKey),
    Zone(Locality),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Registered now, suspects and lost ones too.
    present: usize,
    /// Lapsed within the window, removed or not.
    lapsed: usize,
    /// Of those, the ones that were removed.
    gone: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lapse {
    at: Timestamp,
    zone: Locality,
    is_gone: bool,
}

/// The counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guard {
    tallies: HashMap<Domain, Tally>,
    lapses: OrdMap<InstanceKey, Lapse>,
    by_time: OrdSet<(Timestamp, InstanceKey)>,
}

fn domains<'a>(service: &'a ServiceKey, zone: &'a Locality) -> impl Iterator<Item = Domain> + use<'a> {
    let in_zone = (!zone.zone.is_empty()).then(|| Domain::Zone(zone.clone()));
    std::iter::once(Domain::Service(service.clone())).chain(in_zone)
}

impl Guard {
    /// An instance was registered in the place of `before`.
    pub(crate) fn registered(&mut self, instance: &Instance, before: Option<&Instance>) {
        self.returned(&instance.key);
        match before {
            Some(before) if before.locality == instance.locality => return,
            Some(before) => self.count(before, |tally| tally.present -= 1),
            None => {}
        }
        self.count(instance, |tally| tally.present += 1);
    }

    /// An instance is removed: because it lapsed, or for another reason.
    pub(crate) fn removed(&mut self, instance: &Instance, is_lapse: bool, at: Timestamp) {
        match is_lapse {
            true => {
                self.lapsed(instance, at);
                if let Some(lapse) = self.lapses.get_mut(&instance.key) {
                    lapse.is_gone = true;
                }
                self.count(instance, |tally| tally.gone += 1);
            }
            false => self.returned(&instance.key),
        }
        self.count(instance, |tally| tally.present -= 1);
    }

    /// An instance's lease ended, and it is not removed yet.
    pub(crate) fn lapsed(&mut self, instance: &Instance, at: Timestamp) {
        self.forget(at);
        if self.lapses.contains_key(&instance.key) {
            return;
        }
        let lapse = Lapse { at, zone: instance.locality.clone(), is_gone: false };
        self.lapses.insert(instance.key.clone(), lapse);
        self.by_time.insert((at, instance.key.clone()));
        self.count(instance, |tally| tally.lapsed += 1);
    }

    /// An instance gave a sign of life.
    pub(crate) fn returned(&mut self, key: &InstanceKey) {
        let Some(lapse) = self.lapses.remove(key) else { return };
        self.by_time.remove(&(lapse.at, key.clone()));
        for domain in domains(&key.service, &lapse.zone) {
            self.tally(domain, |tally| {
                tally.lapsed -= 1;
                tally.gone -= usize::from(lapse.is_gone);
            });
        }
    }

    /// Forgets what lapsed before the window that ends at `now`.
    pub(crate) fn forget(&mut self, now: Timestamp) {
        while let Some((_, key)) = self.by_time.get_min().filter(|(at, _)| now.since(*at) > GUARD_WINDOW) {
            let key = key.clone();
            self.returned(&key);
        }
    }

    /// Whether each of `lapsing` (which are about to lapse together) is to be kept as a suspect.
    pub(crate) fn verdicts(&self, lapsing: &[&Instance]) -> Vec<bool> {
        let mut more: std::collections::HashMap<Domain, usize> = std::collections::HashMap::new();
        for instance in lapsing.iter().filter(|instance| !self.lapses.contains_key(&instance.key)) {
            for domain in domains(&instance.key.service, &instance.locality) {
                *more.entry(domain).or_default() += 1;
            }
        }
        let holds = |domain: Domain| {
            let tally = self.tallies.get(&domain).copied().unwrap_or_default();
            let lapsed = tally.lapsed + more.get(&domain).copied().unwrap_or_default();
            let least = match domain {
                Domain::Service(_) => GUARD_EXPIRIES_MIN,
                Domain::Zone(_) => GUARD_ZONE_EXPIRIES_MIN,
            };
            lapsed >= least && lapsed * 100 > GUARD_SHARE_PERCENT * (tally.present + tally.gone)
        };
        let of = |instance: &&Instance| domains(&instance.key.service, &instance.locality).any(holds);
        lapsing.iter().map(of).collect()
    }

    fn count(&mut self, instance: &Instance, change: impl Fn(&mut Tally)) {
        for domain in domains(&instance.key.service, &instance.locality) {
            self.tally(domain, &change);
        }
    }

    fn tally(&mut self, domain: Domain, change: impl Fn(&mut Tally)) {
        let tally = self.tallies.entry(domain.clone()).or_default();
        change(tally);
        if *tally == Tally::default() {
            self.tallies.remove(&domain);
        }
    }

    /// What must hold of the counts, given every instance (see `invariants.rs`).
    pub(crate) fn problem<'a>(&self, instances: impl Iterator<Item = &'a Instance>) -> Option<String> {
        let mut expected: HashMap<Domain, Tally> = HashMap::new();
        for instance in instances {
            for domain in domains(&instance.key.service, &instance.locality) {
                expected.entry(domain).or_default().present += 1;
            }
        }
        for (key, lapse) in &self.lapses {
            for domain in domains(&key.service, &lapse.zone) {
                let tally = expected.entry(domain).or_default();
                tally.lapsed += 1;
                tally.gone += usize::from(lapse.is_gone);
            }
        }
        (expected != self.tallies).then(|| format!("the guard counts {:?}, not {expected:?}", self.tallies))
    }
}
