//! Instances: how they are registered, kept, drained, lost, suspected, removed.
//!
//! In:    commands about instances, and the time.      Out: decrees; and what those do to the state.
//! Owner: `machine.rs`, of which this is a part.
//! Invariant: an epoch is the revision at which its owner first registered, so a later owner's is greater for ever, even
//! when the key was gone in between and nothing of it is remembered.
//! Not here: deadlines (`lease.rs`), when a lapse is not believed (`guard.rs`).
//!
//! ```text
//!            +--------- Registered, Returned ---------+
//!            v                                        |
//! (none) -> Up --- connection broke ---> Lost ------- + ---> (none) after CONNECTION_GRACE
//!            |\--- ran out with many --> Suspect ----/ ----> (none) after SUSPECT_AGE_MAX
//!            |\--- Drained ------------> Draining ---------> (none) when its lease ends
//!             \--- ran out alone --------------------------> (none)
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use causeway_model::{
    CheckKind, Epoch, Health, Instance, InstanceKey, Lease, Lifecycle, ObjectKey, Revision, ServiceKey,
    Timestamp,
};

use crate::command::{Answer, ConnectionId, Granted, Owner, Registration};
use crate::error::Error;
use crate::journal::{Decree, Removal};
use crate::limits;
use crate::machine::{Decided, Machine};

/// Instances that one command adds to services, beside those that are there.
type Added<'a> = HashMap<&'a ServiceKey, usize>;

// === deciding ===

impl Machine {
    pub(crate) fn register(&self, now: Timestamp, next: Revision, registration: &Registration) -> Decided {
        let (decree, granted) = self.register_one(now, next, registration, &mut Added::new())?;
        let answer = Answer { registered: vec![Ok(granted)], ..Answer::default() };
        Ok((decree.into_iter().collect(), answer))
    }

    pub(crate) fn register_many(&self, now: Timestamp, next: Revision, many: &[Registration]) -> Decided {
        if many.len() > limits::REGISTER_MANY_MAX {
            let doing = format_args!("cannot register {} instances at once", many.len()).to_string();
            return Err(Error::full(doing, "in one command", limits::REGISTER_MANY_MAX));
        }
        let (mut decrees, mut registered) = (Vec::new(), Vec::new());
        let (mut added, mut seen) = (Added::new(), HashSet::new());
        for registration in many {
            let one = match seen.insert(&registration.key) {
                true => self.register_one(now, next, registration, &mut added),
                false => Err(Error::invalid(doing(&registration.key), "the command names it twice")),
            };
            registered.push(one.map(|(decree, granted)| {
                decrees.extend(decree);
                granted
            }));
        }
        Ok((decrees, Answer { registered, ..Answer::default() }))
    }

