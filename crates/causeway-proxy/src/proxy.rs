//! A running proxy: how it starts, what may be asked of it, how it ends.
//!
//! In:    [`Options`].      Out: the handle; traffic on its addresses.
//! Owner: the roof holds the handle; the tasks are in the scope that it gave.
//! Invariant: `start` returns when every fixed address is open; `drain` stops accepting, lets finish, then uses force.
//! Not here: the tasks themselves (`listen`, `planner`, `doors`, `admin`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use causeway_base::net::{BindOptions, Net};
use causeway_base::{OnFailure, Outbound, Scope};
use causeway_filters::Client;
use causeway_filters::caller::Caller;
use causeway_filters::forwarded::Forwarded;
use causeway_model::traffic::EDGES_MAX;
use causeway_model::{Edge, Name, Observations, Protocol, Revision, ServiceKey, Span, TrafficReport};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::bell::{Bell, Level};
use crate::config::{Options, Role, Sidecar};
use crate::doors::{self, Doors};
use crate::endpoint::Transport;
use crate::error::Error;
use crate::inlet::{Inlet, Way};
use crate::kept::app_gate;
use crate::listen::{self, Opened, Opening};
use crate::otlp::Exporter;
use crate::own::OwnAddresses;
use crate::plan::compile::Compiler;
use crate::records::Sink;
use crate::series::Series;
use crate::taps::Taps;
use crate::tls::{MeshTls, Spoken};
use crate::virtuals::Virtuals;
use crate::worker::{App, Scopes, Shared, Worker, lone_group, lone_service};
use crate::{admin, hash, limits, metrics, outbound, planner, scrape};

/// A running proxy. Cheap to clone; it ends by [`Proxy::drain`] or with its scope, not with its last clone.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    workers: Vec<Arc<Worker>>,
    /// The worker of the node's own calls: the last of `workers`, which has no listeners.
    caller: Arc<Worker>,
    source: ServiceKey,
    listening: usize,
    doors: Arc<Doors>,
    scopes: Scopes,
    is_gateway: bool,
    admin: Option<SocketAddr>,
    fixed: Vec<Opening>,
    exporter: Option<Exporter>,
    /// Spans that wait to be reported to the node.
    spans: parking_lot::Mutex<Vec<Span>>,
    /// Which services have metric series of their own.
    series: parking_lot::Mutex<Series>,
}

