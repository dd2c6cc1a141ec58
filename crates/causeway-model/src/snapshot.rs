//! The picture: every object and instance at one revision, immutable, cheap to clone and to change by a copy.
//!
//! In:    puts and removals with their revision, in order.     Out: look-ups, and what changed since a revision.
//! Owner: the registry's driver publishes them; `causeway-xds` decodes a part of one on the proxy's side; a test may build one.
//! Invariant: revisions only grow; what [`Snapshot::changes_since`] names, applied to the older picture, gives this one.
//! Not here: deciding what may change (`causeway-registry`), cutting it for one client (`causeway-xds`).

use std::sync::Arc;

use imbl::OrdMap;

use crate::ids::Revision;
use crate::instance::Instance;
use crate::names::{InstanceKey, Kind, Name, ObjectKey, ServiceKey};
use crate::object::{Object, Spec};
use crate::revocation::Revocations;
use crate::service::Service;

/// Changes that a snapshot remembers; a reader further behind lists everything again.
pub const HISTORY_MAX: usize = 65_536;

/// The picture. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: Revision,
    objects: OrdMap<ObjectKey, Arc<Object>>,
    instances: OrdMap<InstanceKey, Arc<Instance>>,
    /// What is revoked, with the revision at which that last changed.
    revocations: (Revision, Arc<Revocations>),
    /// By revision and a running number within it.
    history: OrdMap<(Revision, u32), Change>,
    /// Changes at or below this one are forgotten.
    forgotten: Revision,
}

/// What a change was about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKey {
    /// An object.
    Object(ObjectKey),
    /// An instance.
    Instance(InstanceKey),
    /// The list of what is revoked.
    Revocations,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed; look it up to see whether it is still there.
    pub key: ResourceKey,
}

impl Snapshot {
    /// The newest revision in it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// One object.
    pub fn object(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// Every object, ordered by kind, namespace, name.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// Every object of one kind.
    pub fn objects_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        // "0" is the least name: every name begins with a digit or a letter, and a longer one orders after its beginning.
        let least = Name::new("0").expect("\"0\" is a name");
        let from = ObjectKey { kind, namespace: least.clone(), name: least };
        self.objects.range(from..).map(|(_, object)| object).take_while(move |object| object.key.kind == kind)
    }

    /// How many objects there are.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    /// The declaration of a service, when there is one.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        match &self.objects.get(&ObjectKey::service(key))?.spec {
            Spec::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The service of which this one is a declared part.
    pub fn whole_of(&self, key: &ServiceKey) -> Option<ServiceKey> {
        let subset = self.service(key)?.subset.as_ref()?;
        Some(ServiceKey::new(key.namespace.clone(), subset.of.clone()))
    }

    /// One instance.
    pub fn instance(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.instances.get(key)
    }

    /// Every instance, ordered by service and id.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    /// How many instances there are.
    pub fn instance_count(&self) -> usize {
        self.instances.len()
    }

    /// The instances of a service (the declared subset of another service too), in any state.
    pub fn instances_of(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<Instance>> {
        let subset = self.service(service).and_then(|service| service.subset.clone());
        let of = match &subset {
            Some(subset) => ServiceKey::new(service.namespace.clone(), subset.of.clone()),
            None => service.clone(),
        };
        self.registered_under(of).filter(move |i| subset.as_ref().is_none_or(|subset| i.is_in(subset)))
    }

    /// The instances that registered as exactly this service, in any state; a declared subset has none of its own.
    pub fn registered_under(&self, of: ServiceKey) -> impl Iterator<Item = &Arc<Instance>> {
        // '!' is the least visible character, so "!" is at or before every id.
        let least = InstanceKey { service: of, id: crate::InstanceId::new("!").expect("\"!\" is an id") };
        let service = least.service.clone();
        self.instances.range(least..).map(|(_, i)| i).take_while(move |i| i.key.service == service)
    }

    /// What is revoked.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations.1
    }

    /// The revision at which that last changed; 0 when it never did.
    pub fn revocations_revision(&self) -> Revision {
        self.revocations.0
    }

