//! What a worker writes down: counts by service, access records, recent failures.
//!
//! In:    settled requests of one worker.      Out: batches for the record writer; counts, merged when somebody asks.
//! Owner: one worker; its lock is taken by others only for a scrape.
//! Invariant: bounded whatever the traffic: series by service up to a number, records by bytes, failures by count.
//! Not here: how counts are printed (`metrics`), the writer (`records`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use causeway_model::{Failure, ServiceKey, Span, Tapped, Timestamp};
use causeway_wire::ProxyError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::account::account;
use crate::allowance::Allowance;
use crate::counts::{Counts, EdgeCounts};
use crate::decisions::Decisions;
use crate::endpoint::Micros;
use crate::facts::Facts;
use crate::inlet::Way;
use crate::limits::{
    FAILURES_KEPT, FAILURES_TOLD_PER_SECOND, FAILURES_UNREPORTED_MAX, LATE_TRACES_PER_SECOND,
    POLICIES_COUNTED_MAX, RECORD_BATCH_BYTES, SPANS_KEPT_MAX, TAPPED_KEPT_MAX,
};
use crate::reason;
use crate::records::{self, Sink};
use crate::story::Attempt;
use crate::tally::Tally;

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
    /// Requests that a policy refused, by the document.
    refused: BTreeMap<Arc<str>, u64>,
    decisions: Decisions,
    failures: VecDeque<Arc<Failure>>,
    unreported: Vec<Arc<Failure>>,
    spans: Vec<Span>,
    tapped: Vec<Tapped>,
    tapped_lost: u64,
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
    edge: Option<Box<EdgeCounts>>,
}

