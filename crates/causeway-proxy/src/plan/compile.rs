//! Makes a plan from a picture: everything from documents when a document changed, else only the services that did.
//!
//! In:    a Snapshot, the role, the last plan.      Out: the next plan.
//! Owner: the planner task; it alone holds a [`Compiler`].
//! Invariant: an endpoint of the same address and expectations keeps its number and its vitals.
//! Not here: publishing and waiting (`planner`).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use causeway_filters::access::Access;
use causeway_model::{
    ConditionKind, Gateway, Health, HttpRoute, Instance, Kind, Lifecycle, Listener, ListenerProtocol, Object,
    ObjectKey, ParentKind, ParentRef, PathMatch, Protocol, RequestMatch, ResourceKey, ServiceKey, Snapshot,
    Spec, SpiffeId, StaticEndpoint, TrustDomain,
};

use super::policy::Policies;
use super::{Choice, Door, Listening, MeshRoutes, Place, Plan, Port, Rule, Rules, Service};
use crate::balance::Group;
use crate::config::Role;
use crate::endpoint::{Endpoint, Micros, Transport, Vitals};
use crate::limits::{RETRIES_MAX, STORY_LINES_MAX};
use crate::routes::{Offer, Routes};
use crate::story::NotChosen;
use crate::tls::DoorTls;

/// Builds plans, one after the other.
pub(crate) struct Compiler {
    role: Role,
    /// Whose identities mesh endpoints must prove; none before this proxy has an identity of its own.
    trust_domain: Option<TrustDomain>,
    endpoints: HashMap<EndpointKey, (u64, Arc<Vitals>)>,
    endpoint_next: u64,
    numbers: HashMap<ServiceKey, usize>,
    policies: Policies,
}

type EndpointKey = (String, u16, TransportKey);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TransportKey {
    Http1,
    Http2,
    Mesh(SpiffeId),
    Tcp,
    MeshTcp(SpiffeId, Option<u16>),
}

impl Compiler {
    pub(crate) fn new(role: Role, trust_domain: Option<TrustDomain>) -> Self {
        let numbers = HashMap::new();
        let (endpoints, policies) = (HashMap::new(), Policies::default());
        Compiler { role, trust_domain, endpoints, endpoint_next: 1, numbers, policies }
    }

    /// Whether connections by address are led here.
    fn is_transparent(&self) -> bool {
        matches!(&self.role, Role::Sidecar(sidecar) if !sidecar.transparent.is_empty())
    }

    /// The plan for a picture.
    pub(crate) fn compile(&mut self, snapshot: &Snapshot, last: Option<&Plan>, now: Micros) -> Plan {
        match last.and_then(|last| Some((last, changed_services(snapshot, last)?))) {
            Some((last, changed)) => self.refresh(snapshot, last, &changed, now),
            None => self.compile_all(snapshot, now),
        }
    }

