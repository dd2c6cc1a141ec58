//! One client's stream as a machine: what it said, what it is owed, what it has acknowledged. No task, no clock, no socket.
//!
//! In:    [`Machine::hear`] (a request), [`Machine::speak`] (the newest picture); time is passed in as the stream's age.
//! Out:   responses to send; [`Machine::acknowledged`] and the rejections, for the hub.
//! Owner: the stream's task in `server.rs`.
//! Invariant: at most one push is under way and at most [`WINDOW`] of its messages are unacknowledged; once a push is
//! acknowledged, what the client has is what its subscriptions bring at the push's revision (`stream/tests.rs`).
//! Not here: what a push contains (`project.rs`), the task that drives this (`server.rs`).
//!
//! The first change of a burst goes out at once; what happens until it is acknowledged is merged into the next push. A fixed
//! debounce would make every lonely change pay for bursts (Istio waits 100 ms), so the wait is spent only while a push is in
//! flight. A push is cut into messages as they are acknowledged, so that a slow reader costs [`WINDOW`] messages of memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use causeway_model::{ResourceKey, Revision, ServiceKey, Snapshot};
use prost::Message;

use crate::project::{View, project};
use crate::proto;
use crate::resource::{self, ResourceType, Subscription};

/// Most bytes of one message; 10,000 proxies that reconnect at once must not make the node hold gigabytes.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// What a resource's envelope and a message's own fields may take besides names and payloads.
const ENVELOPE_BYTES: usize = 128;
/// Most bytes of one resource's payload; a larger one is not sent ([`code::TOO_LARGE`]).
pub const RESOURCE_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 4096;
/// Messages that may be unacknowledged: enough to keep a connection of 10 ms round trip busy at 400 MB/s.
pub const WINDOW: usize = 4;
/// Parents that one stream may subscribe to: 16,384 services of three subscriptions each, and some.
pub const SUBSCRIPTIONS_MAX: usize = 65_536;
/// Resources that one stream may hold or claim to hold.
pub const RESOURCES_MAX: usize = 524_288;
/// Longest node id that is kept.
const NODE_ID_BYTES_MAX: usize = 256;
/// Rejections that are remembered of one stream; a client that rejects everything is broken, and this shows it well enough.
pub const REJECTIONS_MAX: usize = 256;
/// Longest reason of a rejection that is kept.
const REASON_BYTES_MAX: usize = 1024;
/// How long a message may stay unacknowledged before the stream is dropped: a reader that slow is stuck, and would hold
/// everyone up who waits for acknowledgement.
pub const ACK_TIME_MAX: Duration = Duration::from_secs(30);

/// Codes of what operators may see; each has a page in `docs/errors`.
pub mod code {
    /// A subscription is not understood.
    pub const NOT_UNDERSTOOD: &str = "CW-1601";
    /// A bound of streams, subscriptions or resources is reached.
    pub const TOO_MANY: &str = "CW-1602";
    /// A resource is too large to be sent.
    pub const TOO_LARGE: &str = "CW-1603";
    /// The identity may not do that.
    pub const NOT_ALLOWED: &str = "CW-1604";
    /// A proxy does not read its stream.
    pub const SLOW_READER: &str = "CW-1605";
    /// A proxy rejected a resource.
    pub const REJECTED: &str = "CW-1606";
    /// The peer did not prove who it is.
    pub const NO_IDENTITY: &str = "CW-1607";
    /// No control plane answered.
    pub const UNREACHABLE: &str = "CW-1608";
}

/// Why a stream is ended by us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense: sending it again cannot help.
    #[error("{0} [{code}]", code = code::NOT_UNDERSTOOD)]
    NotUnderstood(String),
    /// A type that this node does not know.
    #[error("resources of type {0:?} are not served on the native stream [{code}]", code = code::NOT_UNDERSTOOD)]
    UnknownType(String),
    /// A bound is reached.
    #[error("more than {bound} {what} on one stream [{code}]", code = code::TOO_MANY)]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
}

/// A resource that a client would not take; it goes on with what it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which one.
    pub resource: ResourceKey,
    /// The revision of it that was rejected.
    pub revision: Revision,
    /// What the client said.
    pub reason: String,
}

/// What a request came to, for logs and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// It rejected this many resources.
    pub rejected: usize,
    /// It completed a push that took this long.
    pub push_took: Option<Duration>,
    /// It asked for something that its identity may not read; answered with nothing.
    pub denied: Vec<Subscription>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Machine {
    reader: ServiceKey,
    lineage: Arc<str>,
    node_id: String,
    has_asked: bool,
    view: View,
    push: Option<Push>,
    outstanding: BTreeMap<u64, Sent>,
    next_nonce: u64,
    acknowledged: Revision,
    rejected: BTreeMap<ResourceKey, Rejection>,
    rejections_version: u64,
    pushes: u64,
    resources_sent: u64,
}

