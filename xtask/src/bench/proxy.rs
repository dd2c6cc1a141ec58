//! `bench proxy`: CPU per request of the data path, side by side.
//!
//! In:    subjects, workloads.      Out: a table for each workload: CPU us/request and the ratios to HAProxy and Envoy.
//! Owner: `cargo xtask bench proxy`.
//! Invariant: within a round every subject has its turn; ratios are taken round by round, so that the machine's drift cancels out.
//! Not here: who is measured (`subject`), with what (`load`).

use anyhow::{Context, Result, bail};

use super::flags::Flags;
use super::load::{self, Load};
use super::stats::{Spread, cell, paired_ratio, table};
use super::subject::{self, Protocol, Running, Subject, Upstream};
use super::tools;

/// Seconds of load before the first round, so that pools and caches are filled.
const WARM_UP_SECONDS: u32 = 1;

/// One kind of load.
struct Workload {
    name: &'static str,
    title: &'static str,
    protocol: Protocol,
    path: &'static str,
    connections: u32,
    streams: u32,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "h1",
        title: "HTTP/1.1 keep-alive, 64 connections, 100 B",
        protocol: Protocol::H1,
        path: "/100",
        connections: 64,
        streams: 1,
    },
    Workload {
        name: "h1-10k",
        title: "HTTP/1.1 keep-alive, 64 connections, 10 kB",
        protocol: Protocol::H1,
        path: "/10k",
        connections: 64,
        streams: 1,
    },
    Workload {
        name: "h2",
        title: "HTTP/2 to HTTP/2, 8 connections x 32 streams, 100 B",
        protocol: Protocol::H2,
        path: "/100",
        connections: 8,
        streams: 32,
    },
];

/// What one subject did in each round; `None` where it failed.
struct Row {
    label: String,
    name: &'static str,
    cpu: Vec<Option<f64>>,
    rate: Vec<f64>,
}

/// Runs it.
pub fn run(flags: &mut Flags) -> Result<()> {
    let (rounds, seconds) = (flags.number("rounds", 5u32)?, flags.number("seconds", 5u32)?);
    let wanted = flags.among("only", &WORKLOADS.map(|workload| workload.name))?;
    let subjects = subject::find(flags)?;
    flags.finish()?;
    let dir = tools::working_dir("proxy")?;
    let upstream = Upstream::start(&dir)?;
    println!("{}; proxy (one worker) and upstream on CPU 0, load on CPU 1", tools::machine());
    let mut failures = 0;
    for workload in WORKLOADS.iter().filter(|workload| wanted.contains(&workload.name)) {
        println!("\n{}: {rounds} rounds x {seconds} s", workload.title);
        let (rows, failed) = measure(workload, &subjects, &upstream, &dir, rounds, seconds);
        failures += failed;
        print!("{}", show(&rows));
    }
    drop(upstream);
    if failures > 0 {
        bail!("{failures} measurements failed; the logs are in {}", dir.display());
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

fn measure(
    workload: &Workload,
    subjects: &[Subject],
    upstream: &Upstream,
    dir: &std::path::Path,
    rounds: u32,
    seconds: u32,
) -> (Vec<Row>, u32) {
    let (mut rows, mut running, mut failures) = (Vec::new(), Vec::new(), 0);
    for subject in subjects {
        if let Some(why) = subject.cannot(workload.protocol) {
            println!("  {} is left out: {why}", subject.name);
            continue;
        }
        let started = subject.start(dir, workload.protocol, upstream);
        let warmed = started.and_then(|running| once(workload, &running, WARM_UP_SECONDS).map(|_| running));
        match warmed {
            Ok(started) => {
                rows.push(Row { label: subject.label(), name: subject.name, cpu: vec![], rate: vec![] });
                running.push(started);
            }
            Err(error) => {
                println!("!! {} IS LEFT OUT: {error:#}", subject.label());
                failures += 1;
            }
        }
    }
    for _ in 0..rounds {
        for (row, running) in rows.iter_mut().zip(&running) {
            match once(workload, running, seconds) {
                Ok((cpu, load)) => {
                    row.cpu.push(Some(cpu));
                    row.rate.push(load.rate);
                }
                Err(error) => {
                    println!("!! a round of {} FAILED: {error:#}", row.label);
                    row.cpu.push(None);
                    failures += 1;
                }
            }
        }
    }
    (rows, failures)
}

/// One turn of one subject: CPU microseconds per request.
fn once(workload: &Workload, running: &Running, seconds: u32) -> Result<(f64, Load)> {
    let before = running.child.cpu();
    let load = match workload.protocol {
        Protocol::H1 => load::wrk(running.port, workload.path, workload.connections, seconds)?,
        Protocol::H2 => {
            load::h2load(running.port, workload.path, workload.connections, workload.streams, seconds)?
        }
    };
    let used = running.child.cpu().saturating_sub(before);
    if load.requests == 0 || used.is_zero() {
        bail!("nothing was measured: {} requests, {used:?} of CPU time", load.requests);
    }
    Ok((used.as_secs_f64() * 1e6 / load.requests as f64, load))
}

fn show(rows: &[Row]) -> String {
    let of = |name: &str| rows.iter().find(|row| row.name == name);
    let ratio = |row: &Row, to: &str| of(to).and_then(|other| paired_ratio(&row.cpu, &other.cpu));
    let lines = rows.iter().map(|row| {
        let cpu = Spread::of(&row.cpu.iter().flatten().copied().collect::<Vec<_>>());
        let rate = Spread::of(&row.rate);
        vec![
            row.label.clone(),
            cell(cpu.map(|cpu| cpu.median), 2),
            cell(cpu.map(|cpu| cpu.min), 2),
            cell(cpu.map(|cpu| cpu.max), 2),
            cell(rate.map(|rate| rate.median), 0),
            cell(ratio(row, "haproxy"), 2),
            cell(ratio(row, "envoy"), 2),
        ]
    });
    let head = ["subject", "CPU us/request", "min", "max", "requests/s", "x HAProxy", "x Envoy"];
    table(&head, &lines.collect::<Vec<_>>())
}
