//! How a body that is streamed to a service fares at its client's end, for whoever looks on: what the client does to its own upload
//! is not the service's failure, and what was short can be sent again.
//!
//! In:    frames as they go out.      Out: whether it moves, waits or broke; all of it, once it has ended and if it was short.
//! Owner: the body on its way and the delivery that sends it share one.
//! Invariant: no more than a bound is kept, and nothing once the delivery is over.
//! Not here: the frames' way (`outgoing`).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::BodyError;
use crate::limits;

/// How a streamed body fares.
#[derive(Debug)]
pub(crate) struct Progress {
    state: AtomicU8,
    origin: Instant,
    /// Microseconds after `origin` at which bytes went out last.
    moved: AtomicU64,
    /// That went out so far.
    bytes: AtomicU64,
    copy: Mutex<Option<Copy>>,
}

/// What went out so far.
#[derive(Debug, Default)]
struct Copy {
    frames: Vec<Bytes>,
    bytes: usize,
    is_whole: bool,
}

/// Bytes are at hand, or not yet wanted.
const FLOWS: u8 = 0;
/// The service's side would take more, the client has not sent it.
const WAITS: u8 = 1;
/// The client broke it off, or sent what is no body.
const BROKE: u8 = 2;

impl Progress {
    /// Of a body that begins; `keeps` when it may be worth sending again.
    pub(crate) fn new(keeps: bool) -> Self {
        Progress {
            state: AtomicU8::new(FLOWS),
            origin: Instant::now(),
            moved: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            copy: Mutex::new(keeps.then(Copy::default)),
        }
    }

    // === the body's side ===

    /// The next frame is asked for.
    pub(crate) fn wait(&self) {
        self.state.store(WAITS, Relaxed);
    }

    /// It is there, or the end is.
    pub(crate) fn note(&self, frame: Option<&Result<Frame<Bytes>, BodyError>>, is_end: bool) {
        self.state.store(if matches!(frame, Some(Err(_))) { BROKE } else { FLOWS }, Relaxed);
        self.move_on();
        if let Some(Ok(frame)) = frame
            && let Some(data) = frame.data_ref()
        {
            // Only the body's own task writes.
            self.bytes.store(self.bytes.load(Relaxed) + data.len() as u64, Relaxed);
        }
        let mut copy = self.copy.lock();
        let Some(kept) = &mut *copy else { return };
        let data = match frame {
            Some(Ok(frame)) => frame.data_ref(),
            Some(Err(_)) => None,
            None => return kept.is_whole = true,
        };
        match data {
            Some(data) if kept.bytes + data.len() <= limits::REPLAY_BYTES_MAX => {
                kept.bytes += data.len();
                kept.frames.push(data.clone());
                kept.is_whole = is_end;
            }
            // Too long, broken, or with trailers: it goes once.
            _ => *copy = None,
        }
    }

    /// Bytes went out.
    pub(crate) fn move_on(&self) {
        self.moved.store(self.origin.elapsed().as_micros() as u64, Relaxed);
    }

    // === those who look on ===

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state.load(Relaxed) == BROKE
    }

    /// When bytes went out last; at first, when the body was begun.
    pub(crate) fn moved_at(&self) -> Instant {
        self.origin + Duration::from_micros(self.moved.load(Relaxed))
    }

    /// Whether the client owes bytes that the service's side would take.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.state.load(Relaxed) == WAITS
    }

    /// All of it, once it has ended and if it was short.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        let copy = self.copy.lock();
        let copy = copy.as_ref().filter(|copy| copy.is_whole)?;
        match copy.frames.as_slice() {
            [only] => Some(only.clone()),
            frames => {
                let mut all = BytesMut::with_capacity(copy.bytes);
                frames.iter().for_each(|frame| all.extend_from_slice(frame));
                Some(all.freeze())
            }
        }
    }

    /// Nobody will send it again.
    pub(crate) fn forget(&self) {
        *self.copy.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, BodyError> {
        Ok(Frame::data(Bytes::from_static(bytes)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_body_is_there_again_once_it_has_ended() {
        let progress = Progress::new(true);
        progress.note(Some(&data(b"ab")), false);
        assert!(progress.whole().is_none(), "there may be more");
        progress.note(Some(&data(b"c")), false);
        progress.note(None, true);
        assert_eq!(progress.whole().unwrap(), "abc");
        progress.forget();
        assert!(progress.whole().is_none());
        let one = Progress::new(true);
        one.note(Some(&data(b"ab")), true);
        assert_eq!(one.whole().unwrap(), "ab");
        let empty = Progress::new(true);
        empty.note(None, true);
        assert_eq!(empty.whole().unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_broken_or_has_trailers_goes_once() {
        static LONG: [u8; limits::REPLAY_BYTES_MAX + 1] = [0; limits::REPLAY_BYTES_MAX + 1];
        for last in [data(&LONG), Err(BodyError::TimedOut), Ok(Frame::trailers(http::HeaderMap::new()))] {
            let progress = Progress::new(true);
            progress.note(Some(&data(b"ab")), false);
            progress.note(Some(&last), true);
            assert_eq!(progress.is_broken(), last.is_err());
            progress.note(None, true);
            assert!(progress.whole().is_none(), "{last:?}");
        }
        let unwanted = Progress::new(false);
        unwanted.note(Some(&data(b"ab")), true);
        assert!(unwanted.whole().is_none());
    }
}
