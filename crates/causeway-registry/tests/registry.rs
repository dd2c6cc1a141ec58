//! The registry at its handle: durable answers, one picture, waits, faults of the store, time.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use causeway_base::telemetry::Metrics;
use causeway_base::{Clock, Scope};
use causeway_model::{
    Health, InstanceId, InstanceKey, Lease, Lifecycle, Name, ObjectKey, Origin, Revision, Service,
    ServiceKey, Spec, Subset,
};
use causeway_registry::limits::{RETURN_GRACE, TTL_MIN};
use causeway_registry::{
    Answer, Command, Digest, Kind, Options, Owner, Proposed, Registration, Registry, Token, TokenError,
    TokenId, TokenUse,
};
use causeway_store::{Faults, Store};

const TTL: Duration = Duration::from_secs(15);

struct House {
    registry: Registry,
    scope: Scope,
    metrics: Metrics,
}

fn open(store: Store) -> House {
    let (scope, metrics) = (Scope::root("t"), Metrics::default());
    let registry = Registry::open(store, Clock::simulated(), Options::default(), &metrics, &scope).unwrap();
    House { registry, scope, metrics }
}

fn house() -> House {
    open(Store::memory(Faults::none()))
}

fn service(name: &str) -> ServiceKey {
    ServiceKey::parse("default", name).unwrap()
}

fn key(name: &str, id: &str) -> InstanceKey {
    InstanceKey { service: service(name), id: InstanceId::new(id).unwrap() }
}

fn api() -> Origin {
    Origin::Api { caller: "local".into() }
}

fn instance(name: &str, id: &str) -> Registration {
    Registration { lease: Lease::Ttl(TTL), ..Registration::new(key(name, id), "10.0.0.5", 8080, api()) }
}

fn beat(name: &str, id: &str) -> Command {
    Command::Heartbeat { key: key(name, id), epoch: None, health: None }
}

async fn register(registry: &Registry, name: &str, id: &str) -> Answer {
    registry.submit(Command::Register(instance(name, id))).await.unwrap()
}