/// A push under way: the picture it was cut from, and what is still to be said.
#[derive(Debug)]
struct Push {
    snapshot: Arc<Snapshot>,
    items: VecDeque<Item>,
    began: Duration,
}

#[derive(Debug)]
enum Item {
    Changed(ResourceKey),
    Removed(ResourceKey),
    Answered(Subscription),
}

#[derive(Debug)]
struct Sent {
    at: Duration,
    resources: Vec<(ResourceKey, Revision)>,
}

impl Machine {
    /// A stream of the client that proved to be `reader`; `lineage` names what the picture's revisions count in.
    pub fn new(reader: ServiceKey, lineage: Arc<str>) -> Self {
        Machine {
            reader,
            lineage,
            node_id: String::new(),
            has_asked: false,
            view: View::default(),
            push: None,
            outstanding: BTreeMap::new(),
            next_nonce: 1,
            acknowledged: Revision::default(),
            rejected: BTreeMap::new(),
            rejections_version: 0,
            pushes: 0,
            resources_sent: 0,
        }
    }

    /// Takes a request: subscriptions first, then the acknowledgement, so that a push is not counted as acknowledged while
    /// the very same request asks for what it led to.
    ///
    /// # Errors
    /// [`Refusal`] ends the stream.
    pub fn hear(&mut self, now: Duration, request: proto::DeltaDiscoveryRequest) -> Result<Heard, Refusal> {
        let mut heard = Heard::default();
        let Some(kind) = ResourceType::find(&request.type_url) else {
            return Err(Refusal::UnknownType(request.type_url.chars().take(200).collect()));
        };
        if let (Some(node), true) = (request.node, self.node_id.is_empty()) {
            self.node_id = cut(node.id, NODE_ID_BYTES_MAX);
        }
        self.has_asked = true;
        for name in &request.resource_names_unsubscribe {
            self.unsubscribe(&parse_subscription(kind, name)?);
        }
        for name in &request.resource_names_subscribe {
            let subscription = parse_subscription(kind, name)?;
            heard.denied.extend(self.subscribe(subscription)?);
        }
        self.resume(kind, &request.initial_resource_versions)?;
        if let Ok(nonce) = request.response_nonce.parse::<u64>() {
            // A nonce that is not outstanding is stale: its subscriptions count, its acknowledgement does not.
            if let Some(sent) = self.outstanding.remove(&nonce) {
                heard.rejected = self.acknowledge(sent, request.error_detail);
                heard.push_took = self.settle(now);
            }
        }
        Ok(heard)
    }

    /// What is to be sent now, given the newest picture. Call it after each `hear` and each new picture.
    pub fn speak(&mut self, now: Duration, snapshot: &Arc<Snapshot>) -> Vec<proto::DeltaDiscoveryResponse> {
        let mut messages = Vec::new();
        if self.push.is_none() && self.has_asked {
            self.begin(now, snapshot);
        }
        while self.outstanding.len() < WINDOW {
            let Some(message) = self.next_message(now) else { break };
            messages.push(message);
        }
        debug_assert!(self.check_invariants());
        messages
    }

    /// Up to which revision the client has everything that it uses, and has said so. Never goes back.
    pub fn acknowledged(&self) -> Revision {
        self.acknowledged
    }

    /// Up to which revision the stream has been projected.
    pub fn cursor(&self) -> Revision {
        self.view.cursor.unwrap_or_default()
    }

    /// Resources that the client would not take (and that have not been replaced since).
    pub fn rejected(&self) -> impl Iterator<Item = &Rejection> {
        self.rejected.values()
    }

    /// Grows when what [`Machine::rejected`] gives changes.
    pub fn rejections_version(&self) -> u64 {
        self.rejections_version
    }

    /// The client's name for itself; empty before its first request.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// When the client will be too slow, as the stream's age; `None` when it owes nothing.
    pub fn overdue_at(&self) -> Option<Duration> {
        self.outstanding.values().next().map(|sent| sent.at + ACK_TIME_MAX)
    }

