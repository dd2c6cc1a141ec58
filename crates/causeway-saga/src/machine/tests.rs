//! The machine against a participant that keeps the contract, and against everything that can go wrong in between.

use std::collections::BTreeMap;

use causeway_base::Seed;
use causeway_model::{Action, Name, SagaDefinition, ServiceCall, ServiceKey, Stage, Step, codec};
use proptest::prelude::*;

use super::*;
use crate::record::{Command, Edit, StepEdit};

const RULES: Rules = Rules {
    undo: RetryPolicy { attempts: 6, backoff: Duration::from_secs(1), max_backoff: Duration::from_secs(60) },
};

/// A participant: it applies the idempotency key, and an undo that comes before its action bars the action (DTM's barrier).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Effect {
    done: u32,
    undone: u32,
    is_barred: bool,
}

#[derive(Default)]
struct Participants {
    effects: BTreeMap<usize, Effect>,
}

impl Participants {
    fn act(&mut self, step: usize, refuses: bool) -> Outcome {
        let effect = self.effects.entry(step).or_default();
        if effect.done > 0 && effect.undone == 0 {
            return ok(step);
        }
        if effect.is_barred || effect.undone > 0 || refuses {
            return status(409);
        }
        effect.done += 1;
        ok(step)
    }

    fn undo(&mut self, step: usize) -> Outcome {
        let effect = self.effects.entry(step).or_default();
        if effect.done == 0 {
            effect.is_barred = true;
        } else if effect.undone == 0 {
            effect.undone += 1;
        }
        ok(step)
    }

    /// Done, and not undone.
    fn stands(&self, step: usize) -> bool {
        self.effects.get(&step).is_some_and(|effect| effect.done > effect.undone)
    }
}

