//! Kills a process that appends under load, with `kill -9`, and looks at what it left: everything acknowledged is there,
//! without gaps, each record as it was sent, each batch whole.
//!
//! `CAUSEWAY_STORE_SEED=17 cargo test -p causeway-store --test crash` runs one seed; `CAUSEWAY_STORE_SEEDS=1000` many.
//! The child is this test's own program, told by an environment variable to be one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use causeway_base::Seed;
use causeway_store::{Batch, Limit, Options, Position, Store, StreamName};

const CHILD: &str = "CAUSEWAY_STORE_CRASH_CHILD";
/// Each seed starts one process twice; about 20 ms each.
const SEEDS: u64 = 60;
const PRODUCERS: usize = 24;
const STREAMS: usize = 5;

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("CAUSEWAY_STORE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("CAUSEWAY_STORE_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

fn options(seed: &Seed) -> Options {
    Options { segment_bytes: [8 << 10, 64 << 10, 1 << 20][seed.below(3)], ..Options::default() }
}

fn stream(at: usize) -> StreamName {
    StreamName::new(&format!("crash/{at}")).unwrap()
}

/// A record that says where it must be: its stream, its position, its batch's partner, and filler that follows from them.
fn content(stream: usize, producer: usize, count: u64, partner: usize, size: usize) -> Bytes {
    let mut bytes = format!("{stream} {producer} {count} {partner} ").into_bytes();
    let seed = Seed::from_number(((stream as u64) << 48) ^ ((producer as u64) << 32) ^ count);
    bytes.resize_with(bytes.len() + size, || seed.u64() as u8);
    bytes.into()
}

/// Appends until it is killed; prints each acknowledgement as `stream position stream position`.
#[test]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (dir, number) = told.split_once('#').unwrap();
    let seed = Seed::from_number(number.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let (store, _) =
            Store::open(Path::new(dir), options(&Seed::from_number(number.parse().unwrap()))).unwrap();
        println!("ready");
        let mut producers = tokio::task::JoinSet::new();
        for producer in 0..PRODUCERS {
            let (store, seed) = (store.clone(), seed.fork());
            producers.spawn(async move {
                for count in 0.. {
                    let (a, size) = (seed.below(STREAMS), seed.below(700));
                    let b = (a + 1 + seed.below(STREAMS - 1)) % STREAMS;
                    let batch = Batch::new()
                        .append(&stream(a), content(a, producer, count, b, size))
                        .append(&stream(b), content(b, producer, count, a, size));
                    let done = store.append(batch).await.unwrap();
                    let at = |s: usize| done.first(&stream(s)).unwrap();
                    // One write of one line: a pipe takes it whole or, when we are killed, not at all.
                    let line = format!("{a} {} {b} {}\n", at(a), at(b));
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        producers.join_all().await;
    });
}

/// Starts a child on `dir`, kills it after `acks` acknowledgements, returns all that it acknowledged.
fn run_and_kill(dir: &Path, seed: u64, acks: usize) -> Vec<(usize, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{}#{seed}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let mut is_killed = false;
    // The harness prints a line or two of its own before ours.
    while let Some(Ok(line)) = lines.next() {
        let numbers: Vec<u64> = line.split(' ').map_while(|word| word.parse().ok()).collect();
        if let [a, at, b, bt] = numbers[..] {
            acknowledged.extend([(a as usize, at), (b as usize, bt)]);
        }
        if acknowledged.len() >= 2 * acks && !is_killed {
            child.kill().unwrap();
            is_killed = true; // What is in the pipe was acknowledged all the same: read on.
        }
    }
    assert!(is_killed, "seed {seed}: the child ended by itself");
    child.wait().unwrap();
    acknowledged
}

fn read_all(store: &Store, name: &StreamName) -> Vec<Bytes> {
    let mut found = Vec::new();
    loop {
        let records = store.read(name, Position::new(found.len() as u64), Limit::records(500)).unwrap();
        if records.is_empty() {
            return found;
        }
        for record in records {
            assert_eq!(record.position.get(), found.len() as u64, "a gap in {name}");
            found.push(record.bytes);
        }
    }
}

/// Checks every record and every batch; returns the streams' lengths.
fn check(seed: u64, store: &Store) -> Vec<u64> {
    let mut halves: HashMap<(usize, u64), Vec<(usize, usize)>> = HashMap::new();
    let mut lengths = Vec::new();
    for at in 0..STREAMS {
        let records = read_all(store, &stream(at));
        lengths.push(records.len() as u64);
        for bytes in records {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            let words: Vec<&str> = text.splitn(5, ' ').collect();
            let number = |i: usize| words[i].parse::<u64>().unwrap_or_else(|_| panic!("seed {seed}: {text}"));
            let (producer, count, partner) = (number(1) as usize, number(2), number(3) as usize);
            let head = words[..4].iter().map(|word| word.len() + 1).sum::<usize>();
            assert_eq!(number(0) as usize, at, "seed {seed}: a record of another stream");
            assert_eq!(
                bytes,
                content(at, producer, count, partner, bytes.len() - head),
                "seed {seed}: other bytes"
            );
            halves.entry((producer, count)).or_default().push((at, partner));
        }
    }
    lengths
        .iter()
        .enumerate()
        .for_each(|(at, length)| assert_eq!(store.next(&stream(at)).get(), *length, "seed {seed}"));
    for (batch, found) in halves {
        // Both runs of a seed number their batches alike, so there may be two of each name.
        for (at, partner) in &found {
            assert!(
                found.contains(&(*partner, *at)),
                "seed {seed}: half of batch {batch:?} is missing: {found:?}"
            );
        }
    }
    lengths
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let mut lost_tails = 0;
    for number in seeds() {
        let seed = Seed::from_number(number ^ 0xC4A5);
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = Vec::new();
        for round in 0..2 {
            acknowledged.extend(run_and_kill(dir.path(), number * 2 + round, 1 + seed.below(400)));
            let (store, recovery) = Store::open(dir.path(), options(&Seed::from_number(number))).unwrap();
            lost_tails += u64::from(recovery.torn_bytes > 0);
            let lengths = check(number, &store);
            for (at, position) in &acknowledged {
                assert!(
                    *position < lengths[*at],
                    "seed {number}: lost {position} of {at}, acknowledged; {recovery:?}"
                );
            }
            let mut unique = acknowledged.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(
                unique.len(),
                acknowledged.len(),
                "seed {number}: one position was acknowledged twice"
            );
            drop(store);
        }
    }
    println!("torn tails cut: {lost_tails}");
}
