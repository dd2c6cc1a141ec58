//! Measures the store on this machine's disk, beside what the disk itself can do.
//!
//! `cargo run --release -p causeway-store --example bench [-- DIRECTORY [SECONDS]]`
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_store::{Batch, Limit, Options, Position, Store, StreamName};

const RECORD: usize = 1024;
const REOPEN_RECORDS: u64 = 1_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(4);
    let dir = root.join(format!("causeway-store-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("directory {}, {RECORD} bytes a record, {seconds} s each", dir.display());
    let alone = disk_alone(&dir, seconds);
    println!("disk alone: append + fdatasync       {alone:>10.0} /s");
    let one = runtime.block_on(producers(&dir.join("one"), 1, 1, seconds));
    println!("1 producer                           {}   {:.2} of the disk", one.show(), one.rate / alone);
    for (producers_count, streams) in [(64, 1), (256, 1), (256, 256), (1024, 1)] {
        let name = format!("p{producers_count}s{streams}");
        let run = runtime.block_on(producers(&dir.join(name), producers_count, streams, seconds));
        println!("{producers_count:>4} producers, {streams:>3} streams          {}", run.show());
    }
    runtime.block_on(replay_and_reopen(&dir.join("replay")));
    std::fs::remove_dir_all(&dir).unwrap();
}

fn disk_alone(dir: &Path, seconds: u64) -> f64 {
    let mut file = std::fs::File::create(dir.join("alone")).unwrap();
    let (began, mut count) = (Instant::now(), 0u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        file.write_all(&[7; RECORD]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    count as f64 / began.elapsed().as_secs_f64()
}

struct Run {
    rate: f64,
    p50: Duration,
    p99: Duration,
    group: f64,
}

impl Run {
    fn show(&self) -> String {
        let Run { rate, p50, p99, group } = self;
        format!("{rate:>10.0} /s   p50 {p50:>9.2?}   p99 {p99:>9.2?}   {group:>6.1} records a commit")
    }
}

async fn producers(dir: &Path, count: usize, streams: usize, seconds: u64) -> Run {
    let (store, _) = Store::open(dir, Options::default()).unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|at| {
            let (store, stop, done) = (store.clone(), stop.clone(), done.clone());
            let stream = StreamName::new(&format!("topic/default/t{}", at % streams)).unwrap();
            let bytes = Bytes::from(vec![at as u8; RECORD]);
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    store.append(Batch::new().append(&stream, bytes.clone())).await.unwrap();
                    took.push(asked.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                took
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took.sort_unstable();
    let group = store.metrics().records.get() as f64 / store.metrics().commits.get() as f64;
    store.close().await;
    std::fs::remove_dir_all(dir).unwrap();
    Run { rate, p50: took[took.len() / 2], p99: took[took.len() * 99 / 100], group }
}

async fn replay_and_reopen(dir: &Path) {
    let (store, _) = Store::open(dir, Options::default()).unwrap();
    let stream = StreamName::new("topic/default/replay").unwrap();
    let bytes = Bytes::from(vec![1; RECORD]);
    let mut written = 0;
    while written < REOPEN_RECORDS {
        let batch = (0..1000).fold(Batch::new(), |batch, _| batch.append(&stream, bytes.clone()));
        store.append(batch).await.unwrap();
        written += 1000;
    }
    let (began, mut at) = (Instant::now(), Position::START);
    while let [.., last] = &store.read(&stream, at, Limit::records(1000)).unwrap()[..] {
        at = last.position.next();
    }
    println!(
        "replay                               {:>10.0} /s",
        at.get() as f64 / began.elapsed().as_secs_f64()
    );
    let (began, reads) = (Instant::now(), 100_000u64);
    for i in 0..reads {
        let at = Position::new(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % written);
        store.read(&stream, at, Limit::records(1)).unwrap();
    }
    println!(
        "one record anywhere                  {:>10.0} /s",
        reads as f64 / began.elapsed().as_secs_f64()
    );
    store.close().await;
    for what in ["reopen (warm)", "reopen (warm)"] {
        let (store, recovery) = Store::open(dir, Options::default()).unwrap();
        println!("{what}, {} records          {:>10.2?}", recovery.records, recovery.took);
        store.close().await;
    }
}
