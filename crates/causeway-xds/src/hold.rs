//! `Presence/Hold`, the client's side: says that an instance is there, and again after each reconnect, until it is withdrawn.
//!
//! In:    words of the roof (register, health, drain, withdraw), calls that the proxy saw.      Out: the registry's answers; which
//!        live requests somebody wants to see.
//! Owner: the roof starts one for each sidecar (with an instance) and gateway (for its traffic alone).
//! Invariant: after a reconnect the instance is registered anew as it is by then (its health; draining, if it drains); a withdrawn
//! one is not. A word that waits for an answer survives reconnects.
//! Not here: the server's side (`presence.rs`), the connection (`link.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::clock::Clock;
use causeway_base::scope::{OnFailure, Scope};
use causeway_base::seed::Seed;
use causeway_model::{
    Edge, Epoch, Health, Instance, InstanceKey, Lifecycle, Observations, Revision, ServiceKey, Taps,
    TrafficReport, codec, traffic::EDGES_MAX,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::link::{Backoff, Conduit, Link};
use crate::outbox::Outbox;
use crate::peer::{Reason, Refused};
use crate::presence::Held;
use crate::proto::hold_request::Say;
use crate::proto::hold_response::Answer;
use crate::proto::{Done, HOLD_PATH, HoldRequest, HoldResponse, RefusedSay, Which};
use crate::stream::code;

/// How often calls that were seen are reported, when there were any.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Words of the roof that wait for the task, and requests on their way.
const WORDS_MAX: usize = 64;
/// Wait before a registration that was refused for now is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// That an instance drains or is gone, and who knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Revision at which it is so.
    pub revision: Revision,
    /// Proxies that had not acknowledged it when the node answered (it waits five seconds); 0 means that no call will come.
    pub lagging: u32,
}

/// See the [module](self). Cheap to clone; it runs as long as its scope.
#[derive(Clone, Debug)]
pub struct Hold {
    words: mpsc::Sender<Word>,
    traffic: Arc<Mutex<Traffic>>,
    outbox: Arc<Outbox>,
    taps: watch::Receiver<Arc<Taps>>,
}

type Reply<T> = oneshot::Sender<Result<T, Refused>>;

#[derive(Debug)]
enum Word {
    Register(Box<Instance>, Reply<Held>),
    Health(Health),
    Drain(Reply<Known>),
    Withdraw(Reply<Known>),
}

impl Hold {
    /// Starts with nothing registered.
    pub fn start(link: Link, clock: &Clock, seed: &Seed, scope: &Scope) -> Self {
        let (words, heard) = mpsc::channel(WORDS_MAX);
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let outbox = Arc::new(Outbox::default());
        let (wanted, taps) = watch::channel(Arc::default());
        let mut driver = Driver {
            link,
            clock: clock.clone(),
            backoff: Backoff::new(seed.fork()),
            heard,
            traffic: traffic.clone(),
            outbox: outbox.clone(),
            wanted,
            wish: Wish::default(),
        };
        let cancelled = scope.cancelled();
        scope.spawn("presence-client", OnFailure::StopNode, async move {
            tokio::select! {
                biased;
                () = cancelled => {}
                () = driver.run() => {}
            }
            Ok(())
        });
        Hold { words, traffic, outbox, taps }
    }

    /// Registers the instance, and keeps it registered from now on. Waits for a control plane as long as it takes.
    ///
    /// # Errors
    /// The registry's refusal, when trying again cannot help.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the wish in place.
    pub async fn register(&self, instance: Instance) -> Result<Held, Refused> {
        self.say(|reply| Word::Register(Box::new(instance), reply)).await
    }

    /// Reports the instance's health; the last word counts.
    pub async fn health(&self, health: Health) {
        let _ = self.words.send(Word::Health(health)).await;
    }

    /// Asks for no new calls; resolves when the other proxies know ([`Known::lagging`] says whether all do).
    ///
    /// # Errors
    /// The registry's refusal; also when nothing is registered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the wish in place.
    pub async fn drain(&self) -> Result<Known, Refused> {
        self.say(Word::Drain).await
    }

    /// Takes the instance out; resolves when the other proxies know.
    ///
    /// # Errors
    /// As [`Hold::drain`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the wish in place.
    pub async fn withdraw(&self) -> Result<Known, Refused> {
        self.say(Word::Withdraw).await
    }

