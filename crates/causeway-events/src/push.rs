//! One push: the call for an event, and what its answer means. Pure.
//!
//! In:    an event and where it goes; then the answer.     Out: a [`Call`] for `Outbound`; a [`Verdict`].
//! Owner: the subscription's task (`group.rs`) makes the calls.
//! Invariant: an answer means the same for every event and attempt; 3xx is not followed (it is retried, then dead).
//! Not here: which endpoint, mTLS, retries within the call (`causeway-proxy`).

use std::time::Duration;

use causeway_base::outbound::{Call, CallError};
use causeway_model::{ServiceKey, Timestamp};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::binding;
use crate::cloudevent::CloudEvent;

/// Most that is read of an answer: its body means nothing to us but for the log.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The longest `Retry-After` that is obeyed to the letter; a longer one is asked again after this.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// 2xx.
    Acked,
    /// 429 or 503 with `Retry-After`: nothing before then.
    Later { until: Timestamp },
    /// 410: nothing any more.
    Gone,
    /// 422: never this one.
    Refused { error: String },
    /// Anything else.
    Failed { error: String },
}

/// The call that pushes an event: binary mode, POST.
pub(crate) fn call(event: &CloudEvent, service: &ServiceKey, path: &str, timeout: Duration) -> Call {
    let (headers, body) = binding::encode_binary(event);
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers;
    request.headers_mut().insert("webhook-request-origin", HeaderValue::from_static("causeway"));
    *request.uri_mut() = path.parse().unwrap_or_else(|_| http::Uri::from_static("/"));
    Call {
        namespace: service.namespace.to_string(),
        service: service.name.to_string(),
        port: None,
        request,
        timeout,
        is_idempotent: true,
        answer_bytes_max: ANSWER_BYTES_MAX,
    }
}

/// Whether a path can be pushed to.
pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.parse::<http::Uri>().is_ok()
}

/// What an answer means.
pub(crate) fn verdict<B>(now: Timestamp, answer: Result<Response<B>, CallError>) -> Verdict {
    let response = match answer {
        Ok(response) => response,
        // The answer's body means nothing, but a status that came with too much of it is lost: count it as failed.
        Err(error) => return Verdict::Failed { error: error.to_string() },
    };
    let status = response.status();
    match status {
        _ if status.is_success() => Verdict::Acked,
        StatusCode::GONE => Verdict::Gone,
        StatusCode::UNPROCESSABLE_ENTITY => Verdict::Refused { error: format!("answered {status}") },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            match retry_after(now, response.headers()) {
                Some(until) => Verdict::Later { until },
                None => Verdict::Failed { error: format!("answered {status}") },
            }
        }
        _ => Verdict::Failed { error: format!("answered {status}") },
    }
}

/// `Retry-After` in either of its forms (RFC 9110, section 10.2.3).
fn retry_after(now: Timestamp, headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let until = match text.parse::<u64>() {
        Ok(seconds) => now.plus(Duration::from_secs(seconds)),
        Err(_) => Timestamp::from(httpdate::parse_http_date(text).ok()?),
    };
    Some(until.clamp(now, now.plus(RETRY_AFTER_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_what_they_mean() {
        let now = Timestamp::from_rfc3339("2026-11-20T10:00:00Z").unwrap();
        let check = |status: u16, header: Option<&str>, expect: Verdict| {
            let mut response = Response::builder().status(status);
            if let Some(value) = header {
                response = response.header("Retry-After", value);
            }
            assert_eq!(verdict(now, Ok(response.body(()).unwrap())), expect, "{status} {header:?}");
        };
        let failed = |error: &str| Verdict::Failed { error: error.to_owned() };
        let later = |seconds| Verdict::Later { until: now.plus(Duration::from_secs(seconds)) };
        check(204, None, Verdict::Acked);
        check(429, Some("7"), later(7));
        check(503, Some("Fri, 20 Nov 2026 10:01:00 GMT"), later(60));
        check(503, Some("Fri, 20 Nov 2020 10:01:00 GMT"), later(0));
        check(503, Some("999999999"), later(3600));
        check(503, Some("soon"), failed("answered 503 Service Unavailable"));
        check(503, None, failed("answered 503 Service Unavailable"));
        check(500, Some("7"), failed("answered 500 Internal Server Error"));
        check(302, None, failed("answered 302 Found"));
        check(410, None, Verdict::Gone);
        check(422, None, Verdict::Refused { error: "answered 422 Unprocessable Entity".to_owned() });
        let broken = verdict::<()>(now, Err(CallError::TimedOut(Duration::from_secs(1))));
        assert_eq!(broken, failed("no answer within 1s"));
    }

    #[test]
    fn the_call_carries_the_event() {
        let event = CloudEvent::new("1", "/s", "t").with_extension("traceparent", "00-1-2-01");
        let service = ServiceKey::parse("shop", "mail").unwrap();
        let call = call(&event, &service, "/events?x=1", Duration::from_secs(3));
        assert_eq!((call.namespace.as_str(), call.service.as_str()), ("shop", "mail"));
        assert_eq!(call.request.uri(), "/events?x=1");
        assert_eq!(call.request.headers()["ce-id"], "1");
        assert_eq!(call.request.headers()["traceparent"], "00-1-2-01");
        assert!(call.is_idempotent && is_path("/a?b") && !is_path("a") && !is_path("/a b"));
    }
}
