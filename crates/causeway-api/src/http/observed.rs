//! Paths about what proxies saw: failures and why, traces, live requests, golden signals.
//!
//! In:    questions.      Out: what [`crate::Observed`] holds, as JSON or events.
//! Owner: the router.
//! Not here: what is kept and for how long (`crate::observed`, `crate::traffic`).

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use causeway_model::tap::TAP_RATE_MAX;
use causeway_model::{Name, Side, Tap, TraceId};
use futures_util::Stream;
use http::StatusCode;
use serde_json::{Value, json};

use super::observed_views as views;
use super::params::Params;
use super::problem::{Problem, code};
use super::query::Query;
use super::route::Route;
use super::state::Door;
use super::stream;
use crate::observed::Watching;
use crate::observed::taps::Shown;
use crate::traffic::{By, WINDOW};

/// Failures and traces in one answer.
const LIST: usize = 50;
/// At most.
const LIST_MAX: usize = 1_000;
/// Requests a second that each proxy reports for a tap when nothing is said: what a person can read, and a program that asks for
/// more can say so.
const TAP_RATE: u32 = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/failures", "Requests that failed lately, newest first", failures).query(&[
            ("service", "only those of this service: that it made, or that were made to it"),
            ("namespace", "only those of this namespace"),
            ("limit", "how many, 50 unless said"),
        ]),
        Route::get("/v1/failures/{id}", "Every account of one request that failed, from the edge inwards", failure)
            .answers(&[(200, "what each proxy on its way saw"), (404, "no proxy has told of it")]),
        Route::get("/v1/traces", "Traces that began lately, newest first", traces).query(&[
            ("service", "only those that this service had a part in"),
            ("namespace", "only those of this namespace"),
            ("limit", "how many, 50 unless said"),
        ]),
        Route::get("/v1/traces/{id}", "The spans of one trace", trace)
            .answers(&[(200, "its spans, in the order in which they began"), (404, "none is kept")]),
        Route::get("/v1/traffic", "Golden signals of the last seconds: rate, failures, latencies, retries", traffic).query(&[
            ("by", "edge (caller and callee) or service (callee); edge unless said"),
            ("service", "only calls to or from this service"),
            ("namespace", "only calls to or from this namespace"),
            ("window", "the last so many seconds, 10s unless said, and at most"),
        ]),
        Route::get("/v1/tap", "Live requests as they end, as server-sent events", tap)
            .query(&[
                ("service", "only calls of this service"),
                ("namespace", "only calls of services of this namespace"),
                ("from", "only calls by this service"),
                ("status", "only answers of this status: 503, 5xx, 400-499, or 0 for none"),
                ("path", "only paths that begin so"),
                ("method", "only this method"),
                ("side", "as seen at the gateway, beside the caller, the callee, or in the house; everywhere but beside the callee unless said"),
                ("rate", "requests a second from each proxy at most, 100 unless said"),
            ])
            .answers(&[(200, "text/event-stream: request, lost")]),
    ]
}

async fn failures(State(door): State<Door>, query: Query) -> Result<Json<Value>, Problem> {
    let (namespace, service) = (query.name("namespace")?, query.name("service")?);
    let limit = query.count("limit", LIST_MAX)?.unwrap_or(LIST);
    let found = door.observed.failures.newest(namespace.as_ref(), service.as_ref(), limit);
    let list: Vec<Value> = found.iter().map(|failure| views::failure(failure)).collect();
    Ok(Json(json!({ "failures": list })))
}

async fn failure(State(door): State<Door>, params: Params) -> Result<Json<Value>, Problem> {
    let id = params.text("id");
    let found = door.observed.failures.of(id);
    if found.is_empty() {
        let id: String = id.chars().take(128).collect();
        let text = format!(
            "no proxy has told of a failure of the request {id:?}: it went well, or it is too long ago, or no proxy of this mesh saw it"
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, code::NOT_TOLD, text));
    }
    let accounts: Vec<Value> = found.iter().map(|failure| views::failure(failure)).collect();
    Ok(Json(json!({ "requestId": found[0].request_id, "traceId": found[0].trace_id, "accounts": accounts })))
}

