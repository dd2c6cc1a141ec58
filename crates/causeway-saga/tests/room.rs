//! The room at its handle: a mesh in memory, a store with faults, restarts.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::outbound::{Call, CallError, Pending, Publish, PublishError};
use causeway_base::telemetry::Metrics;
use causeway_base::{Clock, Outbound, Scope, Seed};
use causeway_model::{Action, Name, RetryPolicy, SagaDefinition, ServiceCall, ServiceKey, Stage, Step};
use causeway_saga::{
    Command, Doors, ErrorKind, Filter, Options, SagaId, Sagas, Start, Started, Status, StepState,
};
use causeway_store::{Faults, Limit, Position, Store, StreamName};
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

// === a mesh of participants ===

type Answer = Result<Response<Bytes>, CallError>;
type Rule = Box<dyn Fn(&Request<Bytes>, usize) -> Option<Answer> + Send>;

/// Participants that apply idempotency keys; rules go first.
struct Mesh {
    state: Mutex<State>,
    /// Calls so far, to wait for.
    seen: watch::Sender<usize>,
    /// While true, calls are taken and never answered.
    is_mute: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    calls: Vec<Request<Bytes>>,
    events: BTreeMap<(String, String), Json>,
    /// Effects by key: how often they were applied.
    applied: BTreeMap<String, u32>,
    rules: Vec<Rule>,
}

impl Mesh {
    fn new() -> Arc<Mesh> {
        let (seen, is_mute) = (watch::Sender::new(0), watch::Sender::new(false));
        Arc::new(Mesh { state: Mutex::default(), seen, is_mute })
    }

    /// `rule` sees the request and how many with its key came before.
    fn rule(self: &Arc<Self>, rule: impl Fn(&Request<Bytes>, usize) -> Option<Answer> + Send + 'static) {
        self.state.lock().rules.push(Box::new(rule));
    }

    fn paths(&self) -> Vec<String> {
        self.state.lock().calls.iter().map(|call| format!("{} {}", call.method(), call.uri())).collect()
    }

    /// Effects that stand: applied by an action and not undone.
    fn standing(&self, saga: &str) -> Vec<String> {
        let state = self.state.lock();
        let of = |key: &&String| key.starts_with(&format!("{saga}/")) && !key.ends_with("/undo");
        state
            .applied
            .keys()
            .filter(of)
            .filter(|key| !state.applied.contains_key(&format!("{key}/undo")))
            .cloned()
            .collect()
    }
}

fn key(request: &Request<Bytes>) -> String {
    request.headers()["idempotency-key"].to_str().unwrap().to_owned()
}

fn answer(status: u16, body: &str) -> Answer {
    Ok(Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap())
}

impl Outbound for Mesh {
    fn call(&self, call: Call) -> Pending<Answer> {
        let mut state = self.state.lock();
        let key = key(&call.request);
        let before = state.calls.iter().filter(|request| self::key(request) == key).count();
        let ruled = state.rules.iter().find_map(|rule| rule(&call.request, before));
        let answer = ruled.unwrap_or_else(|| {
            state.applied.insert(key.clone(), 1);
            answer(200, &json!({"id": format!("r-{key}")}).to_string())
        });
        state.calls.push(call.request);
        drop(state);
        self.seen.send_modify(|seen| *seen += 1);
        let mut mute = self.is_mute.subscribe();
        Box::pin(async move {
            match tokio::time::timeout(call.timeout, mute.wait_for(|mute| !mute)).await {
                Ok(_) => answer,
                Err(_) => Err(CallError::TimedOut(call.timeout)),
            }
        })
    }
}

impl Publish for Mesh {
    fn publish(&self, namespace: &str, topic: &str, event: Bytes) -> Pending<Result<(), PublishError>> {
        let event: Json = serde_json::from_slice(&event).unwrap();
        let id = (event["source"].to_string(), event["id"].to_string());
        assert_eq!((namespace, topic), ("default", "orders"));
        self.state.lock().events.insert(id, event);
        Box::pin(async { Ok(()) })
    }
}

// === a node ===

struct Node {
    sagas: Sagas,
    scope: Scope,
    mesh: Arc<Mesh>,
    store: Store,
    faults: Faults,
}

impl Node {
    async fn new() -> Node {
        Node::open(Faults::none(), Mesh::new(), Options::default()).await
    }

