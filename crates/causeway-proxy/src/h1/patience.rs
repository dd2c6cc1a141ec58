//! How long a connection waits for its client: one timer, set anew without asking the runtime for it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A limit that is moved at each message. The timer below is only moved when it fires too early or must fire sooner: to set a timer
/// takes the runtime's lock, and most limits are never reached.
#[derive(Debug, Default)]
pub(super) struct Patience {
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Waits so long from now.
    pub(super) fn wait(&mut self, limit: Duration) {
        self.until = Some(Instant::now() + limit);
    }

    /// Waits without limit.
    pub(super) fn stop(&mut self) {
        self.until = None;
    }

    /// Ready when the limit has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        loop {
            let set = timer.deadline();
            if set > until {
                timer.as_mut().reset(until);
            }
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if set >= until => return Poll::Ready(()),
                Poll::Ready(()) => timer.as_mut().reset(until),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_can_be_moved_both_ways_and_lifted() {
        let mut patience = Patience::default();
        let begun = Instant::now();
        patience.wait(Duration::from_secs(10));
        assert!(futures_util::poll!(poll_fn(|cx| patience.poll(cx))).is_pending());
        patience.wait(Duration::from_secs(20));
        poll_fn(|cx| patience.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 20);
        patience.wait(Duration::from_secs(50));
        assert!(futures_util::poll!(poll_fn(|cx| patience.poll(cx))).is_pending());
        patience.wait(Duration::from_secs(5));
        poll_fn(|cx| patience.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 25);
        patience.stop();
        let never = tokio::time::timeout(Duration::from_secs(1000), poll_fn(|cx| patience.poll(cx)));
        assert!(never.await.is_err());
    }
}