fn ok(step: usize) -> Outcome {
    let answer = Answer { status: 200, headers: BTreeMap::new(), body: format!(r#"{{"id":"r{step}"}}"#) };
    Outcome::Answer { answer, retry_after: None, is_ours: false, text: None }
}

fn status(status: u16) -> Outcome {
    let answer = Answer { status, headers: BTreeMap::new(), body: "null".into() };
    Outcome::Answer { answer, retry_after: None, is_ours: false, text: None }
}

fn lost() -> Outcome {
    Outcome::Unanswered("no answer within 5s".into())
}

/// `shape` says the steps of each stage, as `name` plus flags: `!` pivot, `-` no compensation, `?` its compensation needs its answer.
fn definition(shape: &[&[&str]], timeout: Option<u64>) -> SagaDefinition {
    let name = |text: &str| Name::new(text).unwrap();
    let call = |path: String| ServiceCall {
        service: ServiceKey::parse("default", "svc").unwrap(),
        method: "POST".into(),
        path,
        headers: BTreeMap::new(),
        body: None,
    };
    let step = |text: &str| {
        let bare = text.trim_end_matches(['!', '-', '?']);
        let undo = match text.contains('?') {
            true => format!("/{bare}/${{steps.{bare}.body.id}}/undo"),
            false => format!("/{bare}/undo"),
        };
        Step {
            name: name(bare),
            action: Action::Call(call(format!("/{bare}"))),
            compensate: (!text.contains('-')).then(|| call(undo)),
            retry: RetryPolicy { attempts: 3, ..RetryPolicy::default() },
            timeout: Duration::from_secs(5),
            is_pivot: text.contains('!'),
        }
    };
    SagaDefinition {
        namespace: name("default"),
        name: name("test"),
        timeout: timeout.map(Duration::from_secs),
        stages: shape
            .iter()
            .map(|steps| Stage { steps: steps.iter().map(|text| step(text)).collect() })
            .collect(),
    }
}

/// One saga, its journal, and a clock.
struct Run {
    saga: Saga,
    journal: Vec<(Timestamp, Vec<u8>)>,
    now: Timestamp,
    sent: Vec<String>,
}

impl Run {
    fn new(definition: SagaDefinition) -> Run {
        let plan = Plan::compile(definition).expect("a good definition");
        let started = Started {
            id: SagaId::new("s").unwrap(),
            definition: plan.bytes.clone(),
            input: "{}".into(),
            caller: "test".into(),
            trace: [1; 16],
        };
        let now = Timestamp::from_millis(1_000_000);
        let record = codec::encode(&Record::Started(Box::new(started.clone())));
        let saga = Saga::start(now, started, Arc::new(plan));
        Run { saga, journal: vec![(now, record)], now, sent: vec![] }
    }

    fn write(&mut self, record: Record) {
        self.journal.push((self.now, codec::encode(&record)));
        self.saga.apply(self.now, record);
        crate::invariants::check(&self.saga);
        let again = self.replayed();
        assert_eq!(again.phase, self.saga.phase);
        assert_eq!(again.error, self.saga.error);
        let looks = |saga: &Saga| -> Vec<_> {
            saga.steps.iter().map(|s| (s.progress, s.attempts, s.order, s.answer.clone())).collect()
        };
        assert_eq!(looks(&again), looks(&self.saga));
    }

    fn replayed(&self) -> Saga {
        let mut records = self.journal.iter().map(|(at, bytes)| (*at, codec::decode(bytes).unwrap()));
        let Some((at, Record::Started(started))) = records.next() else { panic!("no start") };
        let mut saga = Saga::start(at, *started, Arc::new(Plan::load(self.saga.plan.definition.clone()).0));
        records.for_each(|(at, record)| saga.apply(at, record));
        saga
    }

    fn crash(&mut self) {
        self.saga = self.replayed();
        self.saga.resume();
    }

    /// What is sent now.
    fn begin(&mut self) -> Vec<Work> {
        while let Some(record) = self.saga.tick(self.now) {
            self.write(record);
        }
        let mut work = Vec::new();
        self.saga.next(self.now, &mut work);
        for work in &work {
            self.saga.begin(*work);
            let step = &self.saga.plan.step(usize::from(work.step)).name;
            self.sent.push(match work.kind {
                Kind::Do => step.to_string(),
                Kind::Ask => format!("{step}?"),
                Kind::Undo => format!("{step}/undo"),
            });
        }
        work
    }

    fn answer(&mut self, luck: f64, work: Work, outcome: Outcome) {
        match self.saga.answer(&RULES, At { now: self.now, luck }, work, outcome) {
            Decision::Record(record) => self.write(record),
            Decision::Wait(until) => self.saga.wait(work, until),
            Decision::Stale => {}
        }
    }

    /// To the next time at which something may happen; false when nothing ever will.
    fn pass(&mut self) -> bool {
        let mut work = Vec::new();
        match self.saga.next(self.now, &mut work) {
            _ if !work.is_empty() => true,
            Some(wake) => {
                self.now = self.now.max(wake).plus(Duration::from_millis(1));
                true
            }
            None => false,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.saga.phase, Phase::Stuck { .. } | Phase::Ended(_))
    }

    /// Runs it with a participant that answers each attempt by `answer(step, kind, attempt)`.
    fn finish(&mut self, mut answer: impl FnMut(&str, Kind, u32) -> Outcome) -> Status {
        for _ in 0..10_000 {
            for work in self.begin() {
                let step = self.saga.plan.step(usize::from(work.step)).name.to_string();
                let mut outcome = answer(&step, work.kind, work.attempt);
                if let Err(why) = self.saga.plan.render(
                    usize::from(work.step),
                    work.kind == Kind::Undo,
                    &self.saga.sources(),
                ) {
                    outcome = Outcome::Unrendered(why);
                }
                self.answer(0.5, work, outcome);
            }
            if self.is_over() {
                return self.saga.status();
            }
            self.pass();
        }
        panic!("it does not end: {:?}", self.saga);
    }

    fn command(&mut self, command: Command) -> Result<(), String> {
        if let Some(record) = self.saga.command("ann", command)? {
            self.write(record);
        }
        Ok(())
    }
}

#[track_caller]
fn check(
    shape: &[&[&str]],
    answer: impl FnMut(&str, Kind, u32) -> Outcome,
    status: Status,
    sent: &str,
) -> Run {
    let mut run = Run::new(definition(shape, Some(600)));
    assert_eq!((run.finish(answer), run.sent.join(" ").as_str()), (status, sent), "{:?}", run.saga.error);
    run
}

#[test]
fn answers_mean_what_the_api_says() {
    let shape: &[&[&str]] = &[&["a"], &["b"]];
    let b = |answer: fn(u32) -> Outcome| {
        move |step: &str, kind, n| if (step, kind) == ("b", Kind::Do) { answer(n) } else { ok(0) }
    };
    check(shape, b(|_| ok(1)), Status::Done, "a b");
    check(shape, b(|_| status(409)), Status::Undone, "a b a/undo");
    check(shape, b(|_| status(400)), Status::Undone, "a b a/undo");
    check(shape, b(|_| status(503)), Status::Undone, "a b b b b/undo a/undo");
    check(shape, b(|_| lost()), Status::Undone, "a b b b b/undo a/undo");
    check(shape, b(|n| if n < 3 { lost() } else { ok(1) }), Status::Done, "a b b b");
    check(shape, b(|n| if n < 3 { lost() } else { status(409) }), Status::Undone, "a b b b a/undo");
    // A participant's own 4xx settles it; one made on the way says nothing about the attempt before.
    check(shape, b(|n| if n < 2 { lost() } else { status(404) }), Status::Undone, "a b b a/undo");
    check(shape, b(|n| if n < 2 { lost() } else { status(429) }), Status::Undone, "a b b b/undo a/undo");
    check(shape, b(|_| Outcome::Unreached("no endpoint".into())), Status::Undone, "a b b b a/undo");
    check(&[&["a"]], |_, _, _| status(409), Status::Failed, "a");
    check(&[&["a-"], &["b"]], b(|_| status(409)), Status::Failed, "a b");
}

#[test]
fn not_yet_costs_no_attempt_and_ends_with_the_saga() {
    let mut asked = 0;
    let run = check(
        &[&["a"]],
        |_, _, attempt| {
            asked += 1;
            assert_eq!(attempt, 1);
            if asked < 20 { status(425) } else { ok(0) }
        },
        Status::Done,
        &["a"; 20].join(" "),
    );
    assert_eq!(run.journal.len(), 3, "started, the first not yet, done");
    let mut run = Run::new(definition(&[&["a"]], Some(600)));
    let ended = run.finish(|_, kind, _| if kind == Kind::Do { status(425) } else { ok(0) });
    assert_eq!(ended, Status::Undone);
    assert!(run.saga.error.unwrap().contains("not ended within 600s"));
}

#[test]
fn a_failed_sibling_waits_for_the_others() {
    let mut run = Run::new(definition(&[&["x"], &["a", "b", "c"]], None));
    let work = run.begin();
    run.answer(0.5, work[0], ok(0));
    let [a, b, c] = run.begin()[..] else { panic!("three at once") };
    run.answer(0.5, b, status(409));
    assert_eq!(run.saga.status(), Status::Running);
    run.answer(0.5, c, lost());
    assert_eq!(run.begin(), [], "c is not sent again");
    run.answer(0.5, a, ok(1));
    assert_eq!(run.saga.status(), Status::Compensating);
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Undone);
    assert_eq!(run.sent.join(" "), "x a b c a/undo c/undo x/undo");
}

#[test]
fn past_the_pivot_only_forward() {
    let c = |answer: fn() -> Outcome| move |step: &str, _, _| if step == "c" { answer() } else { ok(0) };
    let shape: &[&[&str]] = &[&["a"], &["p!"], &["c"]];
    let mut run = check(shape, c(|| status(409)), Status::Stuck, "a p c");
    assert!(run.command(Command::Cancel { reason: String::new() }).is_err());
    run.command(Command::Retry).unwrap();
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Done);
    let mut run = check(shape, c(lost), Status::Stuck, "a p c c c");
    run.command(Command::Skip { step: None }).unwrap();
    assert_eq!(run.saga.status(), Status::Done);
    let mut run = check(shape, c(lost), Status::Stuck, "a p c c c");
    run.command(Command::Compensate { reason: "customer asked".into() }).unwrap();
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Undone);
    assert_eq!(run.sent.join(" "), "a p c c c c/undo p/undo a/undo");
    // Its deadline does not count any more.
    let mut run = Run::new(definition(shape, Some(1)));
    for _ in 0..2 {
        let work = run.begin();
        run.answer(0.5, work[0], ok(0));
    }
    run.now = run.now.plus(Duration::from_secs(100));
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Done);
}

