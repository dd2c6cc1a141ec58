//! Cuts the picture for one client: what it must be told, given what it subscribed to and what it has.
//!
//! In:    a [`Snapshot`] and a [`View`].      Out: a [`Delta`] that turns what the client has into what it should have.
//! Owner: nobody; pure.
//! Invariant: **a projection reads nothing but its two arguments**; the delta, applied to what the view says was sent, gives
//! exactly the resources that the subscriptions bring (`tests` prove it with random pictures).
//! Not here: when to cut and how it is sent (`stream.rs`).
//!
//! The cost is that of the changes since the view's cursor, of the fresh subscriptions and of the types that must be
//! compared in full; the size of the picture matters only for a view whose cursor is older than the picture's history.

use std::collections::{BTreeMap, BTreeSet};

use causeway_model::{
    Kind, Object, ObjectKey, ParentKind, ResourceKey, Revision, ServiceKey, Snapshot, Spec,
};

use crate::resource::{ResourceType, Subscription, revision};

/// What one client subscribed to, and what it was sent.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The parents it subscribed to (and may read).
    pub subscriptions: BTreeSet<Subscription>,
    /// Subscriptions that no push has answered yet; those that it may not read are among them, and answered with nothing.
    pub fresh: BTreeSet<Subscription>,
    /// Types whose resources must be compared in full: a subscription went, or the client said what it had.
    pub recheck: BTreeSet<ResourceType>,
    /// What the client has; revision 0 is "some version that is not ours".
    pub sent: BTreeMap<ResourceKey, Revision>,
    /// Up to where `sent` reflects the picture; `None` before the first projection.
    pub cursor: Option<Revision>,
}

/// What a client must be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Resources that it does not have, or has in an older form.
    pub changed: BTreeSet<ResourceKey>,
    /// Resources that it has and should not.
    pub removed: BTreeSet<ResourceKey>,
    /// Subscriptions that this answers.
    pub answered: BTreeSet<Subscription>,
}

impl Delta {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty() && self.answered.is_empty()
    }
}

/// See the [module](self).
pub fn project(snapshot: &Snapshot, view: &View) -> Delta {
    let mut delta = Delta { answered: view.fresh.clone(), ..Delta::default() };
    let mut recheck = view.recheck.clone();
    let changes = view
        .cursor
        .filter(|cursor| *cursor <= snapshot.revision())
        .and_then(|cursor| snapshot.changes_since(cursor));
    match changes {
        None => recheck.extend(ResourceType::ALL),
        Some(changes) => {
            for (_, key) in changes {
                if reads_secrets_of(&view.subscriptions, key) {
                    recheck.insert(ResourceType::Secret);
                }
                compare(&mut delta, snapshot, view, key);
            }
        }
    }
    for kind in ResourceType::ALL {
        if recheck.contains(&kind) {
            compare_all(&mut delta, snapshot, view, kind);
        } else {
            let fresh = of_type(&view.fresh, kind).filter(|fresh| view.subscriptions.contains(fresh));
            for (key, now) in list(snapshot, kind, fresh) {
                if view.sent.get(&key) != Some(&now) {
                    delta.changed.insert(key);
                }
            }
        }
    }
    delta
}

/// Everything that subscriptions bring, with its revision: what a client should have.
pub fn wanted(
    snapshot: &Snapshot,
    subscriptions: &BTreeSet<Subscription>,
) -> BTreeMap<ResourceKey, Revision> {
    ResourceType::ALL
        .into_iter()
        .flat_map(|kind| list(snapshot, kind, of_type(subscriptions, kind)))
        .collect()
}

/// Compares one resource with what was sent.
fn compare(delta: &mut Delta, snapshot: &Snapshot, view: &View, key: &ResourceKey) {
    let now = revision(snapshot, key).filter(|_| belongs(snapshot, &view.subscriptions, key));
    match (now, view.sent.get(key)) {
        (Some(now), sent) if sent != Some(&now) => _ = delta.changed.insert(key.clone()),
        (None, Some(_)) => _ = delta.removed.insert(key.clone()),
        _ => {}
    }
}

fn compare_all(delta: &mut Delta, snapshot: &Snapshot, view: &View, kind: ResourceType) {
    let wanted = list(snapshot, kind, of_type(&view.subscriptions, kind));
    for key in view.sent.keys().filter(|key| ResourceType::of(key) == Some(kind)) {
        if !wanted.contains_key(key) {
            delta.removed.insert(key.clone());
        }
    }
    let news = wanted.into_iter().filter(|(key, now)| view.sent.get(key) != Some(now));
    delta.changed.extend(news.map(|(key, _)| key));
}

fn of_type(set: &BTreeSet<Subscription>, kind: ResourceType) -> impl Iterator<Item = &Subscription> {
    set.iter().filter(move |subscription| subscription.resource_type() == kind)
}

/// Whether any of the subscriptions brings this resource, as it is now.
fn belongs(snapshot: &Snapshot, subscriptions: &BTreeSet<Subscription>, key: &ResourceKey) -> bool {
    let key = match key {
        ResourceKey::Instance(key) => {
            return subscriptions.contains(&Subscription::InstancesOf(key.service.clone()));
        }
        ResourceKey::Object(key) => key,
        ResourceKey::Revocations => return subscriptions.contains(&Subscription::Revocations),
    };
    let own = || ServiceKey::new(key.namespace.clone(), key.name.clone());
    match key.kind {
        Kind::Service => subscriptions.contains(&Subscription::Service(own())),
        Kind::Gateway => subscriptions.contains(&Subscription::Gateway(own())),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::AccessPolicy => {
            snapshot.object(key).is_some_and(|object| hangs_on(snapshot, object, subscriptions))
        }
        Kind::TrafficPolicy => subscriptions.contains(&Subscription::TrafficIn(key.namespace.clone())),
        Kind::Secret => of_type(subscriptions, ResourceType::Secret).any(|subscription| match subscription {
            Subscription::SecretsOf(gateway) => secrets_of(snapshot, gateway).any(|secret| secret == *key),
            _ => false,
        }),
        Kind::Topic | Kind::Subscription | Kind::Saga => false,
    }
}

