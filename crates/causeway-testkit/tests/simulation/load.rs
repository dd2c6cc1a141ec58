//! What the apps ask of one another, all the time, and which answers are right.
//!
//! In:    a node.      Out: a line of the trace for each request; a problem for each answer that nothing excuses.
//! Owner: one task for each node.
//! Invariant: a request may fail only when, by what its own sidecar knew, nobody was there to take it. Precisely: an idempotent
//! request is answered 200 whenever its sidecar's picture held, when it began, an instance that took calls from then on without
//! a break (for `/split`: one of every part that has a share); a POST too, unless some instance broke off calls meanwhile; and a
//! POST reaches an app at most once. An instance that is gone from its picture for a second is not called any more.
//! Not here: what the pictures should hold (`watch.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{OnFailure, Scope, Seed};
use causeway_model::{ServiceKey, Snapshot};
use causeway_testkit::{Client, House};
use http::Request;
use tokio::time::Instant;

use crate::node::{Node, Process};
use crate::watch::{BEHIND_MAX, holds};
use crate::world::{APP, NODES, World, is_guarded, shares};

/// No request takes longer: there are three instances, and a dead host costs at most the two seconds of a connection each.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Any,
    Split,
    Post,
}

/// Counts of one run, to see that it did something.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) good: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) excused: AtomicU64,
}

/// Starts the load of one node; it stops with the scope.
pub(crate) fn start(world: &Arc<World>, index: usize, counts: &Arc<Counts>, seed: Seed, scope: &Scope) {
    let (world, counts, stop) = (world.clone(), counts.clone(), scope.cancelled());
    scope.spawn("load", OnFailure::StopNode, async move {
        tokio::pin!(stop);
        let mut client: Option<(u64, Client)> = None;
        for turn in 0.. {
            let gap = Duration::from_millis(20 + seed.below(200) as u64);
            tokio::select! { biased; () = &mut stop => break, () = tokio::time::sleep(gap) => {} }
            let node = &world.nodes[index];
            let ask = [Ask::Any, Ask::Any, Ask::Split, Ask::Post][seed.below(4)];
            let Some(process) = node.process().filter(|_| !node.is_leaving()) else { continue };
            let number = turn * NODES as u64 + index as u64;
            let own = client.take().filter(|(generation, _)| *generation == process.generation);
            let mut own = match own {
                Some((_, own)) => own,
                None => Client::connect(&world.house.net(), process.proxy.outbound_address().unwrap()).await,
            };
            if one(&world, node, &process, &mut own, ask, number, &counts).await {
                client = Some((process.generation, own));
            }
        }
        Ok(())
    });
}

/// One request; whether its connection can be used again.
async fn one(
    world: &World,
    node: &Node,
    process: &Process,
    client: &mut Client,
    ask: Ask,
    number: u64,
    counts: &Counts,
) -> bool {
    let (method, path) = match ask {
        Ask::Any => ("GET", "any"),
        Ask::Split => ("GET", "split"),
        Ask::Post => ("POST", "any"),
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("/{path}?n={number}"))
        .header("host", "app.mesh")
        .body(Bytes::from_static(if ask == Ask::Post { b"one" } else { b"" }))
        .unwrap();
    let (began, picture) = (Instant::now(), process.pictures.current());
    let gone = gone(world, node.index, began);
    let mut guards = guards(world);
    let answer = tokio::time::timeout(ANSWER_MAX, client.send(request)).await;
    guards.extend(self::guards(world));
    let is_same =
        node.process().is_some_and(|now| now.generation == process.generation) && !node.is_leaving();
    let outcome = match &answer {
        Ok(Ok(answer)) => answer.line(),
        Ok(Err(error)) => format!("no answer: {error}"),
        Err(_) => "too late".to_owned(),
    };
    let took = began.elapsed().as_millis();
    world.note(&format!("node {} {method} /{path} {number}: {outcome} ({took} ms)", node.index));
    let status = answer
        .as_ref()
        .ok()
        .and_then(|answer| answer.as_ref().ok())
        .map_or(0, |answer| answer.status.as_u16());
    let reached = world.reached(number);
    if ask == Ask::Post && reached.len() > 1 {
        world.problem(format!("POST {number} was done by apps {reached:?}"));
    }
    let now = process.pictures.current();
    for app in reached.iter().filter(|app| gone.contains(app) && !holds(&now, **app)) {
        world.problem(format!("node {} still calls app {app}, which is gone from its picture", node.index));
    }
    let excuse = match status {
        200 if ask == Ask::Post && !guards.contains(&false) => None,
        200 => {
            counts.good.fetch_add(1, Relaxed);
            return true;
        }
        403 if ask == Ask::Post && guards.contains(&true) => {
            counts.refused.fetch_add(1, Relaxed);
            return true;
        }
        // A guard that comes while the answer is on its way ends it.
        502 | 0 if ask == Ask::Post && guards.contains(&true) && guards.contains(&false) => {
            counts.refused.fetch_add(1, Relaxed);
            return true;
        }
        _ if !is_same => Some("its own sidecar ended"),
        _ => excuse(world, &picture, ask, began),
    };
    match excuse {
        Some(why) => {
            counts.excused.fetch_add(1, Relaxed);
            world.note(&format!("request {number} is excused: {why}"));
        }
        None => world.problem(format!(
            "node {} {method} /{path} {number}: {outcome} after {took} ms; nothing excuses it; it reached {reached:?}",
            node.index
        )),
    }
    status != 0
}

/// Instances that have not been in the node's picture for so long that it must not call them.
fn gone(world: &World, node: usize, began: Instant) -> Vec<usize> {
    let missing = world.missing.lock();
    let is_gone = |app: &usize| missing.get(&(node, *app)).is_some_and(|since| *since + BEHIND_MAX < began);
    (0..NODES).filter(is_gone).collect()
}

/// What the sidecars that take calls think of POST, each by its own picture.
fn guards(world: &World) -> Vec<bool> {
    let pictures = world.nodes.iter().filter_map(Node::process).map(|process| process.pictures.current());
    pictures.map(|picture| is_guarded(&picture)).collect()
}

fn excuse(world: &World, picture: &Snapshot, ask: Ask, began: Instant) -> Option<&'static str> {
    let is_served = |service: &ServiceKey| {
        let mut routable = picture.instances_of(service).filter(|instance| instance.is_routable());
        routable.any(|instance| {
            let at = (0..NODES).find(|index| Node::id(*index) == instance.key.id);
            at.and_then(|index| world.nodes[index].serves_since()).is_some_and(|since| since <= began)
        })
    };
    if !is_served(&House::key(APP)) {
        return Some("no instance that it knew took calls");
    }
    let parts = if ask == Ask::Split { shares(picture) } else { None };
    let is_part_dead = |(part, share): (ServiceKey, u32)| share > 0 && !is_served(&part);
    if parts.into_iter().flatten().any(is_part_dead) {
        return Some("no instance of a part took calls");
    }
    // Within the millisecond of the timer: what broke then broke what had just been sent.
    let since = began - Duration::from_millis(1);
    let is_harmed = |node: &Node| node.harmed_at().is_some_and(|at| at >= since);
    (ask == Ask::Post && world.nodes.iter().any(is_harmed))
        .then_some("a call that was under way was broken off")
}
