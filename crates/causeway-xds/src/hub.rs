//! Who is connected, and how far each has come: answers "does every proxy have revision N?" without sleeping.
//!
//! In:    progress of the streams' tasks.      Out: [`Hub::proxies`], [`Hub::acknowledged`], [`Hub::wait_acknowledged`].
//! Owner: `server.rs` makes one and its streams report to it; the api room asks.
//! Invariant: a proxy is counted from its stream's first moment (as having acknowledged nothing) to its last.
//! Not here: what acknowledgement means for one stream (`stream.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use causeway_model::{Revision, SpiffeId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::stream::{Machine, Rejection};

/// The connected proxies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    proxies: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    /// Counts progress of any stream, for those who wait.
    progress: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry {
    identity: SpiffeId,
    connected_at: SystemTime,
    cursor: AtomicU64,
    acknowledged: AtomicU64,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    node_id: String,
    rejected: Vec<Rejection>,
    rejections_version: u64,
}

/// A connected proxy, as it is shown.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its name for itself.
    pub node_id: String,
    /// Who it proved to be.
    pub identity: SpiffeId,
    /// Since when its stream is open.
    pub connected_at: SystemTime,
    /// Up to which revision it was told.
    pub cursor: Revision,
    /// Up to which revision it has everything that it uses.
    pub acknowledged: Revision,
    /// What it would not take; it goes on with what it had.
    pub rejected: Vec<Rejection>,
}

/// A proxy that has not acknowledged a revision.
#[derive(Clone, Debug)]
pub struct Lagging {
    /// The proxy.
    pub proxy: Proxy,
    /// It has come past the revision, but rejected this very change.
    pub rejected: Option<Rejection>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        let shared =
            Shared { proxies: Mutex::default(), next: AtomicU64::new(0), progress: watch::Sender::new(0) };
        Hub { shared: Arc::new(shared) }
    }

    /// The proxies that are connected now, oldest stream first.
    pub fn proxies(&self) -> Vec<Proxy> {
        let entries: Vec<Arc<Entry>> = self.shared.proxies.lock().values().cloned().collect();
        entries.iter().map(|entry| entry.show()).collect()
    }

    /// How many streams are open.
    pub fn count(&self) -> usize {
        self.shared.proxies.lock().len()
    }

    /// Whether every connected proxy has acknowledged `revision`; else those that have not.
    ///
    /// A proxy that rejected the change made at exactly `revision` has not. One that rejected an older change has: it has
    /// answered, and one bad object must not hold up every later change; [`Proxy::rejected`] goes on showing it.
    ///
    /// # Errors
    /// The proxies that lag.
    pub fn acknowledged(&self, revision: Revision) -> Result<(), Vec<Lagging>> {
        let entries: Vec<Arc<Entry>> = self.shared.proxies.lock().values().cloned().collect();
        let lagging: Vec<Lagging> = entries.iter().filter_map(|entry| entry.lags(revision)).collect();
        if lagging.is_empty() { Ok(()) } else { Err(lagging) }
    }

    /// Waits until every connected proxy has acknowledged `revision`, at most `within`.
    ///
    /// # Errors
    /// The proxies that lag when the time is over.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_acknowledged(&self, revision: Revision, within: Duration) -> Result<(), Vec<Lagging>> {
        let mut progress = self.shared.progress.subscribe();
        let all = async {
            while self.acknowledged(revision).is_err() {
                // The sender lives in `self`.
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(within, all).await;
        self.acknowledged(revision)
    }

    /// Counts a new stream; `None` when there are `bound` already.
    pub(crate) fn connect(&self, identity: SpiffeId, now: SystemTime, bound: usize) -> Option<Seat> {
        let entry = Arc::new(Entry {
            identity,
            connected_at: now,
            cursor: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            said: Mutex::default(),
        });
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut proxies = self.shared.proxies.lock();
        if proxies.len() >= bound {
            return None;
        }
        proxies.insert(id, entry.clone());
        Some(Seat { hub: self.clone(), id, entry })
    }

    fn notify(&self) {
        if self.shared.progress.receiver_count() > 0 {
            self.shared.progress.send_modify(|count| *count += 1);
        }
    }
}

impl Entry {
    fn show(&self) -> Proxy {
        let said = self.said.lock();
        Proxy {
            node_id: said.node_id.clone(),
            identity: self.identity.clone(),
            connected_at: self.connected_at,
            cursor: Revision::new(self.cursor.load(Ordering::Acquire)),
            acknowledged: Revision::new(self.acknowledged.load(Ordering::Acquire)),
            rejected: said.rejected.clone(),
        }
    }

    fn lags(&self, revision: Revision) -> Option<Lagging> {
        if self.acknowledged.load(Ordering::Acquire) < revision.get() {
            return Some(Lagging { proxy: self.show(), rejected: None });
        }
        let rejected = self.said.lock().rejected.iter().find(|r| r.revision == revision).cloned()?;
        Some(Lagging { proxy: self.show(), rejected: Some(rejected) })
    }
}

/// A stream's place in the hub; dropping it takes the proxy off the list.
#[derive(Debug)]
pub(crate) struct Seat {
    hub: Hub,
    id: u64,
    entry: Arc<Entry>,
}

impl Seat {
    /// Shows how far the stream has come.
    pub(crate) fn report(&self, machine: &Machine) {
        let mut said = self.entry.said.lock();
        let is_news = said.rejections_version != machine.rejections_version();
        if is_news {
            said.rejected = machine.rejected().cloned().collect();
            said.rejections_version = machine.rejections_version();
        }
        if said.node_id.is_empty() {
            machine.node_id().clone_into(&mut said.node_id);
        }
        drop(said);
        self.entry.cursor.store(machine.cursor().get(), Ordering::Release);
        let before = self.entry.acknowledged.swap(machine.acknowledged().get(), Ordering::AcqRel);
        if before != machine.acknowledged().get() || is_news {
            self.hub.notify();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.shared.proxies.lock().remove(&self.id);
        self.hub.notify();
    }
}
