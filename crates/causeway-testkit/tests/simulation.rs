//! The deterministic simulation: a control plane and three nodes of the data path in one process, under paused time.
//!
//! In:    `CAUSEWAY_SIM_SEED=n` replays one seed, `CAUSEWAY_SIM_SEEDS=n` sets how many are run.      Out: the failing seed, and its trace.
//! Owner: CI, and `cargo xtask sim`.
//! Invariant: a seed gives the same events, answers and times whenever it is run with `cargo xtask sim`, which seeds tokio's own
//! generator too. As a plain `cargo test` it draws the same events, but tasks that one change wakes may run in another order.
//! Not here: disks (`causeway-store` crashes real ones), real sockets and real clients (`tests/`).
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(unexpected_cfgs, reason = "tokio's own switch, see `runtime`")]

#[path = "simulation/control.rs"]
mod control;
#[path = "simulation/load.rs"]
mod load;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/schedule.rs"]
mod schedule;
#[path = "simulation/watch.rs"]
mod watch;
#[path = "simulation/world.rs"]
mod world;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use causeway_base::{Scope, Seed};

use crate::load::Counts;
use crate::world::{NODES, World};

/// Seeds that CI runs.
const SEEDS: u64 = 50;
/// Lines of the trace that are shown of a seed that fails; all of it is shown of one that is replayed.
const TRACE_SHOWN: usize = 60;

/// What a seed led to.
struct Run {
    trace: Vec<String>,
    problems: Vec<String>,
    good: u64,
    refused: u64,
    excused: u64,
}

thread_local! {
    /// Panics of this thread's tasks: a task's end is not the run's.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A runtime without a driver for sockets: the network in memory is all there is.
fn runtime(number: u64) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // The order in which the receivers of a `watch` are woken is random, by the runtime's own generator; only an unstable part of
    // tokio lets it be seeded. Without it a replay may take another turn where two tasks are woken at one instant.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&number.to_le_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = number;
    builder.build().unwrap()
}

/// Runs one seed on a runtime of its own.
fn run(number: u64) -> Run {
    PANICS.take();
    let runtime = runtime(number);
    let mut run = runtime.block_on(simulate(number));
    drop(runtime);
    run.problems.extend(PANICS.take());
    run
}

async fn simulate(number: u64) -> Run {
    let seed = Seed::from_number(number);
    let world = World::start(&seed).await;
    let (scope, counts) = (Scope::root("simulation"), Arc::new(Counts::default()));
    watch::start(&world, &scope);
    watch::calm(&world).await;
    for index in 0..NODES {
        load::start(&world, index, &counts, seed.fork(), &scope);
    }
    schedule::run(&world, &seed.fork()).await;
    watch::calm(&world).await;
    // Calm is not silence: calls go on, and now nothing excuses a failure.
    let excused = counts.excused.load(Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    if counts.excused.load(Relaxed) > excused + NODES as u64 {
        world.problem("requests fail though everything is mended".into());
    }
    if !scope.shutdown(Duration::from_secs(30)).await {
        world.problem(format!("tasks do not end: {:?}", scope.census()));
    }
    Run {
        trace: world.trace(),
        problems: world.problems(),
        good: counts.good.load(Relaxed),
        refused: counts.refused.load(Relaxed),
        excused: counts.excused.load(Relaxed),
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Keeps each panic of a simulated task, which its scope only logs.
fn keep_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.with_borrow_mut(|panics| panics.push(format!("a task panicked: {panic}")));
        before(panic);
    }));
}

#[test]
fn the_house_survives_what_the_seeds_do_to_it() {
    keep_panics();
    if let Some(number) = number("CAUSEWAY_SIM_SEED") {
        let run = run(number);
        run.trace.iter().for_each(|line| println!("{line}"));
        show(number, &run, 0);
        assert!(run.problems.is_empty(), "seed {number}: {:#?}", run.problems);
        return;
    }
    let seeds = self::number("CAUSEWAY_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed) = (AtomicU64::new(1), parking_lot::Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|threads| {
        for _ in 0..workers {
            threads.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number > seeds {
                        return;
                    }
                    let run = run(number);
                    show(number, &run, TRACE_SHOWN);
                    if !run.problems.is_empty() {
                        failed.lock().push(number);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "seeds {failed:?} failed; replay one: cargo xtask sim --seed {}", failed[0]);
}

fn show(number: u64, run: &Run, lines: usize) {
    let Run { trace, problems, good, refused, excused } = run;
    println!("seed {number}: {good} answered, {refused} refused, {excused} excused, {} events", trace.len());
    if problems.is_empty() {
        return;
    }
    let first = trace.iter().position(|line| line.contains("WRONG")).unwrap_or(trace.len());
    for line in &trace[first.saturating_sub(lines)..(first + 1).min(trace.len())] {
        println!("    {line}");
    }
    problems.iter().for_each(|problem| println!("  seed {number}: {problem}"));
    println!("  replay it: cargo xtask sim --seed {number}");
}

/// Everything is compared, to the microsecond: which request reached which app when, what it was answered, every event.
#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "this build cannot seed tokio's generator; `cargo xtask sim` runs it"
)]
fn a_seed_gives_the_same_trace_again() {
    let numbers = number("CAUSEWAY_SIM_TWICE").map_or(vec![7, 8], |to| (1..=to).collect());
    for number in numbers {
        let (first, second) = (run(number), run(number));
        let differs = first.trace.iter().zip(&second.trace).position(|(first, second)| first != second);
        if let Some(at) = differs {
            let from = at.saturating_sub(8);
            panic!(
                "seed {number}: {:#?}\ninstead of {:#?}",
                &second.trace[from..at + 1],
                &first.trace[from..at + 1]
            );
        }
        assert_eq!(first.trace.len(), second.trace.len(), "seed {number}");
    }
}
