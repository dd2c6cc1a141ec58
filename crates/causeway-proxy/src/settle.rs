//! The end of a request: its endpoint is relieved, and what happened is written down.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use causeway_filters::access::Refusal;
use causeway_wire::ProxyStatus;
use causeway_wire::deadline::is_grpc;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use tokio::time::Instant;

use crate::circuit;
use crate::endpoint::InFlight;
use crate::facts::Facts;
use crate::gate::Place;
use crate::inlet::{Inlet, Way};
use crate::outlier;
use crate::patience::Patience;
use crate::reason;
use crate::spans::of_request;
use crate::tally::Tally;
use crate::worker::Worker;

/// A request that runs: what is known of it, which reads as its own, and what it holds of others.
pub(crate) struct Settle {
    pub worker: Arc<Worker>,
    facts: Facts,
    pub in_flight: Option<InFlight>,
    /// At the gate of the service.
    pub place: Option<Place>,
    /// With its answer, once that has begun.
    pub patience: Patience,
    /// Counted among its worker's arrivals.
    is_arrival: bool,
    /// Among the requests that this proxy has under way to the service.
    pub share: Option<circuit::Place>,
    is_done: bool,
}

/// Begins to write a request down.
pub(crate) fn start<B>(worker: &Arc<Worker>, inlet: &Arc<Inlet>, request: &Request<B>) -> Box<Settle> {
    let mut facts = Facts::new(inlet.clone(), request.method().clone(), request.version());
    facts.grpc = request.headers().get(CONTENT_TYPE).filter(|_| is_grpc(request.headers())).cloned();
    let is_arrival = matches!(inlet.way, Way::Inbound);
    if is_arrival {
        worker.arrivals.fetch_add(1, Relaxed);
    }
    held(worker, facts, is_arrival)
}

/// What holds nothing yet.
fn held(worker: &Arc<Worker>, facts: Facts, is_arrival: bool) -> Box<Settle> {
    let worker = worker.clone();
    let (in_flight, place, share, patience) = Default::default();
    Box::new(Settle { worker, facts, in_flight, place, share, patience, is_arrival, is_done: false })
}

/// Begins to write a connection of bytes down.
pub(crate) fn start_raw(worker: &Arc<Worker>, inlet: &Arc<Inlet>) -> Box<Settle> {
    held(worker, Facts::of_bytes(inlet.clone()), false)
}

/// Writes down what was no request, or not one that we take.
pub(crate) fn refused(worker: &Arc<Worker>, inlet: &Arc<Inlet>, status: StatusCode, failure: ProxyStatus) {
    let mut request = Request::new(());
    // Nothing of such a head is believed, its method neither.
    if let Ok(method) = Method::from_bytes(b"-") {
        *request.method_mut() = method;
    }
    let mut settle = start(worker, inlet, &request);
    settle.status = status.as_u16();
    settle.reason = failure.error.as_str();
    settle.details = failure.details;
    settle.done("");
}

impl Settle {
    /// What ran is no longer allowed.
    pub(crate) fn withdraw(&mut self, refusal: Refusal) {
        self.worker.ledger.count(None, Tally::Withdrawn);
        self.details = refusal.details;
        self.refused_by = refusal.by;
        self.refused_policies = refusal.names;
    }

    /// Settles; `trouble` says how the answer's body ended when not well.
    pub(crate) fn done(mut self: Box<Self>, trouble: &'static str) {
        drop(self.in_flight.take());
        drop(self.place.take());
        drop(self.share.take());
        let ended = Instant::now();
        if self.reason.is_empty() {
            self.reason = trouble;
        }
        self.write_down(ended);
    }

    /// Tells the endpoint's vitals how its answer ended, when that had begun well.
    pub(crate) fn judge(&self, is_well: bool) {
        let (Some(endpoint), 1..500) = (&self.endpoint, self.status) else { return };
        // A plain look first: on the healthy path nobody asks for the time.
        if is_well && endpoint.vitals.late_failures.load(Relaxed) == 0 {
            return;
        }
        let now = self.worker.shared.micros(Instant::now());
        if outlier::note_end(endpoint, is_well, now) {
            tracing::warn!(endpoint = %endpoint.name, "endpoint ejected");
            if let Some(service) = &self.service {
                self.worker.ledger.count(Some(service.number), Tally::Ejection);
            }
        }
    }

    /// From now on it is a conversation, which may go on for days: nobody waits for its end but by a limit.
    pub(crate) fn converse(&mut self) {
        if std::mem::take(&mut self.is_arrival) {
            self.worker.arrivals.fetch_sub(1, Relaxed);
        }
    }

    fn write_down(&mut self, ended: Instant) {
        self.is_done = true;
        self.converse();
        let shared = &self.worker.shared;
        let ledger = &self.worker.ledger;
        let now = shared.wall(ended);
        if shared.taps.is_on()
            && let Some(tapped) = shared.taps.show(&self.facts, ended, now, &shared.source)
        {
            ledger.keep_tapped(tapped);
        }
        let failed = ledger.enter(&self.facts, ended, now, &shared.source, shared.records.as_ref());
        let late = match self.facts.trace.kept() {
            None if failed => self.facts.trace.late(self.worker.seed().u64()),
            _ => None,
        };
        if let Some(kept) = self.facts.trace.kept().or(late.as_ref()) {
            let mut spans = Vec::new();
            of_request(&mut spans, &self.facts, kept, ended, shared);
            ledger.keep_spans(spans);
        }
    }
}

impl Deref for Settle {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl DerefMut for Settle {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

/// A request that was given up before its answer began.
impl Drop for Settle {
    fn drop(&mut self) {
        if !self.is_done {
            self.reason = reason::CLIENT_LEFT;
            self.write_down(Instant::now());
        }
    }
}