impl Proxy {
    /// Starts a proxy and returns when its fixed addresses are open (a gateway's open as its document says).
    ///
    /// # Errors
    /// [`Error`] says which address cannot be used.
    pub async fn start(options: Options, scope: &Scope) -> Result<Proxy, Error> {
        let Options { role, net, clock, seed, workers, credentials, mut snapshots, tracing, .. } = options;
        let fixed = match &role {
            Role::Sidecar(sidecar) => doors::of_sidecar(&net, sidecar)?,
            Role::Gateway { .. } | Role::Client { .. } => Vec::new(),
        };
        let admin = options.admin.map(|address| admin_listener(&net, &role, address)).transpose()?;
        let admin_address = admin.as_ref().and_then(|listener| listener.local_addr().ok());
        let own = fixed.iter().map(|opening| opening.address).chain(admin_address);
        let source = source_of(&role);
        let origin = Instant::now();
        let mut compiler = Compiler::new(role.clone(), credentials.clone(), options.locality);
        let first = snapshots.borrow_and_update().clone();
        if let Some(credentials) = &credentials {
            credentials.revoke(first.revocations().clone());
        }
        let plan = compiler.compile(&first, None, 0);
        for problem in &plan.rules.problems {
            tracing::warn!(%problem, "configuration cannot be used as written");
        }
        let (planned_sender, planned) = watch::channel(plan.revision);
        let records = options.records.map(Sink::start).transpose().map_err(Error::Thread)?;
        let app = app_of(&role);
        let listening = match (&net, &role) {
            (_, Role::Client { .. }) => 0,
            (Net::Memory(_), _) => 1,
            (Net::Tcp(_), _) => workers.max(1),
        };
        let shared = Arc::new(Shared {
            reviews: (0..=listening).map(|_| Arc::default()).collect(),
            plan: ArcSwap::from_pointee(plan),
            planned: planned.clone(),
            net: net.clone(),
            own: OwnAddresses::new(own),
            source_key: match options.instance.as_str() {
                "" => seed.fork().u64(),
                name => hash::text(name),
            },
            via: seed.fork().u64(),
            clock,
            origin,
            wall_at_origin: AtomicU64::new(0),
            tls: credentials.map(|credentials| Arc::new(MeshTls::new(credentials, taken(app.as_ref())))),
            source: source.clone(),
            namespace: source.namespace.clone(),
            mesh_suffix: format!(".{}", options.mesh_suffix),
            virtuals: Virtuals::default(),
            wants: options.wants,
            wanted: parking_lot::Mutex::default(),
            records,
            app,
            edge: vec![Arc::new(Forwarded), Arc::new(Caller)],
            outgoing: vec![Arc::new(Caller)],
            is_draining: AtomicBool::new(false),
            tracing,
            taps: Taps::default(),
            is_retiring: AtomicBool::new(false),
        });
        shared.renew_wall();
        let exporter =
            shared.tracing.otlp.clone().map(|otlp| Exporter::start(otlp, net.clone(), seed.fork(), scope));
        if let Role::Sidecar(sidecar) = &role {
            sidecar.upstreams.iter().for_each(|(key, _)| shared.want(key));
        }
        let accept = scope.child("accept");
        let scopes = Scopes {
            arrive: accept.child("arrive"),
            accept,
            connections: scope.child("connections"),
            upstream: scope.child("upstream"),
            force: scope.child("force"),
            bell: Bell::default(),
        };
        let worker = |number| Worker::new(shared.clone(), number, &seed.fork(), scopes.clone());
        let all: Vec<Arc<Worker>> = (0..=listening).map(worker).collect();
        let caller = all[listening].clone();
        let doors = Arc::new(Doors::default());
        let (wanted_sender, wanted) = watch::channel(Arc::new(Vec::new()));
        let (opened_sender, opened) = mpsc::unbounded_channel::<Opened>();
        let is_gateway = matches!(role, Role::Gateway { .. });
        match is_gateway {
            true => drop(doors::offer_gateway(&shared, &doors, &wanted_sender)),
            false => doors::offer(&doors, &wanted_sender, fixed.clone()),
        }
        for (index, worker) in all.iter().take(listening).enumerate() {
            start_worker(index, worker, &net, wanted.clone(), opened_sender.clone(), &scopes)?;
        }
        drop(opened_sender);
        let proxy = Proxy {
            inner: Arc::new(Inner {
                shared: shared.clone(),
                workers: all,
                caller,
                source,
                listening,
                doors: doors.clone(),
                scopes,
                is_gateway,
                admin: admin_address,
                fixed,
                exporter,
                spans: parking_lot::Mutex::default(),
                series: parking_lot::Mutex::default(),
            }),
        };
        let (net_task, stop) = (planned.clone(), scope);
        spawn(stop, "planner", planner::run(shared.clone(), compiler, snapshots, planned_sender));
        if is_gateway {
            let keeping = doors::keep_gateway(shared.clone(), doors.clone(), wanted_sender, net_task);
            spawn(stop, "doors", keeping);
        } else {
            // The openings never change: the sender lives as long as the proxy.
            spawn(stop, "doors", async move {
                let _wanted = wanted_sender;
                std::future::pending::<()>().await;
            });
        }
        proxy.wait_open(opened, stop).await?;
        let (bell, cancelled) = (proxy.inner.scopes.bell.clone(), scope.cancelled());
        scope.spawn("end", OnFailure::Log, async move {
            cancelled.await;
            bell.ring(Level::End);
            Ok(())
        });
        spawn(stop, "tidy", tidy(proxy.inner.caller.clone()));
        if proxy.inner.exporter.is_some() {
            let proxy = proxy.clone();
            spawn(stop, "spans", async move {
                loop {
                    tokio::time::sleep(limits::SPANS_EVERY).await;
                    proxy.collect_spans();
                }
            });
        }
        if let Some(listener) = admin {
            let admin_scope = scope.child("admin");
            let serving = admin::serve(proxy.clone(), listener, admin_scope.clone());
            spawn(stop, "admin", serving);
        }
        Ok(proxy)
    }

    /// Waits until every worker has said how its first openings went; a fixed one that failed is an error.
    async fn wait_open(
        &self,
        mut opened: mpsc::UnboundedReceiver<Opened>,
        scope: &Scope,
    ) -> Result<(), Error> {
        let inner = &self.inner;
        for _ in 0..inner.fixed.len() * inner.listening {
            let Some((address, result)) = opened.recv().await else { break };
            if let Err(why) = &result {
                let source = std::io::Error::other(why.clone());
                return Err(Error::Bind { what: "sidecar", address, source });
            }
            inner.doors.note((address, result));
        }
        if inner.is_gateway {
            let wanted = inner.shared.plan.load().rules.doors.len();
            let failed = inner.doors.problems().len();
            for _ in 0..wanted.saturating_sub(failed) * inner.listening {
                let Some(said) = opened.recv().await else { break };
                inner.doors.note(said);
            }
        }
        spawn(scope, "opened", doors::listen(inner.doors.clone(), opened));
        Ok(())
    }