    fn compile_all(&mut self, snapshot: &Snapshot, now: Micros) -> Plan {
        self.policies = Policies::new(snapshot, is_refused, std::mem::take(&mut self.policies));
        let keys = snapshot.service_keys();
        let services = keys.into_iter().map(|key| (key.clone(), self.service(snapshot, key, now))).collect();
        self.endpoints.retain(|_, (_, vitals)| Arc::strong_count(vitals) > 1);
        let rules = Arc::new(self.rules(snapshot));
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
            match is_known {
                true => drop(services.insert(key.clone(), self.service(snapshot, key.clone(), now))),
                false => drop(services.remove(key)),
            }
        }
        if self.endpoints.len() > 1024 + 2 * snapshot.instance_count() {
            self.endpoints.retain(|_, (_, vitals)| Arc::strong_count(vitals) > 1);
        }
        Plan { revision: snapshot.revision(), rules: last.rules.clone(), services }
    }

    // === services ===

    fn service(&mut self, snapshot: &Snapshot, key: ServiceKey, now: Micros) -> Arc<Service> {
        let declared = snapshot.service(&key);
        let owner = match declared.and_then(|service| service.subset.as_ref()) {
            Some(subset) => ServiceKey::new(key.namespace.clone(), subset.of.clone()),
            None => key.clone(),
        };
        let instances: Vec<&Arc<Instance>> =
            snapshot.instances_of(&key).filter(|instance| instance.is_routable()).collect();
        let statics = declared.map_or(&[][..], |service| &service.endpoints);
        let declared_ports = declared.map_or(&[][..], |service| &service.ports);
        let mut places = Places { is_wanted: self.is_transparent(), all: Vec::new() };
        let mut ports: Vec<Port> = Vec::new();
        for port in declared_ports {
            let name = port.name.as_ref().map(|name| name.as_str());
            let ours = statics.iter().filter_map(|e| self.static_endpoint(e, name, port.protocol, now));
            let mut endpoints: Vec<_> = ours.collect();
            let wanted =
                Wanted { port: name.map_or(WantedPort::Main, WantedPort::Named), protocol: port.protocol };
            places.statics(&endpoints, port.protocol);
            endpoints.extend(instances.iter().filter_map(|i| {
                let endpoint = self.instance(&owner, i, wanted, now)?;
                places.instance(i, wanted, &endpoint);
                Some(endpoint)
            }));
            ports.push(Port {
                number: Some(port.port),
                protocol: port.protocol,
                group: Group::new(endpoints),
            });
        }
        if declared_ports.is_empty() {
            let protocol = protocol_of(&instances, !statics.is_empty());
            let ours = statics.iter().filter_map(|e| self.static_endpoint(e, None, protocol, now));
            let mut endpoints: Vec<_> = ours.collect();
            let wanted = Wanted { port: WantedPort::Main, protocol };
            places.statics(&endpoints, protocol);
            endpoints.extend(instances.iter().filter_map(|i| {
                let endpoint = self.instance(&owner, i, wanted, now)?;
                places.instance(i, wanted, &endpoint);
                Some(endpoint)
            }));
            ports.push(Port { number: None, protocol, group: Group::new(endpoints) });
            let named: BTreeSet<u16> = instances.iter().flat_map(|i| i.ports.values().copied()).collect();
            for number in named {
                let wanted = Wanted { port: WantedPort::Number(number), protocol };
                let endpoints = instances.iter().filter_map(|i| self.instance(&owner, i, wanted, now));
                ports.push(Port { number: Some(number), protocol, group: Group::new(endpoints.collect()) });
            }
        }
        let next = self.numbers.len();
        let number = *self.numbers.entry(key.clone()).or_insert(next);
        let choice =
            Choice { service: key.clone(), port: None, weight: 1, filters: Vec::new(), broken: None };
        let direct = Arc::new(Rule { choices: vec![choice], weight: 1, ..Rule::default() });
        let left_out = left_out(snapshot, &key, self.trust_domain.is_some());
        let subset_of = (owner != key).then_some(&owner.name);
        let policy = self.policies.of_service(&key, subset_of);
        let is_declared = !declared_ports.is_empty();
        Arc::new(Service { key, number, ports, is_declared, direct, left_out, policy, places: places.all })
    }

    fn static_endpoint(
        &mut self,
        endpoint: &StaticEndpoint,
        port_name: Option<&str>,
        protocol: Protocol,
        now: Micros,
    ) -> Option<Arc<Endpoint>> {
        let named = port_name.and_then(|name| endpoint.ports.get(name)).copied();
        let only = endpoint.ports.values().next().copied().filter(|_| endpoint.ports.len() == 1);
        let port = named.or(endpoint.port).or(only)?;
        let transport = plain(protocol)?;
        let name = format!("{}:{port}", endpoint.address);
        self.endpoint(name, &endpoint.address, port, transport, endpoint.weight, now)
    }

    fn instance(
        &mut self,
        owner: &ServiceKey,
        instance: &Instance,
        wanted: Wanted<'_>,
        now: Micros,
    ) -> Option<Arc<Endpoint>> {
        let name = instance.key.id.as_str().to_owned();
        let port = wanted.port_of(instance)?;
        let is_main = port == instance.port;
        let is_raw = wanted.protocol.is_raw();
        match (&instance.mesh, &self.trust_domain) {
            // What is HTTP is guarded as HTTP, so its sidecar never gives it out as bytes; and bytes are no HTTP.
            (Some(_), _) if is_main && is_raw != instance.protocol.is_raw() => None,
            (Some(mesh), Some(trust_domain)) => {
                let expected = SpiffeId::new(trust_domain.clone(), owner.clone());
                let transport = match (is_raw, is_main) {
                    (true, _) => Transport::MeshTcp(expected, (!is_main).then_some(port)),
                    (false, true) => Transport::Mesh(expected),
                    // A sidecar takes requests for one port of its app.
                    (false, false) => return None,
                };
                self.endpoint(name, &mesh.address, mesh.port, transport, instance.weight, now)
            }
            // Behind a sidecar there is no plaintext door, and without an identity we cannot pass the other one.
            (Some(_), None) => None,
            (None, _) => {
                let protocol = if is_raw { wanted.protocol } else { instance.protocol };
                let transport =
                    plain(protocol).filter(|transport| is_raw == (*transport == Transport::Tcp))?;
                self.endpoint(name, &instance.address, port, transport, instance.weight, now)
            }
        }
    }

    fn endpoint(
        &mut self,
        name: String,
        host: &str,
        port: u16,
        transport: Transport,
        weight: u32,
        now: Micros,
    ) -> Option<Arc<Endpoint>> {
        if weight == 0 {
            return None;
        }
        let transport_key = match &transport {
            Transport::Http1 => TransportKey::Http1,
            Transport::Http2 => TransportKey::Http2,
            Transport::Mesh(id) => TransportKey::Mesh(id.clone()),
            Transport::Tcp => TransportKey::Tcp,
            Transport::MeshTcp(id, port) => TransportKey::MeshTcp(id.clone(), *port),
        };
        let next = &mut self.endpoint_next;
        let (id, vitals) =
            self.endpoints.entry((host.to_owned(), port, transport_key)).or_insert_with(|| {
                *next += 1;
                (*next, Arc::new(Vitals::born_at(now)))
            });
        // In no plan any more, so it was gone: what is known of it is of an earlier life, mostly of how that ended.
        if Arc::strong_count(vitals) == 1 {
            *vitals = Arc::new(Vitals::born_at(now));
        }
        let (id, vitals) = (*id, vitals.clone());
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let address = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        let host = bare.to_owned();
        Some(Arc::new(Endpoint { id, name, host, port, address, transport, weight, vitals }))
    }

    // === rules ===

    fn rules(&self, snapshot: &Snapshot) -> Rules {
        let mut rules = Rules::default();
        let picture = Picture { snapshot, policies: &self.policies };
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
                rules.access = Some(Arc::new(access(snapshot, &sidecar.service)));
            }
            Role::Client { source } => rules.mesh = mesh(picture, source, &mut rules.problems),
        }
        rules
    }
}

