//! The dedupe window of a topic: which (source, id) were taken lately, and where they lie.
//!
//! In:    events as they become durable, in order; on opening, the log's own records.     Out: the offset of an earlier one.
//! Owner: the topic's task.
//! Invariant: it holds nothing that is not in the log, so that a restart rebuilds it exactly; at most [`IDENTITIES_MAX`] entries.
//! Not here: the last word. A hit is compared with the log's record by `topic.rs`, so that equal hashes cannot eat an event.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use causeway_model::{Offset, Timestamp};

/// The window when a topic's document names none: a publisher's retries come within minutes, a replayed outbox within a day.
pub const DEDUPE: Duration = Duration::from_secs(24 * 3600);
/// Most identities that a topic remembers (about 64 bytes each). Above it the oldest are forgotten early, and counted.
pub const IDENTITIES_MAX: usize = 1 << 20;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Window {
    length: Duration,
    /// Two hashers with random keys make 128 bits that nobody outside can aim at.
    hashers: (RandomState, RandomState),
    offsets: HashMap<u128, Offset>,
    oldest_first: VecDeque<(Timestamp, u128, Offset)>,
    capacity: usize,
}

impl Window {
    pub(crate) fn new(length: Option<Duration>) -> Self {
        Window::with_capacity(length, IDENTITIES_MAX)
    }

    fn with_capacity(length: Option<Duration>, capacity: usize) -> Self {
        Window {
            length: length.unwrap_or(DEDUPE),
            hashers: (RandomState::new(), RandomState::new()),
            offsets: HashMap::new(),
            oldest_first: VecDeque::new(),
            capacity,
        }
    }

    /// Whether anything is to be remembered at all.
    pub(crate) fn is_on(&self) -> bool {
        !self.length.is_zero()
    }

    /// The time before which an event is forgotten.
    pub(crate) fn begin(&self, now: Timestamp) -> Timestamp {
        let length = u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(now.as_millis().saturating_sub(length))
    }

    pub(crate) fn hash(&self, source: &str, id: &str) -> u128 {
        let identity = (source, id);
        u128::from(self.hashers.0.hash_one(identity)) << 64 | u128::from(self.hashers.1.hash_one(identity))
    }

    /// Where an event of this hash lies, when it is within the window at `now`.
    pub(crate) fn find(&mut self, now: Timestamp, hash: u128) -> Option<Offset> {
        self.forget(now);
        self.offsets.get(&hash).copied()
    }

    /// Remembers an event. Returns how many were forgotten early to make room.
    pub(crate) fn remember(&mut self, published: Timestamp, hash: u128, offset: Offset) -> u64 {
        if !self.is_on() {
            return 0;
        }
        let mut evicted = 0;
        while self.oldest_first.len() >= self.capacity {
            self.drop_oldest();
            evicted += 1;
        }
        self.offsets.insert(hash, offset);
        self.oldest_first.push_back((published, hash, offset));
        evicted
    }

    fn forget(&mut self, now: Timestamp) {
        let begin = self.begin(now);
        while self.oldest_first.front().is_some_and(|(published, ..)| *published < begin) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, hash, offset)) = self.oldest_first.pop_front()
            && self.offsets.get(&hash) == Some(&offset)
        {
            self.offsets.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_forgotten_with_time_and_by_number() {
        let at = Timestamp::from_millis;
        let mut window = Window::with_capacity(Some(Duration::from_millis(100)), 3);
        let hash: Vec<u128> = (0..5).map(|n| window.hash("/s", &n.to_string())).collect();
        assert_eq!(window.remember(at(1000), hash[0], Offset::new(0)), 0);
        assert_eq!(window.remember(at(1050), hash[1], Offset::new(1)), 0);
        assert_eq!(window.find(at(1100), hash[0]), Some(Offset::new(0)));
        assert_eq!(window.find(at(1101), hash[0]), None);
        assert_eq!(window.find(at(1101), hash[1]), Some(Offset::new(1)));
        // The same again after it was forgotten: the newer place counts, and dropping the older one does not drop it.
        window.remember(at(1101), hash[0], Offset::new(2));
        window.remember(at(1102), hash[2], Offset::new(3));
        assert_eq!(window.remember(at(1103), hash[3], Offset::new(4)), 1, "full: the oldest goes");
        assert_eq!(window.find(at(1103), hash[1]), None);
        assert_eq!(window.find(at(1103), hash[0]), Some(Offset::new(2)));
        assert_ne!(window.hash("a", "bc"), window.hash("ab", "c"));
    }
}
