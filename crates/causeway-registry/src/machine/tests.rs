use std::time::Duration;

use causeway_model::{
    AccessPolicy, Condition, ConditionKind, Epoch, Gateway, Health, HttpRoute, Instance, InstanceId,
    InstanceKey, Kind, Lease, Lifecycle, Listener, ListenerProtocol, Locality, Name, Origin, ParentKind,
    ParentRef, Protocol, Revocations, Rule, Service, ServiceKey, ServicePort, Spec, Topic,
};

use super::*;
use crate::command::{AppliedOutcome, ConnectionId, Owner, Proposed, Prune, Registration};
use crate::error::Kind as ErrorKind;
use crate::invariants;
use crate::limits::{self, CONNECTION_GRACE, RETURN_GRACE, SUSPECT_AGE_MAX};
use crate::token::{Digest, TokenError, TokenUse};

mod random;

const TTL: Duration = Duration::from_secs(15);
const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A machine with its journal and its time: what the driver does, without a runtime.
struct House {
    machine: Machine,
    journal: Vec<Vec<u8>>,
    now: Timestamp,
}

impl House {
    fn new() -> Self {
        let mut house = House { machine: Machine::default(), journal: vec![], now: START };
        house.machine.resume(START);
        house
    }

    fn say(&mut self, command: Command) -> Result<Answer, Error> {
        self.machine.settle(self.now);
        let before = self.machine.clone();
        let Decision { records, mut answer } = self.machine.decide(self.now, &command)?;
        for record in records {
            self.machine.apply(&record);
            self.journal.push(record.encode());
        }
        self.machine.observe(self.now, &command, &answer);
        self.machine.complete(&mut answer);
        assert_eq!(invariants::check(&self.machine), Ok(()), "after {command:?}");
        assert_eq!(invariants::check_step(&before, &self.machine), Ok(()), "after {command:?}");
        Ok(answer)
    }

    /// Lets time pass, seeing to the leases as the driver does.
    fn pass(&mut self, time: Duration) {
        let end = self.now.plus(time);
        while let Some(due) = self.machine.seats.next_due().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.say(Command::Tick).unwrap();
            self.machine.settle(self.now);
            assert_eq!(invariants::check_ticked(&self.machine, self.now), Ok(()));
        }
        self.now = end;
    }

    /// A restart: only the journal is left.
    fn restart(&mut self) {
        let again = replay(&self.journal);
        assert_same(&self.machine, &again, self.now);
        self.machine = again;
        self.machine.resume(self.now);
    }

    fn get(&self, id: &str) -> Option<&Instance> {
        self.machine.snapshot.instance(&key(id)).map(|instance| &**instance)
    }

    /// `id:lifecycle` of each instance.
    fn shows(&self) -> String {
        let one = |i: &Arc<Instance>| format!("{}:{}", i.key.id, i.lifecycle.as_str());
        self.machine.snapshot.instances().map(one).collect::<Vec<_>>().join(" ")
    }

    fn condition(&self, key: &ObjectKey, kind: ConditionKind) -> Condition {
        let object = self.machine.snapshot.object(key).unwrap();
        object.conditions.iter().find(|condition| condition.kind == kind).unwrap().clone()
    }
}

fn replay(journal: &[Vec<u8>]) -> Machine {
    let mut machine = Machine::default();
    for bytes in journal {
        machine.apply(&Record::decode(bytes).unwrap());
    }
    machine
}

/// All that the journal is to give again.
fn assert_same(a: &Machine, b: &Machine, now: Timestamp) {
    assert_eq!(a.revision(), b.revision());
    assert!(a.snapshot.instances().eq(b.snapshot.instances()));
    assert!(a.snapshot.objects().eq(b.snapshot.objects()));
    let changes = |machine: &Machine| {
        let all = machine.snapshot.changes_since(Revision::new(0)).unwrap();
        all.map(|(at, key)| (at, key.clone())).collect::<Vec<_>>()
    };
    assert_eq!(changes(a), changes(b));
    for instance in a.snapshot.instances() {
        let (mine, theirs) = (a.seats.get(&instance.key).unwrap(), b.seats.get(&instance.key).unwrap());
        assert_eq!((&mine.owner, mine.is_drained), (&theirs.owner, theirs.is_drained));
    }
    let guard = |machine: &Machine| {
        let mut guard = machine.guard.clone();
        guard.forget(now);
        guard
    };
    assert_eq!(guard(a), guard(b));
    assert!(a.issued.values().eq(b.issued.values()) && a.tokens.values().eq(b.tokens.values()));
    assert_eq!(a.snapshot.revocations(), b.snapshot.revocations());
    assert_eq!(a.snapshot.revocations_revision(), b.snapshot.revocations_revision());
    assert_eq!(a.services, b.services);
    assert_eq!(a.referrers, b.referrers);
    assert_eq!(a.files, b.files);
    assert_eq!((&a.tokens, &a.token_ends), (&b.tokens, &b.token_ends));
    assert_eq!((&a.issued, &a.issued_ends), (&b.issued, &b.issued_ends));
}

fn service() -> ServiceKey {
    ServiceKey::parse("default", "orders").unwrap()
}

fn key(id: &str) -> InstanceKey {
    InstanceKey { service: service(), id: InstanceId::new(id).unwrap() }
}

