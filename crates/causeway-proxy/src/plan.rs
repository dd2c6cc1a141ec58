//! The plan: a picture made ready for use. Immutable; a new one replaces it whole.
//!
//! In:    nothing once built (see `compile`).      Out: doors to open, the rule for a request, the endpoints of a service.
//! Owner: `planner` builds and publishes it; workers read it through one atomic pointer.
//! Invariant: what a plan says never changes; how its endpoints fare hangs on it in atomics and outlives it.
//! Not here: building (`plan::compile`), matching (`routes`), choosing an endpoint (`balance`).

pub(crate) mod compile;
pub(crate) mod policy;
mod services;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use causeway_base::Seed;
use causeway_filters::Chain;
use causeway_filters::access::Access;
use causeway_model::{Protocol, Revision, ServiceKey, Share};

use crate::balance::Group;
use crate::budget::Budget;
use crate::circuit::Circuit;
use crate::endpoint::Endpoint;
use crate::routes::{Hit, Query, Routes, suffixes};
use crate::story::NotChosen;
use crate::tls::DoorTls;
use policy::{RulePolicy, ServicePolicy};

/// A picture made ready for use.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Of the picture it was made from.
    pub revision: Revision,
    /// Rules and doors; shared by plans that differ only in endpoints.
    pub rules: Arc<Rules>,
    pub services: HashMap<ServiceKey, Arc<Service>>,
}

/// The part of a plan that comes from documents.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub doors: Vec<Door>,
    /// Routes that hang on services (GAMMA), as this proxy sees them.
    pub mesh: HashMap<ServiceKey, MeshRoutes>,
    /// Who may call the sidecar's app.
    pub access: Option<Arc<Access>>,
    /// What policies say of the sidecar's own service: of the calls that come in for its app, and of the app's own calls.
    pub own: Arc<ServicePolicy>,
    /// Services of rules whose clients stay with an endpoint.
    pub sticky: BTreeSet<ServiceKey>,
    /// Whether a policy says that clients of a service stay with an endpoint.
    pub has_sessions: bool,
    /// What is wrong with the documents, as far as only a proxy can tell.
    pub problems: Vec<String>,
}

/// A port to open at a gateway.
#[derive(Debug)]
pub(crate) struct Door {
    pub address: SocketAddr,
    pub tls: Option<DoorTls>,
    /// By host: exact, then longest wildcard, then any.
    pub listeners: Vec<Listening>,
}

/// One listener of a door.
#[derive(Debug)]
pub(crate) struct Listening {
    /// `shop.example`, `.example` for a wildcard, or none for any.
    pub host: Option<String>,
    pub is_wildcard: bool,
    pub routes: Routes<Rule>,
}

/// Routes that hang on one service, by the parent's port.
#[derive(Debug, Default)]
pub(crate) struct MeshRoutes {
    pub by_port: Vec<(Option<u16>, Routes<Rule>)>,
}

/// A rule of a route.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    /// `HTTPRoute namespace/name rule N`; empty for a call without a route.
    pub label: Arc<str>,
    /// Where it is written: `routes.yaml:4`; empty for a call without a route.
    pub written_at: Arc<str>,
    pub filters: Chain,
    /// Where copies of requests go.
    pub mirrors: Vec<Mirror>,
    pub choices: Vec<Choice>,
    pub weight: u32,
    /// The whole request; a bound only where one is written.
    pub timeout: Option<Duration>,
    /// Each try.
    pub try_timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub retry_codes: Vec<u16>,
    pub backoff: Option<Duration>,
    /// What policies say of the calls that it takes.
    pub policy: Arc<RulePolicy>,
    /// The rule cannot be run: every request that it matches is answered 500 with these words.
    pub broken: Option<String>,
}

/// Where copies of requests go, and of which share of them.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    pub service: ServiceKey,
    pub port: Option<u16>,
    pub share: Share,
}

/// A backend of a rule.
#[derive(Debug)]
pub(crate) struct Choice {
    pub service: ServiceKey,
    pub port: Option<u16>,
    pub weight: u32,
    pub filters: Chain,
    pub mirrors: Vec<Mirror>,
    /// The backend cannot be used (500, as Gateway API says).
    pub broken: Option<String>,
}

/// A service and its endpoints.
#[derive(Debug)]
pub(crate) struct Service {
    pub key: ServiceKey,
    /// Index of its cells in every worker; the same in every plan.
    pub number: usize,
    /// The first is the one taken when none is asked for. Never empty.
    pub ports: Vec<Port>,
    /// Whether a document declares its ports, so that another one is an error.
    pub is_declared: bool,
    /// The rule of a call without a route.
    pub direct: Arc<Rule>,
    /// Instances that no call is sent to, and why, for `causeway why`.
    pub left_out: Vec<(Box<str>, NotChosen)>,
    /// What policies say of calls to it.
    pub policy: Arc<ServicePolicy>,
    /// A newer plan has another one in its place, or none.
    pub is_replaced: AtomicBool,
    /// Where its instances are to whoever calls them by address; known only where connections are redirected.
    pub places: Vec<Place>,
    /// Requests that are under way to it; the same in every plan.
    pub circuit: Arc<Circuit>,
    /// What may be sent to it again; the same in every plan.
    pub budget: Arc<Budget>,
}

/// One instance by the address of its app.
#[derive(Debug)]
pub(crate) struct Place {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub endpoint: Arc<Endpoint>,
}

/// A port of a service.
#[derive(Debug)]
pub(crate) struct Port {
    /// Its number; none for the one port of a service that declares none.
    pub number: Option<u16>,
    /// What is spoken there.
    pub protocol: Protocol,
    pub group: Group,
}

