//! Our own answers to calls of gRPC: a status of gRPC in a head that is all there is, or in the trailers of an answer that we end.
//!
//! In:    an answer of ours as HTTP has it.      Out: the same as gRPC has it.
//! Owner: nobody; pure.
//! Invariant: a client of gRPC learns the status from `grpc-status` and never has to guess it from one of HTTP; a sidecar on the way
//! still reads `Proxy-Status`.
//! Not here: statuses of services (they pass through), which of them are tried again (`attempt`).

use bytes::Bytes;
use causeway_filters::Reply;
use causeway_wire::ProxyError;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// The call's status.
pub(crate) static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// In words.
pub(crate) static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Statuses that say that the service, and not the request, is at fault: unknown (an exception that nobody caught), internal,
/// unavailable, data loss. What 500 and 503 are in HTTP.
const FAULTS: [u16; 4] = [2, 13, 14, 15];

/// What a message may not hold as it is (gRPC over HTTP/2, "Status-Message").
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

pub(crate) const DEADLINE_EXCEEDED: u16 = 4;
pub(crate) const UNAVAILABLE: u16 = 14;

/// Says a failure in the way of gRPC, to a call of this content type. Answers that are none stay as they are.
pub(crate) fn translate(mut reply: Reply, kind: &HeaderValue) -> Reply {
    if reply.status.as_u16() < 400 {
        return reply;
    }
    let said = reply.headers.get(&GRPC_STATUS).and_then(|said| said.to_str().ok()?.parse().ok());
    let status = said.unwrap_or_else(|| status_of(&reply));
    let words = match &reply.failure {
        Some(failure) => failure.details.clone(),
        None => String::from_utf8_lossy(&reply.body).trim_end().to_owned(),
    };
    reply.status = StatusCode::OK;
    reply.body = Bytes::new();
    reply.headers.insert(CONTENT_TYPE, kind.clone());
    reply.headers.extend(trailers(status, &words));
    reply
}

/// The status among the fields of a head or of trailers.
pub(crate) fn status(fields: &HeaderMap) -> Option<u16> {
    fields.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Whether they say that the service is at fault.
pub(crate) fn is_fault(fields: &HeaderMap) -> bool {
    status(fields).is_some_and(|status| FAULTS.contains(&status))
}

/// A status of gRPC with its words.
pub(crate) fn trailers(status: u16, words: &str) -> HeaderMap {
    let words = utf8_percent_encode(words, ESCAPED).to_string();
    let words = HeaderValue::try_from(words).expect("what is no visible ASCII was escaped");
    HeaderMap::from_iter([(GRPC_STATUS.clone(), status.into()), (GRPC_MESSAGE.clone(), words)])
}

fn status_of(reply: &Reply) -> u16 {
    const INVALID_ARGUMENT: u16 = 3;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAUTHENTICATED: u16 = 16;
    match (reply.failure.as_ref().map(|failure| failure.error), reply.status.as_u16()) {
        (Some(ProxyError::HttpResponseTimeout), _) => DEADLINE_EXCEEDED,
        (Some(ProxyError::ProxyConfigurationError | ProxyError::ProxyInternalError), _) => INTERNAL,
        (_, 400) => INVALID_ARGUMENT,
        (_, 401) => UNAUTHENTICATED,
        (_, 403) => PERMISSION_DENIED,
        (_, 404) => UNIMPLEMENTED,
        (_, 408 | 504) => DEADLINE_EXCEEDED,
        (_, 429) => RESOURCE_EXHAUSTED,
        (_, 500) => INTERNAL,
        _ => UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use causeway_wire::ProxyStatus;

    use super::*;

    const KIND: HeaderValue = HeaderValue::from_static("application/grpc+proto");

    #[test]
    fn failures_have_the_status_that_clients_of_grpc_expect() {
        for (error, expected) in [
            (ProxyError::HttpResponseTimeout, "4"),
            (ProxyError::HttpRequestDenied, "7"),
            (ProxyError::DestinationNotFound, "12"),
            (ProxyError::ConnectionLimitReached, "14"),
            (ProxyError::ConnectionRefused, "14"),
            (ProxyError::ConnectionTerminated, "14"),
            (ProxyError::ProxyConfigurationError, "13"),
            (ProxyError::HttpRequestError, "3"),
        ] {
            let details = "100 % of \u{fc}".to_owned();
            let reply = translate(Reply::failure(ProxyStatus { error, details }), &KIND);
            assert_eq!(reply.headers[&GRPC_STATUS], expected, "{error:?}");
            assert_eq!(reply.headers[&GRPC_MESSAGE], "100 %25 of %C3%BC");
            assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
            assert_eq!(reply.headers[CONTENT_TYPE], KIND);
            assert!(reply.failure.is_some(), "Proxy-Status is still said");
        }
    }

    #[test]
    fn what_a_filter_answers_is_translated_and_what_is_no_failure_is_not() {
        let reply = |status| Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"slow down\n"),
            failure: None,
            by: None,
        };
        let limited = translate(reply(429), &KIND);
        assert_eq!(
            (&limited.headers[&GRPC_STATUS], &limited.headers[&GRPC_MESSAGE]),
            (&HeaderValue::from(8), &HeaderValue::from_static("slow down"))
        );
        let mut chosen = reply(503);
        chosen.headers.insert(&GRPC_STATUS, HeaderValue::from(10));
        assert_eq!(translate(chosen, &KIND).headers[&GRPC_STATUS], "10");
        let redirect = translate(reply(302), &KIND);
        assert!(redirect.status == 302 && !redirect.headers.contains_key(&GRPC_STATUS));
    }
}
