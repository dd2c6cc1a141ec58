//! What all workers counted, printed for Prometheus (OpenMetrics 1.0) under OpenTelemetry's names.
//!
//! In:    every worker's ledger, the proxy's gauges.      Out: text, at most `SERIES_MAX` series whatever the traffic.
//! Owner: the admin door and the handle, on demand: nothing runs between scrapes.
//! Not here: counting (`ledger`), which services are shown (`series`).

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use causeway_model::ServiceKey;

use crate::counts::{BUCKETS, CLASSES, Durations};
use crate::decisions::{DECISIONS, Decisions};
use crate::limits::POLICIES_SHOWN_MAX;
use crate::series::{Series, Sums, Whose};
use crate::tally::Tally;

/// A proxy's counts and gauges at one moment.
pub(crate) struct Scrape {
    /// Whose proxy it is.
    pub source: ServiceKey,
    /// Whether requests come in from outside the proxy's own app: a gateway.
    pub is_gateway: bool,
    /// Calls that went out.
    pub out: Sums,
    /// Calls that came in for the sidecar's own app.
    pub inbound: Sums,
    /// Requests refused, by the document that refused them.
    pub refused: BTreeMap<Arc<str>, u64>,
    /// What access policies decided of calls for the sidecar's own app.
    pub decisions: Decisions,
    pub records_dropped: u64,
    /// Spans that a collector has, and those that it could not be sent.
    pub spans: Option<(u64, u64)>,
    pub gauges: Vec<Gauge>,
}

/// Something that is so now.
pub(crate) struct Gauge {
    /// The metric's name.
    pub name: &'static str,
    pub help: &'static str,
    /// `{…}`, or nothing.
    pub labels: &'static str,
    pub value: f64,
}

/// The text of a scrape.
pub(crate) fn exposition(mut scrape: Scrape, series: &mut Series) -> String {
    scrape.out = series.fit(scrape.out);
    let mut text = String::with_capacity(16 * 1024);
    // Writing into a String cannot fail.
    let _ = write_all(&mut text, &scrape);
    text
}

fn write_all(text: &mut String, scrape: &Scrape) -> fmt::Result {
    let own = labels("", &Whose::Service(scrape.source.clone()));
    head(
        text,
        "http_server_request_duration_seconds",
        "histogram",
        "Requests that came in, from their head to the end of their answer. The sum of all that a gateway passed on.",
    )?;
    for (class, durations) in server(scrape) {
        histogram(text, "http_server_request_duration_seconds", &own, class, &durations)?;
    }
    head(
        text,
        "http_client_request_duration_seconds",
        "histogram",
        "Requests on their way to a service, all attempts together. Without a service: no route, no such service, foreign hosts.",
    )?;
    for ((whose, class), durations) in &scrape.out.durations {
        let labels = labels("", whose);
        histogram(text, "http_client_request_duration_seconds", &labels, *class, durations)?;
    }
    for tally in Tally::ALL {
        let name = format!("causeway_proxy_{}", tally.metric());
        head(text, &name, "counter", tally.help().trim())?;
        for (direction, sums) in [("outbound", &scrape.out), ("inbound", &scrape.inbound)] {
            for (whose, tallies) in &sums.tallies {
                let count = tallies[*tally as usize];
                if count > 0 {
                    let labels = labels(&format!("direction=\"{direction}\","), whose);
                    writeln!(text, "{name}_total{{{labels}}} {count}")?;
                }
            }
        }
    }
    refusals(text, &scrape.refused)?;
    decided(text, &scrape.decisions)?;
    head(
        text,
        "causeway_proxy_records_dropped",
        "counter",
        "Access records that the writer was too slow for.",
    )?;
    writeln!(text, "causeway_proxy_records_dropped_total {}", scrape.records_dropped)?;
    if let Some((sent, lost)) = scrape.spans {
        head(
            text,
            "causeway_proxy_spans_exported",
            "counter",
            "Spans that the collector took, or could not be sent.",
        )?;
        writeln!(text, "causeway_proxy_spans_exported_total{{outcome=\"sent\"}} {sent}")?;
        writeln!(text, "causeway_proxy_spans_exported_total{{outcome=\"lost\"}} {lost}")?;
    }
    let mut last = "";
    for Gauge { name, help, labels, value } in &scrape.gauges {
        if *name != last {
            head(text, name, "gauge", help)?;
            last = name;
        }
        writeln!(text, "{name}{labels} {value}")?;
    }
    writeln!(text, "# EOF")
}

/// What came in, by class: a sidecar's calls for its app; at a gateway everything that went out came in.
fn server(scrape: &Scrape) -> BTreeMap<usize, Durations> {
    let mut classes: BTreeMap<usize, Durations> = BTreeMap::new();
    let came_in = if scrape.is_gateway { &scrape.out } else { &scrape.inbound };
    for ((_, class), durations) in &came_in.durations {
        classes.entry(*class).or_default().merge(durations);
    }
    classes
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    class: usize,
    durations: &Durations,
) -> fmt::Result {
    let labels = format!("{labels},http_response_status_code=\"{}\"", CLASSES[class]);
    let mut sum = 0;
    for (at, count) in durations.buckets.iter().enumerate() {
        sum += count;
        let bound = BUCKETS.get(at).map_or("+Inf".to_owned(), |bound| seconds(*bound));
        writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}")?;
    }
    writeln!(text, "{name}_sum{{{labels}}} {}", seconds(durations.micros))?;
    writeln!(text, "{name}_count{{{labels}}} {sum}")
}

/// What each access policy decided.
fn decided(text: &mut String, decisions: &Decisions) -> fmt::Result {
    let help = "Calls for the app that an AccessPolicy decided; one that several refuse is counted for each.";
    head(text, "causeway_proxy_access_decisions", "counter", help)?;
    for (policy, counts) in decisions.rows() {
        for (decision, count) in DECISIONS.iter().zip(counts).filter(|(_, count)| **count > 0) {
            let labels = format!("policy=\"{}\",decision=\"{decision}\"", escaped(policy));
            writeln!(text, "causeway_proxy_access_decisions_total{{{labels}}} {count}")?;
        }
    }
    Ok(())
}

/// The documents that refused most; the rest is one.
fn refusals(text: &mut String, refused: &BTreeMap<Arc<str>, u64>) -> fmt::Result {
    head(text, "causeway_proxy_refused", "counter", "Requests that a policy refused, by the policy.")?;
    for (policy, count) in refused.iter().take(POLICIES_SHOWN_MAX) {
        writeln!(text, "causeway_proxy_refused_total{{policy=\"{}\"}} {count}", escaped(policy))?;
    }
    let rest: u64 = refused.values().skip(POLICIES_SHOWN_MAX).sum();
    if rest > 0 {
        writeln!(text, "causeway_proxy_refused_total{{policy=\"_other\"}} {rest}")?;
    }
    Ok(())
}

/// Names of namespaces and services hold nothing to be escaped.
fn labels(before: &str, whose: &Whose) -> String {
    let (namespace, service) = match whose {
        Whose::Nobody => ("", ""),
        Whose::Service(key) => (key.namespace.as_str(), key.name.as_str()),
        Whose::Other => ("", "_other"),
    };
    format!("{before}namespace=\"{namespace}\",service=\"{service}\"")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