/// Something that a worker counted.
pub(crate) enum Counted<'a> {
    Service(&'a ServiceKey, &'a Counts),
    /// Requests that went to no service of the mesh, and what concerns no service.
    Nobody(&'a Counts),
    /// Calls that came in for the sidecar's own app.
    Inbound(&'a Counts),
    /// Requests refused by a document.
    Refused(&'a Arc<str>, u64),
    /// What access policies decided.
    Decided(&'a Decisions),
    RecordsDropped(u64),
}

/// How many failures may still be told: those of services and of ours apart from what clients do wrong, which may be many.
struct Telling {
    grave: Allowance,
    slight: Allowance,
    /// Failures whose spans are made late.
    late: Allowance,
}

impl Default for Telling {
    fn default() -> Self {
        let allowance = || Allowance::per_second(FAILURES_TOLD_PER_SECOND / 2.0);
        let late = Allowance::per_second(LATE_TRACES_PER_SECOND);
        Telling { grave: allowance(), slight: allowance(), late }
    }
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Ledger { pages: Mutex::default() }
    }

    /// Writes an ended request down; `now` is the wall-clock time of `ended`. Says whether it failed so that its spans are wanted.
    pub(crate) fn enter(
        &self,
        facts: &Facts,
        ended: Instant,
        now: Timestamp,
        seen_by: &ServiceKey,
        sink: Option<&Sink>,
    ) -> bool {
        debug_assert!(reason::is_known(facts.reason), "reason.rs does not know {:?}", facts.reason);
        let took = ended.saturating_duration_since(facts.started);
        let micros = took.as_micros() as Micros;
        let mut pages = self.pages.lock();
        let mut is_grave = false;
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
        if let Some(policy) = &facts.refused_by {
            pages.count_refusal(policy);
        }
        if let Some(pass) = &facts.pass {
            pages.decisions.pass(pass);
        }
        pages.decisions.refuse(&facts.refused_policies);
        if facts.status >= 500 || !facts.reason.is_empty() {
            pages.count_handshakes(facts);
            is_grave = pages.keep_failure(facts, ended, now, seen_by) && facts.status >= 500;
        }
        if let Some(sink) = sink {
            pages.record(now, facts, took, sink);
        }
        is_grave && pages.telling.late.take(ended)
    }

    /// Keeps spans until they are collected.
    pub(crate) fn keep_spans(&self, spans: Vec<Span>) {
        let mut pages = self.pages.lock();
        match pages.spans.len() + spans.len() <= SPANS_KEPT_MAX {
            true => pages.spans.extend(spans),
            false => pages.other.tally(Tally::LostSpan, spans.len() as u64),
        }
    }

    /// Counts something that happened, to a service when it has a number.
    pub(crate) fn count(&self, number: Option<usize>, what: Tally) {
        let mut pages = self.pages.lock();
        let counts = match number {
            Some(number) => {
                let cell = pages.cell(number);
                if what == Tally::Retry {
                    cell.edge.get_or_insert_default().retries += 1;
                }
                &mut cell.counts
            }
            None => &mut pages.other,
        };
        counts.tally(what, 1);
    }

    /// Hands over what was gathered.
    pub(crate) fn flush(&self, sink: &Sink) {
        self.pages.lock().flush(sink);
    }

    /// What was counted, of each service that was called, of none, and of calls that came in.
    pub(crate) fn scrape(&self, mut take: impl FnMut(Counted<'_>)) {
        let pages = self.pages.lock();
        for cell in &pages.cells {
            if let Some(service) = &cell.service {
                take(Counted::Service(service, &cell.counts));
            }
        }
        take(Counted::Nobody(&pages.other));
        take(Counted::Inbound(&pages.inbound));
        pages.refused.iter().for_each(|(policy, count)| take(Counted::Refused(policy, *count)));
        take(Counted::Decided(&pages.decisions));
        take(Counted::RecordsDropped(pages.dropped));
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

    /// Keeps a live request until it is collected.
    pub(crate) fn keep_tapped(&self, tapped: Tapped) {
        let mut pages = self.pages.lock();
        match pages.tapped.len() < TAPPED_KEPT_MAX {
            true => pages.tapped.push(tapped),
            false => pages.tapped_lost += 1,
        }
    }

    /// Live requests since the last call, and how many were lost.
    pub(crate) fn take_tapped(&self) -> (Vec<Tapped>, u64) {
        let mut pages = self.pages.lock();
        (std::mem::take(&mut pages.tapped), std::mem::take(&mut pages.tapped_lost))
    }

    /// Spans since the last call.
    pub(crate) fn take_spans(&self) -> Vec<Span> {
        std::mem::take(&mut self.pages.lock().spans)
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
        counts.tally(Tally::RawConnection, 1);
        counts.tally(Tally::RawFailure, u64::from(is_failure));
        counts.tally(Tally::RawBytesSent, facts.carried.unwrap_or(0));
        counts.tally(Tally::RawBytesReceived, facts.bytes);
    }

    fn cell(&mut self, number: usize) -> &mut Cell {
        if number >= self.cells.len() {
            self.cells.resize_with(number + 1, Cell::default);
        }
        &mut self.cells[number]
    }

    fn count_refusal(&mut self, policy: &Arc<str>) {
        // Where it is written may change; its name does not.
        let name = policy.split(" (").next().and_then(|name| name.split(" at ").next()).unwrap_or(policy);
        let is_full = self.refused.len() >= POLICIES_COUNTED_MAX;
        match self.refused.get_mut(name) {
            Some(count) => *count += 1,
            None => *self.refused.entry(if is_full { "_other" } else { name }.into()).or_default() += 1,
        }
    }

    /// Handshakes with endpoints that failed.
    fn count_handshakes(&mut self, facts: &Facts) {
        let attempts = facts.story.pages().map_or(&[][..], |pages| &pages.attempts);
        let failed = |attempt: &&Attempt| {
            attempt.status.is_none() && attempt.error == ProxyError::TlsProtocolError.as_str()
        };
        let failed = attempts.iter().filter(failed).count() as u64;
        if failed > 0 {
            let cell = facts.service.as_ref().map(|service| service.number);
            let counts = match cell {
                Some(number) if !matches!(facts.inlet.way, Way::Inbound) => &mut self.cell(number).counts,
                _ => &mut self.other,
            };
            counts.tally(Tally::HandshakeFailure, failed);
        }
    }

    /// Whether it was told.
    fn keep_failure(&mut self, facts: &Facts, ended: Instant, now: Timestamp, seen_by: &ServiceKey) -> bool {
        let allowance = if facts.status >= 500 { &mut self.telling.grave } else { &mut self.telling.slight };
        if !allowance.take(ended) {
            self.other.tally(Tally::UntoldFailure, 1);
            return false;
        }
        if self.failures.len() == FAILURES_KEPT {
            self.failures.pop_front();
        }
        let failure = Arc::new(account(facts, ended, now, seen_by));
        if self.unreported.len() < FAILURES_UNREPORTED_MAX {
            self.unreported.push(failure.clone());
        }
        self.failures.push_back(failure);
        true
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
