//! Pictures for tests: small worlds of services, instances, routes, policies, gateways and secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_model::*;
use proptest::prelude::*;

use crate::resource::Subscription;

pub(crate) fn service(name: &str) -> ServiceKey {
    ServiceKey::parse("default", name).unwrap()
}

pub(crate) fn object(kind: Kind, name: &str, spec: Spec, revision: u64) -> Arc<Object> {
    let key = ObjectKey { kind, namespace: Name::default_namespace(), name: Name::new(name).unwrap() };
    let revision = Revision::new(revision);
    Arc::new(Object {
        key,
        origin: Origin::Builtin,
        revision,
        spec,
        conditions: vec![],
        written: "{\"as\":\"written\"}".into(),
    })
}

pub(crate) fn instance(of: &str, id: &str, revision: u64) -> Arc<Instance> {
    Arc::new(Instance {
        key: InstanceKey { service: service(of), id: InstanceId::new(id).unwrap() },
        address: "10.0.0.1".into(),
        port: 80,
        ports: BTreeMap::new(),
        protocol: Protocol::Http,
        version: String::new(),
        tags: BTreeSet::new(),
        metadata: BTreeMap::new(),
        weight: 100,
        locality: Locality::default(),
        mesh: None,
        health: Health::Passing,
        lifecycle: Lifecycle::Up,
        lease: Lease::Permanent,
        epoch: Epoch::new(1),
        origin: Origin::Builtin,
        registered_at: Timestamp::from_millis(0),
        revision: Revision::new(revision),
        checks: vec![],
    })
}

pub(crate) fn route(parents: &[(ParentKind, &str)], backends: &[&str]) -> Spec {
    let parents = parents.iter().map(|(kind, name)| ParentRef {
        kind: *kind,
        namespace: Name::default_namespace(),
        name: Name::new(name).unwrap(),
        section: None,
        port: None,
    });
    let backends = backends.iter().map(|name| Backend {
        service: service(name),
        port: None,
        weight: 1,
        filters: vec![],
    });
    let rule = Rule { backends: backends.collect(), ..Rule::default() };
    Spec::HttpRoute(HttpRoute { parents: parents.collect(), hostnames: vec![], rules: vec![rule] })
}

pub(crate) fn gateway(secrets: &[(&str, &str)]) -> Spec {
    let secrets = secrets.iter().map(|(ns, name)| (Name::new(ns).unwrap(), Name::new(name).unwrap()));
    let listener = Listener {
        name: Name::new("web").unwrap(),
        port: 443,
        protocol: ListenerProtocol::Https,
        hostname: None,
        tls: Some(ListenerTls { secrets: secrets.collect() }),
        is_open_to_all_namespaces: false,
    };
    Spec::Gateway(Gateway { class: "causeway".into(), addresses: vec![], listeners: vec![listener] })
}

pub(crate) fn secret() -> Spec {
    Spec::Secret(Secret { entries: BTreeMap::from([("tls.key".into(), vec![1u8].into())]) })
}

pub(crate) fn policy(targets: &[&str]) -> Spec {
    let targets = targets.iter().map(|name| service(name)).collect();
    Spec::AccessPolicy(AccessPolicy { targets, allow: vec![], is_dry_run: false, ..AccessPolicy::default() })
}

pub(crate) fn subset(of: Option<&str>) -> Spec {
    let subset = of.map(|of| Subset { of: Name::new(of).unwrap(), version: None, tags: vec![] });
    Spec::Service(Service { subset, ..Service::default() })
}

/// A change of the world; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Service(u8, Option<u8>),
    Instance(u8, u8),
    Route(u8, Vec<(bool, u8)>, Vec<u8>),
    Policy(u8, Vec<u8>),
    Gateway(u8, Vec<u8>),
    Secret(u8),
    Revoke(u8),
    Remove(u8),
    Forget,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(crate) fn some_name(n: u8) -> &'static str {
    NAMES[usize::from(n) % NAMES.len()]
}

