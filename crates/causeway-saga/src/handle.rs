//! The door of the room: cheap to clone.
//!
//! In:    starts, commands, questions from any task.     Out: answers that are durable when they come.
//! Owner: the roof opens it; the API, the faces and the console hold clones.
//! Invariant: what a start or a command answered is found after any crash.
//! Not here: deciding (`machine.rs`), the loop that writes and performs (`driver.rs`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use causeway_base::{Clock, OnFailure, Scope, Seed, telemetry};
use causeway_model::{RetryPolicy, SagaDefinition};
use causeway_store::Store;

use crate::driver::{Driver, Request};
use crate::error::{Error, ErrorKind};
use crate::id::SagaId;
use crate::journal::{self, SHARDS};
use crate::machine::Rules;
use crate::metrics::Metrics;
use crate::perform::Doors;
use crate::plan::Plan;
use crate::record::{Command, Edit, Started as StartRecord, Status};
use crate::shard::{Place, Shard};
use crate::view::{Filter, Started, Summary, View};

/// Longest input of a saga: it is read by every template with an expression.
pub const INPUT_BYTES_MAX: usize = 256 << 10;
/// Starts and commands of a shard that wait for its driver.
const INBOX_MAX: usize = 1024;
/// How long a start or a command waits for the journal before it is answered "busy". It may still be carried out: both can be
/// sent again (a start is idempotent, a command that no longer fits is refused).
pub const SUBMIT_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest [`Sagas::wait`].
pub const WAIT_MAX: Duration = Duration::from_secs(3600);

/// How the room works. `Options::default()` is right for a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Calls and publications under way at a time.
    pub calls_max: usize,
    /// Open sagas; more are refused. 1.5 kB of memory each, and what their steps answered.
    pub open_max: usize,
    /// How long compensations are tried: a day, unless the participant refuses.
    pub undo: RetryPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            calls_max: 1024,
            open_max: 2_000_000,
            undo: RetryPolicy {
                attempts: 300,
                backoff: Duration::from_millis(500),
                max_backoff: Duration::from_secs(300),
            },
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its id; a new one is made when absent.
    pub id: Option<SagaId>,
    /// What to do; rides with the saga.
    pub definition: Arc<SagaDefinition>,
    /// JSON text.
    pub input: String,
    /// Who starts it: name of the token, identity, or `local`.
    pub caller: String,
    /// W3C trace id of the starter, so that the saga's calls join its trace; a new one is made when absent.
    pub trace: Option<[u8; 16]>,
}

/// How many sagas have each status. Ended ones are counted since the journal began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; 6]);

impl Counts {
    /// How many have this status.
    pub fn of(&self, status: Status) -> u64 {
        self.0[status as usize]
    }
}