fn api() -> Origin {
    Origin::Api { caller: "local".into() }
}

fn at_line(path: &str, line: u32) -> Origin {
    Origin::File { path: path.into(), line }
}

fn by_ttl(id: &str) -> Registration {
    Registration { lease: Lease::Ttl(TTL), ..Registration::new(key(id), "10.0.0.5", 8080, api()) }
}

fn by_connection(id: &str, owner: &str, connection: u64) -> Registration {
    Registration {
        lease: Lease::Connection,
        owner: Owner::new(owner),
        connection: Some(ConnectionId(connection)),
        ..Registration::new(key(id), "10.0.0.5", 8080, api())
    }
}

fn beat(id: &str) -> Command {
    Command::Heartbeat { key: key(id), epoch: None, health: None }
}

fn granted(answer: &Answer) -> Epoch {
    answer.registered[0].as_ref().unwrap().epoch
}

// === registrations ===

#[test]
fn what_is_said_again_unchanged_costs_no_revision_and_renews_the_lease() {
    let mut house = House::new();
    let first = house.say(Command::Register(by_ttl("a"))).unwrap();
    assert_eq!((first.revision, first.is_changed), (Revision::new(1), true));
    house.pass(Duration::from_secs(14));
    let again = house.say(Command::Register(by_ttl("a"))).unwrap();
    assert_eq!((again.revision, again.is_changed), (Revision::new(1), false));
    assert_eq!(granted(&again), granted(&first));
    house.pass(Duration::from_secs(14));
    assert_eq!(house.shows(), "a:up");
    let changed = Registration { version: "2".into(), ..by_ttl("a") };
    assert_eq!(house.say(Command::Register(changed)).unwrap().revision, Revision::new(2));
    assert_eq!(house.get("a").unwrap().registered_at, START);
}

#[test]
fn a_heartbeat_costs_nothing_but_a_transition_is_written() {
    let mut house = House::new();
    assert_eq!(*house.say(beat("a")).unwrap_err().kind(), ErrorKind::NotFound);
    house.say(Command::Register(by_ttl("a"))).unwrap();
    for _ in 0..10 {
        house.pass(Duration::from_secs(10));
        assert!(!house.say(beat("a")).unwrap().is_changed);
    }
    assert_eq!(house.journal.len(), 1);
    let sick = Command::Heartbeat { key: key("a"), epoch: None, health: Some(Health::Critical) };
    assert!(house.say(sick.clone()).unwrap().is_changed);
    assert!(!house.say(sick).unwrap().is_changed);
    assert!(!house.get("a").unwrap().is_routable());
    let well = Command::Report { key: key("a"), epoch: None, health: Health::Passing };
    assert!(house.say(well).unwrap().is_changed);
    assert!(house.get("a").unwrap().is_routable());
    house.pass(TTL + Duration::from_millis(1));
    assert_eq!(house.shows(), "", "a report of a check does not renew the lease");
}

#[test]
fn a_newer_owner_fences_the_older_one_even_when_the_key_was_gone_in_between() {
    let mut house = House::new();
    let old = granted(&house.say(Command::Register(by_connection("a", "run-1", 1))).unwrap());
    house.say(Command::Deregister { key: key("a"), epoch: Some(old) }).unwrap();
    let new = granted(&house.say(Command::Register(by_connection("a", "run-2", 2))).unwrap());
    assert!(new > old);
    let stale = ErrorKind::StaleOwner { epoch: new };
    for command in [
        Command::Heartbeat { key: key("a"), epoch: Some(old), health: Some(Health::Critical) },
        Command::Report { key: key("a"), epoch: Some(old), health: Health::Critical },
        Command::Drain { key: key("a"), epoch: Some(old) },
        Command::Deregister { key: key("a"), epoch: Some(old) },
        Command::Register(Registration { epoch: Some(old), ..by_connection("a", "run-1", 3) }),
    ] {
        assert_eq!(*house.say(command.clone()).unwrap_err().kind(), stale, "{command:?}");
    }
    assert!(house.get("a").unwrap().is_routable());
    let third = house.say(Command::Register(by_connection("a", "run-3", 4))).unwrap();
    assert!(granted(&third) > new, "a run that never held it takes it over");
}

#[test]
fn another_origins_instance_is_refused_with_its_place() {
    let mut house = House::new();
    house.say(Command::Register(by_ttl("a"))).unwrap();
    let identity = "spiffe://causeway.local/ns/default/svc/orders".to_owned();
    let mesh = Registration { origin: Origin::Mesh { identity }, ..by_ttl("a") };
    let error = house.say(Command::Register(mesh)).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Conflict { place: api() });
    assert!(error.to_string().contains("api (local)") && error.to_string().contains("[CW-1201]"), "{error}");
}

