//! Failures that a test can order: the handle beside a store, and the disk of the memory engine.
//!
//! In:    orders (`fail_append`, `full`, `crash` …) from a test.     Out: what an engine does at its next write or sync.
//! Owner: the test; a clone is the same handle. A store in production has one that never says anything.
//! Invariant: what was synced before a crash is there after it; what was not is gone, whole batches at a time.
//! Not here: what the engines do about a failure (`memory.rs`, `writer.rs`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::image::Image;

/// Orders failures, and holds what the memory engine has "on disk": opening a second [`crate::Store::memory`] on a clone
/// is a restart (the first store is closed by it), and finds what was durable.
#[derive(Clone, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
    pub(crate) image: Arc<Mutex<Image>>,
}

#[derive(Debug, Default)]
struct Plan {
    append_fails_in: Option<u64>,
    sync_fails_in: Option<u64>,
    is_full: bool,
    write_stops_after: Option<usize>,
    sync_takes: Duration,
}

/// What a write must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Go,
    /// Disk full after this many bytes.
    Full(usize),
}

impl Faults {
    /// No failures, an empty disk.
    pub fn none() -> Self {
        Faults::default()
    }

    /// The `nth` append from now (1 = the next) is refused as `Full`; those after it are not.
    /// (The disk engine counts commits: appends that waited together fail together.)
    pub fn fail_append(&self, nth: u64) {
        self.plan.lock().append_fails_in = Some(nth.max(1));
    }

    /// The `nth` sync from now (1 = the next) fails, which is fatal: the store refuses everything afterwards.
    pub fn fail_sync(&self, nth: u64) {
        self.plan.lock().sync_fails_in = Some(nth.max(1));
    }

    /// The disk has no space from now on, or has some again.
    pub fn full(&self, is_full: bool) {
        self.plan.lock().is_full = is_full;
    }

    /// The next write stops after `bytes` with "no space left"; the store must leave nothing of it behind.
    pub fn full_after(&self, bytes: usize) {
        self.plan.lock().write_stops_after = Some(bytes);
    }

    /// Each sync takes this long from now on (`tokio` time in the memory engine, so paused tests own it).
    pub fn slow_sync(&self, takes: Duration) {
        self.plan.lock().sync_takes = takes;
    }

    /// Takes every order back that has not been carried out.
    pub fn clear(&self) {
        *self.plan.lock() = Plan::default();
    }

    /// The power goes: the memory engine's store is dead (`Closed`), and what was not synced is lost.
    pub fn crash(&self) {
        self.crash_torn(0);
    }

    /// As [`Faults::crash`], but the first `bytes` of what was not synced did reach the disk. Batches that lie wholly in
    /// them are there after the restart, a batch cut in two is not. Returns how many records survived that way.
    pub fn crash_torn(&self, bytes: usize) -> u64 {
        self.image.lock().crash(bytes)
    }

    // --- what an engine asks ---

    pub(crate) fn on_write(&self) -> Write {
        let mut plan = self.plan.lock();
        let is_due = count_down(&mut plan.append_fails_in);
        match plan.write_stops_after.take() {
            Some(bytes) => Write::Full(bytes),
            None if is_due || plan.is_full => Write::Full(0),
            None => Write::Go,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.plan.lock().is_full
    }

    /// Whether this sync must fail, and how long it takes.
    pub(crate) fn on_sync(&self) -> (bool, Duration) {
        let mut plan = self.plan.lock();
        (count_down(&mut plan.sync_fails_in), plan.sync_takes)
    }
}

fn count_down(counter: &mut Option<u64>) -> bool {
    match counter {
        None => false,
        Some(1) => {
            *counter = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.lock().fmt(f)
    }
}
