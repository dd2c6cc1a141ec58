//! Who may go on to a service now, who waits, and who is shed: the most urgent first.
//!
//! In:    requests with their urgency.      Out: a [`Place`], kept until the request has ended, or a refusal.
//! Owner: the plan hangs it on a service; it outlives plans that do not change it.
//! Invariant: at most `limit` places are given out, and at most `queue` requests wait; nobody is overtaken by a request that is not more
//! urgent. While there is room, no lock is taken.
//! Not here: how the limit is found (`limiter`), what a refusal looks like (`admission`).

mod limiter;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use causeway_wire::priority::URGENCY_DEFAULT;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::endpoint::Micros;
use crate::limits::{GATE_QUEUE, GATE_WAIT, PRIORITIES_COUNT};
use limiter::{LIMIT_MAX, Limiter};

/// How the limit comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it is written.
    Fixed(u32),
    /// Found out, for every request.
    Adaptive,
    /// Found out, and used while callers say how urgent their calls are. Latencies of calls that may wait for something (long polls) look
    /// like those of a service that is overloaded, so that nobody is shed who has not asked to take part.
    WithPriorities,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub mode: Mode,
    pub queue: usize,
    pub wait: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { mode: Mode::WithPriorities, queue: GATE_QUEUE, wait: GATE_WAIT }
    }
}

/// The gate of one service.
#[derive(Debug)]
pub(crate) struct Gate {
    terms: Terms,
    in_flight: AtomicU32,
    limit: AtomicU32,
    /// How many are entered in `state.queue`.
    waiting: AtomicU32,
    /// Until when priorities count.
    counts_until: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limiter: Limiter,
    /// By urgency, then in the order of their coming.
    queue: BTreeMap<(u8, u64), oneshot::Sender<Place>>,
    next: u64,
}

/// A request that was let through; its place is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
}

/// Why a request was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// Those that wait are at least as urgent, and no more may wait.
    Full,
    /// It waited as long as it may.
    TooLong,
}

impl Gate {
    pub(crate) fn new(terms: Terms, now: Micros) -> Arc<Self> {
        let limiter = Limiter::new(now);
        let limit = match terms.mode {
            Mode::Fixed(limit) => limit.max(1),
            Mode::Adaptive => limiter.limit(),
            Mode::WithPriorities => LIMIT_MAX as u32,
        };
        Arc::new(Gate {
            terms,
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            waiting: AtomicU32::new(0),
            counts_until: AtomicU64::new(0),
            state: Mutex::new(State { limiter, queue: BTreeMap::new(), next: 0 }),
        })
    }

    /// Lets a request through, at once or after a while.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue up.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        urgency: Option<u8>,
        now: Micros,
        deadline: Option<Instant>,
    ) -> Result<Place, Shed> {
        if urgency.is_some_and(|urgency| urgency != URGENCY_DEFAULT) {
            // A plain load first: most of the time the line is only read.
            let until = now + PRIORITIES_COUNT.as_micros() as Micros;
            if self.counts_until.load(Relaxed) + 1_000_000 < until {
                self.counts_until.store(until, Relaxed);
            }
        }
        if self.waiting.load(SeqCst) == 0 && self.take_place() {
            return Ok(Place { gate: self.clone() });
        }
        // Waiting is rare and its future large: a box of its own.
        Box::pin(self.wait(urgency.unwrap_or(URGENCY_DEFAULT), deadline)).await
    }

    async fn wait(self: &Arc<Self>, urgency: u8, deadline: Option<Instant>) -> Result<Place, Shed> {
        let (key, place) = match self.queue_up(urgency) {
            Queued::Through(place) => return Ok(place),
            Queued::Waits(key, place) => (key, place),
            Queued::Full => return Err(Shed::Full),
        };
        let _entry = Entry { gate: self, key };
        let end = Instant::now() + self.terms.wait;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        match tokio::time::timeout_at(end, place).await {
            Ok(Ok(place)) => Ok(place),
            // Its sender was dropped: a more urgent one took its place in the queue.
            Ok(Err(_)) => Err(Shed::Full),
            Err(_) => Err(Shed::TooLong),
        }
    }

    fn queue_up(self: &Arc<Self>, urgency: u8) -> Queued {
        let mut state = self.state.lock();
        // Counted before looking, so that whoever frees a place from now on looks into the queue.
        self.waiting.fetch_add(1, SeqCst);
        let is_first = state.queue.first_key_value().is_none_or(|((first, _), _)| urgency < *first);
        if is_first && self.take_place() {
            self.waiting.fetch_sub(1, SeqCst);
            return Queued::Through(Place { gate: self.clone() });
        }
        if state.queue.len() >= self.terms.queue {
            let is_last = state.queue.last_key_value().is_none_or(|((last, _), _)| urgency >= *last);
            self.waiting.fetch_sub(1, SeqCst);
            if is_last {
                return Queued::Full;
            }
            // One waits for the other: the count stays as it was before.
            drop(state.queue.pop_last());
        }
        state.next += 1;
        let (key, (sender, receiver)) = ((urgency, state.next), oneshot::channel());
        state.queue.insert(key, sender);
        Queued::Waits(key, receiver)
    }

    fn take_place(&self) -> bool {
        let mut now = self.in_flight.load(SeqCst);
        while now < self.limit.load(Relaxed) {
            match self.in_flight.compare_exchange_weak(now, now + 1, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    fn free_place(self: &Arc<Self>) {
        self.in_flight.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.call_next();
        }
    }

    /// Gives free places to those who wait.
    fn call_next(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            if state.queue.is_empty() || !self.take_place() {
                return;
            }
            let Some((_, sender)) = state.queue.pop_first() else { return };
            self.waiting.fetch_sub(1, SeqCst);
            drop(state);
            // Who is gone gives the place back by dropping it, which calls the next one.
            drop(sender.send(Place { gate: self.clone() }));
        }
    }

    fn leave_queue(&self, key: (u8, u64)) {
        if self.state.lock().queue.remove(&key).is_some() {
            self.waiting.fetch_sub(1, SeqCst);
        }
    }

    /// Takes a request's latency in, unless another worker is just doing that.
    fn observe(self: &Arc<Self>, now: Micros, latency: Micros) {
        if matches!(self.terms.mode, Mode::Fixed(_)) {
            return;
        }
        let Some(mut state) = self.state.try_lock() else { return };
        if !state.limiter.observe(now, latency, self.in_flight.load(Relaxed)) {
            return;
        }
        let is_used = self.terms.mode == Mode::Adaptive || now < self.counts_until.load(Relaxed);
        let limit = if is_used { state.limiter.limit() } else { LIMIT_MAX as u32 };
        drop(state);
        let before = self.limit.swap(limit, Relaxed);
        if limit > before && self.waiting.load(SeqCst) > 0 {
            self.call_next();
        }
    }

    /// How many may be under way, how many are, and how many wait.
    pub(crate) fn figures(&self) -> (u32, u32, u32) {
        (self.limit.load(Relaxed), self.in_flight.load(Relaxed), self.waiting.load(Relaxed))
    }
}

