//! Buffers and pipes of a worker that nobody uses at the moment: a connection takes one when bytes come and gives it back.
//!
//! In:    what a connection no longer needs.      Out: the same to whoever has bytes to move, or a new one.
//! Owner: one worker; its locks are held for a push or a pop and never waited for.
//! Invariant: an idle connection holds nothing of this; what is kept is bounded, and let go after a quiet while.
//! Not here: moving bytes (`leg`, `splice`).

use parking_lot::Mutex;

use crate::limits::{SPARE_LARGE_MAX, SPARE_PIPES_MAX, SPARE_SMALL_MAX};

/// What a connection begins with: most carry a few messages at a time.
const SMALL_BYTES: usize = 16 * 1024;
/// What a connection has that fills the small ones: each system call then moves as much as 16 of them.
const LARGE_BYTES: usize = 256 * 1024;

/// How much a direction of a connection moves at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Size {
    #[default]
    Small,
    Large,
}

/// A buffer; its bytes mean nothing when it is taken.
pub(crate) type Buffer = Box<[u8]>;

/// What lies about.
#[derive(Default)]
pub(crate) struct Spare {
    small: Mutex<Vec<Buffer>>,
    large: Mutex<Vec<Buffer>>,
    #[cfg(target_os = "linux")]
    pipes: Mutex<Vec<crate::pipe::Pipe>>,
}

impl Size {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Size::Small => SMALL_BYTES,
            Size::Large => LARGE_BYTES,
        }
    }

    /// The size for the next buffer, after one that `filled` bytes came into.
    pub(crate) fn after(self, filled: usize) -> Size {
        match self {
            Size::Small if filled >= SMALL_BYTES => Size::Large,
            Size::Large if filled < SMALL_BYTES => Size::Small,
            same => same,
        }
    }
}

impl Spare {
    pub(crate) fn take(&self, size: Size) -> Buffer {
        let spare = match size {
            Size::Small => self.small.lock().pop(),
            Size::Large => self.large.lock().pop(),
        };
        spare.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice())
    }

    pub(crate) fn give(&self, buffer: Buffer) {
        let (spare, most) = match buffer.len() {
            SMALL_BYTES => (&self.small, SPARE_SMALL_MAX),
            _ => (&self.large, SPARE_LARGE_MAX),
        };
        let mut spare = spare.lock();
        if spare.len() < most {
            spare.push(buffer);
        }
    }

    /// An empty pipe.
    ///
    /// # Errors
    /// When none can be made: no file descriptors are left.
    #[cfg(target_os = "linux")]
    pub(crate) fn take_pipe(&self) -> std::io::Result<crate::pipe::Pipe> {
        match self.pipes.lock().pop() {
            Some(pipe) => Ok(pipe),
            None => crate::pipe::Pipe::new(),
        }
    }

    /// Takes a pipe back; it must be empty.
    #[cfg(target_os = "linux")]
    pub(crate) fn give_pipe(&self, pipe: crate::pipe::Pipe) {
        let mut pipes = self.pipes.lock();
        if pipes.len() < SPARE_PIPES_MAX {
            pipes.push(pipe);
        }
    }

    /// Lets go of what lies about; called now and then.
    pub(crate) fn tidy(&self) {
        self.small.lock().clear();
        self.large.lock().clear();
        #[cfg(target_os = "linux")]
        self.pipes.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_direction_gets_large_buffers_and_a_quiet_one_small_ones() {
        let size = Size::default();
        assert_eq!(size.after(100), Size::Small);
        assert_eq!(size.after(SMALL_BYTES), Size::Large);
        assert_eq!(Size::Large.after(LARGE_BYTES), Size::Large);
        assert_eq!(Size::Large.after(100), Size::Small);
    }

    #[test]
    fn what_is_kept_is_bounded_and_let_go() {
        let spare = Spare::default();
        let all: Vec<Buffer> = (0..SPARE_LARGE_MAX + 3).map(|_| spare.take(Size::Large)).collect();
        all.into_iter().for_each(|buffer| spare.give(buffer));
        assert_eq!(spare.large.lock().len(), SPARE_LARGE_MAX);
        assert_eq!(spare.take(Size::Large).len(), LARGE_BYTES);
        spare.tidy();
        assert!(spare.large.lock().is_empty());
    }
}
