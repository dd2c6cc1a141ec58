//! Whatever is said in whatever order: nothing panics, the invariants hold, and the journal gives the state again.

use proptest::prelude::*;

use super::*;

/// What happens, small enough that the same few things meet each other again and again.
#[derive(Clone, Debug)]
enum Event {
    Said(Box<Command>),
    Passed(Duration),
    Restarted,
    Away,
}

fn id() -> impl Strategy<Value = String> {
    (0..6u8).prop_map(|n| format!("i{n}"))
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![Just(Health::Passing), Just(Health::Warning), Just(Health::Critical)]
}

fn epoch() -> impl Strategy<Value = Option<Epoch>> {
    prop_oneof![4 => Just(None), 1 => (0..40u64).prop_map(|n| Some(Epoch::new(n)))]
}

fn registration() -> impl Strategy<Value = Registration> {
    let owner = prop_oneof![Just(None), (0..3u8).prop_map(|n| Owner::new(&format!("run-{n}")))];
    let parts = (id(), 0..3u8, owner, 0..4u64, epoch(), any::<bool>(), 0..3u8, any::<bool>());
    parts.prop_map(|(id, lease, owner, connection, epoch, is_other, version, is_zoned)| {
        let (lease, connection) = match lease {
            0 => (Lease::Permanent, None),
            1 => (Lease::Ttl(TTL), None),
            _ => (Lease::Connection, Some(ConnectionId(connection))),
        };
        let service = if is_other { ServiceKey::parse("default", "cart").unwrap() } else { service() };
        let key = InstanceKey { service, ..key(&id) };
        let zone = if is_zoned { "z".to_owned() } else { String::new() };
        let locality = Locality { region: String::new(), zone };
        let from = Registration::new(key, "10.0.0.5", 80, api());
        Registration { lease, connection, owner, epoch, version: version.to_string(), locality, ..from }
    })
}

fn spec() -> impl Strategy<Value = (String, Spec)> {
    let policy = || AccessPolicy {
        targets: vec![service()],
        allow: vec![],
        is_dry_run: false,
        ..AccessPolicy::default()
    };
    prop_oneof![
        Just(("t".to_owned(), Spec::Topic(Topic::default()))),
        Just(("public".to_owned(), gateway("causeway"))),
        Just(("public".to_owned(), gateway("another"))),
        Just(("orders".to_owned(), Spec::Service(Service::default()))),
        Just(("p".to_owned(), Spec::AccessPolicy(policy()))),
        (0..3u8).prop_map(|n| (format!("r{n}"), route("shop.example", None, "orders", None))),
        (0..3u8).prop_map(|n| (format!("r{n}"), route("shop.example", None, "cart", None))),
    ]
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![Just(api()), (0..2u8, 1..3u32).prop_map(|(n, line)| at_line(&format!("{n}.yaml"), line))]
}

fn applied() -> impl Strategy<Value = Command> {
    let objects = prop::collection::vec((spec(), origin()), 0..5);
    let prune = prop::collection::vec(0..2u8, 0..2);
    (objects, prune, prop::bool::weighted(0.2)).prop_map(|(objects, prune, is_dry_run)| {
        let objects =
            objects.into_iter().map(|((name, spec), origin)| proposed(&name, spec, origin)).collect();
        let prune = prune.into_iter().map(|n| Prune { path: format!("{n}.yaml"), keep: vec![] }).collect();
        Command::Apply { objects, is_dry_run, prune }
    })
}

fn command() -> impl Strategy<Value = Command> {
    let issued = (0..4u8, prop::option::of(1..200u64)).prop_map(|(n, seconds)| {
        let end = seconds.map(|seconds| START.plus(Duration::from_secs(seconds)));
        Command::IssueToken(token(&format!("t{n}"), end))
    });
    let signed = (0..6u8, any::<bool>(), 1..200u64, 0..6u8).prop_map(|(n, is_other, seconds, by)| {
        let of = if is_other { ServiceKey::parse("default", "cart").unwrap() } else { service() };
        let issued = certificate(&format!("{n:02x}"), of, seconds);
        Command::RecordIssued { issued, by: (by < 5).then(|| Serial::new(&format!("{by:02x}")).unwrap()) }
    });
    prop_oneof![
        6 => registration().prop_map(Command::Register),
        2 => prop::collection::vec(registration(), 0..6).prop_map(Command::RegisterMany),
        4 => (id(), epoch(), prop::option::of(health()))
            .prop_map(|(id, epoch, health)| Command::Heartbeat { key: key(&id), epoch, health }),
        1 => (id(), health()).prop_map(|(id, health)| Command::Report { key: key(&id), epoch: None, health }),
        1 => (id(), epoch()).prop_map(|(id, epoch)| Command::Drain { key: key(&id), epoch }),
        1 => (id(), epoch()).prop_map(|(id, epoch)| Command::Deregister { key: key(&id), epoch }),
        3 => (0..4u64).prop_map(|n| Command::ConnectionLost { connection: ConnectionId(n) }),
        3 => applied(),
        1 => (spec(), origin())
            .prop_map(|((name, spec), origin)| Command::Delete { key: object(spec.kind(), &name), origin }),
        1 => issued,
        1 => (0..4u8).prop_map(|n| Command::RevokeToken { id: TokenId::new(&format!("t{n}")).unwrap() }),
        2 => signed,
        1 => (0..6u8).prop_map(|n| Command::RevokeIssued { serial: Serial::new(&format!("{n:02x}")).unwrap() }),
        1 => any::<bool>().prop_map(|is_other| {
            let cart = ServiceKey::parse("default", "cart").unwrap();
            Command::RevokeService { service: if is_other { cart } else { service() } }
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => command().prop_map(|command| Event::Said(Box::new(command))),
        4 => (0..20_000u64).prop_map(|millis| Event::Passed(Duration::from_millis(millis))),
        1 => (20..400u64).prop_map(|seconds| Event::Passed(Duration::from_secs(seconds))),
        1 => Just(Event::Restarted),
        1 => Just(Event::Away),
    ]
}

/// Whatever is revoked and has not expired is in the picture, and nothing else is.
fn check_revoked(house: &House) {
    let list = house.machine.snapshot.revocations();
    for one in house.machine.issued.values().filter(|one| one.not_after > house.now) {
        let is_listed = list.revokes(one.serial.as_str(), &one.identity.service, one.not_before);
        assert_eq!(is_listed, one.revoked_at.is_some(), "{one:?} {list:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_invariants_hold_and_the_journal_gives_the_state_again(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut house = House::new();
        for event in events {
            match event {
                // `say` checks the invariants after each; a refusal is an answer like any other.
                Event::Said(command) => {
                    drop(house.say(*command));
                    check_revoked(&house);
                }
                Event::Passed(time) => house.pass(time),
                Event::Restarted => house.restart(),
                Event::Away => house.machine.resume(house.now),
            }
        }
        assert_same(&house.machine, &replay(&house.journal), house.now);
        for object in house.machine.snapshot.objects() {
            let world = crate::conditions::World {
                snapshot: &house.machine.snapshot,
                services: &house.machine.services,
            };
            let again = crate::conditions::conditions(world, object, house.now);
            prop_assert_eq!(&again, &object.conditions, "conditions of {} are not up to date", object.key);
        }
    }
}
