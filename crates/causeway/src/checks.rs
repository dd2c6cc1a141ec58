//! Checks that the node runs: asks the instances that wished for it how they fare, and tells the registry when that changes.
//!
//! In:    the registry's picture (instances with `checks`), answers of apps.      Out: `Report` commands, on transitions only.
//! Owner: `node` starts one follower.
//! Invariant: a report names the epoch that was checked; an instance is never shown better than its own checks say for long.
//! Not here: what is due and what follows from an answer (`schedule.rs`), how one is asked (`probe.rs`), checks that a sidecar
//! makes of its own app (`sidecar.rs`), static endpoints (nobody probes them; the proxies eject failing ones).

mod grpc;
mod metrics;
mod probe;
mod schedule;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use causeway_base::net::Net;
use causeway_base::telemetry::Metrics as Shared;
use causeway_base::{Clock, OnFailure, Scope, Seed};
use causeway_model::{Epoch, InstanceKey, ResourceKey, Revision, Snapshot};
use causeway_registry::{Command, Registry};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use metrics::Metrics;
use probe::Prober;
use schedule::{Outcome, Probe, ProbeId, Report, Schedule};

/// Probes under way at once. Each holds a socket: this stays well below the 1,024 files that a process may have open by
/// default, and 256 hosts that swallow packets still leave 256 probes a second at the default timeout.
const PROBES_MAX: usize = 256;
/// Reports under way at once: enough to fill the registry's batches when a zone dies, few beside its queue of 8,192.
const REPORTS_MAX: usize = 128;
/// What a task hands back may wait here; each task hands back one thing, so that nobody ever waits for a place.
const NEWS_MAX: usize = PROBES_MAX + REPORTS_MAX;
/// A probe that starts later than this was held back by the bound above: it is counted, so that an operator sees it.
const LATE_MIN: Duration = Duration::from_secs(1);

/// Follows the registry's picture and runs the checks of its instances until `scope` ends.
pub(crate) fn follow(
    registry: Registry,
    net: Net,
    clock: Clock,
    seed: Seed,
    metrics: &Shared,
    scope: &Scope,
) {
    let (say, news) = mpsc::channel(NEWS_MAX);
    let follower = Follower {
        pictures: registry.watch(),
        seen: None,
        schedule: Schedule::new(seed),
        prober: Prober::new(net),
        origin: clock.instant(),
        metrics: Metrics::new(metrics),
        probing: 0,
        reporting: 0,
        registry,
        clock,
        say,
        scope: scope.clone(),
    };
    scope.spawn("checks", OnFailure::StopNode, async move {
        follower.run(news).await;
        Ok(())
    });
}