#[test]
fn a_pivot_that_may_have_happened() {
    // With a compensation it is undone like any step; without one only a person can know.
    let p = |step: &str, kind, _| if (step, kind) == ("p", Kind::Do) { lost() } else { ok(0) };
    check(&[&["a"], &["p!"]], p, Status::Undone, "a p p p p/undo a/undo");
    let mut run = check(&[&["a"], &["p!-"]], p, Status::Stuck, "a p p p");
    assert!(run.saga.error.as_ref().unwrap().contains("whether the pivot p happened is not known"));
    run.command(Command::Compensate { reason: "it did not".into() }).unwrap();
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Undone);
    let mut run = check(&[&["a"], &["p!-"], &["z"]], p, Status::Stuck, "a p p p");
    run.command(Command::Skip { step: None }).unwrap();
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Done);
    let mut run = check(&[&["a"], &["p!-"]], p, Status::Stuck, "a p p p");
    run.command(Command::Retry).unwrap();
    assert_eq!(run.finish(|_, _, _| status(409)), Status::Stuck, "a's compensation is refused too");
    assert!(run.saga.error.unwrap().contains("step a: its compensation"));
}

#[test]
fn a_compensation_that_needs_an_unknown_answer_asks_for_it() {
    let answers = |ask: fn(u32) -> Outcome| {
        move |step: &str, kind, n| match (step, kind) {
            ("b", Kind::Do) => lost(),
            ("b", Kind::Ask) => ask(n),
            _ => ok(0),
        }
    };
    let shape: &[&[&str]] = &[&["a"], &["b?"]];
    // The undo that cannot be rendered is an attempt that was never sent.
    check(shape, answers(|_| ok(1)), Status::Undone, "a b b b b/undo b? b/undo a/undo");
    check(shape, answers(|_| status(409)), Status::Undone, "a b b b b/undo b? a/undo");
    let run = check(shape, answers(|_| lost()), Status::Stuck, "a b b b b/undo b? b? b? b? b? b?");
    assert!(run.saga.error.unwrap().contains("step b: what became of it"));
}

