//! Cuts and flips a written log everywhere: damage before a durable end is an error that names the place, a torn tail is
//! cut off and reported, and wrong bytes are never returned.
//!
//! `CAUSEWAY_STORE_SEED=17 cargo test -p causeway-store --test damage` replays one seed of the random part.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use causeway_base::Seed;
use causeway_store::{Batch, Kind, Limit, Options, Position, Store, StreamName};
use tempfile::TempDir;

const SEEDS: u64 = 120;
/// The segment's header and a commit's own item; see the framing in the crate's `frame.rs`.
const HEADER: usize = 64;
const COMMIT: usize = 36;

fn options() -> Options {
    Options { segment_bytes: 16 << 10, ..Options::default() }
}

/// Thousands of logs are written here and no power fails: in memory where there is such a place, for the tests' speed.
fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn stream(at: usize) -> StreamName {
    StreamName::new(&format!("s{at}")).unwrap()
}

/// A log as it is written, with what it held after each commit.
struct Written {
    dir: TempDir,
    /// The last segment's bytes.
    last: PathBuf,
    bytes: Vec<u8>,
    /// For each commit of the last segment: where it ends in the file, and how long each stream was then.
    ends: Vec<(usize, [usize; 3])>,
    model: [Vec<Bytes>; 3],
}

/// Writes `commits` batches; copies the last file before the store is closed.
async fn write(seed: &Seed, commits: usize) -> Written {
    let dir = temporary();
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    let mut model: [Vec<Bytes>; 3] = Default::default();
    let mut lengths = vec![[0; 3]];
    for _ in 0..commits {
        let mut batch = Batch::new();
        for _ in 0..1 + seed.below(3) {
            let at = seed.below(3);
            let bytes = Bytes::from((0..seed.below(90)).map(|_| seed.u64() as u8).collect::<Vec<_>>());
            model[at].push(bytes.clone());
            batch = batch.append(&stream(at), bytes);
        }
        store.append(batch).await.unwrap();
        lengths.push([0, 1, 2].map(|i| model[i].len()));
    }
    let last = newest_segment(dir.path());
    let bytes = std::fs::read(&last).unwrap();
    store.close().await;
    std::fs::write(&last, &bytes).unwrap();
    let ends = ends_of(&bytes, &lengths);
    Written { dir, last, bytes, ends, model }
}

/// Walks over the commits of a segment. Each append was one commit; one without items marks the end after a quiet moment
/// (a slow machine has such moments in between) and changes no length.
fn ends_of(bytes: &[u8], lengths: &[[usize; 3]]) -> Vec<(usize, [usize; 3])> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut commits = Vec::new();
    let mut at = HEADER;
    while at < bytes.len() {
        let has_records = number(at + 24) > 0;
        at += COMMIT + number(at + 20);
        commits.push((at, has_records));
    }
    let mut index = lengths.len() - 1 - commits.iter().filter(|(_, has_records)| *has_records).count();
    let mut ends = vec![(HEADER, lengths[index])];
    for (end, has_records) in commits {
        index += usize::from(has_records);
        ends.push((end, lengths[index]));
    }
    ends
}

fn newest_segment(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap()
}

impl Written {
    /// Opens the log with `bytes` as its last segment and checks that exactly the commits that end by `end` are there.
    async fn holds_until(&self, bytes: &[u8], end: usize, what: &str) {
        std::fs::write(&self.last, bytes).unwrap();
        let (store, recovery) =
            Store::open(self.dir.path(), options()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let (at, lengths) = self.ends.iter().rev().find(|(at, _)| *at <= end).unwrap();
        assert_eq!(recovery.torn_bytes as usize, bytes.len() - at, "{what}");
        for (i, length) in lengths.iter().enumerate() {
            let records =
                store.read(&stream(i), Position::START, Limit { records: 10_000, bytes: 1 << 24 }).unwrap();
            let found: Vec<&Bytes> = records.iter().map(|record| &record.bytes).collect();
            assert_eq!(found, self.model[i][..*length].iter().collect::<Vec<_>>(), "{what}");
        }
        // It goes on, and what was cut off never comes back.
        store.append(Batch::new().append(&stream(0), "after".into())).await.unwrap();
        store.close().await;
        let (store, recovery) = Store::open(self.dir.path(), options()).unwrap();
        assert_eq!(
            (store.next(&stream(0)).get() as usize, recovery.torn_bytes),
            (lengths[0] + 1, 0),
            "{what}"
        );
        store.close().await;
        for path in std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|e| e == "log") && path > self.last {
                std::fs::remove_file(path).unwrap(); // Appending made a segment; the next case starts from the old one.
            }
        }
    }

    /// Opens the log with `bytes` as its last segment: it must be refused, name the file, and be left as it is.
    fn is_refused(&self, bytes: &[u8], what: &str) {
        std::fs::write(&self.last, bytes).unwrap();
        let error = Store::open(self.dir.path(), options()).map(|(_, r)| r).expect_err(what);
        assert_eq!(error.kind, Kind::Corrupt, "{what}: {error}");
        assert!(error.to_string().contains(self.last.to_str().unwrap()), "{what}: {error}");
        assert_eq!(std::fs::read(&self.last).unwrap(), bytes, "{what}: touched");
    }
}

