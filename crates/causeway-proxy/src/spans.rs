//! Spans of a request that is traced, by OpenTelemetry's semantic conventions (HTTP, stable).
//!
//! In:    the facts of a request that ended.      Out: its span, and one for each attempt.
//! Owner: nobody; pure.
//! Not here: which requests are traced (`trace`), where spans go (`ledger`, `otlp`).

use causeway_model::{Attribute, Span, SpanKind};
use http::{Method, Version};
use tokio::time::Instant;

use crate::facts::Facts;
use crate::inlet::Way;
use crate::story::{Attempt, cut};
use crate::trace::Kept;
use crate::worker::Shared;

/// Appends the spans of a request that ended.
pub(crate) fn of_request(out: &mut Vec<Span>, facts: &Facts, kept: &Kept, ended: Instant, shared: &Shared) {
    let attempts = facts.story.pages().map_or(&[][..], |pages| &pages.attempts);
    let is_out = is_out(&facts.inlet.way);
    // A call that was sent once is one span; several hang on a span of their own. What came in always has one.
    let parent = match attempts {
        [_] if is_out && facts.reason.is_empty() => kept.parent,
        _ => {
            out.push(whole(facts, kept, ended, shared, is_out && !attempts.is_empty()));
            kept.span
        }
    };
    // Beside its app a sidecar's own attempts say nothing that the span of the request does not.
    if matches!(facts.inlet.way, Way::Inbound) && attempts.len() <= 1 {
        return;
    }
    for (at, attempt) in attempts.iter().enumerate() {
        out.push(sent(facts, kept, attempt, at, parent, shared));
    }
}

/// The request as it came in or went out.
fn whole(facts: &Facts, kept: &Kept, ended: Instant, shared: &Shared, has_attempts: bool) -> Span {
    let is_out = is_out(&facts.inlet.way);
    let kind = match (is_out, has_attempts) {
        (true, true) => SpanKind::Internal,
        (true, false) => SpanKind::Client,
        (false, _) => SpanKind::Server,
    };
    let mut attributes = common(facts);
    let mut text = |name: &str, value: &str| push(&mut attributes, name, value);
    text("client.address", &facts.inlet.client.address.to_string());
    if let Some(identity) = &facts.inlet.client.identity {
        text("causeway.caller", &identity.to_string());
    }
    text("url.scheme", facts.inlet.client.scheme());
    let (name, version) = network(facts);
    text("network.protocol.name", name);
    text("network.protocol.version", version);
    text("causeway.request_id", facts.request_id());
    text("causeway.refused_by", facts.refused_by.as_deref().unwrap_or(""));
    let error = error(facts.status, facts.reason, 500);
    text("error.type", &error);
    status(&mut attributes, facts.status);
    Span {
        kind,
        is_error: !error.is_empty(),
        message: cut(&facts.details).into(),
        attributes,
        ..span(facts, kept, shared, (facts.started, ended), (kept.span, kept.parent))
    }
}

/// One attempt.
fn sent(facts: &Facts, kept: &Kept, attempt: &Attempt, at: usize, parent: u64, shared: &Shared) -> Span {
    let Attempt { endpoint, lap, status: answered, error: word, details } = attempt;
    let mut attributes = common(facts);
    let mut text = |name: &str, value: &str| push(&mut attributes, name, value);
    text("network.peer.address", &endpoint.host);
    text("causeway.endpoint", &endpoint.name);
    text("causeway.transport", endpoint.transport.as_str());
    let answered = answered.unwrap_or(0);
    let error = error(answered, word, 400);
    text("error.type", &error);
    attributes.push(("network.peer.port".into(), Attribute::Number(endpoint.port.into())));
    if at > 0 {
        attributes.push(("http.request.resend_count".into(), Attribute::Number(at as i64)));
    }
    status(&mut attributes, answered);
    // Of a request that was not to be kept, but failed, nobody was told of this span.
    let id = if lap.span == 0 { kept.span.wrapping_add(2 * (at as u64 + 1)) | 1 } else { lap.span };
    Span {
        kind: SpanKind::Client,
        is_error: !error.is_empty(),
        message: details.to_string(),
        attributes,
        ..span(facts, kept, shared, (lap.begun, lap.ended), (id, parent))
    }
}

/// Whether a request was on its way out of its caller's machine.
fn is_out(way: &Way) -> bool {
    !matches!(way, Way::Gateway(_) | Way::Inbound)
}

/// What is the same in all.
fn span(
    facts: &Facts,
    kept: &Kept,
    shared: &Shared,
    (begun, ended): (Instant, Instant),
    (id, parent): (u64, u64),
) -> Span {
    let state = kept.state.as_ref().and_then(|state| state.to_str().ok()).unwrap_or("");
    Span {
        trace: kept.trace,
        id,
        parent,
        kind: SpanKind::Internal,
        name: method(&facts.method).to_owned(),
        begun: shared.wall_micros(begun),
        micros: ended.saturating_duration_since(begun).as_micros() as u64,
        service: shared.source.clone(),
        instance: String::new(),
        is_error: false,
        message: String::new(),
        attributes: Vec::new(),
        state: cut(state).into(),
    }
}

fn common(facts: &Facts) -> Vec<(String, Attribute)> {
    let mut attributes = Vec::with_capacity(16);
    let mut text = |name: &str, value: &str| push(&mut attributes, name, value);
    text("http.request.method", method(&facts.method));
    text("url.path", cut_path(facts));
    let (host, port) = split(facts.host());
    text("server.address", host);
    if let Some(rule) = &facts.rule {
        text("causeway.route", &rule.label);
    }
    if let Some(service) = &facts.service {
        text("causeway.service", &service.key.to_string());
    }
    if let Some(port) = port {
        attributes.push(("server.port".into(), Attribute::Number(port.into())));
    }
    attributes
}

fn cut_path(facts: &Facts) -> &str {
    let path = facts.path.as_ref().map_or("", |path| path.path());
    // Paths are ASCII or percent-encoded, but for what a lenient client sends.
    let mut end = path.len().min(crate::limits::STORY_WORDS_MAX);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

fn split(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (host, None),
    }
}

/// What has no value is left out.
fn push(attributes: &mut Vec<(String, Attribute)>, name: &str, value: &str) {
    if !value.is_empty() {
        attributes.push((name.to_owned(), Attribute::Text(value.to_owned())));
    }
}

fn status(attributes: &mut Vec<(String, Attribute)>, status: u16) {
    if status != 0 {
        attributes.push(("http.response.status_code".into(), Attribute::Number(status.into())));
    }
}

/// `error.type`: our word for it, else the status when it is one of failure.
fn error(status: u16, reason: &str, from: u16) -> String {
    match reason {
        "" if status >= from => status.to_string(),
        reason => reason.to_owned(),
    }
}

/// Names of spans are few: what is no method that people know is `HTTP`.
fn method(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH") => {
            known
        }
        _ => "HTTP",
    }
}

/// Name and version of what was spoken.
const fn network(facts: &Facts) -> (&'static str, &'static str) {
    match facts.version {
        _ if facts.carried.is_some() => ("tcp", ""),
        Version::HTTP_10 => ("http", "1.0"),
        Version::HTTP_2 => ("http", "2"),
        Version::HTTP_3 => ("http", "3"),
        _ => ("http", "1.1"),
    }
}
