//! The machine at work, in its own time: no runtime, no socket.

use std::collections::HashMap;

use causeway_model::{
    InstanceId, Lease, Lifecycle, Locality, Origin, Protocol, Revision, ServiceKey, Timestamp,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn key(id: &str) -> InstanceKey {
    InstanceKey { service: ServiceKey::parse("default", "orders").unwrap(), id: InstanceId::new(id).unwrap() }
}

fn check(port: u16, interval: Duration) -> Check {
    Check { kind: CheckKind::Tcp(format!("10.0.0.5:{port}")), interval, timeout: SECOND }
}

fn instance(id: &str, epoch: u64, health: Health, checks: &[Check]) -> Instance {
    Instance {
        key: key(id),
        address: "10.0.0.5".to_owned(),
        port: 80,
        ports: BTreeMap::new(),
        protocol: Protocol::Http,
        version: String::new(),
        tags: BTreeSet::new(),
        metadata: BTreeMap::new(),
        weight: 100,
        locality: Locality::default(),
        mesh: None,
        health,
        lifecycle: Lifecycle::Up,
        lease: Lease::Permanent,
        epoch: Epoch::new(epoch),
        origin: Origin::Api { caller: "test".to_owned() },
        registered_at: Timestamp::default(),
        revision: Revision::new(epoch),
        checks: checks.to_vec(),
    }
}

fn passed() -> Outcome {
    Outcome::Passed
}

fn warned() -> Outcome {
    Outcome::Warned("429".to_owned())
}

fn failed() -> Outcome {
    Outcome::Failed("503".to_owned())
}

/// A schedule with its time, and a picture that takes every report.
struct World {
    schedule: Schedule,
    now: Duration,
    instance: Instance,
}

impl World {
    fn new(health: Health, checks: &[Check]) -> Self {
        let mut world = World {
            schedule: Schedule::new(Seed::from_number(7)),
            now: Duration::ZERO,
            instance: instance("a", 1, health, checks),
        };
        world.show();
        world
    }

    fn show(&mut self) {
        self.schedule.see(self.now, &self.instance.key.clone(), Some(&self.instance));
    }

    /// Somebody else says how it fares.
    fn say(&mut self, health: Health) {
        self.instance.health = health;
        self.show();
    }

    fn start(&mut self) -> Vec<Probe> {
        self.now = self.schedule.next().expect("something is due").max(self.now);
        self.schedule.start(self.now, usize::MAX)
    }

    /// The next check answers so; gives what is reported and has the picture take it.
    fn answer(&mut self, outcome: Outcome) -> Option<Health> {
        let [probe] = self.start().try_into().expect("one check is due at a time");
        self.schedule.finish(self.now, probe.id, outcome);
        self.settle()
    }

    fn settle(&mut self) -> Option<Health> {
        let reports = self.schedule.reports(usize::MAX);
        assert!(reports.len() <= 1, "{reports:?}");
        let report = reports.into_iter().next()?;
        assert_eq!((&report.key, report.epoch), (&self.instance.key, self.instance.epoch));
        self.instance.health = report.health;
        self.show();
        self.schedule.reported(&report.key, report.epoch, true, Some(report.health));
        assert_eq!(self.schedule.reports(usize::MAX), []);
        Some(report.health)
    }
}

/// What a check says after each of these answers, for an instance that is registered as `health`.
fn check_answers(health: Health, answers: &[Outcome], expected: &[Option<Health>]) {
    let mut world = World::new(health, &[check(80, SECOND)]);
    let reported: Vec<_> = answers.iter().map(|answer| world.answer(answer.clone())).collect();
    assert_eq!(reported, expected, "{health:?}, then {answers:?}");
}

#[test]
fn only_transitions_are_reported_and_one_failure_is_none() {
    use Health::{Critical, Passing, Warning};
    check_answers(Passing, &[passed(), passed(), failed(), passed(), failed()], &[None; 5]);
    check_answers(
        Passing,
        &[failed(), failed(), failed(), passed()],
        &[None, Some(Critical), None, Some(Passing)],
    );
    check_answers(Critical, &[passed(), passed()], &[Some(Passing), None]);
    check_answers(Critical, &[failed(), failed(), failed()], &[None; 3]);
    check_answers(Passing, &[warned(), warned(), passed()], &[Some(Warning), None, Some(Passing)]);
    // A 429 is an answer: it ends a row of failures.
    check_answers(Warning, &[failed(), warned(), failed(), failed()], &[None, None, None, Some(Critical)]);
}

#[test]
fn of_several_checks_the_worst_counts() {
    let mut world = World::new(Health::Passing, &[check(1, SECOND), check(2, SECOND), check(3, SECOND)]);
    let mut by_port = |answers: [Outcome; 3]| {
        let mut answers: HashMap<String, Outcome> =
            (1..).zip(answers).map(|(port, outcome)| (format!("10.0.0.5:{port}"), outcome)).collect();
        let mut last = None;
        while !answers.is_empty() {
            for probe in world.start() {
                let CheckKind::Tcp(target) = &probe.kind else { panic!() };
                let outcome = answers.remove(target).expect("each check is asked once per interval");
                world.schedule.finish(world.now, probe.id, outcome);
                last = world.settle().or(last);
            }
        }
        last
    };
    assert_eq!(by_port([passed(), passed(), passed()]), None);
    assert_eq!(by_port([passed(), warned(), failed()]), Some(Health::Warning));
    assert_eq!(by_port([passed(), warned(), failed()]), Some(Health::Critical));
    assert_eq!(by_port([passed(), passed(), failed()]), None);
    assert_eq!(by_port([passed(), passed(), passed()]), Some(Health::Passing));
}

#[test]
fn after_a_restart_nothing_gets_better_before_every_check_has_spoken() {
    let mut world = World::new(Health::Critical, &[check(1, SECOND), check(2, SECOND)]);
    assert_eq!(world.answer(passed()), None, "the other check may be why it is critical");
    assert_eq!(world.answer(passed()), Some(Health::Passing));
}

#[test]
fn nobody_shows_it_as_better_than_its_checks_but_its_owner_may_say_worse() {
    let mut world = World::new(Health::Passing, &[check(80, SECOND)]);
    world.answer(failed());
    assert_eq!(world.answer(failed()), Some(Health::Critical));
    world.say(Health::Passing);
    assert_eq!(world.settle(), Some(Health::Critical), "a heartbeat does not make it well");
    assert_eq!(world.answer(passed()), Some(Health::Passing));
    world.say(Health::Critical);
    assert_eq!((world.settle(), world.answer(passed())), (None, None), "its owner takes it out of service");
    world.say(Health::Passing);
    assert_eq!((world.settle(), world.answer(passed())), (None, None));
}

#[test]
fn a_report_that_was_not_taken_is_made_again_after_the_next_answer() {
    let mut world = World::new(Health::Passing, &[check(80, SECOND)]);
    world.answer(failed());
    let [probe] = world.start().try_into().unwrap();
    world.schedule.finish(world.now, probe.id, failed());
    let [report] = world.schedule.reports(usize::MAX).try_into().unwrap();
    assert_eq!((report.health, report.why.as_str()), (Health::Critical, "503"));
    let [probe] = world.start().try_into().unwrap();
    world.schedule.finish(world.now, probe.id, failed());
    assert_eq!(world.schedule.reports(usize::MAX), [], "one at a time");
    world.schedule.reported(&report.key, report.epoch, false, Some(Health::Passing));
    assert_eq!(world.schedule.reports(usize::MAX), [], "not at once");
    assert_eq!(world.answer(failed()), Some(Health::Critical));
}

#[test]
fn a_report_of_an_earlier_registration_changes_nothing_of_the_later() {
    let mut world = World::new(Health::Passing, &[check(80, SECOND)]);
    world.answer(failed());
    let [probe] = world.start().try_into().unwrap();
    world.schedule.finish(world.now, probe.id, failed());
    let [old] = world.schedule.reports(usize::MAX).try_into().unwrap();
    world.instance = instance("a", 2, Health::Passing, &[check(80, SECOND)]);
    world.show();
    world.schedule.reported(&old.key, old.epoch, true, Some(Health::Passing));
    assert_eq!(world.answer(failed()), None, "its failures are counted anew");
    assert_eq!(world.answer(failed()), Some(Health::Critical));
}

#[test]
fn first_probes_are_spread_and_the_pace_is_kept() {
    let mut schedule = Schedule::new(Seed::from_number(1));
    let everyone: Vec<Instance> =
        (0..1000).map(|n| instance(&format!("i{n}"), 1, Health::Passing, &[check(80, 5 * SECOND)])).collect();
    schedule.see_all(Duration::ZERO, everyone.iter());
    let mut starts: BTreeMap<ProbeId, Vec<Duration>> = BTreeMap::new();
    let tick = Duration::from_millis(100);
    for now in (0..=200).map(|n| tick * n) {
        let probes = schedule.start(now, usize::MAX);
        assert!(probes.len() <= 50, "{} of 1000 at {now:?}, where 20 are fair", probes.len());
        for probe in probes {
            starts.entry(probe.id).or_default().push(now);
            schedule.finish(now, probe.id, passed());
        }
    }
    assert_eq!(starts.len(), 1000);
    for starts in starts.values() {
        assert_eq!(starts.len(), 4, "one each 5 s of 20");
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 5 * SECOND), "{starts:?}");
    }
}

