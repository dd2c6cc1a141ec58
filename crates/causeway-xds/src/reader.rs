//! The client's machine: what to ask for, and what the answers make of the picture. No task, no clock, no socket.
//!
//! In:    responses of the stream, wishes of the proxy.      Out: requests to send; a [`Snapshot`] that holds only this client's part.
//! Owner: the client's task in `client.rs`.
//! Invariant: what is desired is what can be reached from the role and the wants over the resources in the picture; the picture
//! is offered only when everything desired was answered and no push is half read.
//! Not here: the connection (`link.rs`), the task (`client.rs`), what the server owes (`stream.rs`).
//!
//! ```text
//! Sidecar(S) -> Service S, policies of S                 Gateway(G) -> Gateway G, routes of G, secrets of G      both -> revocations
//! want(U) -> Service U, instances of U, routes of U      route -> each backend, as if wanted      subset -> Service and instances of its parent
//! ```
//! The snapshot's own revision counts what this client published; it is never below the control plane's revision, and a
//! resource's `revision` is the control plane's. (A service asked for on first use arrives with old revisions.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_model::{
    AccessPolicy, Kind, Object, Origin, ParentKind, ResourceKey, Revision, ServiceKey, Snapshot, Spec,
};
use prost::Message;

use crate::picture::Picture;
use crate::project::upstream;
use crate::proto::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::resource::{self, Decoded, ResourceType, Subscription};
use crate::stream::code;

/// Bytes of names in one request: half of what the server takes.
const NAMES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Services that may be wanted on demand; what an app calls beyond that is not resolved.
pub const WANTS_MAX: usize = 4096;
/// `google.rpc.Code.INVALID_ARGUMENT`
const INVALID_ARGUMENT: i32 = 3;

/// What the proxy is there for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It stands beside an instance of this service.
    Sidecar(ServiceKey),
    /// It is this gateway.
    Gateway(ServiceKey),
}