/// The services that changed since `last`, or `None` when documents did (or nobody knows).
fn changed_services(snapshot: &Snapshot, last: &Plan) -> Option<BTreeSet<ServiceKey>> {
    if snapshot.revision() < last.revision {
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

/// Instances that take no calls, and why.
fn left_out(snapshot: &Snapshot, key: &ServiceKey, has_identity: bool) -> Vec<(Box<str>, NotChosen)> {
    let why = |instance: &Instance| match () {
        () if instance.weight == 0 => Some(NotChosen::Weightless),
        () if !matches!(instance.lifecycle, Lifecycle::Up | Lifecycle::Suspect) => Some(NotChosen::Draining),
        () if instance.health == Health::Critical => Some(NotChosen::Unhealthy),
        () if instance.mesh.is_some() && !has_identity => Some(NotChosen::NoIdentity),
        () => None,
    };
    let out = snapshot.instances_of(key).filter_map(|i| Some((i.key.id.as_str().into(), why(i)?)));
    out.take(STORY_LINES_MAX).collect()
}

/// Which port of an instance is wanted, and to speak what.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    port: WantedPort<'a>,
    protocol: Protocol,
}

#[derive(Clone, Copy)]
enum WantedPort<'a> {
    Main,
    /// The main one when the instance has none of that name.
    Named(&'a str),
    Number(u16),
}

impl Wanted<'_> {
    fn port_of(self, instance: &Instance) -> Option<u16> {
        match self.port {
            WantedPort::Main => Some(instance.port),
            WantedPort::Named(name) => Some(instance.ports.get(name).copied().unwrap_or(instance.port)),
            WantedPort::Number(number) => {
                instance.ports.values().copied().chain([instance.port]).find(|port| *port == number)
            }
        }
    }
}

/// Where a service's instances are to whoever calls them by address.
struct Places {
    is_wanted: bool,
    all: Vec<Place>,
}

