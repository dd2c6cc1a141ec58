//! The services of a plan: who their endpoints are, port by port, and how they are chosen.
//!
//! In:    a Snapshot's instances and Service documents, what policies say, the last plan.      Out: [`Service`].
//! Owner: the compiler.
//! Invariant: an endpoint of the same address and expectations keeps its number and its vitals.
//! Not here: rules (`compile`), choosing (`balance`).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use causeway_identity::Credentials;
use causeway_model::{
    Health, Instance, Lifecycle, Locality, Protocol, ServiceKey, Snapshot, SpiffeId, StaticEndpoint,
};

use super::policy::ServicePolicy;
use super::{Choice, Place, Plan, Port, Rule, Service};
use crate::balance::{Group, How};
use crate::budget::Budget;
use crate::circle::{Circle, Ejection};
use crate::circuit::Circuit;
use crate::endpoint::{Endpoint, Micros, Transport, Vitals};
use crate::limits::STORY_LINES_MAX;
use crate::story::NotChosen;
use crate::token::Mint;

/// Builds services, and remembers endpoints from plan to plan.
pub(crate) struct Services {
    /// Whose identities mesh endpoints must prove; none before this proxy has an identity of its own.
    credentials: Option<Credentials>,
    /// Where this proxy is.
    here: Locality,
    /// Makes tokens where there is no trust domain: good for this process alone.
    own_mint: Arc<Mint>,
    endpoints: HashMap<EndpointKey, (u64, Arc<Vitals>)>,
    endpoint_next: u64,
    standings: HashMap<ServiceKey, Standing>,
}

/// What stays with a service from plan to plan.
#[derive(Debug)]
struct Standing {
    number: usize,
    circuit: Arc<Circuit>,
    budget: Arc<Budget>,
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

/// One service that is being built.
pub(super) struct Wish<'a> {
    pub(super) key: ServiceKey,
    pub(super) policy: Arc<ServicePolicy>,
    /// Whether clients may stay with one of its endpoints.
    pub(super) is_sticky: bool,
    /// Whether its instances are called by address too.
    pub(super) wants_places: bool,
    pub(super) last: Option<&'a Plan>,
    pub(super) now: Micros,
}

/// The service whose instances a service has: its own, or the whole of which it is a part.
pub(super) fn owner(snapshot: &Snapshot, key: &ServiceKey) -> ServiceKey {
    match snapshot.service(key).and_then(|service| service.subset.as_ref()) {
        Some(subset) => ServiceKey::new(key.namespace.clone(), subset.of.clone()),
        None => key.clone(),
    }
}

/// What the ports of one service have in common.
struct Founding<'a> {
    owner: &'a ServiceKey,
    how: How,
    ejection: Ejection,
    mint: Option<Arc<Mint>>,
    last: Option<&'a Service>,
    now: Micros,
}

/// What is known of an endpoint at its birth.
#[derive(Clone, Copy)]
struct Birth {
    born: Micros,
    latency: Micros,
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

impl Services {
    pub(crate) fn new(credentials: Option<Credentials>, here: Locality) -> Self {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the operating system gives randomness");
        let (endpoints, standings) = (HashMap::new(), HashMap::new());
        let own_mint = Arc::new(Mint::new(&secret));
        Services { credentials, here, own_mint, endpoints, endpoint_next: 1, standings }
    }

    /// Forgets endpoints that are in no plan any more.
    pub(super) fn tidy(&mut self) {
        self.endpoints.retain(|_, (_, vitals)| Arc::strong_count(vitals) > 1);
    }

    /// How many endpoints it remembers.
    pub(super) fn remembered(&self) -> usize {
        self.endpoints.len()
    }

