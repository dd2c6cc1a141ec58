//! What is known of a request while it runs: what is written down of it in the end.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::inlet::Inlet;
use crate::plan::{Rule, Service};

/// What is known of a request.
pub(crate) struct Facts {
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
}

impl Facts {
    /// Of a request that begins now.
    pub(crate) fn new(inlet: Arc<Inlet>, method: Method) -> Self {
        Facts {
            inlet,
            started: Instant::now(),
            method,
            path: None,
            request_id: None,
            rule: None,
            service: None,
            endpoint: None,
            status: 0,
            reason: "",
            details: String::new(),
            would_refuse: None,
            attempts: 0,
            bytes: 0,
        }
    }
}
