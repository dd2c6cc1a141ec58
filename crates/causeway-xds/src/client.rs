//! The client's task: one configuration stream over the link, resumed for ever; a picture published when it is whole.
//!
//! In:    a [`Link`], a role, services wanted on first use.      Out: `watch<Arc<Snapshot>>` with only this client's part.
//! Owner: the roof starts one for each sidecar and gateway; the proxy compiles what it publishes.
//! Invariant: the first picture is published when everything it needs was answered; a later change waits for what it leads to (a
//! route's new backend), but no longer than [`HOLD_BACK_MAX`]; without a control plane the last picture stays.
//! Not here: what is asked for and applied (`reader.rs`), the connection (`link.rs`), the file (`picture.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::clock::Clock;
use causeway_base::scope::{OnFailure, Scope};
use causeway_base::seed::Seed;
use causeway_model::{Revision, ServiceKey, Snapshot};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::link::{Backoff, Conduit, Link};
use crate::picture::Picture;
use crate::proto::{DELTA_PATH, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::reader::{Reader, Role, WANTS_MAX};
use crate::stream::MESSAGE_BYTES_MAX;

/// How long a change may wait for what it leads to: a control plane that does not answer must not hold good news back.
pub const HOLD_BACK_MAX: Duration = Duration::from_secs(1);
/// Requests on their way; the task waits when there are more.
const REQUESTS_MAX: usize = 64;

/// What a client is to be.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The proxy's name for itself, shown to operators.
    pub node_id: String,
    /// What it is there for; its certificate must say the same.
    pub role: Role,
    /// Services to have from the start (`--upstream`).
    pub wants: Vec<ServiceKey>,
    /// What it knew when it last ran; published at once.
    pub last: Option<Picture>,
}

/// Starts clients.
#[derive(Debug)]
pub struct Client;

/// A running client. Cheap to clone; it runs as long as its scope.
///
/// ```no_run
/// # async fn up(link: causeway_xds::Link, clock: &causeway_base::Clock, scope: &causeway_base::Scope) {
/// use causeway_xds::{Client, ClientConfig, Role};
/// let own = causeway_model::ServiceKey::parse("default", "orders").expect("a name");
/// let config = ClientConfig { node_id: "orders-1".into(), role: Role::Sidecar(own), wants: vec![], last: None };
/// let client = Client::start(config, link, clock, &causeway_base::Seed::from_entropy(), scope);
/// client.ready().await;
/// let payments = causeway_model::ServiceKey::parse("default", "payments").expect("a name");
/// if client.resolve(&payments, std::time::Duration::from_secs(2)).await {
///     let picture = client.current();
///     println!("{} instances", picture.instances_of(&payments).count());
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ClientHandle {
    shared: Arc<Shared>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    state: watch::Receiver<State>,
}

#[derive(Debug)]
struct Shared {
    wants: watch::Sender<BTreeSet<ServiceKey>>,
    /// The picture that was published last.
    picture: Mutex<Picture>,
}

/// What can be waited for.
#[derive(Clone, Debug, Default)]
struct State {
    is_connected: bool,
    is_ready: bool,
    revision: Revision,
    /// Services whose answers are in the picture.
    answered: Arc<BTreeSet<ServiceKey>>,
}

impl Client {
    /// Starts a client that runs as long as `scope`.
    pub fn start(
        config: ClientConfig,
        link: Link,
        clock: &Clock,
        seed: &Seed,
        scope: &Scope,
    ) -> ClientHandle {
        let mut wants: BTreeSet<ServiceKey> = config.wants.into_iter().collect();
        wants.extend(config.last.iter().flat_map(|last| last.wants.iter().cloned()));
        while wants.len() > WANTS_MAX {
            wants.pop_last();
        }
        let is_ready = config.last.is_some();
        let picture = config.last.clone().unwrap_or_default();
        let (publish, snapshot) = watch::channel(picture.snapshot.clone());
        let answered = wants.iter().filter(|want| is_known(&picture.snapshot, want)).cloned().collect();
        let answered = Arc::new(answered);
        let (tell, state) = watch::channel(State { is_ready, answered, ..State::default() });
        let shared =
            Arc::new(Shared { wants: watch::Sender::new(wants.clone()), picture: Mutex::new(picture) });
        let wanted = shared.wants.subscribe();
        let mut driver = Driver {
            reader: Reader::new(config.node_id, config.role, wants, config.last),
            link,
            clock: clock.clone(),
            backoff: Backoff::new(seed.fork()),
            shared: shared.clone(),
            wanted,
            publish,
            tell,
            held_since: None,
        };
        let cancelled = scope.cancelled();
        scope.spawn("configuration-client", OnFailure::StopNode, async move {
            tokio::select! {
                biased;
                () = cancelled => {}
                () = driver.run() => {}
            }
            Ok(())
        });
        ClientHandle { shared, snapshot, state }
    }
}

impl ClientHandle {
    /// The picture, and word of the next. Empty until the first is there ([`ClientHandle::ready`]).
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The picture as it is now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Asks for a service from now on. Does nothing when it is asked for already, or when [`WANTS_MAX`] are.
    pub fn want(&self, service: &ServiceKey) {
        let is_there = |wants: &BTreeSet<ServiceKey>| wants.contains(service) || wants.len() >= WANTS_MAX;
        if is_there(&self.shared.wants.borrow()) {
            return;
        }
        self.shared.wants.send_if_modified(|wants| !is_there(wants) && wants.insert(service.clone()));
    }

