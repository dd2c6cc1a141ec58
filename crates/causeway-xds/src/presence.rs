//! `Presence/Hold`, the server's side: a proxy is there as long as its stream is.
//!
//! In:    what proxies say over their streams.      Out: calls of [`Presence`], answers to the proxies, and what they should show live.
//! Owner: the api room implements [`Presence`] over the registry; each stream has a task.
//! Invariant: a sidecar speaks only for instances of the service that its certificate names; a registration whose stream ends
//! without a withdrawal is reported lost exactly once, with the epoch it was made at.
//! Not here: the client's side (`hold.rs`), leases (`causeway-registry`).

use std::sync::Arc;
use std::time::Duration;

use causeway_base::outbound::Pending;
use causeway_base::scope::{OnFailure, Scope};
use causeway_model::{
    Epoch, Health, Instance, InstanceKey, Observations, Revision, SpiffeId, Taps, TrafficReport, codec,
    traffic::EDGES_MAX,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::hub::Hub;
use crate::peer::{self, Reason, Refused};
use crate::proto::hold_request::Say;
use crate::proto::hold_response::Answer;
use crate::proto::{Done, HoldRequest, HoldResponse, RefusedSay, Which};
use crate::stream::code;

/// Most bytes of one message: an instance with 64 KiB of metadata, a full traffic report.
pub(crate) const REQUEST_BYTES_MAX: usize = 512 * 1024;
/// How long the answer to a drain or withdrawal waits for the other proxies' acknowledgement.
pub const ACKNOWLEDGE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Answers that wait to be read; a client that leaves more unread is not asked for further words.
const ANSWERS_MAX: usize = 16;

/// A registration that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Revision at which it is in the picture.
    pub revision: Revision,
    /// Its epoch: what later words about it must bear.
    pub epoch: Epoch,
}

/// What proxies say about instances; implemented by the api room over the registry.
pub trait Presence: Send + Sync + 'static {
    /// Registers an instance of the peer's own service (checked already) with a connection lease.
    fn register(&self, peer: SpiffeId, instance: Instance) -> Pending<Result<Held, Refused>>;
    /// Its health changed.
    fn health(&self, key: InstanceKey, epoch: Epoch, health: Health) -> Pending<Result<Revision, Refused>>;
    /// It takes no new calls from now on.
    fn drain(&self, key: InstanceKey, epoch: Epoch) -> Pending<Result<Revision, Refused>>;
    /// It is gone; of one that is not there any more, the present revision.
    fn withdraw(&self, key: InstanceKey, epoch: Epoch) -> Pending<Result<Revision, Refused>>;
    /// Its stream ended without a withdrawal.
    fn lost(&self, key: InstanceKey, epoch: Epoch) -> Pending<()>;
    /// Calls that a proxy saw; every edge begins or ends at the peer's service.
    fn traffic(&self, peer: SpiffeId, report: TrafficReport);
    /// Single requests that a proxy saw; whose proxy it is, and beside which instance, is what it proved and registered.
    fn observed(&self, peer: SpiffeId, seen: Observations);
    /// Which live requests proxies should report.
    fn taps(&self) -> watch::Receiver<Arc<Taps>>;
}

/// Serves the streams. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Holds {
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) hub: Hub,
    pub(crate) open: Gauge,
    pub(crate) scope: Scope,
}

/// One stream: who speaks, and what is registered over it.
struct Hold {
    holds: Holds,
    peer: SpiffeId,
    registered: Option<(InstanceKey, Epoch)>,
}

