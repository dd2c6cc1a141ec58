//! How fast the registry is: registrations through the handle (durable), heartbeats, replay.
//!
//! `cargo run --release -p causeway-registry --example registrations [-- DIR]`: the store is in memory, or a log in DIR.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::time::Duration;

use causeway_base::scope::Failure;
use causeway_base::telemetry::Metrics;
use causeway_base::{Clock, OnFailure, Scope};
use causeway_model::{InstanceId, InstanceKey, Lease, Origin, ServiceKey};
use causeway_registry::{Command, Options, Registration, Registry};
use causeway_store::{Faults, Store};

const INSTANCES: usize = 100_000;
const SERVICES: usize = 1_000;
const CALLERS: usize = 256;

fn key(n: usize) -> InstanceKey {
    let service = ServiceKey::parse("default", &format!("service-{}", n % SERVICES)).unwrap();
    InstanceKey { service, id: InstanceId::new(&format!("instance-{n}")).unwrap() }
}

fn register(n: usize) -> Command {
    let origin = Origin::Api { caller: "bench".into() };
    let plain = Registration::new(key(n), "10.0.0.5", 8080, origin);
    let metadata = [("team".to_owned(), "shop".to_owned())].into();
    Command::Register(Registration { lease: Lease::Ttl(Duration::from_secs(60)), metadata, ..plain })
}

/// CPU time of this process, all threads: what others do on the machine does not change it much.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10) // USER_HZ is 100 on every Linux we run on
}

/// `CALLERS` tasks say one thing after the other; each waits for its answer. Prints rate and latencies.
async fn measure(what: &str, registry: &Registry, clock: &Clock, say: fn(usize) -> Command) {
    let scope = Scope::root("bench");
    let (times, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let (began, cpu_before) = (clock.instant(), cpu());
    for caller in 0..CALLERS {
        let (registry, clock, times) = (registry.clone(), clock.clone(), times.clone());
        scope.spawn("caller", OnFailure::StopNode, async move {
            let mut mine = Vec::with_capacity(INSTANCES / CALLERS + 1);
            for n in (caller..INSTANCES).step_by(CALLERS) {
                let sent = clock.instant();
                registry.submit(say(n)).await?;
                mine.push(sent.elapsed());
            }
            times.send(mine)?;
            Ok::<(), Failure>(())
        });
    }
    drop(times);
    let mut all = Vec::with_capacity(INSTANCES);
    while let Some(mine) = taken.recv().await {
        all.extend(mine);
    }
    let took = began.elapsed();
    all.sort_unstable();
    let rate = all.len() as f64 / took.as_secs_f64();
    let micros = (cpu() - cpu_before).as_micros() as f64 / all.len() as f64;
    let (p50, p99) = (all[all.len() / 2], all[all.len() * 99 / 100]);
    println!(
        "{what:<20} {rate:>8.0}/s   p50 {p50:?}   p99 {p99:?}   CPU {micros:.1} us each, callers included"
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = std::env::args().nth(1).map(PathBuf::from);
    let faults = Faults::none();
    let open_store = || match &dir {
        Some(dir) => Store::open(dir, causeway_store::Options::default()).unwrap().0,
        None => Store::memory(faults.clone()),
    };
    let (clock, scope, store) = (Clock::system(), Scope::root("r"), open_store());
    let open = |store: Store, scope: &Scope| {
        Registry::open(store, clock.clone(), Options::default(), &Metrics::default(), scope).unwrap()
    };
    let registry = open(store.clone(), &scope);
    measure("registrations", &registry, &clock, register).await;
    measure("the same again", &registry, &clock, register).await;
    let beat = |n| Command::Heartbeat { key: key(n), epoch: None, health: None };
    measure("heartbeats", &registry, &clock, beat).await;
    scope.shutdown(Duration::from_secs(10)).await;
    store.close().await;
    let store = open_store();
    let (began, cpu_before, again) = (clock.instant(), cpu(), Scope::root("again"));
    let registry = open(store, &again);
    let snapshot = registry.snapshot();
    let (took, cpu) = (began.elapsed(), cpu() - cpu_before);
    println!("{:<20} {} instances in {took:?}, CPU {cpu:?}", "replay", snapshot.instance_count());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or(" not known here");
    println!("{:<24}{}", "resident (both)", resident.trim_start());
}