#[test]
fn wrong_registrations_are_refused_and_their_neighbours_taken() {
    let mut house = House::new();
    let long = "x".repeat(crate::limits::METADATA_BYTES_MAX);
    for wrong in [
        Registration { address: "a b".into(), ..by_ttl("a") },
        Registration { address: String::new(), ..by_ttl("a") },
        Registration { port: 0, ..by_ttl("a") },
        Registration { lease: Lease::Ttl(Duration::from_millis(999)), ..by_ttl("a") },
        Registration { lease: Lease::Connection, ..by_ttl("a") },
        Registration { connection: Some(ConnectionId(1)), ..by_ttl("a") },
        Registration { metadata: [("k".to_owned(), long)].into(), ..by_ttl("a") },
        Registration { version: "v".repeat(crate::limits::INSTANCE_TEXT_BYTES_MAX), ..by_ttl("a") },
    ] {
        let many = vec![by_ttl("b"), wrong.clone(), by_ttl("b"), by_ttl("c")];
        let answer = house.say(Command::RegisterMany(many)).unwrap();
        let kinds: Vec<_> = answer.registered.iter().map(|one| one.as_ref().err().map(Error::kind)).collect();
        let invalid = Some(&ErrorKind::Invalid);
        assert_eq!(kinds, [None, invalid, invalid, None], "{wrong:?}");
        assert_eq!(house.shows(), "b:up c:up");
    }
    assert_eq!(house.machine.revision(), Revision::new(1), "one command is one revision");
}

#[test]
fn draining_lasts_for_its_owner_and_ends_with_the_next() {
    let mut house = House::new();
    let epoch = granted(&house.say(Command::Register(by_connection("a", "run-1", 1))).unwrap());
    let drain = Command::Drain { key: key("a"), epoch: Some(epoch) };
    assert!(house.say(drain.clone()).unwrap().is_changed);
    assert!(!house.say(drain).unwrap().is_changed);
    house.say(Command::ConnectionLost { connection: ConnectionId(1) }).unwrap();
    house.say(Command::Register(by_connection("a", "run-1", 2))).unwrap();
    assert_eq!(house.shows(), "a:draining");
    house.say(Command::Register(by_connection("a", "run-2", 3))).unwrap();
    assert_eq!(house.shows(), "a:up");
}

// === leases ===

#[test]
fn a_lost_connection_stops_calls_at_once_and_removes_within_a_second() {
    let mut house = House::new();
    house.say(Command::Register(by_connection("a", "run-1", 1))).unwrap();
    house.say(Command::ConnectionLost { connection: ConnectionId(1) }).unwrap();
    assert_eq!(house.shows(), "a:lost");
    assert!(!house.get("a").unwrap().is_routable());
    house.pass(CONNECTION_GRACE);
    assert_eq!(house.shows(), "");
    assert!(CONNECTION_GRACE + crate::limits::TICK_MIN < Duration::from_secs(1));
}

#[test]
fn an_owner_that_comes_back_in_time_stays_whichever_is_noticed_first() {
    let mut house = House::new();
    let first = granted(&house.say(Command::Register(by_connection("a", "run-1", 1))).unwrap());
    house.say(Command::ConnectionLost { connection: ConnectionId(1) }).unwrap();
    let back = house.say(Command::Register(by_connection("a", "run-1", 2))).unwrap();
    assert_eq!((granted(&back), house.shows().as_str()), (first, "a:up"));
    // The new connection is there before the old one's end is noticed.
    assert!(!house.say(Command::Register(by_connection("a", "run-1", 3))).unwrap().is_changed);
    house.say(Command::ConnectionLost { connection: ConnectionId(2) }).unwrap();
    house.pass(Duration::from_secs(3600));
    assert_eq!(house.shows(), "a:up");
}

#[test]
fn a_restart_gives_every_lease_a_grace_and_the_absent_go_then() {
    let mut house = House::new();
    house.say(Command::Register(by_connection("a", "run-1", 1))).unwrap();
    house.say(Command::Register(by_ttl("b"))).unwrap();
    house.say(Command::Register(Registration::new(key("c"), "10.0.0.9", 80, api()))).unwrap();
    house.pass(Duration::from_secs(14));
    house.restart();
    house.pass(RETURN_GRACE - Duration::from_millis(1));
    assert_eq!(house.shows(), "a:up b:up c:up");
    assert!(!house.say(Command::Register(by_connection("a", "run-1", 1))).unwrap().is_changed);
    house.pass(Duration::from_millis(1));
    assert_eq!(house.shows(), "a:up c:up");
}

// === the guard ===

fn many(count: usize) -> House {
    let mut house = House::new();
    (0..count).for_each(|n| drop(house.say(Command::Register(by_ttl(&format!("i{n}")))).unwrap()));
    house
}

#[test]
fn the_guard_keeps_what_expires_together_and_believes_what_expires_alone() {
    for (instances, silent, left) in [
        (1, 1, 0),  // one that dies is dead
        (2, 2, 0),  // so are two
        (3, 3, 3),  // a whole service is not
        (10, 3, 7), // 30 %
        (10, 4, 6), // 40 % is not more than 40 %
        (10, 5, 10),
    ] {
        let mut house = many(instances);
        house.pass(Duration::from_secs(10));
        (silent..instances).for_each(|n| drop(house.say(beat(&format!("i{n}"))).unwrap()));
        house.pass(Duration::from_secs(6));
        assert_eq!(house.machine.snapshot.instance_count(), left, "{silent} of {instances} fell silent");
        assert!(house.machine.snapshot.instances().all(|instance| instance.is_routable()));
    }
}

#[test]
fn expiries_one_after_the_other_within_the_window_count_together() {
    let mut house = many(0);
    for n in 0..10 {
        house.say(Command::Register(by_ttl(&format!("i{n}")))).unwrap();
        house.pass(Duration::from_millis(500));
    }
    house.pass(TTL);
    assert_eq!(house.shows(), "i4:suspect i5:suspect i6:suspect i7:suspect i8:suspect i9:suspect");
}