/// The saga room.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use causeway_base::outbound::{Call, CallError, Pending, Publish, PublishError};
/// # use causeway_base::{Clock, Outbound, Scope, Seed, telemetry::Metrics};
/// # use causeway_model::{Action, Name, RetryPolicy, SagaDefinition, ServiceCall, ServiceKey, Stage, Step};
/// # use causeway_saga::{Doors, Options, Sagas, Start, Status};
/// # struct Mesh;
/// # impl Outbound for Mesh {
/// #     fn call(&self, _: Call) -> Pending<Result<http::Response<bytes::Bytes>, CallError>> {
/// #         Box::pin(async { Ok(http::Response::new(bytes::Bytes::new())) })
/// #     }
/// # }
/// # impl Publish for Mesh {
/// #     fn publish(&self, _: &str, _: &str, _: bytes::Bytes) -> Pending<Result<(), PublishError>> {
/// #         Box::pin(async { Ok(()) })
/// #     }
/// # }
/// # let store = causeway_store::Store::memory(causeway_store::Faults::none());
/// # let doors = Doors { outbound: Arc::new(Mesh), publish: Arc::new(Mesh) };
/// # let call = ServiceCall {
/// #     service: ServiceKey::parse("default", "inventory").unwrap(), method: "POST".into(),
/// #     path: "/reservations/${input.sku}".into(), headers: Default::default(), body: None,
/// # };
/// # let step = Step {
/// #     name: Name::new("reserve").unwrap(), action: Action::Call(call), compensate: None,
/// #     retry: RetryPolicy::default(), timeout: Duration::from_secs(5), is_pivot: false,
/// # };
/// # let definition = SagaDefinition {
/// #     namespace: Name::default_namespace(), name: Name::new("place-order").unwrap(), timeout: None,
/// #     stages: vec![Stage { steps: vec![step] }],
/// # };
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let scope = Scope::root("doc");
/// let sagas = Sagas::open(
///     store, Clock::system(), Seed::from_entropy(), doors, Options::default(), &Metrics::default(), &scope,
/// ).await.unwrap();
/// let started = sagas.start(Start {
///     id: Some("order-7".parse().unwrap()), definition: Arc::new(definition),
///     input: r#"{"sku": "lamp"}"#.into(), caller: "local".into(), trace: None,
/// }).await.unwrap();
/// assert!(started.is_new);
/// let view = sagas.wait(&"order-7".parse().unwrap(), Duration::from_secs(10)).await.unwrap();
/// assert_eq!(view.summary.status, Status::Done);
/// # });
/// ```
#[derive(Clone)]
pub struct Sagas {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    seed: Mutex<Seed>,
    shards: Vec<Door>,
    epoch: u64,
    metrics: Metrics,
}

struct Door {
    shard: Arc<Mutex<Shard>>,
    inbox: mpsc::Sender<Request>,
}

impl Sagas {
    /// Reads the journal, takes the next epoch and goes on with every open saga.
    ///
    /// # Errors
    /// [`ErrorKind::Journal`] when the journal cannot be read or written, or is of a newer release.
    ///
    /// # Cancel safety
    /// Dropping the future may leave an epoch taken, which is harmless.
    pub async fn open(
        store: Store,
        clock: Clock,
        seed: Seed,
        doors: Doors,
        options: Options,
        metrics: &telemetry::Metrics,
        scope: &Scope,
    ) -> Result<Sagas, Error> {
        let metrics = Metrics::register(metrics);
        let shards = replay_all(&store)?;
        let epoch = journal::next_epoch(&store, clock.now().into()).await?;
        let mut opened = Vec::with_capacity(SHARDS);
        for (number, shard) in shards.into_iter().enumerate() {
            metrics.found(shard.counts());
            let shard = Arc::new(Mutex::new(shard));
            let (inbox, requests) = mpsc::channel(INBOX_MAX);
            let driver = Driver {
                shard: shard.clone(),
                store: store.clone(),
                clock: clock.clone(),
                seed: seed.fork(),
                doors: doors.clone(),
                rules: Rules { undo: options.undo },
                calls_max: (options.calls_max / SHARDS).max(1),
                open_max: (options.open_max / SHARDS).max(1),
                epoch,
                metrics: metrics.clone(),
            };
            let cancelled = scope.cancelled();
            scope.spawn(&format!("shard-{number}"), OnFailure::StopNode, driver.run(requests, cancelled));
            opened.push(Door { shard, inbox });
        }
        let inner = Inner { store, clock, seed: Mutex::new(seed), shards: opened, epoch, metrics };
        Ok(Sagas { inner: Arc::new(inner) })
    }

    /// Starts a saga; durable when it resolves. The same id with the same definition and input again is the same saga.
    ///
    /// # Errors
    /// [`ErrorKind::Definition`], [`ErrorKind::Input`], [`ErrorKind::Conflict`], [`ErrorKind::Busy`], [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave the saga started.
    pub async fn start(&self, start: Start) -> Result<Started, Error> {
        check_input(&start.input)?;
        let id = start
            .id
            .unwrap_or_else(|| SagaId::generate(self.inner.clock.now().into(), &self.inner.seed.lock()));
        let door = self.door(&id);
        let plan = self.plan(door, &start.definition)?;
        let trace = start.trace.unwrap_or_else(|| {
            let seed = self.inner.seed.lock();
            ((u128::from(seed.u64()) << 64) | u128::from(seed.u64() | 1)).to_be_bytes()
        });
        let record = StartRecord {
            id,
            definition: plan.bytes.clone(),
            input: start.input,
            caller: start.caller,
            trace,
        };
        submit(door, |reply| Request::Start { plan, record: Box::new(record), reply }).await
    }

