//! The door of the registry: cheap to clone, the same for every caller.
//!
//! In:    commands and questions from any task.      Out: durable answers; the picture, tokens, waits for what is newer.
//! Owner: the roof opens it in a scope; rooms and doors hold clones. The scope's end is its end.
//! Invariant: an answer is durable, and the picture that [`Registry::snapshot`] gives afterwards holds it.
//! Not here: what is decided (`machine.rs`), the loop (`driver.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use causeway_base::telemetry::Metrics as Shared;
use causeway_base::{Clock, OnFailure, Scope};
use causeway_model::{Revision, ServiceKey, Snapshot, Timestamp};
use causeway_store::Store;
use tokio::sync::{mpsc, oneshot, watch};

use crate::command::{Answer, Command, ConnectionId};
use crate::driver::{Driver, Submission};
use crate::error::Error;
use crate::limits::{QUEUE_MAX, QUEUE_WAIT_MAX, WAIT_MAX};
use crate::metrics::Metrics;
use crate::token::{Digest, Issued, Serial, Token, TokenError, TokenId};
use crate::view::View;

/// How a registry works. `Options::default()` is right for a node.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Commands that may wait for the driver.
    pub queue: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { queue: QUEUE_MAX }
    }
}

/// The registry. Clones are the same one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use causeway_base::{Clock, Scope, telemetry::Metrics};
/// use causeway_model::{InstanceId, InstanceKey, Origin, ServiceKey};
/// use causeway_registry::{Command, Options, Registration, Registry};
/// use causeway_store::{Faults, Store};
///
/// let (store, scope) = (Store::memory(Faults::none()), Scope::root("doc"));
/// let registry = Registry::open(store, Clock::system(), Options::default(), &Metrics::default(), &scope)?;
/// let key = InstanceKey { service: ServiceKey::parse("default", "orders")?, id: InstanceId::new("a")? };
/// let origin = Origin::Api { caller: "local".into() };
/// let answer = registry.submit(Command::Register(Registration::new(key.clone(), "10.0.0.5", 8080, origin))).await?;
/// let snapshot = registry.snapshot();
/// assert!(snapshot.revision() >= answer.revision && snapshot.instance(&key).is_some_and(|i| i.is_routable()));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Registry {
    queue: mpsc::Sender<Submission>,
    view: Arc<ArcSwap<View>>,
    watch: watch::Receiver<Arc<Snapshot>>,
    connections: Arc<AtomicU64>,
    clock: Clock,
}

impl Registry {
    /// Reads the journal (blocking; some 100,000 records a second at the least) and starts the driver in `scope`. Every lease
    /// begins anew, with [`RETURN_GRACE`](crate::limits::RETURN_GRACE) at the least. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `Kind::Corrupt` (CW-1206) when the journal cannot be read: the node must not start with half of it.
    pub fn open(
        store: Store,
        clock: Clock,
        options: Options,
        metrics: &Shared,
        scope: &Scope,
    ) -> Result<Registry, Error> {
        let driver = Driver::open(store, clock.clone(), Metrics::new(metrics))?;
        let (queue, submissions) = mpsc::channel(options.queue.max(1));
        let registry = Registry {
            queue,
            view: driver.view(),
            watch: driver.watch(),
            connections: Arc::new(AtomicU64::new(1)),
            clock,
        };
        scope.spawn("driver", OnFailure::StopNode, driver.run(submissions, scope.clone()));
        Ok(registry)
    }

    /// Says something to the registry; resolves when it is durable and published.
    ///
    /// # Cancel safety
    /// Dropping the future before it has a place in the queue changes nothing; after that the command is taken all the same.
    pub async fn submit(&self, command: Command) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let submission = Submission { command, reply: Some(reply) };
        let closed = || Error::unavailable("cannot take the command", "the registry is shutting down");
        if let Err(error) = self.queue.try_send(submission) {
            let mpsc::error::TrySendError::Full(submission) = error else { return Err(closed()) };
            match self.queue.send_timeout(submission, QUEUE_WAIT_MAX).await {
                Ok(()) => {}
                Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(closed()),
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    return Err(Error::unavailable("cannot take the command", "too many are waiting"));
                }
            }
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The newest picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.view.load().snapshot.clone()
    }

    /// The picture as it changes: a slow reader skips, but always comes to the newest.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.watch.clone()
    }

    /// A number for a new connection that is to keep instances registered.
    pub fn connection(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// The revision at which a service last changed: its declaration, or any of its instances (of a subset: any instance of
    /// the service that it is a part of). A service that was never there answers a revision at or before the present one.
    pub fn service_revision(&self, service: &ServiceKey) -> Revision {
        self.view.load().service_revision(service)
    }

    /// Waits until there is a picture newer than `after`, at most `timeout` (and [`WAIT_MAX`]); gives the newest in either case.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn wait_newer(&self, after: Revision, timeout: Duration) -> Arc<Snapshot> {
        let mut watch = self.watch.clone();
        let newer = watch.wait_for(|snapshot| snapshot.revision() > after);
        let _ = tokio::time::timeout(timeout.min(WAIT_MAX), newer).await;
        self.snapshot()
    }

    /// Waits until the service has changed after `after`, likewise; gives the revision at which it did, and the picture.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn wait_service(
        &self,
        service: &ServiceKey,
        after: Revision,
        timeout: Duration,
    ) -> (Revision, Arc<Snapshot>) {
        let mut watch = self.watch.clone();
        // The view is stored before the watch is told, so whoever is woken finds at least what woke them.
        let newer = watch.wait_for(|_| self.service_revision(service) > after);
        let _ = tokio::time::timeout(timeout.min(WAIT_MAX), newer).await;
        let view = self.view.load();
        (view.service_revision(service), view.snapshot.clone())
    }

    /// One token.
    pub fn token(&self, id: &TokenId) -> Option<Arc<Token>> {
        self.view.load().tokens.get(id).cloned()
    }

    /// Every token that was not revoked, ordered by id; expired ones may still be among them.
    pub fn tokens(&self) -> Vec<Arc<Token>> {
        self.view.load().tokens.values().cloned().collect()
    }

    /// The token of this id, if SHA-256 of the presented secret is `digest` and it has not expired.
    ///
    /// # Errors
    /// [`TokenError`] says why not.
    pub fn verify(&self, id: &TokenId, digest: &Digest) -> Result<Arc<Token>, TokenError> {
        let token = self.token(id).ok_or(TokenError::Unknown)?;
        token.verify(digest, Timestamp::from(self.clock.now())).map(|()| token)
    }

    /// What is known of a certificate; nothing once it has expired.
    pub fn issued(&self, serial: &Serial) -> Option<Arc<Issued>> {
        self.view.load().issued.get(serial).cloned()
    }

    /// Every certificate that was issued and not forgotten, revoked ones too, ordered by serial number. (What proxies are told of
    /// revocations is in the picture: `Snapshot::revocations`.)
    pub fn certificates(&self) -> Vec<Arc<Issued>> {
        self.view.load().issued.values().cloned().collect()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("revision", &self.snapshot().revision()).finish_non_exhaustive()
    }
}