#[tokio::test]
async fn a_log_cut_at_any_byte_of_its_last_commits_keeps_the_whole_ones() {
    let written = write(&Seed::from_number(1), 12).await;
    let from = written.ends[written.ends.len().saturating_sub(4)].0;
    for cut in from..=written.bytes.len() {
        written.holds_until(&written.bytes[..cut], cut, &format!("cut at {cut}")).await;
    }
    // Inside the header nothing can be told any more: the name was given to a whole file only.
    for cut in [0, 1, HEADER - 1] {
        written.is_refused(&written.bytes[..cut], &format!("cut at {cut}"));
    }
    written.holds_until(&written.bytes[..HEADER], HEADER, "cut behind the header").await;
}

#[tokio::test]
async fn a_tail_of_zeros_or_noise_is_cut() {
    let written = write(&Seed::from_number(2), 6).await;
    let seed = Seed::from_number(3);
    for len in [1, COMMIT - 1, COMMIT, 5000] {
        for is_noise in [false, true] {
            let mut bytes = written.bytes.clone();
            bytes.extend((0..len).map(|_| if is_noise { seed.u64() as u8 } else { 0 }));
            written.holds_until(&bytes, written.bytes.len(), &format!("{len} bytes, noise {is_noise}")).await;
        }
    }
}

#[tokio::test]
async fn every_flipped_bit_is_found() {
    let written = write(&Seed::from_number(4), 5).await;
    let last_commit = written.ends[written.ends.len() - 2].0;
    for at in 0..written.bytes.len() {
        let mut bytes = written.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let what = format!("byte {at}");
        match at {
            // The format's number is checked first: a flip there may look like a newer version.
            8..12 => {
                std::fs::write(&written.last, &bytes).unwrap();
                assert!(Store::open(written.dir.path(), options()).is_err(), "{what}");
            }
            _ if at < last_commit => written.is_refused(&bytes, &what),
            _ => written.holds_until(&bytes, last_commit, &what).await,
        }
    }
}

/// The end of a log that was closed, or quiet for a moment, is marked: damage to its last records is told from a torn tail.
#[tokio::test]
async fn the_end_of_a_quiet_log_is_marked_as_durable() {
    for is_closed in [true, false] {
        let dir = temporary();
        let (store, _) = Store::open(dir.path(), options()).unwrap();
        store.append(Batch::new().append(&stream(0), "first".into())).await.unwrap();
        store.append(Batch::new().append(&stream(0), "last".into())).await.unwrap();
        let path = newest_segment(dir.path());
        if is_closed {
            store.close().await;
        }
        let is_marked = |bytes: &[u8]| {
            let ends = ends_of(bytes, &[[0; 3], [1, 0, 0], [2, 0, 0]]);
            ends[ends.len() - 1].1 == ends[ends.len() - 2].1
        };
        let quiet = async {
            while !is_marked(&std::fs::read(&path).unwrap()) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), quiet).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        store.close().await;
        for at in HEADER..bytes.len() - COMMIT {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let error = Store::open(dir.path(), options()).map(|(_, recovery)| recovery).unwrap_err();
            assert_eq!(error.kind, Kind::Corrupt, "byte {at}, closed {is_closed}");
        }
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Store::open(dir.path(), options()).unwrap().1.records, 2);
    }
}

