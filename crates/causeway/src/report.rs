//! What a proxy saw, on its way to the node: calls between services, requests that failed, spans, live requests.
//!
//! In:    a proxy; which live requests somebody wants to see.      Out: reports, to the node over the presence stream or in this process.
//! Owner: `sidecar` and `house` start one task for each proxy.
//! Invariant: once a second, and ten times a second only while somebody looks; the proxy hears what is wanted at once.
//! Not here: what is seen (`causeway-proxy`), the stream (`causeway-xds`), who looks (`causeway-api`).

use std::sync::Arc;
use std::time::Duration;

use causeway_api::Observed;
use causeway_base::scope::Failure;
use causeway_base::{OnFailure, Scope};
use causeway_model::{Observations, Taps, TrafficReport};
use causeway_proxy::Proxy;
use causeway_xds::Hold;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How often what was seen is handed on.
const EVERY: Duration = Duration::from_secs(1);
/// How often live requests are, while somebody looks.
const LIVE_EVERY: Duration = Duration::from_millis(100);

/// Where reports go.
pub(crate) enum Reader {
    /// The node, over the presence stream.
    Node(Hold),
    /// This process is the node; the proxy is known by this name.
    Here(Observed, String),
}

impl Reader {
    fn taps(&self) -> watch::Receiver<Arc<Taps>> {
        match self {
            Reader::Node(hold) => hold.taps(),
            Reader::Here(observed, _) => observed.live.wanted(),
        }
    }

    fn traffic(&self, report: TrafficReport) {
        match self {
            _ if report.edges.is_empty() => {}
            Reader::Node(hold) => hold.traffic(&report),
            Reader::Here(observed, _) => observed.traffic(report),
        }
    }

    fn seen(&self, seen: Observations) {
        match self {
            _ if seen.is_empty() => {}
            Reader::Node(hold) => hold.observe(seen),
            Reader::Here(observed, name) => observed.seen(name, seen),
        }
    }
}

/// Hands on what the proxy sees until the scope ends.
pub(crate) fn start(proxy: &Proxy, reader: Reader, scope: &Scope) {
    let (proxy, stop) = (proxy.clone(), scope.cancelled());
    scope.spawn("report", OnFailure::Log, async move {
        tokio::pin!(stop);
        let mut taps = reader.taps();
        taps.mark_changed();
        let mut is_watched = false;
        let (mut tick, mut live) = (tokio::time::interval(EVERY), tokio::time::interval(LIVE_EVERY));
        live.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Ok(()) = taps.changed() => {
                    let wanted = taps.borrow_and_update().clone();
                    is_watched = !wanted.taps.is_empty();
                    proxy.tap(&wanted);
                }
                _ = tick.tick() => {
                    reader.traffic(proxy.traffic());
                    reader.seen(proxy.observations());
                }
                _ = live.tick(), if is_watched => reader.seen(proxy.observations()),
            }
        }
        // What was seen last, as far as it can still be said.
        reader.traffic(proxy.traffic());
        reader.seen(proxy.observations());
        Ok::<(), Failure>(())
    });
}