impl Plan {
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Tells the services of the plan before which of them are no longer those of this one.
    pub(crate) fn replace(&self, last: &Plan) {
        for (key, service) in &last.services {
            if self.services.get(key).is_none_or(|now| !Arc::ptr_eq(now, service)) {
                service.is_replaced.store(true, Relaxed);
            }
        }
    }

    /// The service as this plan has it, for a request that came by the one given; with no endpoints when it is gone.
    pub(crate) fn newest(&self, service: &Arc<Service>) -> Arc<Service> {
        match self.services.get(&service.key) {
            _ if !service.is_replaced.load(Relaxed) => service.clone(),
            Some(now) => now.clone(),
            None => Arc::new(Service {
                key: service.key.clone(),
                number: service.number,
                ports: vec![Port { number: None, protocol: Protocol::default(), group: Group::default() }],
                is_declared: false,
                direct: service.direct.clone(),
                left_out: Vec::new(),
                policy: service.policy.clone(),
                is_replaced: AtomicBool::new(false),
                places: Vec::new(),
                circuit: service.circuit.clone(),
                budget: service.budget.clone(),
            }),
        }
    }

    /// The instance at an address, as a service of its own.
    pub(crate) fn instance_at(&self, address: SocketAddr) -> Option<Arc<Service>> {
        let mut all = self.services.values().flat_map(|s| s.places.iter().map(move |place| (s, place)));
        let (service, place) = all.find(|(_, place)| place.address == address)?;
        let group = Group::new(vec![place.endpoint.clone()]);
        Some(Arc::new(Service {
            key: service.key.clone(),
            number: service.number,
            ports: vec![Port { number: None, protocol: place.protocol, group }],
            is_declared: false,
            direct: service.direct.clone(),
            left_out: vec![],
            policy: service.policy.clone(),
            places: vec![],
            circuit: service.circuit.clone(),
            budget: service.budget.clone(),
            is_replaced: AtomicBool::new(false),
        }))
    }

    /// The rule for a call to a service of the mesh: its routes, or straight to it when it has none.
    pub(crate) fn mesh_rule<'a>(
        &'a self,
        service: &'a Service,
        port: Option<u16>,
        query: &Query<'_>,
    ) -> Option<Hit<'a, Rule>> {
        let tables = self.rules.mesh.get(&service.key).map_or(&[][..], |mesh| &mesh.by_port);
        let mut has_routes = false;
        let of_port = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        for (_, routes) in tables.iter().filter(|(wanted, _)| of_port(wanted)) {
            has_routes = true;
            if let Some(hit) = routes.find(query) {
                return Some(hit);
            }
        }
        (!has_routes).then_some(Hit { rule: &service.direct, matched: 0 })
    }
}

impl Door {
    /// The listener for a host.
    pub(crate) fn listener(&self, host: &str) -> Option<&Listening> {
        let of = |wanted: Option<&str>, is_wildcard: bool| {
            self.listeners.iter().find(|l| l.host.as_deref() == wanted && l.is_wildcard == is_wildcard)
        };
        if let [only] = self.listeners.as_slice()
            && only.host.is_none()
        {
            return Some(only);
        }
        of(Some(host), false)
            .or_else(|| suffixes(host).find_map(|suffix| of(Some(suffix), true)))
            .or_else(|| of(None, false))
    }
}

impl Rule {
    /// One of the backends, by weight; none when no backend has weight.
    pub(crate) fn choose(&self, seed: &Seed) -> Option<usize> {
        if let [only] = self.choices.as_slice() {
            return (only.weight > 0).then_some(0);
        }
        let mut at = seed.below(self.weight as usize) as u32;
        self.choices.iter().position(|choice| match at.checked_sub(choice.weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        })
    }
}

impl Service {
    /// Whether proxies of its own stand in front of its instances.
    pub(crate) fn has_sidecars(&self) -> bool {
        self.ports.iter().any(|port| port.group.endpoints.first().is_some_and(|endpoint| endpoint.is_mesh()))
    }

    /// A port by its number; `None` when the service has no such port.
    pub(crate) fn port(&self, number: Option<u16>) -> Option<&Port> {
        let first = self.ports.first()?;
        match number {
            None => Some(first),
            Some(_) => match self.ports.iter().find(|port| port.number == number) {
                Some(port) => Some(port),
                None => (!self.is_declared).then_some(first),
            },
        }
    }

    /// Whether whoever connects to a port speaks HTTP there.
    pub(crate) fn takes_requests(&self, number: Option<u16>) -> bool {
        let port = self.port(number).or_else(|| self.ports.first());
        port.is_none_or(|port| !port.protocol.is_raw())
    }

    /// The endpoints that take requests for a port; without one those of the first port that takes any.
    ///
    /// # Errors
    /// What is wrong with the port, as the end of a sentence about the service.
    pub(crate) fn http_group(&self, number: Option<u16>) -> Result<&Group, String> {
        self.port_for(number, false).map(|port| &port.group)
    }

    /// The port for bytes, as above.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn raw_group(&self, number: Option<u16>) -> Result<&Group, String> {
        self.port_for(number, true).map(|port| &port.group)
    }

    fn port_for(&self, number: Option<u16>, is_raw: bool) -> Result<&Port, String> {
        let fits = |port: &&Port| port.protocol.is_raw() == is_raw;
        let unasked = number.is_none().then(|| self.ports.iter().find(fits)).flatten();
        let port = unasked.or_else(|| self.port(number));
        let port = port.ok_or_else(|| format!("has no port {}", number.unwrap_or(0)))?;
        match fits(&port) {
            true => Ok(port),
            false if is_raw => {
                Err(format!("speaks {} there and takes requests only", port.protocol.as_str()))
            }
            false => Err(format!("speaks {} there and no HTTP", port.protocol.as_str())),
        }
    }
}