    async fn open(faults: Faults, mesh: Arc<Mesh>, options: Options) -> Node {
        let store = Store::memory(faults.clone());
        let scope = Scope::root("test");
        let doors = Doors { outbound: mesh.clone(), publish: mesh.clone() };
        let sagas = Sagas::open(
            store.clone(),
            Clock::simulated(),
            Seed::from_number(7),
            doors,
            options,
            &Metrics::default(),
            &scope,
        )
        .await
        .unwrap();
        Node { sagas, scope, mesh, store, faults }
    }

    /// The power goes, and comes back.
    async fn crash(self) -> Node {
        self.faults.crash();
        self.scope.cancel();
        Node::open(self.faults, self.mesh, Options::default()).await
    }

    async fn start(&self, id: &str, definition: &Arc<SagaDefinition>) -> Started {
        self.sagas.start(start(id, definition)).await.unwrap()
    }

    async fn end(&self, id: &str) -> causeway_saga::View {
        self.sagas.wait(&saga_id(id), Duration::from_secs(3600)).await.unwrap()
    }
}

fn saga_id(text: &str) -> SagaId {
    SagaId::new(text).unwrap()
}

fn start(id: &str, definition: &Arc<SagaDefinition>) -> Start {
    Start {
        id: Some(saga_id(id)),
        definition: definition.clone(),
        input: r#"{"sku": "lamp 1/2", "amount": 30, "id": 7}"#.into(),
        caller: "ann".into(),
        trace: None,
    }
}

fn call(service: &str, method: &str, path: &str, body: Option<&str>) -> ServiceCall {
    ServiceCall {
        service: ServiceKey::parse("default", service).unwrap(),
        method: method.into(),
        path: path.into(),
        headers: BTreeMap::from([("x-from".into(), "${saga.definition}".into())]),
        body: body.map(Into::into),
    }
}

fn step(name: &str, action: Action, compensate: Option<ServiceCall>) -> Step {
    let (name, timeout) = (Name::new(name).unwrap(), Duration::from_secs(5));
    Step { name, action, compensate, retry: RetryPolicy::default(), timeout, is_pivot: false }
}

