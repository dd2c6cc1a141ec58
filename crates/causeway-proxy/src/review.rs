//! Tells connections to ask again whether they may go on: a policy changed, or something was revoked.
//!
//! In:    a call, after each such change.      Out: connections' tasks woken, each of which asks for itself.
//! Owner: one for each worker; its lock is taken by others only for a call. A connection holds a [`Watch`].
//! Invariant: nobody who registered before a call sleeps through it; between calls a request costs one look at a number that nobody
//! writes, and a connection one place.
//! Not here: what is asked (`entry`), what becomes of those who may not (`leash`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Review {
    number: AtomicU64,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// One connection among those that are told.
#[derive(Debug)]
pub(crate) struct Watch {
    review: Arc<Review>,
    /// Where the task that runs the connection is registered.
    place: Mutex<Option<(usize, Waker)>>,
}

impl Review {
    /// Has everybody ask again.
    pub(crate) fn call(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
        let wakers: Vec<Waker> = self.places.lock().wakers.iter().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Watch {
    pub(crate) fn new(review: &Arc<Review>) -> Self {
        Watch { review: review.clone(), place: Mutex::default() }
    }

    /// The number of the last call: who asked when it was another must ask again.
    pub(crate) fn number(&self) -> u64 {
        self.review.number.load(Ordering::SeqCst)
    }

    /// From now on calls wake this task. Look at the number again afterwards.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut place = self.place.lock();
        match &mut *place {
            Some((_, known)) if known.will_wake(waker) => {}
            Some((at, known)) => {
                known.clone_from(waker);
                self.review.places.lock().wakers[*at] = Some(waker.clone());
            }
            None => {
                let mut places = self.review.places.lock();
                let at = places.free.pop().unwrap_or_else(|| {
                    places.wakers.push(None);
                    places.wakers.len() - 1
                });
                places.wakers[at] = Some(waker.clone());
                *place = Some((at, waker.clone()));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((at, _)) = self.place.get_mut().take() {
            let mut places = self.review.places.lock();
            places.wakers[at] = None;
            places.free.push(at);
        }
    }
}

/// Something that was asked for and allowed, and as of which call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leash {
    seen: u64,
}

impl Leash {
    /// To be taken before it is asked whether something is allowed.
    pub(crate) fn new(watch: &Watch) -> Self {
        Leash { seen: watch.number() }
    }

    /// One that begins by asking.
    pub(crate) fn unseen() -> Self {
        Leash { seen: u64::MAX }
    }

    /// Asks again after each call; ready with the first refusal. The task is woken by the next call.
    pub(crate) fn poll<R>(
        &mut self,
        watch: &Watch,
        cx: &mut Context<'_>,
        ask: impl Fn() -> Result<(), R>,
    ) -> Poll<R> {
        loop {
            let number = watch.number();
            if number == self.seen {
                watch.register(cx.waker());
                if watch.number() == number {
                    return Poll::Pending;
                }
            }
            self.seen = watch.number();
            if let Err(refusal) = ask() {
                return Poll::Ready(refusal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_is_registered_is_woken_once_a_call_and_who_left_is_not() {
        let (review, one, two) = (Arc::<Review>::default(), Arc::<Count>::default(), Arc::<Count>::default());
        let (a, b) = (Watch::new(&review), Watch::new(&review));
        let before = a.number();
        a.register(&one.clone().into());
        a.register(&one.clone().into());
        b.register(&two.clone().into());
        review.call();
        assert_eq!((one.0.load(Ordering::SeqCst), two.0.load(Ordering::SeqCst)), (1, 1));
        assert_ne!(a.number(), before);
        // Another task runs the connection now.
        a.register(&two.clone().into());
        drop(b);
        review.call();
        assert_eq!((one.0.load(Ordering::SeqCst), two.0.load(Ordering::SeqCst)), (1, 2));
        let c = Watch::new(&review);
        c.register(&one.clone().into());
        assert_eq!(review.places.lock().wakers.len(), 2, "places are used again");
        drop((a, c));
        review.call();
        assert_eq!((one.0.load(Ordering::SeqCst), two.0.load(Ordering::SeqCst)), (1, 2));
    }
}
