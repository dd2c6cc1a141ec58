//! Gathers what a scrape shows: every worker's counts, and how things stand now.

use std::sync::Arc;

use causeway_model::Timestamp;
use tokio::time::Instant;

use crate::ledger::Counted;
use crate::metrics::{Gauge, Scrape};
use crate::series::{Sums, Whose};
use crate::worker::{Shared, Worker};

/// What is shown now.
pub(crate) fn scrape(
    shared: &Shared,
    workers: &[Arc<Worker>],
    is_gateway: bool,
    connections: usize,
) -> Scrape {
    let mut scrape = Scrape {
        source: shared.source.clone(),
        is_gateway,
        out: Sums::default(),
        inbound: Sums::default(),
        refused: Default::default(),
        decisions: Default::default(),
        records_dropped: 0,
        spans: None,
        gauges: gauges(shared, workers, connections),
    };
    for worker in workers {
        worker.ledger.scrape(|counted| match counted {
            Counted::Service(service, counts) => scrape.out.add(&Whose::Service(service.clone()), counts),
            Counted::Nobody(counts) => scrape.out.add(&Whose::Nobody, counts),
            Counted::Inbound(counts) => {
                scrape.inbound.add(&Whose::Service(shared.source.clone()), counts);
            }
            Counted::Refused(policy, count) => *scrape.refused.entry(policy.clone()).or_default() += count,
            Counted::Decided(decisions) => scrape.decisions.merge(decisions),
            Counted::RecordsDropped(count) => scrape.records_dropped += count,
        });
    }
    scrape
}

fn gauges(shared: &Shared, workers: &[Arc<Worker>], connections: usize) -> Vec<Gauge> {
    let plan = shared.plan.load();
    let now = shared.micros(Instant::now());
    let (mut active, mut ejected, mut endpoints) = (0_u64, 0_u64, 0_u64);
    for group in plan.services.values().flat_map(|service| &service.ports).map(|port| &port.group) {
        for endpoint in &group.endpoints {
            endpoints += 1;
            active += u64::from(endpoint.vitals.load());
            ejected += u64::from(endpoint.vitals.is_ejected(now));
        }
    }
    let idle: usize = workers.iter().map(|worker| worker.pool.idle()).sum();
    let channels: usize = workers.iter().map(|worker| worker.pool.channels()).sum();
    let gauge = |name, help, labels, value| Gauge { name, help, labels, value };
    let (upstream, open) = (
        "causeway_proxy_upstream_connections",
        "Connections to endpoints: those of HTTP/1.1 that rest, all of HTTP/2.",
    );
    let mut gauges = vec![
        gauge(
            "causeway_proxy_connections",
            "Connections that came in and are open, tunnels among them.",
            "",
            connections as f64,
        ),
        gauge("http_client_active_requests", "Requests under way to endpoints.", "", active as f64),
        gauge(upstream, open, "{state=\"idle\",protocol=\"http/1.1\"}", idle as f64),
        gauge(upstream, open, "{state=\"open\",protocol=\"http/2\"}", channels as f64),
        gauge("causeway_proxy_endpoints", "Endpoints in the plan.", "", endpoints as f64),
        gauge(
            "causeway_proxy_endpoints_ejected",
            "Endpoints that are left alone because they kept failing.",
            "",
            ejected as f64,
        ),
        gauge(
            "causeway_proxy_plan_revision",
            "Revision of the picture that the proxy's plan was made from.",
            "",
            plan.revision.get() as f64,
        ),
    ];
    if let Some(tls) = &shared.tls {
        let left = tls.not_after().since(Timestamp::from(shared.clock.now()));
        gauges.push(gauge(
            "causeway_proxy_certificate_expiry_seconds",
            "Until the proxy's own certificate ends; 0 when it has ended.",
            "",
            left.as_secs_f64(),
        ));
    }
    gauges
}
