//! How much may be under way to a service at once: a further request waits a little, or fails at once.
//!
//! In:    requests that begin and end; the policy's bounds.      Out: a place, or none.
//! Owner: the service of the plan; it outlives plans. Atomics, shared by all workers of a proxy.
//! Invariant: no more than the bound are under way, no more than its bound wait, and nobody waits longer than its wait; a place that
//! is given up goes to one who waits.
//! Not here: bounds of one endpoint (`endpoint`, `pool`), what the proxy in front of the service lets through (admission).

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tokio::sync::Notify;

use crate::limits;

/// What a policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Requests under way.
    pub requests: u32,
    /// Requests that wait for a place.
    pub pending: u32,
    /// How long they do.
    pub wait: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            requests: limits::REQUESTS_PER_SERVICE_MAX,
            pending: limits::PENDING_PER_SERVICE_MAX,
            wait: limits::PENDING,
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many wait as may.
    AtOnce,
    /// None came free in time.
    InTime,
}

/// The requests of one service.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    under_way: AtomicU32,
    waiting: AtomicU32,
    freed: Notify,
}

/// A place, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Place(Arc<Circuit>);

impl Circuit {
    /// Takes a place.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line.
    pub(crate) async fn enter(self: &Arc<Self>, bounds: &Bounds) -> Result<Place, Full> {
        // Whoever comes does not overtake those who wait.
        if self.waiting.load(Relaxed) > 0 || !self.take(bounds.requests) {
            // Rare: its future must not make every request's larger.
            Box::pin(self.wait(bounds)).await?;
        }
        Ok(Place(self.clone()))
    }

    /// Gives a place back.
    fn leave(&self) {
        // SeqCst with `wait`, which enters itself before it looks: either it sees the place, or it is seen here.
        self.under_way.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> u32 {
        self.under_way.load(Relaxed)
    }

    fn take(&self, most: u32) -> bool {
        // Never more than there are, not even for a moment: to take the excess back would look like a place come free.
        self.under_way.try_update(SeqCst, SeqCst, |held| (held < most).then_some(held + 1)).is_ok()
    }

    async fn wait(&self, bounds: &Bounds) -> Result<(), Full> {
        if bounds.wait.is_zero() || bounds.pending == 0 {
            return if self.take(bounds.requests) { Ok(()) } else { Err(Full::AtOnce) };
        }
        let (line, mut is_turn) = InLine::join(self, bounds.pending).ok_or(Full::AtOnce)?;
        let turn = async {
            loop {
                let freed = self.freed.notified();
                if is_turn && self.take(bounds.requests) {
                    return;
                }
                freed.await;
                is_turn = true;
            }
        };
        let turn = tokio::time::timeout(bounds.wait, turn).await;
        drop(line);
        // Several places may have come free at once, and one who is told takes only one.
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_one();
        }
        turn.map_err(|_| Full::InTime)
    }
}

/// One who waits.
struct InLine<'a>(&'a Circuit);

impl<'a> InLine<'a> {
    /// Joins a line that is not too long, and says whether nobody is before.
    fn join(circuit: &'a Circuit, most: u32) -> Option<(Self, bool)> {
        let before = circuit.waiting.fetch_add(1, SeqCst);
        let joined = InLine(circuit);
        (before < most).then_some((joined, before == 0))
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{future::join_all, poll};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn places_are_given_within_bounds_and_freed_ones_to_those_who_wait() {
        let circuit = Arc::new(Circuit::default());
        let bounds = Bounds { requests: 2, pending: 1, wait: SECOND };
        let first = circuit.enter(&bounds).await.unwrap();
        let second = circuit.enter(&bounds).await.unwrap();
        let mut third = Box::pin(circuit.enter(&bounds));
        assert!(poll!(&mut third).is_pending());
        assert_eq!(circuit.enter(&bounds).await.unwrap_err(), Full::AtOnce);
        drop(first);
        // The one who waits goes first.
        assert_eq!(circuit.enter(&bounds).await.unwrap_err(), Full::AtOnce);
        let third = third.await.unwrap();
        assert_eq!(circuit.under_way(), 2);
        let begun = tokio::time::Instant::now();
        assert_eq!(circuit.enter(&bounds).await.unwrap_err(), Full::InTime);
        assert_eq!(begun.elapsed(), SECOND);
        drop((second, third));
        let _place = circuit.enter(&bounds).await.unwrap();
        assert_eq!((circuit.under_way(), circuit.waiting.load(Relaxed)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_nobody_may() {
        let circuit = Arc::new(Circuit::default());
        for bounds in [
            Bounds { requests: 1, pending: 0, wait: SECOND },
            Bounds { requests: 1, pending: 5, wait: Duration::ZERO },
        ] {
            let _place = circuit.enter(&bounds).await.unwrap();
            let begun = tokio::time::Instant::now();
            assert_eq!(circuit.enter(&bounds).await.unwrap_err(), Full::AtOnce);
            assert!(begun.elapsed().is_zero());
        }
        assert_eq!(circuit.under_way(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_gives_up_takes_no_place_with_him() {
        let circuit = Arc::new(Circuit::default());
        let bounds = Bounds { requests: 1, pending: 9, wait: SECOND };
        let place = circuit.enter(&bounds).await.unwrap();
        let mut first = Box::pin(circuit.enter(&bounds));
        let mut second = Box::pin(circuit.enter(&bounds));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(place);
        // It had been told, and goes away.
        drop(first);
        let _place = second.await.unwrap();
        assert_eq!((circuit.under_way(), circuit.waiting.load(Relaxed)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_moves_on_by_itself() {
        let circuit = Arc::new(Circuit::default());
        let bounds = Bounds { requests: 3, pending: 100, wait: 60 * SECOND };
        let most = AtomicU32::new(0);
        let each = async |_| {
            let _place = circuit.enter(&bounds).await.unwrap();
            most.fetch_max(circuit.under_way(), Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let begun = tokio::time::Instant::now();
        join_all((0..60).map(each)).await;
        assert_eq!((most.load(Relaxed), circuit.under_way()), (3, 0));
        assert!(begun.elapsed() <= Duration::from_millis(220), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn threads_agree_on_how_many_there_are() {
        let circuit = Arc::new(Circuit::default());
        let bounds = Bounds { requests: 2, pending: 1000, wait: 60 * SECOND };
        let most = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (circuit, most) = (circuit.clone(), most.clone());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        for _ in 0..2_000 {
                            let place = circuit.enter(&bounds).await.unwrap();
                            most.fetch_max(circuit.under_way(), SeqCst);
                            tokio::task::yield_now().await;
                            drop(place);
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(most.load(SeqCst) <= 2, "{most:?}");
        assert_eq!((circuit.under_way(), circuit.waiting.load(SeqCst)), (0, 0));
    }
}