#[test]
fn a_compensation_out_of_attempts_is_stuck_and_a_person_goes_on() {
    let never = |_: &str, kind, _| match kind {
        Kind::Undo => lost(),
        _ => status(409),
    };
    let first =
        |step: &str, kind, n| if step == "a" && kind == Kind::Do { ok(0) } else { never(step, kind, n) };
    let shape: &[&[&str]] = &[&["a"], &["b"]];
    let stuck = || check(shape, first, Status::Stuck, "a b a/undo a/undo a/undo a/undo a/undo a/undo");
    let mut run = stuck();
    run.command(Command::Retry).unwrap();
    assert_eq!(run.saga.status(), Status::Compensating);
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Undone);
    let mut run = stuck();
    run.command(Command::Skip { step: Some(Name::new("a").unwrap()) }).unwrap();
    assert_eq!(run.saga.status(), Status::Undone);
    let mut run = stuck();
    run.command(Command::Resolve { status: Status::Undone, note: "refunded by hand".into() }).unwrap();
    assert_eq!(run.saga.status(), Status::Undone);
    assert!(run.command(Command::Retry).is_err());
    assert!(stuck().command(Command::Resolve { status: Status::Running, note: String::new() }).is_err());
}

#[test]
fn what_was_under_way_at_a_crash_may_have_happened() {
    let shape: &[&[&str]] = &[&["a"], &["b", "c"]];
    let crashed = || {
        let mut run = Run::new(definition(shape, None));
        let work = run.begin();
        run.answer(0.5, work[0], ok(0));
        assert_eq!(run.begin().len(), 2);
        run.crash();
        run
    };
    let mut run = crashed();
    run.command(Command::Cancel { reason: String::new() }).unwrap();
    run.crash();
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Undone);
    assert_eq!(run.sent.join(" "), "a b c c/undo b/undo a/undo");
    // Never reached after the restart says nothing about the time before it.
    let mut run = crashed();
    let answers = |step: &str, kind, _| match (step, kind) {
        ("b", Kind::Do) => Outcome::Unreached("no endpoint".into()),
        _ => ok(0),
    };
    assert_eq!(run.finish(answers), Status::Undone);
    assert_eq!(run.sent.join(" "), "a b c b c b b b/undo c/undo a/undo");
}