    /// Every service that is declared or has instances, in order.
    pub fn service_keys(&self) -> Vec<ServiceKey> {
        let declared = self
            .objects_of(Kind::Service)
            .map(|object| ServiceKey::new(object.key.namespace.clone(), object.key.name.clone()));
        let mut keys: Vec<ServiceKey> = declared.collect();
        for instance in self.instances.values() {
            if keys.last() != Some(&instance.key.service) {
                keys.push(instance.key.service.clone());
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    /// What changed after `revision`, oldest first, a key perhaps more than once; `None` when that is older than what is
    /// remembered, so that the reader must list everything.
    pub fn changes_since(
        &self,
        revision: Revision,
    ) -> Option<impl Iterator<Item = (Revision, &ResourceKey)>> {
        let from = (revision.next(), 0);
        (revision >= self.forgotten)
            .then(|| self.history.range(from..).map(|((revision, _), change)| (*revision, &change.key)))
    }

    // === what the registry (and a decoder) does ===

    /// Puts an object; its `revision` becomes the picture's.
    pub fn put_object(&mut self, object: Arc<Object>) {
        self.note(object.revision, ResourceKey::Object(object.key.clone()));
        self.objects.insert(object.key.clone(), object);
    }

    /// Notes at `revision` that an object's document stands elsewhere in its file. What it says is the same, so its own
    /// revision stays and no reader of [`Snapshot::changes_since`] is told.
    pub fn move_object(&mut self, key: &ObjectKey, origin: crate::Origin, revision: Revision) {
        self.advance(revision);
        if let Some(object) = self.objects.get_mut(key) {
            Arc::make_mut(object).origin = origin;
        }
    }

    /// Removes an object at `revision`.
    pub fn remove_object(&mut self, key: &ObjectKey, revision: Revision) {
        self.note(revision, ResourceKey::Object(key.clone()));
        self.objects.remove(key);
    }

    /// Puts an instance; its `revision` becomes the picture's.
    pub fn put_instance(&mut self, instance: Arc<Instance>) {
        self.note(instance.revision, ResourceKey::Instance(instance.key.clone()));
        self.instances.insert(instance.key.clone(), instance);
    }

    /// Removes an instance at `revision`.
    pub fn remove_instance(&mut self, key: &InstanceKey, revision: Revision) {
        self.note(revision, ResourceKey::Instance(key.clone()));
        self.instances.remove(key);
    }

    /// Puts an object that another registry vouches for: it keeps its own `revision`, the picture's becomes `at`.
    pub fn learn_object(&mut self, object: Arc<Object>, at: Revision) {
        self.note(at, ResourceKey::Object(object.key.clone()));
        self.objects.insert(object.key.clone(), object);
    }

    /// Puts an instance that another registry vouches for: it keeps its own `revision`, the picture's becomes `at`.
    pub fn learn_instance(&mut self, instance: Arc<Instance>, at: Revision) {
        self.note(at, ResourceKey::Instance(instance.key.clone()));
        self.instances.insert(instance.key.clone(), instance);
    }

    /// Puts the list of what is revoked; `revision` becomes the picture's.
    pub fn put_revocations(&mut self, list: Arc<Revocations>, revision: Revision) {
        self.note(revision, ResourceKey::Revocations);
        self.revocations = (revision, list);
    }

    /// Puts a list that another registry vouches for: it keeps its own `revision`, the picture's becomes `at`.
    pub fn learn_revocations(&mut self, list: Arc<Revocations>, revision: Revision, at: Revision) {
        self.note(at, ResourceKey::Revocations);
        self.revocations = (revision, list);
    }

    /// Moves the picture to `revision` without a change of content (a decree that no picture shows, a restart).
    pub fn advance(&mut self, revision: Revision) {
        debug_assert!(revision >= self.revision, "revisions only grow");
        self.revision = revision;
    }

    /// Forgets the history: every reader that is not at this revision lists again (after a restart).
    pub fn forget_history(&mut self) {
        self.history = OrdMap::new();
        self.forgotten = self.revision;
    }

    fn note(&mut self, revision: Revision, key: ResourceKey) {
        self.advance(revision);
        let number = match self.history.get_max() {
            Some(((last, number), _)) if *last == revision => number + 1,
            _ => 0,
        };
        self.history.insert((revision, number), Change { key });
        while self.history.len() > HISTORY_MAX {
            let Some(((oldest, number), _)) = self.history.get_min().map(|(at, c)| (*at, c.clone())) else {
                return;
            };
            self.history.remove(&(oldest, number));
            self.forgotten = oldest;
        }
    }
}

#[cfg(test)]
#[path = "snapshot/tests.rs"]
mod tests;