    fn register_one<'a>(
        &self,
        now: Timestamp,
        next: Revision,
        registration: &'a Registration,
        added: &mut Added<'a>,
    ) -> Result<(Option<Decree>, Granted), Error> {
        let Registration { key, owner, .. } = registration;
        validate(registration)?;
        let before = self.snapshot.instance(key);
        let is_same_owner = before.is_some() && self.seats.get(key).is_some_and(|seat| seat.owner == *owner);
        if let Some(before) = before {
            self.may_replace(before, registration, is_same_owner)?;
        }
        self.has_room(before.is_none(), registration, added)?;
        let kept = before.filter(|_| is_same_owner);
        let epoch = kept.map_or(Epoch::new(next.get()), |before| before.epoch);
        let instance = Instance {
            health: registration.health.or(kept.map(|before| before.health)).unwrap_or_default(),
            lifecycle: self.lifecycle(key, is_same_owner && owner.is_some()),
            epoch,
            registered_at: kept.map_or(now, |before| before.registered_at),
            revision: next,
            ..described(registration)
        };
        let is_unchanged = kept.is_some_and(|before| says_the_same(before, &instance));
        let expires_at = match instance.lease {
            Lease::Ttl(ttl) => Some(now.plus(ttl)),
            Lease::Permanent | Lease::Connection => None,
        };
        let granted = Granted { epoch, lease: instance.lease, expires_at };
        let decree = (!is_unchanged)
            .then(|| Decree::Registered { instance: Arc::new(instance), owner: owner.clone() });
        Ok((decree, granted))
    }

    fn may_replace(&self, before: &Instance, by: &Registration, is_same_owner: bool) -> Result<(), Error> {
        if !before.origin.admits(&by.origin) {
            return Err(Error::conflict(doing(&by.key), &before.origin));
        }
        match by.epoch {
            Some(epoch) if epoch < before.epoch && !is_same_owner => {
                Err(Error::stale(doing(&by.key), before.epoch))
            }
            _ => Ok(()),
        }
    }

    fn has_room<'a>(&self, is_new: bool, by: &'a Registration, added: &mut Added<'a>) -> Result<(), Error> {
        if let Some(connection) = by.connection {
            let most = limits::CONNECTION_INSTANCES_MAX;
            if self.seats.connected_count(connection, &by.key) >= most {
                return Err(Error::full(doing(&by.key), "instances of one connection", most));
            }
        }
        if !is_new {
            return Ok(());
        }
        let in_all: usize = self.snapshot.instance_count() + added.values().sum::<usize>();
        let of_service = added.entry(&by.key.service).or_default();
        if self.services.instances(&by.key.service) + *of_service >= limits::SERVICE_INSTANCES_MAX {
            let most = limits::SERVICE_INSTANCES_MAX;
            return Err(Error::full(doing(&by.key), "instances of one service", most));
        }
        if in_all >= limits::INSTANCES_MAX {
            return Err(Error::full(doing(&by.key), "instances", limits::INSTANCES_MAX));
        }
        *of_service += 1;
        Ok(())
    }

    /// An owner that comes back finds the drain that was ordered meanwhile; a new registration is in service.
    fn lifecycle(&self, key: &InstanceKey, is_back: bool) -> Lifecycle {
        match self.seats.get(key).is_some_and(|seat| seat.is_drained) {
            true if is_back => Lifecycle::Draining,
            _ => Lifecycle::Up,
        }
    }

    pub(crate) fn heartbeat(
        &self,
        key: &InstanceKey,
        epoch: Option<Epoch>,
        health: Option<Health>,
    ) -> Decided {
        let instance = self.fenced(key, epoch)?;
        let changed = health.filter(|health| *health != instance.health);
        // A lease by connection is renewed by a connection alone, which `Register` brings.
        let is_back = instance.lifecycle == Lifecycle::Suspect && instance.lease != Lease::Connection;
        let back = is_back.then(|| Decree::Returned { key: key.clone() });
        let health = changed.map(|health| Decree::HealthChanged { key: key.clone(), health });
        Ok((back.into_iter().chain(health).collect(), Answer::default()))
    }

    pub(crate) fn report(&self, key: &InstanceKey, epoch: Option<Epoch>, health: Health) -> Decided {
        let instance = self.fenced(key, epoch)?;
        let changed = (instance.health != health).then(|| Decree::HealthChanged { key: key.clone(), health });
        Ok((changed.into_iter().collect(), Answer::default()))
    }

    pub(crate) fn drain(&self, key: &InstanceKey, epoch: Option<Epoch>) -> Decided {
        self.fenced(key, epoch)?;
        let is_drained = self.seats.get(key).is_some_and(|seat| seat.is_drained);
        let drained = (!is_drained).then(|| Decree::Drained { key: key.clone() });
        Ok((drained.into_iter().collect(), Answer::default()))
    }

    pub(crate) fn deregister(&self, key: &InstanceKey, epoch: Option<Epoch>) -> Decided {
        self.fenced(key, epoch)?;
        Ok((vec![Decree::Removed { key: key.clone(), why: Removal::Asked }], Answer::default()))
    }

    /// The instance, if it is there and `epoch` is its present owner's.
    fn fenced(&self, key: &InstanceKey, epoch: Option<Epoch>) -> Result<&Arc<Instance>, Error> {
        let instance = self.snapshot.instance(key).ok_or_else(|| Error::not_found(key))?;
        match epoch.is_some_and(|epoch| epoch != instance.epoch) {
            true => Err(Error::stale(format_args!("cannot speak for {key}"), instance.epoch)),
            false => Ok(instance),
        }
    }

    pub(crate) fn connection_lost(&self, connection: ConnectionId) -> Decided {
        let kept = self.seats.connected(connection);
        let instances = kept.iter().filter_map(|key| self.snapshot.instance(key));
        let (up, others): (Vec<&Instance>, Vec<&Instance>) =
            instances.map(|instance| &**instance).partition(|instance| instance.lifecycle == Lifecycle::Up);
        let verdicts = self.guard.verdicts(&up);
        let decrees = up.iter().zip(verdicts).map(|(instance, is_guarded)| match is_guarded {
            true => Decree::Suspected { key: instance.key.clone() },
            false => Decree::Lost { key: instance.key.clone() },
        });
        let lost = others.iter().map(|instance| Decree::Lost { key: instance.key.clone() });
        Ok((decrees.chain(lost).collect(), Answer::default()))
    }

    pub(crate) fn tick(&self, now: Timestamp) -> Decided {
        let instances = self.seats.expired(now).filter_map(|key| self.snapshot.instance(key));
        let (lapsing, others): (Vec<&Instance>, Vec<&Instance>) =
            instances.map(|instance| &**instance).partition(|instance| self.lapses(instance));
        // The guard sees all of them, even when the records of some must wait for the next look.
        let verdicts = self.guard.verdicts(&lapsing);
        let lapsed = lapsing.iter().zip(verdicts).map(|(instance, is_guarded)| match is_guarded {
            true => Decree::Suspected { key: instance.key.clone() },
            false => Decree::Removed { key: instance.key.clone(), why: Removal::Expired },
        });
        let removed = others.iter().map(|instance| {
            let is_given_up = instance.lifecycle == Lifecycle::Suspect;
            let why = if is_given_up { Removal::GivenUp } else { Removal::Expired };
            Decree::Removed { key: instance.key.clone(), why }
        });
        Ok((lapsed.chain(removed).take(limits::TICK_EXPIRIES_MAX).collect(), Answer::default()))
    }

    /// Whether the end of its lease is news that the guard must believe: not of one that was drained, nor of a suspect.
    fn lapses(&self, instance: &Instance) -> bool {
        let is_drained = self.seats.get(&instance.key).is_some_and(|seat| seat.is_drained);
        !is_drained && matches!(instance.lifecycle, Lifecycle::Up | Lifecycle::Lost)
    }
}

