//! Makes a plan from a picture: everything from documents when a document changed, else only the services that did.
//!
//! In:    a Snapshot, the role, the last plan.      Out: the next plan.
//! Owner: the planner task; it alone holds a [`Compiler`].
//! Invariant: what a plan says never changes; what did not change is shared with the plan before.
//! Not here: services and their endpoints (`services`), which policy decides (`policy`), publishing and waiting (`planner`).

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use causeway_filters::access::{self, Access};
use causeway_identity::Credentials;
use causeway_model::{
    AccessPolicy, ConditionKind, Filter, Gateway, HttpRoute, Kind, Listener, ListenerProtocol, Locality,
    Object, ObjectKey, ParentKind, ParentRef, PathMatch, RequestMatch, ResourceKey, Revision, ServiceKey,
    Snapshot, Spec,
};

use super::policy::Policies;
use super::services::{Services, Wish, owner};
use super::{Choice, Door, Listening, MeshRoutes, Mirror, Plan, Rule, Rules, Service};
use crate::config::Role;
use crate::endpoint::Micros;
use crate::limits::RETRIES_MAX;
use crate::routes::{Offer, Routes};
use crate::tls::DoorTls;

/// Builds plans, one after the other.
pub(crate) struct Compiler {
    role: Role,
    services: Services,
    policies: Policies,
}

impl Compiler {
    /// Of a proxy in this role, with this identity (when it has one), at this place.
    pub(crate) fn new(role: Role, credentials: Option<Credentials>, here: Locality) -> Self {
        Compiler { role, services: Services::new(credentials, here), policies: Policies::default() }
    }

    /// Whether connections by address are led here.
    fn is_transparent(&self) -> bool {
        matches!(&self.role, Role::Sidecar(sidecar) if !sidecar.transparent.is_empty())
    }

    /// The plan for a picture.
    pub(crate) fn compile(&mut self, snapshot: &Snapshot, last: Option<&Plan>, now: Micros) -> Plan {
        match last.and_then(|last| Some((last, changed_services(snapshot, last)?))) {
            Some((last, changed)) => self.refresh(snapshot, last, &changed, now),
            None => self.compile_all(snapshot, last, now),
        }
    }

    fn compile_all(&mut self, snapshot: &Snapshot, last: Option<&Plan>, now: Micros) -> Plan {
        self.policies = Policies::new(snapshot, is_refused, std::mem::take(&mut self.policies));
        let rules = Arc::new(self.rules(snapshot));
        let mut services = HashMap::new();
        for key in snapshot.service_keys() {
            let service = self.service(snapshot, &rules, last, key.clone(), now);
            services.insert(key, service);
        }
        self.services.tidy();
        Plan { revision: snapshot.revision(), rules, services }
    }

    fn refresh(
        &mut self,
        snapshot: &Snapshot,
        last: &Plan,
        changed: &BTreeSet<ServiceKey>,
        now: Micros,
    ) -> Plan {
        let mut services = last.services.clone();
        for key in changed {
            let is_known = snapshot.service(key).is_some() || snapshot.instances_of(key).next().is_some();
            if is_known {
                let service = self.service(snapshot, &last.rules, Some(last), key.clone(), now);
                services.insert(key.clone(), service);
            } else {
                services.remove(key);
            }
        }
        if self.services.remembered() > 1024 + 2 * snapshot.instance_count() {
            self.services.tidy();
        }
        Plan { revision: snapshot.revision(), rules: last.rules.clone(), services }
    }

    fn service(
        &mut self,
        snapshot: &Snapshot,
        rules: &Rules,
        last: Option<&Plan>,
        key: ServiceKey,
        now: Micros,
    ) -> Arc<Service> {
        let owner = owner(snapshot, &key);
        let policy = self.policies.of_service(&key, (owner != key).then_some(&owner.name));
        let is_sticky = policy.affinity.is_some() || rules.sticky.contains(&key);
        let wants_places = self.is_transparent();
        self.services.build(snapshot, Wish { key, policy, is_sticky, wants_places, last, now })
    }

    // === rules ===

