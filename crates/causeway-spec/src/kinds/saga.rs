//! Kind Saga: steps with what undoes them.
//!
//! In:    a spec's node, or an API body.     Out: [`SagaDefinition`].
//! Owner: the reader of one text.
//! Invariant: step names are unique; a step calls or publishes, never both; at most one step is the pivot.
//! Not here: compiling the `${…}` (saga).

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_model::{Action, Name, RetryPolicy, SagaDefinition, ServiceCall, Stage, Step};

use super::subscription::{retry, service_key};
use crate::problem::Code;
use crate::reader::{At, Fields, Reader};
use crate::text;
use crate::tree::{Node, Value};

/// Bound on one attempt of a step that names none.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Most stages of a saga, and most steps side by side: the definition rides with each saga that is started.
const STAGES_MAX: usize = 500;
const PARALLEL_MAX: usize = 100;
/// Most headers of a call.
const HEADERS_MAX: usize = 64;

/// What is remembered from step to step.
#[derive(Default)]
struct Seen {
    names: BTreeMap<Name, u32>,
    /// The pivot's name and the stage it is in.
    pivot: Option<(Name, usize)>,
}

pub(crate) fn read(
    r: &mut Reader<'_>,
    namespace: &Name,
    name: &Name,
    spec: &At<'_>,
) -> Option<SagaDefinition> {
    let mut f = spec.fields(r)?;
    let timeout = f.take("timeout").and_then(|at| {
        let timeout = at.long_duration(r)?;
        if timeout.is_zero() {
            at.report(r, Code::OutOfRange, "must be longer than zero", "leave it out for no bound");
        }
        Some(timeout)
    });
    let mut seen = Seen::default();
    let stages = f.need(r, "steps", "[{name: reserve, call: {…}}]").and_then(|at| {
        let entries = at.list(r, STAGES_MAX)?;
        if entries.is_empty() {
            at.report(r, Code::OutOfRange, "must have at least one entry", "write a step: `- name: reserve`");
        }
        let read = |(index, at): (usize, &At<'_>)| stage(r, namespace, at, index, &mut seen);
        Some(entries.iter().enumerate().filter_map(read).collect::<Vec<_>>())
    });
    f.done(r);
    Some(SagaDefinition { namespace: namespace.clone(), name: name.clone(), timeout, stages: stages? })
}

fn stage(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>, index: usize, seen: &mut Seen) -> Option<Stage> {
    if at.node.get("parallel").is_none() {
        return Some(Stage { steps: vec![step(r, namespace, at, index, seen)?] });
    }
    let mut f = at.fields(r)?;
    let steps = f.need(r, "parallel", "[{name: a, call: {…}}, {name: b, call: {…}}]").and_then(|at| {
        let entries = at.list(r, PARALLEL_MAX)?;
        if entries.is_empty() {
            let hint = "write the steps that run side by side, or remove it";
            at.report(r, Code::OutOfRange, "must have at least one entry", hint);
        }
        let mut steps = Vec::new();
        for at in &entries {
            if at.node.get("parallel").is_some() {
                let hint = "write all of its steps into the outer `parallel`";
                at.report(r, Code::Contradiction, "is a parallel group within another", hint);
                continue;
            }
            steps.extend(step(r, namespace, at, index, seen));
        }
        Some(steps)
    });
    f.done(r);
    Some(Stage { steps: steps? })
}

fn step(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>, stage: usize, seen: &mut Seen) -> Option<Step> {
    let mut f = at.fields(r)?;
    let name_at = f.need(r, "name", "reserve");
    let name = name_at.as_ref().and_then(|at| at.name(r));
    if let (Some(at), Some(name)) = (&name_at, &name)
        && let Some(line) = seen.names.insert(name.clone(), at.mark().line)
    {
        let hint = format!("the first {name:?} is at line {line}; give each step its own name");
        at.report(r, Code::Repeated, format_args!("{name:?} is the name of an earlier step"), hint);
    }
    let action = action(r, namespace, &mut f);
    let compensate_at = f.take("compensate");
    let compensate = compensate_at.as_ref().map(|at| call(r, namespace, at));
    let retry = f.take("retry").map_or(Some(RetryPolicy::default()), |at| retry(r, &at));
    let timeout = f.take("timeout").map_or(Some(STEP_TIMEOUT), |at| at.wait(r));
    let pivot_at = f.take("pivot");
    let is_pivot = pivot_at.as_ref().and_then(|at| at.boolean(r)).unwrap_or(false);
    f.done(r);
    check_pivot(
        r,
        compensate_at.as_ref(),
        pivot_at.as_ref().filter(|_| is_pivot),
        name.as_ref(),
        stage,
        seen,
    );
    let compensate = match compensate {
        Some(call) => Some(call?),
        None => None,
    };
    Some(Step { name: name?, action: action?, compensate, retry: retry?, timeout: timeout?, is_pivot })
}

fn check_pivot(
    r: &mut Reader<'_>,
    compensate_at: Option<&At<'_>>,
    pivot_at: Option<&At<'_>>,
    name: Option<&Name>,
    stage: usize,
    seen: &mut Seen,
) {
    match (&seen.pivot, pivot_at) {
        (Some((pivot, _)), Some(at)) => {
            let hint = "a saga has one point of no return: keep the last step that can still be refused";
            at.report(
                r,
                Code::Repeated,
                format_args!("is true, but the step {pivot:?} is the pivot already"),
                hint,
            );
        }
        (Some((pivot, pivot_stage)), None) if stage > *pivot_stage => {
            if let Some(at) = compensate_at {
                let message = format!("can never run: after the pivot {pivot:?} the saga only goes forward");
                at.report(r, Code::Unreachable, message, "leave it out, or move the pivot behind this step");
            }
        }
        (Some(_), None) | (None, None) => {}
        (None, Some(_)) => seen.pivot = name.map(|name| (name.clone(), stage)),
    }
}

fn action(r: &mut Reader<'_>, namespace: &Name, f: &mut Fields<'_>) -> Option<Action> {
    match (f.take("call"), f.take("publish")) {
        (Some(at), None) => call(r, namespace, &at).map(Action::Call),
        (None, Some(at)) => publish(r, &at),
        (Some(call_at), Some(at)) => {
            call(r, namespace, &call_at);
            publish(r, &at);
            let hint = "make two steps of it: one calls, the next one publishes";
            at.report(r, Code::Contradiction, "and call exclude each other", hint);
            None
        }
        (None, None) => {
            let hint = "write `call: {service: inventory, method: POST, path: /reservations}`, or `publish: {topic: …}`";
            f.at.report(r, Code::Missing, "has neither `call` nor `publish`", hint);
            None
        }
    }
}

fn call(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<ServiceCall> {
    let mut f = at.fields(r)?;
    let service = service_key(r, namespace, &mut f);
    let method = f.take("method").map_or(Some("POST".to_owned()), |at| text::method(r, &at));
    let path = f.need(r, "path", "/reservations").and_then(|at| {
        let path = text::request_path(r, &at)?;
        text::template(r, &at, &path).then_some(path)
    });
    let headers = f.take("headers").map_or(Some(BTreeMap::new()), |at| headers(r, &at));
    let body_at = f.take("body");
    let body = body_at.as_ref().map(|at| json_template(r, at));
    f.done(r);
    Some(ServiceCall { service: service?, method: method?, path: path?, headers: headers?, body })
}

fn headers(r: &mut Reader<'_>, at: &At<'_>) -> Option<BTreeMap<String, String>> {
    let entries = at.free_map(r)?;
    if entries.len() > HEADERS_MAX {
        at.report(
            r,
            Code::OutOfRange,
            format_args!("has more than {HEADERS_MAX} headers"),
            "send it in the body",
        );
    }
    let mut headers = BTreeMap::new();
    for (entry, at) in entries {
        let (Some(name), Some(value)) = (text::header_key(r, &at, &entry.key), text::header_value(r, &at))
        else {
            continue;
        };
        text::template(r, &at, &value);
        if headers.insert(name.clone(), value).is_some() {
            at.report(r, Code::Repeated, format_args!("is a second {name:?}"), "write each header once");
        }
    }
    Some(headers)
}

fn publish(r: &mut Reader<'_>, at: &At<'_>) -> Option<Action> {
    let mut f = at.fields(r)?;
    let topic = f.need(r, "topic", "orders").and_then(|at| at.name(r));
    let event_type = f.need(r, "type", "order.placed").and_then(|at| {
        let text = text::label(r, &at)?;
        text::template(r, &at, &text).then_some(text)
    });
    let data_at = f.take("data");
    let data = data_at.as_ref().map_or_else(|| "null".to_owned(), |at| json_template(r, at));
    f.done(r);
    Some(Action::Publish { topic: topic?, event_type: event_type?, data })
}

/// Any JSON whose texts may hold `${…}`; its text.
fn json_template(r: &mut Reader<'_>, at: &At<'_>) -> String {
    check_templates(r, at.node, &at.path);
    at.node.to_json()
}

fn check_templates(r: &mut Reader<'_>, node: &Node, path: &str) {
    match &node.value {
        Value::Text(text) => {
            text::template(r, &At::new(node, path), text);
        }
        Value::List(items) => items.iter().for_each(|item| check_templates(r, item, path)),
        Value::Map(entries) => entries.iter().for_each(|entry| check_templates(r, &entry.value, path)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
