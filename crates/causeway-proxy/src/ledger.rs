//! What a worker writes down: counts by service, access records, recent failures, retry budgets.
//!
//! In:    settled requests of one worker.      Out: batches for the record writer; counts, merged when somebody asks.
//! Owner: one worker; its lock is taken by others only for a scrape.
//! Invariant: bounded whatever the traffic: series by service up to a number, records by bytes, failures by count.
//! Not here: how counts are printed (`metrics`), the writer (`records`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use causeway_model::{Edge, Failure, LATENCY_BUCKETS, Latencies, ServiceKey, Timestamp, latency_bucket};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::account::account;
use crate::allowance::Allowance;
use crate::budget::Budget;
use crate::endpoint::Micros;
use crate::facts::Facts;
use crate::inlet::Way;
use crate::limits::{
    FAILURES_KEPT, FAILURES_TOLD_PER_SECOND, FAILURES_UNREPORTED_MAX, RECORD_BATCH_BYTES, SERIES_SERVICES_MAX,
};
use crate::reason;
use crate::records::{self, Sink};
use crate::tally::{Tallies, Tally};

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
    /// What happened that concerns no service.
    tallies: Tallies,
    failures: VecDeque<Arc<Failure>>,
    unreported: Vec<Arc<Failure>>,
    telling: Telling,
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
    edge: Option<Box<EdgeCounts>>,
}

/// Counts of ended requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// 1xx to 3xx, 4xx, 5xx, and none (the client left).
    pub classes: [u64; 4],
    pub buckets: [u64; BUCKETS.len() + 1],
    pub micros: u64,
    pub tallies: Tallies,
}

/// How many failures may still be told: those of services and of ours apart from what clients do wrong, which may be many.
struct Telling {
    grave: Allowance,
    slight: Allowance,
}

impl Default for Telling {
    fn default() -> Self {
        let allowance = || Allowance::per_second(FAILURES_TOLD_PER_SECOND / 2.0);
        Telling { grave: allowance(), slight: allowance() }
    }
}

/// Counts since the last traffic report.
#[derive(Clone, Debug)]
pub(crate) struct EdgeCounts {
    pub requests: u64,
    pub failures: u64,
    pub micros: u64,
    pub micros_max: u64,
    pub retries: u64,
    latencies: [u32; LATENCY_BUCKETS],
}

impl Default for EdgeCounts {
    fn default() -> Self {
        let latencies = [0; LATENCY_BUCKETS];
        EdgeCounts { requests: 0, failures: 0, micros: 0, micros_max: 0, retries: 0, latencies }
    }
}

impl EdgeCounts {
    fn add(&mut self, status: u16, micros: Micros) {
        self.requests += 1;
        self.failures += u64::from(status == 0 || status >= 500);
        self.micros += micros;
        self.micros_max = self.micros_max.max(micros);
        self.latencies[latency_bucket(micros)] += 1;
    }

