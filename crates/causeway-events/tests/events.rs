//! The room at its handle: memory store, simulated time, a receiver that answers as it is told.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::outbound::{Call, CallError, Pending};
use causeway_base::{Clock, Outbound, Publish, Scope, Seed, telemetry};
use causeway_events::{
    CloudEvent, DeadReason, Events, From, Kind as ErrorKind, Leased, Options, Pull, Redrive, State, Token,
};
use causeway_model::{
    DeadLetterMode, Delivery, Kind, Name, Object, ObjectKey, Offset, Ordering, Origin, RetryPolicy,
    ServiceKey, Snapshot, Spec, Subscription, Timestamp, Topic,
};
use causeway_store::{Faults, Store};
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

// === the world around the room ===

/// A receiver: answers are taken in turn, the last one stays.
#[derive(Default)]
struct Receiver {
    seen: Mutex<Vec<http::Request<Bytes>>>,
    answers: Mutex<VecDeque<(u16, Option<&'static str>)>>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    takes: Mutex<Duration>,
}

struct Road(Arc<Receiver>);

impl Outbound for Road {
    fn call(&self, call: Call) -> Pending<Result<http::Response<Bytes>, CallError>> {
        let receiver = self.0.clone();
        Box::pin(async move {
            let now = receiver.at_once.fetch_add(1, SeqCst) + 1;
            receiver.at_once_max.fetch_max(now, SeqCst);
            let takes = *receiver.takes.lock();
            tokio::time::sleep(takes).await;
            receiver.at_once.fetch_sub(1, SeqCst);
            receiver.seen.lock().push(call.request);
            let (status, retry_after) = {
                let mut answers = receiver.answers.lock();
                match answers.len() {
                    0 => (204, None),
                    1 => answers[0],
                    _ => answers.pop_front().unwrap(),
                }
            };
            let mut response = http::Response::builder().status(status);
            if let Some(after) = retry_after {
                response = response.header("retry-after", after);
            }
            Ok(response.body(Bytes::new()).unwrap())
        })
    }
}

impl Receiver {
    fn ids(&self) -> Vec<String> {
        self.seen.lock().iter().map(|r| r.headers()["ce-id"].to_str().unwrap().to_owned()).collect()
    }