    /// Adds calls that were seen; they are reported within a second. Without a control plane they are added up.
    pub fn traffic(&self, report: &TrafficReport) {
        self.traffic.lock().add(report);
    }

    /// Tells what was seen of single requests; the oldest is lost when it cannot be said fast enough.
    pub fn observe(&self, seen: Observations) {
        if !seen.is_empty() {
            self.outbox.put(seen);
        }
    }

    /// Which live requests somebody wants to see now; nothing while there is no control plane.
    pub fn taps(&self) -> watch::Receiver<Arc<Taps>> {
        self.taps.clone()
    }

    async fn say<T>(&self, word: impl FnOnce(Reply<T>) -> Word) -> Result<T, Refused> {
        let ended = || Refused::new(Reason::Unavailable, code::UNREACHABLE, "the process is shutting down");
        let (reply, answer) = oneshot::channel();
        self.words.send(word(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

/// Calls seen since the last report.
#[derive(Debug, Default)]
struct Traffic {
    edges: BTreeMap<(ServiceKey, ServiceKey), Edge>,
}

impl Traffic {
    fn add(&mut self, report: &TrafficReport) {
        for edge in &report.edges {
            let key = (edge.source.clone(), edge.target.clone());
            let is_full = self.edges.len() >= EDGES_MAX && !self.edges.contains_key(&key);
            let sum = if is_full { self.edges.values_mut().next_back() } else { None };
            let sum = match sum {
                Some(last) => last,
                None => {
                    let new = || Edge::new(edge.source.clone(), edge.target.clone());
                    self.edges.entry(key).or_insert_with(new)
                }
            };
            sum.add(edge);
        }
    }

    fn take(&mut self) -> Option<TrafficReport> {
        let edges: Vec<Edge> = std::mem::take(&mut self.edges).into_values().collect();
        (!edges.is_empty()).then_some(TrafficReport { edges })
    }
}

/// What the roof wants to be true.
#[derive(Debug, Default)]
struct Wish {
    instance: Option<Instance>,
    /// Counts the roof's registrations, so that a later one is said even where an earlier one stands.
    number: u64,
    phase: Phase,
    /// The epoch of the newest registration that was answered.
    epoch: Option<Epoch>,
    registering: Vec<Reply<Held>>,
    draining: Vec<Reply<Known>>,
    withdrawing: Vec<Reply<Known>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Up,
    Draining,
    Withdrawn,
}

/// What a message on this stream was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Register,
    Health,
    Drain,
    Withdraw,
}

/// What belongs to one stream and ends with it.
struct Talk {
    requests: mpsc::Sender<HoldRequest>,
    next: u64,
    asked: BTreeMap<u64, Asked>,
    /// Number of the registration that was said last on this stream.
    said: u64,
    is_registered: bool,
    retry_at: Option<tokio::time::Instant>,
}

impl Talk {
    fn has_registered(&self, number: u64) -> bool {
        self.is_registered && self.said == number
    }

    /// Says something; false when the stream is gone.
    async fn say(&mut self, asked: Option<Asked>, say: Say) -> bool {
        let seq = self.next;
        self.next += 1;
        if let Some(asked) = asked {
            self.asked.insert(seq, asked);
        }
        self.requests.send(HoldRequest { seq, say: Some(say) }).await.is_ok()
    }

    /// Says what was seen, as far as that keeps nothing else waiting.
    fn tell(&mut self, outbox: &Outbox) {
        while self.requests.capacity() > WORDS_MAX / 2 {
            let Some(bytes) = outbox.take() else { return };
            let request = HoldRequest { seq: self.next, say: Some(Say::Seen(bytes)) };
            self.next += 1;
            // It has room; when the stream is gone its end is noticed elsewhere.
            let _ = self.requests.try_send(request);
        }
    }

    fn is_asking(&self, what: Asked) -> bool {
        self.asked.values().any(|asked| *asked == what)
    }
}

struct Driver {
    link: Link,
    clock: Clock,
    backoff: Backoff,
    heard: mpsc::Receiver<Word>,
    traffic: Arc<Mutex<Traffic>>,
    outbox: Arc<Outbox>,
    wanted: watch::Sender<Arc<Taps>>,
    wish: Wish,
}

impl Driver {
    async fn run(&mut self) {
        loop {
            let link = self.link.clone();
            let conduit = tokio::select! {
                biased;
                conduit = link.conduit() => conduit,
                word = self.heard.recv() => match word {
                    Some(word) => { self.wish.hear(word); continue }
                    None => return,
                },
            };
            let Some(conduit) = conduit else { return };
            let began = self.clock.instant();
            let ended = self.stream(&conduit).await;
            // Whoever wanted to see live requests asked over that stream.
            self.want(Taps::default());
            if let Err(status) = ended {
                let (grpc, why) = (status.code(), status.message());
                tracing::warn!(code = ?grpc, why, "the presence stream ended; it is opened again");
            }
            if self.heard.is_closed() && self.heard.is_empty() {
                return;
            }
            let wait = self.backoff.next(began.elapsed());
            tokio::time::sleep(wait).await;
        }
    }

    fn want(&self, taps: Taps) {
        self.wanted.send_if_modified(|wanted| {
            let is_new = **wanted != taps;
            *wanted = Arc::new(taps);
            is_new
        });
    }

    async fn stream(&mut self, conduit: &Conduit) -> Result<(), Status> {
        let (requests, queue) = mpsc::channel(WORDS_MAX);
        let mut answers = open(conduit, Request::new(ReceiverStream::new(queue))).await?;
        let mut talk =
            Talk { requests, next: 1, asked: BTreeMap::new(), said: 0, is_registered: false, retry_at: None };
        let link = self.link.clone();
        let lost = link.lost(conduit);
        let outbox = self.outbox.clone();
        tokio::pin!(lost);
        let mut report = tokio::time::interval(REPORT_INTERVAL);
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if !self.wish.pursue(&mut talk).await {
                return Ok(());
            }
            talk.tell(&outbox);
            let retry_at = talk.retry_at;
            tokio::select! {
                biased;
                () = &mut lost => return Ok(()),
                answer = answers.message() => match answer? {
                    Some(HoldResponse { answer: Some(Answer::Taps(bytes)), .. }) => match codec::decode(&bytes) {
                        Ok(taps) => self.want(taps),
                        Err(error) => tracing::warn!(%error, "which live requests are wanted is not understood"),
                    },
                    Some(answer) => self.wish.take(&mut talk, answer, self.clock.instant()),
                    None => return Ok(()),
                },
                word = self.heard.recv() => match word {
                    Some(Word::Health(health)) => {
                        self.wish.hear(Word::Health(health));
                        if talk.is_registered && !talk.say(Some(Asked::Health), Say::Health(health as u32)).await {
                            return Ok(());
                        }
                    }
                    Some(word) => self.wish.hear(word),
                    None => return Ok(()),
                },
                _ = report.tick() => {
                    let seen = self.traffic.lock().take();
                    if let Some(seen) = seen
                        && !talk.say(None, Say::Traffic(codec::encode(&seen).into())).await
                    {
                        return Ok(());
                    }
                }
                () = outbox.filled() => {}
                () = sleep_until(retry_at) => talk.retry_at = None,
            }
        }
    }
}

impl Wish {
    fn hear(&mut self, word: Word) {
        match word {
            Word::Register(instance, reply) => {
                self.instance = Some(*instance);
                self.number += 1;
                self.phase = Phase::Up;
                self.epoch = None;
                self.registering.push(reply);
            }
            Word::Health(health) => {
                if let Some(instance) = &mut self.instance {
                    instance.health = health;
                }
            }
            Word::Drain(reply) => match &mut self.instance {
                Some(instance) => {
                    instance.lifecycle = Lifecycle::Draining;
                    self.phase = self.phase.later(Phase::Draining);
                    self.draining.push(reply);
                }
                None => _ = reply.send(Err(nothing_registered())),
            },
            Word::Withdraw(reply) => match (&self.instance, self.epoch) {
                (None, _) => _ = reply.send(Err(nothing_registered())),
                _ => {
                    self.phase = Phase::Withdrawn;
                    self.withdrawing.push(reply);
                }
            },
        }
    }

    /// Says what has to be said to make the wish true; false when the stream is gone.
    async fn pursue(&mut self, talk: &mut Talk) -> bool {
        let Some(instance) = &self.instance else { return true };
        let is_registering = talk.is_asking(Asked::Register);
        match (self.phase, self.epoch) {
            (Phase::Withdrawn, Some(epoch)) => {
                if is_registering || self.withdrawing.is_empty() || talk.is_asking(Asked::Withdraw) {
                    return true;
                }
                talk.say(Some(Asked::Withdraw), Say::Withdraw(which(&instance.key, epoch))).await
            }
            // Withdrawn before it was ever registered: there is nothing to take back once no answer can be under way.
            (Phase::Withdrawn, None) if !is_registering => {
                self.forget();
                true
            }
            (Phase::Up | Phase::Draining, _) if !talk.has_registered(self.number) => {
                if is_registering || talk.retry_at.is_some() {
                    return true;
                }
                let bytes = codec::encode(instance);
                (talk.said, talk.is_registered) = (self.number, false);
                talk.say(Some(Asked::Register), Say::Register(bytes.into())).await
            }
            (Phase::Draining, Some(epoch)) if !self.draining.is_empty() && !talk.is_asking(Asked::Drain) => {
                talk.say(Some(Asked::Drain), Say::Drain(which(&instance.key, epoch))).await
            }
            _ => true,
        }
    }

    /// Takes an answer.
    fn take(&mut self, talk: &mut Talk, answer: HoldResponse, now: tokio::time::Instant) {
        let Some(asked) = talk.asked.remove(&answer.seq) else { return };
        match answer.answer {
            Some(Answer::Done(done)) => self.done(talk, asked, done),
            Some(Answer::Refused(refused)) => self.refused(talk, asked, refused, now),
            Some(Answer::Taps(_)) | None => {}
        }
    }

    fn done(&mut self, talk: &mut Talk, asked: Asked, done: Done) {
        let revision = Revision::new(done.revision);
        let known = Known { revision, lagging: done.lagging };
        match asked {
            Asked::Register => {
                talk.is_registered = true;
                let epoch = Epoch::new(done.epoch);
                self.epoch = Some(epoch);
                if talk.said == self.number {
                    answer_all(&mut self.registering, &Ok(Held { revision, epoch }));
                }
            }
            Asked::Health => {}
            Asked::Drain => answer_all(&mut self.draining, &Ok(known)),
            Asked::Withdraw => {
                talk.is_registered = false;
                answer_all(&mut self.withdrawing, &Ok(known));
                self.forget();
            }
        }
    }

    fn refused(&mut self, talk: &mut Talk, asked: Asked, said: RefusedSay, now: tokio::time::Instant) {
        let reason = if said.is_temporary { Reason::Unavailable } else { Reason::Invalid };
        let refused = Refused { code: said.code, message: said.message, reason };
        tracing::warn!(what = ?asked, %refused, "the registry refused");
        match asked {
            // Someone waits for a first registration that cannot succeed: say so, and stop. A later one (after a reconnect)
            // is tried for ever, because the app is still there.
            Asked::Register if !said.is_temporary && !self.registering.is_empty() => {
                answer_all(&mut self.registering, &Err(refused));
                self.forget();
            }
            Asked::Register => talk.retry_at = Some(now + RETRY_WAIT),
            Asked::Health => {}
            Asked::Drain => answer_all(&mut self.draining, &Err(refused)),
            Asked::Withdraw => answer_all(&mut self.withdrawing, &Err(refused)),
        }
    }

    /// Nothing is to be there any more.
    fn forget(&mut self) {
        self.instance = None;
        self.epoch = None;
        self.phase = Phase::Up;
        let gone = Err(nothing_registered());
        answer_all(&mut self.registering, &Err(nothing_registered()));
        answer_all(&mut self.draining, &gone);
        answer_all(&mut self.withdrawing, &gone);
    }
}

impl Phase {
    fn later(self, other: Phase) -> Phase {
        if self == Phase::Withdrawn { self } else { other }
    }
}

fn which(key: &InstanceKey, epoch: Epoch) -> Which {
    Which { key: codec::encode(key).into(), epoch: epoch.get() }
}

fn answer_all<T: Clone>(waiting: &mut Vec<Reply<T>>, answer: &Result<T, Refused>) {
    for reply in waiting.drain(..) {
        let _ = reply.send(answer.clone());
    }
}

fn nothing_registered() -> Refused {
    Refused::new(Reason::Invalid, code::NOT_UNDERSTOOD, "nothing is registered")
}

async fn open(
    conduit: &Conduit,
    requests: Request<ReceiverStream<HoldRequest>>,
) -> Result<Streaming<HoldResponse>, Status> {
    let mut grpc = conduit.grpc();
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(HOLD_PATH);
    let codec = ProstCodec::<HoldRequest, HoldResponse>::default();
    Ok(grpc.streaming(requests, path, codec).await?.into_inner())
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