impl Holds {
    pub(crate) fn open(
        self,
        request: Request<Streaming<HoldRequest>>,
    ) -> Result<Response<ReceiverStream<Result<HoldResponse, Status>>>, Status> {
        let peer = peer::require(&request)?;
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let scope = self.scope.clone();
        scope.spawn("hold", OnFailure::Log, async move {
            self.open.inc();
            let mut hold = Hold { holds: self, peer, registered: None };
            hold.run(request.into_inner(), &answers).await;
            hold.holds.open.dec();
            if let Some((key, epoch)) = hold.registered.take() {
                tracing::info!(instance = %key, proxy = %hold.peer, "a proxy's connection was lost");
                hold.holds.presence.lost(key, epoch).await;
            }
            Ok(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Hold {
    async fn run(
        &mut self,
        mut words: Streaming<HoldRequest>,
        answers: &mpsc::Sender<Result<HoldResponse, Status>>,
    ) {
        let cancelled = self.holds.scope.cancelled();
        tokio::pin!(cancelled);
        let mut taps = self.holds.presence.taps();
        if !taps.borrow().taps.is_empty() {
            taps.mark_changed();
        }
        loop {
            let word = tokio::select! {
                biased;
                () = &mut cancelled => {
                    let _ = answers.try_send(Err(Status::unavailable("the node is shutting down")));
                    return;
                }
                () = answers.closed() => return,
                Ok(()) = taps.changed() => {
                    let bytes = codec::encode(&**taps.borrow_and_update());
                    let wanted = HoldResponse { seq: 0, answer: Some(Answer::Taps(bytes.into())) };
                    tokio::select! {
                        biased;
                        () = &mut cancelled => return,
                        sent = answers.send(Ok(wanted)) => if sent.is_err() { return },
                    }
                    continue;
                }
                word = words.message() => word,
            };
            let Ok(Some(HoldRequest { seq, say: Some(say) })) = word else { return };
            let answer = match self.hear(say).await {
                Ok(None) => continue,
                Ok(Some(done)) => Answer::Done(done),
                Err(refused) => Answer::Refused(RefusedSay {
                    is_temporary: refused.reason == Reason::Unavailable,
                    code: refused.code,
                    message: refused.message,
                }),
            };
            let answer = HoldResponse { seq, answer: Some(answer) };
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                sent = answers.send(Ok(answer)) => if sent.is_err() { return },
            }
        }
    }

    async fn hear(&mut self, say: Say) -> Result<Option<Done>, Refused> {
        match say {
            Say::Register(instance) => self.register(&instance).await.map(Some),
            Say::Health(health) => self.health(health).await.map(Some),
            Say::Drain(which) => self.drain(&which).await.map(Some),
            Say::Withdraw(which) => self.withdraw(&which).await.map(Some),
            Say::Traffic(report) => self.traffic(&report).map(|()| None),
            Say::Seen(seen) => self.seen(&seen).map(|()| None),
        }
    }

    async fn register(&mut self, bytes: &[u8]) -> Result<Done, Refused> {
        let instance: Instance = codec::decode(bytes).map_err(|error| not_understood(&error))?;
        self.may_speak_for(&instance.key)?;
        let key = instance.key.clone();
        if let Some((held, _)) = self.registered.as_ref().filter(|(held, _)| *held != key) {
            let text = format!("this stream holds {held}; {key} needs one of its own");
            return Err(Refused::new(Reason::Invalid, code::NOT_UNDERSTOOD, text));
        }
        let held = self.holds.presence.register(self.peer.clone(), instance).await?;
        self.registered = Some((key, held.epoch));
        Ok(Done { revision: held.revision.get(), epoch: held.epoch.get(), lagging: 0 })
    }

    async fn health(&mut self, number: u32) -> Result<Done, Refused> {
        let health = match number {
            0 => Health::Passing,
            1 => Health::Warning,
            2 => Health::Critical,
            other => return Err(not_understood(&format_args!("{other} is no health"))),
        };
        let Some((key, epoch)) = self.registered.clone() else {
            return Err(not_understood(&"nothing is registered over this stream"));
        };
        let revision = self.holds.presence.health(key, epoch, health).await?;
        Ok(Done { revision: revision.get(), epoch: epoch.get(), lagging: 0 })
    }

    async fn drain(&mut self, which: &Which) -> Result<Done, Refused> {
        let (key, epoch) = self.which(which)?;
        let revision = self.holds.presence.drain(key, epoch).await?;
        Ok(self.acknowledged(revision, epoch).await)
    }

    async fn withdraw(&mut self, which: &Which) -> Result<Done, Refused> {
        let (key, epoch) = self.which(which)?;
        let revision = self.holds.presence.withdraw(key.clone(), epoch).await?;
        self.registered.take_if(|(held, at)| (&*held, *at) == (&key, epoch));
        Ok(self.acknowledged(revision, epoch).await)
    }

    /// Waits until the other proxies know, so that whoever asked may stop taking calls when it has the answer.
    async fn acknowledged(&self, revision: Revision, epoch: Epoch) -> Done {
        let waited = self.holds.hub.wait_acknowledged(revision, ACKNOWLEDGE_WAIT_MAX).await;
        let lagging = waited.err().map_or(0, |lagging| u32::try_from(lagging.len()).unwrap_or(u32::MAX));
        Done { revision: revision.get(), epoch: epoch.get(), lagging }
    }

    fn traffic(&self, bytes: &[u8]) -> Result<(), Refused> {
        let mut report: TrafficReport = codec::decode(bytes).map_err(|error| not_understood(&error))?;
        let own = &self.peer.service;
        report.edges.truncate(EDGES_MAX);
        // A proxy sees only calls that its own service makes or takes; whatever else it says is not for it to say.
        report.edges.retain(|edge| edge.source == *own || edge.target == *own);
        if !report.edges.is_empty() {
            self.holds.presence.traffic(self.peer.clone(), report);
        }
        Ok(())
    }

    fn seen(&self, bytes: &[u8]) -> Result<(), Refused> {
        let mut seen: Observations = codec::decode(bytes).map_err(|error| not_understood(&error))?;
        // Whatever a proxy says of itself, it is who it proved to be.
        let own = &self.peer.service;
        let instance = self.registered.as_ref().map_or("", |(key, _)| key.id.as_str());
        for failure in &mut seen.failures {
            (failure.seen_by, failure.instance) = (own.clone(), instance.to_owned());
        }
        for span in &mut seen.spans {
            (span.service, span.instance) = (own.clone(), instance.to_owned());
        }
        for tapped in &mut seen.tapped {
            (tapped.seen_by, tapped.instance) = (own.clone(), instance.to_owned());
        }
        self.holds.presence.observed(self.peer.clone(), seen);
        Ok(())
    }

    fn which(&self, which: &Which) -> Result<(InstanceKey, Epoch), Refused> {
        let key: InstanceKey = codec::decode(&which.key).map_err(|error| not_understood(&error))?;
        self.may_speak_for(&key)?;
        Ok((key, Epoch::new(which.epoch)))
    }

    fn may_speak_for(&self, key: &InstanceKey) -> Result<(), Refused> {
        if key.service == self.peer.service {
            return Ok(());
        }
        let text = format!("{} may not speak for an instance of {}", self.peer, key.service);
        Err(Refused::new(Reason::NotAllowed, code::NOT_ALLOWED, text))
    }
}

fn not_understood(why: &dyn std::fmt::Display) -> Refused {
    Refused::new(Reason::Invalid, code::NOT_UNDERSTOOD, why.to_string())
}