    /// Addresses at which it listens now, the admin door's not among them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.inner.doors.open(self.inner.listening)
    }

    /// Where the app's HTTP proxy listens.
    pub fn outbound_address(&self) -> Option<SocketAddr> {
        self.fixed(|way| matches!(way, Way::Outbound))
    }

    /// Where mesh calls come in: the port to register.
    pub fn inbound_address(&self) -> Option<SocketAddr> {
        self.fixed(|way| matches!(way, Way::Inbound))
    }

    /// The local address that stands for a service.
    pub fn upstream_address(&self, service: &ServiceKey) -> Option<SocketAddr> {
        self.fixed(|way| matches!(way, Way::Upstream(key, _) if key == service))
    }

    /// Where the admin door listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.inner.admin
    }

    pub(crate) fn fixed_addresses(&self, is_it: impl Fn(&Way) -> bool) -> Vec<SocketAddr> {
        let openings = self.inner.fixed.iter().filter(|opening| is_it(&opening.way));
        openings.map(|opening| opening.address).collect()
    }

    fn fixed(&self, is_it: impl Fn(&Way) -> bool) -> Option<SocketAddr> {
        self.inner.fixed.iter().find(|opening| is_it(&opening.way)).map(|opening| opening.address)
    }

    /// Whether a plan is there, every wanted address is open, and no drain has begun.
    pub fn is_ready(&self) -> bool {
        let inner = &self.inner;
        let has_plan = inner.shared.plan.load().revision > Revision::new(0);
        has_plan && inner.doors.is_ready(inner.listening) && !inner.shared.is_draining.load(Relaxed)
    }

    /// The revision of the plan in use.
    pub fn plan_revision(&self) -> Revision {
        self.inner.shared.plan.load().revision
    }

    /// Resolves when the plan in use is of `revision` or newer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn planned(&self, revision: Revision) {
        let mut planned = self.inner.shared.planned.clone();
        // The sender lives as long as the planner; when that is gone nothing newer will come.
        let _ = planned.wait_for(|now| *now >= revision).await;
    }

    /// What cannot be done as it is written, with codes.
    pub fn problems(&self) -> Vec<String> {
        let plan = self.inner.shared.plan.load();
        plan.rules.problems.iter().cloned().chain(self.inner.doors.problems()).collect()
    }

    /// Calls services as the identity of this proxy.
    pub fn outbound(&self) -> Arc<dyn Outbound> {
        let client = Client::new(IpAddr::V4(Ipv4Addr::LOCALHOST), None, false);
        let inlet = Arc::new(Inlet::new(Way::Outbound, client, 0, &self.inner.caller.review));
        Arc::new(outbound::Caller { worker: self.inner.caller.clone(), inlet })
    }

    /// Calls that ended since the last report.
    pub fn traffic(&self) -> TrafficReport {
        let mut edges: BTreeMap<ServiceKey, Edge> = BTreeMap::new();
        for worker in &self.inner.workers {
            worker.ledger.take_edges(|target, counts| {
                let edge = counts.into_edge(self.inner.source.clone(), target.clone());
                let is_full = edges.len() >= EDGES_MAX && !edges.contains_key(target);
                let known = if is_full { edges.values_mut().next_back() } else { edges.get_mut(target) };
                match known {
                    Some(known) => known.add(&edge),
                    None => drop(edges.insert(target.clone(), edge)),
                }
            });
        }
        let edges = edges.into_values().collect();
        TrafficReport { edges }
    }

    /// Single requests that somebody should hear of, since the last call: those that failed, the spans of those
    /// that are traced, and those that are tapped.
    pub fn observations(&self) -> Observations {
        let mut seen = Observations::default();
        for worker in &self.inner.workers {
            let failures = worker.ledger.take_failures();
            seen.failures.extend(failures.into_iter().map(Arc::unwrap_or_clone));
            let (tapped, lost) = worker.ledger.take_tapped();
            seen.tapped.extend(tapped);
            seen.lost += lost;
        }
        self.collect_spans();
        seen.spans = std::mem::take(&mut self.inner.spans.lock());
        seen
    }

    /// Which live requests are to be shown from now on; [`Proxy::observations`] gives them.
    pub fn tap(&self, wishes: &causeway_model::Taps) {
        self.inner.shared.taps.set(wishes);
    }

    /// Takes the workers' spans: the collector is sent all, the node is told of what there is room for.
    fn collect_spans(&self) {
        let inner = &self.inner;
        let spans: Vec<Span> = inner.workers.iter().flat_map(|worker| worker.ledger.take_spans()).collect();
        if let Some(exporter) = &inner.exporter {
            exporter.offer(&spans);
        }
        let mut waiting = inner.spans.lock();
        let room = limits::SPANS_REPORTED_MAX.saturating_sub(waiting.len());
        waiting.extend(spans.into_iter().take(room));
    }

    /// What the proxy counts, for Prometheus: at most 2,000 series whatever the traffic.
    pub fn metrics(&self) -> String {
        let inner = &self.inner;
        let connections = inner.scopes.connections.tasks();
        let mut scrape = scrape::scrape(&inner.shared, &inner.workers, inner.is_gateway, connections);
        if let Some(exporter) = &inner.exporter {
            scrape.spans = Some((exporter.counts().sent.load(Relaxed), exporter.counts().lost.load(Relaxed)));
        }
        metrics::exposition(scrape, &mut inner.series.lock())
    }

    /// Takes no further requests for the sidecar's app and waits until those under way have ended; connections of bytes (WebSockets, TCP)
    /// go on, and so do the app's own calls, which it may need to end well. Returns whether all ended in time. [`Proxy::drain`] comes after it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the proxy as it is; calling it again goes on waiting.
    pub async fn retire(&self, deadline: Duration) -> bool {
        let inner = &self.inner;
        inner.shared.is_retiring.store(true, Relaxed);
        inner.scopes.arrive.cancel();
        let arrivals = || inner.workers.iter().map(|worker| worker.arrivals.load(Relaxed)).sum::<u32>();
        let end = Instant::now() + deadline;
        // Kept connections first say that their next answer is the last.
        tokio::time::sleep(limits::LAST_ANSWERS.min(deadline)).await;
        inner.scopes.bell.ring(Level::Retire);
        let mut quiet_since = None;
        loop {
            let now = Instant::now();
            let since = *quiet_since.get_or_insert(now);
            if arrivals() > 0 {
                quiet_since = None;
            } else if now.saturating_duration_since(since) >= limits::QUIET {
                return true;
            }
            if now >= end {
                return false;
            }
            tokio::time::sleep(limits::QUIET / 10).await;
        }
    }

    /// Stops accepting, lets kept connections say that their next answer is the last (`Connection: close`) for a moment, then asks all
    /// to finish (idle ones end, GOAWAY) and waits for them until `deadline`; what is left then is broken off. Returns whether
    /// all finished in time.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the proxy draining; calling it again goes on waiting.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let inner = &self.inner;
        inner.shared.is_draining.store(true, Relaxed);
        inner.shared.is_retiring.store(true, Relaxed);
        inner.scopes.accept.cancel();
        let (connections, last_answers) = (&inner.scopes.connections, limits::LAST_ANSWERS.min(deadline));
        let mut is_whole = connections.shutdown(last_answers).await;
        inner.scopes.bell.ring(Level::Finish);
        if !is_whole {
            is_whole = connections.shutdown(deadline - last_answers).await;
        }
        if let Some(sink) = &inner.shared.records {
            inner.workers.iter().for_each(|worker| worker.ledger.flush(sink));
        }
        inner.scopes.bell.ring(Level::End);
        inner.workers.iter().for_each(|worker| worker.pool.close());
        inner.scopes.force.cancel();
        if let Some(exporter) = &inner.exporter {
            self.collect_spans();
            // A collector that is away must not hold up the end.
            let _ = tokio::time::timeout(limits::LAST_SPANS, exporter.flush()).await;
        }
        is_whole
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    pub(crate) fn workers(&self) -> &[Arc<Worker>] {
        &self.inner.workers
    }
}