fn doing(key: &InstanceKey) -> String {
    format!("cannot register {key}")
}

/// What a registration says; the rest is to be filled in.
fn described(registration: &Registration) -> Instance {
    let registration = registration.clone();
    Instance {
        key: registration.key,
        address: registration.address,
        port: registration.port,
        ports: registration.ports,
        protocol: registration.protocol,
        version: registration.version,
        tags: registration.tags,
        metadata: registration.metadata,
        weight: registration.weight,
        locality: registration.locality,
        mesh: registration.mesh,
        health: Health::default(),
        lifecycle: Lifecycle::default(),
        lease: registration.lease,
        epoch: Epoch::default(),
        origin: registration.origin,
        registered_at: Timestamp::default(),
        revision: Revision::default(),
        checks: registration.checks,
    }
}

fn says_the_same(before: &Instance, after: &Instance) -> bool {
    // Compared as a whole, so that a field that is added to the model is not forgotten here.
    let mut before = before.clone();
    before.revision = after.revision;
    before.origin = after.origin.clone();
    before == *after
}

fn validate(registration: &Registration) -> Result<(), Error> {
    let Registration { key, address, port, lease, owner, connection, .. } = registration;
    let refuse = |why: String| Err(Error::invalid(doing(key), why));
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !is_plain(address) || *port == 0 {
        return refuse(format!("{address:?} port {port} is not an address that can be called"));
    }
    if registration.mesh.as_ref().is_some_and(|mesh| !is_plain(&mesh.address) || mesh.port == 0) {
        return refuse("the sidecar's address cannot be called".to_owned());
    }
    match lease {
        Lease::Ttl(ttl) if !(limits::TTL_MIN..=limits::TTL_MAX).contains(ttl) => {
            return refuse(format!(
                "a lease of {ttl:?} is not between {:?} and {:?}",
                limits::TTL_MIN,
                limits::TTL_MAX
            ));
        }
        Lease::Connection if owner.is_none() || connection.is_none() => {
            return refuse("a lease by connection needs an owner and its connection".to_owned());
        }
        Lease::Ttl(_) | Lease::Permanent if connection.is_some() => {
            return refuse(
                "a connection keeps only what is registered with a lease by connection".to_owned(),
            );
        }
        _ => {}
    }
    if registration.checks.len() > limits::CHECKS_MAX {
        return refuse(format!("there may be at most {} checks", limits::CHECKS_MAX));
    }
    let metadata: usize = registration.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if metadata > limits::METADATA_BYTES_MAX {
        return refuse(format!("{metadata} bytes of metadata are above {}", limits::METADATA_BYTES_MAX));
    }
    match text_bytes(registration) {
        bytes if bytes > limits::INSTANCE_TEXT_BYTES_MAX => {
            refuse(format!("{bytes} bytes of text are above {}", limits::INSTANCE_TEXT_BYTES_MAX))
        }
        _ => Ok(()),
    }
}

/// Bytes of its texts other than metadata.
fn text_bytes(registration: &Registration) -> usize {
    let Registration { address, version, tags, ports, locality, mesh, checks, .. } = registration;
    let checked = |kind: &CheckKind| match kind {
        CheckKind::Http(text) | CheckKind::Tcp(text) | CheckKind::Grpc(text) => text.len(),
    };
    address.len()
        + version.len()
        + locality.region.len()
        + locality.zone.len()
        + mesh.as_ref().map_or(0, |mesh| mesh.address.len())
        + tags.iter().map(String::len).sum::<usize>()
        + ports.keys().map(|name| name.len() + 2).sum::<usize>()
        + checks.iter().map(|check| checked(&check.kind)).sum::<usize>()
}