#[test]
fn the_guard_ends_by_itself() {
    let mut house = many(4);
    house.pass(TTL);
    assert_eq!(house.shows(), "i0:suspect i1:suspect i2:suspect i3:suspect");
    house.pass(Duration::from_secs(20));
    assert!(house.say(beat("i0")).unwrap().is_changed, "a sign of life ends it for one");
    assert_eq!(house.shows(), "i0:up i1:suspect i2:suspect i3:suspect");
    for _ in 0..(SUSPECT_AGE_MAX.as_secs() / 10) {
        house.pass(Duration::from_secs(10));
        house.say(beat("i0")).unwrap();
    }
    assert_eq!(house.shows(), "i0:up", "time ends it for the others");
    house.pass(TTL);
    assert_eq!(house.shows(), "", "and what is long past does not guard anyone");
}

#[test]
fn lost_connections_are_guarded_too() {
    let mut house = House::new();
    for n in 0..10u64 {
        house.say(Command::Register(by_connection(&format!("i{n}"), &format!("run-{n}"), n))).unwrap();
    }
    for n in 0..10 {
        house.say(Command::ConnectionLost { connection: ConnectionId(n) }).unwrap();
    }
    assert_eq!(house.shows().matches("suspect").count(), 6);
    house.pass(Duration::from_secs(1));
    assert_eq!(
        house.shows().matches("suspect").count(),
        10,
        "those lost before the guard held are kept as well"
    );
    house.say(Command::Register(by_connection("i3", "run-3", 33))).unwrap();
    assert_eq!(house.get("i3").unwrap().lifecycle, Lifecycle::Up);
}

#[test]
fn a_zone_is_guarded_across_services() {
    let mut house = House::new();
    let of = |name: &str, zone: &str| {
        let service = ServiceKey::parse("default", name).unwrap();
        let key = InstanceKey { service, id: InstanceId::new("1").unwrap() };
        let locality = Locality { region: String::new(), zone: zone.into() };
        Command::Register(Registration { key, locality, ..by_ttl("x") })
    };
    (0..12).for_each(|n| drop(house.say(of(&format!("s{n}"), "z")).unwrap()));
    house.say(of("other", "")).unwrap();
    house.pass(TTL);
    assert_eq!(house.shows().matches("suspect").count(), 12, "each service alone lost one instance only");
    assert_eq!(house.machine.snapshot.instance_count(), 12, "without a zone it was alone");
}

#[test]
fn what_was_drained_or_deregistered_is_not_held_against_the_others() {
    let mut house = many(6);
    for n in 0..4 {
        house.say(Command::Drain { key: key(&format!("i{n}")), epoch: None }).unwrap();
    }
    house.say(beat("i4")).unwrap();
    house.pass(Duration::from_secs(10));
    house.say(beat("i4")).unwrap();
    house.pass(Duration::from_secs(5));
    assert_eq!(house.shows(), "i4:up");
}

// === objects ===

fn object(kind: Kind, name: &str) -> ObjectKey {
    let name = Name::new(name).unwrap();
    ObjectKey { kind, namespace: Name::default_namespace(), name }
}

fn proposed(name: &str, spec: Spec, origin: Origin) -> Proposed {
    Proposed { key: object(spec.kind(), name), origin, spec, written: String::new() }
}

fn topic(name: &str, origin: Origin) -> Proposed {
    proposed(name, Spec::Topic(Topic::default()), origin)
}

fn apply(objects: Vec<Proposed>) -> Command {
    Command::Apply { objects, is_dry_run: false, prune: vec![] }
}

fn outcomes(answer: &Answer) -> String {
    let one = |applied: &crate::command::Applied| {
        let outcome = match &applied.outcome {
            AppliedOutcome::Created => "created".to_owned(),
            AppliedOutcome::Changed => "changed".to_owned(),
            AppliedOutcome::Unchanged => "unchanged".to_owned(),
            AppliedOutcome::Removed => "removed".to_owned(),
            AppliedOutcome::Refused(error) => match error.kind() {
                ErrorKind::Conflict { place } => format!("conflict({place})"),
                kind => format!("{kind:?}"),
            },
        };
        format!("{}:{outcome}", applied.key.name)
    };
    answer.objects.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_object_is_taken_or_refused_for_itself() {
    let mut house = House::new();
    let first = vec![topic("a", at_line("x.yaml", 1)), topic("b", api())];
    assert_eq!(outcomes(&house.say(apply(first.clone())).unwrap()), "a:created b:created");
    let again = house.say(apply(first)).unwrap();
    assert_eq!((outcomes(&again).as_str(), again.is_changed), ("a:unchanged b:unchanged", false));
    let longer = Spec::Topic(Topic { dedupe: Some(TTL), ..Topic::default() });
    let mut wrong = topic("d", api());
    wrong.key.kind = Kind::Saga;
    let mixed = vec![
        proposed("a", longer.clone(), api()),
        proposed("b", longer, Origin::Api { caller: "another".into() }),
        topic("c", at_line("y.yaml", 3)),
        topic("c", at_line("z.yaml", 7)),
        wrong,
    ];
    let answer = house.say(apply(mixed)).unwrap();
    let expected = "a:conflict(x.yaml:1) b:changed c:created c:conflict(y.yaml:3) d:Invalid";
    assert_eq!(outcomes(&answer), expected);
    assert_eq!(answer.revision, Revision::new(2));
    let delete = |origin| Command::Delete { key: object(Kind::Topic, "a"), origin };
    let refused = house.say(delete(api())).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::Conflict { place: at_line("x.yaml", 1) });
    house.say(delete(at_line("x.yaml", 9))).unwrap();
    assert_eq!(*house.say(delete(api())).unwrap_err().kind(), ErrorKind::NotFound);
    house.restart();
}

