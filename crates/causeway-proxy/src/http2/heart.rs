//! Whether a connection lives and is still wanted.
//!
//! In:    the connection's pulse, now and then.      Out: that it is dead, or idle for too long.
//! Owner: the connection's task.
//! Invariant: looking costs nothing on the way of a request: everything is asked at a beat.
//! Not here: what follows (`server`, `client`).

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use crate::http2::pulse::Pulse;

/// How a connection is looked after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Care {
    /// A connection that was silent for so long is asked; looked at as often.
    pub every: Duration,
    /// And must answer within this.
    pub answer: Duration,
    /// Whether it is asked at all.
    pub pings: bool,
    /// Without a request for so long it is idle; never, where there is none.
    pub idle: Option<Duration>,
}

/// What a beat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// The peer is not there any more.
    Dead,
    /// Nobody uses it.
    Idle,
    /// Nobody used it since the last beat.
    Quiet,
}

/// One connection's.
pub(crate) struct Heart {
    care: Care,
    ping: Option<PingPong>,
    next: Pin<Box<Sleep>>,
    reads: u32,
    is_asked: bool,
    begun: u32,
    busy_at: Instant,
}

impl Heart {
    pub(crate) fn new(care: Care, ping: Option<PingPong>) -> Self {
        let now = Instant::now();
        let next = Box::pin(tokio::time::sleep_until(now + care.every));
        Heart { care, ping, next, reads: 0, is_asked: false, begun: 0, busy_at: now }
    }

    /// Resolves when something is found.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, pulse: &Pulse) -> Poll<Beat> {
        let mut found = None;
        // It ends by a poll that finds the time not come, so that the task is woken when it comes.
        while self.next.as_mut().poll(cx).is_ready() {
            found = self.beat(pulse);
        }
        found.map_or(Poll::Pending, Poll::Ready)
    }

    fn beat(&mut self, pulse: &Pulse) -> Option<Beat> {
        let now = Instant::now();
        pulse.forgive();
        let reads = std::mem::replace(&mut self.reads, pulse.reads());
        let (is_silent, was_asked) = (reads == self.reads, std::mem::take(&mut self.is_asked));
        if is_silent && self.care.pings && !was_asked {
            self.is_asked = self.ask();
        }
        self.next.as_mut().reset(now + if self.is_asked { self.care.answer } else { self.care.every });
        let begun = std::mem::replace(&mut self.begun, pulse.begun());
        let is_used = begun != self.begun || pulse.load() > 0;
        if is_used {
            self.busy_at = now;
        }
        let rest = now.saturating_duration_since(self.busy_at);
        match () {
            () if is_silent && was_asked => Some(Beat::Dead),
            () if is_used => None,
            () if self.care.idle.is_some_and(|idle| rest >= idle) => {
                // It is said again when another while has passed.
                self.busy_at = now;
                Some(Beat::Idle)
            }
            () => Some(Beat::Quiet),
        }
    }

    fn ask(&mut self) -> bool {
        let Some(ping) = &mut self.ping else { return false };
        // An answer that came long ago is taken, or no further question could be sent.
        let _ = ping.poll_pong(&mut Context::from_waker(Waker::noop()));
        ping.send_ping(Ping::opaque()).is_ok()
    }
}