/// Random logs over several segments, random damage: one flip or one cut, anywhere.
#[tokio::test]
async fn random_damage_never_gives_wrong_data() {
    let one = std::env::var("CAUSEWAY_STORE_SEED").ok().and_then(|text| text.parse().ok());
    for number in one.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let seed = Seed::from_number(number ^ 0xDA3A);
        let written = write(&seed, 2 + seed.below(200)).await;
        let what = format!("CAUSEWAY_STORE_SEED={number}");
        let mut bytes = written.bytes.clone();
        let last_commit = written.ends[written.ends.len() - 2].0;
        match seed.below(3) {
            0 => {
                let cut = HEADER + seed.below(bytes.len() - HEADER + 1);
                written.holds_until(&bytes[..cut], cut, &what).await;
            }
            1 => {
                let at = HEADER + seed.below(bytes.len() - HEADER);
                bytes[at] ^= 1 << seed.below(8);
                match at < last_commit {
                    true => written.is_refused(&bytes, &what),
                    false => written.holds_until(&bytes, last_commit, &what).await,
                }
            }
            _ => {
                // Damage to an older segment, or to the only one after it was closed: all of it was durable.
                let (store, _) = Store::open(written.dir.path(), options()).unwrap();
                store.append(Batch::new().append(&stream(0), "more".into())).await.unwrap();
                store.close().await;
                let files = std::fs::read_dir(written.dir.path()).unwrap().map(|entry| entry.unwrap().path());
                let mut files: Vec<PathBuf> =
                    files.filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
                files.sort();
                let file = &files[seed.below(files.len())];
                let mut bytes = std::fs::read(file).unwrap();
                let is_last = Some(file) == files.last();
                // The last thing in the log is the mark of its end, itself after all that is durable.
                let at = HEADER + seed.below(bytes.len() - HEADER - if is_last { COMMIT } else { 0 });
                bytes[at] ^= 1 << seed.below(8);
                std::fs::write(file, &bytes).unwrap();
                let error = Store::open(written.dir.path(), options()).map(|(_, r)| r).expect_err(&what);
                assert_eq!(error.kind, Kind::Corrupt, "{what}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn damage_while_the_store_is_open_is_an_error_of_the_read() {
    let dir = temporary();
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    for i in 0..10 {
        store.append(Batch::new().append(&stream(0), format!("record {i}").into())).await.unwrap();
    }
    let path = newest_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"record 6").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let read = |from, records| store.read(&stream(0), Position::new(from), Limit::records(records));
    assert_eq!(read(0, 6).unwrap().len(), 6);
    assert_eq!(read(0, 10).unwrap_err().kind, Kind::Corrupt);
    let error = read(6, 1).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(&read(7, 1).unwrap()[0].bytes[..], b"record 7");
}

#[tokio::test]
async fn a_missing_or_foreign_segment_is_refused() {
    let seed = Seed::from_number(5);
    let (a, b) = (write(&seed, 700).await, write(&seed, 700).await);
    let segment = |written: &Written, number: u64| written.dir.path().join(format!("{number:020}.log"));
    assert!(segment(&a, 2).exists(), "the test wants three segments");
    let kept = std::fs::read(segment(&a, 1)).unwrap();
    let open = || Store::open(a.dir.path(), options()).map(|(_, recovery)| recovery);
    std::fs::remove_file(segment(&a, 1)).unwrap();
    assert_eq!(open().unwrap_err().kind, Kind::Corrupt);
    std::fs::copy(segment(&b, 1), segment(&a, 1)).unwrap();
    assert_eq!(open().unwrap_err().kind, Kind::Corrupt);
    std::fs::write(segment(&a, 1), &kept[..kept.len() - 1]).unwrap();
    assert_eq!(open().unwrap_err().kind, Kind::Corrupt);
    std::fs::write(segment(&a, 1), &kept).unwrap();
    std::fs::write(a.dir.path().join("segment.new"), "half a header").unwrap();
    let records: usize = a.model.iter().map(Vec::len).sum();
    assert_eq!(open().unwrap().records as usize, records);
}

/// A message may hold what looks like a commit of this very place; without the log's key it is none.
#[tokio::test]
async fn bytes_that_imitate_a_commit_do_not_turn_a_torn_tail_into_damage() {
    let (ours, theirs) = (write(&Seed::from_number(6), 1).await, write(&Seed::from_number(6), 1).await);
    // The same work in another log gives the same bytes but for the key and the checksums.
    assert_eq!(ours.bytes.len(), theirs.bytes.len());
    assert_ne!(ours.bytes[HEADER..], theirs.bytes[HEADER..]);
    let mut bytes = ours.bytes.clone();
    bytes.truncate(HEADER + 10);
    bytes.resize(HEADER + 64, 0);
    bytes.extend_from_slice(&theirs.bytes[HEADER..]);
    ours.holds_until(&bytes, HEADER, "imitation").await;
}
