//! One suite for every engine: what a store promises at its handle. Each engine is a [`Subject`]; each promise a function.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::time::Duration;

use bytes::Bytes;
use causeway_base::Seed;
use causeway_store::{
    Batch, Error, Faults, Kind, Limit, Options, Position, Recovery, Store, StreamName, limits,
};
use tempfile::TempDir;

/// An engine and where it keeps its bytes.
trait Subject {
    fn faults(&self) -> &Faults;
    fn open(&self) -> (Store, Recovery);
}

struct Memory(Faults);

impl Subject for Memory {
    fn faults(&self) -> &Faults {
        &self.0
    }
    fn open(&self) -> (Store, Recovery) {
        Store::reopen_memory(self.0.clone())
    }
}

struct Disk(TempDir, Options);

impl Subject for Disk {
    fn faults(&self) -> &Faults {
        &self.1.faults
    }
    fn open(&self) -> (Store, Recovery) {
        Store::open(self.0.path(), self.1.clone()).unwrap()
    }
}

fn disk(segment_bytes: u64) -> Disk {
    let options = Options { segment_bytes, ..Options::default() };
    Disk(tempfile::tempdir().unwrap(), options)
}

/// Runs each promise against each engine; small segments make the disk engine change files all the time.
macro_rules! conform {
    ($($promise:ident),* $(,)?) => {
        mod memory { $(#[tokio::test] async fn $promise() { super::$promise(&super::Memory(Default::default())).await })* }
        mod disk { $(#[tokio::test] async fn $promise() { super::$promise(&super::disk(64 << 20)).await })* }
        mod disk_of_small_segments { $(#[tokio::test] async fn $promise() { super::$promise(&super::disk(4 << 10)).await })* }
    };
}

conform! {
    positions_follow_on_and_read_back,
    a_batch_of_many_streams_is_one,
    expected_positions_are_checked,
    of_many_rivals_one_wins_each_place,
    limits_of_reading_hold,
    bounds_are_refused,
    reopening_finds_everything,
    a_full_disk_refuses_and_recovers,
    a_failed_sync_is_the_end,
    closing_ends_everything,
    followers_see_the_newest_length,
    streams_are_listed_by_prefix,
    random_work_matches_a_model,
}

fn name(text: &str) -> StreamName {
    StreamName::new(text).unwrap()
}

fn one(stream: &StreamName, bytes: impl Into<Bytes>) -> Batch {
    Batch::new().append(stream, bytes.into())
}

fn all(store: &Store, stream: &StreamName) -> Vec<Bytes> {
    let mut found = Vec::new();
    loop {
        let records = store.read(stream, Position::new(found.len() as u64), Limit::records(100)).unwrap();
        if records.is_empty() {
            return found;
        }
        for record in records {
            assert_eq!(record.position.get(), found.len() as u64);
            found.push(record.bytes);
        }
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind
}

async fn positions_follow_on_and_read_back(subject: &impl Subject) {
    let (store, recovery) = subject.open();
    assert_eq!((recovery.records, recovery.streams, recovery.torn_bytes), (0, 0, 0));
    let a = name("a");
    assert_eq!(store.next(&a), Position::START);
    assert!(store.read(&a, Position::START, Limit::default()).unwrap().is_empty());
    for i in 0..50u64 {
        let done = store.append(one(&a, format!("record {i}"))).await.unwrap();
        assert_eq!(done.first(&a), Some(Position::new(i)));
        assert_eq!(store.next(&a), Position::new(i + 1));
    }
    assert_eq!(all(&store, &a), (0..50).map(|i| Bytes::from(format!("record {i}"))).collect::<Vec<_>>());
    assert!(store.read(&a, Position::new(50), Limit::default()).unwrap().is_empty());
    assert!(store.read(&a, Position::new(u64::MAX), Limit::default()).unwrap().is_empty());
    store.close().await;
}

async fn a_batch_of_many_streams_is_one(subject: &impl Subject) {
    let (store, _) = subject.open();
    let (a, b) = (name("saga/1"), name("topic/x"));
    store.append(one(&b, "before")).await.unwrap();
    let batch = one(&a, "a0").append(&b, "b1".into()).append(&a, "a1".into()).append(&b, Bytes::new());
    let done = store.append(batch).await.unwrap();
    assert_eq!((done.first(&a), done.first(&b)), (Some(Position::new(0)), Some(Position::new(1))));
    assert_eq!(done.first(&name("c")), None);
    assert_eq!(all(&store, &a), ["a0", "a1"]);
    assert_eq!(all(&store, &b), ["before", "b1", ""]);
    assert_eq!(store.append(Batch::new()).await.unwrap().iter().count(), 0);
    store.close().await;
}

async fn expected_positions_are_checked(subject: &impl Subject) {
    let (store, _) = subject.open();
    let (a, b) = (name("a"), name("b"));
    store.append(one(&a, "0").expect(&a, Position::START).expect(&b, Position::START)).await.unwrap();
    let late = store.append(one(&b, "x").append(&a, "x".into()).expect(&a, Position::START)).await;
    assert_eq!(kind(late), Kind::Conflict { stream: a.clone(), actual: Position::new(1) });
    let early = store.append(one(&b, "x").expect(&b, Position::new(3))).await;
    assert_eq!(kind(early), Kind::Conflict { stream: b.clone(), actual: Position::START });
    assert_eq!((store.next(&a), store.next(&b)), (Position::new(1), Position::START));
    // Only a question: holds, and writes nothing.
    store.append(Batch::new().expect(&a, Position::new(1))).await.unwrap();
    assert!(store.append(Batch::new().expect(&a, Position::new(2))).await.is_err());
    assert_eq!(store.metrics().conflicts.get(), 3);
    store.close().await;
}

async fn of_many_rivals_one_wins_each_place(subject: &impl Subject) {
    let (store, _) = subject.open();
    let a = name("a");
    let mut rivals = tokio::task::JoinSet::new();
    for rival in 0..16 {
        let (store, a) = (store.clone(), a.clone());
        rivals.spawn(async move {
            let (mut at, mut won) = (Position::START, 0);
            while won < 5 {
                match store.append(one(&a, format!("{rival}/{won}")).expect(&a, at)).await {
                    Ok(done) => {
                        assert_eq!(done.first(&a), Some(at));
                        won += 1;
                        at = at.next();
                    }
                    Err(Error { kind: Kind::Conflict { actual, .. }, .. }) => at = actual,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    rivals.join_all().await;
    let mut found = all(&store, &a);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 80);
    store.close().await;
}

async fn limits_of_reading_hold(subject: &impl Subject) {
    let (store, _) = subject.open();
    let a = name("a");
    for _ in 0..10 {
        store.append(one(&a, vec![0; 1000])).await.unwrap();
    }
    let count =
        |from, records, bytes| store.read(&a, Position::new(from), Limit { records, bytes }).unwrap().len();
    assert_eq!(count(0, 3, 1 << 20), 3);
    assert_eq!(count(0, 100, 3500), 3);
    assert_eq!(count(0, 100, 1), 1, "one record is always returned");
    assert_eq!(count(8, 100, 1 << 20), 2);
    assert_eq!(count(0, 0, 1 << 20), 0);
    store.close().await;
}

async fn bounds_are_refused(subject: &impl Subject) {
    let (store, _) = subject.open();
    let a = name("a");
    let large = Bytes::from(vec![7; limits::RECORD_BYTES_MAX]);
    let too_large = Bytes::from(vec![7; limits::RECORD_BYTES_MAX + 1]);
    assert_eq!(kind(store.append(one(&a, too_large)).await), Kind::TooLarge);
    assert_eq!(kind(store.append(one(&a, large.clone()).append(&a, large.clone())).await), Kind::TooLarge);
    let many = (0..=limits::BATCH_RECORDS_MAX).fold(Batch::new(), |batch, _| batch.append(&a, Bytes::new()));
    assert_eq!(kind(store.append(many).await), Kind::TooLarge);
    assert_eq!(store.next(&a), Position::START);
    store.append(one(&a, large.clone())).await.unwrap();
    store.append(one(&a, "small")).await.unwrap();
    assert_eq!(all(&store, &a), [large, "small".into()]);
    store.close().await;
}

async fn reopening_finds_everything(subject: &impl Subject) {
    let streams: Vec<StreamName> = (0..7).map(|i| name(&format!("s/{i}"))).collect();
    let mut written = 0u64;
    for round in 0..4u64 {
        let (store, recovery) = subject.open();
        assert_eq!((recovery.records, recovery.torn_bytes), (written, 0));
        for i in 0..20 {
            let batch =
                one(&streams[i % 7], format!("{round} {i}")).append(&streams[i % 3], vec![1; 300].into());
            store.append(batch).await.unwrap();
            written += 2;
        }
        let total: u64 = streams.iter().map(|s| store.next(s).get()).sum();
        assert_eq!(total, written);
        streams.iter().for_each(|s| assert_eq!(all(&store, s).len() as u64, store.next(s).get()));
        store.close().await;
    }
    assert_eq!(subject.open().1.streams, 7);
}

async fn a_full_disk_refuses_and_recovers(subject: &impl Subject) {
    let (store, _) = subject.open();
    let (a, b) = (name("a"), name("b"));
    store.append(one(&a, "kept")).await.unwrap();
    for cut in [0, 1, 20, 36, 60, 500] {
        subject.faults().full_after(cut);
        assert_eq!(kind(store.append(one(&a, vec![9; 900]).append(&b, "b".into())).await), Kind::Full);
        assert_eq!((store.next(&a), store.next(&b)), (Position::new(1), Position::START));
    }
    subject.faults().full(true);
    for _ in 0..3 {
        let refused = store.append(one(&a, vec![9; 900])).await.unwrap_err();
        assert!(refused.is_transient());
        assert_eq!(all(&store, &a), ["kept"], "reading goes on");
    }
    subject.faults().full(false);
    subject.faults().fail_append(2);
    store.append(one(&b, "b0")).await.unwrap();
    assert_eq!(kind(store.append(one(&b, "lost")).await), Kind::Full);
    for i in 1..20 {
        let done = store.append(one(&a, format!("after {i}")).append(&b, vec![0; 700].into())).await.unwrap();
        assert_eq!((done.first(&a), done.first(&b)), (Some(Position::new(i)), Some(Position::new(i))));
    }
    store.close().await;
    let (store, recovery) = subject.open();
    assert_eq!((recovery.records, recovery.torn_bytes), (40, 0));
    assert_eq!((all(&store, &a).len(), all(&store, &b).len()), (20, 20));
    store.close().await;
}

async fn a_failed_sync_is_the_end(subject: &impl Subject) {
    let (store, _) = subject.open();
    let a = name("a");
    store.append(one(&a, "kept")).await.unwrap();
    let mut follower = store.follow(&a);
    subject.faults().fail_sync(1);
    assert_eq!(kind(store.append(one(&a, "unknown")).await), Kind::Failed);
    assert_eq!(store.failed().await.kind, Kind::Failed);
    assert_eq!(kind(store.append(one(&a, "refused")).await), Kind::Failed);
    assert_eq!(kind(store.read(&a, Position::START, Limit::default())), Kind::Failed);
    assert!(tokio::time::timeout(Duration::from_secs(10), follower.changed()).await.unwrap().is_err());
    store.close().await;
    let (store, _) = subject.open();
    assert_eq!(all(&store, &a)[0], "kept");
    store.append(one(&a, "again")).await.unwrap();
    store.close().await;
}

async fn closing_ends_everything(subject: &impl Subject) {
    let (store, _) = subject.open();
    let a = name("a");
    let (other, mut follower) = (store.clone(), store.follow(&a));
    store.append(one(&a, "0")).await.unwrap();
    assert_eq!(*follower.borrow_and_update(), Position::new(1));
    store.close().await;
    store.close().await;
    assert_eq!(kind(other.append(one(&a, "1")).await), Kind::Closed);
    assert_eq!(kind(other.read(&a, Position::START, Limit::default())), Kind::Closed);
    assert!(follower.changed().await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(20), other.failed()).await.is_err());
    // A store that is only dropped gives the place free as well.
    let (store, _) = subject.open();
    store.append(one(&a, "1")).await.unwrap();
    drop(store);
    let (store, recovery) = subject.open();
    assert_eq!(recovery.records, 2);
    store.close().await;
}

async fn followers_see_the_newest_length(subject: &impl Subject) {
    let (store, _) = subject.open();
    let (a, b) = (name("a"), name("b"));
    let mut early = store.follow(&a);
    assert_eq!(*early.borrow(), Position::START);
    let writer = tokio::spawn({
        let (store, a, b) = (store.clone(), a.clone(), b.clone());
        async move {
            for _ in 0..30 {
                store.append(one(&a, "x")).await.unwrap();
                store.append(one(&b, "x")).await.unwrap();
            }
        }
    });
    let mut seen = Position::START;
    while seen < Position::new(30) {
        tokio::time::timeout(Duration::from_secs(30), early.changed()).await.unwrap().unwrap();
        let now = *early.borrow_and_update();
        assert!(now > seen && store.next(&a) >= now);
        assert!(!store.read(&a, seen, Limit::records(1)).unwrap().is_empty());
        seen = now;
    }
    writer.await.unwrap();
    assert_eq!(*store.follow(&b).borrow(), Position::new(30));
    store.close().await;
}

async fn streams_are_listed_by_prefix(subject: &impl Subject) {
    let (store, _) = subject.open();
    for stream in ["topic/b", "registry", "topic/a", "topics", "saga/1"] {
        store.append(one(&name(stream), "x")).await.unwrap();
    }
    let _only_followed = store.follow(&name("topic/zzz"));
    let listed = |prefix| store.streams(prefix).iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(listed("topic/"), ["topic/a", "topic/b"]);
    assert_eq!(listed(""), ["registry", "saga/1", "topic/a", "topic/b", "topics"]);
    assert!(listed("x").is_empty());
    store.close().await;
}

/// Random batches, expectations, full disks and restarts; a map of vectors says what must be there.
async fn random_work_matches_a_model(subject: &impl Subject) {
    for number in 0..6 {
        let seed = Seed::from_number(number);
        let streams: Vec<StreamName> = (0..9).map(|i| name(&format!("seed{number}/{i}"))).collect();
        let mut model = vec![Vec::<Bytes>::new(); streams.len()];
        let (mut store, _) = subject.open();
        for step in 0..120 {
            let mut drafted = model.clone();
            let mut batch = Batch::new();
            let is_wrong = seed.chance(0.1);
            if is_wrong || seed.chance(0.5) {
                let at = seed.below(streams.len());
                batch =
                    batch.expect(&streams[at], Position::new(model[at].len() as u64 + u64::from(is_wrong)));
            }
            for _ in 0..1 + seed.below(5) {
                let at = seed.below(streams.len());
                let bytes =
                    Bytes::from(vec![step as u8; seed.below(if seed.chance(0.05) { 40_000 } else { 300 })]);
                drafted[at].push(bytes.clone());
                batch = batch.append(&streams[at], bytes);
            }
            let is_full = seed.chance(0.1);
            if is_full {
                subject.faults().full_after(seed.below(600));
            }
            let result = store.append(batch).await;
            if is_full {
                // A conflict is found before the write, or the write was refused: nothing is there in either case.
                assert!(result.is_err(), "seed {number} step {step}");
                subject.faults().clear();
            } else if is_wrong {
                assert!(matches!(kind(result), Kind::Conflict { .. }), "seed {number} step {step}");
            } else {
                result.unwrap_or_else(|e| panic!("seed {number} step {step}: {e}"));
                model = drafted;
            }
            if seed.chance(0.05) {
                store.close().await;
                store = subject.open().0;
            }
            let at = seed.below(streams.len());
            let from = seed.below(model[at].len() + 1);
            let read =
                store.read(&streams[at], Position::new(from as u64), Limit::records(1 + seed.below(20)));
            for (i, record) in read.unwrap().into_iter().enumerate() {
                assert_eq!(record.bytes, model[at][from + i], "seed {number} step {step}");
            }
        }
        for (stream, expected) in streams.iter().zip(&model) {
            assert_eq!(&all(&store, stream), expected, "seed {number}");
        }
        store.close().await;
    }
}

// --- what only one engine can show ---

#[tokio::test]
async fn a_second_store_on_one_directory_is_refused_with_the_pid() {
    let subject = disk(64 << 20);
    let (store, _) = subject.open();
    let refused = Store::open(subject.0.path(), Options::default()).unwrap_err();
    assert_eq!(refused.kind, Kind::Locked);
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    store.close().await;
    subject.open().0.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_simulated_crash_keeps_what_was_synced_and_whole_batches_of_what_was_torn() {
    for (kept, expected) in [(0, 0), (100, 0), (150, 2), (300, 4), (100_000, 10)] {
        let faults = Faults::none();
        let (store, a) = (Store::memory(faults.clone()), name("a"));
        store.append(one(&a, "synced")).await.unwrap();
        faults.slow_sync(Duration::from_secs(1));
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let (store, a) = (store.clone(), a.clone());
                tokio::spawn(
                    async move { store.append(one(&a, "waiting").append(&name("b"), "b".into())).await },
                )
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(store.next(&a), Position::new(1), "nothing is shown before its sync");
        let survived = faults.crash_torn(kept);
        for task in waiting {
            assert_eq!(kind(task.await.unwrap()), Kind::Closed);
        }
        faults.slow_sync(Duration::ZERO);
        let (store, recovery) = Store::reopen_memory(faults.clone());
        assert_eq!(survived, expected);
        assert_eq!(recovery.records, 1 + survived);
        assert_eq!(store.next(&a).get(), 1 + store.next(&name("b")).get(), "batches are whole or absent");
        store.append(one(&a, "after")).await.unwrap();
    }
}

#[tokio::test]
async fn many_producers_share_commits() {
    let subject = disk(64 << 20);
    let (store, _) = subject.open();
    subject.faults().slow_sync(Duration::from_millis(5));
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..100 {
        let store = store.clone();
        producers.spawn(async move {
            for _ in 0..5 {
                store.append(one(&name(&format!("p/{producer}")), "x")).await.unwrap();
            }
        });
    }
    producers.join_all().await;
    let metrics = store.metrics();
    assert_eq!((metrics.records.get(), metrics.batches.get()), (500, 500));
    // About 10 of them on an idle machine; the bound leaves room for one that stalls.
    assert!(metrics.commits.get() <= 250, "{} commits for 500 appends", metrics.commits.get());
    store.close().await;
}

#[tokio::test]
async fn the_log_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/b");
    let (store, _) = Store::open(&dir, Options::default()).unwrap();
    store.append(one(&name("a"), "secret")).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    store.close().await;
}
