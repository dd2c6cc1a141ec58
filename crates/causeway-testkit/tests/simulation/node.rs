//! A node of the data path: the real sidecar with its streams, an app behind it, on a host of its own.
//!
//! In:    orders of the schedule (crash, return, leave).      Out: calls taken for the app, and a way out for the app's calls.
//! Owner: the [`World`](crate::world::World).
//! Invariant: a node that returns has the identity, the instance id and the last picture that it had, as a process that keeps a
//! state folder has.
//! Not here: the app's calls (`load.rs`), when what happens (`schedule.rs`).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::net::Net;
use causeway_base::outbound::Pending;
use causeway_base::{OnFailure, Scope, Seed};
use causeway_identity::{Credentials, Expected, control_service, mesh_client_config, unnamed_server};
use causeway_model::{
    Epoch, Health, Instance, InstanceId, InstanceKey, Lease, Lifecycle, Locality, MeshAddress, Origin,
    Protocol, Revision, Timestamp,
};
use causeway_proxy::{Proxy, Role, Sidecar};
use causeway_testkit::{App, House};
use causeway_xds::{Client, ClientConfig, ClientHandle, Dial, Hold, Io, Known, Link, Picture};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::control::ControlPlane;
use crate::world::{APP, World};

/// How long a withdrawal may take, as the roof has it: the node waits five seconds for the other proxies.
const WITHDRAW_MAX: Duration = Duration::from_secs(6);
/// How long calls may take to finish when a node leaves.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const END_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) app: App,
    inbound: SocketAddr,
    credentials: Credentials,
    state: Mutex<State>,
}

struct State {
    process: Option<Process>,
    kept: Option<Picture>,
    is_app_up: bool,
    is_leaving: bool,
    /// When any of the above changed last.
    changed_at: Instant,
    /// When a call under way may have been broken off last.
    harmed_at: Option<Instant>,
    generation: u64,
}

/// What runs on a node: one process of a sidecar.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) generation: u64,
    pub(crate) proxy: Proxy,
    pub(crate) pictures: ClientHandle,
    hold: Hold,
    scope: Scope,
}

impl Node {
    pub(crate) fn new(index: usize, house: &House, app: App) -> Self {
        let state = State {
            process: None,
            kept: None,
            is_app_up: true,
            is_leaving: false,
            changed_at: Instant::now(),
            harmed_at: None,
            generation: 0,
        };
        let (inbound, credentials) = (house.address(15008), house.credentials(APP));
        Node { index, app, inbound, credentials, state: Mutex::new(state) }
    }

    pub(crate) fn id(index: usize) -> InstanceId {
        InstanceId::new(&format!("app-{}", index + 1)).unwrap()
    }