/// Whether a route or policy names one of these parents, or (a policy) a part of one.
fn hangs_on(snapshot: &Snapshot, object: &Object, subscriptions: &BTreeSet<Subscription>) -> bool {
    match &object.spec {
        Spec::HttpRoute(route) => route.parents.iter().any(|parent| {
            let key = ServiceKey::new(parent.namespace.clone(), parent.name.clone());
            subscriptions.contains(&Subscription::RoutesOf(parent.kind, key))
        }),
        Spec::GrpcRoute(route) => route.parents.iter().any(|parent| {
            let key = ServiceKey::new(parent.namespace.clone(), parent.name.clone());
            subscriptions.contains(&Subscription::GrpcRoutesOf(parent.kind, key))
        }),
        Spec::TrafficPolicy(_) => {
            subscriptions.contains(&Subscription::TrafficIn(object.key.namespace.clone()))
        }
        Spec::AccessPolicy(policy) => {
            let is_of = |target: &ServiceKey| {
                let of = |target| subscriptions.contains(&Subscription::PoliciesOf(target));
                of(target.clone()) || snapshot.whole_of(target).is_some_and(of)
            };
            // A policy for a namespace guards each of its services; who asks for one of them gets it.
            let is_near = |wanted: &Subscription| match wanted {
                Subscription::PoliciesOf(service) => policy.namespaces.contains(&service.namespace),
                _ => false,
            };
            policy.targets.iter().any(is_of)
                || (!policy.namespaces.is_empty() && subscriptions.iter().any(is_near))
        }
        _ => false,
    }
}

/// Lists what subscriptions of one type bring. Routes and policies are found by one walk over all of them, however many
/// parents are asked for: 5,000 routes cost less than a tenth of a millisecond, and an index by parent would cost every change.
fn list<'a>(
    snapshot: &Snapshot,
    kind: ResourceType,
    subscriptions: impl Iterator<Item = &'a Subscription>,
) -> BTreeMap<ResourceKey, Revision> {
    let mut found = BTreeMap::new();
    let mut parents = BTreeSet::new();
    let find = |key: ObjectKey| {
        let revision = snapshot.object(&key)?.revision;
        Some((ResourceKey::Object(key), revision))
    };
    for subscription in subscriptions {
        match subscription {
            Subscription::Revocations => {
                let key = ResourceKey::Revocations;
                found.extend(revision(snapshot, &key).map(|at| (key, at)));
            }
            Subscription::Service(key) => found.extend(find(ObjectKey::service(key))),
            Subscription::Gateway(key) => found.extend(find(gateway(key))),
            Subscription::SecretsOf(key) => found.extend(secrets_of(snapshot, key).filter_map(find)),
            Subscription::PoliciesOf(_)
            | Subscription::RoutesOf(..)
            | Subscription::GrpcRoutesOf(..)
            | Subscription::TrafficIn(_) => {
                parents.insert(subscription.clone());
            }
            Subscription::InstancesOf(key) => {
                for instance in snapshot.registered_under(key.clone()) {
                    found.insert(ResourceKey::Instance(instance.key.clone()), instance.revision);
                }
            }
        }
    }
    if let (Some(kind), false) = (kind.kind(), parents.is_empty()) {
        for object in snapshot.objects_of(kind).filter(|object| hangs_on(snapshot, object, &parents)) {
            found.insert(ResourceKey::Object(object.key.clone()), object.revision);
        }
    }
    found
}

fn gateway(key: &ServiceKey) -> ObjectKey {
    ObjectKey { kind: Kind::Gateway, namespace: key.namespace.clone(), name: key.name.clone() }
}

/// The secrets that a gateway's listeners name, those of its own namespace only: a reference across namespaces needs a
/// ReferenceGrant (Gateway API), of which there are none in the model, so it brings nothing.
fn secrets_of(snapshot: &Snapshot, key: &ServiceKey) -> impl Iterator<Item = ObjectKey> {
    let listeners = match snapshot.object(&gateway(key)).map(|object| &object.spec) {
        Some(Spec::Gateway(gateway)) => gateway.listeners.as_slice(),
        _ => &[],
    };
    let namespace = key.namespace.clone();
    listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
        .flat_map(|tls| &tls.secrets)
        .filter(move |(of, _)| *of == namespace)
        .map(|(namespace, name)| ObjectKey {
            kind: Kind::Secret,
            namespace: namespace.clone(),
            name: name.clone(),
        })
}

/// Whether a change of this resource may change which secrets are brought.
fn reads_secrets_of(subscriptions: &BTreeSet<Subscription>, key: &ResourceKey) -> bool {
    match key {
        ResourceKey::Object(key) if key.kind == Kind::Gateway => {
            let gateway = ServiceKey::new(key.namespace.clone(), key.name.clone());
            subscriptions.contains(&Subscription::SecretsOf(gateway))
        }
        _ => false,
    }
}

/// The subscriptions that calling a service needs: its declaration, its instances, the routes that hang on it, and how calls to
/// it are treated.
pub fn upstream(service: &ServiceKey) -> [Subscription; 5] {
    [
        Subscription::Service(service.clone()),
        Subscription::InstancesOf(service.clone()),
        Subscription::RoutesOf(ParentKind::Service, service.clone()),
        Subscription::GrpcRoutesOf(ParentKind::Service, service.clone()),
        Subscription::TrafficIn(service.namespace.clone()),
    ]
}
