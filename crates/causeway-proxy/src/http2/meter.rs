//! Measures what a client asks of us beside requests: frames that cost us work and it nothing.
//!
//! In:    the bytes that it sends.      Out: whether they are still within its allowance.
//! Owner: the wire of one connection that came in.
//! Invariant: requests, answers' frames and time earn an allowance; PING, SETTINGS, PRIORITY, RST_STREAM, WINDOW_UPDATE, CONTINUATION,
//! empty DATA and unknown frames spend it.
//! Not here: bounds that `h2` has itself: CONTINUATION frames of a head, the head's size, streams reset for its errors, small DATA
//! frames that wait; requests that are reset at once (`server`).

use tokio::time::Instant;

use crate::http2::pulse::Pulse;
use crate::limits::{CONTROL_FRAMES_BURST, CONTROL_FRAMES_PER_SECOND};

/// The client's preface (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
/// A frame's head: length, type, flags, stream.
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const END_STREAM: u8 = 0x1;
/// A request comes with a priority and windows of its own, perhaps with a ping.
const EARNED_BY_HEADERS: i64 = 4;
/// A frame that we send is answered with a window update for its stream and one for the connection.
const EARNED_BY_SENT: i64 = 2;

/// One client's allowance.
#[derive(Debug)]
pub(crate) struct Meter {
    left: i64,
    counted_at: Instant,
    /// Bytes that are no frame's head: the preface, then payloads.
    skip: usize,
    head: [u8; HEAD_BYTES],
    length: usize,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Meter {
            left: CONTROL_FRAMES_BURST,
            counted_at: now,
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            length: 0,
        }
    }

    /// Takes further bytes in; whether the client is still within its allowance.
    pub(crate) fn admits(&mut self, mut bytes: &[u8], pulse: &Pulse) -> bool {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (HEAD_BYTES - self.length).min(bytes.len());
            self.head[self.length..self.length + wanted].copy_from_slice(&bytes[..wanted]);
            self.length += wanted;
            bytes = &bytes[wanted..];
            if self.length < HEAD_BYTES {
                break;
            }
            self.length = 0;
            self.take_frame();
        }
        self.left >= 0 || self.refill(pulse)
    }

    fn take_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let earned = match kind {
            DATA if self.skip > 0 => 1,
            DATA if flags & END_STREAM != 0 => 0,
            HEADERS => EARNED_BY_HEADERS,
            _ => -1,
        };
        self.left = (self.left + earned).min(CONTROL_FRAMES_BURST);
    }

    /// Adds what was earned otherwise: asked for only when the allowance is spent.
    fn refill(&mut self, pulse: &Pulse) -> bool {
        let now = Instant::now();
        let by_time = now.saturating_duration_since(self.counted_at).as_secs_f64();
        let earned =
            (by_time * CONTROL_FRAMES_PER_SECOND) as i64 + i64::from(pulse.take_sent()) * EARNED_BY_SENT;
        self.counted_at = now;
        self.left = (self.left + earned).min(CONTROL_FRAMES_BURST);
        self.left >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD_BYTES + payload, 0);
        bytes
    }

    /// How many of `frames`, repeated, pass, when `sent` frames went the other way for each.
    fn passed(frames: &[Vec<u8>], sent: u32, split: usize) -> usize {
        let pulse = Pulse::default();
        let mut meter = Meter::new(Instant::now());
        assert!(meter.admits(&[0; PREFACE_BYTES], &pulse));
        for count in 0..20_000 {
            let bytes = frames.concat();
            (0..sent).for_each(|_| pulse.note_sent());
            if !bytes.chunks(split).all(|part| meter.admits(part, &pulse)) {
                return count;
            }
        }
        usize::MAX
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_only_cost_work_are_counted() {
        let burst = CONTROL_FRAMES_BURST as usize;
        for (kind, flags, payload) in [
            (6, 0, 8),
            (4, 0, 0),
            (4, 1, 0),
            (2, 0, 5),
            (3, 0, 4),
            (8, 0, 4),
            (9, 0, 0),
            (0, 0, 0),
            (99, 0, 7),
        ] {
            for split in [1, 7, usize::MAX >> 1] {
                assert_eq!(passed(&[frame(kind, flags, payload)], 0, split), burst, "kind {kind}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_bodies_and_what_answers_ours_pass() {
        let request = || frame(HEADERS, 0x5, 40);
        assert_eq!(passed(&[request()], 0, 13), usize::MAX);
        assert_eq!(passed(&[request(), frame(8, 0, 4), frame(8, 0, 4), frame(6, 0, 8)], 0, 100), usize::MAX);
        assert_eq!(passed(&[frame(DATA, 0, 1000), frame(6, 0, 8)], 0, 100), usize::MAX);
        assert_eq!(passed(&[frame(DATA, END_STREAM, 0)], 0, 100), usize::MAX);
        let updates = [frame(8, 0, 4), frame(8, 0, 4)];
        assert_eq!(passed(&updates, 1, 100), usize::MAX, "windows of what we send are opened");
        assert_ne!(passed(&updates, 0, 100), usize::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn time_earns_an_allowance() {
        let pulse = Pulse::default();
        let mut meter = Meter::new(Instant::now());
        meter.admits(&[0; PREFACE_BYTES], &pulse);
        let ping = frame(6, 0, 8);
        for _ in 0..100_000 {
            assert!(meter.admits(&ping, &pulse), "a peer that asks 100 times a second is welcome");
            tokio::time::advance(std::time::Duration::from_millis(10)).await;
        }
    }
}