    pub(crate) fn version(index: usize) -> &'static str {
        ["v1", "v1", "v2"][index]
    }

    pub(crate) fn process(&self) -> Option<Process> {
        self.state.lock().process.clone()
    }

    /// Since when calls are taken and answered without a break; nothing when they are not.
    pub(crate) fn serves_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        let serves = state.process.is_some() && state.is_app_up && !state.is_leaving;
        serves.then_some(state.changed_at)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.state.lock().is_leaving
    }

    pub(crate) fn harmed_at(&self) -> Option<Instant> {
        self.state.lock().harmed_at
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.changed_at = Instant::now();
    }

    fn harm(&self, change: impl FnOnce(&mut State)) {
        self.change(|state| {
            change(state);
            state.harmed_at = Some(Instant::now());
        });
    }

    /// Starts the sidecar: configuration, then the proxy, then the registration (which waits for a control plane).
    pub(crate) async fn start(&self, world: &Arc<World>, seed: Seed) {
        let (house, clock, scope) = (&world.house, world.house.clock(), Scope::root("node"));
        let generation = self.state.lock().generation + 1;
        let tls = mesh_client_config(&self.credentials, Expected::Service(control_service()), &[b"h2"]);
        let cable = Cable { net: house.net(), tls };
        let control = vec![ControlPlane::address(self.index).to_string()];
        let link = Link::start(control, Arc::new(cable), &clock, &seed, &scope);
        let config = ClientConfig {
            node_id: Node::id(self.index).to_string(),
            role: causeway_xds::Role::Sidecar(House::key(APP)),
            wants: vec![House::key(APP)],
            last: self.state.lock().kept.clone(),
        };
        let pictures = Client::start(config, link.clone(), &clock, &seed, &scope);
        pictures.ready().await;
        let hold = Hold::start(link, &clock, &seed, &scope);
        let role = Sidecar {
            service: House::key(APP),
            app: Some(self.app.address()),
            protocol: Protocol::Http,
            tcp_ports: vec![],
            inbound: Some(self.inbound),
            outbound: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)),
            upstreams: vec![],
            transparent: vec![],
            may_move: false,
        };
        let mut options = causeway_proxy::Options::new(Role::Sidecar(role), pictures.snapshot());
        options.net = house.net();
        options.clock = clock;
        options.seed = seed.fork();
        options.credentials = Some(self.credentials.clone());
        let proxy = Proxy::start(options, &scope).await.expect("its addresses are its own");
        let process = Process { generation, proxy, pictures, hold: hold.clone(), scope: scope.clone() };
        self.change(|state| {
            state.process = Some(process);
            state.generation = generation;
            state.is_app_up = true;
            state.is_leaving = false;
        });
        let (world, index, instance) = (world.clone(), self.index, self.instance(world));
        let ended = scope.cancelled();
        scope.spawn("register", OnFailure::StopNode, async move {
            tokio::select! {
                biased;
                () = ended => {}
                held = hold.register(instance) => match held {
                    Ok(held) => world.note(&format!("node {index} registered at {} epoch {}", held.revision, held.epoch)),
                    // Withdrawn before a control plane was there to hear of it.
                    Err(_) if world.nodes[index].is_leaving() => {}
                    Err(refused) => world.problem(format!("node {index} is refused: {refused}")),
                },
            }
            Ok(())
        });
    }

    /// The host dies: connections break, addresses time out.
    pub(crate) async fn crash(&self, world: &World) {
        let process = self.state.lock().process.clone();
        world.house.faults().cut(self.inbound.ip());
        self.harm(|state| {
            state.kept = state.process.take().map(|process| process.pictures.picture());
            state.is_app_up = false;
        });
        if let Some(process) = process {
            process.scope.cancel();
            process.proxy.drain(Duration::ZERO).await;
            process.scope.shutdown(END_MAX).await;
        }
        self.app.kill().await;
    }

    /// The host is back, and with it the process.
    pub(crate) async fn revive(&self, world: &Arc<World>, seed: Seed) {
        world.house.faults().heal(self.inbound.ip());
        self.app.revive();
        self.start(world, seed).await;
    }

    /// Leaves in peace: withdrawn -> acknowledged -> drained -> stopped. Gives what the control plane said, if it did.
    pub(crate) async fn leave(&self) -> Option<Known> {
        let process = self.process()?;
        self.change(|state| state.is_leaving = true);
        let known = tokio::time::timeout(WITHDRAW_MAX, process.hold.withdraw()).await;
        if !process.proxy.drain(DRAIN_MAX).await {
            self.harm(|_| {});
        }
        self.change(|state| {
            state.kept = state.process.take().map(|process| process.pictures.picture());
            state.is_app_up = false;
        });
        process.scope.shutdown(END_MAX).await;
        self.app.kill().await;
        known.ok().and_then(Result::ok)
    }

    /// The app alone dies; its sidecar goes on.
    pub(crate) async fn kill_app(&self) {
        self.harm(|state| state.is_app_up = false);
        self.app.kill().await;
    }

    pub(crate) fn revive_app(&self) {
        self.app.revive();
        self.change(|state| state.is_app_up = true);
    }

    /// Makes connections to it slow from now on.
    pub(crate) fn slow(&self, world: &World, by: Duration) {
        world.house.faults().delay(self.inbound.ip(), by);
    }

    fn instance(&self, world: &World) -> Instance {
        let address = self.app.address();
        Instance {
            key: InstanceKey { service: House::key(APP), id: Node::id(self.index) },
            address: address.ip().to_string(),
            port: address.port(),
            ports: Default::default(),
            protocol: Protocol::Http,
            version: Node::version(self.index).to_owned(),
            tags: Default::default(),
            metadata: Default::default(),
            weight: 100,
            locality: Locality::default(),
            mesh: Some(MeshAddress { address: self.inbound.ip().to_string(), port: self.inbound.port() }),
            health: Health::Passing,
            lifecycle: Lifecycle::Up,
            lease: Lease::Connection,
            epoch: Epoch::default(),
            origin: Origin::Builtin,
            registered_at: Timestamp::from(world.house.clock().now()),
            revision: Revision::default(),
            checks: vec![],
        }
    }
}

/// The way to the control port, TLS included.
struct Cable {
    net: Net,
    tls: Arc<rustls::ClientConfig>,
}

impl Dial for Cable {
    fn dial(&self, address: &str) -> Pending<io::Result<Box<dyn Io>>> {
        let (net, tls, address) = (self.net.clone(), self.tls.clone(), address.parse::<SocketAddr>());
        Box::pin(async move {
            let stream = net.connect(address.map_err(io::Error::other)?).await?;
            Ok(Box::new(TlsConnector::from(tls).connect(unnamed_server(), stream).await?) as Box<dyn Io>)
        })
    }
}
