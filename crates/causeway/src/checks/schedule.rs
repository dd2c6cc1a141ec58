//! When which check is due, and what follows from an answer: a pure machine.
//!
//! In:    instances as the picture shows them, the time, outcomes.      Out: probes to start, reports to make.
//! Owner: the follower in `checks.rs`.
//! Invariant: a check is due once or under way, never both; a report is under way at most once per instance.
//! Not here: sockets, tasks, waiting. `now` is the monotone time since the follower began.
//!
//! ```text
//! unknown -- passed once --> passing <-- passed once -- critical
//!    |                        |  ^                          ^
//!    |                   429  v  | passed once              |
//!    |                       warning                        |
//!    +------------- failed FAILURES times in a row ---------+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_base::Seed;
use causeway_model::{Check, CheckKind, Epoch, Health, Instance, InstanceKey};

/// Failures in a row that make a check critical: one lost packet takes nobody out of service.
pub(super) const FAILURES: u32 = 2;
/// Shortest time between two probes of a check, whatever is declared: a check is not a load test.
pub(super) const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest wait for an answer, whatever is declared: a probe that waits holds one of the places that all checks share.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The first probe of a check is within this time (and its interval): who checks once an hour still wants to know soon.
pub(super) const FIRST_MAX: Duration = Duration::from_secs(10);

/// One check of one registration. A new number is given when either changes, so that a late answer finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProbeId(u64);

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Warned(String),
    Failed(String),
}

/// A probe to start now.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) id: ProbeId,
    pub(super) kind: CheckKind,
    pub(super) timeout: Duration,
    /// How long after its time it starts.
    pub(super) behind: Duration,
}

/// What the registry is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) key: InstanceKey,
    pub(super) epoch: Epoch,
    pub(super) health: Health,
    /// What the worst check heard, for the log.
    pub(super) why: String,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Schedule {
    seed: Seed,
    instances: BTreeMap<InstanceKey, Watched>,
    probes: BTreeMap<ProbeId, (InstanceKey, usize)>,
    /// Checks that wait for their time; those under way are not in it.
    due: BTreeSet<(Duration, ProbeId)>,
    /// Instances about which there may be something to report.
    unsettled: BTreeSet<InstanceKey>,
    next_id: u64,
}

#[derive(Debug)]
struct Watched {
    epoch: Epoch,
    /// What the picture says.
    shown: Health,
    /// The verdict that the registry was last told, or that it said by itself.
    said: Option<Health>,
    is_reporting: bool,
    checks: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    id: ProbeId,
    check: Check,
    /// When it is due next (when under way: after this one).
    at: Duration,
    is_first: bool,
    failures: u32,
    /// Unknown until it passed once or failed often enough.
    verdict: Option<Health>,
    why: String,
}

impl Schedule {
    pub(super) fn new(seed: Seed) -> Self {
        Schedule {
            seed,
            instances: BTreeMap::new(),
            probes: BTreeMap::new(),
            due: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            next_id: 0,
        }
    }

    /// How many checks are run.
    pub(super) fn len(&self) -> usize {
        self.probes.len()
    }

