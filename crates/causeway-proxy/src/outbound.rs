//! The node's own calls: `Outbound` on the data path's balancer, pool, retries and mutual TLS.
//!
//! In:    a [`Call`].      Out: its answer, read whole, or why there is none.
//! Owner: a worker without listeners; it runs wherever its caller runs.
//! Invariant: a call goes straight to its service: routes are for traffic of services, not of the house.
//! Not here: what is called and when (`causeway-events`, `causeway-saga`).

use std::sync::Arc;

use bytes::Bytes;
use causeway_base::outbound::{Call, CallError, Outbound, Pending};
use causeway_model::ServiceKey;
use causeway_wire::proxy_status::PROXY_STATUS;
use causeway_wire::{ProxyError, ProxyStatus};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Response, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::time::Instant;

use crate::attempt::{Deadline, Delivery, Replay, Terms, deliver};
use crate::balance::Pull;
use crate::body::Inflow;
use crate::inlet::Inlet;
use crate::outgoing::Head;
use crate::pipeline;
use crate::plan::Rule;
use crate::settle::{self, Settle};
use crate::worker::Worker;

/// Calls services on behalf of the house.
pub(crate) struct Caller {
    pub worker: Arc<Worker>,
    pub inlet: Arc<Inlet>,
}

impl Outbound for Caller {
    fn call(&self, call: Call) -> Pending<Result<Response<Bytes>, CallError>> {
        let (worker, inlet) = (self.worker.clone(), self.inlet.clone());
        Box::pin(async move {
            let timeout = call.timeout;
            let settle = settle::start(&worker, &inlet, &call.request);
            match tokio::time::timeout(timeout, perform(&worker, settle, call)).await {
                Ok(answer) => answer,
                Err(_) => Err(CallError::TimedOut(timeout)),
            }
        })
    }
}

async fn perform(
    worker: &Arc<Worker>,
    mut settle: Box<Settle>,
    call: Call,
) -> Result<Response<Bytes>, CallError> {
    let name = format!("{}/{}", call.namespace, call.service);
    let unreachable = |why: &str| CallError::Unreachable { service: name.clone(), why: why.to_owned() };
    let key = ServiceKey::parse(&call.namespace, &call.service).map_err(|e| unreachable(&e.to_string()))?;
    let service = worker.shared.service(&key).await.ok_or_else(|| unreachable("it is not known"))?;
    let group = service.http_group(call.port).map_err(|why| unreachable(&format!("it {why}")))?;
    settle.service = Some(service.clone());
    let (head, mut body) = request(worker, &key, call.request, &mut settle);
    let rule = Rule::default();
    let terms = Terms::of(&rule, Some(&service));
    let delivery = Delivery {
        worker,
        group,
        service: Some(&service),
        port: call.port,
        terms: &terms,
        upgrades: false,
        deadline: Some(Deadline { at: Instant::now() + call.timeout, is_callers: false }),
        is_idempotent: call.is_idempotent,
        pull: Pull::default(),
    };
    let delivered = deliver(&delivery, &mut settle, &mut Some(head), &mut body).await;
    let answer = match delivered {
        Ok(response) => whole(response, call.answer_bytes_max, &name, &mut settle).await,
        Err(failure) => {
            settle.reason = failure.error.as_str();
            settle.details = failure.details.clone();
            Err(match failure.error {
                ProxyError::HttpResponseTimeout => CallError::TimedOut(call.timeout),
                error if error.may_be_processed() => CallError::Broken(failure.details),
                _ => unreachable(&failure.details),
            })
        }
    };
    settle.done("");
    answer
}

fn request(
    worker: &Worker,
    key: &ServiceKey,
    request: http::Request<Bytes>,
    settle: &mut Settle,
) -> (Head, Replay) {
    let (mut parts, bytes) = request.into_parts();
    let suffix = &worker.shared.mesh_suffix;
    let host = format!("{}.{}{suffix}", key.name, key.namespace);
    parts.headers.insert(HOST, HeaderValue::try_from(host).expect("names are ASCII"));
    let target = parts.uri.path_and_query().cloned();
    parts.uri = target.map(Uri::from).unwrap_or_default();
    parts.headers.remove(CONTENT_LENGTH);
    pipeline::identify(&mut parts, settle);
    settle.path = parts.uri.path_and_query().cloned();
    let body = Replay::Whole((!bytes.is_empty()).then_some(bytes));
    (Head { method: parts.method, uri: parts.uri, headers: parts.headers }, body)
}

/// Reads an answer whole. One in which the service's sidecar says that the service was not reached is no answer.
async fn whole(
    response: Response<Inflow>,
    bytes_max: usize,
    name: &str,
    settle: &mut Settle,
) -> Result<Response<Bytes>, CallError> {
    settle.status = response.status().as_u16();
    let is_mesh = settle.endpoint.as_ref().is_some_and(|endpoint| endpoint.is_mesh());
    if is_mesh
        && response.status().is_server_error()
        && let Some(error) = response.headers().get(&PROXY_STATUS).and_then(ProxyStatus::error_in)
    {
        let why = format!("its sidecar says {}", error.as_str());
        return Err(match error.may_be_processed() {
            true => CallError::Broken(why),
            false => CallError::Unreachable { service: name.to_owned(), why },
        });
    }
    let (parts, body) = response.into_parts();
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            settle.bytes = bytes.len() as u64;
            Ok(Response::from_parts(parts, bytes))
        }
        Err(error) => Err(match error.downcast::<http_body_util::LengthLimitError>() {
            Ok(_) => CallError::AnswerTooLarge(bytes_max),
            Err(error) => CallError::Broken(error.to_string()),
        }),
    }
}