    /// One saga with its timeline. Reads the journal: a read of the page cache for each record of the saga.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], also for one that ended so long ago that the index forgot it; [`ErrorKind::Journal`].
    pub fn get(&self, id: &SagaId) -> Result<View, Error> {
        let door = self.door(id);
        let (place, stream) = {
            let shard = door.shard.lock();
            (shard.find(id), shard.stream.clone())
        };
        let Place { last, .. } = place.ok_or_else(|| ErrorKind::NotFound(id.clone()))?;
        let mut lines = journal::chain(&self.inner.store, &stream, last)?.into_iter();
        let Some((at, started)) = lines.next().and_then(|line| match line.record {
            crate::record::Record::Started(started) => Some((line.at, *started)),
            _ => None,
        }) else {
            return Err(
                ErrorKind::Journal(format!("the chain of saga {id} does not begin with a start")).into()
            );
        };
        if started.id != *id {
            return Err(ErrorKind::NotFound(id.clone()).into());
        }
        let plan = match door.shard.lock().known_plan(&started.definition) {
            Some(plan) => plan,
            None => Arc::new(
                crate::plan::load_bytes(&started.definition)
                    .ok_or_else(|| ErrorKind::Journal(format!("cannot read the definition of saga {id}")))?,
            ),
        };
        let (mut saga, timeline) = crate::machine::Saga::tell(at, started, plan, lines.collect());
        if let Some(open) = door.shard.lock().get(place.map_or(0, |place| place.first))
            && open.last == last
        {
            // What is not journalled: attempts under way.
            saga = open.saga.clone();
        }
        Ok(saga.view(timeline))
    }