async fn traces(State(door): State<Door>, query: Query) -> Result<Json<Value>, Problem> {
    let (namespace, service) = (query.name("namespace")?, query.name("service")?);
    let limit = query.count("limit", LIST_MAX)?.unwrap_or(LIST);
    let found = door.observed.traces.newest(namespace.as_ref(), service.as_ref(), limit);
    let list: Vec<Value> = found.iter().map(|(id, first, spans)| views::trace(*id, first, *spans)).collect();
    Ok(Json(json!({ "traces": list })))
}

async fn trace(State(door): State<Door>, params: Params) -> Result<Json<Value>, Problem> {
    let text = params.text("id");
    let id = TraceId::parse(text)
        .ok_or_else(|| Problem::parameter("the id of a trace is 32 hexadecimal digits, not all of them 0"))?;
    let spans = door.observed.traces.trace(id);
    if spans.is_empty() {
        let text = format!("no span of the trace {id} is kept: it was not sampled, or it is too long ago");
        return Err(Problem::new(StatusCode::NOT_FOUND, code::NOT_TOLD, text));
    }
    let list: Vec<Value> = spans.iter().map(|span| views::span(span)).collect();
    Ok(Json(json!({ "traceId": id.to_string(), "spans": list })))
}

async fn traffic(State(door): State<Door>, query: Query) -> Result<Json<Value>, Problem> {
    let (namespace, service) = (query.name("namespace")?, query.name("service")?);
    let window = query.duration("window", WINDOW)?.unwrap_or(WINDOW);
    let by = query.get("by", "edge or service", |text| match text {
        "edge" => Some(By::Edge),
        "service" => Some(By::Service),
        _ => None,
    })?;
    let is_of = |wanted: &Option<Name>, names: [&Name; 2]| {
        wanted.as_ref().is_none_or(|wanted| names.contains(&wanted))
    };
    let signals = door.observed.traffic.signals(window, by.unwrap_or(By::Edge), |source, target| {
        is_of(&namespace, [&source.namespace, &target.namespace])
            && is_of(&service, [&source.name, &target.name])
    });
    let rows: Vec<Value> = signals.iter().map(views::signal).collect();
    Ok(Json(json!({ "windowSeconds": window.as_secs_f64(), "rows": rows })))
}

async fn tap(State(door): State<Door>, query: Query) -> Result<Response, Problem> {
    let tap = Tap {
        id: 0,
        service: query.name("service")?,
        namespace: query.name("namespace")?,
        from: query.name("from")?,
        status: query.get("status", "a status such as 503, 5xx, 400-499 or 0", statuses)?,
        path: query.text("path").map(str::to_owned),
        method: query.text("method").map(str::to_ascii_uppercase),
        side: query.get("side", "gateway, caller, callee or house", side)?,
        per_second: query
            .count("rate", TAP_RATE_MAX as usize)?
            .map_or(TAP_RATE, |rate| u32::try_from(rate).unwrap_or(TAP_RATE_MAX)),
    };
    let place = door.stream()?;
    let watching = door.observed.live.watch(tap).map_err(|error| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code::STREAMS, error.to_string()).after(1)
    })?;
    Ok(stream::response(shown(watching), place))
}

fn shown(watching: Watching) -> impl Stream<Item = Event> + Send {
    futures_util::stream::unfold(watching, |mut watching| async move {
        let event = match watching.next().await? {
            Shown::Request(tapped) => {
                Event::default().event("request").data(views::tapped(&tapped).to_string())
            }
            Shown::Lost(count) => Event::default().event("lost").data(json!({ "count": count }).to_string()),
        };
        Some((event, watching))
    })
}

/// `503`, `5xx`, `400-499`, `0`.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|status| *status < 1_000);
    if let Some(class) = text.strip_suffix("xx") {
        let class = number(class).filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    match text.split_once('-') {
        Some((from, to)) => Some((number(from)?, number(to)?)).filter(|(from, to)| from <= to),
        None => number(text).map(|status| (status, status)),
    }
}

fn side(text: &str) -> Option<Side> {
    [Side::Gateway, Side::Caller, Side::Callee, Side::House].into_iter().find(|side| side.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_one_a_class_or_a_range() {
        for (text, range) in [
            ("503", Some((503, 503))),
            ("5xx", Some((500, 599))),
            ("400-499", Some((400, 499))),
            ("0", Some((0, 0))),
            ("6xx", None),
            ("499-400", None),
            ("x", None),
            ("-1", None),
            ("1000", None),
        ] {
            assert_eq!(statuses(text), range, "{text}");
        }
    }
}
