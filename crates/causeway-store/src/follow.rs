//! Who waits for new records: one `watch` per followed stream, made when someone first follows it.
//!
//! In:    the lengths of streams after a commit.     Out: `watch::Receiver<Position>`, newest value only.
//! Owner: the engine publishes; anyone follows.
//! Invariant: a follower never misses a length: its channel is made under the lock that publishing takes, and its first
//!            value is read under it too. When the store is closed or failed every channel closes.
//! Not here: the records (read them with `Store::read`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::name::{Position, StreamName};

#[derive(Debug, Default)]
pub(crate) struct Followers {
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    channels: HashMap<StreamName, watch::Sender<Position>>,
}

impl Followers {
    /// `next` reads the stream's length; it is called under the lock.
    pub(crate) fn follow(
        &self,
        stream: &StreamName,
        next: impl FnOnce() -> Position,
    ) -> watch::Receiver<Position> {
        let mut state = self.state.lock();
        let next_now = next();
        if state.is_closed {
            return watch::channel(next_now).1;
        }
        if let Some(channel) = state.channels.get(stream) {
            return channel.subscribe();
        }
        if state.channels.len() >= 64 && state.channels.len().is_power_of_two() {
            state.channels.retain(|_, channel| channel.receiver_count() > 0);
        }
        let (sender, receiver) = watch::channel(next_now);
        state.channels.insert(stream.clone(), sender);
        self.count.store(state.channels.len(), Ordering::SeqCst);
        receiver
    }

    /// Tells the new lengths. Must be called after [`crate::Store::next`] shows them.
    pub(crate) fn publish<'a>(&self, lengths: impl Iterator<Item = (&'a StreamName, Position)>) {
        // A follower that registers after this look reads the new length itself.
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let state = self.state.lock();
        for (stream, next) in lengths {
            if let Some(channel) = state.channels.get(stream) {
                channel.send_if_modified(|known| {
                    let is_news = next > *known;
                    *known = next.max(*known);
                    is_news
                });
            }
        }
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.channels.clear();
        self.count.store(0, Ordering::SeqCst);
    }
}