    /// Sagas that the filter wants, the newest first. Ended ones only as far as they are remembered: the last 4,000.
    pub fn list(&self, filter: &Filter) -> Vec<Summary> {
        let mut found = Vec::new();
        for door in &self.inner.shards {
            door.shard.lock().list(filter, &mut found);
        }
        found.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| a.id.cmp(&b.id)));
        found.truncate(filter.limit);
        found
    }

    /// Waits until the saga has ended or is stuck, at most `timeout`; gives how it stands then.
    ///
    /// # Errors
    /// As [`Sagas::get`]; [`ErrorKind::Busy`] when too many wait.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn wait(&self, id: &SagaId, timeout: Duration) -> Result<View, Error> {
        let end = {
            let mut shard = self.door(id).shard.lock();
            match shard.find(id) {
                None => return Err(ErrorKind::NotFound(id.clone()).into()),
                Some(place) => shard.wait(place.first),
            }
        };
        let end = end.map_err(|max| ErrorKind::Busy { bound: "callers that wait for a saga", max })?;
        if let Some(end) = end {
            // Whether it ended or the time is up, what counts is how it stands.
            let _ = tokio::time::timeout(timeout.min(WAIT_MAX), end).await;
        }
        self.get(id)
    }

    /// Carries a command out; durable when it resolves.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NotNow`], [`ErrorKind::Busy`], [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave the command carried out.
    pub async fn command(&self, id: &SagaId, command: Command, caller: &str) -> Result<View, Error> {
        if let Command::Edit(Edit { input: Some(input), .. }) = &command {
            check_input(input)?;
        }
        let (id, caller) = (id.clone(), caller.to_owned());
        let door = self.door(&id);
        submit(door, |reply| Request::Command { id: id.clone(), command, caller, reply }).await?;
        self.get(&id)
    }

    /// [`Command::Retry`].
    ///
    /// # Errors
    /// As [`Sagas::command`].
    pub async fn retry(&self, id: &SagaId, caller: &str) -> Result<View, Error> {
        self.command(id, Command::Retry, caller).await
    }

    /// [`Command::Skip`].
    ///
    /// # Errors
    /// As [`Sagas::command`].
    pub async fn skip(
        &self,
        id: &SagaId,
        step: Option<causeway_model::Name>,
        caller: &str,
    ) -> Result<View, Error> {
        self.command(id, Command::Skip { step }, caller).await
    }

    /// [`Command::Edit`].
    ///
    /// # Errors
    /// As [`Sagas::command`].
    pub async fn edit(&self, id: &SagaId, edit: Edit, caller: &str) -> Result<View, Error> {
        self.command(id, Command::Edit(edit), caller).await
    }

    /// [`Command::Compensate`].
    ///
    /// # Errors
    /// As [`Sagas::command`].
    pub async fn compensate(&self, id: &SagaId, reason: &str, caller: &str) -> Result<View, Error> {
        self.command(id, Command::Compensate { reason: reason.into() }, caller).await
    }

    /// [`Command::Resolve`].
    ///
    /// # Errors
    /// As [`Sagas::command`].
    pub async fn resolve(
        &self,
        id: &SagaId,
        status: Status,
        note: &str,
        caller: &str,
    ) -> Result<View, Error> {
        self.command(id, Command::Resolve { status, note: note.into() }, caller).await
    }

    /// [`Command::Cancel`].
    ///
    /// # Errors
    /// As [`Sagas::command`].
    pub async fn cancel(&self, id: &SagaId, reason: &str, caller: &str) -> Result<View, Error> {
        self.command(id, Command::Cancel { reason: reason.into() }, caller).await
    }

    /// How many sagas have each status.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for door in &self.inner.shards {
            let shard = door.shard.lock().counts();
            counts.0.iter_mut().zip(shard).for_each(|(sum, count)| *sum += count);
        }
        counts
    }

    /// This opening's number: what `Causeway-Epoch` says.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// What the room counts.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    fn door(&self, id: &SagaId) -> &Door {
        &self.inner.shards[(id.hash() % SHARDS as u64) as usize]
    }

    fn plan(&self, door: &Door, definition: &SagaDefinition) -> Result<Arc<Plan>, Error> {
        let bytes = crate::record::definition_bytes(definition);
        if let Some(plan) = door.shard.lock().known_plan(&bytes) {
            return Ok(plan);
        }
        let plan = Plan::compile(definition.clone())
            .map_err(|problems| ErrorKind::Definition { definition: definition.name.clone(), problems })?;
        Ok(Arc::new(plan))
    }
}

/// Replays every shard on a thread of its own: reading a million sagas is bound by one core's decoding.
fn replay_all(store: &Store) -> Result<Vec<Shard>, Error> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..SHARDS).map(|number| scope.spawn(move || Shard::replay(number, store))).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(ErrorKind::Journal("reading the journal of sagas panicked".into()).into())
                })
            })
            .collect()
    })
}

fn check_input(input: &str) -> Result<(), Error> {
    if input.len() > INPUT_BYTES_MAX {
        return Err(ErrorKind::Input(format!("{} bytes are above {INPUT_BYTES_MAX}", input.len())).into());
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(input) {
        Ok(_) => Ok(()),
        Err(error) => Err(ErrorKind::Input(format!("it is not JSON: {error}")).into()),
    }
}

/// Sends a request to a shard's driver and waits for its answer.
fn submit<T>(
    door: &Door,
    request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
) -> impl Future<Output = Result<T, Error>> {
    let (reply, answer) = oneshot::channel();
    let request = request(reply);
    let inbox = door.inbox.clone();
    async move {
        let answered = tokio::time::timeout(SUBMIT_WAIT_MAX, async {
            inbox.send(request).await.map_err(|_| Error::from(ErrorKind::Closed))?;
            answer.await.map_err(|_| Error::from(ErrorKind::Closed))?
        });
        let busy = ErrorKind::Busy { bound: "starts and commands waiting for the journal", max: INBOX_MAX };
        answered.await.unwrap_or_else(|_| Err(busy.into()))
    }
}

impl std::fmt::Debug for Sagas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sagas").field("epoch", &self.inner.epoch).finish_non_exhaustive()
    }
}
