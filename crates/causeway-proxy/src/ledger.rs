//! What a worker writes down: counts by service, access records, recent failures, retry budgets.
//!
//! In:    settled requests of one worker.      Out: batches for the record writer; counts, merged when somebody asks.
//! Owner: one worker; its lock is taken by others only for a scrape.
//! Invariant: bounded whatever the traffic: series by service up to a number, records by bytes, failures by count.
//! Not here: how counts are printed (`metrics`), the writer (`records`).

use std::collections::VecDeque;
use std::time::Duration;

use causeway_model::{ServiceKey, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::endpoint::Micros;
use crate::facts::Facts;
use crate::inlet::Way;
use crate::limits::{FAILURES_KEPT, RECORD_BATCH_BYTES, SERIES_SERVICES_MAX};
use crate::records::{self, Sink};

/// Upper bounds of the duration histogram, in microseconds; the last bucket has none.
pub(crate) const BUCKETS: [u64; 5] = [1_000, 5_000, 25_000, 100_000, 1_000_000];

/// A worker's ledger.
pub(crate) struct Ledger {
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    cells: Vec<Cell>,
    /// Calls that came in for the sidecar's own app.
    inbound: Counts,
    /// Answers that no service gave (no route, bad request), and calls to foreign hosts.
    other: Counts,
    failures: VecDeque<Failure>,
    batch: Vec<u8>,
    batch_lines: u64,
    dropped: u64,
    stamp: records::Stamp,
}

/// One service as this worker called it.
#[derive(Default)]
pub(crate) struct Cell {
    pub service: Option<ServiceKey>,
    pub counts: Counts,
    budget: Budget,
    edge: EdgeCounts,
}

/// Counts of ended requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// 1xx to 3xx, 4xx, 5xx, and none (the client left).
    pub classes: [u64; 4],
    pub buckets: [u64; BUCKETS.len() + 1],
    pub micros: u64,
    pub retries: u64,
    pub ejections: u64,
}

/// Counts since the last traffic report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EdgeCounts {
    pub requests: u64,
    pub failures: u64,
    pub micros: u64,
    pub micros_max: u64,
}

/// A request that failed, for `causeway why`.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub time: Timestamp,
    pub request_id: String,
    pub what: String,
    pub route: String,
    pub service: String,
    pub endpoint: String,
    pub status: u16,
    pub reason: &'static str,
    pub details: String,
    pub attempts: u32,
}