    fn rules(&self, snapshot: &Snapshot) -> Rules {
        let mut rules = Rules::default();
        let sticky = RefCell::default();
        let picture = Picture { snapshot, policies: &self.policies, sticky: &sticky };
        match &self.role {
            Role::Gateway { key: (namespace, name), bind } => {
                let key = ObjectKey { kind: Kind::Gateway, namespace: namespace.clone(), name: name.clone() };
                if let Some(object) = snapshot.object(&key)
                    && let Spec::Gateway(gateway) = &object.spec
                {
                    rules.doors = doors(picture, object, gateway, *bind, &mut rules.problems);
                }
            }
            Role::Sidecar(sidecar) => {
                rules.mesh = mesh(picture, &sidecar.service, &mut rules.problems);
                rules.own = self.policies.of_service(&sidecar.service, None);
                // Before the first picture nobody knows what guards the app; a picture of nothing has a revision.
                let is_known = snapshot.revision() > Revision::default();
                rules.access = is_known.then(|| Arc::new(access(snapshot, &sidecar.service)));
            }
            Role::Client { source } => rules.mesh = mesh(picture, source, &mut rules.problems),
        }
        rules.sticky = sticky.into_inner();
        rules.has_sessions = self.policies.has_sessions();
        rules
    }
}

/// The services that changed since `last`, or `None` when documents did (or nobody knows).
fn changed_services(snapshot: &Snapshot, last: &Plan) -> Option<BTreeSet<ServiceKey>> {
    // The plan before the first picture knows of no rule at all.
    if snapshot.revision() < last.revision || last.revision == Revision::default() {
        return None;
    }
    let mut changed = BTreeSet::new();
    for (_, key) in snapshot.changes_since(last.revision)? {
        match key {
            ResourceKey::Instance(instance) => drop(changed.insert(instance.service.clone())),
            // Asked at handshakes and of connections, not of requests: no part of a plan.
            ResourceKey::Revocations => {}
            ResourceKey::Object(object) => match object.kind {
                Kind::Topic | Kind::Subscription | Kind::Saga => {}
                _ => return None,
            },
        }
    }
    // A subset has the instances of another service.
    for object in snapshot.objects_of(Kind::Service) {
        if let Spec::Service(service) = &object.spec
            && let Some(subset) = &service.subset
            && changed.contains(&ServiceKey::new(object.key.namespace.clone(), subset.of.clone()))
        {
            changed.insert(ServiceKey::new(object.key.namespace.clone(), object.key.name.clone()));
        }
    }
    Some(changed)
}

fn is_refused(object: &Object) -> bool {
    object.conditions.iter().any(|c| c.kind == ConditionKind::Accepted && !c.is_true)
}

fn routes(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Object>, &HttpRoute)> {
    let objects = snapshot.objects_of(Kind::HttpRoute).chain(snapshot.objects_of(Kind::GrpcRoute));
    objects.filter(|object| !is_refused(object)).filter_map(|object| match &object.spec {
        Spec::HttpRoute(route) | Spec::GrpcRoute(route) => Some((object, route)),
        _ => None,
    })
}

fn access(snapshot: &Snapshot, service: &ServiceKey) -> Access {
    let documents = snapshot.objects_of(Kind::AccessPolicy).filter_map(|object| match &object.spec {
        Spec::AccessPolicy(policy) => Some(access::Document {
            name: format!("{}/{}", object.key.namespace, object.key.name).into(),
            place: object.origin.to_string(),
            policy: guarding_wholes(snapshot, policy),
        }),
        _ => None,
    });
    Access::new(service.clone(), documents)
}

/// A part of a service has no sidecar of its own: a policy that names one guards the whole. (A picture that was cut for one sidecar
/// does not hold the part's declaration; whoever cut it has put the whole beside it.)
fn guarding_wholes(snapshot: &Snapshot, policy: &AccessPolicy) -> AccessPolicy {
    let wholes = policy.targets.iter().filter_map(|target| snapshot.whole_of(target));
    let targets = policy.targets.iter().cloned().chain(wholes).collect();
    AccessPolicy { targets, ..policy.clone() }
}

/// What rules are made of.
#[derive(Clone, Copy)]
struct Picture<'a> {
    snapshot: &'a Snapshot,
    policies: &'a Policies,
    /// Services of rules whose clients stay with an endpoint.
    sticky: &'a RefCell<BTreeSet<ServiceKey>>,
}