    /// When the next check is due, if one waits.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes in a whole picture: who is not in it is forgotten.
    pub(super) fn see_all<'a>(&mut self, now: Duration, instances: impl Iterator<Item = &'a Instance>) {
        let mut gone: BTreeSet<InstanceKey> = self.instances.keys().cloned().collect();
        for instance in instances {
            gone.remove(&instance.key);
            self.see(now, &instance.key, Some(instance));
        }
        for key in gone {
            self.see(now, &key, None);
        }
    }

    /// Takes in one instance as the picture shows it now, or that it is not there.
    pub(super) fn see(&mut self, now: Duration, key: &InstanceKey, instance: Option<&Instance>) {
        let before = self.instances.get_mut(key);
        let Some(instance) = instance.filter(|instance| !instance.checks.is_empty()) else {
            return self.forget(key);
        };
        match before {
            Some(watched) if watched.epoch == instance.epoch && watched.says(&instance.checks) => {
                watched.shown = instance.health;
                self.unsettled.insert(key.clone());
            }
            _ => self.replace(now, key, instance),
        }
    }

    fn forget(&mut self, key: &InstanceKey) {
        self.unsettled.remove(key);
        for running in self.instances.remove(key).into_iter().flat_map(|watched| watched.checks) {
            self.probes.remove(&running.id);
            self.due.remove(&(running.at, running.id));
        }
    }

    /// A new registration, or one with other checks. What a check of the same registration knows is kept, and the time of one
    /// that stays the same in any case: who registers again and again is probed all the same.
    fn replace(&mut self, now: Duration, key: &InstanceKey, instance: &Instance) {
        let mut before = self.instances.remove(key);
        let is_same = before.as_ref().is_some_and(|watched| watched.epoch == instance.epoch);
        for running in before.iter().flat_map(|watched| &watched.checks) {
            self.probes.remove(&running.id);
            self.due.remove(&(running.at, running.id));
        }
        let mut checks = Vec::with_capacity(instance.checks.len());
        for (index, check) in instance.checks.iter().enumerate() {
            let id = ProbeId(self.next_id);
            self.next_id += 1;
            let old = before.as_mut().and_then(|watched| watched.take(check));
            let running = match old {
                Some(old) if is_same => Running { id, ..old },
                Some(old) => {
                    Running { at: old.at, is_first: old.is_first, ..Running::new(id, check, old.at) }
                }
                None => {
                    let spread = interval(check).min(FIRST_MAX);
                    Running::new(id, check, now + spread.mul_f64(self.seed.unit()))
                }
            };
            self.probes.insert(id, (key.clone(), index));
            self.due.insert((running.at, id));
            checks.push(running);
        }
        let (said, is_reporting) = match before.filter(|_| is_same) {
            Some(watched) => (watched.said, watched.is_reporting),
            None => (None, false),
        };
        let watched = Watched { epoch: instance.epoch, shown: instance.health, said, is_reporting, checks };
        self.instances.insert(key.clone(), watched);
        self.unsettled.insert(key.clone());
    }

    /// The probes whose time has come, the longest due first, at most `most`.
    pub(super) fn start(&mut self, now: Duration, most: usize) -> Vec<Probe> {
        let mut probes = Vec::new();
        while probes.len() < most {
            let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.due.pop_first();
            let Some((key, index)) = self.probes.get(&id) else { continue };
            let Some(running) = self.instances.get_mut(key).and_then(|w| w.checks.get_mut(*index)) else {
                continue;
            };
            let interval = interval(&running.check);
            let mut wait = interval;
            if std::mem::take(&mut running.is_first) && interval > FIRST_MAX {
                // First probes crowd into FIRST_MAX; what follows is spread over the whole interval.
                wait = FIRST_MAX + (interval - FIRST_MAX).mul_f64(self.seed.unit());
            }
            // The phase is kept, but what was missed is not made up for.
            running.at = if at + wait > now { at + wait } else { now + wait };
            let timeout = running.check.timeout.min(TIMEOUT_MAX);
            probes.push(Probe { id, kind: running.check.kind.clone(), timeout, behind: now - at });
        }
        probes
    }

    /// A probe has ended; an answer for a check that is not run any more is dropped.
    pub(super) fn finish(&mut self, now: Duration, id: ProbeId, outcome: Outcome) {
        let Some((key, index)) = self.probes.get(&id) else { return };
        let Some(running) = self.instances.get_mut(key).and_then(|w| w.checks.get_mut(*index)) else {
            return;
        };
        running.take_in(outcome);
        running.at = running.at.max(now);
        self.due.insert((running.at, id));
        self.unsettled.insert(key.clone());
    }

    /// What is to be reported now, at most `most`; each waits for [`Schedule::reported`] before there is another of its instance.
    pub(super) fn reports(&mut self, most: usize) -> Vec<Report> {
        let mut reports = Vec::new();
        while reports.len() < most {
            let Some(key) = self.unsettled.pop_first() else { break };
            let Some(watched) = self.instances.get_mut(&key) else { continue };
            if let Some(health) = watched.news() {
                watched.said = Some(health);
                watched.is_reporting = true;
                reports.push(Report { epoch: watched.epoch, health, why: watched.why(health), key });
            }
        }
        reports
    }

    /// A report has ended; `shown` is what the picture says of the instance after it. One that was not taken is made again
    /// after the next answer of the app, which paces it.
    pub(super) fn reported(
        &mut self,
        key: &InstanceKey,
        epoch: Epoch,
        is_taken: bool,
        shown: Option<Health>,
    ) {
        let Some(watched) = self.instances.get_mut(key).filter(|watched| watched.epoch == epoch) else {
            return;
        };
        watched.is_reporting = false;
        watched.shown = shown.unwrap_or(watched.shown);
        if is_taken {
            self.unsettled.insert(key.clone());
        } else {
            watched.said = None;
        }
    }
}

impl Watched {
    fn says(&self, checks: &[Check]) -> bool {
        self.checks.iter().map(|running| &running.check).eq(checks)
    }

    fn take(&mut self, check: &Check) -> Option<Running> {
        let at = self.checks.iter().position(|running| running.check == *check)?;
        Some(self.checks.swap_remove(at))
    }

    /// The worst of what is known. While a check is unknown the others cannot vouch for it: nothing gets better by them.
    fn verdict(&self) -> Option<Health> {
        let worst = self.checks.iter().filter_map(|running| running.verdict).max()?;
        let is_whole = self.checks.iter().all(|running| running.verdict.is_some());
        (is_whole || worst > self.shown).then_some(worst)
    }

    /// What the registry must be told, if anything: a verdict that is new to it, or an instance that somebody shows as better
    /// than its checks say. Who shows it as worse (an operator, the app itself) is believed until the verdict changes.
    fn news(&mut self) -> Option<Health> {
        if self.is_reporting {
            return None;
        }
        let verdict = self.verdict()?;
        let is_transition = self.said != Some(verdict) && verdict != self.shown;
        let is_shown_better = self.shown < verdict;
        if self.shown == verdict {
            self.said = Some(verdict);
        }
        (is_transition || is_shown_better).then_some(verdict)
    }

    fn why(&self, health: Health) -> String {
        let worst = self.checks.iter().find(|running| running.verdict == Some(health));
        worst.map(|running| running.why.clone()).unwrap_or_default()
    }
}

impl Running {
    fn new(id: ProbeId, check: &Check, at: Duration) -> Self {
        Running {
            id,
            check: check.clone(),
            at,
            is_first: true,
            failures: 0,
            verdict: None,
            why: String::new(),
        }
    }

    fn take_in(&mut self, outcome: Outcome) {
        let (verdict, why) = match outcome {
            Outcome::Passed => (Health::Passing, String::new()),
            Outcome::Warned(why) => (Health::Warning, why),
            Outcome::Failed(why) => {
                self.failures = (self.failures + 1).min(FAILURES);
                if self.failures == FAILURES {
                    (self.verdict, self.why) = (Some(Health::Critical), why);
                }
                return;
            }
        };
        (self.failures, self.verdict, self.why) = (0, Some(verdict), why);
    }
}

/// What is declared, within our bounds.
fn interval(check: &Check) -> Duration {
    check.interval.max(INTERVAL_MIN)
}

#[cfg(test)]
mod tests;
