//! Keeps the plan current: compiles each new picture and publishes the result.
//!
//! In:    `watch<Arc<Snapshot>>`.      Out: the plan behind its atomic pointer, its revision to those who wait.
//! Owner: one task of the proxy. A burst of pictures is compiled once: the newest is taken.
//! Invariant: the published revision is never ahead of the published plan.
//! Not here: how a plan is built (`plan::compile`).

use std::sync::Arc;

use causeway_model::{Revision, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::plan::Rules;
use crate::plan::compile::Compiler;
use crate::worker::Shared;

/// Runs until the source of pictures is gone; the proxy then serves on with its last plan.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut compiler: Compiler,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    planned: watch::Sender<Revision>,
) {
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        let begun = Instant::now();
        let has_revoked = shared.tls.as_ref().is_some_and(|tls| tls.revoke(snapshot.revocations()));
        let last = shared.plan.load_full();
        let plan = compiler.compile(&snapshot, Some(&last), shared.micros(begun));
        let is_new = !Arc::ptr_eq(&plan.rules, &last.rules);
        if is_new {
            for problem in plan.rules.problems.iter().filter(|p| !last.rules.problems.contains(p)) {
                tracing::warn!(%problem, "configuration cannot be used as written");
            }
        }
        let revision = plan.revision;
        let is_decided_otherwise = is_new && !decide_alike(&plan.rules, &last.rules);
        let plan = Arc::new(plan);
        shared.plan.store(plan.clone());
        plan.replace(&last);
        if has_revoked || is_decided_otherwise {
            shared.reviews.iter().for_each(|review| review.call());
        }
        planned.send_replace(revision);
        tracing::debug!(%revision, took = ?begun.elapsed(), "plan swapped");
    }
    // Held to the end: who waits for a newer plan must wait, not be told that there will be none.
    std::future::pending::<()>().await;
}

/// Whether whoever may come in under these rules is who might under those.
fn decide_alike(rules: &Rules, last: &Rules) -> bool {
    match (&rules.access, &last.access) {
        (Some(access), Some(last)) => access.decides_like(last),
        (access, last) => access.is_none() && last.is_none(),
    }
}
