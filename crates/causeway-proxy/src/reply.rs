//! Answers of ours: refusals and failures, which say so in `Proxy-Status`.

use causeway_filters::Reply;
use causeway_wire::proxy_status::PROXY_STATUS;
use causeway_wire::trace::REQUEST_ID;
use causeway_wire::{ProxyError, ProxyStatus};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use crate::answer::Answer;
use crate::grpc::{self, GRPC_STATUS};
use crate::settle::Settle;

/// Why a request is not passed on: an answer of ours.
pub(crate) type Refused = Box<Reply>;

/// A failure, and what is said of it.
pub(crate) fn refuse(error: ProxyError, details: &str) -> Refused {
    Box::new(Reply::failure(ProxyStatus { error, details: details.to_owned() }))
}

/// Gives an answer of ours; it is written down when it has gone out.
pub(crate) fn give(mut settle: Box<Settle>, mut reply: Reply) -> Response<Answer> {
    settle.status = reply.status.as_u16();
    settle.in_flight = None;
    settle.place = None;
    settle.share = None;
    match &settle.grpc {
        Some(kind) => reply = grpc::translate(reply, kind),
        None => drop(reply.headers.remove(&GRPC_STATUS)),
    }
    let mut response = Response::new(());
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    let headers = response.headers_mut();
    if let Some(failure) = reply.failure {
        headers.insert(&PROXY_STATUS, failure.to_value());
        // Whoever refused it may know a better word.
        if settle.reason.is_empty() {
            settle.reason = failure.error.as_str();
        }
        settle.details = failure.details;
    }
    settle.refused_by = reply.by;
    if !reply.body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    if let Some(id) = &settle.request_id {
        headers.insert(&REQUEST_ID, id.clone());
    }
    response.map(|()| Answer::ours(reply.body, Some(settle)))
}
