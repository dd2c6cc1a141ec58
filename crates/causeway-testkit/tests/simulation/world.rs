//! One simulated house: a control plane, three nodes, a network, and everything that was seen to happen.
//!
//! In:    a seed.      Out: a trace, and what was wrong.
//! Owner: the run of one seed (`simulation.rs`).
//! Invariant: every choice comes from the seed, all time from the paused clock; nothing here opens a socket or starts a thread.
//! Not here: what must hold (`watch.rs`, `load.rs`), what happens when (`schedule.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::Seed;
use causeway_model::{
    AccessPolicy, AccessRule, Backend, HttpRoute, Kind, ObjectKey, Origin, ParentKind, ParentRef, PathMatch,
    RequestMatch, Revision, Rule, Service, ServiceKey, Snapshot, Spec, Subset,
};
use causeway_registry::{Command, Proposed};
use causeway_testkit::House;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::control::ControlPlane;
use crate::node::Node;

/// Nodes of the data path.
pub(crate) const NODES: usize = 3;
/// The service that every node runs an instance of, and that every node's app calls.
pub(crate) const APP: &str = "app";
/// Parts of it by version.
pub(crate) const PARTS: [(&str, &str); 2] = [("app-v1", "v1"), ("app-v2", "v2")];
const ROUTE: &str = "split";
const POLICY: &str = "reads-only";

pub(crate) struct World {
    pub(crate) house: Arc<House>,
    pub(crate) control: ControlPlane,
    pub(crate) nodes: Vec<Node>,
    /// Since when a node's picture does not hold a routable instance: by node and instance.
    pub(crate) missing: Mutex<BTreeMap<(usize, usize), Instant>>,
    started: Instant,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    trace: Vec<String>,
    problems: Vec<String>,
    /// Which apps a request reached.
    calls: BTreeMap<u64, Vec<usize>>,
}

impl World {
    /// Starts the control plane, its first documents, and the nodes.
    pub(crate) async fn start(seed: &Seed) -> Arc<Self> {
        let house = Arc::new(House::new());
        let nodes =
            (0..NODES).map(|index| Node::new(index, &house, house.app(Node::id(index).as_str()))).collect();
        let world = Arc::new(World {
            control: ControlPlane::new(house.clone()),
            nodes,
            started: house.clock().instant(),
            missing: Mutex::default(),
            seen: Mutex::default(),
            house,
        });
        for node in &world.nodes {
            world.behave(node, seed.u64());
        }
        world.control.slow_disk(seed);
        world.control.start().expect("an empty disk");
        let parts = PARTS.map(|(name, version)| {
            let subset = Subset { of: House::key(APP).name, version: Some(version.into()), tags: vec![] };
            proposed(name, Spec::Service(Service { subset: Some(subset), ..Service::default() }))
        });
        world.apply(parts.to_vec()).await;
        world.split(1, 1).await;
        for node in &world.nodes {
            node.start(&world, seed.fork()).await;
        }
        world
    }

    /// The app answers with its name after a while that hangs on the request alone, and says who called.
    fn behave(self: &Arc<Self>, node: &Node, salt: u64) {
        let (world, index) = (Arc::downgrade(self), node.index);
        node.app.behave(move |seen| {
            let number = seen.line.rsplit('=').next().and_then(|text| text.parse().ok()).unwrap_or_default();
            if let Some(world) = world.upgrade() {
                world.seen.lock().calls.entry(number).or_default().push(index);
                world.note(&format!("request {number} reached app {index}"));
            }
            let late = Seed::from_number(salt ^ number).below(30) as u64;
            (Duration::from_millis(late), http::Response::new(Node::id(index).to_string().into()))
        });
    }

    // === what is seen ===

    /// Writes an event down; the trace of a seed is the same whenever it is run.
    pub(crate) fn note(&self, text: &str) {
        let at = self.started.elapsed().as_micros();
        self.seen.lock().trace.push(format!("{:>5}.{:06} {text}", at / 1_000_000, at % 1_000_000));
    }