/// Waits for a condition on the picture; the time limit is the test's own.
async fn until(registry: &Registry, holds: impl FnMut(&std::sync::Arc<causeway_model::Snapshot>) -> bool) {
    let mut watch = registry.watch();
    tokio::time::timeout(Duration::from_secs(3600), watch.wait_for(holds)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_in_the_picture_and_survives_a_restart() {
    let faults = Faults::none();
    let first = open(Store::memory(faults.clone()));
    let answer = register(&first.registry, "orders", "a").await;
    assert_eq!(answer.revision, Revision::new(1));
    assert!(first.registry.snapshot().instance(&key("orders", "a")).is_some());
    let token = Token {
        id: TokenId::new("t1").unwrap(),
        digest: Digest::new([1; 32]),
        use_for: TokenUse::Join,
        namespace: None,
        service: None,
        expires_at: None,
        issued_by: "local".into(),
    };
    let issued = first.registry.submit(Command::IssueToken(token)).await.unwrap();
    assert_eq!((issued.revision, first.registry.snapshot().revision()), (Revision::new(2), Revision::new(2)));
    faults.crash();

    let second = open(Store::memory(faults));
    let snapshot = second.registry.snapshot();
    assert_eq!(snapshot.revision(), Revision::new(2), "a decree that no picture shows counts, too");
    let before = first.registry.snapshot();
    assert!(before.instances().eq(snapshot.instances()));
    assert_eq!(
        snapshot.changes_since(Revision::new(0)).unwrap().count(),
        1,
        "watchers go on where they were"
    );
    let id = TokenId::new("t1").unwrap();
    assert!(second.registry.verify(&id, &Digest::new([1; 32])).is_ok());
    let wrong = second.registry.verify(&id, &Digest::new([2; 32])).unwrap_err();
    assert_eq!(wrong, TokenError::WrongSecret);
    assert_eq!(register(&second.registry, "orders", "b").await.revision, Revision::new(3));
}

#[tokio::test(start_paused = true)]
async fn what_waits_together_is_decided_against_each_other_and_published_once() {
    let faults = Faults::none();
    let house = open(Store::memory(faults.clone()));
    faults.slow_sync(Duration::from_millis(10));
    let mut watch = house.registry.watch();
    let commands =
        (0..200).map(|n| register(&house.registry, "orders", if n % 2 == 0 { "same" } else { "other" }));
    let answers = futures(commands).await;
    let changed: Vec<u64> = answers.iter().filter(|a| a.is_changed).map(|a| a.revision.get()).collect();
    assert_eq!(changed, [1, 2], "each sees what was said before it in the same batch");
    assert_eq!(house.registry.snapshot().instance_count(), 2);
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().revision(), Revision::new(2));
    let text = house.metrics.exposition();
    let batches = text.lines().find_map(|line| line.strip_prefix("causeway_registry_batch_commands_count "));
    assert!(batches.unwrap().parse::<u64>().unwrap() <= 3, "{text}");
    assert!(
        text.contains(r#"causeway_registry_commands_total{kind="register",outcome="unchanged"} 198"#),
        "{text}"
    );
}

/// All of them at once, in order.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in pinned.iter_mut().zip(&mut done).filter(|(_, slot)| slot.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(cx) {
                *slot = Some(value);
            }
        }
        match done.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_was_slower_decides_again() {
    let store = Store::memory(Faults::none());
    let (one, two) = (open(store.clone()), open(store.clone()));
    let commands = (0..40).map(|n| {
        let registry = if n % 2 == 0 { &one.registry } else { &two.registry };
        register(registry, "orders", if n < 20 { "same" } else { "other" })
    });
    let answers = futures(commands).await;
    let mut changed: Vec<u64> = answers.iter().filter(|a| a.is_changed).map(|a| a.revision.get()).collect();
    changed.sort_unstable();
    assert_eq!(changed, [1, 2], "the same registration is new only once, whoever took it");
    for house in [&one, &two] {
        let behind = register(&house.registry, "orders", "same").await;
        assert!(!behind.is_changed && house.registry.snapshot().revision() >= behind.revision);
    }
    let third = open(store);
    assert_eq!(third.registry.snapshot().instance_count(), 2);
    assert_eq!(third.registry.snapshot().revision(), Revision::new(2));
    let again =
        |house: &House| house.metrics.exposition().contains("causeway_registry_decided_again_total 0");
    assert!(!again(&one) || !again(&two), "nobody had to");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_publishes_nothing_and_keeps_the_instance() {
    let house = house();
    register(&house.registry, "orders", "a").await;
    let mut watch = house.registry.watch();
    watch.mark_unchanged();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!house.registry.submit(beat("orders", "a")).await.unwrap().is_changed);
    }
    assert!(!watch.has_changed().unwrap());
    let silent_since = tokio::time::Instant::now();
    until(&house.registry, |snapshot| snapshot.instance_count() == 0).await;
    let took = silent_since.elapsed();
    assert!(took >= TTL && took < TTL + Duration::from_secs(1), "{took:?}");
    let gone = house.registry.submit(beat("orders", "a")).await.unwrap_err();
    assert_eq!(*gone.kind(), Kind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_gone_within_a_second() {
    let house = house();
    let connection = house.registry.connection();
    let by_connection = Registration {
        lease: Lease::Connection,
        owner: Owner::new("run-1"),
        connection: Some(connection),
        ..instance("orders", "a")
    };
    house.registry.submit(Command::Register(by_connection)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let lost = tokio::time::Instant::now();
    house.registry.submit(Command::ConnectionLost { connection }).await.unwrap();
    let lifecycle = house.registry.snapshot().instance(&key("orders", "a")).unwrap().lifecycle;
    assert_eq!(lifecycle, Lifecycle::Lost);
    until(&house.registry, |snapshot| snapshot.instance_count() == 0).await;
    assert!(lost.elapsed() <= Duration::from_secs(1), "{:?}", lost.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_expires_nobody() {
    let faults = Faults::none();
    let house = open(Store::memory(faults.clone()));
    let short = Registration { lease: Lease::Ttl(TTL_MIN), ..instance("orders", "a") };
    house.registry.submit(Command::Register(short)).await.unwrap();
    faults.slow_sync(Duration::from_secs(20));
    // Only the write that is under way stalls: what the driver does after it is done at once.
    tokio::join!(register(&house.registry, "orders", "b"), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        faults.slow_sync(Duration::ZERO);
    });
    assert_eq!(house.registry.snapshot().instance_count(), 2);
    let since = tokio::time::Instant::now();
    until(&house.registry, |snapshot| snapshot.instance(&key("orders", "a")).is_none()).await;
    assert!(since.elapsed() + Duration::from_secs(1) >= RETURN_GRACE, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_decrees_and_still_hears_heartbeats() {
    let faults = Faults::none();
    let house = open(Store::memory(faults.clone()));
    register(&house.registry, "orders", "a").await;
    faults.full(true);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (beaten, refused) = tokio::join!(
            house.registry.submit(beat("orders", "a")),
            house.registry.submit(Command::Register(instance("orders", "b"))),
        );
        assert!(beaten.is_ok());
        let refused = refused.unwrap_err();
        assert_eq!(*refused.kind(), Kind::Unavailable);
        assert!(refused.to_string().contains("[CW-1205]"), "{refused}");
    }
    let snapshot = house.registry.snapshot();
    assert_eq!(
        (snapshot.instance_count(), snapshot.revision()),
        (1, Revision::new(1)),
        "nothing of it is left"
    );
    faults.full(false);
    assert_eq!(register(&house.registry, "orders", "b").await.revision, Revision::new(2));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_said_and_nothing_unwritten_is_shown() {
    let faults = Faults::none();
    let house = open(Store::memory(faults.clone()));
    faults.fail_sync(1);
    let refused = house.registry.submit(Command::Register(instance("orders", "a"))).await.unwrap_err();
    assert_eq!(*refused.kind(), Kind::Unavailable);
    assert_eq!(house.registry.snapshot().instance_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn waits_end_with_what_they_wait_for_or_with_their_time() {
    let house = house();
    let registry = &house.registry;
    let revision = register(registry, "orders", "a").await.revision;
    let began = tokio::time::Instant::now();
    let snapshot = registry.wait_newer(revision, Duration::from_secs(5)).await;
    assert_eq!((snapshot.revision(), began.elapsed()), (revision, Duration::from_secs(5)));
    let orders = service("orders");
    let (waited, ()) =
        tokio::join!(registry.wait_service(&orders, revision, Duration::from_secs(60)), async {
            register(registry, "cart", "a").await; // another service's change wakes nobody for good
            tokio::time::sleep(Duration::from_secs(1)).await;
            let sick = Command::Report { key: key("orders", "a"), epoch: None, health: Health::Critical };
            registry.submit(sick).await.unwrap();
        });
    assert_eq!(waited.0, Revision::new(3));
    assert_eq!(waited.1.instance(&key("orders", "a")).unwrap().health, Health::Critical);
    assert_eq!(registry.service_revision(&service("cart")), Revision::new(2));
    let changed: Vec<u64> = waited.1.changes_since(revision).unwrap().map(|(at, _)| at.get()).collect();
    assert_eq!(changed, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_subset_changes_with_the_service_that_it_is_a_part_of() {
    let house = house();
    let subset = Subset { of: Name::new("orders").unwrap(), version: Some("2".into()), tags: vec![] };
    let object = Proposed {
        key: ObjectKey::service(&service("orders-v2")),
        origin: api(),
        spec: Spec::Service(Service { subset: Some(subset), ..Service::default() }),
        written: String::new(),
    };
    let apply = Command::Apply { objects: vec![object], is_dry_run: false, prune: vec![] };
    house.registry.submit(apply).await.unwrap();
    let changed = register(&house.registry, "orders", "a").await.revision;
    assert_eq!(house.registry.service_revision(&service("orders-v2")), changed);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_answers_those_who_wait_and_refuses_the_others() {
    let faults = Faults::none();
    let house = open(Store::memory(faults.clone()));
    faults.slow_sync(Duration::from_millis(100));
    let commands = (0..20).map(|n| {
        let registry = house.registry.clone();
        async move { register(&registry, "orders", &format!("i{n}")).await }
    });
    let (answers, has_ended) = tokio::join!(futures(commands), async {
        tokio::task::yield_now().await;
        house.scope.shutdown(Duration::from_secs(10)).await
    });
    assert!(has_ended);
    assert_eq!(answers.iter().filter(|answer| answer.is_changed).count(), 20);
    let late = house.registry.submit(beat("orders", "i0")).await.unwrap_err();
    assert_eq!(*late.kind(), Kind::Unavailable);
}
