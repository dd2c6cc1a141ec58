//! The control port's services: the configuration stream, `Identity/Sign`, `Presence/Hold`.
//!
//! In:    the registry's picture; gRPC calls of proxies; a [`Signer`] and a [`Presence`] of the api room.
//! Out:   [`Routes`] for the control port; the [`Hub`] of connected proxies.
//! Owner: the api room makes one [`Signals`] for each node; each stream has a task, the only one that touches its machine.
//! Invariant: a peer without an identity reaches nothing but `Sign`; no queue grows with what a peer sends or does not read.
//! Not here: accepting and TLS (`causeway-api`, `causeway-identity`), what a stream is owed (`stream.rs`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use causeway_base::clock::Clock;
use causeway_base::outbound::Pending;
use causeway_base::scope::{OnFailure, Scope};
use causeway_base::telemetry::Metrics;
use causeway_model::{ResourceKey, Revision, Snapshot, SpiffeId};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::hub::{Hub, Seat};
use crate::metrics::Counters;
use crate::peer::{self, PeerIdentity};
use crate::presence::{self, Presence};
use crate::proto::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::signing::{self, Signer};
use crate::stream::{Machine, Refusal, WINDOW, code};

/// Configuration streams of one node (DESIGN: 30,000 proxies in 8 GB, and room for reconnects that overlap).
pub const STREAMS_MAX: usize = 40_000;
/// Most bytes of one request: what a client has of a service of 40,000 instances.
pub(crate) const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How the control port's services behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the picture's revisions count in: another value for another data folder or a restored backup, the same after a
    /// restart. A client that has versions of another lineage is sent everything again.
    pub lineage: String,
    /// Most configuration streams; [`STREAMS_MAX`].
    pub streams_max: usize,
}

impl Options {
    /// The defaults, for pictures of this lineage.
    pub fn new(lineage: impl Into<String>) -> Self {
        Options { lineage: lineage.into(), streams_max: STREAMS_MAX }
    }
}

/// The control port's services. Cheap to clone.
///
/// ```no_run
/// # async fn up(pictures: tokio::sync::watch::Receiver<std::sync::Arc<causeway_model::Snapshot>>,
/// #   clock: causeway_base::Clock, metrics: &causeway_base::telemetry::Metrics, scope: &causeway_base::Scope,
/// #   signer: std::sync::Arc<dyn causeway_xds::Signer>, presence: std::sync::Arc<dyn causeway_xds::Presence>) {
/// use causeway_xds::{Options, Signals};
/// let signals = Signals::new(pictures, clock, Options::new("7f3a"), metrics, scope);
/// let router = signals.routes(signer, presence).into_axum_router(); // serve it, with a `Peer` in each request's extensions
/// let lagging = signals.hub().wait_acknowledged(causeway_model::Revision::new(41), std::time::Duration::from_secs(5)).await;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Signals {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pictures: watch::Receiver<Arc<Snapshot>>,
    clock: Clock,
    lineage: Arc<str>,
    streams_max: usize,
    hub: Hub,
    counters: Counters,
    scope: Scope,
}

impl Signals {
    /// Services that send what `pictures` shows.
    pub fn new(
        pictures: watch::Receiver<Arc<Snapshot>>,
        clock: Clock,
        options: Options,
        metrics: &Metrics,
        scope: &Scope,
    ) -> Self {
        let shared = Shared {
            pictures,
            clock,
            lineage: options.lineage.into(),
            streams_max: options.streams_max,
            hub: Hub::new(),
            counters: Counters::register(metrics),
            scope: scope.child("xds"),
        };
        Signals { shared: Arc::new(shared) }
    }

    /// The connected proxies.
    pub fn hub(&self) -> Hub {
        self.shared.hub.clone()
    }

