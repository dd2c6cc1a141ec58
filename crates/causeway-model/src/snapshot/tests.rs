use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    Epoch, Health, InstanceId, Lease, Lifecycle, Locality, Origin, Protocol, Subset, Timestamp, codec,
};

fn instance(service: &str, id: &str, version: &str, revision: u64) -> Arc<Instance> {
    let service = ServiceKey::parse("default", service).unwrap();
    Arc::new(Instance {
        key: InstanceKey { service, id: InstanceId::new(id).unwrap() },
        address: "10.0.0.1".into(),
        port: 80,
        ports: BTreeMap::new(),
        protocol: Protocol::Http,
        version: version.into(),
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

fn declare(name: &str, service: Service, revision: u64) -> Arc<Object> {
    Arc::new(Object {
        key: ObjectKey::service(&ServiceKey::parse("default", name).unwrap()),
        origin: Origin::Builtin,
        revision: Revision::new(revision),
        spec: Spec::Service(service),
        conditions: vec![],
        written: String::new(),
    })
}

fn ids(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let key = ServiceKey::parse("default", service).unwrap();
    snapshot.instances_of(&key).map(|i| i.key.id.to_string()).collect()
}

#[test]
fn instances_lie_by_service_and_subsets_see_their_part() {
    let mut s = Snapshot::default();
    for (n, (service, id, version)) in
        [("b", "2", "v2"), ("a", "1", "v1"), ("b", "1", "v1"), ("b", "!", "v1"), ("c", "1", "")]
            .iter()
            .enumerate()
    {
        s.put_instance(instance(service, id, version, n as u64 + 1));
    }
    assert_eq!(ids(&s, "b"), ["!", "1", "2"]);
    let subset = Subset { of: Name::new("b").unwrap(), version: Some("v2".into()), tags: vec![] };
    s.put_object(declare("b-new", Service { subset: Some(subset), ..Service::default() }, 9));
    assert_eq!(ids(&s, "b-new"), ["2"]);
    assert_eq!(
        s.service_keys().iter().map(|k| k.name.to_string()).collect::<Vec<_>>(),
        ["a", "b", "b-new", "c"]
    );
}

#[test]
fn changes_are_remembered_in_order_up_to_a_bound() {
    let mut s = Snapshot::default();
    s.put_instance(instance("a", "1", "", 1));
    s.put_instance(instance("a", "2", "", 2));
    s.remove_instance(&instance("a", "1", "", 1).key, Revision::new(3));
    let since = |s: &Snapshot, rev| {
        s.changes_since(Revision::new(rev)).map(|changes| changes.map(|(r, _)| r.get()).collect::<Vec<_>>())
    };
    assert_eq!(since(&s, 0), Some(vec![1, 2, 3]));
    assert_eq!(since(&s, 2), Some(vec![3]));
    for n in 0..HISTORY_MAX as u64 {
        s.put_instance(instance("a", "2", "", n + 4));
    }
    assert_eq!(since(&s, 2), None, "too far behind: list again");
    assert_eq!(since(&s, 3).map(|c| c.len()), Some(HISTORY_MAX));
}

#[test]
fn the_codec_round_trips_and_refuses_bad_names() {
    let before = instance("a", "pay:1#x", "v1", 7);
    let bytes = codec::encode(&*before);
    assert_eq!(codec::decode::<Instance>(&bytes).unwrap(), *before);
    assert!(codec::decode::<Instance>(&bytes[..bytes.len() - 1]).is_err());
    assert!(codec::decode::<Name>(&codec::encode(&"Not A Name".to_owned())).is_err());
}
