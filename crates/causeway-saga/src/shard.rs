//! What a shard holds in memory: its open sagas, and where the ended ones are in the journal.
//!
//! In:    lines that are durable.      Out: sagas by id, lists, counts, those who wait for an end.
//! Owner: the shard's driver changes it; the handle reads it under the same short lock.
//! Invariant: everything in here is durable, in-flight marks aside; memory grows with open sagas and is bounded for ended ones.
//! Not here: deciding (`machine.rs`), writing (`driver.rs`).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use causeway_model::Timestamp;
use causeway_store::{Position, Store, StreamName};
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind};
use crate::id::SagaId;
use crate::journal::{self, Line};
use crate::machine::{Phase, Saga};
use crate::plan::Plan;
use crate::record::{Record, Started, Status};
use crate::view::{Filter, Summary};

/// Ended sagas of a shard that are listed (4,000 on a node).
pub const RECENT_MAX: usize = 1000;
/// Ended sagas of a shard that are found by id: 250,000 at 40 bytes, a million and 40 MB on a node. An older one is forgotten:
/// it is not found, and its id can be started again.
pub const ENDED_MAX: usize = 250_000;
/// Definitions of a shard that are kept compiled; beyond it a saga compiles its own.
const PLANS_MAX: usize = 1000;
/// Callers of a shard that wait for the end of a saga.
pub const WAITERS_MAX: usize = 16_384;

pub(crate) struct Shard {
    pub(crate) stream: StreamName,
    /// Length of the stream: where the next line goes.
    pub(crate) next: Position,
    open: HashMap<u64, Open>,
    ids: HashMap<SagaId, u64>,
    by_status: [BTreeSet<u64>; 3],
    ended: HashMap<u64, Ended>,
    ended_order: VecDeque<u64>,
    ended_counts: [u64; 3],
    recent: VecDeque<Summary>,
    plans: HashMap<Vec<u8>, Arc<Plan>>,
    waiters: HashMap<u64, Vec<oneshot::Sender<()>>>,
    waiting: usize,
}

/// An open saga and where its last line is.
pub(crate) struct Open {
    pub(crate) saga: Saga,
    pub(crate) last: u64,
    /// The timer that is set for it.
    pub(crate) wake: Option<Timestamp>,
}

#[derive(Clone, Copy)]
struct Ended {
    first: u64,
    last: u64,
}

/// Where a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) is_open: bool,
}

