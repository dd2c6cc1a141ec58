//! One worker of the data path: its connections, its ledger, its randomness; and what all workers share.
//!
//! In:    connections that came in.      Out: answers.
//! Owner: one thread (the node's own calls have a worker without a thread).
//! Invariant: on the request path a worker touches nothing that another one writes, but the vitals of endpoints.
//! Not here: accepting (`listen`), the way of a request (`pipeline`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use causeway_base::net::Net;
use causeway_base::{Clock, Scope, Seed};
use causeway_filters::Chain;
use causeway_identity::Peer;
use causeway_model::{Name, Protocol, Revision, ServiceKey, Timestamp};
use causeway_wire::Pseudonym;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::balance::{Ask, Group};
use crate::bell::Bell;
use crate::config::Tracing;
use crate::date::Date;
use crate::endpoint::{Endpoint, FOREIGN_IDS, Micros, Transport};
use crate::gate::Gate;
use crate::inlet::Way;
use crate::ledger::Ledger;
use crate::limits;
use crate::own::OwnAddresses;
use crate::plan::{Plan, Port, Service};
use crate::pool::Pool;
use crate::records::Sink;
use crate::review::Review;
use crate::spare::Spare;
use crate::taps::Taps;
use crate::tls::MeshTls;
use crate::trace::Sampler;
use crate::virtuals::Virtuals;

/// What all workers of a proxy share: read, or written so seldom that nobody waits.
pub(crate) struct Shared {
    pub plan: ArcSwap<Plan>,
    /// The revision of `plan`, for those who wait for a newer one.
    pub planned: watch::Receiver<Revision>,
    pub net: Net,
    pub own: OwnAddresses,
    /// Stands for the calls of this proxy's own app where calls are told apart by who makes them.
    pub source_key: u64,
    /// Of which this proxy's pseudonym in `Via` is made.
    pub via: u64,
    pub clock: Clock,
    pub origin: Instant,
    /// Wall-clock time at a moment, renewed now and then: milliseconds since 1970 at `origin`.
    pub wall_at_origin: AtomicU64,
    pub tls: Option<Arc<MeshTls>>,
    /// Each worker's: called when what is allowed may have changed.
    pub reviews: Vec<Arc<Review>>,
    /// Whose proxy this is: the sidecar's service, the gateway, a room of the node.
    pub source: ServiceKey,
    /// Namespace in which a mesh name without one is looked up.
    pub namespace: Name,
    /// `.mesh`
    pub mesh_suffix: String,
    /// Addresses that stand for services.
    pub virtuals: Virtuals,
    pub wants: Option<mpsc::UnboundedSender<ServiceKey>>,
    pub wanted: Mutex<HashSet<ServiceKey>>,
    pub records: Option<Sink>,
    /// The sidecar's app as a service of one endpoint, and the filters in front of it.
    pub app: Option<App>,
    /// Filters for what comes in at a gateway, and what the app sends out.
    pub edge: Chain,
    pub outgoing: Chain,
    pub is_draining: AtomicBool,
    pub tracing: Tracing,
    pub taps: Taps,
    /// No further calls for the sidecar's app.
    pub is_retiring: AtomicBool,
}

/// The sidecar's app.
pub(crate) struct App {
    pub service: Arc<Service>,
    pub filters: Chain,
    /// How many requests it gets at once when no policy says so.
    pub gate: Arc<Gate>,
    /// Ports that take bytes, as callers name them: the main one, and further ones by number.
    pub raw: Vec<(Option<u16>, Arc<Service>)>,
}

impl App {
    /// Its main port.
    pub(crate) fn port(&self) -> u16 {
        let endpoint = self.service.ports.first().and_then(|port| port.group.endpoints.first());
        endpoint.map_or(0, |endpoint| endpoint.port)
    }

