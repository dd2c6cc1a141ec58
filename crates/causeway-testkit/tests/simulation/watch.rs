//! What must hold all along, and what must hold once everything is calm.
//!
//! In:    the world, looked at twenty times a second.      Out: problems.
//! Owner: one task, and the run of one seed at its end.
//! Invariant: it only looks.
//! Not here: which answers are right (`load.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{OnFailure, Scope};
use causeway_model::{InstanceKey, ResourceKey, Revision, Snapshot};
use causeway_testkit::House;
use causeway_xds::project;
use causeway_xds::resource::Subscription;
use tokio::time::Instant;

use crate::node::{Node, Process};
use crate::world::{APP, NODES, PARTS, World, shares};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How far a connected proxy may be behind, and how long one that is gone may still be called.
pub(crate) const BEHIND_MAX: Duration = Duration::from_secs(1);
/// How long calm takes at most: a connection is tried again after 5 s at most, its streams likewise, a registration is kept for
/// 15 s after a restart of the registry.
const CALM_MAX: Duration = Duration::from_secs(30);

/// How long a node may take to return once it can: its connection is tried again after 5 s at most, its stream likewise.
const RETURN_MAX: Duration = Duration::from_secs(12);

/// What was seen at the last looks.
#[derive(Default)]
struct Watch {
    newest: Revision,
    pictures: [(u64, Revision); NODES],
    plans: [(u64, Revision); NODES],
    behind_since: Option<Instant>,
    /// Since when a node can be heard, and whether the registry held its instance at the last look.
    heard: [Option<(Instant, bool)>; NODES],
}

/// Looks until the scope ends.
pub(crate) fn start(world: &Arc<World>, scope: &Scope) {
    let (world, stop) = (world.clone(), scope.cancelled());
    scope.spawn("watch", OnFailure::StopNode, async move {
        tokio::pin!(stop);
        let mut watch = Watch::default();
        loop {
            tokio::select! { biased; () = &mut stop => return Ok(()), () = tokio::time::sleep(LOOK_EVERY) => {} }
            watch.look(&world);
        }
    });
}

impl Watch {
    fn look(&mut self, world: &World) {
        let now = Instant::now();
        let newest = world.control.look();
        if newest < self.newest {
            world.problem(format!("the registry went back from {} to {newest}", self.newest));
        }
        self.newest = newest;
        for node in &world.nodes {
            if let Some(process) = node.process() {
                self.only_forward(world, node, &process);
                note_missing(world, node.index, &process.pictures.current(), now);
            }
        }
        self.not_behind(world, now);
        self.kept(world, now);
        not_kept(world, now);
    }

    /// A process's picture and plan never go back.
    fn only_forward(&mut self, world: &World, node: &Node, process: &Process) {
        let seen = [
            (&mut self.pictures[node.index], process.pictures.current().revision(), "picture"),
            (&mut self.plans[node.index], process.proxy.plan_revision(), "plan"),
        ];
        for (last, now, what) in seen {
            if last.0 == process.generation && now < last.1 {
                world
                    .problem(format!("the {what} of node {} went back from {} to {now}", node.index, last.1));
            }
            *last = (process.generation, now);
        }
    }

    /// An instance that is there and can be heard is not forgotten, whatever the registry itself goes through.
    fn kept(&mut self, world: &World, now: Instant) {
        let snapshot = world.control.life().map(|life| life.registry.snapshot());
        for (node, heard) in world.nodes.iter().zip(&mut self.heard) {
            let is_up = node.process().is_some() && !node.is_leaving();
            let is_heard = is_up && !world.control.is_cut(node.index);
            let (since, was_held) = heard.unwrap_or((now, false));
            let is_held = snapshot.as_ref().map_or(was_held, |snapshot| holds(snapshot, node.index));
            if is_heard && was_held && !is_held && now - since > RETURN_MAX {
                world.problem(format!("instance {} is there and was forgotten", node.index));
            }
            *heard = is_heard.then_some((since, is_held));
        }
    }