    /// Asks for a service and waits until the control plane has answered, at most `within`; whether it has. What it answered
    /// (perhaps that there is no such service) is in the picture.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the service asked for.
    pub async fn resolve(&self, service: &ServiceKey, within: Duration) -> bool {
        self.want(service);
        let mut state = self.state.clone();
        let answered = state.wait_for(|state| state.answered.contains(service));
        matches!(tokio::time::timeout(within, answered).await, Ok(Ok(_)))
    }

    /// The control plane's revision that the picture reflects; 0 before it was heard.
    pub fn revision(&self) -> Revision {
        self.state.borrow().revision
    }

    /// Whether the stream is open now.
    pub fn is_connected(&self) -> bool {
        self.state.borrow().is_connected
    }

    /// Waits for the first picture (at once when the client began with one it knew); false when the client has ended.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn ready(&self) -> bool {
        self.state.clone().wait_for(|state| state.is_ready).await.is_ok()
    }

    /// What was published last, to be kept on disk. It may hold private keys.
    pub fn picture(&self) -> Picture {
        self.shared.picture.lock().clone()
    }
}

/// Whether a picture says anything of a service.
fn is_known(snapshot: &Snapshot, service: &ServiceKey) -> bool {
    snapshot.service(service).is_some() || snapshot.instances_of(service).next().is_some()
}

struct Driver {
    reader: Reader,
    link: Link,
    clock: Clock,
    backoff: Backoff,
    shared: Arc<Shared>,
    wanted: watch::Receiver<BTreeSet<ServiceKey>>,
    publish: watch::Sender<Arc<Snapshot>>,
    tell: watch::Sender<State>,
    /// Since when a change waits for what it leads to.
    held_since: Option<Instant>,
}

impl Driver {
    async fn run(&mut self) {
        while let Some(conduit) = self.link.conduit().await {
            let began = self.clock.instant();
            let ended = self.stream(&conduit).await;
            self.tell.send_if_modified(|state| std::mem::take(&mut state.is_connected));
            match ended {
                Ok(()) => {}
                Err(status) => {
                    let (grpc, why) = (status.code(), status.message());
                    tracing::warn!(code = ?grpc, why, "the configuration stream ended; the last picture stays");
                }
            }
            let wait = self.backoff.next(began.elapsed());
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream from its first word to its end.
    async fn stream(&mut self, conduit: &Conduit) -> Result<(), Status> {
        self.read_wants();
        self.held_since = None;
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let first = tokio_stream::iter(self.reader.connect());
        let mut responses = open(conduit, Request::new(first.chain(ReceiverStream::new(queue)))).await?;
        self.tell.send_if_modified(|state| !std::mem::replace(&mut state.is_connected, true));
        let link = self.link.clone();
        let lost = link.lost(conduit);
        tokio::pin!(lost);
        loop {
            let publish_at = self.held_since.map(|since| since + HOLD_BACK_MAX);
            let send = tokio::select! {
                biased;
                () = &mut lost => return Ok(()),
                told = responses.message() => match told? {
                    Some(response) => self.reader.hear(response),
                    None => return Ok(()),
                },
                changed = self.wanted.changed() => match changed {
                    Ok(()) => {
                        self.read_wants();
                        self.reader.ask()
                    }
                    Err(_) => return Ok(()),
                },
                () = sleep_until(publish_at) => {
                    self.publish_now();
                    Vec::new()
                }
            };
            // Before the acknowledgement is sent, so that an acknowledged revision is one that was published.
            self.publish_if_whole();
            for request in send {
                if requests.send(request).await.is_err() {
                    break;
                }
            }
        }
    }

    fn read_wants(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        for service in wanted {
            self.reader.want(service);
        }
    }

    fn publish_if_whole(&mut self) {
        let is_ready = self.tell.borrow().is_ready;
        if self.reader.is_settled() {
            if self.reader.is_changed() || !is_ready {
                self.publish_now();
            }
            let (revision, answered) = (self.reader.told(), self.reader.wants());
            self.tell.send_if_modified(|state| {
                let is_news = !state.is_ready || state.revision != revision || *state.answered != *answered;
                if is_news {
                    state.is_ready = true;
                    state.revision = revision;
                    state.answered = Arc::new(answered.clone());
                }
                is_news
            });
        } else if is_ready && self.reader.is_changed() && self.held_since.is_none() {
            self.held_since = Some(self.clock.instant());
        }
    }

    fn publish_now(&mut self) {
        self.held_since = None;
        if self.reader.is_half() {
            // Half of a push is of no single moment: its end is at hand, or the connection is lost and another will bring it.
            self.held_since = Some(self.clock.instant());
            return;
        }
        let picture = self.reader.publish();
        *self.shared.picture.lock() = picture.clone();
        self.publish.send_replace(picture.snapshot);
    }
}

async fn open(
    conduit: &Conduit,
    requests: Request<impl futures_util::Stream<Item = DeltaDiscoveryRequest> + Send + 'static>,
) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
    let mut grpc = conduit.grpc().max_decoding_message_size(2 * MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(DELTA_PATH);
    let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    Ok(grpc.streaming(requests, path, codec).await?.into_inner())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
