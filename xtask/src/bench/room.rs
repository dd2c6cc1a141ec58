//! `bench store`, `saga`, `registry`: the rooms' own measurements on one disk, and what the disk itself can do.
//!
//! In:    a directory.      Out: the disk's figures before and after, the room's in between.
//! Owner: `cargo xtask bench`.
//! Invariant: a durable figure is never shown without the disk's fdatasync beside it.
//! Not here: what the rooms measure (`crates/*/examples`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::flags::Flags;
use super::stats::percentile;
use super::tools;

/// What is written before each fdatasync: a usual event.
const RECORD: [u8; 1024] = [7; 1024];
/// For how long the disk is asked.
const DISK_TIME: Duration = Duration::from_secs(2);
/// A room's bench that takes longer than this many seconds hangs.
const ROOM_SECONDS_MAX: &str = "600";

/// The store: producers, replay, reopening.
pub fn store(flags: &mut Flags) -> Result<()> {
    let seconds = flags.number("seconds", 4u32)?.to_string();
    room(flags, "causeway-store", "bench", &[&seconds])
}

/// Saga transitions, in memory and durable.
pub fn saga(flags: &mut Flags) -> Result<()> {
    room(flags, "causeway-saga", "transitions", &[])
}

/// Registrations and heartbeats, durable.
pub fn registry(flags: &mut Flags) -> Result<()> {
    room(flags, "causeway-registry", "registrations", &[])
}

fn room(flags: &mut Flags, package: &str, example: &str, more: &[&str]) -> Result<()> {
    let (dir, is_ours) = match flags.take("dir") {
        Some(dir) => (PathBuf::from(dir), false),
        None => (tools::working_dir(example)?, true),
    };
    flags.finish()?;
    let program = tools::build(&["-p", package, "--example", example])?;
    println!("{}; {}", tools::machine(), dir.display());
    disk("before", &dir)?;
    let status = Command::new("timeout")
        .args(["-k", "5", ROOM_SECONDS_MAX])
        .arg(&program)
        .arg(&dir)
        .args(more)
        .status()
        .with_context(|| format!("running {}", program.display()))?;
    ensure!(status.success(), "{}: {status}", program.display());
    disk("after", &dir)?;
    if is_ours {
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

/// Appends and syncs, one after the other: the most that one writer without grouping can do.
fn disk(when: &str, dir: &Path) -> Result<()> {
    let path = dir.join("fdatasync");
    let mut file = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < DISK_TIME {
        let asked = Instant::now();
        file.write_all(&RECORD)?;
        file.sync_data()?;
        times.push(asked.elapsed());
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    println!("the disk {when:<6}: 1 KiB append + fdatasync {rate:.0}/s   p50 {p50:.2?}   p99 {p99:.2?}");
    Ok(std::fs::remove_file(&path)?)
}
