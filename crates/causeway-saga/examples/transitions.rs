//! Measures durable saga transitions per second at the handle, on a store in memory and on disk.
//!
//! `cargo run --release -p causeway-saga --example transitions [-- DIRECTORY]`
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::outbound::{Call, CallError, Pending, Publish, PublishError};
use causeway_base::telemetry::Metrics;
use causeway_base::{Clock, OnFailure, Outbound, Scope, Seed};
use causeway_model::{Action, Name, RetryPolicy, SagaDefinition, ServiceCall, ServiceKey, Stage, Step};
use causeway_saga::{Doors, Options, Sagas, Start, Status};
use causeway_store::{Faults, Store};

/// Steps of each saga: each is one durable transition, and the start is one more.
const STEPS: usize = 10;

/// Answers at once: what is measured is the engine.
struct Instant;

impl Outbound for Instant {
    fn call(&self, _: Call) -> Pending<Result<http::Response<Bytes>, CallError>> {
        Box::pin(async { Ok(http::Response::new(Bytes::from_static(b"{\"id\":\"r-1\"}"))) })
    }
}

impl Publish for Instant {
    fn publish(&self, _: &str, _: &str, _: Bytes) -> Pending<Result<(), PublishError>> {
        Box::pin(async { Ok(()) })
    }
}

fn definition(has_expressions: bool) -> Arc<SagaDefinition> {
    let step = |n: usize| {
        let call = |path: &str| ServiceCall {
            service: ServiceKey::parse("default", "svc").unwrap(),
            method: "POST".into(),
            path: path.into(),
            headers: BTreeMap::new(),
            body: Some(if has_expressions { r#"{"id": "${input.id}"}"# } else { r#"{"id": 7}"# }.into()),
        };
        let stage = Step {
            name: Name::new(&format!("step-{n}")).unwrap(),
            action: Action::Call(call("/do")),
            compensate: Some(call("/undo")),
            retry: RetryPolicy::default(),
            timeout: Duration::from_secs(5),
            is_pivot: false,
        };
        Stage { steps: vec![stage] }
    };
    Arc::new(SagaDefinition {
        namespace: Name::default_namespace(),
        name: Name::new("bench").unwrap(),
        timeout: Some(Duration::from_secs(600)),
        stages: (0..STEPS).map(step).collect(),
    })
}

async fn open(store: Store) -> (Sagas, Scope) {
    let scope = Scope::root("bench");
    let doors = Doors { outbound: Arc::new(Instant), publish: Arc::new(Instant) };
    let (clock, seed, metrics) = (Clock::system(), Seed::from_number(1), Metrics::default());
    let sagas = Sagas::open(store, clock, seed, doors, Options::default(), &metrics, &scope).await.unwrap();
    (sagas, scope)
}

async fn measure(what: &str, store: Store, running: usize, has_expressions: bool) {
    let (sagas, scope) = open(store).await;
    let definition = definition(has_expressions);
    let clock = Clock::system();
    let (before, cpu) = (clock.instant(), cpu_seconds());
    let until = before + Duration::from_secs(5);
    for _ in 0..running {
        let (sagas, definition, clock) = (sagas.clone(), definition.clone(), clock.clone());
        scope.spawn("starter", OnFailure::Log, async move {
            while clock.instant() < until {
                let start = Start {
                    id: None,
                    definition: definition.clone(),
                    input: r#"{"id": 7}"#.into(),
                    caller: "bench".into(),
                    trace: None,
                };
                let id = sagas.start(start).await.unwrap().view.summary.id;
                let view = sagas.wait(&id, Duration::from_secs(60)).await.unwrap();
                assert_eq!(view.summary.status, Status::Done);
            }
            Ok(())
        });
    }
    tokio::time::sleep_until(until).await;
    let transitions = sagas.metrics().transitions.get();
    let seconds = before.elapsed().as_secs_f64();
    let (commits, cpu) = (sagas.metrics().commits.get(), cpu_seconds() - cpu);
    while sagas.counts().of(Status::Running) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scope.shutdown(Duration::from_secs(20)).await;
    let kind = if has_expressions { "with ${}" } else { "plain" };
    println!(
        "{what:8} {running:5} running, {kind:8}: {:8.0} transitions/s, {:6.0} sagas/s, {:5.1} per commit of a shard, {:4.1} us of CPU each",
        transitions as f64 / seconds,
        transitions as f64 / seconds / (STEPS + 1) as f64,
        transitions as f64 / commits as f64,
        cpu / transitions as f64 * 1e6,
    );
}

/// CPU time of this process: what counts when others use the machine as well.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// Open sagas, then a restart: how long until all are resumed.
async fn resume(count: usize) {
    struct Never;
    impl Outbound for Never {
        fn call(&self, _: Call) -> Pending<Result<http::Response<Bytes>, CallError>> {
            Box::pin(std::future::pending())
        }
    }
    let faults = Faults::none();
    let store = Store::memory(faults.clone());
    let scope = Scope::root("bench");
    let doors = Doors { outbound: Arc::new(Never), publish: Arc::new(Instant) };
    let metrics = Metrics::default();
    let sagas = Sagas::open(
        store,
        Clock::system(),
        Seed::from_number(1),
        doors,
        Options::default(),
        &metrics,
        &scope,
    )
    .await
    .unwrap();
    let definition = definition(true);
    let starters = 256;
    for _ in 0..starters {
        let (sagas, definition) = (sagas.clone(), definition.clone());
        scope.spawn("starter", OnFailure::Log, async move {
            for _ in 0..count / starters {
                let input = r#"{"id": 7}"#.to_owned();
                let (definition, caller) = (definition.clone(), "bench".to_owned());
                sagas.start(Start { id: None, definition, input, caller, trace: None }).await.unwrap();
            }
            Ok(())
        });
    }
    while sagas.counts().of(Status::Running) < (count / starters * starters) as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    faults.crash();
    scope.shutdown(Duration::from_secs(1)).await;
    drop(sagas);
    let store = Store::memory(faults);
    let before = Clock::system().instant();
    let (sagas, scope) = open(store).await;
    let opened = before.elapsed();
    let found = sagas.counts();
    while sagas.counts().of(Status::Running) > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "restart  {count} open: read in {opened:?} ({} still open then), all {} transitions done after {:?}",
        found.of(Status::Running),
        sagas.metrics().transitions.get(),
        before.elapsed()
    );
    scope.shutdown(Duration::from_secs(20)).await;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let directory = std::env::args().nth(1);
    for (running, has_expressions) in [(64, false), (64, true), (1024, false), (1024, true)] {
        measure("memory", Store::memory(Faults::none()), running, has_expressions).await;
        if let Some(directory) = &directory {
            let path = Path::new(directory).join(format!("sagas-{running}-{has_expressions}"));
            match Store::open(&path, causeway_store::Options::default()) {
                Ok((store, _)) => {
                    measure("disk", store.clone(), running, has_expressions).await;
                    store.close().await;
                }
                Err(error) => println!("no disk store: {error}"),
            }
            // What is left behind is only this example's.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
    resume(200_000).await;
}
