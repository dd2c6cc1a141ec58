//! Moves bytes both ways between two legs until both have ended, one breaks, or nothing has moved for too long.
//!
//! In:    two legs.      Out: their bytes on each other, counted; how it ended.
//! Owner: the connection's task.
//! Invariant: an end of the one side is passed on to the other while the other direction goes on; a direction that has nothing to
//! move holds neither buffer nor pipe; nothing more is read before what was read is on its way.
//! Not here: making legs (`tcp`, `tunnel`), writing down what happened (`settle`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::leg::Leg;
use crate::spare::{Buffer, Size, Spare};
#[cfg(target_os = "linux")]
use crate::splice::{Fault, Splicer, Step};

/// Moved in a row by one direction before others of the same worker have their turn.
const TURN_BYTES: u64 = 1 << 20;

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub from_client: u64,
    pub from_service: u64,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides said that they were done.
    Orderly,
    /// Nothing moved for as long as is allowed.
    Idle,
    /// It is as old as it may become; its owner says so.
    Aged,
    /// The client's side broke.
    Client(io::Error),
    /// The service's side broke.
    Service(io::Error),
}

/// Moves bytes until the end.
///
/// # Cancel safety
/// Dropping the future ends both directions where they are; `moved` says how far they came.
pub(crate) async fn pump(
    client: &mut Leg,
    service: &mut Leg,
    spare: &Spare,
    idle: Option<Duration>,
    moved: &mut Moved,
) -> End {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let sleep = tokio::time::sleep(idle.unwrap_or_default());
    tokio::pin!(sleep);
    let mut watch = idle.map(|idle| Watch { idle, sleep, last: Instant::now() });
    poll_fn(|cx| {
        let before = up.moved + down.moved;
        let upwards = up.poll(cx, client, service, spare);
        let downwards = down.poll(cx, service, client, spare);
        (moved.from_client, moved.from_service) = (up.moved, down.moved);
        match (upwards, downwards) {
            (Poll::Ready(Err(broke)), _) => Poll::Ready(broke.upwards()),
            (_, Poll::Ready(Err(broke))) => Poll::Ready(broke.downwards()),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Orderly),
            _ => match &mut watch {
                Some(watch) => watch.poll(cx, up.moved + down.moved != before).map(|()| End::Idle),
                None => Poll::Pending,
            },
        }
    })
    .await
}

/// Ends a connection on which nothing moves.
struct Watch<'a> {
    idle: Duration,
    sleep: Pin<&'a mut Sleep>,
    last: Instant,
}

impl Watch<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, has_moved: bool) -> Poll<()> {
        if has_moved {
            self.last = Instant::now();
        }
        // The timer is not set anew each time something moves, but when it fires.
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.last.elapsed() >= self.idle {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.last + self.idle);
        }
        Poll::Pending
    }
}

/// Which end of a direction broke.
enum Broke {
    Source(io::Error),
    Sink(io::Error),
}

impl Broke {
    fn upwards(self) -> End {
        match self {
            Broke::Source(error) => End::Client(error),
            Broke::Sink(error) => End::Service(error),
        }
    }

    fn downwards(self) -> End {
        match self {
            Broke::Source(error) => End::Service(error),
            Broke::Sink(error) => End::Client(error),
        }
    }
}

/// One direction.
#[derive(Default)]
struct Direction {
    state: State,
    moved: u64,
    size: Size,
    held: Option<Held>,
    #[cfg(target_os = "linux")]
    splicer: Splicer,
    /// No pipe could be had: bytes are copied.
    #[cfg(target_os = "linux")]
    copies: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Runs,
    /// The source has ended; the sink is to be told.
    Ending,
    Done,
}

/// Bytes that were read and not yet written.
struct Held {
    buffer: Buffer,
    from: usize,
    to: usize,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Leg,
        sink: &mut Leg,
        spare: &Spare,
    ) -> Poll<Result<(), Broke>> {
        let turn = self.moved + TURN_BYTES;
        loop {
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_out(cx, sink, spare)).map_err(Broke::Sink)?;
            if self.state == State::Ending {
                ready!(sink.poll_end(cx)).map_err(Broke::Sink)?;
                self.state = State::Done;
                continue;
            }
            if self.moved >= turn {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let is_open = ready!(self.poll_in(cx, source, sink, spare))?;
            if !is_open {
                self.state = State::Ending;
            }
        }
    }

    /// Writes what is held, and has it on its way.
    fn poll_out(&mut self, cx: &mut Context<'_>, sink: &mut Leg, spare: &Spare) -> Poll<io::Result<()>> {
        while let Some(held) = &mut self.held {
            let count = ready!(sink.poll_drain(cx, &held.buffer[held.from..held.to]))?;
            held.from += count;
            self.moved += count as u64;
            if held.from == held.to {
                self.held.take().into_iter().for_each(|held| spare.give(held.buffer));
            }
        }
        sink.poll_flush(cx)
    }

    /// Moves or reads some; false at the source's end.
    fn poll_in(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Leg,
        sink: &mut Leg,
        spare: &Spare,
    ) -> Poll<Result<bool, Broke>> {
        #[cfg(target_os = "linux")]
        if let (Some(from), Some(to), true) =
            (source.socket(), sink.socket(), source.is_fresh() && !self.copies)
        {
            return match ready!(self.splicer.poll_step(cx, from, to, spare)) {
                Ok(Step::Ended) => Poll::Ready(Ok(false)),
                Ok(Step::Moved(count)) => {
                    self.moved += count as u64;
                    Poll::Ready(Ok(true))
                }
                Err(Fault::Pipe(error)) => {
                    tracing::warn!(%error, "no pipe for splice(2) can be had; bytes are copied");
                    self.copies = true;
                    Poll::Ready(Ok(true))
                }
                Err(Fault::Source(error)) => Poll::Ready(Err(Broke::Source(error))),
                Err(Fault::Sink(error)) => Poll::Ready(Err(Broke::Sink(error))),
            };
        }
        let mut buffer = spare.take(self.size);
        match source.poll_fill(cx, spare, &mut buffer) {
            Poll::Ready(Ok(count)) if count > 0 => {
                self.size = self.size.after(count);
                self.held = Some(Held { buffer, from: 0, to: count });
                Poll::Ready(Ok(true))
            }
            filled => {
                spare.give(buffer);
                filled.map(|ended| ended.map(|_| false).map_err(Broke::Source))
            }
        }
    }
}