    /// As it is reported.
    pub(crate) fn into_edge(self, source: ServiceKey, target: ServiceKey) -> Edge {
        let EdgeCounts { requests, failures, micros, micros_max, retries, latencies } = self;
        let latencies = Latencies::of(&latencies);
        Edge { source, target, requests, failures, micros, micros_max, latencies, retries }
    }
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
        self.tallies.iter_mut().zip(other.tallies).for_each(|(mine, theirs)| *mine += theirs);
    }
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Ledger { pages: Mutex::default() }
    }

    /// Writes an ended request down; `now` is the wall-clock time of `ended`.
    pub(crate) fn enter(
        &self,
        facts: &Facts,
        ended: Instant,
        now: Timestamp,
        seen_by: &ServiceKey,
        sink: Option<&Sink>,
    ) {
        debug_assert!(reason::is_known(facts.reason), "reason.rs does not know {:?}", facts.reason);
        let took = ended.saturating_duration_since(facts.started);
        let micros = took.as_micros() as Micros;
        let mut pages = self.pages.lock();
        let is_inbound = matches!(facts.inlet.way, Way::Inbound);
        match &facts.service {
            _ if facts.carried.is_some() => pages.enter_raw(facts, is_inbound),
            Some(service) if !is_inbound => {
                let cell = pages.cell(service.number);
                if cell.service.is_none() {
                    cell.service = Some(service.key.clone());
                }
                cell.counts.add(facts.status, micros);
                cell.edge.get_or_insert_default().add(facts.status, micros);
            }
            Some(_) => pages.inbound.add(facts.status, micros),
            None => pages.other.add(facts.status, micros),
        }
        if facts.status >= 500 || !facts.reason.is_empty() {
            pages.keep_failure(facts, ended, now, seen_by);
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
        self.count(Some(number), Tally::Retry);
    }

    pub(crate) fn count_ejection(&self, number: usize) {
        self.count(Some(number), Tally::Ejection);
    }

    /// Counts something that happened, to a service when it has a number.
    pub(crate) fn count(&self, number: Option<usize>, what: Tally) {
        let mut pages = self.pages.lock();
        let tallies = match number {
            Some(number) => {
                let cell = pages.cell(number);
                if what == Tally::Retry {
                    cell.edge.get_or_insert_default().retries += 1;
                }
                &mut cell.counts.tallies
            }
            None => &mut pages.tallies,
        };
        tallies[what as usize] += 1;
    }

    /// Hands over what was gathered.
    pub(crate) fn flush(&self, sink: &Sink) {
        self.pages.lock().flush(sink);
    }

    /// Every service's counts, and the two that have no service.
    pub(crate) fn scrape(&self, mut take: impl FnMut(Option<&ServiceKey>, &'static str, &Counts)) -> u64 {
        let pages = self.pages.lock();
        let whole = Counts { tallies: pages.tallies, ..Counts::default() };
        take(None, "", &whole);
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
            if let (Some(service), Some(edge)) = (&cell.service, cell.edge.take()) {
                take(service, *edge);
            }
        }
    }

    /// Recent failures, oldest first.
    pub(crate) fn failures(&self) -> Vec<Arc<Failure>> {
        self.pages.lock().failures.iter().cloned().collect()
    }

    /// Failures since the last call, at most so many.
    pub(crate) fn take_failures(&self) -> Vec<Arc<Failure>> {
        std::mem::take(&mut self.pages.lock().unreported)
    }
}

impl Pages {
    /// A connection of bytes: there is no status, and its duration is no latency.
    fn enter_raw(&mut self, facts: &Facts, is_inbound: bool) {
        let is_failure = reason::is_failure(facts.reason);
        let counts = match &facts.service {
            Some(service) if !is_inbound => {
                let cell = self.cell(service.number);
                cell.service.get_or_insert_with(|| service.key.clone());
                let edge = cell.edge.get_or_insert_default();
                edge.requests += 1;
                edge.failures += u64::from(is_failure);
                &mut cell.counts
            }
            Some(_) => &mut self.inbound,
            None => &mut self.other,
        };
        let mut add = |what: Tally, by: u64| counts.tallies[what as usize] += by;
        add(Tally::RawConnection, 1);
        add(Tally::RawFailure, u64::from(is_failure));
        add(Tally::RawBytesSent, facts.carried.unwrap_or(0));
        add(Tally::RawBytesReceived, facts.bytes);
    }

    fn cell(&mut self, number: usize) -> &mut Cell {
        if number >= self.cells.len() {
            self.cells.resize_with(number + 1, Cell::default);
        }
        &mut self.cells[number]
    }

    fn keep_failure(&mut self, facts: &Facts, ended: Instant, now: Timestamp, seen_by: &ServiceKey) {
        let allowance = if facts.status >= 500 { &mut self.telling.grave } else { &mut self.telling.slight };
        if !allowance.take(ended) {
            self.tallies[Tally::UntoldFailure as usize] += 1;
            return;
        }
        if self.failures.len() == FAILURES_KEPT {
            self.failures.pop_front();
        }
        let failure = Arc::new(account(facts, ended, now, seen_by));
        if self.unreported.len() < FAILURES_UNREPORTED_MAX {
            self.unreported.push(failure.clone());
        }
        self.failures.push_back(failure);
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