/// Spawns a task that ends with the scope.
fn spawn(scope: &Scope, name: &str, task: impl Future<Output = ()> + Send + 'static) {
    let cancelled = scope.cancelled();
    scope.spawn(name, OnFailure::StopNode, async move {
        tokio::select! { biased; () = cancelled => {}, () = task => {} }
        Ok(())
    });
}

/// Starts a worker: on TCP a thread with a runtime of its own, in memory a task of the caller's.
fn start_worker(
    index: usize,
    worker: &Arc<Worker>,
    net: &Net,
    wanted: watch::Receiver<Arc<Vec<Opening>>>,
    opened: mpsc::UnboundedSender<Opened>,
    scopes: &Scopes,
) -> Result<(), Error> {
    let listening = listen::keep(worker.clone(), wanted, opened);
    let tidying = tidy(worker.clone());
    let accept = scopes.accept.clone();
    match net {
        Net::Memory(_) => {
            spawn(&accept, "worker", listening);
            spawn(&scopes.force, "tidy", tidying);
        }
        Net::Tcp(_) => {
            let force = scopes.force.clone();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
            let run = move || {
                runtime.block_on(async move {
                    spawn(&accept, "worker", listening);
                    spawn(&force, "tidy", tidying);
                    force.cancelled().await;
                });
            };
            std::thread::Builder::new()
                .name(format!("data-path-{index}"))
                .spawn(run)
                .map_err(Error::Thread)?;
        }
    }
    Ok(())
}