/// The saga of API.md.
fn place_order() -> Arc<SagaDefinition> {
    let reserve = step(
        "reserve",
        Action::Call(call("inventory", "POST", "/reservations", Some(r#"{"sku": "${input.sku}"}"#))),
        Some(call("inventory", "DELETE", "/reservations/${steps.reserve.body.id}", None)),
    );
    let mut charge = step(
        "charge",
        Action::Call(call(
            "payments",
            "POST",
            "/charges?sku=${input.sku}",
            Some(r#"{"amount": "${input.amount}"}"#),
        )),
        Some(call("payments", "POST", "/charges/${steps.charge.body.id}/refund", None)),
    );
    charge.is_pivot = true;
    let tell = step(
        "tell",
        Action::Publish {
            topic: Name::new("orders").unwrap(),
            event_type: "order.placed".into(),
            data: r#"{"id": "${input.id}"}"#.into(),
        },
        None,
    );
    Arc::new(SagaDefinition {
        namespace: Name::default_namespace(),
        name: Name::new("place-order").unwrap(),
        timeout: Some(Duration::from_secs(300)),
        stages: [reserve, charge, tell].into_iter().map(|step| Stage { steps: vec![step] }).collect(),
    })
}

// === tests ===

#[tokio::test(start_paused = true)]
async fn the_saga_of_the_manual() {
    let node = Node::new().await;
    let started = node.start("order-7", &place_order()).await;
    assert!(started.is_new);
    let view = node.end("order-7").await;
    assert_eq!(view.summary.status, Status::Done, "{view:?}");
    assert_eq!(node.mesh.paths(), ["POST /reservations", "POST /charges?sku=lamp%201%2F2"]);
    let state = node.mesh.state.lock();
    let [reserve, charge] = &state.calls[..] else { panic!("two calls") };
    assert_eq!(serde_json::from_slice::<Json>(reserve.body()).unwrap(), json!({"sku": "lamp 1/2"}));
    assert_eq!(serde_json::from_slice::<Json>(charge.body()).unwrap(), json!({"amount": 30}));
    let header = |request: &Request<Bytes>, name: &str| request.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header(reserve, "idempotency-key"), "order-7/reserve");
    assert_eq!(header(reserve, "causeway-saga"), "order-7");
    assert_eq!(header(reserve, "causeway-epoch"), "1");
    assert_eq!(header(reserve, "content-type"), "application/json");
    assert_eq!(header(reserve, "x-from"), "place-order");
    let trace = |request| header(request, "traceparent")[3..35].to_owned();
    assert_eq!((trace(reserve), trace(charge)), (view.trace.clone(), view.trace.clone()));
    assert_ne!(header(reserve, "traceparent"), header(charge, "traceparent"));
    let event = state.events.values().next().unwrap();
    assert_eq!(event["type"], "order.placed");
    assert_eq!(event["data"], json!({"id": 7}));
    assert_eq!((&event["id"], &event["partitionkey"]), (&json!("order-7/tell"), &json!("order-7")));
    let told: Vec<_> = view
        .timeline
        .iter()
        .map(|m| (m.step.as_ref().map_or("", |s| s.as_str()), m.what, m.status, m.saga.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("", "started", 0, "running"),
            ("reserve", "done", 200, "running"),
            ("charge", "done", 200, "running"),
            ("tell", "done", 200, "done")
        ]
    );
    assert!(view.steps.iter().all(|step| step.state == StepState::Done));
    assert_eq!(view.steps[0].body.as_deref(), Some(r#"{"id":"r-order-7/reserve"}"#));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_undoes_in_reverse_with_the_answers_of_the_steps() {
    let node = Node::new().await;
    node.mesh.rule(|request, _| {
        (request.uri().path() == "/charges").then(|| answer(409, r#"{"detail": "no money"}"#))
    });
    node.start("o", &place_order()).await;
    let view = node.end("o").await;
    assert_eq!(view.summary.status, Status::Undone);
    assert_eq!(view.summary.error.as_deref(), Some("step charge: answered 409: no money"));
    assert_eq!(
        node.mesh.paths(),
        ["POST /reservations", "POST /charges?sku=lamp%201%2F2", "DELETE /reservations/r-o%2Freserve"]
    );
    assert_eq!(node.mesh.standing("o"), [""; 0]);
    assert_eq!(node.sagas.counts().of(Status::Undone), 1);
    let listed = node.sagas.list(&Filter { status: Some(Status::Undone), ..Filter::default() });
    assert_eq!(listed.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["o"]);
    assert!(node.sagas.list(&Filter { status: Some(Status::Running), ..Filter::default() }).is_empty());
}

#[tokio::test(start_paused = true)]
async fn starting_is_idempotent_also_after_the_end_and_a_restart() {
    let node = Node::new().await;
    let definition = place_order();
    let (one, two) = tokio::join!(node.start("o", &definition), node.start("o", &definition));
    assert_eq!([one.is_new, two.is_new].iter().filter(|new| **new).count(), 1);
    node.end("o").await;
    assert!(!node.start("o", &definition).await.is_new);
    let node = node.crash().await;
    let again = node.start("o", &definition).await;
    assert_eq!((again.is_new, again.view.summary.status), (false, Status::Done));
    assert_eq!(again.view.timeline.len(), 4);
    let spaced =
        Start { input: r#"{"id":7,"amount":30,"sku":"lamp 1/2"}"#.into(), ..start("o", &definition) };
    assert!(!node.sagas.start(spaced).await.unwrap().is_new, "the same JSON, written otherwise");
    let other = Start { input: "{}".into(), ..start("o", &definition) };
    let error = node.sagas.start(other).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Conflict { id: saga_id("o"), differs: "input" });
    let mut changed = (*definition).clone();
    changed.timeout = None;
    let error = node.sagas.start(start("o", &Arc::new(changed))).await.unwrap_err();
    assert_eq!(error.to_string(), "saga o exists already with another definition [CW-1803]");
    assert_eq!(node.mesh.state.lock().calls.len(), 2, "nothing was sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_bad_definition_is_refused_with_every_place() {
    let node = Node::new().await;
    let mut bad = (*place_order()).clone();
    bad.stages[0].steps[0].compensate.as_mut().unwrap().path = "/x/${steps.charge.body.id}".into();
    let Action::Call(charge) = &mut bad.stages[1].steps[0].action else { panic!("a call") };
    charge.body = Some(r#"{"amount": "${inptu.amount}"}"#.into());
    charge.headers.insert("idempotency-key".into(), "mine".into());
    let error = node.sagas.start(start("o", &Arc::new(bad))).await.unwrap_err();
    let ErrorKind::Definition { problems, .. } = error.kind() else { panic!("{error}") };
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "steps.charge.call.headers.idempotency-key: this header is set by Causeway itself",
            r#"steps.charge.call.body.amount: ${inptu.amount}: "inptu" is not known here, only input, steps and saga are"#,
            "steps.reserve.compensate: steps.charge comes later",
        ]
    );
    let error =
        node.sagas.start(Start { input: "{".into(), ..start("o", &place_order()) }).await.unwrap_err();
    assert_eq!(error.code(), "CW-1802");
    assert_eq!(node.sagas.get(&saga_id("o")).unwrap_err().code(), "CW-1804");
}

#[tokio::test(start_paused = true)]
async fn a_restart_sends_the_unfinished_step_again_with_the_same_key_and_a_higher_epoch() {
    let node = Node::new().await;
    node.mesh.is_mute.send_replace(true);
    node.start("o", &place_order()).await;
    node.mesh.seen.subscribe().wait_for(|seen| *seen == 1).await.unwrap();
    let mesh = node.mesh.clone();
    let node = node.crash().await;
    mesh.is_mute.send_replace(false);
    assert_eq!(node.end("o").await.summary.status, Status::Done);
    let state = mesh.state.lock();
    let marks: Vec<(String, String)> = state
        .calls
        .iter()
        .map(|call| (key(call), call.headers()["causeway-epoch"].to_str().unwrap().to_owned()))
        .collect();
    let mark = |key: &str, epoch: &str| (key.to_owned(), epoch.to_owned());
    assert_eq!(marks, [mark("o/reserve", "1"), mark("o/reserve", "2"), mark("o/charge", "2")]);
}

#[tokio::test(start_paused = true)]
async fn many_sagas_with_many_crashes_add_up() {
    let mut node = Node::new().await;
    // A third of the keys fails in some way or other, by their number.
    node.mesh.rule(|request, before| {
        let key = key(request);
        let n = key.bytes().map(usize::from).sum::<usize>() + before * 31;
        match n % 9 {
            0 if key.contains("/charge") && !key.ends_with("/undo") && before == 0 => Some(answer(409, "")),
            1 => Some(Err(CallError::Broken("reset".into()))),
            2 => Some(answer(503, "")),
            3 if before == 0 => Some(answer(425, "")),
            _ => None,
        }
    });
    let definition = place_order();
    let ids: Vec<String> = (0..200).map(|n| format!("s{n}")).collect();
    for (round, ids) in ids.chunks(20).enumerate() {
        for id in ids {
            node.start(id, &definition).await;
        }
        tokio::time::advance(Duration::from_millis(round as u64 * 97)).await;
        node = node.crash().await;
    }
    let mut ended = BTreeMap::new();
    for id in &ids {
        let view = node.end(id).await;
        let status = view.summary.status;
        *ended.entry(status.as_str()).or_insert(0) += 1;
        let standing = node.mesh.standing(id);
        match status {
            Status::Done => assert_eq!(standing, [format!("{id}/charge"), format!("{id}/reserve")]),
            Status::Undone | Status::Failed => assert_eq!(standing, [""; 0], "{view:?}"),
            _ => panic!("{view:?}"),
        }
    }
    assert!(ended["done"] > 20 && ended["undone"] > 5, "{ended:?}");
    assert!(node.mesh.state.lock().applied.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn the_failure_desk() {
    let node = Node::new().await;
    let definition = {
        let mut definition = (*place_order()).clone();
        definition.stages[1].steps[0].is_pivot = false;
        Arc::new(definition)
    };
    node.mesh.rule(|request, _| (request.method() == "DELETE").then(|| answer(404, "unknown reservation")));
    node.mesh.rule(|request, _| (request.uri().path() == "/charges").then(|| answer(409, "")));
    for id in ["skip", "resolve", "retry"] {
        node.start(id, &definition).await;
        let view = node.end(id).await;
        assert_eq!(view.summary.status, Status::Stuck);
        assert_eq!(
            view.summary.error.unwrap(),
            "step reserve: its compensation: answered 404: unknown reservation"
        );
    }
    let stuck = node.sagas.list(&Filter { status: Some(Status::Stuck), ..Filter::default() });
    assert_eq!(stuck.len(), 3);
    let node = node.crash().await;
    assert_eq!(node.sagas.counts().of(Status::Stuck), 3, "stuck sagas are stuck after a restart");
    let view = node.sagas.skip(&saga_id("skip"), None, "bob").await.unwrap();
    assert_eq!(view.summary.status, Status::Undone);
    let last = view.timeline.last().unwrap();
    assert_eq!(
        (last.what, last.caller.as_deref(), last.step.as_ref().unwrap().as_str()),
        ("skip", Some("bob"), "reserve")
    );
    let view = node.sagas.resolve(&saga_id("resolve"), Status::Undone, "by phone", "bob").await.unwrap();
    assert_eq!(view.timeline.last().unwrap().text.as_deref(), Some("as undone: by phone"));
    let error = node.sagas.retry(&saga_id("resolve"), "bob").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot retry saga resolve, which is undone: it has ended [CW-1805]");
    drop(node.mesh.state.lock().rules.remove(0));
    node.sagas.retry(&saga_id("retry"), "bob").await.unwrap();
    assert_eq!(node.end("retry").await.summary.status, Status::Undone);
    assert_eq!(node.mesh.standing("retry"), [""; 0]);
    let error = node.sagas.command(&saga_id("nobody"), Command::Retry, "bob").await.unwrap_err();
    assert_eq!(error.code(), "CW-1804");
}

#[tokio::test(start_paused = true)]
async fn cancel_waits_for_what_is_under_way_and_undoes_it() {
    let node = Node::new().await;
    node.mesh.is_mute.send_replace(true);
    node.start("o", &place_order()).await;
    node.mesh.seen.subscribe().wait_for(|seen| *seen == 1).await.unwrap();
    let view = node.sagas.cancel(&saga_id("o"), "changed her mind", "bob").await.unwrap();
    assert_eq!(view.summary.status, Status::Running);
    node.mesh.is_mute.send_replace(false);
    let view = node.end("o").await;
    assert_eq!(view.summary.status, Status::Undone);
    assert_eq!(view.summary.error.as_deref(), Some("cancel by bob: changed her mind"));
    assert_eq!(node.mesh.paths(), ["POST /reservations", "DELETE /reservations/r-o%2Freserve"]);
    let error = node.sagas.cancel(&saga_id("x"), "", "bob").await.unwrap_err();
    assert_eq!(error.code(), "CW-1804");
    assert_eq!(node.sagas.cancel(&saga_id("o"), "", "bob").await.unwrap().summary.status, Status::Undone);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_saga_runs_out_and_an_unknown_answer_is_asked_for() {
    let node = Node::new().await;
    node.mesh.rule(|request, _| (request.uri().path() == "/charges").then(|| answer(425, "")));
    node.start("late", &place_order()).await;
    let view = node.end("late").await;
    assert_eq!(view.summary.error.as_deref(), Some("not ended within 300s"));
    // Whether the charge happened is not known and its refund needs its answer: it is asked for, and still "not yet".
    assert_eq!(view.summary.status, Status::Compensating);
    node.mesh.state.lock().rules.clear();
    let view = node.end("late").await;
    assert_eq!((view.summary.status, node.mesh.standing("late")), (Status::Undone, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_for_and_a_dead_one_stops_the_node() {
    let node = Node::new().await;
    node.faults.full(true);
    let waiting = node.sagas.clone();
    let definition = place_order();
    let started = async { waiting.start(start("o", &definition)).await };
    let freed = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        node.faults.full(false);
    };
    let (started, ()) = tokio::join!(started, freed);
    assert!(started.unwrap().is_new);
    assert_eq!(node.end("o").await.summary.status, Status::Done);
    node.faults.fail_sync(1);
    let error = node.sagas.start(start("p", &definition)).await.unwrap_err();
    assert_eq!(error.code(), "CW-1807");
    let why = node.scope.failed().await;
    assert!(why.contains("cannot write the journal of sagas"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn bounds_refuse_and_say_which() {
    let options = Options { open_max: 4, calls_max: 4, ..Options::default() };
    let node = Node::open(Faults::none(), Mesh::new(), options).await;
    node.mesh.is_mute.send_replace(true);
    let mut refused = 0;
    for n in 0..40 {
        match node.sagas.start(start(&format!("s{n}"), &place_order())).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(
                    error.to_string(),
                    "too many open sagas in a shard (at most 1), try again later [CW-1806]"
                );
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 36, "one of each shard is open");
}

#[tokio::test(start_paused = true)]
async fn shutdown_writes_down_what_is_under_way() {
    let node = Node::new().await;
    node.mesh.is_mute.send_replace(true);
    node.start("o", &place_order()).await;
    node.mesh.seen.subscribe().wait_for(|seen| *seen == 1).await.unwrap();
    node.scope.cancel();
    node.mesh.is_mute.send_replace(false);
    assert!(node.scope.shutdown(Duration::from_secs(20)).await);
    let view = node.sagas.get(&saga_id("o")).unwrap();
    assert_eq!(view.steps[0].state, StepState::Done);
    assert_eq!(node.mesh.paths().len(), 1, "nothing new was begun");
    assert_eq!(node.sagas.start(start("p", &place_order())).await.unwrap_err().code(), "CW-1807");
}

/// The journal of release 0.1 is read for ever. The fixture holds length-prefixed records of `saga/*`, as written then.
#[tokio::test(start_paused = true)]
async fn the_journal_of_version_1_is_read() {
    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/journal-v1.bin");
    if std::env::var_os("CAUSEWAY_WRITE_FIXTURES").is_some() {
        write_fixture(FIXTURE).await;
    }
    let bytes = std::fs::read(FIXTURE).unwrap();
    let faults = Faults::none();
    let store = Store::memory(faults.clone());
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (shard, size) = (rest[0], u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize);
        let stream = StreamName::new(&format!("saga/{shard}")).unwrap();
        let record = Bytes::copy_from_slice(&rest[5..5 + size]);
        store.append(causeway_store::Batch::new().append(&stream, record)).await.unwrap();
        rest = &rest[5 + size..];
    }
    let node = Node::open(faults, Mesh::new(), Options::default()).await;
    let counts = node.sagas.counts();
    assert_eq!(
        Status::ALL.map(|status| counts.of(status)),
        [0, 0, 1, 1, 1, 1],
        "stuck, done, undone, failed as they were"
    );
    let view = node.sagas.get(&saga_id("fix-undone")).unwrap();
    let told: Vec<_> = view.timeline.iter().map(|m| m.what).collect();
    assert_eq!(told, ["started", "not yet", "done", "refused", "retry", "undone"]);
    let view = node.sagas.get(&saga_id("fix-stuck")).unwrap();
    assert_eq!(view.summary.error.as_deref(), Some("step reserve: its compensation: answered 404"));
    assert_eq!(
        node.sagas.get(&saga_id("fix-failed")).unwrap().summary.error.unwrap(),
        "resolved by bob: by hand"
    );
}

async fn write_fixture(path: &str) {
    let node = Node::new().await;
    node.mesh.rule(|request, before| {
        let key = key(request);
        match key.as_str() {
            "fix-undone/reserve" if before == 0 => Some(answer(425, "")),
            "fix-undone/reserve/undo" if before == 0 => Some(answer(500, "")),
            "fix-stuck/reserve/undo" | "fix-failed/reserve/undo" => Some(answer(404, "")),
            _ if key.ends_with("/charge") && key != "fix-done/charge" => Some(answer(409, "")),
            _ => None,
        }
    });
    for id in ["fix-done", "fix-undone", "fix-stuck", "fix-failed"] {
        node.start(id, &place_order()).await;
        node.end(id).await;
    }
    node.sagas.resolve(&saga_id("fix-failed"), Status::Failed, "by hand", "bob").await.unwrap();
    let mut bytes = Vec::new();
    for shard in 0..4u8 {
        let stream = StreamName::new(&format!("saga/{shard}")).unwrap();
        for record in node.store.read(&stream, Position::START, Limit::default()).unwrap() {
            bytes.push(shard);
            bytes.extend((record.bytes.len() as u32).to_be_bytes());
            bytes.extend(&record.bytes);
        }
    }
    std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