impl Role {
    fn subscriptions(&self) -> Vec<Subscription> {
        match self {
            Role::Sidecar(own) => {
                vec![
                    Subscription::Revocations,
                    Subscription::Service(own.clone()),
                    Subscription::PoliciesOf(own.clone()),
                    Subscription::TrafficIn(own.namespace.clone()),
                ]
            }
            Role::Gateway(own) => vec![
                Subscription::Revocations,
                Subscription::Gateway(own.clone()),
                Subscription::RoutesOf(ParentKind::Gateway, own.clone()),
                Subscription::GrpcRoutesOf(ParentKind::Gateway, own.clone()),
                Subscription::TrafficIn(own.namespace.clone()),
                Subscription::SecretsOf(own.clone()),
            ],
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Reader {
    node_id: String,
    role: Role,
    wants: BTreeSet<ServiceKey>,
    snapshot: Snapshot,
    /// What the revisions in the picture count in; `None` while it holds those of two.
    lineage: Option<String>,
    /// The lineage of the server that is answering now.
    told_lineage: String,
    /// The revision that the server's last whole push was cut at.
    told: Revision,
    published: Revision,
    is_changed: bool,
    /// Between the messages of one push.
    is_mid_push: bool,
    /// A push broke off; what it would have brought is not known until everything was answered again.
    is_torn: bool,
    links: BTreeMap<ResourceKey, Lead>,
    are_links_changed: bool,
    desired: BTreeSet<Subscription>,
    asked: BTreeSet<Subscription>,
    unanswered: BTreeSet<Subscription>,
}

/// What a resource leads to: whoever is subscribed to one of `by` needs all of `to`.
#[derive(Debug, PartialEq, Eq)]
struct Lead {
    by: Vec<Subscription>,
    to: Vec<Subscription>,
}

impl Reader {
    /// A reader that begins with what it last knew, or with nothing.
    pub(crate) fn new(
        node_id: String,
        role: Role,
        wants: BTreeSet<ServiceKey>,
        last: Option<Picture>,
    ) -> Self {
        let last = last.unwrap_or_default();
        let mut reader = Reader {
            node_id,
            role,
            wants,
            snapshot: (*last.snapshot).clone(),
            lineage: last.lineage,
            told_lineage: String::new(),
            told: Revision::default(),
            published: last.snapshot.revision(),
            is_changed: false,
            is_mid_push: false,
            is_torn: false,
            links: BTreeMap::new(),
            are_links_changed: false,
            desired: BTreeSet::new(),
            asked: BTreeSet::new(),
            unanswered: BTreeSet::new(),
        };
        for object in last.snapshot.objects() {
            reader.relink(object);
        }
        reader.follow();
        reader
    }

    /// Begins a stream: asks for everything desired and says what is there already, so that only differences come.
    pub(crate) fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.asked.clear();
        self.unanswered.clear();
        self.is_torn |= self.is_mid_push;
        self.is_mid_push = false;
        self.told_lineage.clear();
        self.drop_unasked_types();
        let mut requests = self.ask();
        let node = proto::Node {
            id: self.node_id.clone(),
            user_agent_name: "causeway".into(),
            user_agent_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        for kind in ResourceType::ALL {
            let Some(at) = requests.iter().position(|request| request.type_url == kind.url()) else {
                continue;
            };
            // The first chunk rides with the subscription, so that the server knows it before it cuts the first push.
            let mut chunks = self.versions(kind).into_iter();
            requests[at].initial_resource_versions = chunks.next().unwrap_or_default();
            requests.extend(chunks.map(|initial_resource_versions| DeltaDiscoveryRequest {
                type_url: kind.url().to_owned(),
                initial_resource_versions,
                ..Default::default()
            }));
        }
        if let Some(first) = requests.first_mut() {
            first.node = Some(node);
        }
        requests
    }

    /// Asks for a service from now on; gives what to send when a stream is open. False when there are too many.
    pub(crate) fn want(&mut self, service: ServiceKey) -> bool {
        if self.wants.len() >= WANTS_MAX && !self.wants.contains(&service) {
            return false;
        }
        if self.wants.insert(service) {
            self.follow();
        }
        true
    }

    /// Takes a response. Give what it returns to the stream, in order: what it led to is asked for before it is
    /// acknowledged, so that the server does not count it as acknowledged before all of it is there.
    pub(crate) fn hear(&mut self, response: DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        self.read_lineage(response.control_plane.as_ref());
        let at = self.revision_for(&response.system_version_info);
        let kind = ResourceType::find(&response.type_url);
        let mut rejected = Vec::new();
        for resource in response.resources {
            if let Err(reason) = self.put(kind, &resource, at) {
                tracing::warn!(
                    resource = resource.name,
                    reason,
                    code = code::REJECTED,
                    "a resource was rejected; the last good one stays"
                );
                self.stand_in(kind, &resource.name, &reason, at);
                rejected.push(proto::RejectedResource { name: resource.name, reason });
            }
        }
        for name in &response.removed_resources {
            if let Some(key) = kind.and_then(|kind| resource::parse_name(kind, name)) {
                self.remove(&key, at);
            }
        }
        for name in &response.answered {
            if let Some(subscription) = kind.and_then(|kind| Subscription::parse(kind, name)) {
                self.unanswered.remove(&subscription);
            }
        }
        self.is_mid_push = response.has_more;
        let mut requests = Vec::new();
        if !self.is_mid_push {
            self.told = parse_revision(&response.system_version_info);
            self.follow();
            requests = self.ask();
            if self.is_settled() {
                self.lineage = Some(self.told_lineage.clone());
                self.is_torn = false;
                // A picture of nothing is a picture too: it says that no policy guards us, and must not look like none at all.
                if self.snapshot.revision() == Revision::default() && self.told > Revision::default() {
                    self.snapshot.advance(self.told);
                    self.is_changed = true;
                }
            }
        }
        requests.push(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: (!rejected.is_empty()).then(|| status(&rejected)),
            ..Default::default()
        });
        requests
    }

    /// Requests for what is desired and not asked for, and against what was asked for and is no longer desired.
    pub(crate) fn ask(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in ResourceType::ALL {
            let of_type =
                |set: &BTreeSet<Subscription>, other: &BTreeSet<Subscription>| -> Vec<Subscription> {
                    set.difference(other).filter(|s| s.resource_type() == kind).cloned().collect()
                };
            let more = of_type(&self.desired, &self.asked);
            let less = of_type(&self.asked, &self.desired);
            for subscription in &less {
                self.asked.remove(subscription);
                self.unanswered.remove(subscription);
            }
            self.asked.extend(more.iter().cloned());
            self.unanswered.extend(more.iter().cloned());
            let names = |list: &[Subscription]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let (more, less) = (chunks(names(&more)), chunks(names(&less)));
            for at in 0..more.len().max(less.len()) {
                requests.push(DeltaDiscoveryRequest {
                    type_url: kind.url().to_owned(),
                    resource_names_subscribe: more.get(at).cloned().unwrap_or_default(),
                    resource_names_unsubscribe: less.get(at).cloned().unwrap_or_default(),
                    ..Default::default()
                });
            }
        }
        requests
    }

    /// Whether everything desired was answered and no push is half read.
    pub(crate) fn is_settled(&self) -> bool {
        !self.is_mid_push && self.unanswered.is_empty() && self.asked == self.desired
    }

    /// Whether the picture differs from the one published last.
    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether a push is half read, so that the picture is of no single moment.
    pub(crate) fn is_half(&self) -> bool {
        self.is_mid_push || self.is_torn
    }

    /// The picture to publish.
    pub(crate) fn publish(&mut self) -> Picture {
        self.published = self.snapshot.revision();
        self.is_changed = false;
        Picture {
            lineage: self.lineage.clone(),
            snapshot: Arc::new(self.snapshot.clone()),
            wants: self.wants.iter().cloned().collect(),
        }
    }

    /// The revision of the control plane that the picture reflects.
    pub(crate) fn told(&self) -> Revision {
        self.told
    }

    /// The services asked for on demand.
    pub(crate) fn wants(&self) -> &BTreeSet<ServiceKey> {
        &self.wants
    }

    fn read_lineage(&mut self, control_plane: Option<&proto::ControlPlane>) {
        self.told_lineage = control_plane.map(|it| it.identifier.clone()).unwrap_or_default();
        let is_empty = self.links.is_empty() && self.snapshot.revision() == Revision::default();
        if self.lineage.as_ref() != Some(&self.told_lineage) {
            // Until everything was answered, the picture holds revisions of both.
            self.lineage = is_empty.then(|| self.told_lineage.clone());
        }
    }

    /// Where in the picture's own counting a change belongs: after what was published, not before the control plane's.
    fn revision_for(&self, told: &str) -> Revision {
        self.published.next().max(self.snapshot.revision()).max(parse_revision(told))
    }

    fn put(
        &mut self,
        kind: Option<ResourceType>,
        told: &proto::Resource,
        at: Revision,
    ) -> Result<(), String> {
        let kind = kind.ok_or("its type is not known here")?;
        let key = resource::parse_name(kind, &told.name).ok_or("its name is not understood")?;
        let any = told.resource.as_ref().ok_or("it has no content")?;
        match resource::decode(&key, &any.value)? {
            Decoded::Object(object) => {
                self.relink(&object);
                self.snapshot.learn_object(object, at);
            }
            Decoded::Instance(instance) => self.snapshot.learn_instance(instance, at),
            Decoded::Revocations(revision, list) => self.snapshot.learn_revocations(list, revision, at),
        }
        self.is_changed = true;
        Ok(())
    }

    /// A policy that guards us and cannot be read, of which no earlier form is known: what it would allow cannot be told, so it
    /// allows nothing.
    fn stand_in(&mut self, kind: Option<ResourceType>, name: &str, reason: &str, at: Revision) {
        let Role::Sidecar(own) = &self.role else { return };
        let kind = kind.filter(|kind| *kind == ResourceType::AccessPolicy);
        let Some(ResourceKey::Object(key)) = kind.and_then(|kind| resource::parse_name(kind, name)) else {
            return;
        };
        if self.snapshot.object(&key).is_some() {
            return;
        }
        let broken = Some(format!("this sidecar cannot read it: {reason} [{}]", code::REJECTED));
        let policy = AccessPolicy { targets: vec![own.clone()], broken, ..AccessPolicy::default() };
        let (origin, spec) = (Origin::Builtin, Spec::AccessPolicy(policy));
        let revision = Revision::default();
        let object = Object { key, origin, revision, spec, conditions: Vec::new(), written: String::new() };
        self.snapshot.learn_object(Arc::new(object), at);
        self.is_changed = true;
    }

    fn remove(&mut self, key: &ResourceKey, at: Revision) {
        if resource::revision(&self.snapshot, key).is_none() {
            return;
        }
        match key {
            ResourceKey::Object(object) => self.snapshot.remove_object(object, at),
            ResourceKey::Instance(instance) => self.snapshot.remove_instance(instance, at),
            ResourceKey::Revocations => {
                self.snapshot.learn_revocations(Arc::default(), Revision::default(), at)
            }
        }
        self.are_links_changed |= self.links.remove(key).is_some();
        self.is_changed = true;
    }

    fn relink(&mut self, object: &Object) {
        let key = ResourceKey::Object(object.key.clone());
        let Some(lead) = lead(object) else {
            self.are_links_changed |= self.links.remove(&key).is_some();
            return;
        };
        if self.links.get(&key) != Some(&lead) {
            self.links.insert(key, lead);
            self.are_links_changed = true;
        }
    }

    /// Works out anew what is desired: a walk from the role and the wants. (Counting references instead would keep circles
    /// alive for ever: a route of a service usually leads back to that service.)
    fn follow(&mut self) {
        let roots = self.role.subscriptions().into_iter().chain(self.wants.iter().flat_map(upstream));
        let mut new: Vec<Subscription> = roots.filter(|root| !self.desired.contains(root)).collect();
        if new.is_empty() && !self.are_links_changed {
            return;
        }
        self.are_links_changed = false;
        let mut leads: BTreeMap<&Subscription, Vec<&Lead>> = BTreeMap::new();
        for lead in self.links.values() {
            lead.by.iter().for_each(|by| leads.entry(by).or_default().push(lead));
        }
        new = self.role.subscriptions();
        new.extend(self.wants.iter().flat_map(upstream));
        let mut desired = BTreeSet::new();
        while let Some(subscription) = new.pop() {
            if desired.contains(&subscription) {
                continue;
            }
            for lead in leads.get(&subscription).into_iter().flatten() {
                new.extend(lead.to.iter().filter(|to| !desired.contains(*to)).cloned());
            }
            desired.insert(subscription);
        }
        self.desired = desired;
    }

    /// Forgets resources of types that are no longer asked for at all (a picture of another role): no answer will name them.
    fn drop_unasked_types(&mut self) {
        let asked: BTreeSet<ResourceType> = self.desired.iter().map(Subscription::resource_type).collect();
        let at = self.revision_for("");
        for key in
            self.keys().into_iter().filter(|key| ResourceType::of(key).is_none_or(|k| !asked.contains(&k)))
        {
            self.remove(&key, at);
        }
    }

    fn keys(&self) -> Vec<ResourceKey> {
        let objects = self.snapshot.objects().map(|object| ResourceKey::Object(object.key.clone()));
        let instances = self.snapshot.instances().map(|i| ResourceKey::Instance(i.key.clone()));
        let list =
            resource::revision(&self.snapshot, &ResourceKey::Revocations).map(|_| ResourceKey::Revocations);
        objects.chain(instances).chain(list).collect()
    }

    /// What the picture has of a type: name to version, in chunks that fit a request.
    fn versions(&self, kind: ResourceType) -> Vec<BTreeMap<String, String>> {
        let mut chunks = vec![BTreeMap::new()];
        let mut bytes = 0;
        for key in self.keys().into_iter().filter(|key| ResourceType::of(key) == Some(kind)) {
            let revision = resource::revision(&self.snapshot, &key).unwrap_or_default();
            let version = match &self.lineage {
                Some(lineage) => resource::version(lineage, revision),
                None => "?".to_owned(),
            };
            let name = resource::name(&key);
            bytes += name.len() + version.len() + 16;
            if bytes > NAMES_BYTES_MAX {
                chunks.push(BTreeMap::new());
                bytes = 0;
            }
            if let Some(chunk) = chunks.last_mut() {
                chunk.insert(name, version);
            }
        }
        chunks
    }
}

/// What an object leads to, when it leads anywhere.
fn lead(object: &Object) -> Option<Lead> {
    let own = || ServiceKey::new(object.key.namespace.clone(), object.key.name.clone());
    match &object.spec {
        Spec::HttpRoute(route) | Spec::GrpcRoute(route) => {
            let by_kind = match object.key.kind {
                Kind::GrpcRoute => Subscription::GrpcRoutesOf,
                _ => Subscription::RoutesOf,
            };
            let key = |p: &causeway_model::ParentRef| ServiceKey::new(p.namespace.clone(), p.name.clone());
            let by = route.parents.iter().map(|p| by_kind(p.kind, key(p))).collect();
            let backends: BTreeSet<&ServiceKey> = route.destinations().map(|(service, _)| service).collect();
            Some(Lead { by, to: backends.into_iter().flat_map(upstream).collect() })
        }
        Spec::Service(service) => {
            let subset = service.subset.as_ref()?;
            let parent = ServiceKey::new(object.key.namespace.clone(), subset.of.clone());
            // The declaration of one's own service alone (a sidecar's) brings nothing to call; instances do.
            let by = vec![Subscription::InstancesOf(own())];
            Some(Lead {
                by,
                to: vec![Subscription::Service(parent.clone()), Subscription::InstancesOf(parent)],
            })
        }
        _ => None,
    }
}

fn parse_revision(text: &str) -> Revision {
    Revision::new(text.parse().unwrap_or(0))
}

fn chunks(names: Vec<String>) -> Vec<Vec<String>> {
    let mut chunks: Vec<Vec<String>> = Vec::new();
    let mut bytes = usize::MAX;
    for name in names {
        if bytes.saturating_add(name.len()) > NAMES_BYTES_MAX {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += name.len() + 8;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(name);
        }
    }
    chunks
}

/// The status that rejects these resources and accepts the others.
fn status(rejected: &[proto::RejectedResource]) -> proto::RpcStatus {
    let first = &rejected[0];
    let details = rejected.iter().map(|rejected| proto::Any {
        type_url: proto::REJECTED_URL.to_owned(),
        value: rejected.encode_to_vec().into(),
    });
    proto::RpcStatus {
        code: INVALID_ARGUMENT,
        message: format!(
            "{} resources were rejected, first {}: {}",
            rejected.len(),
            first.name,
            first.reason
        ),
        details: details.collect(),
    }
}

#[cfg(test)]
#[path = "reader/tests.rs"]
mod tests;
