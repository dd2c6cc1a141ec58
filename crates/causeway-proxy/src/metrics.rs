//! The counts of all workers, merged and printed for Prometheus.
//!
//! In:    every worker's ledger.      Out: text (OpenMetrics 1.0), at most a few thousand lines whatever the traffic.
//! Owner: the admin door and the handle, on demand: nothing runs between scrapes.
//! Not here: counting (`ledger`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use causeway_model::ServiceKey;

use crate::ledger::{BUCKETS, Counts};
use crate::limits::SERIES_SERVICES_MAX;
use crate::tally::Tally;
use crate::worker::Worker;

const CLASSES: [&str; 4] = ["2xx_3xx", "4xx", "5xx", "none"];

/// The text of a scrape.
pub(crate) fn exposition(workers: &[Arc<Worker>]) -> String {
    let (counts, dropped) = merge(workers);
    let mut text = String::with_capacity(4096);
    // Writing into a String cannot fail.
    let _ = write_all(&mut text, &counts, dropped);
    text
}

/// By direction and service; services past the limit are one, with an empty name.
type Merged = BTreeMap<(&'static str, Option<ServiceKey>), Counts>;

fn merge(workers: &[Arc<Worker>]) -> (Merged, u64) {
    let mut merged = Merged::new();
    let mut dropped = 0;
    for worker in workers {
        dropped += worker.ledger.scrape(|service, direction, counts| {
            let is_known = merged.contains_key(&(direction, service.cloned()));
            let has_room = is_known || merged.len() < SERIES_SERVICES_MAX;
            let key = (direction, service.filter(|_| has_room).cloned());
            merged.entry(key).or_default().merge(counts);
        });
    }
    (merged, dropped)
}

fn write_all(text: &mut String, merged: &Merged, dropped: u64) -> std::fmt::Result {
    let labels = |(direction, service): &(&str, Option<ServiceKey>)| match service {
        Some(service) => {
            format!(
                "direction=\"{direction}\",namespace=\"{}\",service=\"{}\"",
                service.namespace, service.name
            )
        }
        None => format!("direction=\"{direction}\",namespace=\"\",service=\"\""),
    };
    let counted: Vec<(String, &Counts)> = merged
        .iter()
        .filter(|(_, counts)| counts.classes.iter().sum::<u64>() > 0)
        .map(|(key, counts)| (labels(key), counts))
        .collect();
    writeln!(text, "# HELP causeway_proxy_requests Requests that ended, by class of their answer's status.")?;
    writeln!(text, "# TYPE causeway_proxy_requests counter")?;
    for (labels, counts) in &counted {
        for (class, count) in CLASSES.iter().zip(counts.classes).filter(|(_, count)| *count > 0) {
            writeln!(text, "causeway_proxy_requests_total{{{labels},status_class=\"{class}\"}} {count}")?;
        }
    }
    writeln!(
        text,
        "# HELP causeway_proxy_request_duration_seconds From a request's head to its answer's end."
    )?;
    writeln!(text, "# TYPE causeway_proxy_request_duration_seconds histogram")?;
    for (labels, counts) in &counted {
        let name = "causeway_proxy_request_duration_seconds";
        let mut sum = 0;
        for (at, count) in counts.buckets.iter().enumerate() {
            sum += count;
            let bound = BUCKETS.get(at).map_or("+Inf".to_owned(), |bound| seconds(*bound));
            writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}")?;
        }
        writeln!(text, "{name}_sum{{{labels}}} {}", seconds(counts.micros))?;
        writeln!(text, "{name}_count{{{labels}}} {sum}")?;
    }
    for tally in Tally::ALL {
        let (name, help) = (tally.metric(), tally.help().trim());
        writeln!(text, "# HELP causeway_proxy_{name} {help}\n# TYPE causeway_proxy_{name} counter")?;
        let of = |counts: &Counts| counts.tallies[*tally as usize];
        for (key, counts) in merged.iter().filter(|(_, counts)| of(counts) > 0) {
            writeln!(text, "causeway_proxy_{name}_total{{{}}} {}", labels(key), of(counts))?;
        }
    }
    writeln!(text, "# HELP causeway_proxy_records_dropped Access records that the writer was too slow for.")?;
    writeln!(text, "# TYPE causeway_proxy_records_dropped counter")?;
    writeln!(text, "causeway_proxy_records_dropped_total {dropped}\n# EOF")
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