#[test]
fn a_document_that_only_moved_keeps_its_revision_and_shows_its_new_place() {
    let mut house = House::new();
    house.say(apply(vec![topic("a", at_line("x.yaml", 1))])).unwrap();
    let answer = house.say(apply(vec![topic("a", at_line("x.yaml", 5))])).unwrap();
    assert_eq!(outcomes(&answer), "a:unchanged");
    let moved = house.machine.snapshot.object(&object(Kind::Topic, "a")).unwrap();
    assert_eq!((moved.origin.to_string().as_str(), moved.revision), ("x.yaml:5", Revision::new(1)));
    let told = house.machine.snapshot.changes_since(Revision::new(1)).unwrap().count();
    assert_eq!(told, 0, "no reader need know");
    house.restart();
}

#[test]
fn a_file_given_whole_loses_what_it_no_longer_holds() {
    let mut house = House::new();
    let whole = |objects, files: &[(&str, Vec<ObjectKey>)]| {
        let prune = files.iter().map(|(path, keep)| Prune { path: (*path).into(), keep: keep.clone() });
        Command::Apply { objects, is_dry_run: false, prune: prune.collect() }
    };
    let (x, y) = (|line| at_line("x.yaml", line), |line| at_line("y.yaml", line));
    house
        .say(whole(vec![topic("a", x(1)), topic("b", x(2)), topic("c", x(3))], &[("x.yaml", vec![])]))
        .unwrap();
    house.say(apply(vec![topic("d", y(1)), topic("e", api())])).unwrap();
    // b cannot be read just now, c is gone.
    let keep = vec![object(Kind::Topic, "b")];
    let answer = house.say(whole(vec![topic("a", x(1))], &[("x.yaml", keep)])).unwrap();
    assert_eq!(outcomes(&answer), "a:unchanged c:removed");
    // a moves to the other file: refused while x.yaml holds it, taken when both are given whole.
    let answer = house.say(whole(vec![topic("d", y(1)), topic("a", y(2))], &[("y.yaml", vec![])])).unwrap();
    assert_eq!(outcomes(&answer), "d:unchanged a:conflict(x.yaml:1)");
    let both = [("x.yaml", vec![]), ("y.yaml", vec![])];
    let answer = house.say(whole(vec![topic("d", y(1)), topic("a", y(2))], &both)).unwrap();
    assert_eq!(outcomes(&answer), "d:unchanged a:changed b:removed");
    house.say(whole(vec![], &[("y.yaml", vec![])])).unwrap();
    let left: Vec<_> = house.machine.snapshot.objects().map(|o| o.key.name.as_str()).collect();
    assert_eq!(left, ["e"]);
    assert_eq!(house.machine.files.len(), 0);
    house.restart();
}

fn gateway(class: &str) -> Spec {
    let listener = Listener {
        name: Name::new("http").unwrap(),
        port: 8080,
        protocol: ListenerProtocol::Http,
        hostname: Some("*.example".into()),
        tls: None,
        is_open_to_all_namespaces: false,
    };
    Spec::Gateway(Gateway { class: class.into(), addresses: vec![], listeners: vec![listener] })
}

fn route(host: &str, section: Option<&str>, backend: &str, port: Option<u16>) -> Spec {
    let parent = ParentRef {
        kind: ParentKind::Gateway,
        namespace: Name::default_namespace(),
        name: Name::new("public").unwrap(),
        section: section.map(|name| Name::new(name).unwrap()),
        port: None,
    };
    let (namespace, name) = backend.split_once('/').unwrap_or(("default", backend));
    let service = ServiceKey::parse(namespace, name).unwrap();
    let backend = causeway_model::Backend { service, port, weight: 1, filters: vec![] };
    let rule = Rule { backends: vec![backend], ..Rule::default() };
    Spec::HttpRoute(HttpRoute { parents: vec![parent], hostnames: vec![host.into()], rules: vec![rule] })
}

#[test]
fn conditions_say_what_gateway_api_says() {
    let port = ServicePort { name: None, port: 80, protocol: Protocol::Http };
    let declared = Spec::Service(Service { ports: vec![port], ..Service::default() });
    for (spec, accepted, resolved) in [
        (route("shop.example", None, "cart", Some(80)), "Accepted", "ResolvedRefs"),
        (route("shop.example", None, "cart", Some(81)), "Accepted", "BackendNotFound"),
        (route("shop.example", None, "none", None), "Accepted", "BackendNotFound"),
        (route("shop.example", None, "other/cart", None), "Accepted", "RefNotPermitted"),
        (route("shop.other", None, "cart", None), "NoMatchingListenerHostname", "ResolvedRefs"),
        (route("shop.example", Some("https"), "cart", None), "NoMatchingParent", "ResolvedRefs"),
    ] {
        let mut house = House::new();
        let objects = vec![
            proposed("r", spec.clone(), api()),
            proposed("public", gateway("causeway"), api()),
            proposed("cart", declared.clone(), api()),
        ];
        house.say(apply(objects)).unwrap();
        let route = object(Kind::HttpRoute, "r");
        let reason = |kind| house.condition(&route, kind).reason;
        let found = (reason(ConditionKind::Accepted), reason(ConditionKind::ResolvedRefs));
        assert_eq!(found, (accepted.to_owned(), resolved.to_owned()), "{spec:?}");
    }
}