    pub(super) fn build(&mut self, snapshot: &Snapshot, wish: Wish<'_>) -> Arc<Service> {
        let Wish { key, policy, is_sticky, wants_places, last, now } = wish;
        let owner = owner(snapshot, &key);
        let declared = snapshot.service(&key);
        let subset = declared.and_then(|service| service.subset.as_ref());
        // The whole service's: a part of it is judged together with the rest.
        let instances: Vec<&Arc<Instance>> = snapshot.registered_under(owner.clone()).collect();
        let is_ours = |instance: &Instance| subset.is_none_or(|subset| instance.is_in(subset));
        let statics = declared.map_or(&[][..], |service| &service.endpoints);
        let declared_ports = declared.map_or(&[][..], |service| &service.ports);
        let said = policy.balancer.as_ref().map(|said| &said.wish);
        let founding = Founding {
            owner: &owner,
            how: How::new(said, &self.here),
            ejection: Ejection::new(policy.outlier.as_ref().map(|said| &said.wish)),
            mint: is_sticky.then(|| self.mint()),
            last: last.and_then(|last| last.service(&key)).map(|service| &**service),
            now,
        };
        let mut ports: Vec<Port> = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        for port in declared_ports {
            let name = port.name.as_ref().map(|name| name.as_str());
            let wanted =
                Wanted { port: name.map_or(WantedPort::Main, WantedPort::Named), protocol: port.protocol };
            let (group, at) = self.group(&founding, Some(port.port), statics, &instances, &is_ours, wanted);
            ports.push(Port { number: Some(port.port), protocol: port.protocol, group });
            places.extend(at);
        }
        if declared_ports.is_empty() {
            let ours: Vec<_> = instances.iter().filter(|i| is_ours(i) && i.is_routable()).copied().collect();
            let protocol = protocol_of(&ours, !statics.is_empty());
            let wanted = Wanted { port: WantedPort::Main, protocol };
            let (group, at) = self.group(&founding, None, statics, &instances, &is_ours, wanted);
            ports.push(Port { number: None, protocol, group });
            places.extend(at);
            let named: BTreeSet<u16> = ours.iter().flat_map(|i| i.ports.values().copied()).collect();
            for number in named {
                let wanted = Wanted { port: WantedPort::Number(number), protocol };
                let (group, _) = self.group(&founding, Some(number), &[], &instances, &is_ours, wanted);
                ports.push(Port { number: Some(number), protocol, group });
            }
        }
        let number = self.standings.len();
        let standing = self.standings.entry(key.clone()).or_insert_with(|| {
            let (circuit, budget) = (Arc::default(), Arc::default());
            Standing { number, circuit, budget }
        });
        let (number, circuit, budget) = (standing.number, standing.circuit.clone(), standing.budget.clone());
        let choice = Choice {
            service: key.clone(),
            port: None,
            weight: 1,
            filters: vec![],
            mirrors: vec![],
            broken: None,
        };
        let direct = Arc::new(Rule { choices: vec![choice], weight: 1, ..Rule::default() });
        let left_out = left_out(snapshot, &key, self.credentials.is_some());
        let is_declared = !declared_ports.is_empty();
        if !wants_places {
            places = Vec::new();
        }
        Arc::new(Service {
            key,
            number,
            ports,
            is_declared,
            direct,
            left_out,
            policy,
            is_replaced: AtomicBool::new(false),
            places,
            circuit,
            budget,
        })
    }

    /// The endpoints of one port, and where they are to whoever calls them by address.
    fn group(
        &mut self,
        founding: &Founding<'_>,
        number: Option<u16>,
        statics: &[StaticEndpoint],
        instances: &[&Arc<Instance>],
        is_ours: &dyn Fn(&Instance) -> bool,
        wanted: Wanted<'_>,
    ) -> (Group, Vec<Place>) {
        let last = founding.last.and_then(|last| last.ports.iter().find(|port| port.number == number));
        let last = last.map(|port| &port.group);
        let birth = birth(last, founding.now);
        // Each with the address of its app, and whether it is ours or only the whole service's.
        let mut members: Vec<(Endpoint, Option<SocketAddr>, bool)> = Vec::new();
        members.extend(statics.iter().filter_map(|endpoint| {
            let endpoint = self.static_endpoint(endpoint, wanted, birth)?;
            let at = endpoint.address;
            Some((endpoint, at, true))
        }));
        let routable = instances.iter().filter(|instance| instance.is_routable());
        members.extend(routable.filter_map(|instance| {
            let endpoint = self.instance(founding.owner, instance, wanted, birth)?;
            let at = instance.address.parse::<IpAddr>().ok().zip(wanted.port_of(instance));
            Some((endpoint, at.map(SocketAddr::from), is_ours(instance)))
        }));
        let vitals = members.iter().map(|(endpoint, ..)| endpoint.vitals.clone()).collect();
        let circle = Arc::new(Circle::new(founding.ejection, vitals));
        let mut places = Vec::new();
        let ours = members.into_iter().filter(|(.., is_ours)| *is_ours).map(|(mut endpoint, at, _)| {
            endpoint.circle = circle.clone();
            endpoint.token = founding.mint.as_ref().map(|mint| mint.token(founding.owner, &endpoint.name));
            let endpoint = Arc::new(endpoint);
            let place = |address| Place { address, protocol: wanted.protocol, endpoint: endpoint.clone() };
            places.extend(at.map(place));
            endpoint
        });
        let ours = ours.collect();
        let absent: Vec<(Locality, u32)> = instances
            .iter()
            .filter(|instance| is_ours(instance) && is_missed(instance))
            .map(|instance| (instance.locality.clone(), instance.weight))
            .collect();
        (Group::build(ours, &absent, founding.how.clone(), last), places)
    }

