//! Live requests: who wants to see which, and the way of those that were seen to those who wanted them.
//!
//! In:    wishes of the API's readers; requests that proxies show.      Out: the list of wishes for proxies; each reader's queue.
//! Owner: [`Observed`](super::Observed).
//! Invariant: a wish ends with its reader, whatever way that goes; a slow reader loses requests (counted) and slows nobody.
//! Not here: comparing requests with wishes (`causeway-proxy`: each proxy does).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use causeway_model::tap::TAPS_MAX;
use causeway_model::{Tap, Tapped, Taps};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// Requests that wait for a reader.
pub const QUEUE_MAX: usize = 1_024;

/// See the [module](self). Cheap to clone.
#[derive(Clone, Default)]
pub struct Live {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    readers: Mutex<Readers>,
    wanted: watch::Sender<Arc<Taps>>,
}

#[derive(Default)]
struct Readers {
    next: u64,
    open: BTreeMap<u64, Reader>,
}

struct Reader {
    tap: Tap,
    queue: mpsc::Sender<Arc<Tapped>>,
    lost: Arc<AtomicU64>,
}

/// Why a wish is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// Every proxy compares each request with each wish.
    #[error("{TAPS_MAX} taps are open, which is the most: close one")]
    TooMany,
}

/// A reader's end: requests as they are shown. Dropping it ends the wish.
pub struct Watching {
    live: Live,
    id: u64,
    queue: mpsc::Receiver<Arc<Tapped>>,
    lost: Arc<AtomicU64>,
}

/// What a reader is shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// A request.
    Request(Arc<Tapped>),
    /// So many were lost before the next one, because the reader or a proxy was too slow.
    Lost(u64),
}

impl Live {
    /// Takes a wish; its number is set here.
    ///
    /// # Errors
    /// When there are too many.
    pub fn watch(&self, tap: Tap) -> Result<Watching, TapError> {
        let mut readers = self.inner.readers.lock();
        if readers.open.len() >= TAPS_MAX {
            return Err(TapError::TooMany);
        }
        readers.next += 1;
        let id = readers.next;
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        readers.open.insert(id, Reader { tap: Tap { id, ..tap }, queue: sender, lost: lost.clone() });
        self.publish(&readers);
        Ok(Watching { live: self.clone(), id, queue, lost })
    }

    /// The wishes, for proxies.
    pub fn wanted(&self) -> watch::Receiver<Arc<Taps>> {
        self.inner.wanted.subscribe()
    }

    /// Shows requests to those who want them.
    pub(super) fn show(&self, tapped: Vec<Tapped>, lost: u64) {
        let readers = self.inner.readers.lock();
        if lost > 0 {
            // Whose they were nobody knows.
            for reader in readers.open.values() {
                reader.lost.fetch_add(lost, Relaxed);
            }
        }
        for tapped in tapped.into_iter().map(Arc::new) {
            for reader in tapped.taps.iter().filter_map(|id| readers.open.get(id)) {
                if reader.queue.try_send(tapped.clone()).is_err() {
                    reader.lost.fetch_add(1, Relaxed);
                }
            }
        }
    }

    fn publish(&self, readers: &Readers) {
        let taps = readers.open.values().map(|reader| reader.tap.clone()).collect();
        self.inner.wanted.send_replace(Arc::new(Taps { taps }));
    }
}

impl Watching {
    /// The next thing to show.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Option<Shown> {
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            return Some(Shown::Lost(lost));
        }
        self.queue.recv().await.map(Shown::Request)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut readers = self.live.inner.readers.lock();
        readers.open.remove(&self.id);
        self.live.publish(&readers);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use causeway_model::{ServiceKey, Side, Timestamp};

    use super::*;

    pub(crate) fn tapped(taps: &[u64], request_id: &str) -> Tapped {
        Tapped {
            taps: taps.to_vec(),
            at: Timestamp::from_millis(1),
            side: Side::Caller,
            seen_by: ServiceKey::parse("default", "shop").unwrap(),
            instance: "shop-1".into(),
            request_id: request_id.into(),
            trace_id: String::new(),
            caller: "127.0.0.1".into(),
            service: Some(ServiceKey::parse("default", "cart").unwrap()),
            endpoint: "cart-1".into(),
            method: "GET".into(),
            host: "cart.mesh".into(),
            path: "/items".into(),
            protocol: "HTTP/1.1".into(),
            status: 200,
            reason: String::new(),
            micros: 1_500,
            bytes: 10,
            attempts: 1,
            rule: String::new(),
        }
    }

    #[tokio::test]
    async fn each_reader_sees_its_own_and_a_wish_ends_with_its_reader() {
        let live = Live::default();
        let wanted = live.wanted();
        let (mut first, second) = (live.watch(Tap::default()).unwrap(), live.watch(Tap::default()).unwrap());
        assert_eq!(wanted.borrow().taps.iter().map(|tap| tap.id).collect::<Vec<_>>(), [1, 2]);
        drop(second);
        live.show(vec![tapped(&[2], "a"), tapped(&[1, 2, 9], "b")], 0);
        let Some(Shown::Request(shown)) = first.next().await else { panic!("nothing is shown") };
        assert_eq!(shown.request_id, "b");
        drop(first);
        assert!(wanted.borrow().taps.is_empty());
        let all: Vec<_> = (0..TAPS_MAX).map(|_| live.watch(Tap::default()).unwrap()).collect();
        assert_eq!(live.watch(Tap::default()).err(), Some(TapError::TooMany));
        drop(all);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_many_it_missed() {
        let live = Live::default();
        let mut reader = live.watch(Tap::default()).unwrap();
        live.show((0..QUEUE_MAX + 5).map(|n| tapped(&[1], &n.to_string())).collect(), 2);
        assert_eq!(reader.next().await, Some(Shown::Lost(7)));
        assert!(matches!(reader.next().await, Some(Shown::Request(first)) if first.request_id == "0"));
    }
}