#[test]
fn conditions_follow_what_comes_and_goes_and_keep_their_time() {
    let mut house = House::new();
    let of = object(Kind::HttpRoute, "r");
    let answer =
        house.say(apply(vec![proposed("r", route("shop.example", None, "orders", None), api())])).unwrap();
    assert!(answer.objects[0].conditions.iter().all(|condition| !condition.is_true), "{answer:?}");
    house.pass(Duration::from_secs(1));
    house.say(apply(vec![proposed("public", gateway("causeway"), api())])).unwrap();
    let accepted = house.condition(&of, ConditionKind::Accepted);
    assert!(accepted.is_true && accepted.since == START.plus(Duration::from_secs(1)));
    let missing = house.condition(&of, ConditionKind::ResolvedRefs);
    assert_eq!(missing.reason, "BackendNotFound");
    assert!(missing.message.contains("service default/orders") && missing.message.contains("[CW-1210]"));
    // The first instance resolves it, a second one changes nothing, the last one's end breaks it.
    house.pass(Duration::from_secs(1));
    let first = house.say(Command::Register(by_ttl("a"))).unwrap();
    assert!(house.condition(&of, ConditionKind::ResolvedRefs).is_true);
    assert_eq!(house.machine.snapshot.object(&of).unwrap().revision, first.revision);
    house.say(Command::Register(by_ttl("b"))).unwrap();
    assert_eq!(house.machine.snapshot.object(&of).unwrap().revision, first.revision);
    assert_eq!(house.condition(&of, ConditionKind::Accepted), accepted);
    house.pass(TTL);
    assert_eq!(house.condition(&of, ConditionKind::ResolvedRefs).reason, "BackendNotFound");
    house.restart();
}

#[test]
fn a_policy_without_a_target_is_not_accepted_and_fails_closed() {
    let mut house = House::new();
    let policy = AccessPolicy {
        targets: vec![service()],
        allow: vec![],
        is_dry_run: false,
        ..AccessPolicy::default()
    };
    house.say(apply(vec![proposed("p", Spec::AccessPolicy(policy), api())])).unwrap();
    let of = object(Kind::AccessPolicy, "p");
    let accepted = house.condition(&of, ConditionKind::Accepted);
    assert_eq!((accepted.is_true, accepted.reason.as_str()), (false, "TargetNotFound"));
    assert!(accepted.message.contains("fails closed") && accepted.message.contains("[CW-1213]"));
    house.say(Command::Register(by_ttl("a"))).unwrap();
    assert!(house.condition(&of, ConditionKind::Accepted).is_true);
}

#[test]
fn a_policy_for_a_part_of_a_service_says_that_it_guards_the_whole() {
    let mut house = House::new();
    house.say(Command::Register(by_ttl("a"))).unwrap();
    let subset = causeway_model::Subset { of: service().name, version: Some("v1".into()), tags: vec![] };
    let part = Spec::Service(causeway_model::Service { subset: Some(subset), ..Default::default() });
    let target = ServiceKey::new(service().namespace, causeway_model::Name::new("part").unwrap());
    let policy = Spec::AccessPolicy(AccessPolicy {
        targets: vec![target],
        allow: vec![],
        is_dry_run: false,
        ..AccessPolicy::default()
    });
    house.say(apply(vec![proposed("part", part, api()), proposed("p", policy, api())])).unwrap();
    let of = object(Kind::AccessPolicy, "p");
    assert!(house.condition(&of, ConditionKind::Accepted).is_true);
    let resolved = house.condition(&of, ConditionKind::ResolvedRefs);
    assert_eq!((resolved.is_true, resolved.reason.as_str()), (false, "TargetIsSubset"));
    let before = house.machine.snapshot.object(&of).unwrap().revision;
    // Another whole: the policy is sent anew.
    let name = causeway_model::Name::new("cart").unwrap();
    let subset = causeway_model::Subset { of: name, version: None, tags: vec![] };
    let part = Spec::Service(causeway_model::Service { subset: Some(subset), ..Default::default() });
    house.say(apply(vec![proposed("part", part, api())])).unwrap();
    assert!(house.condition(&of, ConditionKind::ResolvedRefs).message.contains("part of default/cart"));
    assert!(house.machine.snapshot.object(&of).unwrap().revision > before);
}

