//! Rules on a request: one file each, no socket.
//!
//! In:    a canonical request on its way to a service, an answer on its way back.    Out: the same, changed; or a reply of ours.
//! Owner: a proxy's plan holds them; they hold no state of a request.
//! Invariant: a filter sees the request in the form in which it was routed, and changes nothing when it replies.
//! Not here: which filters a route has (`causeway-proxy::plan`), sending (`causeway-proxy`).

pub mod access;
pub mod caller;
pub mod exchange;
pub mod forwarded;
pub mod header_edit;
pub mod redirect;
pub mod rewrite;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use causeway_wire::ProxyStatus;
use http::{HeaderMap, StatusCode, response};

pub use exchange::{Client, Exchange};

/// What happens to a request next.
pub enum Flow {
    /// The next filter, or the service.
    Next,
    /// This answer, and nothing further.
    Reply(Box<Reply>),
    /// What the future says, once it is done (a call-out). The proxy bounds it by the request's time limit.
    Wait(Pin<Box<dyn Future<Output = Flow> + Send>>),
}

/// An answer that a filter or the proxy gives itself.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, plain text.
    pub body: Bytes,
    /// What is said of a failure.
    pub failure: Option<ProxyStatus>,
    /// The document that refused, for operators only: `AccessPolicy default/orders (policies.yaml:4)`.
    pub by: Option<Arc<str>>,
}

impl Reply {
    /// A failure: its status, `Proxy-Status` and the same in words.
    pub fn failure(failure: ProxyStatus) -> Self {
        let status = StatusCode::from_u16(failure.error.status()).expect("every error's status is one");
        let body = Bytes::from(format!("{}\n", failure.details));
        Reply { status, headers: HeaderMap::new(), body, failure: Some(failure), by: None }
    }

    /// Names the document that refused, where it is written among it.
    #[must_use]
    pub fn by(mut self, document: &Arc<str>) -> Self {
        self.by = Some(document.clone());
        self
    }
}

/// A rule on a request and its answer.
pub trait Filter: fmt::Debug + Send + Sync {
    /// Sees the request before it is sent.
    fn on_request(&self, _exchange: &mut Exchange<'_>) -> Flow {
        Flow::Next
    }

    /// Sees the answer before it is given back.
    fn on_response(&self, _response: &mut response::Parts) {}
}

/// The filters of a rule, in order.
pub type Chain = Vec<Arc<dyn Filter>>;

/// Makes the filters that a rule names. Mirrors are none: copies are sent beside the request, by the proxy.
///
/// # Errors
/// What is wrong with one of them, in words.
pub fn compile(filters: &[causeway_model::Filter]) -> Result<Chain, String> {
    filters.iter().filter_map(|filter| compile_one(filter).transpose()).collect()
}

fn compile_one(filter: &causeway_model::Filter) -> Result<Option<Arc<dyn Filter>>, String> {
    use causeway_model::Filter as Model;
    let filter: Arc<dyn Filter> = match filter {
        Model::RequestHeaders(edit) => Arc::new(header_edit::RequestHeaders::compile(edit)?),
        Model::ResponseHeaders(edit) => Arc::new(header_edit::ResponseHeaders::compile(edit)?),
        Model::Redirect { scheme, hostname, path, port, status } => {
            let status = StatusCode::from_u16(*status).map_err(|_| format!("{status} is not a status"))?;
            Arc::new(redirect::Redirect {
                scheme: scheme.clone(),
                hostname: hostname.clone(),
                path: path.clone(),
                port: *port,
                status,
            })
        }
        Model::Rewrite { hostname, path } => {
            Arc::new(rewrite::Rewrite::compile(hostname.as_deref(), path.clone())?)
        }
        Model::Mirror { .. } => return Ok(None),
    };
    Ok(Some(filter))
}

/// Runs the request side of a chain. Ends early with the first reply.
pub async fn run(chain: &[Arc<dyn Filter>], exchange: &mut Exchange<'_>) -> Option<Box<Reply>> {
    for filter in chain {
        let mut flow = filter.on_request(exchange);
        loop {
            match flow {
                Flow::Next => break,
                Flow::Reply(reply) => return Some(reply),
                Flow::Wait(pending) => flow = pending.await,
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
