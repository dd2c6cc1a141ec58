//! What goes wrong when: events drawn from the seed, each with its own end.
//!
//! In:    a seed.      Out: crashes, returns, partitions, slow networks and disks, changed documents, drains; then calm.
//! Owner: the run of one seed.
//! Invariant: when [`run`] returns, everything that was broken is mended.
//! Not here: what must hold meanwhile (`load.rs`, `watch.rs`).

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{OnFailure, Scope, Seed};

use crate::world::{NODES, World};

/// Events of one run.
const EVENTS: std::ops::Range<usize> = 8..14;
/// How long all of them may take to end.
const CALM_MAX: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
enum Event {
    ControlCrash,
    NodeCrash(usize),
    AppCrash(usize),
    Partition(usize),
    Leave(usize),
    SlowNetwork(usize),
    SlowDisk,
    Split(u32, u32),
    Guard(bool),
}

/// Draws and carries out every event, and waits for the last one's end.
pub(crate) async fn run(world: &Arc<World>, seed: &Seed) {
    let scope = Scope::root("schedule");
    let mut busy = Busy::default();
    let events = EVENTS.start + seed.below(EVENTS.len());
    for _ in 0..events {
        tokio::time::sleep(Duration::from_millis(100 + seed.below(3000) as u64)).await;
        let event = draw(seed);
        let lasts = Duration::from_millis(100 + seed.below(6000) as u64);
        let Some(guard) = busy.take(event, seed) else { continue };
        world.note(&format!("{event:?} for {lasts:?}"));
        let (world, seed) = (world.clone(), seed.fork());
        scope.spawn("event", OnFailure::StopNode, async move {
            carry_out(&world, event, lasts, seed).await;
            world.note(&format!("{event:?} is over"));
            drop(guard);
            Ok(())
        });
    }
    if !scope.shutdown(CALM_MAX).await {
        world.problem(format!("not all events came to their end: {:?}", scope.census()));
    }
}

fn draw(seed: &Seed) -> Event {
    let node = seed.below(NODES);
    match seed.below(16) {
        0..3 => Event::ControlCrash,
        3..5 => Event::NodeCrash(node),
        5..7 => Event::AppCrash(node),
        7..10 => Event::Partition(node),
        10..12 => Event::Leave(node),
        12 => Event::SlowNetwork(node),
        13 => Event::SlowDisk,
        14 => Event::Split(seed.below(3) as u32, seed.below(3) as u32),
        _ => Event::Guard(seed.chance(0.5)),
    }
}

async fn carry_out(world: &Arc<World>, event: Event, lasts: Duration, seed: Seed) {
    let wait = || tokio::time::sleep(lasts);
    match event {
        Event::ControlCrash => {
            world.control.crash().await;
            wait().await;
            match world.control.start() {
                Ok(revision) => world.note(&format!("the control plane is back at {revision}")),
                Err(why) => world.problem(why),
            }
        }
        Event::NodeCrash(index) => {
            // A host that dies takes its way to the control plane with it.
            world.control.cut(index);
            world.nodes[index].crash(world).await;
            wait().await;
            world.control.heal(index);
            world.nodes[index].revive(world, seed).await;
        }
        Event::AppCrash(index) => {
            world.nodes[index].kill_app().await;
            wait().await;
            world.nodes[index].revive_app();
        }
        Event::Partition(index) => {
            world.control.cut(index);
            wait().await;
            world.control.heal(index);
        }
        Event::Leave(index) => {
            let known = world.nodes[index].leave().await;
            world.note(&format!("node {index} has left: {known:?}"));
            wait().await;
            world.nodes[index].revive(world, seed).await;
        }
        Event::SlowNetwork(index) => {
            world.nodes[index].slow(world, Duration::from_millis(20 + seed.below(700) as u64));
            wait().await;
            world.nodes[index].slow(world, Duration::ZERO);
        }
        Event::SlowDisk => {
            let takes = world.control.slow_disk(&seed);
            world.note(&format!("a sync takes {takes:?}"));
        }
        Event::Split(first, second) => {
            let revision = world.split(first, second).await;
            world.note(&format!("split {first}:{second} at {revision}"));
        }
        Event::Guard(is_on) => {
            let revision = world.guard(is_on).await;
            world.note(&format!("guard {is_on} at {revision}"));
        }
    }
}

/// What an event is at work on: one at a time for each node and for the control plane.
#[derive(Default)]
struct Busy {
    control: Arc<()>,
    nodes: [Arc<()>; NODES],
    documents: Arc<()>,
}

impl Busy {
    fn take(&mut self, event: Event, seed: &Seed) -> Option<Arc<()>> {
        let is_free = |token: &Arc<()>| Arc::strong_count(token) == 1;
        let token = match event {
            Event::ControlCrash => &self.control,
            Event::SlowDisk | Event::Split(..) | Event::Guard(_) => &self.documents,
            Event::NodeCrash(index)
            | Event::AppCrash(index)
            | Event::Partition(index)
            | Event::Leave(index)
            | Event::SlowNetwork(index) => {
                // All three at once leaves nobody to answer: worth seeing, but seldom.
                let others = self.nodes.iter().filter(|token| !is_free(token)).count();
                if others + 1 == NODES && !seed.chance(0.15) {
                    return None;
                }
                &self.nodes[index]
            }
        };
        is_free(token).then(|| token.clone())
    }
}
