//! What is known of a request while it runs: what is written down of it in the end.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Version};
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::inlet::Inlet;
use crate::pass::Pass;
use crate::plan::{Rule, Service};
use crate::progress::Progress;
use crate::review::Leash;
use crate::story::Story;
use crate::trace::Trace;

/// What is known of a request.
pub(crate) struct Facts {
    pub inlet: Arc<Inlet>,
    pub started: Instant,
    pub method: Method,
    pub version: Version,
    /// The content type of a call of gRPC.
    pub grpc: Option<HeaderValue>,
    pub host: Option<HeaderValue>,
    pub path: Option<PathAndQuery>,
    pub request_id: Option<HeaderValue>,
    pub trace: Trace,
    pub rule: Option<Arc<Rule>>,
    pub service: Option<Arc<Service>>,
    pub endpoint: Option<Arc<Endpoint>>,
    pub status: u16,
    /// What went wrong, in one word; empty when nothing did.
    pub reason: &'static str,
    /// For `causeway why`.
    pub details: String,
    /// The app's port to which a connection of bytes goes.
    pub raw_port: Option<u16>,
    /// Of a request that was let in to the sidecar's app: up to which review.
    pub leash: Option<Leash>,
    /// What let it in to the sidecar's app.
    pub pass: Option<Pass>,
    /// The access policies that refused it together.
    pub refused_policies: Vec<Arc<str>>,
    /// The document that refused it, with where it is written.
    pub refused_by: Option<Arc<str>>,
    pub story: Story,
    pub attempts: u32,
    pub bytes: u64,
    /// Bytes of a body that was read whole before it was sent.
    pub sent: u64,
    /// A body that is streamed.
    pub upload: Option<Arc<Progress>>,
    /// Of a connection of bytes: how many the client sent. None of a request.
    pub carried: Option<u64>,
}

impl Facts {
    /// Of a request that begins now.
    pub(crate) fn new(inlet: Arc<Inlet>, method: Method, version: Version) -> Self {
        Facts {
            inlet,
            started: Instant::now(),
            method,
            version,
            grpc: None,
            host: None,
            path: None,
            request_id: None,
            trace: Trace::default(),
            rule: None,
            service: None,
            endpoint: None,
            status: 0,
            reason: "",
            details: String::new(),
            raw_port: None,
            leash: None,
            pass: None,
            refused_policies: Vec::new(),
            refused_by: None,
            story: Story::default(),
            attempts: 0,
            bytes: 0,
            sent: 0,
            upload: None,
            carried: None,
        }
    }

    /// Of a connection of bytes that begins now.
    pub(crate) fn of_bytes(inlet: Arc<Inlet>) -> Self {
        let method = Method::from_bytes(b"TCP").expect("a token");
        Facts { carried: Some(0), ..Facts::new(inlet, method, Version::default()) }
    }

    /// The host that it names; empty when it names none that is text.
    pub(crate) fn host(&self) -> &str {
        self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("")
    }

    /// Bytes of the body that the client sent on.
    pub(crate) fn bytes_in(&self) -> u64 {
        let streamed = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        self.carried.unwrap_or(self.sent + streamed)
    }

    /// Its `x-request-id`.
    pub(crate) fn request_id(&self) -> &str {
        self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("")
    }
}