#[test]
fn rare_checks_are_made_soon_and_then_spread_over_their_interval() {
    let hour = 3600 * SECOND;
    let mut schedule = Schedule::new(Seed::from_number(1));
    let everyone: Vec<Instance> =
        (0..100).map(|n| instance(&format!("i{n}"), 1, Health::Passing, &[check(80, hour)])).collect();
    schedule.see_all(Duration::ZERO, everyone.iter());
    let first = schedule.start(FIRST_MAX, usize::MAX);
    assert_eq!(first.len(), 100);
    for probe in first {
        schedule.finish(FIRST_MAX, probe.id, passed());
    }
    let half = schedule.start(hour / 2, usize::MAX).len();
    assert!((30..=70).contains(&half), "{half} of 100 in half of the interval");
}

#[test]
fn what_was_missed_is_not_made_up_for_and_the_longest_due_go_first() {
    let mut schedule = Schedule::new(Seed::from_number(1));
    let everyone = [
        instance("a", 1, Health::Passing, &[check(80, SECOND)]),
        instance("b", 1, Health::Passing, &[check(80, SECOND)]),
    ];
    schedule.see_all(Duration::ZERO, everyone.iter());
    let now = 60 * SECOND;
    let [first] = schedule.start(now, 1).try_into().unwrap();
    let [second] = schedule.start(now, 1).try_into().unwrap();
    assert!(first.behind > second.behind && second.behind > 58 * SECOND);
    for probe in [&first, &second] {
        schedule.finish(now, probe.id, passed());
    }
    assert!(schedule.start(now, usize::MAX).is_empty());
    assert_eq!(schedule.start(now + SECOND, usize::MAX).len(), 2);
}

