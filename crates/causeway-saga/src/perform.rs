//! One attempt: a rendered request goes out through `Outbound` or `Publish`, and what came back is read.
//!
//! In:    a rendered request and the names it must carry.     Out: an [`Outcome`], always.
//! Owner: the driver makes the future and polls it.
//! Invariant: whatever may have reached the participant without a definite answer is never called "unreached".
//! Not here: what the outcome means (`machine.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use serde_json::{Value as Json, json};

use causeway_base::outbound::{Call, CallError, Outbound, Pending, Publish, PublishError};
use causeway_model::Timestamp;

use crate::machine::{Outcome, Saga, Work};
use crate::plan::Rendered;
use crate::record::{Answer, Kind};
use crate::view::hex;

/// Longest answer of a step that is read: it is written into the journal, and later templates see it. A longer one counts as no
/// answer: the step may have happened.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Most bytes of an answer's headers that are kept, where the definition looks at headers.
const HEADERS_BYTES_MAX: usize = 8 << 10;
/// Longest text of a failed answer that the timeline shows.
const TEXT_CHARS_MAX: usize = 300;
/// `Proxy-Status` (RFC 9209): the mark of an answer that the mesh made itself.
const PROXY_STATUS: &str = "proxy-status";

/// Where calls and events go out.
#[derive(Clone)]
pub struct Doors {
    /// Calls services of the mesh.
    pub outbound: Arc<dyn Outbound>,
    /// Publishes events.
    pub publish: Arc<dyn Publish>,
}

/// What is the same for all attempts of this process, and what makes this one traceable.
pub(crate) struct Marks {
    pub(crate) epoch: u64,
    pub(crate) span: u64,
    pub(crate) now: Timestamp,
}

/// The attempt as a future; or its outcome at once, when the request cannot be made.
pub(crate) fn perform(
    doors: &Doors,
    saga: &Saga,
    work: Work,
    marks: &Marks,
) -> Result<Pending<Outcome>, Outcome> {
    let step = usize::from(work.step);
    let is_undo = work.kind == Kind::Undo;
    let rendered = saga.plan.render(step, is_undo, &saga.sources()).map_err(Outcome::Unrendered)?;
    let traceparent = format!("00-{}-{:016x}-01", hex(&saga.trace), marks.span);
    let name = &saga.plan.step(step).name;
    match rendered {
        Rendered::Publish { namespace, topic, event_type, data } => {
            let event = json!({
                "specversion": "1.0",
                "id": format!("{}/{name}", saga.id),
                "source": format!("/causeway/sagas/{namespace}/{}", saga.plan.definition.name),
                "type": event_type,
                "time": marks.now.to_rfc3339(),
                "datacontenttype": "application/json",
                "partitionkey": saga.id.as_str(),
                "traceparent": traceparent,
                "data": data,
            });
            let taken = doors.publish.publish(namespace.as_str(), topic.as_str(), event.to_string().into());
            Ok(Box::pin(async move { of_publish(taken.await) }))
        }
        Rendered::Call { service, method, path, headers, body } => {
            let key = format!("{}/{name}{}", saga.id, if is_undo { "/undo" } else { "" });
            let mut request = http::Request::builder().method(method).uri(&path);
            if let Some(all) = request.headers_mut() {
                if !body.is_empty() {
                    all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                }
                all.extend(headers);
                for (header, value) in [
                    ("idempotency-key", key.as_str()),
                    ("causeway-saga", saga.id.as_str()),
                    ("causeway-epoch", &marks.epoch.to_string()),
                    ("traceparent", &traceparent),
                ] {
                    let value = HeaderValue::from_str(value)
                        .map_err(|error| Outcome::Unrendered(format!("header {header}: {error}")))?;
                    all.insert(HeaderName::from_static(header), value);
                }
            }
            let request = request
                .body(body)
                .map_err(|error| Outcome::Unrendered(format!("path {path:?} cannot be sent: {error}")))?;
            let answer = doors.outbound.call(Call {
                namespace: service.namespace.to_string(),
                service: service.name.to_string(),
                port: None,
                request,
                timeout: saga.plan.step(step).timeout,
                // Our own retries carry the same key; a proxy's would make "never sent" and "sent twice" one answer.
                is_idempotent: false,
                answer_bytes_max: ANSWER_BYTES_MAX,
            });
            let keeps_headers = saga.plan.reads_headers;
            Ok(Box::pin(async move { of_call(answer.await, keeps_headers) }))
        }
    }
}

fn of_publish(taken: Result<(), PublishError>) -> Outcome {
    let answer = |status, text: Option<String>| Outcome::Answer {
        answer: Answer { status, headers: BTreeMap::new(), body: "null".into() },
        retry_after: None,
        is_ours: false,
        text,
    };
    match taken {
        Ok(()) => answer(200, None),
        Err(PublishError::Refused(why)) => answer(409, Some(why)),
        Err(PublishError::Unavailable(why)) => Outcome::Unanswered(format!("event not taken now: {why}")),
    }
}

fn of_call(answer: Result<Response<Bytes>, CallError>, keeps_headers: bool) -> Outcome {
    let response = match answer {
        Ok(response) => response,
        Err(error @ CallError::Unreachable { .. }) => return Outcome::Unreached(error.to_string()),
        Err(error) => return Outcome::Unanswered(error.to_string()),
    };
    let headers = response.headers();
    let is_failure = !response.status().is_success();
    Outcome::Answer {
        retry_after: retry_after(headers),
        is_ours: headers.contains_key(PROXY_STATUS),
        text: is_failure.then(|| text_of(response.body())).flatten(),
        answer: Answer {
            status: response.status().as_u16(),
            headers: if keeps_headers { kept(headers) } else { BTreeMap::new() },
            body: body_of(response.body()),
        },
    }
}

/// The body as JSON text: as it is when it is JSON, else as a JSON string; nothing is `null`.
fn body_of(body: &Bytes) -> String {
    let Ok(text) = std::str::from_utf8(body) else {
        return Json::String(String::from_utf8_lossy(body).into_owned()).to_string();
    };
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => text.to_owned(),
        Err(_) if text.is_empty() => "null".into(),
        Err(_) => Json::String(text.to_owned()).to_string(),
    }
}

/// What a failed answer says for people: `detail` or `title` of a problem, else its beginning.
fn text_of(body: &Bytes) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let problem: Option<Json> = serde_json::from_str(&text).ok();
    let said = problem.as_ref().and_then(|problem| {
        ["detail", "title", "message", "error"].iter().find_map(|name| problem.get(name)?.as_str())
    });
    let said = said.unwrap_or(text.trim());
    (!said.is_empty()).then(|| said.chars().take(TEXT_CHARS_MAX).collect())
}

/// Seconds only: a date would need the participant's clock to be ours.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn kept(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut bytes = 0;
    headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .take_while(|(name, value)| {
            bytes += name.len() + value.len();
            bytes <= HEADERS_BYTES_MAX
        })
        .collect()
}