impl Counts {
    fn add(&mut self, status: u16, micros: Micros) {
        let class = match status {
            0 => 3,
            100..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.classes[class] += 1;
        self.buckets[BUCKETS.partition_point(|bound| *bound < micros)] += 1;
        self.micros += micros;
    }

    /// Adds another worker's counts.
    pub(crate) fn merge(&mut self, other: &Counts) {
        self.classes.iter_mut().zip(other.classes).for_each(|(mine, theirs)| *mine += theirs);
        self.buckets.iter_mut().zip(other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.micros += other.micros;
        self.retries += other.retries;
        self.ejections += other.ejections;
    }
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Ledger { pages: Mutex::default() }
    }

    /// Writes an ended request down; `now` is the wall-clock time of `ended`.
    pub(crate) fn enter(&self, facts: &Facts, ended: Instant, now: Timestamp, sink: Option<&Sink>) {
        let took = ended.saturating_duration_since(facts.started);
        let micros = took.as_micros() as Micros;
        let mut pages = self.pages.lock();
        let is_inbound = matches!(facts.inlet.way, Way::Inbound);
        match &facts.service {
            Some(service) if !is_inbound => {
                let cell = pages.cell(service.number);
                if cell.service.is_none() {
                    cell.service = Some(service.key.clone());
                }
                cell.counts.add(facts.status, micros);
                cell.edge.requests += 1;
                cell.edge.failures += u64::from(facts.status == 0 || facts.status >= 500);
                cell.edge.micros += micros;
                cell.edge.micros_max = cell.edge.micros_max.max(micros);
            }
            Some(_) => pages.inbound.add(facts.status, micros),
            None => pages.other.add(facts.status, micros),
        }
        if !facts.reason.is_empty() && facts.reason != "client_left" {
            pages.keep_failure(facts, now);
        }
        if let Some(sink) = sink {
            pages.record(now, facts, took, sink);
        }
    }

    /// A request to a service begins: its retry budget grows.
    pub(crate) fn deposit(&self, number: usize) {
        self.pages.lock().cell(number).budget.deposit();
    }

    /// Whether a retry to a service may be sent now.
    pub(crate) fn may_retry(&self, number: usize, now: Micros) -> bool {
        self.pages.lock().cell(number).budget.withdraw(now)
    }

    pub(crate) fn count_retry(&self, number: usize) {
        self.pages.lock().cell(number).counts.retries += 1;
    }

    pub(crate) fn count_ejection(&self, number: usize) {
        self.pages.lock().cell(number).counts.ejections += 1;
    }

    /// Hands over what was gathered.
    pub(crate) fn flush(&self, sink: &Sink) {
        self.pages.lock().flush(sink);
    }

    /// Every service's counts, and the two that have no service.
    pub(crate) fn scrape(&self, mut take: impl FnMut(Option<&ServiceKey>, &'static str, &Counts)) -> u64 {
        let pages = self.pages.lock();
        let named = pages.cells.iter().filter(|cell| cell.service.is_some());
        for (at, cell) in named.enumerate() {
            let service = cell.service.as_ref().filter(|_| at < SERIES_SERVICES_MAX);
            take(service, "outbound", &cell.counts);
        }
        take(None, "inbound", &pages.inbound);
        take(None, "other", &pages.other);
        pages.dropped
    }

    /// What was counted since the last call.
    pub(crate) fn take_edges(&self, mut take: impl FnMut(&ServiceKey, EdgeCounts)) {
        for cell in &mut self.pages.lock().cells {
            let edge = std::mem::take(&mut cell.edge);
            if let (Some(service), true) = (&cell.service, edge.requests > 0) {
                take(service, edge);
            }
        }
    }

    /// Recent failures, oldest first.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.pages.lock().failures.iter().cloned().collect()
    }
}

impl Pages {
    fn cell(&mut self, number: usize) -> &mut Cell {
        if number >= self.cells.len() {
            self.cells.resize_with(number + 1, Cell::default);
        }
        &mut self.cells[number]
    }

    fn keep_failure(&mut self, facts: &Facts, now: Timestamp) {
        if self.failures.len() == FAILURES_KEPT {
            self.failures.pop_front();
        }
        let text = |value: Option<&http::HeaderValue>| {
            value.and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
        };
        self.failures.push_back(Failure {
            time: now,
            request_id: text(facts.request_id.as_ref()),
            what: format!("{} {}", facts.method, facts.path.as_ref().map_or("", |path| path.path())),
            route: facts.rule.as_ref().map_or_else(String::new, |rule| rule.label.to_string()),
            service: facts.service.as_ref().map_or_else(String::new, |service| service.key.to_string()),
            endpoint: facts.endpoint.as_ref().map_or_else(String::new, |endpoint| endpoint.name.clone()),
            status: facts.status,
            reason: facts.reason,
            details: facts.details.clone(),
            attempts: facts.attempts,
        });
    }

    fn record(&mut self, now: Timestamp, facts: &Facts, took: Duration, sink: &Sink) {
        records::write_line(&mut self.batch, self.stamp.at(now), facts, took);
        self.batch_lines += 1;
        if self.batch.len() >= RECORD_BATCH_BYTES {
            self.flush(sink);
        }
    }

    fn flush(&mut self, sink: &Sink) {
        if self.batch.is_empty() {
            return;
        }
        // A worker with little traffic keeps a small buffer.
        let room = self.batch.len().next_power_of_two();
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(room));
        let lines = std::mem::take(&mut self.batch_lines);
        if !sink.offer(batch) {
            self.dropped += lines;
        }
    }
}