    /// Pushes begun and resources sent so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.pushes, self.resources_sent)
    }

    fn subscribe(&mut self, subscription: Subscription) -> Result<Option<Subscription>, Refusal> {
        let bound = SUBSCRIPTIONS_MAX;
        if self.view.subscriptions.len() + self.view.fresh.len() >= 2 * bound {
            return Err(Refusal::TooMany { what: "subscriptions", bound });
        }
        self.view.fresh.insert(subscription.clone());
        if !self.may_read(&subscription) {
            return Ok(Some(subscription));
        }
        self.view.subscriptions.insert(subscription);
        if self.view.subscriptions.len() > bound {
            return Err(Refusal::TooMany { what: "subscriptions", bound });
        }
        Ok(None)
    }

    /// Who may read what. Secrets are private keys: only the gateway that serves with them gets them, and the proof is its
    /// certificate (its identity's service is the gateway's own key), never what the request claims. Everything else is
    /// readable to every identity of the mesh, whatever its namespace: a proxy needs a service's declaration, instances
    /// and routes to call it, calls cross namespaces, and who may *call* is decided by the callee's proxy, which needs its
    /// policies. Hiding addresses would not protect what policies do not.
    fn may_read(&self, subscription: &Subscription) -> bool {
        match subscription {
            Subscription::SecretsOf(gateway) => *gateway == self.reader,
            _ => true,
        }
    }

    fn unsubscribe(&mut self, subscription: &Subscription) {
        self.view.fresh.remove(subscription);
        if self.view.subscriptions.remove(subscription) {
            self.view.recheck.insert(subscription.resource_type());
        }
    }

    /// Notes what the client says it has. A name that is no name of ours is skipped: nothing of ours was ever named so.
    fn resume(&mut self, kind: ResourceType, versions: &BTreeMap<String, String>) -> Result<(), Refusal> {
        for (name, version) in versions {
            let Some(key) = resource::parse_name(kind, name) else { continue };
            let revision = resource::parse_version(&self.lineage, version).unwrap_or_default();
            self.view.sent.entry(key).or_insert(revision);
            self.view.recheck.insert(kind);
        }
        if self.view.sent.len() > RESOURCES_MAX {
            return Err(Refusal::TooMany { what: "resources", bound: RESOURCES_MAX });
        }
        Ok(())
    }

    /// Takes an answer to a message; returns how many of its resources were rejected.
    fn acknowledge(&mut self, sent: Sent, error: Option<proto::RpcStatus>) -> usize {
        let mut count = 0;
        let named = error.as_ref().map(reasons).unwrap_or_default();
        for (resource, revision) in sent.resources {
            let reason = match &error {
                None => None,
                // A client that does not say which: all of them.
                Some(error) if named.is_empty() => Some(error.message.clone()),
                Some(_) => named.get(&resource::name(&resource)).cloned(),
            };
            match reason {
                None => self.forgive(&resource),
                Some(reason) => {
                    count += 1;
                    self.reject(Rejection { resource, revision, reason: cut(reason, REASON_BYTES_MAX) });
                }
            }
        }
        count
    }

    fn reject(&mut self, rejection: Rejection) {
        if self.rejected.len() < REJECTIONS_MAX || self.rejected.contains_key(&rejection.resource) {
            self.rejected.insert(rejection.resource.clone(), rejection);
            self.rejections_version += 1;
        }
    }

    fn forgive(&mut self, resource: &ResourceKey) {
        if self.rejected.remove(resource).is_some() {
            self.rejections_version += 1;
        }
    }

    /// Ends the push when all of it is said and answered; returns how long it took.
    fn settle(&mut self, now: Duration) -> Option<Duration> {
        let is_done = self.outstanding.is_empty() && self.push.as_ref()?.items.is_empty();
        let push = is_done.then(|| self.push.take())??;
        self.advance();
        Some(now.saturating_sub(push.began))
    }

    /// What is projected and answered is acknowledged, unless the client waits for more that it already uses or will.
    fn advance(&mut self) {
        if self.view.fresh.is_empty() && self.view.recheck.is_empty() {
            self.acknowledged = self.acknowledged.max(self.cursor());
        }
    }

    fn begin(&mut self, now: Duration, snapshot: &Arc<Snapshot>) {
        let delta = project(snapshot, &self.view);
        self.view.cursor = Some(snapshot.revision());
        self.view.fresh.clear();
        self.view.recheck.clear();
        if delta.is_empty() {
            self.advance();
            return;
        }
        let mut items: Vec<(Option<ResourceType>, u8, Item)> = Vec::new();
        items.extend(delta.changed.into_iter().map(|k| (ResourceType::of(&k), 0, Item::Changed(k))));
        items.extend(delta.removed.into_iter().map(|k| (ResourceType::of(&k), 1, Item::Removed(k))));
        items.extend(delta.answered.into_iter().map(|s| (Some(s.resource_type()), 2, Item::Answered(s))));
        items.sort_by_key(|(kind, order, _)| (*kind, *order));
        let items = items.into_iter().map(|(_, _, item)| item).collect();
        self.push = Some(Push { snapshot: snapshot.clone(), items, began: now });
        self.pushes += 1;
    }

    /// The next message of the push: as many items of one type as fit.
    fn next_message(&mut self, now: Duration) -> Option<proto::DeltaDiscoveryResponse> {
        let push = self.push.as_mut()?;
        let kind = push.items.front()?.resource_type()?;
        let mut message = proto::DeltaDiscoveryResponse {
            system_version_info: push.snapshot.revision().to_string(),
            type_url: kind.url().to_owned(),
            nonce: self.next_nonce.to_string(),
            control_plane: Some(proto::ControlPlane { identifier: self.lineage.to_string() }),
            ..Default::default()
        };
        let mut sent = Sent { at: now, resources: Vec::new() };
        let mut oversized = Vec::new();
        let mut bytes = ENVELOPE_BYTES + message.encoded_len();
        while push.items.front().is_some_and(|item| item.resource_type() == Some(kind)) {
            let Some(item) = push.items.pop_front() else { break };
            match &item {
                Item::Changed(key) => {
                    let Some((revision, payload)) = resource::payload(&push.snapshot, key) else { continue };
                    self.view.sent.insert(key.clone(), revision);
                    if payload.len() > RESOURCE_BYTES_MAX {
                        let reason = format!(
                            "its {} bytes are more than the {RESOURCE_BYTES_MAX} that fit a message [{}]",
                            payload.len(),
                            code::TOO_LARGE
                        );
                        oversized.push(Rejection { resource: key.clone(), revision, reason });
                        continue;
                    }
                    let name = resource::name(key);
                    let size = payload.len() + name.len() + ENVELOPE_BYTES;
                    if bytes + size > MESSAGE_BYTES_MAX {
                        push.items.push_front(item);
                        break;
                    }
                    bytes += size;
                    sent.resources.push((key.clone(), revision));
                    let version = resource::version(&self.lineage, revision);
                    let any = proto::Any { type_url: kind.url().to_owned(), value: payload };
                    message.resources.push(proto::Resource { version, resource: Some(any), name });
                }
                Item::Removed(key) => {
                    let name = resource::name(key);
                    if bytes + name.len() + ENVELOPE_BYTES > MESSAGE_BYTES_MAX {
                        push.items.push_front(item);
                        break;
                    }
                    bytes += name.len() + ENVELOPE_BYTES;
                    self.view.sent.remove(key);
                    if self.rejected.remove(key).is_some() {
                        self.rejections_version += 1;
                    }
                    message.removed_resources.push(name);
                }
                Item::Answered(subscription) => {
                    let name = subscription.to_string();
                    if bytes + name.len() + ENVELOPE_BYTES > MESSAGE_BYTES_MAX {
                        push.items.push_front(item);
                        break;
                    }
                    bytes += name.len() + ENVELOPE_BYTES;
                    message.answered.push(name);
                }
            }
        }
        message.has_more = !push.items.is_empty();
        self.resources_sent += sent.resources.len() as u64;
        self.outstanding.insert(self.next_nonce, sent);
        self.next_nonce += 1;
        oversized.into_iter().for_each(|rejection| self.reject(rejection));
        Some(message)
    }

    /// What must hold between any two calls.
    pub(crate) fn check_invariants(&self) -> bool {
        let is_within_window = self.outstanding.len() <= WINDOW;
        let has_push_while_owed = self.outstanding.is_empty() || self.push.is_some();
        let is_ack_behind_cursor = self.acknowledged <= self.cursor();
        is_within_window && has_push_while_owed && is_ack_behind_cursor
    }
}

impl Item {
    fn resource_type(&self) -> Option<ResourceType> {
        match self {
            Item::Changed(key) | Item::Removed(key) => ResourceType::of(key),
            Item::Answered(subscription) => Some(subscription.resource_type()),
        }
    }
}

fn parse_subscription(kind: ResourceType, name: &str) -> Result<Subscription, Refusal> {
    Subscription::parse(kind, name).ok_or_else(|| {
        let name: String = name.chars().take(200).collect();
        Refusal::NotUnderstood(format!("{name:?} is not a name to subscribe to {} by", kind.url()))
    })
}

/// Which resources a status says were rejected, and why.
fn reasons(status: &proto::RpcStatus) -> BTreeMap<String, String> {
    status
        .details
        .iter()
        .filter(|any| any.type_url == proto::REJECTED_URL)
        .filter_map(|any| proto::RejectedResource::decode(any.value.clone()).ok())
        .map(|rejected| (rejected.name, rejected.reason))
        .collect()
}

fn cut(mut text: String, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
#[path = "stream/tests.rs"]
mod tests;