// === gateway ===

fn doors(
    picture: Picture<'_>,
    object: &Object,
    gateway: &Gateway,
    bind: Option<IpAddr>,
    problems: &mut Vec<String>,
) -> Vec<Door> {
    let mut addresses: Vec<IpAddr> = match bind {
        Some(address) => vec![address],
        None => gateway.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
    let mut ports: Vec<u16> = gateway.listeners.iter().map(|listener| listener.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let mut doors = Vec::new();
    for (address, port) in addresses.iter().flat_map(|a| ports.iter().map(|port| (*a, *port))) {
        let here: Vec<&Listener> = gateway.listeners.iter().filter(|l| l.port == port).collect();
        let protocol = here[0].protocol;
        if here.iter().any(|listener| listener.protocol != protocol) {
            problems.push(format!(
                "Gateway {}: listeners on port {port} speak different protocols and are not opened, written at {} [CW-1502]",
                object.key, object.origin
            ));
            continue;
        }
        let tls = match protocol {
            ListenerProtocol::Http => None,
            ListenerProtocol::Https => match DoorTls::new(picture.snapshot, &here) {
                Ok(tls) => Some(tls),
                Err(why) => {
                    problems.push(format!(
                        "{}: the HTTPS listener on port {port} is not opened: {why}, written at {} [CW-1503]",
                        object.key, object.origin
                    ));
                    continue;
                }
            },
        };
        let listeners = here.iter().map(|listener| listening(picture, object, listener, problems)).collect();
        doors.push(Door { address: SocketAddr::new(address, port), tls, listeners });
    }
    doors
}

fn listening(
    picture: Picture<'_>,
    gateway: &Object,
    listener: &Listener,
    problems: &mut Vec<String>,
) -> Listening {
    let mut table = Routes::default();
    for (object, route) in routes(picture.snapshot) {
        let is_ours = |parent: &ParentRef| {
            parent.kind == ParentKind::Gateway
                && parent.namespace == gateway.key.namespace
                && parent.name == gateway.key.name
                && parent.section.as_ref().is_none_or(|section| *section == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        };
        let may_attach = listener.is_open_to_all_namespaces || object.key.namespace == gateway.key.namespace;
        if may_attach && route.parents.iter().any(is_ours) {
            enter(picture, &mut table, object, route, &route.hostnames, problems);
        }
    }
    table.seal();
    let host = listener.hostname.as_ref().map(|host| host.to_ascii_lowercase());
    let is_wildcard = host.as_ref().is_some_and(|host| host.starts_with('*'));
    let host = host.map(|host| host.strip_prefix('*').map(str::to_owned).unwrap_or(host));
    Listening { host, is_wildcard, routes: table }
}

// === mesh ===

/// Routes that hang on services. One in the caller's own namespace (a consumer's) goes before one in the service's (its
/// producer's); one in any other namespace does not count (GAMMA, GEP-1426).
fn mesh(
    picture: Picture<'_>,
    caller: &ServiceKey,
    problems: &mut Vec<String>,
) -> HashMap<ServiceKey, MeshRoutes> {
    let mut tables: HashMap<(ServiceKey, Option<u16>, bool), Routes<Rule>> = HashMap::new();
    for (object, route) in routes(picture.snapshot) {
        for parent in route.parents.iter().filter(|parent| parent.kind == ParentKind::Service) {
            let service = ServiceKey::new(parent.namespace.clone(), parent.name.clone());
            let is_producers = object.key.namespace == service.namespace;
            if !is_producers && object.key.namespace != caller.namespace {
                continue;
            }
            let table = tables.entry((service, parent.port, is_producers)).or_default();
            enter(picture, table, object, route, &[], problems);
        }
    }
    // Within a service: the consumer's before the producer's, a port's own before every port's.
    let mut sorted: Vec<_> = tables.into_iter().collect();
    sorted.sort_by_key(|((_, port, is_producers), _)| (*is_producers, port.is_none(), *port));
    let mut mesh: HashMap<ServiceKey, MeshRoutes> = HashMap::new();
    for ((service, port, _), mut table) in sorted {
        table.seal();
        mesh.entry(service).or_default().by_port.push((port, table));
    }
    mesh
}

// === a route's rules ===

fn enter(
    picture: Picture<'_>,
    table: &mut Routes<Rule>,
    object: &Object,
    route: &HttpRoute,
    hosts: &[String],
    problems: &mut Vec<String>,
) {
    let every =
        RequestMatch { path: PathMatch::Prefix("/".into()), headers: vec![], query: vec![], method: None };
    let name: Arc<str> = format!("{}/{}", object.key.namespace, object.key.name).into();
    for (at, written) in route.rules.iter().enumerate() {
        let rule = Arc::new(rule(picture, object, at, written));
        if let Some(why) = &rule.broken {
            problems.push(format!("{}: {why}, written at {} [CW-1501]", rule.label, object.origin));
        }
        let matches =
            if written.matches.is_empty() { std::slice::from_ref(&every) } else { &written.matches };
        for (index, matching) in matches.iter().enumerate() {
            let offer = Offer { hosts, matching, place: (name.clone(), at, index), rule: &rule };
            if let Err(why) = table.offer(&offer) {
                problems.push(format!(
                    "{}: match {} is left out: {why}, written at {} [CW-1501]",
                    rule.label,
                    index + 1,
                    object.origin
                ));
            }
        }
    }
}

fn rule(picture: Picture<'_>, object: &Object, at: usize, written: &causeway_model::Rule) -> Rule {
    let (filters, broken) = match causeway_filters::compile(&written.filters) {
        Ok(filters) => (filters, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let choices: Vec<Choice> =
        written.backends.iter().map(|backend| choice(picture, object, backend)).collect();
    let label: Arc<str> = format!("{} rule {}", object.key, at + 1).into();
    let policy = picture.policies.of_rule(object, written.name.as_deref(), &label, written.affinity.as_ref());
    if policy.affinity.is_some() {
        picture.sticky.borrow_mut().extend(choices.iter().map(|choice| choice.service.clone()));
    }
    Rule {
        label,
        written_at: object.origin.to_string().into(),
        policy,
        filters,
        mirrors: mirrors(&written.filters),
        weight: choices.iter().fold(0, |sum: u32, choice| sum.saturating_add(choice.weight)),
        choices,
        timeout: written.timeouts.request,
        try_timeout: written.timeouts.backend_request,
        retries: written.retry.as_ref().map(|retry| retry.attempts.min(RETRIES_MAX)),
        retry_codes: written.retry.as_ref().map(|retry| retry.codes.clone()).unwrap_or_default(),
        backoff: written.retry.as_ref().and_then(|retry| retry.backoff),
        broken,
    }
}

fn mirrors(filters: &[Filter]) -> Vec<Mirror> {
    let mirror = |filter: &Filter| match filter {
        Filter::Mirror { service, port, share } => {
            Some(Mirror { service: service.clone(), port: *port, share: *share })
        }
        _ => None,
    };
    filters.iter().filter_map(mirror).collect()
}

fn choice(picture: Picture<'_>, route: &Object, backend: &causeway_model::Backend) -> Choice {
    let (filters, mut broken) = match causeway_filters::compile(&backend.filters) {
        Ok(filters) => (filters, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let is_foreign = backend.service.namespace != route.key.namespace;
    let is_ungranted = route.conditions.iter().any(|condition| {
        condition.kind == ConditionKind::ResolvedRefs
            && !condition.is_true
            && condition.reason == "RefNotPermitted"
    });
    if is_foreign && is_ungranted {
        broken = Some(format!("no ReferenceGrant lets {} use {}", route.key, backend.service));
    }
    // A port that the document does not declare is a reference to nothing; a service that is not there may still come.
    if let (Some(port), Some(service)) = (backend.port, picture.snapshot.service(&backend.service))
        && !service.ports.is_empty()
        && service.ports.iter().all(|declared| declared.port != port)
    {
        broken = Some(format!("Service {} has no port {port}", backend.service));
    }
    Choice {
        service: backend.service.clone(),
        port: backend.port,
        weight: backend.weight,
        filters,
        mirrors: mirrors(&backend.filters),
        broken,
    }
}