impl Edit {
    pub(crate) fn any() -> impl Strategy<Value = Edit> {
        use proptest::collection::vec;
        prop_oneof![
            2 => (any::<u8>(), any::<Option<u8>>()).prop_map(|(n, of)| Edit::Service(n, of)),
            4 => (any::<u8>(), 0..6u8).prop_map(|(n, id)| Edit::Instance(n, id)),
            4 => (any::<u8>(), vec(any::<(bool, u8)>(), 0..3), vec(any::<u8>(), 0..3))
                .prop_map(|(n, parents, backends)| Edit::Route(n, parents, backends)),
            1 => (any::<u8>(), vec(any::<u8>(), 0..3)).prop_map(|(n, targets)| Edit::Policy(n, targets)),
            1 => (any::<u8>(), vec(any::<u8>(), 0..3)).prop_map(|(n, secrets)| Edit::Gateway(n, secrets)),
            1 => any::<u8>().prop_map(Edit::Secret),
            1 => any::<u8>().prop_map(Edit::Revoke),
            4 => any::<u8>().prop_map(Edit::Remove),
            1 => Just(Edit::Forget),
        ]
    }

    /// Makes the change at the next revision.
    pub(crate) fn apply(&self, snapshot: &mut Snapshot) {
        let at = snapshot.revision().next().get();
        let put = |snapshot: &mut Snapshot, kind, n: u8, spec| {
            snapshot.put_object(object(kind, some_name(n), spec, at));
        };
        match self {
            Edit::Service(n, of) => {
                put(snapshot, Kind::Service, *n, subset(of.map(some_name)));
                reconsider(snapshot, &service(some_name(*n)), Revision::new(at));
            }
            Edit::Instance(n, id) => snapshot.put_instance(instance(some_name(*n), &id.to_string(), at)),
            Edit::Route(n, parents, backends) => {
                let kind = |is_gateway| if is_gateway { ParentKind::Gateway } else { ParentKind::Service };
                let parents: Vec<_> = parents.iter().map(|(g, n)| (kind(*g), some_name(*n))).collect();
                let backends: Vec<_> = backends.iter().map(|n| some_name(*n)).collect();
                put(snapshot, Kind::HttpRoute, *n, route(&parents, &backends));
            }
            Edit::Policy(n, targets) => {
                let targets: Vec<_> = targets.iter().map(|n| some_name(*n)).collect();
                put(snapshot, Kind::AccessPolicy, *n, policy(&targets));
            }
            Edit::Gateway(n, secrets) => {
                let secrets: Vec<_> = secrets.iter().map(|n| ("default", some_name(*n))).collect();
                put(snapshot, Kind::Gateway, *n, gateway(&secrets));
            }
            Edit::Secret(n) => put(snapshot, Kind::Secret, *n, secret()),
            Edit::Revoke(n) => {
                let mut list = Revocations::clone(snapshot.revocations());
                list.revoke_serial(format!("{n:02x}"), service(some_name(*n)), Timestamp::default());
                snapshot.put_revocations(Arc::new(list), Revision::new(at));
            }
            Edit::Remove(n) => remove(snapshot, usize::from(*n), Revision::new(at)),
            Edit::Forget => snapshot.forget_history(),
        }
    }
}

/// What the registry does when something changes that policies name: their conditions change, and so do their revisions.
fn reconsider(snapshot: &mut Snapshot, named: &ServiceKey, at: Revision) {
    let names = |object: &&Arc<Object>| match &object.spec {
        Spec::AccessPolicy(policy) => policy.targets.contains(named),
        _ => false,
    };
    let policies: Vec<_> = snapshot.objects_of(Kind::AccessPolicy).filter(names).cloned().collect();
    for policy in policies {
        snapshot.put_object(Arc::new(Object { revision: at, ..(*policy).clone() }));
    }
}

fn remove(snapshot: &mut Snapshot, n: usize, at: Revision) {
    let objects = snapshot.objects().count();
    let total = objects + snapshot.instance_count();
    if total == 0 {
        return;
    }
    let n = n % total;
    if n < objects {
        let key = snapshot.objects().nth(n).unwrap().key.clone();
        snapshot.remove_object(&key, at);
        if key.kind == Kind::Service {
            reconsider(snapshot, &ServiceKey::new(key.namespace, key.name), at);
        }
    } else {
        let key = snapshot.instances().nth(n - objects).unwrap().key.clone();
        snapshot.remove_instance(&key, at);
    }
}

pub(crate) fn any_subscription() -> impl Strategy<Value = Subscription> {
    (0..8u8, any::<u8>()).prop_map(|(kind, n)| {
        let key = service(some_name(n));
        match kind {
            7 => Subscription::Revocations,
            0 => Subscription::Service(key),
            1 => Subscription::InstancesOf(key),
            2 => Subscription::PoliciesOf(key),
            3 => Subscription::Gateway(key),
            4 => Subscription::SecretsOf(key),
            5 => Subscription::RoutesOf(ParentKind::Gateway, key),
            _ => Subscription::RoutesOf(ParentKind::Service, key),
        }
    })
}
