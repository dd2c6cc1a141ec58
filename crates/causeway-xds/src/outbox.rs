//! What a proxy saw of single requests, waiting to be said over the presence stream: bounded, the oldest is lost first.
//!
//! In:    [`Observations`] from the roof.      Out: messages, each well below what the server takes.
//! Owner: `hold.rs`; the roof fills it, the stream's task empties it.
//! Invariant: never more than [`OUTBOX_BYTES_MAX`]; what is lost is counted, and the next message says so.
//! Not here: counts by pair of services, which are added up and never lost (`hold.rs`).

use std::collections::VecDeque;

use bytes::Bytes;
use causeway_model::{Observations, codec};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes that wait: some thousand failures, a few seconds of a tap.
pub(crate) const OUTBOX_BYTES_MAX: usize = 1024 * 1024;
/// Failures in one message: the longest has some 16 kB.
const FAILURES_PER_MESSAGE: usize = 16;
/// Spans, and as many live requests, in one message: the longest has some 2 kB.
const LINES_PER_MESSAGE: usize = 100;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Each with how many things it tells.
    messages: VecDeque<(Bytes, u64)>,
    bytes: usize,
    lost: u64,
}

impl Outbox {
    /// Queues what was seen.
    pub(crate) fn put(&self, seen: Observations) {
        let mut queue = self.queue.lock();
        queue.lost += seen.lost;
        for part in parts(seen) {
            let (count, bytes) = (part.len() as u64, Bytes::from(codec::encode(&part)));
            queue.bytes += bytes.len();
            queue.messages.push_back((bytes, count));
        }
        while queue.bytes > OUTBOX_BYTES_MAX {
            let Some((bytes, count)) = queue.messages.pop_front() else { break };
            queue.bytes -= bytes.len();
            queue.lost += count;
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// The next message.
    pub(crate) fn take(&self) -> Option<Bytes> {
        let mut queue = self.queue.lock();
        if queue.lost > 0 {
            let lost = std::mem::take(&mut queue.lost);
            return Some(codec::encode(&Observations { lost, ..Observations::default() }).into());
        }
        let (bytes, _) = queue.messages.pop_front()?;
        queue.bytes -= bytes.len();
        Some(bytes)
    }

    /// Resolves when something was put since the last call.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// The same in messages of bounded size.
fn parts(seen: Observations) -> Vec<Observations> {
    let mut parts = Vec::new();
    let Observations { mut failures, mut spans, mut tapped, .. } = seen;
    while !(failures.is_empty() && spans.is_empty() && tapped.is_empty()) {
        parts.push(Observations {
            failures: take(&mut failures, FAILURES_PER_MESSAGE),
            spans: take(&mut spans, LINES_PER_MESSAGE),
            tapped: take(&mut tapped, LINES_PER_MESSAGE),
            lost: 0,
        });
    }
    parts
}

fn take<T>(from: &mut Vec<T>, count: usize) -> Vec<T> {
    let rest = from.split_off(count.min(from.len()));
    std::mem::replace(from, rest)
}

#[cfg(test)]
mod tests {
    use causeway_model::{ServiceKey, Side, Tapped, Timestamp};

    use super::*;

    fn tapped(number: usize, words: usize) -> Tapped {
        Tapped {
            taps: vec![1],
            at: Timestamp::from_millis(number as u64),
            side: Side::Caller,
            seen_by: ServiceKey::parse("default", "shop").unwrap(),
            instance: String::new(),
            request_id: number.to_string(),
            trace_id: String::new(),
            caller: String::new(),
            service: None,
            endpoint: String::new(),
            method: "GET".into(),
            host: String::new(),
            path: "x".repeat(words),
            protocol: String::new(),
            status: 200,
            reason: String::new(),
            micros: 1,
            bytes: 1,
            attempts: 1,
            rule: String::new(),
        }
    }

    fn said(outbox: &Outbox) -> Vec<Observations> {
        std::iter::from_fn(|| outbox.take()).map(|bytes| codec::decode(&bytes).unwrap()).collect()
    }

    #[test]
    fn what_is_put_comes_out_in_messages_of_bounded_size() {
        let outbox = Outbox::default();
        outbox.put(Observations::default());
        assert!(outbox.take().is_none());
        outbox.put(Observations {
            tapped: (0..250).map(|n| tapped(n, 9)).collect(),
            ..Observations::default()
        });
        let said = said(&outbox);
        assert_eq!(said.iter().map(|part| part.tapped.len()).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(said[2].tapped[49].request_id, "249");
    }

    #[test]
    fn the_oldest_is_lost_first_and_counted() {
        let outbox = Outbox::default();
        for number in 0..3_000 {
            outbox.put(Observations { tapped: vec![tapped(number, 1_000)], ..Observations::default() });
        }
        assert!(outbox.queue.lock().bytes <= OUTBOX_BYTES_MAX);
        let said = said(&outbox);
        let told: usize = said.iter().map(|part| part.tapped.len()).sum();
        assert_eq!(said[0].lost as usize + told, 3_000);
        assert_eq!(said.last().unwrap().tapped[0].request_id, "2999");
    }
}