// === applying ===

impl Machine {
    pub(crate) fn apply_registered(
        &mut self,
        instance: &Arc<Instance>,
        owner: &Option<Owner>,
        revision: Revision,
        at: Timestamp,
    ) {
        let before = self.snapshot.instance(&instance.key).cloned();
        self.guard.registered(instance, before.as_deref());
        let service = &instance.key.service;
        self.snapshot.put_instance(instance.clone());
        self.seats.seat(instance, owner.clone(), at);
        match before {
            Some(_) => self.services.touch(service, revision),
            None if self.services.add_instance(service, revision) => {
                self.reconsider(&ObjectKey::service(service), revision, at);
            }
            None => {}
        }
    }

    pub(crate) fn apply_removed(
        &mut self,
        key: &InstanceKey,
        why: Removal,
        revision: Revision,
        at: Timestamp,
    ) {
        let Some(instance) = self.snapshot.instance(key).cloned() else { return };
        let is_lapse = why == Removal::Expired && self.lapses(&instance);
        self.guard.removed(&instance, is_lapse, at);
        self.snapshot.remove_instance(key, revision);
        self.seats.remove(key);
        if self.services.remove_instance(&key.service, revision) {
            self.reconsider(&ObjectKey::service(&key.service), revision, at);
        }
    }

    pub(crate) fn apply_drained(&mut self, key: &InstanceKey, revision: Revision, at: Timestamp) {
        self.seats.drain(key);
        self.update(key, revision, |instance| {
            if instance.lifecycle != Lifecycle::Lost {
                instance.lifecycle = Lifecycle::Draining;
            }
        });
        self.renew(key, at);
    }

    pub(crate) fn apply_lost(&mut self, key: &InstanceKey, revision: Revision, at: Timestamp) {
        self.lapse(key, at);
        self.update(key, revision, |instance| instance.lifecycle = Lifecycle::Lost);
        self.renew(key, at);
    }

    pub(crate) fn apply_suspected(&mut self, key: &InstanceKey, revision: Revision, at: Timestamp) {
        self.lapse(key, at);
        self.update(key, revision, |instance| instance.lifecycle = Lifecycle::Suspect);
        self.renew(key, at);
    }

    pub(crate) fn apply_returned(&mut self, key: &InstanceKey, revision: Revision, at: Timestamp) {
        let is_drained = self.seats.get(key).is_some_and(|seat| seat.is_drained);
        let lifecycle = if is_drained { Lifecycle::Draining } else { Lifecycle::Up };
        self.guard.returned(key);
        self.update(key, revision, |instance| instance.lifecycle = lifecycle);
        self.renew(key, at);
    }

    fn lapse(&mut self, key: &InstanceKey, at: Timestamp) {
        if let Some(instance) = self.snapshot.instance(key).filter(|instance| self.lapses(instance)) {
            self.guard.lapsed(instance, at);
        }
    }

    fn renew(&mut self, key: &InstanceKey, at: Timestamp) {
        if let Some(instance) = self.snapshot.instance(key) {
            self.seats.renew(instance, at);
        }
    }

    pub(crate) fn update(
        &mut self,
        key: &InstanceKey,
        revision: Revision,
        change: impl FnOnce(&mut Instance),
    ) {
        let Some(instance) = self.snapshot.instance(key) else { return };
        let mut instance = Instance::clone(instance);
        change(&mut instance);
        instance.revision = revision;
        self.snapshot.put_instance(Arc::new(instance));
        self.services.touch(&key.service, revision);
    }
}

// === observing ===

impl Machine {
    /// Those that were taken gave a sign of life.
    pub(crate) fn seen(&mut self, now: Timestamp, registrations: &[Registration], answer: &Answer) {
        for (registration, _) in registrations.iter().zip(&answer.registered).filter(|(_, got)| got.is_ok()) {
            match registration.connection {
                Some(connection) => self.seats.bind(&registration.key, connection),
                None if answer.is_changed && registrations.len() == 1 => {} // just applied, so renewed at `now`
                None => self.renew(&registration.key, now),
            }
        }
    }

    /// A heartbeat: one look-up and a new deadline.
    pub(crate) fn beat(&mut self, now: Timestamp, key: &InstanceKey) {
        if let Some(instance) = self.snapshot.instance(key).filter(|i| matches!(i.lease, Lease::Ttl(_))) {
            self.seats.renew(instance, now);
        }
    }
}