#[test]
fn an_edit_changes_what_is_sent_and_a_bad_one_is_refused() {
    let shape: &[&[&str]] = &[&["a!"], &["b"]];
    let b = |step: &str, _, _| if step == "b" { status(409) } else { ok(0) };
    let mut run = check(shape, b, Status::Stuck, "a b");
    let edit = |step: &str, path: &str| {
        let step = Name::new(step).unwrap();
        let step = StepEdit { step, is_undo: false, path: Some(path.into()), body: None };
        Command::Edit(Edit { input: Some("{\"n\": 1}".into()), step: Some(step) })
    };
    assert!(run.command(edit("b", "no slash")).unwrap_err().contains("does not begin with /"));
    assert!(run.command(edit("b", "/${nope}")).unwrap_err().contains("not known here"));
    assert!(run.command(edit("z", "/")).unwrap_err().contains("no step z"));
    run.command(edit("b", "/b2/${input.n}")).unwrap();
    let crate::plan::Rendered::Call { path, .. } =
        run.saga.plan.render(1, false, &run.saga.sources()).unwrap()
    else {
        panic!("a call")
    };
    assert_eq!(path, "/b2/1");
    run.command(Command::Retry).unwrap();
    assert_eq!(run.finish(|_, _, _| ok(0)), Status::Done);
}

/// Each step failed in turn, every compensation answered twice (the first answer is lost): omicron's test of sagas.
#[test]
fn every_step_failed_in_turn_and_undone_twice() {
    let shape: &[&[&str]] = &[&["a"], &["b", "c?"], &["d"], &["e?", "f", "g"], &["h"]];
    let steps = shape.iter().map(|stage| stage.len()).sum::<usize>();
    for failing in 0..steps {
        for failure in [status(409), status(422), status(500), lost()] {
            let mut world = Participants::default();
            let mut undos: BTreeMap<usize, u32> = BTreeMap::new();
            let mut run = Run::new(definition(shape, None));
            let names: Vec<String> =
                run.saga.plan.definition.steps().map(|step| step.name.to_string()).collect();
            let at = |name: &str| names.iter().position(|n| n == name).unwrap();
            let ended = run.finish(|name, kind, _| match (at(name), kind) {
                (step, Kind::Do) if step == failing => failure.clone(),
                // Asked for its outcome, it says that it did not happen.
                (step, Kind::Ask) if step == failing => status(409),
                (step, Kind::Do | Kind::Ask) => world.act(step, false),
                (step, Kind::Undo) => {
                    let answer = world.undo(step);
                    let times = undos.entry(step).or_default();
                    *times += 1;
                    if *times < 2 { lost() } else { answer }
                }
            });
            let expected = if failing == 0
                && matches!(&failure, Outcome::Answer { answer, .. } if answer.status < 500)
            {
                Status::Failed
            } else {
                Status::Undone
            };
            assert_eq!(ended, expected, "step {failing}, {failure:?}");
            assert!((0..steps).all(|step| !world.stands(step)), "{:?}", world.effects);
            assert!(world.effects.values().all(|effect| effect.done <= 1 && effect.undone <= 1));
        }
    }
}