#[test]
fn a_slow_probe_is_not_asked_again_before_it_ends() {
    let mut world = World::new(Health::Passing, &[check(80, SECOND)]);
    let [probe] = world.start().try_into().unwrap();
    assert_eq!(world.schedule.next(), None);
    assert!(world.schedule.start(world.now + 10 * SECOND, usize::MAX).is_empty());
    world.now += 10 * SECOND;
    world.schedule.finish(world.now, probe.id, passed());
    assert_eq!(world.schedule.next(), Some(world.now));
}

#[test]
fn bounds_hold_whatever_is_declared() {
    let wild = Check { timeout: 3600 * SECOND, interval: Duration::ZERO, ..check(80, SECOND) };
    let mut world = World::new(Health::Passing, &[wild]);
    let [probe] = world.start().try_into().unwrap();
    assert_eq!(probe.timeout, TIMEOUT_MAX);
    world.schedule.finish(world.now, probe.id, passed());
    assert_eq!(world.schedule.next(), Some(world.now + INTERVAL_MIN));
}

#[test]
fn who_leaves_or_has_no_checks_any_more_is_forgotten() {
    let mut world = World::new(Health::Passing, &[check(80, SECOND), check(81, SECOND)]);
    assert_eq!(world.schedule.len(), 2);
    let probe = world.start().remove(0);
    let kept = instance("b", 1, Health::Passing, &[check(80, SECOND)]);
    world.schedule.see_all(world.now, [&kept].into_iter());
    assert_eq!(world.schedule.len(), 1);
    world.schedule.finish(world.now, probe.id, failed());
    assert_eq!(world.schedule.len(), 1, "a late answer brings nothing back");
    world.schedule.see(world.now, &key("b"), Some(&instance("b", 1, Health::Passing, &[])));
    assert_eq!((world.schedule.len(), world.schedule.next()), (0, None));
    assert!(world.schedule.instances.is_empty() && world.schedule.unsettled.is_empty());
}

#[test]
fn who_registers_again_and_again_is_probed_all_the_same() {
    let mut world = World::new(Health::Passing, &[check(80, 5 * SECOND)]);
    let due = world.schedule.next().unwrap();
    for epoch in 2..20 {
        world.now = due.mul_f64(f64::from(epoch) / 20.0);
        world.instance = instance("a", u64::from(epoch as u32), Health::Passing, &[check(80, 5 * SECOND)]);
        world.show();
        assert_eq!(world.schedule.next(), Some(due));
    }
}

#[test]
fn a_check_that_stays_keeps_what_it_knows() {
    let mut world = World::new(Health::Passing, &[check(80, SECOND)]);
    world.answer(failed());
    assert_eq!(world.answer(failed()), Some(Health::Critical));
    world.instance = Instance {
        health: Health::Critical,
        ..instance("a", 1, Health::Critical, &[check(81, SECOND), check(80, SECOND)])
    };
    world.show();
    assert_eq!(world.settle(), None);
    let asked = loop {
        let probe = world.start().remove(0);
        world.schedule.finish(world.now, probe.id, passed());
        let CheckKind::Tcp(target) = probe.kind else { panic!() };
        if let Some(health) = world.settle() {
            break (target, health);
        }
    };
    assert_eq!(asked.1, Health::Passing, "once both have passed: {}", asked.0);
}
