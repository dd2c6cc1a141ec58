use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::invariants;

const NOTHING: [u64; 0] = [];
const LEASE: Duration = Duration::from_secs(30);

fn rules(ordering: Ordering, dead_letter: DeadLetterMode) -> Rules {
    let retry =
        RetryPolicy { attempts: 3, backoff: Duration::from_secs(1), max_backoff: Duration::from_secs(4) };
    Rules { ordering, retry, max_in_flight: 4, dead_letter }
}

fn machine(rules: Rules) -> Machine {
    let mut machine = Machine::new(rules, Seed::from_number(7));
    machine.start(at(0), Offset::new(0));
    machine
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn offer(machine: &mut Machine, now: Timestamp, keys: &[Option<&str>]) {
    for key in keys {
        machine.offer(now, Offer { key: key.map(Arc::from), deliver_at: None, is_wanted: true });
    }
}

fn take(machine: &mut Machine, now: Timestamp) -> Vec<(u64, Token)> {
    let taken = machine.take(now, 100, LEASE);
    assert_eq!(invariants::check(machine), Ok(()));
    taken.into_iter().map(|a| (a.token.offset.get(), a.token)).collect()
}

fn offsets(taken: &[(u64, Token)]) -> Vec<u64> {
    taken.iter().map(|(offset, _)| *offset).collect()
}

#[test]
fn events_of_a_key_wait_for_each_other_and_others_flow() {
    let mut m = machine(rules(Ordering::Key, DeadLetterMode::Plain));
    offer(&mut m, at(0), &[Some("a"), Some("a"), Some("b"), None, Some("a")]);
    let first = take(&mut m, at(0));
    assert_eq!(offsets(&first), [0, 2, 3]);
    m.fail(at(0), &first[0].1, "no", None).unwrap();
    assert_eq!(offsets(&take(&mut m, at(0))), NOTHING, "a key waits while its first event is delayed");
    m.tick(at(1));
    let again = take(&mut m, at(1));
    assert_eq!(offsets(&again), [0]);
    m.ack(&again[0].1).unwrap();
    assert_eq!(offsets(&take(&mut m, at(1))), [1]);
    assert_eq!((m.cursor, m.lag(Offset::new(5))), (Offset::new(1), 4));
}

#[test]
fn without_order_nothing_waits_but_in_flight_is_bounded() {
    let mut m = machine(rules(Ordering::None, DeadLetterMode::Plain));
    offer(&mut m, at(0), &[Some("a"); 6]);
    let first = take(&mut m, at(0));
    assert_eq!(offsets(&first), [0, 1, 2, 3]);
    m.ack(&first[2].1).unwrap();
    assert_eq!(m.ack(&first[2].1), Err(Stale), "a token is good once");
    assert_eq!(offsets(&take(&mut m, at(0))), [4]);
}

#[test]
fn leases_end_and_can_be_extended() {
    let mut m = machine(rules(Ordering::None, DeadLetterMode::Plain));
    offer(&mut m, at(0), &[None, None]);
    let first = take(&mut m, at(0));
    m.extend(at(20), &first[1].1, LEASE).unwrap();
    assert_eq!(m.wake(at(20)), Some(at(30)));
    assert_eq!(m.tick(at(30)), [Failed::Retried]);
    assert_eq!(m.ack(&first[0].1), Err(Stale), "its lease ended");
    m.ack(&first[1].1).unwrap();
}

#[test]
fn attempts_are_spent_and_waits_grow_with_jitter() {
    let mut m = machine(rules(Ordering::None, DeadLetterMode::Plain));
    offer(&mut m, at(0), &[None]);
    let mut now = at(0);
    for (attempt, wait) in [(1, 1000), (2, 2000)] {
        let taken = take(&mut m, now);
        assert_eq!(m.fail(now, &taken[0].1, "500", None), Ok(Failed::Retried));
        let due = m.wake(now).unwrap().since(now).as_millis();
        assert!((wait / 2..=wait).contains(&due), "attempt {attempt}: {due} ms");
        now = m.wake(now).unwrap();
        m.tick(now);
    }
    let taken = take(&mut m, now);
    assert_eq!(m.fail(now, &taken[0].1, "500", None), Ok(Failed::DeadLettered));
    let letter = &m.letters[&Offset::new(0)].letter;
    assert_eq!((letter.attempts, letter.reason, letter.error.as_str()), (3, Reason::Attempts, "500"));
    assert_eq!(m.cursor, Offset::new(1), "a dead letter is settled");
}

#[test]
fn a_deferral_is_no_attempt_and_holds_everything_until_it_is_too_many() {
    let mut m = machine(rules(Ordering::None, DeadLetterMode::Plain));
    offer(&mut m, at(0), &[None, None]);
    m.rules.max_in_flight = 1;
    let taken = take(&mut m, at(0));
    m.defer(at(0), &taken[0].1, at(10)).unwrap();
    assert_eq!(offsets(&take(&mut m, at(9))), NOTHING);
    assert_eq!(m.wake(at(9)), Some(at(10)));
    m.tick(at(10));
    let again = m.take(at(10), 1, LEASE);
    assert_eq!((again[0].token.offset.get(), again[0].attempt), (0, 1));
    let mut token = again[0].token.clone();
    for _ in 1..DEFERRALS_MAX {
        m.defer(at(10), &token, at(10)).unwrap();
        m.tick(at(10));
        token = m.take(at(10), 1, LEASE)[0].token.clone();
    }
    m.defer(at(10), &token, at(10)).unwrap();
    assert_eq!(m.entries[&Offset::new(0)].attempts, 1, "one too many counts as an attempt");
}

#[test]
fn a_delayed_event_comes_when_it_is_due_and_holds_its_key() {
    let mut m = machine(rules(Ordering::Key, DeadLetterMode::Plain));
    m.offer(at(0), Offer { key: Some("a".into()), deliver_at: Some(at(60)), is_wanted: true });
    offer(&mut m, at(0), &[Some("a"), None]);
    assert_eq!(offsets(&take(&mut m, at(0))), [2]);
    m.tick(at(60));
    assert_eq!(offsets(&take(&mut m, at(60))), [0]);
}

#[test]
fn sequenced_dead_letters_park_the_key_and_redrive_in_order() {
    let mut m = machine(rules(Ordering::Key, DeadLetterMode::Sequenced));
    offer(&mut m, at(0), &[Some("a"), Some("b"), Some("a")]);
    let first = take(&mut m, at(0));
    m.refuse(at(0), &first[0].1, "422").unwrap();
    assert_eq!(m.letters.keys().map(|o| o.get()).collect::<Vec<_>>(), [0, 2]);
    offer(&mut m, at(0), &[Some("a"), Some("b")]);
    m.ack(&first[1].1).unwrap();
    assert_eq!(offsets(&take(&mut m, at(0))), [4], "key b flows");
    assert_eq!((m.letters.len(), m.parked_keys()), (3, 1));

    // A later letter of a key may not overtake an earlier one.
    let only = |numbers: &[u64]| numbers.iter().map(|n| Offset::new(*n)).collect::<BTreeSet<_>>();
    assert_eq!(m.redrivable(&only(&[2, 3])), []);
    let all = m.redrivable(&only(&[0, 2, 3]));
    m.redrive(at(5), all, Some(2));
    offer(&mut m, at(5), &[Some("a")]);
    let out = take(&mut m, at(5));
    assert_eq!(offsets(&out), [0]);
    m.ack(&out[0].1).unwrap();
    assert_eq!(offsets(&take(&mut m, at(5))), NOTHING, "two a second");
    m.tick(at(6));
    let out = take(&mut m, at(6));
    assert_eq!(offsets(&out), [2]);
    // It fails for good again: the key is parked again, with what had come behind it.
    m.refuse(at(6), &out[0].1, "422").unwrap();
    assert_eq!(
        m.letters.iter().map(|(o, d)| (o.get(), d.redriven.is_some())).collect::<Vec<_>>(),
        [(2, false), (3, false), (5, false)]
    );
    assert_eq!(m.parked_keys(), 1);
    assert_eq!(invariants::check(&m), Ok(()));
}

#[test]
fn a_stop_lasts_until_the_document_changes() {
    let mut m = machine(rules(Ordering::None, DeadLetterMode::Plain));
    offer(&mut m, at(0), &[None]);
    let taken = take(&mut m, at(0));
    m.stop(&taken[0].1, Revision::new(5)).unwrap();
    assert_eq!((m.room(), offsets(&take(&mut m, at(0))).len()), (0, 0));
    m.configure(m.rules, Revision::new(5));
    assert!(m.stopped.is_some());
    m.configure(m.rules, Revision::new(6));
    assert_eq!(offsets(&take(&mut m, at(0))), [0]);
}

#[test]
fn retention_settles_what_was_not_read() {
    let mut m = machine(rules(Ordering::None, DeadLetterMode::Plain));
    offer(&mut m, at(0), &[None]);
    assert_eq!(m.expire(Offset::new(10)), 9);
    assert_eq!((m.next, m.cursor, m.lag(Offset::new(12))), (Offset::new(10), Offset::new(0), 3));
    assert_eq!(m.expire(Offset::new(10)), 0);
    assert_eq!(invariants::check(&m), Ok(()));
}

// === random lives, watched from outside ===

#[derive(Clone, Debug)]
enum Step {
    Publish { key: u8, is_wanted: bool, delay: u8 },
    Deliver,
    Ack(u8),
    Fail(u8),
    Refuse(u8),
    Defer(u8),
    Release(u8),
    Pass(u8),
    Flush,
    Crash,
    Redrive { even_only: bool },
    Seek(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..4, prop::bool::weighted(0.9), 0u8..4).prop_map(|(key, is_wanted, delay)| Step::Publish { key, is_wanted, delay }),
        8 => Just(Step::Deliver),
        6 => any::<u8>().prop_map(Step::Ack),
        3 => any::<u8>().prop_map(Step::Fail),
        1 => any::<u8>().prop_map(Step::Refuse),
        1 => any::<u8>().prop_map(Step::Defer),
        1 => any::<u8>().prop_map(Step::Release),
        3 => (0u8..40).prop_map(Step::Pass),
        3 => Just(Step::Flush),
        1 => Just(Step::Crash),
        1 => any::<bool>().prop_map(|even_only| Step::Redrive { even_only }),
        1 => any::<u8>().prop_map(Step::Seek),
    ]
}