impl Shard {
    pub(crate) fn new(number: usize) -> Self {
        Shard {
            stream: journal::stream(number),
            next: Position::START,
            open: HashMap::new(),
            ids: HashMap::new(),
            by_status: Default::default(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            ended_counts: [0; 3],
            recent: VecDeque::new(),
            plans: HashMap::new(),
            waiters: HashMap::new(),
            waiting: 0,
        }
    }

    /// The shard as its journal tells it.
    pub(crate) fn replay(number: usize, store: &Store) -> Result<Self, Error> {
        let mut shard = Shard::new(number);
        let stream = shard.stream.clone();
        shard.next =
            journal::replay(store, &stream, |position, line| shard.apply(position, line).map(|_| ()))?;
        shard.open.values_mut().for_each(|open| open.saga.resume());
        Ok(shard)
    }

    /// Takes a durable line in. Gives the saga's status before and after.
    pub(crate) fn apply(&mut self, position: u64, line: Line) -> Result<(Option<Status>, Status), Error> {
        let Line { saga: key, at, record, .. } = line;
        if let Record::Started(started) = record {
            let plan = self.plan(&started)?;
            let saga = Saga::start(at, *started, plan);
            self.ids.insert(saga.id.clone(), key);
            self.open.insert(key, Open { saga, last: position, wake: None });
            self.set(Status::Running).map(|set| set.insert(key));
            return Ok((None, Status::Running));
        }
        let Some(open) = self.open.get_mut(&key) else {
            // A line after the end: none is written, and an old one would change nothing.
            return Ok((None, Status::Failed));
        };
        let before = open.saga.status();
        open.saga.apply(at, record);
        open.last = position;
        if cfg!(debug_assertions) {
            crate::invariants::check(&open.saga);
        }
        let after = open.saga.status();
        if before != after {
            self.set(before).map(|set| set.remove(&key));
            self.set(after).map(|set| set.insert(key));
        }
        if after.is_ended() {
            self.end(key, after);
        }
        if after.is_ended() || after == Status::Stuck {
            let waiters = self.waiters.remove(&key).unwrap_or_default();
            self.waiting -= waiters.len();
            for waiter in waiters {
                // A caller that went away needs no answer.
                let _ = waiter.send(());
            }
        }
        Ok((Some(before), after))
    }

    fn end(&mut self, key: u64, status: Status) {
        let Some(open) = self.open.remove(&key) else { return };
        self.ids.remove(&open.saga.id);
        self.ended_counts[status as usize - 3] += 1;
        let hash = open.saga.id.hash();
        if self.ended.insert(hash, Ended { first: key, last: open.last }).is_none() {
            self.ended_order.push_back(hash);
        }
        if self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(open.saga.summary());
    }

    /// Sagas of equal definitions share one plan.
    fn plan(&mut self, started: &Started) -> Result<Arc<Plan>, Error> {
        if let Some(plan) = self.plans.get(&started.definition) {
            return Ok(plan.clone());
        }
        let plan = crate::plan::load_bytes(&started.definition).ok_or_else(|| {
            ErrorKind::Journal(format!(
                "cannot read the definition of saga {} in {}",
                started.id, self.stream
            ))
        })?;
        let plan = Arc::new(plan);
        self.keep(&plan);
        Ok(plan)
    }

    /// The compiled plan of these bytes, if a saga had it before.
    pub(crate) fn known_plan(&self, bytes: &[u8]) -> Option<Arc<Plan>> {
        self.plans.get(bytes).cloned()
    }

    /// Keeps a plan for the next saga of its definition.
    pub(crate) fn keep(&mut self, plan: &Arc<Plan>) {
        if self.plans.len() >= PLANS_MAX {
            self.plans.retain(|_, plan| Arc::strong_count(plan) > 1);
        }
        if self.plans.len() < PLANS_MAX {
            self.plans.insert(plan.bytes.clone(), plan.clone());
        }
    }

    fn set(&mut self, status: Status) -> Option<&mut BTreeSet<u64>> {
        self.by_status.get_mut(status as usize)
    }

    // --- finding ---

    /// Where the saga of this id is. An ended one's id is to be compared by the reader: the index holds hashes.
    pub(crate) fn find(&self, id: &SagaId) -> Option<Place> {
        if let Some(key) = self.ids.get(id) {
            return self.open.get(key).map(|open| Place { first: *key, last: open.last, is_open: true });
        }
        self.ended.get(&id.hash()).map(|ended| Place { first: ended.first, last: ended.last, is_open: false })
    }

    pub(crate) fn get(&self, key: u64) -> Option<&Open> {
        self.open.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut Open> {
        self.open.get_mut(&key)
    }

    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Every open saga, oldest first.
    pub(crate) fn open_keys(&self) -> Vec<u64> {
        let mut keys: Vec<u64> = self.open.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// How many sagas have each status, in the order of [`Status::ALL`]; ended ones since the journal began.
    pub(crate) fn counts(&self) -> [u64; 6] {
        let open = |n: usize| self.by_status[n].len() as u64;
        let [done, undone, failed] = self.ended_counts;
        [open(0), open(1), open(2), done, undone, failed]
    }

    /// The newest sagas that the filter wants, open ones and those that ended lately.
    pub(crate) fn list(&self, filter: &Filter, found: &mut Vec<Summary>) {
        for status in [Status::Running, Status::Compensating, Status::Stuck] {
            if filter.status.is_some_and(|wanted| wanted != status) {
                continue;
            }
            let open = self.by_status[status as usize].iter().rev().filter_map(|key| self.open.get(key));
            let late = open.take_while(|open| filter.since.is_none_or(|since| open.saga.started >= since));
            let wanted = late.map(|open| open.saga.summary()).filter(|summary| summary.is_wanted(filter));
            found.extend(wanted.take(filter.limit));
        }
        if filter.status.is_none_or(Status::is_ended) {
            let wanted = self.recent.iter().rev().filter(|summary| summary.is_wanted(filter));
            found.extend(wanted.take(filter.limit).cloned());
        }
    }

    /// Somebody waits until the saga has ended or is stuck. `None`: it is so already. `Err`: too many wait.
    pub(crate) fn wait(&mut self, key: u64) -> Result<Option<oneshot::Receiver<()>>, usize> {
        let is_moving = self
            .open
            .get(&key)
            .is_some_and(|open| matches!(open.saga.phase, Phase::Forward { .. } | Phase::Back));
        if !is_moving {
            return Ok(None);
        }
        if self.waiting >= WAITERS_MAX {
            let gone = |waiters: &mut Vec<oneshot::Sender<()>>| waiters.retain(|waiter| !waiter.is_closed());
            self.waiters.values_mut().for_each(gone);
            self.waiters.retain(|_, waiters| !waiters.is_empty());
            self.waiting = self.waiters.values().map(Vec::len).sum();
            if self.waiting >= WAITERS_MAX {
                return Err(WAITERS_MAX);
            }
        }
        let (waiter, end) = oneshot::channel();
        self.waiters.entry(key).or_default().push(waiter);
        self.waiting += 1;
        Ok(Some(end))
    }

    /// Nothing moves any more: whoever waits looks at how things stand.
    pub(crate) fn wake_all(&mut self) {
        self.waiters.clear();
        self.waiting = 0;
    }
}