    /// Something is wrong.
    pub(crate) fn problem(&self, text: String) {
        self.note(&format!("WRONG: {text}"));
        self.seen.lock().problems.push(text);
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.seen.lock().problems.clone()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.seen.lock().trace.clone()
    }

    /// Which apps a request has reached, in order.
    pub(crate) fn reached(&self, number: u64) -> Vec<usize> {
        self.seen.lock().calls.get(&number).cloned().unwrap_or_default()
    }

    // === what an operator does ===

    /// Shares of the calls to `/split`; two zeros take the route away.
    pub(crate) async fn split(&self, first: u32, second: u32) -> Revision {
        if (first, second) == (0, 0) {
            return self.delete(Kind::HttpRoute, ROUTE).await;
        }
        let backend = |(name, _): (&str, &str), weight| Backend {
            service: House::key(name),
            port: None,
            weight,
            filters: vec![],
        };
        let prefix = |path: &str| RequestMatch {
            path: PathMatch::Prefix(path.into()),
            headers: vec![],
            query: vec![],
            method: None,
        };
        let whole = Backend { service: House::key(APP), port: None, weight: 1, filters: vec![] };
        let shares = vec![backend(PARTS[0], first), backend(PARTS[1], second)];
        let rules = vec![
            Rule { matches: vec![prefix("/split")], backends: shares, ..Rule::default() },
            Rule { matches: vec![prefix("/")], backends: vec![whole], ..Rule::default() },
        ];
        let ServiceKey { namespace, name } = House::key(APP);
        let parents =
            vec![ParentRef { kind: ParentKind::Service, namespace, name, section: None, port: None }];
        self.apply(vec![proposed(ROUTE, Spec::HttpRoute(HttpRoute { parents, hostnames: vec![], rules }))])
            .await
    }

    /// Whether only GET is allowed.
    pub(crate) async fn guard(&self, is_on: bool) -> Revision {
        if !is_on {
            return self.delete(Kind::AccessPolicy, POLICY).await;
        }
        let allow =
            vec![AccessRule { from: vec![], methods: vec!["GET".into()], paths: vec![], ports: vec![] }];
        let policy = AccessPolicy {
            targets: vec![House::key(APP)],
            allow,
            is_dry_run: false,
            ..AccessPolicy::default()
        };
        self.apply(vec![proposed(POLICY, Spec::AccessPolicy(policy))]).await
    }

    async fn apply(&self, objects: Vec<Proposed>) -> Revision {
        self.control.submit(Command::Apply { objects, is_dry_run: false, prune: vec![] }).await
    }

    async fn delete(&self, kind: Kind, name: &str) -> Revision {
        self.control.submit(Command::Delete { key: object(kind, name), origin: operator() }).await
    }
}

/// Shares of the calls to `/split` in a picture, by part; without a route there is only the whole.
pub(crate) fn shares(snapshot: &Snapshot) -> Option<Vec<(ServiceKey, u32)>> {
    match &snapshot.object(&object(Kind::HttpRoute, ROUTE))?.spec {
        Spec::HttpRoute(route) => Some(
            route.rules[0].backends.iter().map(|backend| (backend.service.clone(), backend.weight)).collect(),
        ),
        _ => None,
    }
}

/// Whether a picture allows only GET.
pub(crate) fn is_guarded(snapshot: &Snapshot) -> bool {
    snapshot.object(&object(Kind::AccessPolicy, POLICY)).is_some()
}

fn object(kind: Kind, name: &str) -> ObjectKey {
    let ServiceKey { namespace, name } = House::key(name);
    ObjectKey { kind, namespace, name }
}

fn operator() -> Origin {
    Origin::Api { caller: "operator".into() }
}

fn proposed(name: &str, spec: Spec) -> Proposed {
    Proposed { key: object(spec.kind(), name), origin: operator(), spec, written: String::new() }
}