/// The world around a machine: the topic, the journal that survives, and what receivers have seen.
struct World {
    rules: Rules,
    machine: Machine,
    topic: Vec<Offer>,
    cursor_log: Vec<CursorRecord>,
    dead_log: Vec<DeadRecord>,
    now: Timestamp,
    out: Vec<Token>,
    acked: HashSet<u64>,
    was_sought: bool,
}

impl World {
    fn new(rules: Rules) -> Self {
        let mut machine = Machine::new(rules, Seed::from_number(1));
        machine.start(at(0), Offset::new(0));
        let mut world = World {
            rules,
            machine,
            topic: Vec::new(),
            cursor_log: Vec::new(),
            dead_log: Vec::new(),
            now: at(0),
            out: Vec::new(),
            acked: HashSet::new(),
            was_sought: false,
        };
        world.flush();
        world
    }

    fn flush(&mut self) {
        let records = self.machine.drain();
        self.cursor_log.extend(records.cursor);
        self.dead_log.extend(records.dead);
    }

    fn crash(&mut self) {
        let mut machine = Machine::new(self.rules, Seed::from_number(self.cursor_log.len() as u64));
        self.cursor_log.iter().for_each(|record| machine.apply_cursor(record));
        self.dead_log.iter().for_each(|record| machine.apply_dead(record));
        machine.resume();
        self.machine = machine;
        self.out.clear();
        self.feed();
    }