enum Queued {
    Through(Place),
    Waits((u8, u64), oneshot::Receiver<Place>),
    Full,
}

/// An entry in the queue, taken out when its request gives up.
struct Entry<'a> {
    gate: &'a Gate,
    key: (u8, u64),
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.gate.leave_queue(self.key);
    }
}

impl Place {
    /// The service answered after `latency`.
    pub(crate) fn answered(&self, now: Micros, latency: Micros) {
        self.gate.observe(now, latency);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.free_place();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn gate(limit: u32, queue: usize) -> Arc<Gate> {
        Gate::new(Terms { mode: Mode::Fixed(limit), queue, wait: Duration::from_secs(1) }, 0)
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_go_first_and_nobody_is_lost() {
        let gate = gate(1, 10);
        let first = gate.enter(None, 0, None).await.unwrap();
        let waits = |urgency| {
            let gate = gate.clone();
            let mut waiting = Box::pin(async move { gate.enter(Some(urgency), 0, None).await });
            assert!(waiting.as_mut().now_or_never().is_none());
            waiting
        };
        let (mut late, mut soon, mut equal) = (waits(7), waits(0), waits(7));
        assert_eq!(gate.figures(), (1, 1, 3));
        drop(first);
        let place = soon.as_mut().now_or_never().unwrap().unwrap();
        assert!(late.as_mut().now_or_never().is_none());
        drop(place);
        let place = late.as_mut().now_or_never().unwrap().unwrap();
        assert!(equal.as_mut().now_or_never().is_none(), "in the order of their coming");
        drop(place);
        drop(equal);
        assert_eq!(gate.figures(), (1, 0, 0), "a place for one who is gone comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_urgent_are_shed_when_the_queue_is_full() {
        let gate = gate(1, 1);
        let _first = gate.enter(None, 0, None).await.unwrap();
        let mut low = Box::pin(gate.enter(Some(7), 0, None));
        assert!(low.as_mut().now_or_never().is_none());
        assert_eq!(gate.enter(Some(7), 0, None).await.unwrap_err(), Shed::Full);
        let mut high = Box::pin(gate.enter(Some(1), 0, None));
        assert!(high.as_mut().now_or_never().is_none());
        assert_eq!(low.await.unwrap_err(), Shed::Full);
        assert_eq!(high.await.unwrap_err(), Shed::TooLong);
        assert_eq!(gate.figures(), (1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_the_requests_deadline() {
        let gate = gate(1, 1);
        let _first = gate.enter(None, 0, None).await.unwrap();
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(20);
        assert_eq!(gate.enter(None, 0, Some(deadline)).await.unwrap_err(), Shed::TooLong);
        assert_eq!(begun.elapsed(), Duration::from_millis(20));
    }

    #[test]
    fn nobody_is_limited_who_has_not_asked_for_it() {
        let gate = Gate::new(Terms::default(), 0);
        let enter = |urgency, now| gate.enter(urgency, now, None).now_or_never().unwrap().unwrap();
        let all: Vec<Place> = (0..500).map(|_| enter(None, 0)).collect();
        let mut now = 0;
        let pass = |now: &mut Micros| {
            for place in &all {
                *now += 1_000;
                place.answered(*now, 30_000_000);
            }
        };
        pass(&mut now);
        assert_eq!(gate.figures().0, LIMIT_MAX as u32, "five hundred long polls");
        drop(enter(Some(6), now));
        pass(&mut now);
        assert!(gate.figures().0 < LIMIT_MAX as u32, "a caller said how urgent its call is");
    }

    #[tokio::test]
    async fn many_threads_never_pass_the_limit_and_all_are_served() {
        let gate = Gate::new(Terms { mode: Mode::Fixed(3), queue: 1_000, wait: Duration::from_secs(60) }, 0);
        let most = AtomicU32::new(0);
        let now = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    runtime.block_on(async {
                        let one = |urgency| {
                            let (gate, most, now) = (&gate, &most, &now);
                            async move {
                                let place = gate.enter(Some(urgency), 0, None).await.unwrap();
                                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                                tokio::task::yield_now().await;
                                now.fetch_sub(1, SeqCst);
                                drop(place);
                            }
                        };
                        futures_util::future::join_all((0..200).map(|n| one((n % 8) as u8))).await;
                    });
                });
            }
        });
        assert_eq!(gate.figures(), (3, 0, 0));
        assert!(most.load(SeqCst) <= 3);
    }
}