    /// Whether a service of one endpoint is this app.
    pub(crate) fn has(&self, service: &Arc<Service>) -> bool {
        Arc::ptr_eq(&self.service, service) || self.raw.iter().any(|(_, raw)| Arc::ptr_eq(raw, service))
    }
}

/// How tasks of the data path end: first no new connections, then those that are there finish, then force.
#[derive(Clone)]
pub(crate) struct Scopes {
    /// Listeners.
    pub accept: Scope,
    /// The listener of calls for the sidecar's app, which ends before the others.
    pub arrive: Scope,
    /// Connections that came in.
    pub connections: Scope,
    /// Connections to endpoints; ended with the worker.
    pub upstream: Scope,
    /// Cancelled when everything has ended or must.
    pub force: Scope,
    /// Asks connections to finish, then to end.
    pub bell: Bell,
}

/// One worker.
pub(crate) struct Worker {
    pub shared: Arc<Shared>,
    pub pool: Pool,
    pub review: Arc<Review>,
    pub spare: Spare,
    pub ledger: Ledger,
    pub sampler: Sampler,
    pub date: Date,
    /// The proxy's, made anew for each worker: field values of one origin share a counter, which all workers would write.
    pub pseudonym: Pseudonym,
    pub scopes: Scopes,
    /// Requests for the sidecar's app that are under way.
    pub arrivals: AtomicU32,
    /// Copies of requests that are under way.
    pub mirrors: AtomicU32,
    draws: AtomicU64,
    foreign: Mutex<HashMap<(String, u16), Arc<Group>>>,
    foreign_next: AtomicU64,
}

impl Shared {
    /// Microseconds since the proxy started.
    pub(crate) fn micros(&self, at: Instant) -> Micros {
        at.saturating_duration_since(self.origin).as_micros() as Micros
    }

    /// Wall-clock time of a moment, without asking the clock again.
    pub(crate) fn wall(&self, at: Instant) -> Timestamp {
        Timestamp::from_millis(self.wall_at_origin.load(Relaxed) + self.micros(at) / 1000)
    }

    /// The same in microseconds since 1970.
    pub(crate) fn wall_micros(&self, at: Instant) -> u64 {
        self.wall_at_origin.load(Relaxed) * 1000 + self.micros(at)
    }

    /// Follows the wall clock where it was set.
    pub(crate) fn renew_wall(&self) {
        let since = self.micros(Instant::now()) / 1000;
        let now = Timestamp::from(self.clock.now()).as_millis();
        self.wall_at_origin.store(now.saturating_sub(since), Relaxed);
    }

    /// Whether the next answer on a kept connection of this way is its last.
    pub(crate) fn says_goodbye(&self, way: &Way) -> bool {
        match way {
            Way::Inbound => self.is_retiring.load(Relaxed),
            _ => self.is_draining.load(Relaxed),
        }
    }

    /// Whether a certificate is revoked.
    pub(crate) fn is_revoked(&self, peer: &Peer) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_revoked(peer))
    }

    /// Asks the control plane for a service, once.
    pub(crate) fn want(&self, key: &ServiceKey) {
        let Some(wants) = &self.wants else { return };
        let mut wanted = self.wanted.lock();
        if wanted.len() < limits::WANTS_MAX && wanted.insert(key.clone()) {
            // A receiver that is gone means shutdown.
            let _ = wants.send(key.clone());
        }
    }

    /// A service of the plan; one that it does not hold is asked for and waited for, a bounded time.
    pub(crate) async fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        if let Some(service) = self.plan.load().service(key) {
            return Some(service.clone());
        }
        self.wants.as_ref()?;
        Box::pin(self.wait_for(key)).await
    }

    /// The service that a host name means, which may be one of several: the first that is known, else the likeliest is asked for.
    pub(crate) async fn service_of(&self, names: &[ServiceKey]) -> Option<Arc<Service>> {
        let known = names.iter().find(|key| self.plan.load().service(key).is_some());
        self.service(known.or_else(|| names.first())?).await
    }

    async fn wait_for(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        self.want(key);
        let mut planned = self.planned.clone();
        let known = async {
            loop {
                planned.borrow_and_update();
                if let Some(service) = self.plan.load().service(key) {
                    return Some(service.clone());
                }
                planned.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limits::WANT, known).await.ok().flatten()
    }
}