    fn feed(&mut self) {
        while let Some(offer) = self.topic.get(self.machine.next.get() as usize).cloned() {
            self.machine.offer(self.now, offer);
        }
    }

    fn pick(&mut self, choice: u8) -> Option<Token> {
        (!self.out.is_empty()).then(|| self.out.remove(choice as usize % self.out.len()))
    }

    fn deliver(&mut self) {
        for assignment in self.machine.take(self.now, 100, LEASE) {
            self.check_order(&assignment.token);
            self.out.push(assignment.token);
        }
        assert!(self.machine.in_flight <= self.rules.max_in_flight);
    }

    /// Whatever came before it of its key is acked, or dead while this one may go on, or (a seek back) was settled before.
    fn check_order(&self, token: &Token) {
        let offset = token.offset.get();
        let Some(key) = &self.topic[offset as usize].key else { return };
        if self.rules.ordering == Ordering::None || self.was_sought {
            return;
        }
        for (earlier, offer) in self.topic[..offset as usize].iter().enumerate() {
            if offer.key.as_ref() != Some(key) || !offer.is_wanted || self.acked.contains(&(earlier as u64)) {
                continue;
            }
            let letter = self.machine.letters.get(&Offset::new(earlier as u64));
            assert!(letter.is_some(), "event {offset} of key {key} overtook {earlier}");
            assert!(
                self.rules.dead_letter == DeadLetterMode::Plain,
                "event {offset} of key {key} overtook the dead letter {earlier}"
            );
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Publish { key, is_wanted, delay } => {
                let key = (key > 0).then(|| Arc::from(key.to_string().as_str()));
                let deliver_at = (delay == 3).then(|| self.now.plus(Duration::from_secs(5)));
                self.topic.push(Offer { key, deliver_at, is_wanted });
                self.feed();
            }
            Step::Deliver => self.deliver(),
            Step::Ack(choice) => {
                if let Some(token) = self.pick(choice)
                    && self.machine.ack(&token).is_ok()
                {
                    self.acked.insert(token.offset.get());
                }
            }
            Step::Fail(choice) => {
                let _ = self.pick(choice).map(|token| self.machine.fail(self.now, &token, "x", None));
            }
            Step::Refuse(choice) => {
                let _ = self.pick(choice).map(|token| self.machine.refuse(self.now, &token, "x"));
            }
            Step::Defer(choice) => {
                let until = self.now.plus(Duration::from_secs(3));
                {
                    let _ = self.pick(choice).map(|token| self.machine.defer(self.now, &token, until));
                };
            }
            Step::Release(choice) => {
                let _ = self.pick(choice).map(|token| self.machine.release(&token));
            }
            Step::Pass(seconds) => {
                self.now = self.now.plus(Duration::from_secs(u64::from(seconds)));
                self.machine.tick(self.now);
            }
            Step::Flush => self.flush(),
            Step::Crash => self.crash(),
            Step::Redrive { even_only } => {
                let chosen =
                    self.machine.letters.keys().copied().filter(|o| !even_only || o.get() % 2 == 0).collect();
                let offsets = self.machine.redrivable(&chosen);
                self.machine.redrive(self.now, offsets, Some(3));
            }
            Step::Seek(choice) => {
                let to = Offset::new(u64::from(choice) % (self.topic.len() as u64 + 1));
                self.machine.seek(self.now, to);
                // Whoever seeks is answered when it is written down.
                self.flush();
                self.was_sought = true;
                // What a seek jumps over is not lost but given up by whoever sought.
                self.acked.extend(0..to.get());
                self.acked.retain(|offset| *offset < to.get());
                self.out.clear();
                self.feed();
            }
        }
    }

