//! The requests of one connection: futures of its task, in places that are used again.
//!
//! In:    jobs.      Out: each is run, whenever something that it waits for has come.
//! Owner: the connection's task.
//! Invariant: a future is made once for a place and takes one job after the other: a request's future has several kilobytes, which
//! would else be asked of the allocator, moved and given back for each. Only futures that were woken are polled.
//! Not here: what a job is (`server`).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// All places of a connection. `F` runs jobs for ever.
pub(crate) struct Seats<J, F> {
    places: Vec<Place<J, F>>,
    free: Vec<usize>,
    bell: Arc<Bell>,
    /// Those that are polled now; empty in between.
    called: Vec<usize>,
}

struct Place<J, F> {
    seat: Arc<Seat<J>>,
    waker: Waker,
    future: Pin<Box<F>>,
}

/// One place, as its future knows it.
pub(crate) struct Seat<J> {
    job: Mutex<Option<J>>,
    is_free: AtomicBool,
    caller: Caller,
}

/// Who was woken.
#[derive(Default)]
struct Bell {
    called: Mutex<Vec<usize>>,
    task: AtomicWaker,
}

struct Caller {
    number: usize,
    is_called: AtomicBool,
    bell: Arc<Bell>,
}

impl<J> Seat<J> {
    /// The next job.
    pub(crate) async fn next(&self) -> J {
        poll_fn(|_| match self.job.lock().take() {
            Some(job) => Poll::Ready(job),
            None => {
                self.is_free.store(true, Ordering::Relaxed);
                Poll::Pending
            }
        })
        .await
    }
}

impl<J: Send> Wake for Seat<J> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Caller { number, is_called, bell } = &self.caller;
        if !is_called.swap(true, Ordering::AcqRel) {
            bell.called.lock().push(*number);
            bell.task.wake();
        }
    }
}

impl<J: Send + 'static, F: Future> Seats<J, F> {
    pub(crate) fn new() -> Self {
        Seats { places: Vec::new(), free: Vec::new(), bell: Arc::default(), called: Vec::new() }
    }

    /// Gives a job to a place; it begins at the next poll. `make` makes the future of a new one.
    pub(crate) fn take(&mut self, job: J, make: impl FnOnce(Arc<Seat<J>>) -> F) {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                let number = self.places.len();
                let caller = Caller { number, is_called: AtomicBool::new(false), bell: self.bell.clone() };
                let seat = Arc::new(Seat { job: Mutex::new(None), is_free: AtomicBool::new(false), caller });
                let (waker, future) = (Waker::from(seat.clone()), Box::pin(make(seat.clone())));
                self.places.push(Place { seat, waker, future });
                number
            }
        };
        let seat = &self.places[number].seat;
        seat.is_free.store(false, Ordering::Relaxed);
        *seat.job.lock() = Some(job);
        if !seat.caller.is_called.swap(true, Ordering::AcqRel) {
            self.called.push(number);
        }
    }

    /// Everybody is polled once more.
    pub(crate) fn call_all(&mut self) {
        for (number, Place { seat, .. }) in self.places.iter().enumerate() {
            if !seat.is_free.load(Ordering::Relaxed) && !seat.caller.is_called.swap(true, Ordering::AcqRel) {
                self.called.push(number);
            }
        }
    }

    /// Runs what can run. Whatever is woken meanwhile wakes the task again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        self.bell.task.register(cx.waker());
        self.called.append(&mut self.bell.called.lock());
        for number in self.called.drain(..) {
            // A waker may outlive its place.
            let Some(Place { seat, waker, future }) = self.places.get_mut(number) else { continue };
            seat.caller.is_called.store(false, Ordering::Release);
            if seat.is_free.load(Ordering::Relaxed) {
                continue;
            }
            let _ends_never = future.as_mut().poll(&mut Context::from_waker(waker));
            if seat.is_free.load(Ordering::Relaxed) {
                self.free.push(number);
            }
        }
    }

    /// Gives all places up when none is taken: a connection that rests holds no memory for requests.
    pub(crate) fn clear(&mut self) {
        if self.free.len() == self.places.len() {
            *self = Seats::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    type Job = tokio::sync::oneshot::Receiver<u32>;

    /// Adds up what its jobs are told.
    async fn run(seat: Arc<Seat<Job>>, sum: Arc<AtomicUsize>) {
        loop {
            let job = seat.next().await;
            let told = job.await.unwrap_or(1000);
            sum.fetch_add(told as usize, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn jobs_run_when_they_are_woken_and_places_are_used_again() {
        let sum = Arc::new(AtomicUsize::new(0));
        let mut seats = Seats::new();
        let mut tell = Vec::new();
        for _ in 0..3 {
            let (sender, job) = tokio::sync::oneshot::channel();
            seats.take(job, |seat| run(seat, sum.clone()));
            tell.push(sender);
        }
        let poll = async |seats: &mut Seats<Job, _>| {
            poll_fn(|cx| {
                seats.poll(cx);
                Poll::Ready(())
            })
            .await;
        };
        poll(&mut seats).await;
        assert_eq!(sum.load(Ordering::Relaxed), 0);
        tell.remove(1).send(7).unwrap();
        poll(&mut seats).await;
        assert_eq!((sum.load(Ordering::Relaxed), seats.free.as_slice()), (7, &[1][..]));
        seats.clear();
        assert_eq!(seats.places.len(), 3, "two are taken");
        let (sender, job) = tokio::sync::oneshot::channel();
        sender.send(1).unwrap();
        seats.take(job, |_| unreachable!("a place is free"));
        drop(tell);
        poll(&mut seats).await;
        assert_eq!((sum.load(Ordering::Relaxed), seats.free.len()), (2008, 3));
        seats.clear();
        assert!(seats.places.is_empty());
    }

    #[tokio::test]
    async fn the_task_is_woken_once_for_each_wish() {
        let sum = Arc::new(AtomicUsize::new(0));
        let mut seats = Seats::new();
        let (sender, job) = tokio::sync::oneshot::channel();
        seats.take(job, |seat| run(seat, sum.clone()));
        let ending = async {
            poll_fn(|cx| {
                seats.poll(cx);
                if sum.load(Ordering::Relaxed) == 5 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        };
        let sending = async {
            tokio::task::yield_now().await;
            sender.send(5).unwrap();
        };
        tokio::join!(ending, sending);
    }
}