    fn static_endpoint(
        &mut self,
        endpoint: &StaticEndpoint,
        wanted: Wanted<'_>,
        birth: Birth,
    ) -> Option<Endpoint> {
        let named = match wanted.port {
            WantedPort::Named(name) => endpoint.ports.get(name).copied(),
            WantedPort::Main | WantedPort::Number(_) => None,
        };
        let only = endpoint.ports.values().next().copied().filter(|_| endpoint.ports.len() == 1);
        let port = named.or(endpoint.port).or(only)?;
        let transport = plain(wanted.protocol)?;
        let name = format!("{}:{port}", endpoint.address);
        let locality = Locality { region: String::new(), zone: endpoint.zone.clone().unwrap_or_default() };
        let made = self.endpoint(name, &endpoint.address, port, transport, endpoint.weight, birth)?;
        Some(Endpoint { locality, ..made })
    }

    fn instance(
        &mut self,
        owner: &ServiceKey,
        instance: &Instance,
        wanted: Wanted<'_>,
        birth: Birth,
    ) -> Option<Endpoint> {
        let name = instance.key.id.as_str().to_owned();
        let port = wanted.port_of(instance)?;
        let is_main = port == instance.port;
        let is_raw = wanted.protocol.is_raw();
        let made = match (&instance.mesh, &self.credentials) {
            // What is HTTP is guarded as HTTP, so its sidecar never gives it out as bytes; and bytes are no HTTP.
            (Some(_), _) if is_main && is_raw != instance.protocol.is_raw() => None,
            (Some(mesh), Some(credentials)) => {
                let expected = SpiffeId::new(credentials.trust_domain(), owner.clone());
                let transport = match (is_raw, is_main) {
                    (true, _) => Transport::MeshTcp(expected, (!is_main).then_some(port)),
                    (false, true) => Transport::Mesh(expected),
                    // A sidecar takes requests for one port of its app.
                    (false, false) => return None,
                };
                self.endpoint(name, &mesh.address, mesh.port, transport, instance.weight, birth)
            }
            // Behind a sidecar there is no plaintext door, and without an identity we cannot pass the other one.
            (Some(_), None) => None,
            (None, _) => {
                let protocol = if is_raw { wanted.protocol } else { instance.protocol };
                let transport =
                    plain(protocol).filter(|transport| is_raw == (*transport == Transport::Tcp))?;
                self.endpoint(name, &instance.address, port, transport, instance.weight, birth)
            }
        }?;
        Some(Endpoint { locality: instance.locality.clone(), ..made })
    }

    fn endpoint(
        &mut self,
        name: String,
        host: &str,
        port: u16,
        transport: Transport,
        weight: u32,
        birth: Birth,
    ) -> Option<Endpoint> {
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
        let newborn = || Arc::new(Vitals::born_at(birth.born, birth.latency));
        let (id, vitals) =
            self.endpoints.entry((host.to_owned(), port, transport_key)).or_insert_with(|| {
                *next += 1;
                (*next, newborn())
            });
        // In no plan any more, so it was gone: what is known of it is of an earlier life, mostly of how that ended.
        if Arc::strong_count(vitals) == 1 {
            *vitals = newborn();
        }
        let (id, vitals) = (*id, vitals.clone());
        Some(Endpoint { weight, vitals, ..Endpoint::new(id, name, host, port, transport) })
    }

    /// Tokens are the same in every proxy of the trust domain. While one root takes over from another the older one counts, which
    /// everybody has.
    fn mint(&self) -> Arc<Mint> {
        let root =
            self.credentials.as_ref().and_then(|credentials| credentials.bundle().root_hashes().last());
        root.map_or_else(|| self.own_mint.clone(), |root| Arc::new(Mint::new(&root)))
    }
}

/// An endpoint that joins others begins slowly, and is thought to be as fast as they are. Where there were none before, as at a
/// proxy's start, none is younger than the others.
fn birth(last: Option<&Group>, now: Micros) -> Birth {
    let known = last.map_or(&[][..], |last| &last.endpoints);
    if known.is_empty() {
        return Birth { born: 0, latency: 0 };
    }
    let sum: f64 = known.iter().map(|endpoint| endpoint.vitals.latency(now)).sum();
    Birth { born: now, latency: (sum / known.len() as f64) as Micros }
}

/// Whether it takes no calls because something is wrong with it, so that the others must stand in for it.
fn is_missed(instance: &Instance) -> bool {
    let is_lost = instance.lifecycle == Lifecycle::Lost;
    let is_critical = instance.health == Health::Critical && instance.lifecycle != Lifecycle::Draining;
    is_lost || is_critical
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

#[cfg(test)]
#[path = "services/tests.rs"]
mod tests;