    /// Everything acks from now on: every wanted event must have been acked or lie among the dead letters.
    fn drain_and_check(&mut self) {
        for _ in 0..20_000 {
            self.deliver();
            while let Some(token) = self.pick(0) {
                if self.machine.ack(&token).is_ok() {
                    self.acked.insert(token.offset.get());
                }
            }
            match self.machine.wake(self.now) {
                Some(wake) => self.now = self.now.max(wake),
                None if self.machine.entries.is_empty() => break,
                None => {}
            }
            self.machine.tick(self.now);
        }
        assert!(self.machine.entries.is_empty(), "it never comes to rest: {:?}", self.machine.entries);
        for (offset, offer) in self.topic.iter().enumerate() {
            let offset = offset as u64;
            let is_kept =
                self.acked.contains(&offset) || self.machine.letters.contains_key(&Offset::new(offset));
            assert!(is_kept || !offer.is_wanted, "event {offset} is lost");
        }
        assert_eq!(self.machine.cursor.get(), self.topic.len() as u64);
        assert_eq!(self.machine.lag(Offset::new(self.topic.len() as u64)), 0);
    }
}

fn any_rules() -> impl Strategy<Value = Rules> {
    (any::<bool>(), any::<bool>()).prop_map(|(is_keyed, is_sequenced)| {
        let ordering = if is_keyed { Ordering::Key } else { Ordering::None };
        let mode = if is_sequenced { DeadLetterMode::Sequenced } else { DeadLetterMode::Plain };
        rules(ordering, mode)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_event_is_lost_and_keys_keep_their_order(rules in any_rules(), steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new(rules);
        for step in steps {
            world.run(step);
            prop_assert_eq!(invariants::check(&world.machine), Ok(()));
        }
        world.drain_and_check();
    }

    #[test]
    fn a_checkpoint_stands_for_everything_before_it(rules in any_rules(), steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(rules);
        for step in steps {
            world.run(step);
        }
        world.flush();
        let mut whole = Machine::new(rules, Seed::from_number(0));
        world.cursor_log.iter().for_each(|record| whole.apply_cursor(record));
        let mut short = Machine::new(rules, Seed::from_number(0));
        short.apply_cursor(&world.machine.checkpoint());
        prop_assert_eq!((whole.cursor, &whole.ahead, whole.stopped), (short.cursor, &short.ahead, short.stopped));
        prop_assert_eq!(whole.cursor, world.machine.cursor);
    }
}