impl Places {
    fn instance(&mut self, instance: &Instance, wanted: Wanted<'_>, endpoint: &Arc<Endpoint>) {
        let at = instance.address.parse::<IpAddr>().ok().zip(wanted.port_of(instance));
        if let (true, Some(at)) = (self.is_wanted, at) {
            let (address, protocol) = (SocketAddr::from(at), wanted.protocol);
            self.all.push(Place { address, protocol, endpoint: endpoint.clone() });
        }
    }

    fn statics(&mut self, endpoints: &[Arc<Endpoint>], protocol: Protocol) {
        let endpoints = endpoints.iter().filter(|_| self.is_wanted);
        self.all.extend(endpoints.filter_map(|endpoint| {
            Some(Place { address: endpoint.address?, protocol, endpoint: endpoint.clone() })
        }));
    }
}

/// What is spoken with a service that declares no ports: bytes when all its instances do.
fn protocol_of(instances: &[&Arc<Instance>], has_statics: bool) -> Protocol {
    let http = instances.iter().map(|instance| instance.protocol).find(|protocol| !protocol.is_raw());
    match (http, instances.first()) {
        (None, Some(first)) if !has_statics => first.protocol,
        (http, _) => http.unwrap_or_default(),
    }
}

fn plain(protocol: Protocol) -> Option<Transport> {
    match protocol {
        Protocol::Http => Some(Transport::Http1),
        Protocol::H2c | Protocol::Grpc => Some(Transport::Http2),
        Protocol::Tcp | Protocol::Tls => Some(Transport::Tcp),
        Protocol::Udp => None,
    }
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
    let policies = snapshot.objects_of(Kind::AccessPolicy).filter_map(|object| match &object.spec {
        Spec::AccessPolicy(policy) => {
            Some((format!("{}/{}", object.key.namespace, object.key.name), policy.clone()))
        }
        _ => None,
    });
    Access::new(service.clone(), policies)
}

/// What rules are made of.
#[derive(Clone, Copy)]
struct Picture<'a> {
    snapshot: &'a Snapshot,
    policies: &'a Policies,
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
    Rule {
        label,
        written_at: object.origin.to_string().into(),
        policy,
        filters,
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
    Choice { service: backend.service.clone(), port: backend.port, weight: backend.weight, filters, broken }
}

#[cfg(test)]
mod tests {
    use causeway_model::{Object, ObjectKey, Origin, Revision, Spec, StaticEndpoint};

    use super::*;
    use crate::endpoint::FAILURE_COST;

    fn declare(snapshot: &mut Snapshot, revision: u64, ports: &[u16]) {
        let endpoint = |port: &u16| StaticEndpoint {
            address: "127.0.0.1".into(),
            port: Some(*port),
            ports: Default::default(),
            zone: None,
            weight: 100,
        };
        let service =
            causeway_model::Service { endpoints: ports.iter().map(endpoint).collect(), ..Default::default() };
        snapshot.put_object(Arc::new(Object {
            key: ObjectKey::service(&key()),
            origin: Origin::Builtin,
            revision: Revision::new(revision),
            spec: Spec::Service(service),
            conditions: vec![],
            written: String::new(),
        }));
    }

    fn key() -> ServiceKey {
        ServiceKey::parse("default", "echo").unwrap()
    }

    #[test]
    fn an_endpoint_that_was_gone_begins_anew_and_one_that_stays_keeps_what_is_known() {
        let role = Role::Client { source: ServiceKey::parse("causeway", "events").unwrap() };
        let (mut compiler, mut snapshot) = (Compiler::new(role, None), Snapshot::default());
        let (vitals, mut last): (_, Option<Plan>) = (
            |compiler: &Compiler, port: u16| {
                let found = compiler.endpoints.iter().find(|((_, of, _), _)| *of == port);
                found.map(|(_, (_, vitals))| vitals.clone()).unwrap()
            },
            None,
        );
        let mut now = 1;
        for ports in [&[1, 2][..], &[1], &[1, 2]] {
            now += 1;
            declare(&mut snapshot, now, ports);
            last = Some(compiler.compile(&snapshot, last.as_ref(), now));
            if now == 2 {
                vitals(&compiler, 1).observe(now, FAILURE_COST);
                vitals(&compiler, 2).observe(now, FAILURE_COST);
            }
        }
        assert!(vitals(&compiler, 1).cost(now, 1.0) >= FAILURE_COST as f64, "it never left");
        assert!(vitals(&compiler, 2).cost(now, 1.0) < FAILURE_COST as f64, "it came back");
        drop(last);
    }
}
