//! One place to send requests to, and how it fares.
//!
//! In:    observations of every worker.      Out: cost and ejection, read by `balance`.
//! Owner: the plan; a new plan keeps the [`Vitals`] of an endpoint that it still names.
//! Invariant: vitals are atomics and are never locked; a lost update of an average costs nothing.
//! Not here: choosing (`balance`), when to eject (`outlier`), connections (`pool`).

use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use causeway_model::SpiffeId;

/// Microseconds since the proxy started.
pub(crate) type Micros = u64;

/// An average halves its weight on the choice in this time without new observations.
const HALF_LIFE: Micros = 5_000_000;
/// Without any observation it halves this fast: an endpoint that failed and is left alone must be asked again soon.
const IDLE_HALF_LIFE: Micros = 1_500_000;
/// Differences below a millisecond are noise: without a floor the fastest by a hair would take all calls.
const COST_FLOOR: f64 = 1_000.0;
/// Endpoints of foreign hosts are numbered from here, those of plans from 1.
pub(crate) const FOREIGN_IDS: u64 = 1 << 63;
/// What a failed attempt counts as, so that the endpoint is chosen last until it has been quiet for a while.
pub(crate) const FAILURE_COST: Micros = 2_000_000;
/// A new endpoint's share grows to its whole within this time (cold caches, just-in-time compilers).
const SLOW_START: Micros = 10_000_000;

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Key of its connections: the same number means the same address and the same expectations.
    pub id: u64,
    /// For records: instance id or address.
    pub name: String,
    /// Host and port.
    pub host: String,
    pub port: u16,
    /// The address, when the host is one.
    pub address: Option<SocketAddr>,
    pub transport: Transport,
    /// Relative share; at least 1.
    pub weight: u32,
    pub vitals: Arc<Vitals>,
}

/// How an endpoint is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Plaintext HTTP/1.1.
    Http1,
    /// Plaintext HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 on mutual TLS with a sidecar that proves to be this service.
    Mesh(SpiffeId),
    /// Bytes in plaintext.
    Tcp,
    /// Bytes on mutual TLS with such a sidecar, for its app's main port or for this further one.
    MeshTcp(SpiffeId, Option<u16>),
}

impl Transport {
    /// In one word.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Transport::Http1 => "http/1.1",
            Transport::Http2 => "h2c",
            Transport::Mesh(_) => "mesh",
            Transport::Tcp => "tcp",
            Transport::MeshTcp(..) => "mesh tcp",
        }
    }
}

/// How an endpoint fares.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    pub load: AtomicU32,
    average: AtomicU64,
    observed_at: AtomicU64,
    pub failures: AtomicU32,
    pub ejections: AtomicU32,
    pub ejected_until: AtomicU64,
    pub born: AtomicU64,
}

impl Endpoint {
    pub(crate) fn is_mesh(&self) -> bool {
        matches!(self.transport, Transport::Mesh(_))
    }

    /// Whether the app named it, and not a document of the mesh.
    pub(crate) fn is_foreign(&self) -> bool {
        self.id >= FOREIGN_IDS
    }
}

impl Vitals {
    pub(crate) fn born_at(now: Micros) -> Self {
        Vitals { born: AtomicU64::new(now), ..Vitals::default() }
    }

    pub(crate) fn is_ejected(&self, now: Micros) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    /// Takes a latency in: a higher one at once (the peak), a lower one by and by.
    pub(crate) fn observe(&self, now: Micros, latency: Micros) {
        let since = now.saturating_sub(self.observed_at.swap(now, Relaxed));
        let before = self.average.load(Relaxed);
        let after = match latency >= before {
            true => latency,
            false => {
                let keep = (-(since as f64) / HALF_LIFE as f64).exp2();
                (before as f64 * keep + latency as f64 * (1.0 - keep)) as u64
            }
        };
        self.average.store(after, Relaxed);
    }

    /// What one more request would cost here: expected latency times the queue it joins. `share` is the endpoint's weight
    /// relative to the mean of its group.
    pub(crate) fn cost(&self, now: Micros, share: f64) -> f64 {
        let halvings = now.saturating_sub(self.observed_at.load(Relaxed)) / IDLE_HALF_LIFE;
        let average = self.average.load(Relaxed).checked_shr(halvings.min(63) as u32).unwrap_or(0);
        (average as f64).max(COST_FLOOR) * (f64::from(self.load.load(Relaxed)) / share + 1.0)
    }

    /// How much of its weight a young endpoint takes, 0.1 to 1.
    pub(crate) fn warmth(&self, now: Micros) -> f64 {
        let age = now.saturating_sub(self.born.load(Relaxed));
        (age as f64 / SLOW_START as f64).clamp(0.1, 1.0)
    }
}

/// One request under way at an endpoint; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Vitals>);

impl InFlight {
    pub(crate) fn new(vitals: &Arc<Vitals>) -> Self {
        vitals.load.fetch_add(1, Relaxed);
        InFlight(vitals.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Relaxed);
    }
}

/// Endpoints' numbers are ours and count up: they are their own hash.
pub(crate) type ById = BuildHasherDefault<OwnNumber>;

/// Of a map by endpoint.
#[derive(Default)]
pub(crate) struct OwnNumber(u64);

impl Hasher for OwnNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        // The map takes its tag from the highest bits, so the low ones are spread there.
        self.0 = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
impl Endpoint {
    pub(crate) fn for_test(id: u64, weight: u32) -> Arc<Self> {
        Arc::new(Endpoint {
            id,
            name: format!("e{id}"),
            host: "10.0.0.1".into(),
            port: 80,
            address: None,
            transport: Transport::Http1,
            weight,
            // Old enough to be warm.
            vitals: Arc::new(Vitals::default()),
        })
    }
}