impl Worker {
    /// The worker of this number.
    pub(crate) fn new(shared: Arc<Shared>, number: usize, seed: &Seed, scopes: Scopes) -> Arc<Self> {
        let (net, own, tls) = (shared.net.clone(), shared.own.clone(), shared.tls.clone());
        let review = shared.reviews[number].clone();
        let pool = Pool::new(net, own, tls, review.clone(), scopes.upstream.clone(), scopes.bell.clone());
        let pseudonym = Pseudonym::new(shared.via);
        let sampler = Sampler::new(&shared.tracing, limits::REFILLS_PER_SECOND);
        Arc::new(Worker {
            shared,
            pool,
            review,
            spare: Spare::default(),
            sampler,
            ledger: Ledger::new(),
            date: Date::new(),
            pseudonym,
            scopes,
            arrivals: AtomicU32::new(0),
            mirrors: AtomicU32::new(0),
            draws: AtomicU64::new(seed.u64()),
            foreign: Mutex::default(),
            foreign_next: AtomicU64::new(FOREIGN_IDS),
        })
    }

    /// Randomness for one request.
    pub(crate) fn seed(&self) -> Seed {
        // The increment is any odd number: `Seed` mixes it.
        Seed::from_number(self.draws.fetch_add(0x5851_F42D_4C95_7F2D, Relaxed))
    }

    /// The endpoint for an attempt: of `group`, or of the one that `of` finds in the newest plan when the service that it belongs to
    /// has been replaced since. An endpoint that is gone is not asked by a request that came before it went.
    pub(crate) fn pick(
        &self,
        group: &Group,
        service: Option<&Arc<Service>>,
        of: impl Fn(&Service) -> Option<&Group>,
        ask: &Ask<'_>,
    ) -> Option<Arc<Endpoint>> {
        let seed = self.seed();
        match service.filter(|service| service.is_replaced.load(Relaxed)) {
            None => group.pick(ask, &seed).cloned(),
            Some(service) => of(&self.shared.plan.load().newest(service))?.pick(ask, &seed).cloned(),
        }
    }

    /// The endpoint that is a foreign host.
    pub(crate) fn foreign(&self, host: &str, port: u16) -> Arc<Group> {
        let mut foreign = self.foreign.lock();
        if let Some(group) = foreign.get(&(host.to_owned(), port)) {
            return group.clone();
        }
        if foreign.len() >= limits::FOREIGN_MAX {
            foreign.clear();
        }
        let id = self.foreign_next.fetch_add(1, Relaxed);
        let group = Arc::new(lone_group(id, host, port, Transport::Http1));
        foreign.insert((host.to_owned(), port), group.clone());
        group
    }
}

/// A group of one endpoint that no plan names.
pub(crate) fn lone_group(id: u64, host: &str, port: u16, transport: Transport) -> Group {
    Group::new(vec![Arc::new(Endpoint::new(id, format!("{host}:{port}"), host, port, transport))])
}

/// A service of one endpoint that no plan names: the sidecar's app.
pub(crate) fn lone_service(key: ServiceKey, protocol: Protocol, group: Group) -> Arc<Service> {
    let (direct, policy, is_replaced) = Default::default();
    let ports = vec![Port { number: None, protocol, group }];
    let (left_out, places) = Default::default();
    let (circuit, budget) = (Arc::default(), Arc::default());
    let is_declared = false;
    Arc::new(Service {
        key,
        number: 0,
        ports,
        is_declared,
        direct,
        left_out,
        policy,
        is_replaced,
        places,
        circuit,
        budget,
    })
}
