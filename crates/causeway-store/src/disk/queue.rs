//! What waits for the writer: a bounded queue, in order of arrival, taken as a whole.
//!
//! In:    batches from any task.     Out: all that wait, to the one writer thread.
//! Owner: the writer takes; handles push. The bound is in bytes (`QUEUE_BYTES_MAX`), and is given back on acknowledgement.
//! Invariant: a batch that was pushed is answered, whatever happens to the writer: an unanswered one is told `Closed`.
//! Not here: what is done with them (`writer.rs`).

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError, oneshot};

use crate::batch::{Batch, Committed};
use crate::error::{Error, Kind};
use crate::limits::{QUEUE_BYTES_MAX, QUEUE_WAIT_MAX};
use crate::metrics::Metrics;

/// The queue's bound is counted in pieces of this size; a batch takes at least one, so this bounds their number too.
const UNIT_BYTES: usize = 256;

/// What became of a batch.
pub(super) type Outcome = Result<Committed, Error>;

/// One batch and where its answer goes.
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) size: usize,
    pub(super) answer: oneshot::Sender<Outcome>,
}

pub(super) struct Queue {
    state: Mutex<State>,
    bell: Condvar,
    room: Semaphore,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    refusal: Option<Error>,
    /// The writer sleeps, so that whoever pushes must ring.
    is_asleep: bool,
}

/// What the writer woke up for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Work,
    Idle,
    Closed,
}

impl Queue {
    pub(super) fn new(metrics: Metrics) -> Self {
        Queue {
            state: Mutex::default(),
            bell: Condvar::new(),
            room: Semaphore::new(QUEUE_BYTES_MAX / UNIT_BYTES),
            metrics,
        }
    }

    /// Waits for room, then for the answer.
    pub(super) async fn push(&self, batch: Batch, size: usize) -> Outcome {
        let units = size.div_ceil(UNIT_BYTES) as u32;
        let _room = self.reserve(units).await?;
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if let Some(refusal) = &state.refusal {
                return Err(refusal.clone());
            }
            state.jobs.push(Job { batch, size, answer });
            self.metrics.queue_bytes.inc_by(size as i64);
            if std::mem::take(&mut state.is_asleep) {
                self.bell.notify_one();
            }
        }
        answered.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    async fn reserve(&self, units: u32) -> Result<SemaphorePermit<'_>, Error> {
        match self.room.try_acquire_many(units) {
            Ok(room) => Ok(room),
            Err(TryAcquireError::Closed) => Err(Error::closed()),
            Err(TryAcquireError::NoPermits) => {
                match tokio::time::timeout(QUEUE_WAIT_MAX, self.room.acquire_many(units)).await {
                    Ok(room) => room.map_err(|_| Error::closed()),
                    Err(_) => {
                        let doing = format!(
                            "the store's queue of {QUEUE_BYTES_MAX} bytes stayed full for {QUEUE_WAIT_MAX:?}"
                        );
                        Err(Error::new(Kind::Busy, doing))
                    }
                }
            }
        }
    }

    /// Moves all that waits to the end of `jobs`; sleeps up to `idle` when there is nothing.
    pub(super) fn take(&self, jobs: &mut Vec<Job>, idle: Option<Duration>) -> Woken {
        let mut state = self.state.lock();
        while state.jobs.is_empty() {
            if state.refusal.is_some() {
                return Woken::Closed;
            }
            state.is_asleep = true;
            let is_idle = match idle {
                None => {
                    self.bell.wait(&mut state);
                    false
                }
                Some(idle) => self.bell.wait_for(&mut state, idle).timed_out(),
            };
            state.is_asleep = false;
            if is_idle && state.jobs.is_empty() && state.refusal.is_none() {
                return Woken::Idle;
            }
        }
        self.metrics.queue_bytes.dec_by(state.jobs.iter().map(|job| job.size as i64).sum());
        jobs.append(&mut state.jobs);
        Woken::Work
    }

    /// Refuses what comes from now on; what waits is still done.
    pub(super) fn close(&self, refusal: Error) {
        let mut state = self.state.lock();
        state.refusal.get_or_insert(refusal);
        state.is_asleep = false;
        self.bell.notify_one();
        self.room.close();
    }
}