/// Hands records over and closes idle connections, now and then.
///
/// It runs on the worker's own runtime for a second reason: tokio wakes its driver with a system call whenever a timer is set
/// that is due before all others. With this one pending no request's time limit ever is (measured: one write a request less).
async fn tidy(worker: Arc<Worker>) {
    let mut since = Duration::ZERO;
    loop {
        tokio::time::sleep(limits::RECORD_BATCH_AGE).await;
        since += limits::RECORD_BATCH_AGE;
        worker.sampler.refill();
        if let Some(sink) = &worker.shared.records {
            worker.ledger.flush(sink);
        }
        if since > limits::TIDY {
            since = Duration::ZERO;
            worker.pool.tidy();
            worker.spare.tidy();
            worker.shared.renew_wall();
        }
    }
}

fn source_of(role: &Role) -> ServiceKey {
    match role {
        Role::Sidecar(Sidecar { service, .. }) => service.clone(),
        Role::Gateway { key: (namespace, name), .. } => {
            ServiceKey::new(Name::clone(namespace), Name::clone(name))
        }
        Role::Client { source } => source.clone(),
    }
}

fn app_of(role: &Role) -> Option<App> {
    let Role::Sidecar(sidecar) = role else { return None };
    let at = |address: SocketAddr, protocol: Protocol| {
        let transport = match protocol {
            protocol if protocol.is_raw() => Transport::Tcp,
            protocol if protocol.is_http2() => Transport::Http2,
            _ => Transport::Http1,
        };
        let group = lone_group(0, &address.ip().to_string(), address.port(), transport);
        lone_service(sidecar.service.clone(), protocol, group)
    };
    let service = at(sidecar.app?, sidecar.protocol);
    let main = sidecar.protocol.is_raw().then(|| (None, service.clone()));
    let further = sidecar.tcp_ports.iter().map(|address| (Some(address.port()), at(*address, Protocol::Tcp)));
    let raw = main.into_iter().chain(further).collect();
    Some(App { service, filters: vec![Arc::new(Caller)], gate: app_gate(), raw })
}

/// What the mesh port takes: an app's requests or its bytes, as it speaks; never the one as the other.
fn taken(app: Option<&App>) -> Vec<Spoken> {
    let raw = app.map_or(&[][..], |app| &app.raw).iter().map(|(port, _)| Spoken::Tcp(*port));
    let takes_http = app.is_none_or(|app| app.raw.iter().all(|(port, _)| port.is_some()));
    let http = takes_http.then_some([Spoken::Http2, Spoken::Http1]);
    http.into_iter().flatten().chain(raw).collect()
}

fn admin_listener(
    net: &Net,
    role: &Role,
    address: SocketAddr,
) -> Result<causeway_base::net::Listener, Error> {
    let what = "admin";
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback { what, address });
    }
    let bind = |address| net.bind(address, BindOptions::default());
    let may_move = matches!(role, Role::Sidecar(sidecar) if sidecar.may_move);
    let bound = match bind(address) {
        Err(error) if may_move && error.kind() == std::io::ErrorKind::AddrInUse => {
            let moved = bind(SocketAddr::new(address.ip(), 0));
            if let Ok(listener) = &moved {
                let moved = listener.local_addr().ok();
                tracing::warn!(%address, ?moved, what, "address is taken, using another");
            }
            moved
        }
        other => other,
    };
    bound.map_err(|source| Error::Bind { what, address, source })
}