    /// Whoever is connected knows within a second what the registry knows.
    fn not_behind(&mut self, world: &World, now: Instant) {
        let lagging = world.control.life().and_then(|life| {
            let revision = life.registry.snapshot().revision();
            life.signals.hub().acknowledged(revision).err().map(|lagging| (revision, lagging))
        });
        let Some((revision, lagging)) = lagging else {
            self.behind_since = None;
            return;
        };
        let since = *self.behind_since.get_or_insert(now);
        if now - since > BEHIND_MAX {
            world.problem(format!(
                "revision {revision} is not acknowledged within {BEHIND_MAX:?}: {lagging:?}"
            ));
            self.behind_since = None;
        }
    }
}

/// An instance whose connection broke is not offered any more (within a second), but a restart gives time to return.
fn not_kept(world: &World, now: Instant) {
    let Some(life) = world.control.life() else { return };
    let snapshot = life.registry.snapshot();
    for index in 0..NODES {
        let is_due = world.control.gone_from(index).is_some_and(|from| now - from > BEHIND_MAX);
        if is_due && holds(&snapshot, index) {
            world.problem(format!(
                "instance {index} is cut off and still routable: {:?}",
                snapshot.instance(&instance(index))
            ));
        }
    }
}

fn note_missing(world: &World, node: usize, picture: &Snapshot, now: Instant) {
    let mut missing = world.missing.lock();
    for index in 0..NODES {
        match holds(picture, index) {
            true => _ = missing.remove(&(node, index)),
            false => _ = missing.entry((node, index)).or_insert(now),
        }
    }
}

/// Once everything is mended: all is registered, every proxy has exactly what it uses at the registry's revision, and has
/// acknowledged it and planned with it.
pub(crate) async fn calm(world: &World) {
    let began = Instant::now();
    loop {
        let problems = unsettled(world);
        if problems.is_empty() {
            world.note("calm");
            return;
        }
        if began.elapsed() > CALM_MAX {
            world.problem(format!("not calm after {CALM_MAX:?}: {}", problems.join("; ")));
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn unsettled(world: &World) -> Vec<String> {
    let Some(life) = world.control.life() else { return vec!["there is no control plane".into()] };
    let (snapshot, hub) = (life.registry.snapshot(), life.signals.hub());
    let mut problems = Vec::new();
    for index in 0..NODES {
        if !holds(&snapshot, index) {
            problems.push(format!("instance {index} is not routable in the registry"));
        }
    }
    if hub.count() != NODES {
        problems.push(format!("{} proxies are connected", hub.count()));
    }
    if let Err(lagging) = hub.acknowledged(snapshot.revision()) {
        problems.push(format!("not acknowledged: {lagging:?}"));
    }
    for node in &world.nodes {
        let Some(process) = node.process() else {
            problems.push(format!("node {} is down", node.index));
            continue;
        };
        let picture = process.pictures.current();
        if process.proxy.plan_revision() != picture.revision() {
            let plan = process.proxy.plan_revision();
            problems.push(format!("node {} plans {plan} of {}", node.index, picture.revision()));
        }
        let (wanted, held) = (project::wanted(&snapshot, &subscriptions(&snapshot)), held(&picture));
        if wanted != held {
            problems.push(format!("node {} holds {held:?} instead of {wanted:?}", node.index));
        }
    }
    problems
}

/// What a sidecar of the app that calls the app uses, in this picture.
fn subscriptions(snapshot: &Snapshot) -> BTreeSet<Subscription> {
    let own = House::key(APP);
    let mut all = BTreeSet::from([Subscription::Service(own.clone()), Subscription::PoliciesOf(own.clone())]);
    all.extend(project::upstream(&own));
    if shares(snapshot).is_some() {
        all.extend(PARTS.iter().flat_map(|(name, _)| project::upstream(&House::key(name))));
    }
    all
}

fn held(picture: &Snapshot) -> BTreeMap<ResourceKey, Revision> {
    let objects = picture.objects().map(|object| (ResourceKey::Object(object.key.clone()), object.revision));
    let instances = picture.instances();
    objects.chain(instances.map(|i| (ResourceKey::Instance(i.key.clone()), i.revision))).collect()
}

/// Whether a picture holds the instance of a node, so that it may be called.
pub(crate) fn holds(picture: &Snapshot, index: usize) -> bool {
    picture.instance(&instance(index)).is_some_and(|instance| instance.is_routable())
}

fn instance(index: usize) -> InstanceKey {
    InstanceKey { service: House::key(APP), id: Node::id(index) }
}
