use causeway_model::{Object, ObjectKey, Origin, Revision, Spec, StaticEndpoint};

use super::*;
use crate::balance::Ask;

const SECOND: Micros = 1_000_000;

fn declare(snapshot: &mut Snapshot, revision: u64, ports: &[u16]) {
    let endpoint = |port: &u16| StaticEndpoint {
        address: "127.0.0.1".into(),
        port: Some(*port),
        ports: Default::default(),
        zone: None,
        weight: 100,
    };
    let service =
        causeway_model::Service { endpoints: ports.iter().map(endpoint).collect(), ..Default::default() };
    put(snapshot, &key("echo"), revision, service);
}

fn put(snapshot: &mut Snapshot, key: &ServiceKey, revision: u64, service: causeway_model::Service) {
    snapshot.put_object(Arc::new(Object {
        key: ObjectKey::service(key),
        origin: Origin::Builtin,
        revision: Revision::new(revision),
        spec: Spec::Service(service),
        conditions: vec![],
        written: String::new(),
    }));
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::parse("default", name).unwrap()
}

/// Plans one after the other of the service `echo` at these ports.
struct Plans {
    services: Services,
    snapshot: Snapshot,
    last: Option<Plan>,
}

impl Plans {
    fn new() -> Self {
        let services = Services::new(None, Locality::default());
        Plans { services, snapshot: Snapshot::default(), last: None }
    }

    fn at(&mut self, now: Micros, ports: &[u16]) -> Arc<Service> {
        let revision = self.snapshot.revision().next();
        declare(&mut self.snapshot, revision.get(), ports);
        let last = self.last.take();
        let wish = Wish {
            key: key("echo"),
            policy: Arc::default(),
            is_sticky: false,
            wants_places: false,
            last: last.as_ref(),
            now,
        };
        let service = self.services.build(&self.snapshot, wish);
        let services = [(key("echo"), service.clone())].into();
        self.last = Some(Plan { revision, rules: Arc::default(), services });
        service
    }
}

fn endpoint(service: &Service, port: u16) -> &Endpoint {
    service.ports[0].group.endpoints.iter().find(|endpoint| endpoint.port == port).unwrap()
}

#[test]
fn an_endpoint_that_was_gone_begins_anew_and_one_that_stays_keeps_what_is_known() {
    let mut plans = Plans::new();
    let first = plans.at(SECOND, &[1, 2]);
    for port in [1, 2] {
        (0..60).for_each(|_| endpoint(&first, port).vitals.failed(SECOND, 10, true));
    }
    let id = endpoint(&first, 2).id;
    drop(first);
    drop(plans.at(2 * SECOND, &[1]));
    let last = plans.at(3 * SECOND, &[1, 2]);
    assert!(endpoint(&last, 1).vitals.cost(3 * SECOND, 1.0) > 5_000.0, "it never left");
    assert!(endpoint(&last, 2).vitals.cost(3 * SECOND, 1.0) < 2_000.0, "it came back");
    assert_eq!(endpoint(&last, 2).id, id, "its connections are to the same address");
}

#[test]
fn only_one_that_joins_others_begins_slowly_and_is_thought_to_be_as_fast() {
    let mut plans = Plans::new();
    let first = plans.at(100 * SECOND, &[1, 2]);
    let warmth = |service: &Service, port, now| endpoint(service, port).vitals.warmth(now, 10 * SECOND);
    assert_eq!(warmth(&first, 1, 100 * SECOND), 1.0, "at a proxy's start nobody is new");
    [1, 2].iter().for_each(|port| endpoint(&first, *port).vitals.answered(101 * SECOND, 40_000));
    let second = plans.at(101 * SECOND, &[1, 2, 3]);
    assert_eq!(warmth(&second, 1, 101 * SECOND), 1.0);
    assert_eq!(warmth(&second, 3, 101 * SECOND), 0.1);
    assert_eq!(endpoint(&second, 3).vitals.latency(101 * SECOND), 40_000.0);
    plans.at(102 * SECOND, &[]);
    drop((first, second));
    let back = plans.at(103 * SECOND, &[1, 2, 3]);
    assert_eq!(warmth(&back, 3, 103 * SECOND), 1.0, "all are new alike");
}

#[test]
fn parts_of_a_service_share_vitals_and_are_judged_with_the_whole() {
    use causeway_model::{Epoch, InstanceId, InstanceKey, Lease, Subset, Timestamp};
    let mut snapshot = Snapshot::default();
    for n in 1..=4_u16 {
        snapshot.put_instance(Arc::new(Instance {
            key: InstanceKey { service: key("cart"), id: InstanceId::new(&format!("cart-{n}")).unwrap() },
            address: "10.0.0.1".into(),
            port: n,
            ports: Default::default(),
            protocol: Protocol::Http,
            version: if n == 4 { "2" } else { "1" }.into(),
            tags: Default::default(),
            metadata: Default::default(),
            weight: 100,
            locality: Locality::default(),
            mesh: None,
            health: Health::Passing,
            lifecycle: Lifecycle::Up,
            lease: Lease::Permanent,
            epoch: Epoch::new(1),
            origin: Origin::Builtin,
            registered_at: Timestamp::from_millis(0),
            revision: Revision::new(u64::from(n)),
            checks: vec![],
        }));
    }
    let subset = Subset { of: key("cart").name, version: Some("2".into()), tags: vec![] };
    let part = causeway_model::Service { subset: Some(subset), ..Default::default() };
    put(&mut snapshot, &key("cart-v2"), 5, part);
    let mut services = Services::new(None, Locality::default());
    let mut build = |name| {
        let wish = Wish {
            key: key(name),
            policy: Arc::default(),
            is_sticky: true,
            wants_places: false,
            last: None,
            now: 1,
        };
        services.build(&snapshot, wish)
    };
    let (whole, part) = (build("cart"), build("cart-v2"));
    assert_eq!((whole.ports[0].group.endpoints.len(), part.ports[0].group.endpoints.len()), (4, 1));
    let (ours, theirs) = (endpoint(&part, 4), endpoint(&whole, 4));
    assert!(Arc::ptr_eq(&ours.vitals, &theirs.vitals) && ours.id == theirs.id);
    assert_eq!(ours.token, theirs.token, "a client that stays with it stays whichever way it comes");
    let verdict = crate::outlier::Verdict::Failed;
    // Some failures come by the one way, some by the other.
    assert!(!crate::outlier::note(ours, verdict, 1, 1) && !crate::outlier::note(theirs, verdict, 1, 1));
    assert!((0..3).any(|_| crate::outlier::note(ours, verdict, 1, 1)));
    let seed = causeway_base::Seed::from_number(1);
    let group = &whole.ports[0].group;
    assert!((0..200).all(|_| group.pick(&Ask::anywhere(2), &seed).unwrap().port != 4));
    assert!(part.ports[0].group.pick(&Ask::anywhere(2), &seed).is_some(), "the part has no other");
}