#[test]
fn a_broken_policy_says_so() {
    let mut house = House::new();
    house.say(Command::Register(by_ttl("a"))).unwrap();
    let broken = Some("p.yaml:3: allow is missing [CW-1002]".to_owned());
    let policy =
        Spec::AccessPolicy(AccessPolicy { targets: vec![service()], broken, ..AccessPolicy::default() });
    house.say(apply(vec![proposed("p", policy, api())])).unwrap();
    let accepted = house.condition(&object(Kind::AccessPolicy, "p"), ConditionKind::Accepted);
    assert_eq!((accepted.is_true, accepted.reason.as_str()), (false, "Invalid"));
    assert!(
        accepted.message.contains("p.yaml:3") && accepted.message.ends_with("[CW-1218]"),
        "{}",
        accepted.message
    );
}

#[test]
fn a_dry_run_says_everything_and_changes_nothing() {
    let mut house = House::new();
    house.say(apply(vec![topic("a", api())])).unwrap();
    let objects = vec![
        topic("a", at_line("x.yaml", 1)),
        proposed("public", gateway("causeway"), api()),
        proposed("r", route("shop.example", None, "cart", None), api()),
    ];
    let rehearsal = Command::Apply { objects, is_dry_run: true, prune: vec![] };
    let answer = house.say(rehearsal).unwrap();
    assert_eq!(outcomes(&answer), "a:conflict(api (local)) public:created r:created");
    let reasons: Vec<_> = answer.objects[2].conditions.iter().map(|c| c.reason.as_str()).collect();
    assert_eq!(reasons, ["Accepted", "BackendNotFound"]);
    assert_eq!((answer.is_changed, house.journal.len()), (false, 1));
}

// === services, tokens, certificates ===

#[test]
fn a_services_revision_is_that_of_its_own_last_change() {
    let mut house = House::new();
    house.say(Command::Register(by_ttl("a"))).unwrap();
    house.say(apply(vec![topic("t", api())])).unwrap();
    assert_eq!(house.machine.services.revision(&service()), Revision::new(1));
    house.say(Command::Deregister { key: key("a"), epoch: None }).unwrap();
    assert_eq!(house.machine.services.revision(&service()), Revision::new(3), "gone is a change");
    assert!(!house.machine.services.is_there(&service()));
    house.restart();
}

fn token(id: &str, expires_at: Option<Timestamp>) -> Token {
    Token {
        id: TokenId::new(id).unwrap(),
        digest: Digest::new([7; 32]),
        use_for: TokenUse::Join,
        namespace: None,
        service: Some(Name::new("orders").unwrap()),
        expires_at,
        issued_by: "local".into(),
    }
}

