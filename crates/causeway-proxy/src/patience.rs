//! How long an answer may take once it has begun: its end, and how long it may be silent.
//!
//! In:    the limits, a word whenever something moved.      Out: that it took too long.
//! Owner: the answer's body.
//! Invariant: an answer whose bytes are at hand whenever they are asked for sets no timer; one that is waited for sets one, which
//! is not touched by the bytes that come.
//! Not here: the time until an answer begins (`attempt::wait`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::progress::Progress;

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The whole.
    End,
    /// Nothing moved in either direction.
    Idle,
}

/// Limits of an answer.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    end: Option<Instant>,
    idle: Option<Duration>,
    /// The request's body, which may still be on its way.
    upload: Option<Arc<Progress>>,
    moved: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(end: Option<Instant>, idle: Option<Duration>, upload: Option<Arc<Progress>>) -> Self {
        Patience { end, idle, upload, moved: None, timer: None }
    }

    /// A frame was there. Whether there was still time for it.
    pub(crate) fn moved(&mut self) -> Result<(), Over> {
        if self.end.is_none() && self.timer.is_none() {
            return Ok(());
        }
        let now = Instant::now();
        self.moved = Some(now);
        match self.end {
            Some(end) if end <= now => Err(Over::End),
            _ => Ok(()),
        }
    }

    /// How long nothing has moved, when somebody waits for it.
    pub(crate) fn silent_for(&self) -> Duration {
        let uploaded = self.upload.as_ref().map(|upload| upload.moved_at());
        self.moved.max(uploaded).map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Nothing is there: resolves when it is too late.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        if self.end.is_none() && self.idle.is_none() {
            return Poll::Pending;
        }
        loop {
            let timer = match &mut self.timer {
                Some(timer) => timer,
                None => {
                    let now = *self.moved.get_or_insert_with(Instant::now);
                    let first = due(self.end, self.idle.map(|idle| now + idle));
                    self.timer.insert(Box::pin(tokio::time::sleep_until(first)))
                }
            };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.end.is_some_and(|end| end <= now) {
                return Poll::Ready(Over::End);
            }
            let uploaded = self.upload.as_ref().map(|upload| upload.moved_at());
            let silent_since = self.moved.max(uploaded).unwrap_or(now);
            let late = self.idle.map(|idle| silent_since + idle);
            if late.is_some_and(|late| late <= now) {
                return Poll::Ready(Over::Idle);
            }
            timer.as_mut().reset(due(self.end, late));
        }
    }
}

/// The earlier of two; there is one.
fn due(end: Option<Instant>, late: Option<Instant>) -> Instant {
    match (end, late) {
        (Some(end), Some(late)) => end.min(late),
        (end, late) => end.or(late).unwrap_or_else(Instant::now),
    }
}

#[cfg(test)]
impl Patience {
    pub(crate) fn limits(&self) -> (Option<Instant>, Option<Duration>) {
        (self.end, self.idle)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn over(patience: &mut Patience) -> (Over, u64) {
        let begun = Instant::now();
        let over = poll_fn(|cx| patience.poll_over(cx)).await;
        (over, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_limit_counts() {
        let now = Instant::now();
        let mut both = Patience::new(Some(now + 3 * SECOND), Some(5 * SECOND), None);
        assert_eq!(over(&mut both).await, (Over::End, 3));
        let mut silent = Patience::new(Some(now + 300 * SECOND), Some(5 * SECOND), None);
        assert_eq!(over(&mut silent).await, (Over::Idle, 5));
        let mut none = Patience::new(None, None, None);
        let waits = tokio::time::timeout(3600 * SECOND, over(&mut none)).await;
        assert!(waits.is_err() && none.timer.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_byte_in_either_direction() {
        let upload = Arc::new(Progress::new(false));
        let mut patience = Patience::new(None, Some(5 * SECOND), Some(upload.clone()));
        let moving = async {
            for _ in 0..3 {
                tokio::time::sleep(4 * SECOND).await;
                upload.move_on();
            }
        };
        let (ended, ()) = tokio::join!(over(&mut patience), moving);
        assert_eq!(ended, (Over::Idle, 17));
        let mut patience = Patience::new(None, Some(5 * SECOND), None);
        let early = tokio::time::timeout(4 * SECOND, over(&mut patience)).await;
        assert!(early.is_err());
        patience.moved().unwrap();
        assert_eq!(over(&mut patience).await, (Over::Idle, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_waits_ends_in_time_too() {
        let mut patience = Patience::new(Some(Instant::now() + SECOND), None, None);
        patience.moved().unwrap();
        tokio::time::advance(SECOND).await;
        assert_eq!(patience.moved(), Err(Over::End));
        let mut unlimited = Patience::default();
        unlimited.moved().unwrap();
        assert!(unlimited.moved.is_none(), "the clock is not read for nothing");
    }
}