proptest! {
    /// Random shapes, answers, losses, crashes (from the journal as it is), people: effects always add up.
    #[test]
    fn whatever_happens_effects_add_up(seed in any::<u64>()) {
        let seed = Seed::from_number(seed);
        let mut run = Run::new(random_definition(&seed));
        let mut world = Participants::default();
        let mut flying: Vec<(Work, Option<Outcome>)> = Vec::new();
        // How bad the weather is in this case; it clears up in the end, so that every saga can end.
        let weather = [0.05, 0.3, 0.7][seed.below(3)];
        let mut people = 0;
        for turn in 0..4000 {
            let is_bad = turn < 300 && seed.chance(weather);
            for work in run.begin() {
                flying.push((work, None));
            }
            match seed.below(12) {
                0 if is_bad => {
                    // What was sent may still arrive, unless it is lost with the crash.
                    for (work, arrived) in flying.drain(..) {
                        if arrived.is_none() && seed.chance(0.5) && work.kind != Kind::Undo {
                            world.act(usize::from(work.step), false);
                        }
                    }
                    run.crash();
                }
                1 if turn < 300 && seed.chance(0.1) => {
                    let _ = run.command(Command::Cancel { reason: String::new() });
                }
                2 if turn < 300 && seed.chance(0.1) => {
                    let _ = run.command(Command::Retry);
                }
                _ => {}
            }
            if run.saga.status() == Status::Stuck {
                people += 1;
                prop_assert!(people < 50, "stuck for ever: {:?}", run.saga);
                let command = match seed.below(3) {
                    0 => Command::Compensate { reason: "by hand".into() },
                    _ => Command::Retry,
                };
                run.command(command).unwrap();
                continue;
            }
            if run.saga.status().is_ended() {
                break;
            }
            if flying.is_empty() {
                run.pass();
                continue;
            }
            let (work, _) = flying.swap_remove(seed.below(flying.len()));
            let step = usize::from(work.step);
            let is_undo = work.kind == Kind::Undo;
            let outcome = match run.saga.plan.render(step, is_undo, &run.saga.sources()) {
                Err(why) => Outcome::Unrendered(why),
                Ok(_) if is_bad && seed.chance(0.2) => Outcome::Unreached("no endpoint".into()),
                Ok(_) if is_bad && seed.chance(0.3) => lost(),
                Ok(_) if is_bad && seed.chance(0.3) => status(425),
                Ok(_) if is_bad && seed.chance(0.2) => status(503),
                Ok(_) => {
                    let refuses = is_bad && seed.chance(0.3);
                    let answer = if is_undo { world.undo(step) } else { world.act(step, refuses) };
                    if is_bad && seed.chance(0.3) { lost() } else { answer }
                }
            };
            run.answer(seed.unit(), work, outcome);
            prop_assert_eq!(crate::invariants::holds(&run.saga), Ok(()));
            if seed.chance(0.3) {
                run.now = run.now.plus(Duration::from_millis(seed.below(3000) as u64));
            }
        }
        let ended = run.saga.status();
        prop_assert!(ended.is_ended(), "it does not end: {:?}", run.saga);
        for step in 0..run.saga.steps.len() {
            match ended {
                Status::Done => prop_assert!(world.stands(step), "{step} of {:?}", run.saga),
                _ if run.saga.plan.has_undo(step) => {
                    prop_assert!(!world.stands(step), "{step} stands: {:?} {:?}", run.saga, run.sent);
                }
                _ => {}
            }
        }
    }
}

fn random_definition(seed: &Seed) -> SagaDefinition {
    let stages = 1 + seed.below(4);
    let pivot = seed.chance(0.5).then(|| seed.below(stages));
    let mut shape: Vec<Vec<String>> = Vec::new();
    for stage in 0..stages {
        let steps = (0..1 + seed.below(3)).map(|n| {
            let flag = match seed.below(4) {
                0 => "?",
                1 if pivot != Some(stage) => "-",
                _ => "",
            };
            let is_pivot = pivot == Some(stage) && n == 0;
            format!("s{stage}{n}{flag}{}", if is_pivot { "!" } else { "" })
        });
        shape.push(steps.collect());
    }
    let shape: Vec<Vec<&str>> = shape.iter().map(|s| s.iter().map(String::as_str).collect()).collect();
    let shape: Vec<&[&str]> = shape.iter().map(Vec::as_slice).collect();
    definition(&shape, seed.chance(0.5).then(|| 1 + seed.below(20) as u64))
}