    fn answers(&self, answers: &[(u16, Option<&'static str>)]) {
        *self.answers.lock() = answers.iter().copied().collect();
    }
}

struct House {
    faults: Faults,
    picture: watch::Sender<Arc<Snapshot>>,
    receiver: Arc<Receiver>,
    clock: Clock,
    scope: Scope,
    events: Events,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn ns() -> Name {
    Name::default_namespace()
}

fn pull_subscription(group: &str) -> Subscription {
    Subscription {
        topic: name("orders"),
        group: name(group),
        delivery: Delivery::Pull,
        filter: None,
        ordering: Ordering::Key,
        retry: RetryPolicy { attempts: 2, ..RetryPolicy::default() },
        max_in_flight: 10,
        dead_letter: DeadLetterMode::Plain,
        lease: Duration::from_secs(30),
    }
}

fn push_subscription(group: &str) -> Subscription {
    let service = ServiceKey::parse("default", "mail").unwrap();
    Subscription { delivery: Delivery::Push { service, path: "/events".into() }, ..pull_subscription(group) }
}

fn event(id: &str) -> CloudEvent {
    CloudEvent::new(id, "/shop", "order.placed")
}

fn keyed(id: &str, key: &str) -> CloudEvent {
    event(id).with_extension("partitionkey", key)
}

impl House {
    fn new() -> Self {
        let (picture, seen) = watch::channel(Arc::new(Snapshot::default()));
        House::open(Faults::default(), picture, seen, Clock::simulated(), Arc::default())
    }

    fn open(
        faults: Faults,
        picture: watch::Sender<Arc<Snapshot>>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        clock: Clock,
        receiver: Arc<Receiver>,
    ) -> Self {
        let scope = Scope::root("events");
        let options = Options {
            store: Store::memory(faults.clone()),
            clock: clock.clone(),
            // Another one for each life of the node, as in a node that asks the system for it.
            seed: Seed::from_number(NODES.fetch_add(1, SeqCst) as u64),
            snapshot,
            outbound: Arc::new(Road(receiver.clone())),
        };
        let events = Events::open(options, &telemetry::Metrics::default(), &scope);
        House { faults, picture, receiver, clock, scope, events }
    }

    /// With topic `orders` and the given subscriptions of it.
    fn with(subscriptions: impl IntoIterator<Item = Subscription>) -> Self {
        let house = House::new();
        house.declare_topic(Topic::default());
        subscriptions.into_iter().for_each(|subscription| house.declare(subscription));
        house
    }

    /// The machine loses power and comes back.
    async fn crash(self) -> Self {
        self.faults.crash();
        self.reopen().await
    }

    async fn restart(self) -> Self {
        assert!(self.scope.shutdown(Duration::from_secs(60)).await);
        self.reopen().await
    }

    async fn reopen(self) -> Self {
        let snapshot = self.picture.subscribe();
        let house = House::open(self.faults, self.picture, snapshot, self.clock, self.receiver);
        self.scope.cancel();
        house
    }

    fn put(&self, kind: Kind, object: &str, spec: Spec) {
        self.picture.send_modify(|picture| {
            let mut next = (**picture).clone();
            next.put_object(Arc::new(Object {
                key: ObjectKey { kind, namespace: ns(), name: name(object) },
                origin: Origin::Builtin,
                revision: next.revision().next(),
                spec,
                conditions: Vec::new(),
                written: String::new(),
            }));
            *picture = Arc::new(next);
        });
    }

    fn declare_topic(&self, topic: Topic) {
        self.put(Kind::Topic, "orders", Spec::Topic(topic));
    }

    fn declare(&self, subscription: Subscription) {
        let object = format!("{}.{}", subscription.topic, subscription.group);
        self.put(Kind::Subscription, &object, Spec::Subscription(subscription));
    }

    fn delete(&self, kind: Kind, object: &str) {
        let key = ObjectKey { kind, namespace: ns(), name: name(object) };
        self.picture.send_modify(|picture| {
            let mut next = (**picture).clone();
            next.remove_object(&key, next.revision().next());
            *picture = Arc::new(next);
        });
    }

    async fn publish(&self, events: impl IntoIterator<Item = CloudEvent>) -> causeway_events::Published {
        self.events.publish(&ns(), &name("orders"), events.into_iter().collect()).await.unwrap()
    }

    async fn pull(&self, group: &str) -> Vec<Leased> {
        let pull = Pull { max: 100, wait: Duration::from_secs(5) };
        self.events.pull(&ns(), &name("orders"), &name(group), pull).await.unwrap()
    }

    async fn ack(&self, group: &str, leased: &[Leased]) {
        let settled = self.events.ack(&ns(), &name("orders"), &name(group), tokens(leased)).await.unwrap();
        assert_eq!(settled.done, leased.len());
    }

    async fn status(&self, group: &str) -> causeway_events::Status {
        self.events.lag(&ns(), &name("orders"), &name(group)).await.unwrap().status
    }

    async fn dead(&self, group: &str) -> Vec<(u64, DeadReason)> {
        let letters =
            self.events.dead_letters(&ns(), &name("orders"), &name(group), None, 100).await.unwrap();
        letters.into_iter().map(|letter| (letter.offset.get(), letter.reason)).collect()
    }

    /// Acks and dead letters are written together, 20 ms after the first of them.
    async fn let_it_write(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// Waits, in simulated time, until a condition of the subscription's figures holds.
    async fn until(&self, group: &str, holds: impl Fn(&causeway_events::Status) -> bool) {
        for _ in 0..10_000 {
            if holds(&self.status(group).await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it never came: {:?}", self.status(group).await);
    }
}

fn tokens(leased: &[Leased]) -> Vec<Token> {
    leased.iter().map(|lease| lease.token.clone()).collect()
}

fn ids(leased: &[Leased]) -> Vec<&str> {
    leased.iter().map(|lease| lease.event.event.id.as_str()).collect()
}

/// Nodes started so far.
static NODES: AtomicUsize = AtomicUsize::new(0);
const NOTHING: [&str; 0] = [];

// === publish, read, tail ===

#[tokio::test(start_paused = true)]
async fn published_events_are_read_in_order_and_survive_a_crash() {
    let house = House::with([]);
    let got = house.publish([event("1"), event("2")]).await;
    assert_eq!(got.offsets, [Offset::new(0), Offset::new(1)]);
    let house = house.crash().await;
    house.publish([event("3").with_json(&json!({"a": [1, 2]}))]).await;
    let page = house.events.read(&ns(), &name("orders"), From::Earliest, 100).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.event.id.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!((page.next, page.events[2].event.json()), (Offset::new(3), Some(json!({"a": [1, 2]}))));
    let page = house.events.read(&ns(), &name("orders"), From::Offset(Offset::new(1)), 1).await.unwrap();
    assert_eq!((page.events.len(), page.next), (1, Offset::new(2)));
}

#[tokio::test(start_paused = true)]
async fn an_undeclared_topic_says_how_to_declare_it() {
    let house = House::new();
    let error = house.events.publish(&ns(), &name("orders"), vec![event("1")]).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::TopicNotFound, "CW-1700"));
    assert!(error.to_string().contains("PUT /v1/namespaces/default/topics/orders"), "{error}");
    house.declare_topic(Topic::default());
    house.publish([event("1")]).await;
    let pull = Pull { max: 1, wait: Duration::ZERO };
    let error = house.events.pull(&ns(), &name("orders"), &name("mail"), pull).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SubscriptionNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_event_takes_the_whole_publish_back() {
    let house = House::with([]);
    let events = vec![event("1"), event("")];
    let error = house.events.publish(&ns(), &name("orders"), events).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert_eq!(house.events.topic(&ns(), &name("orders")).await.unwrap().records, 0);
}

#[tokio::test(start_paused = true)]
async fn the_same_source_and_id_is_taken_once_also_across_a_restart() {
    let house = House::with([]);
    let first = house.publish([event("1"), event("2"), event("1")]).await;
    assert_eq!(
        (first.offsets, first.duplicates),
        (vec![Offset::new(0), Offset::new(1), Offset::new(0)], vec![2])
    );
    let house = house.crash().await;
    let again = house.publish([event("2"), event("3"), CloudEvent::new("1", "/other", "t")]).await;
    assert_eq!((again.offsets[0], again.duplicates), (Offset::new(1), vec![0]));
    assert_eq!(again.offsets[1..], [Offset::new(2), Offset::new(3)]);
    // After the window (a day) it is a new event.
    tokio::time::advance(Duration::from_secs(25 * 3600)).await;
    assert_eq!(house.publish([event("1")]).await.duplicates, [0usize; 0]);
    let house = house.restart().await;
    assert_eq!(house.publish([event("1")]).await.duplicates, [0]);
}

#[tokio::test(start_paused = true)]
async fn concurrent_publishers_share_commits_and_each_gets_its_own_offsets() {
    let house = House::with([]);
    house.faults.slow_sync(Duration::from_millis(5));
    let publishers = (0..64).map(|n| house.publish([event(&format!("{n}a")), event(&format!("{n}b"))]));
    let began = house.clock.instant();
    let got = futures_util::future::join_all(publishers).await;
    let mut all: Vec<u64> = got.iter().flat_map(|p| p.offsets.iter().map(|o| o.get())).collect();
    assert!(got.iter().all(|p| p.offsets[1] == p.offsets[0].next()));
    all.sort_unstable();
    assert_eq!(all, (0..128).collect::<Vec<_>>());
    assert!(began.elapsed() < Duration::from_millis(50), "64 publishes took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_storage_refuses_is_told_and_leaves_nothing() {
    let house = House::with([pull_subscription("g")]);
    house.publish([event("0")]).await;
    house.faults.full(true);
    let error = house.events.publish(&ns(), &name("orders"), vec![event("1")]).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "CW-1705"));
    house.faults.full(false);
    let again = house.publish([event("1")]).await;
    assert_eq!((again.offsets, again.duplicates.len()), (vec![Offset::new(1)], 0));
    assert_eq!(ids(&house.pull("g").await), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_tail_begins_where_told_and_waits_for_more() {
    let house = House::with([]);
    house.publish([event("1"), event("2")]).await;
    let mut tail = house.events.tail(&ns(), &name("orders"), From::Offset(Offset::new(1))).await.unwrap();
    assert_eq!(tail.next().await.unwrap().unwrap().event.id, "2");
    let (next, _) = tokio::join!(tail.next(), house.publish([event("3")]));
    assert_eq!(next.unwrap().unwrap().event.id, "3");
    house.delete(Kind::Topic, "orders");
    assert!(tail.next().await.is_none(), "a deleted topic's tail ends");
}

#[tokio::test(start_paused = true)]
async fn places_in_time_and_beyond_the_end() {
    let house = House::with([]);
    house.publish([event("1")]).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    let noon = Timestamp::from(house.clock.now());
    house.publish([event("2")]).await;
    let read = async |from| {
        let page = house.events.read(&ns(), &name("orders"), from, 10).await;
        page.map(|page| page.events.iter().map(|e| e.event.id.clone()).collect::<Vec<_>>())
    };
    assert_eq!(read(From::Time(noon)).await.unwrap(), ["2"]);
    assert_eq!(read(From::Time(noon.plus(Duration::from_secs(1)))).await.unwrap(), NOTHING);
    assert_eq!(read(From::Latest).await.unwrap(), NOTHING);
    assert_eq!(read(From::Offset(Offset::new(2))).await.unwrap(), NOTHING);
    assert_eq!(read(From::Offset(Offset::new(3))).await.unwrap_err().kind(), ErrorKind::InvalidPosition);
}

#[tokio::test(start_paused = true)]
async fn retention_hides_by_age_and_by_bytes_and_passes_over_slow_groups() {
    let house = House::new();
    house.declare_topic(Topic { retention_age: Some(Duration::from_secs(3600)), ..Topic::default() });
    house.declare(Subscription { max_in_flight: 1, ..pull_subscription("slow") });
    house.publish([event("0")]).await;
    let held = house.pull("slow").await;
    house.publish((1..9).map(|n| event(&n.to_string()))).await;
    tokio::time::advance(Duration::from_secs(3601)).await;
    house.publish([event("new")]).await;
    let page = house.events.read(&ns(), &name("orders"), From::Earliest, 100).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.event.id.as_str()).collect::<Vec<_>>(), ["new"]);
    let view = house.events.topic(&ns(), &name("orders")).await.unwrap();
    assert_eq!((view.earliest, view.next, view.records), (Offset::new(9), Offset::new(10), 1));
    assert_eq!(held.len(), 1);
    assert_eq!(ids(&house.pull("slow").await), ["1"], "what was read before it grew old is still delivered");

    let one = view.bytes;
    house.declare_topic(Topic { retention_bytes: Some(2 * one), ..Topic::default() });
    house.publish([event("nxt")]).await;
    let view = house.events.topic(&ns(), &name("orders")).await.unwrap();
    assert!(view.records == 2 && view.bytes <= 2 * one + 8, "{view:?}");
}

// === pull ===

#[tokio::test(start_paused = true)]
async fn pulled_events_are_leased_acked_once_and_come_back_when_the_lease_ends() {
    let house = House::with([pull_subscription("g")]);
    house.publish([event("1"), event("2")]).await;
    let first = house.pull("g").await;
    assert_eq!((ids(&first), first[0].attempt), (vec!["1", "2"], 1));
    assert_eq!(ids(&house.pull("g").await), NOTHING, "they are out");
    house.ack("g", &first[..1]).await;
    tokio::time::advance(Duration::from_secs(40)).await;
    let again = house.pull("g").await;
    assert_eq!((ids(&again), again[0].attempt), (vec!["2"], 2));
    let stale = house.events.ack(&ns(), &name("orders"), &name("g"), tokens(&first)).await.unwrap();
    assert_eq!((stale.done, &stale.stale), (0, &tokens(&first)));
    let error = stale.all().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::StaleToken, "CW-1704"));
    house.ack("g", &again).await;
    assert_eq!(house.status("g").await.lag, 0);
}

#[tokio::test(start_paused = true)]
async fn a_pull_waits_for_an_event_and_a_dropped_pull_loses_none() {
    let house = House::with([pull_subscription("g")]);
    house.status("g").await;
    let (pulled, _) = tokio::join!(house.pull("g"), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        house.publish([event("1")]).await
    });
    assert_eq!(ids(&pulled), ["1"]);
    let settled = house
        .events
        .nack(&ns(), &name("orders"), &name("g"), tokens(&pulled), Some(Duration::from_secs(3)))
        .await;
    assert_eq!(settled.unwrap().done, 1);
    // A puller that goes away while it waits.
    assert!(tokio::time::timeout(Duration::from_secs(1), house.pull("g")).await.is_err());
    let again = house.pull("g").await;
    assert_eq!((ids(&again), again[0].attempt), (vec!["1"], 2));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_extended_and_a_nack_spends_an_attempt() {
    let house = House::with([pull_subscription("g")]);
    house.publish([event("1")]).await;
    let leased = house.pull("g").await;
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(25)).await;
        let settled =
            house.events.extend(&ns(), &name("orders"), &name("g"), tokens(&leased), None).await.unwrap();
        assert_eq!(settled.done, 1);
    }
    for attempt in 0..2 {
        let leased = if attempt == 0 { leased.clone() } else { house.pull("g").await };
        house.events.nack(&ns(), &name("orders"), &name("g"), tokens(&leased), None).await.unwrap();
    }
    assert_eq!(house.dead("g").await, [(0, DeadReason::Attempts)]);
}

#[tokio::test(start_paused = true)]
async fn acks_survive_a_crash_once_written_and_leases_do_not() {
    let house = House::with([pull_subscription("g")]);
    house.publish((0..6).map(|n| event(&n.to_string()))).await;
    let leased = house.pull("g").await;
    house.ack("g", &[leased[1].clone(), leased[4].clone()]).await;
    house.let_it_write().await;
    house.ack("g", &leased[5..]).await;
    let house = house.crash().await;
    let status = house.status("g").await;
    assert_eq!(
        (status.cursor, status.lag),
        (Offset::new(0), 4),
        "the last ack was not written: it is repeated"
    );
    let again = house.pull("g").await;
    assert_eq!(ids(&again), ["0", "2", "3", "5"]);
    let stale = house.events.ack(&ns(), &name("orders"), &name("g"), tokens(&leased[..1])).await.unwrap();
    assert_eq!(stale.stale.len(), 1, "a token from before the crash is stale");
    house.ack("g", &again).await;
    let house = house.restart().await;
    assert_eq!(house.status("g").await.lag, 0, "an orderly stop writes everything");
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_flushes_are_recovered_through_checkpoints() {
    let mut house = House::with([pull_subscription("g")]);
    for round in 0..1500 {
        house.publish([event(&round.to_string())]).await;
        let leased = house.pull("g").await;
        if round != 700 {
            house.ack("g", &leased).await;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    house = house.crash().await;
    let status = house.status("g").await;
    assert_eq!((status.cursor.get(), status.lag, status.dead_letters), (700, 1, 0), "all but one");
    assert_eq!(ids(&house.pull("g").await), ["700"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_hears_what_is_published_after_it_was_declared_and_can_seek_back() {
    let house = House::with([]);
    house.publish([event("old")]).await;
    house.declare(pull_subscription("g"));
    house.publish([event("new")]).await;
    let first = house.pull("g").await;
    assert_eq!(ids(&first), ["new"]);
    let seek = async |house: &House, to| house.events.seek(&ns(), &name("orders"), &name("g"), to).await;
    seek(&house, From::Earliest).await.unwrap();
    let house = house.crash().await;
    let again = house.pull("g").await;
    assert_eq!(ids(&again), ["old", "new"], "a seek is durable when it is answered");
    seek(&house, From::Latest).await.unwrap();
    assert_eq!((house.status("g").await.lag, house.status("g").await.in_flight), (0, 0));
    let error = seek(&house, From::Offset(Offset::new(9))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPosition);
}

#[tokio::test(start_paused = true)]
async fn keys_are_in_order_while_others_flow_and_a_delay_holds() {
    let house = House::with([pull_subscription("g")]);
    let due = Timestamp::from(house.clock.now()).plus(Duration::from_secs(60)).to_rfc3339();
    house
        .publish([
            keyed("a1", "a"),
            keyed("a2", "a"),
            keyed("b1", "b"),
            event("late").with_extension("deliverat", &due),
        ])
        .await;
    let first = house.pull("g").await;
    assert_eq!(ids(&first), ["a1", "b1"]);
    house.ack("g", &first).await;
    let second = house.pull("g").await;
    assert_eq!(ids(&second), ["a2"]);
    house.ack("g", &second).await;
    assert_eq!(ids(&house.pull("g").await), NOTHING);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(ids(&house.pull("g").await), ["late"]);
}

#[tokio::test(start_paused = true)]
async fn a_filter_leaves_out_what_it_does_not_match_or_fails_on() {
    let filter = Some("event.type == 'order.placed' && data.amount > 10".to_owned());
    let house = House::with([Subscription { filter, ..pull_subscription("big") }]);
    house
        .publish([
            event("1").with_json(&json!({"amount": 5})),
            event("2").with_json(&json!({"amount": 50})),
            event("3"),
            CloudEvent::new("4", "/shop", "order.lost").with_json(&json!({"amount": 50})),
        ])
        .await;
    let leased = house.pull("big").await;
    assert_eq!(ids(&leased), ["2"]);
    house.ack("big", &leased).await;
    let status = house.status("big").await;
    assert_eq!((status.lag, status.filter_errors), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_cannot_be_compiled_holds_events_until_it_is_mended() {
    let house =
        House::with([Subscription { filter: Some("event.type ==".into()), ..pull_subscription("g") }]);
    house.publish([event("1")]).await;
    house
        .until("g", |status| matches!(&status.state, State::Broken { why } if why.contains("CW-1706")))
        .await;
    let pull = Pull { max: 1, wait: Duration::ZERO };
    let error = house.events.pull(&ns(), &name("orders"), &name("g"), pull).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidFilter);
    house.declare(pull_subscription("g"));
    assert_eq!(ids(&house.pull("g").await), ["1"], "nothing was lost");
}

// === push ===

#[tokio::test(start_paused = true)]
async fn pushes_carry_the_event_and_are_bounded() {
    let house = House::with([Subscription { max_in_flight: 3, ..push_subscription("mail") }]);
    *house.receiver.takes.lock() = Duration::from_millis(50);
    let traced = event("0").with_json(&json!({"a": 1})).with_extension("traceparent", "00-1-2-01");
    house.publish([traced]).await;
    house.publish((1..20).map(|n| event(&n.to_string()))).await;
    house.until("mail", |status| status.lag == 0).await;
    let seen = house.receiver.seen.lock();
    assert_eq!((seen.len(), house.receiver.at_once_max.load(SeqCst)), (20, 3));
    let first = seen.iter().find(|r| r.headers()["ce-id"] == "0").unwrap();
    assert_eq!((first.method(), first.uri().path()), (&http::Method::POST, "/events"));
    assert_eq!(first.headers()["traceparent"], "00-1-2-01");
    assert_eq!(first.headers()["content-type"], "application/json");
    assert_eq!(first.body(), "{\"a\":1}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_push_is_retried_then_dead_and_can_be_redriven() {
    let house = House::with([push_subscription("mail")]);
    house.receiver.answers(&[(500, None)]);
    house.publish([event("1"), event("2")]).await;
    house.until("mail", |status| status.dead_letters == 2).await;
    assert_eq!(house.receiver.ids().len(), 4, "two attempts each");
    assert_eq!(house.status("mail").await.lag, 0);
    house.let_it_write().await;
    let house = house.crash().await;
    assert_eq!(house.dead("mail").await.len(), 2);

    let redrive = async |house: &House, filter: Option<&str>, is_dry_run| {
        let redrive = Redrive { filter: filter.map(str::to_owned), rate: Some(10), is_dry_run };
        house.events.redrive(&ns(), &name("orders"), &name("mail"), redrive).await
    };
    let only_two = redrive(&house, Some("event.id == '2'"), true).await.unwrap();
    assert_eq!(only_two.offsets, [Offset::new(1)]);
    assert_eq!(house.dead("mail").await.len(), 2, "a dry run does nothing");
    assert_eq!(redrive(&house, Some("event."), false).await.unwrap_err().kind(), ErrorKind::InvalidFilter);
    house.receiver.answers(&[(204, None)]);
    assert_eq!(redrive(&house, None, false).await.unwrap().offsets.len(), 2);
    house.until("mail", |status| status.dead_letters == 0).await;
    let house = house.restart().await;
    assert_eq!(house.dead("mail").await, []);
}

#[tokio::test(start_paused = true)]
async fn a_redrive_goes_on_after_a_crash() {
    let house = House::with([push_subscription("mail")]);
    house.receiver.answers(&[(422, None)]);
    house.publish((0..5).map(|n| event(&n.to_string()))).await;
    house.until("mail", |status| status.dead_letters == 5).await;
    house.receiver.answers(&[(204, None)]);
    let redrive = Redrive { rate: Some(1), ..Redrive::default() };
    house.events.redrive(&ns(), &name("orders"), &name("mail"), redrive).await.unwrap();
    house.until("mail", |status| status.dead_letters < 5).await;
    let house = house.crash().await;
    house.until("mail", |status| status.dead_letters == 0).await;
    assert_eq!(house.status("mail").await.lag, 0);
}

#[tokio::test(start_paused = true)]
async fn sequenced_dead_letters_keep_the_order_of_their_key() {
    let house =
        House::with([Subscription { dead_letter: DeadLetterMode::Sequenced, ..push_subscription("mail") }]);
    house.receiver.answers(&[(422, None), (204, None)]);
    house.publish([keyed("a1", "a")]).await;
    house.until("mail", |status| status.dead_letters == 1).await;
    house.publish([keyed("a2", "a"), keyed("b1", "b"), keyed("a3", "a")]).await;
    house.until("mail", |status| status.lag == 0).await;
    assert_eq!(house.receiver.ids(), ["a1", "b1"]);
    assert_eq!(house.status("mail").await.parked_keys, 1);
    house.let_it_write().await;
    let house = house.crash().await;
    let letters = house.dead("mail").await;
    assert_eq!(letters, [(0, DeadReason::Refused), (1, DeadReason::Behind), (3, DeadReason::Behind)]);
    house.events.redrive(&ns(), &name("orders"), &name("mail"), Redrive::default()).await.unwrap();
    house.publish([keyed("a4", "a")]).await;
    house.until("mail", |status| status.dead_letters == 0 && status.lag == 0).await;
    assert_eq!(house.receiver.ids(), ["a1", "b1", "a1", "a2", "a3", "a4"]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_and_is_no_attempt() {
    let house = House::with([push_subscription("mail")]);
    house.receiver.answers(&[(429, Some("60")), (503, Some("60")), (429, Some("60")), (204, None)]);
    let began = house.clock.instant();
    house.publish([event("1")]).await;
    house.until("mail", |status| status.lag == 0).await;
    assert!(began.elapsed() >= Duration::from_secs(180), "{:?}", began.elapsed());
    assert_eq!((house.receiver.ids().len(), house.dead("mail").await.len()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn gone_stops_the_subscription_until_its_document_changes() {
    let house = House::with([push_subscription("mail")]);
    house.receiver.answers(&[(410, None), (204, None)]);
    house.publish([event("1"), event("2")]).await;
    house.until("mail", |status| status.state == State::Stopped && status.in_flight == 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let seen = house.receiver.ids().len();
    let house = house.crash().await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(house.receiver.ids().len(), seen, "also after a restart");
    house.declare(Subscription { max_in_flight: 5, ..push_subscription("mail") });
    house.until("mail", |status| status.lag == 0).await;
    assert_eq!(house.status("mail").await.state, State::Active);
}

// === documents come and go ===

#[tokio::test(start_paused = true)]
async fn a_deleted_subscription_is_forgotten_and_a_deleted_topic_keeps_its_events() {
    let house = House::with([push_subscription("mail"), pull_subscription("g")]);
    house.receiver.answers(&[(422, None)]);
    house.publish([event("1")]).await;
    house.until("mail", |status| status.dead_letters == 1).await;
    house.delete(Kind::Subscription, "orders.mail");
    let error = house.events.lag(&ns(), &name("orders"), &name("mail")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SubscriptionNotFound);
    house.declare(push_subscription("mail"));
    assert_eq!((house.dead("mail").await.len(), house.status("mail").await.lag), (0, 0), "it begins anew");

    house.delete(Kind::Topic, "orders");
    let error = house.events.publish(&ns(), &name("orders"), vec![event("2")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TopicNotFound);
    house.declare_topic(Topic::default());
    assert_eq!(house.publish([event("2")]).await.offsets, [Offset::new(1)]);
    assert_eq!(ids(&house.pull("g").await), ["1", "2"], "a group whose topic was away goes on where it was");
}

#[tokio::test(start_paused = true)]
async fn an_empty_picture_at_the_start_drops_nothing() {
    let house = House::with([pull_subscription("g")]);
    house.publish([event("1")]).await;
    let known = house.picture.borrow().clone();
    house.picture.send_replace(Arc::new(Snapshot::default()));
    house.faults.crash();
    let house = house.reopen().await;
    assert!(house.events.topics().await.unwrap().is_empty());
    house.picture.send_replace(known);
    assert_eq!(ids(&house.pull("g").await), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn the_console_sees_topics_and_their_groups() {
    let house = House::with([pull_subscription("a"), push_subscription("b")]);
    house.publish([event("1"), event("2")]).await;
    house.pull("a").await;
    house.until("b", |status| status.lag == 0).await;
    let topics = house.events.topics().await.unwrap();
    let [orders] = &topics[..] else { panic!("{topics:?}") };
    assert_eq!((orders.name.as_str(), orders.next, orders.records), ("orders", Offset::new(2), 2));
    let groups: Vec<_> =
        orders.subscriptions.iter().map(|s| (s.group.as_str(), s.status.lag, s.status.in_flight)).collect();
    assert_eq!(groups, [("a", 2, 2), ("b", 0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn sagas_publish_through_the_ground_floor() {
    let house = House::with([]);
    let publish: Arc<dyn Publish> = Arc::new(house.events.clone());
    let body = Bytes::from_static(
        br#"{"specversion":"1.0","id":"s/1","source":"/saga","type":"t","data":{"id":"7"}}"#,
    );
    publish.publish("default", "orders", body.clone()).await.unwrap();
    publish.publish("default", "orders", body).await.unwrap();
    let page = house.events.read(&ns(), &name("orders"), From::Earliest, 10).await.unwrap();
    assert_eq!(page.events.len(), 1, "the second call adds nothing");
    assert!(publish.publish("default", "orders", Bytes::from_static(b"{}")).await.is_err());
    assert!(publish.publish("default", "nowhere", Bytes::new()).await.is_err());
}

#[test]
fn places_and_tokens_are_read_as_they_are_written() {
    assert_eq!("latest".parse(), Ok(From::Latest));
    assert_eq!("17".parse(), Ok(From::Offset(Offset::new(17))));
    assert!(matches!("2026-11-20T10:00:00Z".parse(), Ok(From::Time(_))));
    assert!("soon".parse::<From>().is_err());
    for wrong in ["", "lse1_", "lse1_1", "lse1_+1_2", "lse2_1_2", "lse1_g_1"] {
        assert!(wrong.parse::<Token>().is_err(), "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_pullers_share_a_long_backlog() {
    let house = House::with([Subscription { max_in_flight: 5000, ..pull_subscription("g") }]);
    house.publish((0..2000).map(|n| event(&n.to_string()))).await;
    let pulls = (0..20).map(|_| house.pull("g"));
    let began = house.clock.instant();
    let pulled = futures_util::future::join_all(pulls).await;
    assert_eq!(pulled.iter().map(Vec::len).sum::<usize>(), 2000);
    assert!(began.elapsed() < Duration::from_secs(1), "nobody waited for nothing: {:?}", began.elapsed());
}
