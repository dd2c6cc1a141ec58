//! The end of a request: its connection goes back, its endpoint is relieved, and what happened is written down.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use hyper::client::conn::http1;
use tokio::time::Instant;

use crate::body::Outgoing;
use crate::endpoint::{Endpoint, InFlight};
use crate::inlet::Inlet;
use crate::plan::{Rule, Service};
use crate::worker::Worker;

/// What is known of a request while it runs.
pub(crate) struct Settle {
    pub worker: Arc<Worker>,
    pub inlet: Arc<Inlet>,
    pub started: Instant,
    pub method: Method,
    pub path: Option<PathAndQuery>,
    pub request_id: Option<HeaderValue>,
    pub rule: Option<Arc<Rule>>,
    pub service: Option<Arc<Service>>,
    pub endpoint: Option<Arc<Endpoint>>,
    pub status: u16,
    /// What went wrong, in one word; empty when nothing did.
    pub reason: &'static str,
    /// For `causeway why`.
    pub details: String,
    pub would_refuse: Option<&'static str>,
    pub attempts: u32,
    pub bytes: u64,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) lent: Option<(u64, http1::SendRequest<Outgoing>)>,
    pub(crate) is_done: bool,
}

impl Settle {
    /// Settles; `trouble` says how the answer's body ended when not well.
    pub(crate) fn done(mut self: Box<Self>, trouble: &'static str) {
        drop(self.in_flight.take());
        let ended = Instant::now();
        match (trouble, self.lent.take()) {
            ("", Some((id, sender))) => self.worker.pool.give_back(id, sender, ended),
            // A connection with an unread answer cannot be used again: it is closed by dropping it.
            (_, lent) => drop(lent),
        }
        if self.reason.is_empty() {
            self.reason = trouble;
        }
        self.write_down(ended);
    }

    fn write_down(&mut self, ended: Instant) {
        self.is_done = true;
        self.worker.ledger.enter(&self.worker, self, ended);
    }
}

/// A request that was given up before its answer began.
impl Drop for Settle {
    fn drop(&mut self) {
        if !self.is_done {
            self.reason = "client_left";
            self.write_down(Instant::now());
        }
    }
}