#[test]
fn tokens_are_revisions_that_no_picture_shows_and_are_forgotten_when_they_end() {
    let mut house = House::new();
    let end = START.plus(Duration::from_secs(60));
    let issued = house.say(Command::IssueToken(token("t1", Some(end)))).unwrap();
    assert_eq!((issued.revision, house.machine.revision()), (Revision::new(1), Revision::new(1)));
    assert_eq!(*house.say(Command::IssueToken(token("t1", None))).unwrap_err().kind(), ErrorKind::Invalid);
    let known = house.machine.tokens.values().next().unwrap().clone();
    assert_eq!(known.verify(&Digest::new([7; 32]), START), Ok(()));
    assert_eq!(known.verify(&Digest::new([8; 32]), START), Err(TokenError::WrongSecret));
    assert_eq!(known.verify(&Digest::new([7; 32]), end), Err(TokenError::Expired));
    house.restart();
    house.pass(Duration::from_secs(60));
    assert_eq!(
        *house.say(Command::IssueToken(token("t2", Some(end)))).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    house.say(Command::IssueToken(token("t2", None))).unwrap();
    assert_eq!(house.machine.tokens.keys().map(TokenId::as_str).collect::<Vec<_>>(), ["t2"]);
    house.say(Command::RevokeToken { id: TokenId::new("t2").unwrap() }).unwrap();
    assert!(house.machine.tokens.is_empty() && house.machine.token_ends.is_empty());
    house.restart();
}

fn certificate(serial: &str, of: ServiceKey, seconds: u64) -> Issued {
    let domain = causeway_model::TrustDomain::new("causeway.local").unwrap();
    Issued {
        serial: Serial::new(serial).unwrap(),
        identity: causeway_model::SpiffeId::new(domain, of),
        not_after: START.plus(Duration::from_secs(seconds)),
        revoked_at: None,
        not_before: Timestamp::from_millis(START.as_millis() - 1000),
    }
}

fn issue(house: &mut House, serial: &str, of: ServiceKey, seconds: u64) -> Result<Answer, Error> {
    house.say(Command::RecordIssued { issued: certificate(serial, of, seconds), by: None })
}

#[test]
fn certificates_are_recorded_once_revoked_once_and_forgotten_at_their_end() {
    let mut house = House::new();
    issue(&mut house, "0a", service(), 60).unwrap();
    assert!(issue(&mut house, "0a", service(), 60).is_err());
    let revoke = Command::RevokeIssued { serial: Serial::new("0a").unwrap() };
    let revoked = house.say(revoke.clone()).unwrap();
    assert_eq!((revoked.is_changed, revoked.revoked.certificates), (true, 1));
    assert!(!house.say(revoke).unwrap().is_changed);
    house.restart();
    assert_eq!(house.machine.issued.values().next().unwrap().revoked_at, Some(START));
    let list = house.machine.snapshot.revocations().clone();
    assert!(list.revokes("0a", &service(), START) && !list.revokes("0b", &service(), START));
    assert_eq!(house.machine.snapshot.revocations_revision(), Revision::new(2));
    house.pass(Duration::from_secs(60));
    issue(&mut house, "0b", service(), 120).unwrap();
    assert_eq!(house.machine.issued.keys().map(Serial::as_str).collect::<Vec<_>>(), ["0b"]);
    assert!(house.machine.snapshot.revocations().is_empty(), "what has expired leaves the picture");
    house.restart();
}

#[test]
fn a_revoked_certificate_brings_no_other() {
    let mut house = House::new();
    issue(&mut house, "0a", service(), 60).unwrap();
    let by = |by: &str, serial| Command::RecordIssued {
        issued: certificate(serial, service(), 60),
        by: Serial::new(by),
    };
    house.say(by("0a", "0b")).unwrap();
    house.say(Command::RevokeIssued { serial: Serial::new("0a").unwrap() }).unwrap();
    assert_eq!(*house.say(by("0a", "0c")).unwrap_err().kind(), ErrorKind::Invalid);
    house.say(by("0b", "0c")).unwrap();
}

#[test]
fn a_service_is_revoked_with_its_join_tokens_and_only_it() {
    let mut house = House::new();
    let other = ServiceKey::parse("default", "cart").unwrap();
    let revoke = Command::RevokeService { service: service() };
    assert_eq!(*house.say(revoke.clone()).unwrap_err().kind(), ErrorKind::NotFound);
    for (serial, of, seconds) in [("0a", service(), 60), ("0b", service(), 90), ("0c", other.clone(), 90)] {
        issue(&mut house, serial, of, seconds).unwrap();
    }
    let of = |id: &str, namespace: Option<&str>, name: Option<&str>| {
        let part = |part: Option<&str>| part.map(|part| Name::new(part).unwrap());
        Token { namespace: part(namespace), service: part(name), ..token(id, None) }
    };
    house.say(Command::IssueToken(of("t1", Some("default"), Some("orders")))).unwrap();
    house.say(Command::IssueToken(of("t2", Some("default"), Some("cart")))).unwrap();
    house.say(Command::IssueToken(of("t3", Some("default"), None))).unwrap();
    house
        .say(Command::IssueToken(Token {
            use_for: TokenUse::Api(vec![]),
            ..of("t4", Some("default"), Some("orders"))
        }))
        .unwrap();
    house.pass(Duration::from_millis(1_500));
    let revoked = house.say(revoke.clone()).unwrap().revoked;
    assert_eq!((revoked.certificates, revoked.tokens), (2, 1));
    let list = house.machine.snapshot.revocations().clone();
    assert!(list.revokes("0a", &service(), START) && list.revokes("never recorded", &service(), START));
    assert!(!list.revokes("0c", &other, START));
    let left: Vec<_> = house.machine.tokens.keys().map(TokenId::as_str).collect();
    assert_eq!(left, ["t2", "t3", "t4"]);
    house.restart();
    assert_eq!(*house.machine.snapshot.revocations(), list, "it is in the journal");
    // One that was signed before and is recorded after is not let through; one that was signed after is.
    assert_eq!(*issue(&mut house, "0d", service(), 60).unwrap_err().kind(), ErrorKind::Unavailable);
    let later = Issued { not_before: START.plus(Duration::from_secs(1)), ..certificate("0e", service(), 60) };
    house.say(Command::RecordIssued { issued: later, by: None }).unwrap();
    // It leaves when the last of those that were meant has expired.
    house.pass(Duration::from_secs(80));
    issue(&mut house, "0f", other.clone(), 200).unwrap();
    assert!(!house.machine.snapshot.revocations().is_empty());
    house.pass(Duration::from_secs(20));
    issue(&mut house, "10", other, 200).unwrap();
    assert!(house.machine.snapshot.revocations().is_empty());
}

#[test]
fn the_list_of_revocations_fits_into_one_message() {
    let mut house = House::new();
    let mut revoked = 0;
    let full = loop {
        let serial = format!("{revoked:0128x}");
        issue(&mut house, &serial, service(), 60).unwrap();
        match house.say(Command::RevokeIssued { serial: Serial::new(&serial).unwrap() }) {
            Ok(_) => revoked += 1,
            Err(error) => break error,
        }
        // Not one by one: each is a copy of the whole list.
        if revoked == 10 {
            let mut list = Revocations::clone(house.machine.snapshot.revocations());
            let until = START.plus(Duration::from_secs(60));
            while causeway_model::codec::encode(&list).len() + 2_000 < limits::REVOCATIONS_BYTES_MAX {
                for n in 0..10 {
                    list.revoke_serial(format!("{:x}", list.len() * 10 + n + 1_000_000), service(), until);
                }
            }
            let revision = house.machine.revision();
            house.machine.snapshot.put_revocations(Arc::new(list), revision);
        }
    };
    assert!(
        revoked > 10 && *full.kind() == ErrorKind::Full && full.to_string().contains("its service"),
        "{full}"
    );
    house.say(Command::RevokeService { service: service() }).unwrap();
    assert_eq!(house.machine.snapshot.revocations().len(), 1, "the way out");
}

#[test]
fn no_secret_shows_itself() {
    let text = format!("{:?}", Command::IssueToken(token("t1", None)));
    assert!(text.contains("***") && !text.contains('7'), "{text}");
}
