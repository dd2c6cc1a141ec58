//! The one door through which the house itself calls out, and the one through which it publishes.
//!
//! In:    a request that names a service.      Out: its answer, or why there is none.
//! Owner: implemented by `causeway-proxy` (mesh: balancer, mTLS, retries) and `causeway-events`; the roof hands them down.
//! Invariant: no room opens a connection to a service by itself; only health checks, which ask one instance, go straight to it.
//! Not here: how an endpoint is chosen (`causeway-proxy`), how an event is kept (`causeway-events`).

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

/// A boxed future: these calls cross a wall between rooms, once per push or step, not per proxied request.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A call of the house to a service of the mesh.
#[derive(Clone, Debug)]
pub struct Call {
    /// Namespace of the called service.
    pub namespace: String,
    /// Name of the called service.
    pub service: String,
    /// Port of the service, where it has several; `None` takes its only or first one.
    pub port: Option<u16>,
    /// Method, path with query (origin form) and headers. `Host` is set by the implementation.
    pub request: http::Request<Bytes>,
    /// Bound on the whole call, its retries included.
    pub timeout: Duration,
    /// Whether the call may be sent again to another endpoint after bytes of it may have been processed.
    pub is_idempotent: bool,
    /// Most bytes of an answer's body that are read; more is [`CallError::AnswerTooLarge`].
    pub answer_bytes_max: usize,
}

/// Why a call brought no answer. An answer with a failing status is an answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CallError {
    /// The service is not known or has no endpoint that can be reached now.
    #[error("no endpoint of {service} can be reached: {why}")]
    Unreachable {
        /// Who was called, as `namespace/name`.
        service: String,
        /// What was tried.
        why: String,
    },
    /// The bound on the call passed.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer was longer than the caller accepts.
    #[error("answer longer than {0} bytes")]
    AnswerTooLarge(usize),
    /// The connection broke after the request was sent: the service may or may not have done the work.
    #[error("connection broke while waiting for the answer: {0}")]
    Broken(String),
}

/// Calls services of the mesh as an identity of the house (`ns/causeway/svc/events`, `…/sagas`, `…/health`).
pub trait Outbound: Send + Sync + 'static {
    /// Sends `call` and waits for the whole answer.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request; the service may have seen it.
    fn call(&self, call: Call) -> Pending<Result<http::Response<Bytes>, CallError>>;
}

/// Why an event was not taken.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The event or the topic is wrong: sending the same again cannot help.
    #[error("event refused: {0}")]
    Refused(String),
    /// Not now (storage, shutdown): the same event may be sent again.
    #[error("event not taken now: {0}")]
    Unavailable(String),
}

/// Publishes an event of the house durably (a saga's `publish` step).
pub trait Publish: Send + Sync + 'static {
    /// Publishes one CloudEvent (structured-mode JSON) to `topic` of `namespace`. An event of the same `source` and `id`
    /// within the topic's dedupe window is taken once: the second call succeeds and adds nothing. Resolves after fdatasync.
    fn publish(&self, namespace: &str, topic: &str, event: Bytes) -> Pending<Result<(), PublishError>>;
}
