//! What the API shows of failures, traces, live requests and golden signals, as JSON.
//!
//! In:    values of the model.      Out: JSON; names are camelCase, times RFC 3339, durations in milliseconds.
//! Owner: nobody; pure.
//! Not here: everything else that is shown (`views.rs`).

use causeway_model::{Attribute, Failure, ServiceKey, Span, Tapped, Timestamp, TraceId};
use serde_json::{Map, Value, json};

use crate::traffic::Signal;

/// One proxy's account of a request that failed.
pub(super) fn failure(failure: &Failure) -> Value {
    let tried = failure.tried.iter().map(|attempt| {
        json!({
            "endpoint": attempt.endpoint,
            "address": attempt.address,
            "transport": attempt.transport,
            "afterMs": millis(attempt.after),
            "durationMs": millis(attempt.micros),
            "status": status(attempt.status),
            "error": attempt.error,
            "details": attempt.details,
        })
    });
    let passed_over =
        failure.passed_over.iter().map(|other| json!({ "endpoint": other.endpoint, "why": other.why }));
    json!({
        "time": failure.at.to_rfc3339(),
        "requestId": failure.request_id,
        "traceId": failure.trace_id,
        "side": failure.side.as_str(),
        "seenBy": failure.seen_by.to_string(),
        "instance": failure.instance,
        "method": failure.method,
        "host": failure.host,
        "path": failure.path,
        "protocol": failure.protocol,
        "caller": failure.caller,
        "rule": failure.rule,
        "ruleWrittenAt": failure.rule_origin,
        "refusedBy": failure.refused_by,
        "service": name(failure.service.as_ref()),
        "endpoint": failure.endpoint,
        "status": status(failure.status),
        "reason": failure.reason,
        "details": failure.details,
        "durationMs": millis(failure.micros),
        "attempts": failure.attempts,
        "tried": tried.collect::<Vec<_>>(),
        "passedOver": passed_over.collect::<Vec<_>>(),
        "notes": failure.notes,
        "untold": failure.untold,
    })
}

/// A trace in a list.
pub(super) fn trace(id: TraceId, first: &Span, spans: usize) -> Value {
    json!({
        "traceId": id.to_string(),
        "time": Timestamp::from_millis(first.begun / 1000).to_rfc3339(),
        "service": first.service.to_string(),
        "name": first.name,
        "durationMs": millis(first.micros),
        "isError": first.is_error,
        "spans": spans,
    })
}

/// A span.
pub(super) fn span(span: &Span) -> Value {
    let attributes = span.attributes.iter().map(|(name, value)| {
        let value = match value {
            Attribute::Text(text) => text.as_str().into(),
            Attribute::Number(number) => Value::from(*number),
        };
        (name.clone(), value)
    });
    json!({
        "spanId": format!("{:016x}", span.id),
        "parentId": (span.parent != 0).then(|| format!("{:016x}", span.parent)),
        "kind": span.kind.as_str(),
        "name": span.name,
        "service": span.service.to_string(),
        "instance": span.instance,
        "time": Timestamp::from_millis(span.begun / 1000).to_rfc3339(),
        "startUs": span.begun,
        "durationMs": millis(span.micros),
        "isError": span.is_error,
        "message": span.message,
        "attributes": attributes.collect::<Map<_, _>>(),
    })
}

/// A live request.
pub(super) fn tapped(tapped: &Tapped) -> Value {
    json!({
        "time": tapped.at.to_rfc3339(),
        "side": tapped.side.as_str(),
        "seenBy": tapped.seen_by.to_string(),
        "instance": tapped.instance,
        "requestId": tapped.request_id,
        "traceId": tapped.trace_id,
        "caller": tapped.caller,
        "service": name(tapped.service.as_ref()),
        "endpoint": tapped.endpoint,
        "method": tapped.method,
        "host": tapped.host,
        "path": tapped.path,
        "protocol": tapped.protocol,
        "status": status(tapped.status),
        "reason": tapped.reason,
        "durationMs": millis(tapped.micros),
        "bytes": tapped.bytes,
        "attempts": tapped.attempts,
        "rule": tapped.rule,
    })
}

/// Golden signals of calls.
pub(super) fn signal(signal: &Signal) -> Value {
    json!({
        "source": name(signal.source.as_ref()),
        "target": signal.target.to_string(),
        "rate": signal.rate,
        "failureRate": signal.failure_rate,
        "success": signal.success,
        "retryRate": signal.retry_rate,
        "latencyMs": signal.latency_ms,
        "p50Ms": signal.quantiles_ms[0],
        "p95Ms": signal.quantiles_ms[1],
        "p99Ms": signal.quantiles_ms[2],
        "latencyMsMax": signal.latency_ms_max,
    })
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// No answer is null, not 0.
fn status(status: u16) -> Option<u16> {
    (status != 0).then_some(status)
}

fn name(service: Option<&ServiceKey>) -> Option<String> {
    service.map(ToString::to_string)
}
