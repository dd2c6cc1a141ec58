//! Services as they come and go: whether one is there, how many instances it has, and when it last changed.
//!
//! In:    changes of instances and declarations, in log order.      Out: answers for blocking queries and for conditions.
//! Owner: `machine.rs`; clones are published for lookups. Follows from the journal alone.
//! Invariant: a service's revision only grows; a service that is gone answers its last one, or a later one.
//! Not here: the instances themselves (`causeway_model::Snapshot`).

use causeway_model::{Revision, ServiceKey};
use imbl::{HashMap, OrdSet};

use crate::limits::GONE_SERVICES_MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    revision: Revision,
    instances: usize,
    is_declared: bool,
}

impl Entry {
    fn is_there(&self) -> bool {
        self.is_declared || self.instances > 0
    }
}

/// Every service that is there, and the last ones that went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Services {
    entries: HashMap<ServiceKey, Entry>,
    gone: OrdSet<(Revision, ServiceKey)>,
    /// What a service answers that is not among the entries.
    floor: Revision,
}

impl Services {
    /// Whether it is declared or has an instance.
    pub(crate) fn is_there(&self, service: &ServiceKey) -> bool {
        self.entries.get(service).is_some_and(Entry::is_there)
    }

    /// How many instances are registered under it.
    pub(crate) fn instances(&self, service: &ServiceKey) -> usize {
        self.entries.get(service).map_or(0, |entry| entry.instances)
    }

    /// When it last changed.
    pub(crate) fn revision(&self, service: &ServiceKey) -> Revision {
        self.entries.get(service).map_or(self.floor, |entry| entry.revision)
    }

    /// Something about it changed that leaves it where it is.
    pub(crate) fn touch(&mut self, service: &ServiceKey, revision: Revision) {
        if let Some(entry) = self.entries.get_mut(service) {
            entry.revision = revision;
        }
    }

    /// It has one instance more. Says whether it was not there before.
    pub(crate) fn add_instance(&mut self, service: &ServiceKey, revision: Revision) -> bool {
        self.change(service, revision, |entry| entry.instances += 1)
    }

    /// It has one instance less. Says whether it is no longer there.
    pub(crate) fn remove_instance(&mut self, service: &ServiceKey, revision: Revision) -> bool {
        self.change(service, revision, |entry| entry.instances -= 1)
    }

    /// It is declared now, or no longer. Says whether it came or went by that.
    pub(crate) fn declare(&mut self, service: &ServiceKey, is_declared: bool, revision: Revision) -> bool {
        self.change(service, revision, |entry| entry.is_declared = is_declared)
    }

    fn change(&mut self, service: &ServiceKey, revision: Revision, change: impl FnOnce(&mut Entry)) -> bool {
        let entry = self.entries.entry(service.clone()).or_default();
        let before = *entry;
        change(entry);
        entry.revision = revision;
        let is_there = entry.is_there();
        if before.is_there() == is_there {
            return false;
        }
        match is_there {
            true => drop(self.gone.remove(&(before.revision, service.clone()))),
            false => self.bury(service, revision),
        }
        true
    }

    fn bury(&mut self, service: &ServiceKey, revision: Revision) {
        self.gone.insert((revision, service.clone()));
        while self.gone.len() > GONE_SERVICES_MAX {
            let Some((oldest, name)) = self.gone.get_min().cloned() else { return };
            self.gone.remove(&(oldest, name.clone()));
            self.entries.remove(&name);
            self.floor = oldest;
        }
    }
}
