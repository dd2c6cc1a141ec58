//! Tells connections to finish, or to end at once, without costing the ones that run anything.
//!
//! In:    a level, rung once or raised.      Out: futures that resolve at their level.
//! Owner: the proxy's handle rings; every connection holds one future.
//! Invariant: polling a future of a bell that is silent reads one atomic that nobody writes: no lock, no shared line in motion
//! (a `CancellationToken` takes its lock at each poll, and all connections of all workers share it).
//! Not here: waiting for connections to end (`Scope`).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// How urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// Take nothing new for the sidecar's app, finish what runs; its own calls go on.
    Retire = 1,
    /// Take nothing new, finish what runs.
    Finish = 2,
    /// End now.
    End = 3,
}

/// A bell. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    level: AtomicU8,
    next: AtomicU64,
    wakers: Mutex<HashMap<u64, (Level, Waker)>>,
}

/// Resolves when the bell has been rung at its level or above.
pub(crate) struct Rung {
    bell: Bell,
    level: Level,
    waker: Option<(u64, Waker)>,
}

impl Bell {
    /// Rings; a lower level than before changes nothing.
    pub(crate) fn ring(&self, level: Level) {
        self.shared.level.fetch_max(level as u8, Ordering::SeqCst);
        // Those who wait for a higher level stay entered: they will not enter again.
        let rung: Vec<Waker> = {
            let mut wakers = self.shared.wakers.lock();
            wakers.extract_if(|_, (waits_for, _)| *waits_for <= level).map(|(_, (_, waker))| waker).collect()
        };
        rung.into_iter().for_each(Waker::wake);
    }

    /// A future of a level.
    pub(crate) fn rung(&self, level: Level) -> Rung {
        Rung { bell: self.clone(), level, waker: None }
    }

    /// Whether it has been rung at this level or above.
    pub(crate) fn is_rung(&self, level: Level) -> bool {
        self.shared.level.load(Ordering::Acquire) >= level as u8
    }
}

impl Future for Rung {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.bell.is_rung(this.level) {
            return Poll::Ready(());
        }
        if let Some((_, waker)) = &this.waker
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        let shared = &this.bell.shared;
        let key = this.waker.as_ref().map_or_else(|| shared.next.fetch_add(1, Ordering::Relaxed), |w| w.0);
        this.waker = Some((key, cx.waker().clone()));
        shared.wakers.lock().insert(key, (this.level, cx.waker().clone()));
        // It may have been rung between the first look and the entry.
        if this.bell.is_rung(this.level) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Rung {
    fn drop(&mut self) {
        if let Some((key, _)) = &self.waker {
            self.bell.shared.wakers.lock().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_lower_level_does_not_forget_who_waits_for_a_higher_one() {
        let bell = Bell::default();
        let mut end = Box::pin(bell.rung(Level::End));
        let waits = std::future::poll_fn(|cx| {
            let polled = end.as_mut().poll(cx);
            match bell.shared.level.load(Ordering::Relaxed) {
                0 => bell.ring(Level::Finish),
                2 => bell.ring(Level::End),
                _ => {}
            }
            if polled.is_pending() && bell.is_rung(Level::End) {
                assert!(bell.shared.wakers.lock().is_empty(), "it was entered, and was woken");
            } else if polled.is_pending() {
                cx.waker().wake_by_ref();
            }
            polled
        });
        waits.await;
    }

    #[tokio::test]
    async fn each_level_wakes_its_own() {
        let bell = Bell::default();
        let (mut finish, mut end) = (bell.rung(Level::Finish), bell.rung(Level::End));
        assert!(poll!(&mut finish).is_pending() && poll!(&mut end).is_pending());
        bell.ring(Level::Finish);
        assert!(poll!(&mut finish).is_ready() && poll!(&mut end).is_pending());
        let ring = async { bell.ring(Level::End) };
        tokio::join!(end, ring);
        bell.rung(Level::Finish).await;
        drop(finish);
        assert!(bell.shared.wakers.lock().is_empty(), "nothing is left behind");
    }
}