    /// The services, to be served on the control port: `tonic`'s routes, or `.into_axum_router()`.
    pub fn routes(&self, signer: Arc<dyn Signer>, presence: Arc<dyn Presence>) -> Routes {
        let holds = presence::Holds {
            presence,
            hub: self.hub(),
            open: self.shared.counters.holds.clone(),
            scope: self.shared.scope.clone(),
        };
        Routes::new(Delta(self.shared.clone()))
            .add_service(IdentityService(signer))
            .add_service(PresenceService(holds))
    }
}

// === the configuration stream ===

type Requests = Streaming<DeltaDiscoveryRequest>;
type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

impl Shared {
    fn open(self: Arc<Self>, request: Request<Requests>) -> Result<Response<ResponseStream>, Status> {
        let identity = peer::require(&request)?;
        let seat =
            self.hub.connect(identity.clone(), self.clock.now(), self.streams_max).ok_or_else(|| {
                let text =
                    format!("{} configuration streams are open [{}]", self.streams_max, code::TOO_MANY);
                Status::resource_exhausted(text)
            })?;
        // Never full: the machine has at most WINDOW messages unacknowledged; one more for the last word.
        let (responses, stream) = mpsc::channel(WINDOW + 1);
        let scope = self.scope.clone();
        scope.spawn("stream", OnFailure::Log, async move {
            self.counters.streams.inc();
            let end = self.run(&identity, &seat, request.into_inner(), &responses).await;
            self.counters.streams.dec();
            if let Some(status) = end {
                let _ = responses.try_send(Err(status));
            }
            Ok(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    /// Drives one stream's machine to its end; gives the status to end it with when it is we who end it.
    async fn run(
        &self,
        identity: &SpiffeId,
        seat: &Seat,
        mut requests: Requests,
        responses: &Responses,
    ) -> Option<Status> {
        let began = self.clock.instant();
        let mut machine = Machine::new(identity.service.clone(), self.lineage.clone());
        let mut pictures = self.pictures.clone();
        let mut counted = (0, 0);
        let cancelled = self.scope.cancelled();
        tokio::pin!(cancelled);
        loop {
            let snapshot = pictures.borrow_and_update().clone();
            for message in machine.speak(began.elapsed(), &snapshot) {
                if responses.try_send(Ok(message)).is_err() {
                    return None;
                }
            }
            seat.report(&machine);
            self.count(&mut counted, machine.counts());
            let overdue_at = machine.overdue_at().map(|at| began + at);
            tokio::select! {
                biased;
                () = &mut cancelled => return Some(Status::unavailable("the node is shutting down")),
                () = responses.closed() => return None,
                heard = requests.message() => match heard {
                    Ok(Some(request)) => match machine.hear(began.elapsed(), request) {
                        Ok(heard) => self.note(identity, &machine, heard),
                        Err(refusal) => {
                            tracing::warn!(proxy = %identity, node = machine.node_id(), %refusal, "a configuration stream was refused");
                            return Some(refuse(&refusal));
                        }
                    },
                    Ok(None) | Err(_) => return None,
                },
                changed = pictures.changed() => if changed.is_err() {
                    return Some(Status::unavailable("the registry is gone"));
                },
                () = sleep_until(overdue_at) => {
                    self.counters.slow_readers.inc();
                    tracing::warn!(proxy = %identity, node = machine.node_id(), code = code::SLOW_READER, "a proxy that does not read its stream was dropped");
                    let text = format!("configuration was not acknowledged in time [{}]", code::SLOW_READER);
                    return Some(Status::deadline_exceeded(text));
                }
            }
        }
    }

    fn note(&self, identity: &SpiffeId, machine: &Machine, heard: crate::stream::Heard) {
        if let Some(took) = heard.push_took {
            self.counters.push_seconds.observe(took.as_secs_f64());
        }
        for subscription in heard.denied {
            tracing::warn!(proxy = %identity, node = machine.node_id(), what = ?subscription, code = code::NOT_ALLOWED, "a proxy asked for what it may not read");
        }
        if heard.rejected > 0 {
            self.counters.rejections.inc_by(heard.rejected as u64);
            for rejection in machine.rejected() {
                let resource = resource_text(&rejection.resource);
                tracing::warn!(proxy = %identity, node = machine.node_id(), %resource, revision = %rejection.revision, reason = rejection.reason, code = code::REJECTED, "a proxy rejected a resource");
            }
        }
    }

    fn count(&self, counted: &mut (u64, u64), now: (u64, u64)) {
        self.counters.pushes.inc_by(now.0 - counted.0);
        self.counters.resources.inc_by(now.1 - counted.1);
        *counted = now;
    }
}

/// A resource as an operator reads it.
fn resource_text(key: &ResourceKey) -> String {
    match key {
        ResourceKey::Object(key) => key.to_string(),
        ResourceKey::Instance(key) => format!("Instance {key}"),
        ResourceKey::Revocations => "Revocations".to_owned(),
    }
}

fn refuse(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::NotUnderstood(_) => Status::invalid_argument(text),
        Refusal::UnknownType(_) => Status::unimplemented(text),
        Refusal::TooMany { .. } => Status::resource_exhausted(text),
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

// === gRPC glue, as tonic's generator would write it ===

type ResponseStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
type Answer = Result<http::Response<tonic::body::Body>, Infallible>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

#[derive(Clone)]
struct Delta(Arc<Shared>);

impl tonic::server::StreamingService<DeltaDiscoveryRequest> for Delta {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = ResponseStream;
    type Future = Pending<Result<Response<ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Requests>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { shared.open(request) })
    }
}

#[derive(Clone)]
struct IdentityService(Arc<dyn Signer>);

impl tonic::server::UnaryService<proto::SignRequest> for IdentityService {
    type Response = proto::SignResponse;
    type Future = Pending<Result<Response<proto::SignResponse>, Status>>;

    fn call(&mut self, request: Request<proto::SignRequest>) -> Self::Future {
        let signer = self.0.clone();
        let peer = PeerIdentity::of(&request);
        Box::pin(async move { signing::serve(&*signer, peer, request.into_inner()).await })
    }
}

#[derive(Clone)]
struct PresenceService(presence::Holds);

impl tonic::server::StreamingService<proto::HoldRequest> for PresenceService {
    type Response = proto::HoldResponse;
    type ResponseStream = ReceiverStream<Result<proto::HoldResponse, Status>>;
    type Future = Pending<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<proto::HoldRequest>>) -> Self::Future {
        let holds = self.0.clone();
        Box::pin(async move { holds.open(request) })
    }
}

macro_rules! service {
    ($service:ty, $name:literal, $path:expr, $method:ident, $bytes:expr) => {
        impl tonic::server::NamedService for $service {
            const NAME: &'static str = $name;
        }

        impl tower::Service<http::Request<tonic::body::Body>> for $service {
            type Response = http::Response<tonic::body::Body>;
            type Error = Infallible;
            type Future = Answering;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<tonic::body::Body>) -> Answering {
                let service = self.clone();
                Box::pin(async move {
                    if request.uri().path() != $path {
                        return Ok(Status::unimplemented("there is no such method here").into_http());
                    }
                    let mut grpc =
                        tonic::server::Grpc::new(ProstCodec::default()).max_decoding_message_size($bytes);
                    Ok(grpc.$method(service, request).await)
                })
            }
        }
    };
}
service!(
    Delta,
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    proto::DELTA_PATH,
    streaming,
    REQUEST_BYTES_MAX
);
service!(IdentityService, "causeway.v1.Identity", proto::SIGN_PATH, unary, signing::REQUEST_BYTES_MAX);
service!(PresenceService, "causeway.v1.Presence", proto::HOLD_PATH, streaming, presence::REQUEST_BYTES_MAX);

impl Signals {
    /// Revision of the picture that streams are sent.
    pub fn revision(&self) -> Revision {
        self.shared.pictures.borrow().revision()
    }
}

#[cfg(test)]
impl Signals {
    pub(crate) fn sent(&self) -> u64 {
        self.shared.counters.resources.get()
    }

    pub(crate) fn pushes(&self) -> u64 {
        self.shared.counters.pushes.get()
    }
}