/// What a task of ours hands back when it ends, however it ends.
enum News {
    Probed { id: ProbeId, kind: &'static str, outcome: Outcome },
    Reported { key: InstanceKey, epoch: Epoch, is_taken: bool },
}

struct Follower {
    registry: Registry,
    pictures: watch::Receiver<Arc<Snapshot>>,
    /// The revision that the schedule knows; none before the first look.
    seen: Option<Revision>,
    schedule: Schedule,
    prober: Prober,
    clock: Clock,
    /// The schedule's time is what has passed since then.
    origin: Instant,
    metrics: Metrics,
    probing: usize,
    reporting: usize,
    say: mpsc::Sender<News>,
    scope: Scope,
}

impl Follower {
    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let stop = self.scope.cancelled();
        tokio::pin!(stop);
        self.look();
        loop {
            self.start_probes();
            self.start_reports();
            // With every place taken, the next thing to happen is an answer.
            let next = self.schedule.next().filter(|_| self.probing < PROBES_MAX);
            let wake = self.origin + next.unwrap_or_default();
            tokio::select! {
                () = &mut stop => return,
                changed = self.pictures.changed() => match changed {
                    Ok(()) => self.look(),
                    Err(_) => return,
                },
                heard = news.recv() => {
                    let Some(heard) = heard else { return };
                    self.hear(heard);
                    while let Ok(heard) = news.try_recv() {
                        self.hear(heard);
                    }
                }
                () = tokio::time::sleep_until(wake), if next.is_some() => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.clock.instant().duration_since(self.origin)
    }

    /// Takes the newest picture in: what changed since the last one, or all of it when that is not known any more.
    fn look(&mut self) {
        let picture = self.pictures.borrow_and_update().clone();
        let now = self.now();
        match self.seen.and_then(|seen| picture.changes_since(seen)) {
            Some(changes) => {
                for (_, key) in changes {
                    if let ResourceKey::Instance(key) = key {
                        self.schedule.see(now, key, picture.instance(key).map(|instance| &**instance));
                    }
                }
            }
            None => self.schedule.see_all(now, picture.instances().map(|instance| &**instance)),
        }
        self.seen = Some(picture.revision());
        self.metrics.checks.set(i64::try_from(self.schedule.len()).unwrap_or(i64::MAX));
    }

    fn start_probes(&mut self) {
        for Probe { id, kind, timeout, behind } in self.schedule.start(self.now(), PROBES_MAX - self.probing)
        {
            self.probing += 1;
            if behind > LATE_MIN {
                self.metrics.late.inc();
            }
            let (prober, stop) = (self.prober.clone(), self.scope.cancelled());
            let unheard = Outcome::Failed("the probe ended without an answer".to_owned());
            let news = News::Probed { id, kind: probe::label(&kind), outcome: unheard };
            let mut ticket = Ticket { say: self.say.clone(), news: Some(news) };
            self.scope.spawn("probe", OnFailure::Log, async move {
                let asked = tokio::select! { asked = prober.ask(&kind, timeout) => asked, () = stop => return Ok(()) };
                if let Some(News::Probed { outcome, .. }) = &mut ticket.news {
                    *outcome = asked;
                }
                Ok(())
            });
        }
    }

    fn start_reports(&mut self) {
        for Report { key, epoch, health, why } in self.schedule.reports(REPORTS_MAX - self.reporting) {
            self.reporting += 1;
            tracing::info!(instance = %key, health = health.as_str(), why, "the checks of an instance say");
            let registry = self.registry.clone();
            let news = News::Reported { key: key.clone(), epoch, is_taken: false };
            let mut ticket = Ticket { say: self.say.clone(), news: Some(news) };
            self.scope.spawn("report", OnFailure::Log, async move {
                match registry.submit(Command::Report { key: key.clone(), epoch: Some(epoch), health }).await
                {
                    Ok(_) => {
                        if let Some(News::Reported { is_taken, .. }) = &mut ticket.news {
                            *is_taken = true;
                        }
                    }
                    // Gone or taken over: the picture says so. Not now: the next answer of the app tries again.
                    Err(error) => {
                        tracing::debug!(instance = %key, %error, "a report of a check was not taken")
                    }
                }
                Ok(())
            });
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Probed { id, kind, outcome } => {
                self.probing -= 1;
                self.metrics.probed(kind, &outcome);
                self.schedule.finish(self.now(), id, outcome);
            }
            News::Reported { key, epoch, is_taken } => {
                self.reporting -= 1;
                self.metrics.reported(is_taken);
                // The picture of this moment holds the report, and whatever somebody else said after it.
                let shown = self.registry.snapshot().instance(&key).map(|instance| instance.health);
                self.schedule.reported(&key, epoch, is_taken, shown);
            }
        }
    }
}

/// Hands its news over when it is dropped, so that a place is given back and a check goes on even if a task panics.
struct Ticket {
    say: mpsc::Sender<News>,
    news: Option<News>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // There is a place for each ticket; without a receiver nobody counts any more.
        let _ = self.news.take().map(|news| self.say.try_send(news));
    }
}

#[cfg(test)]
mod tests;
