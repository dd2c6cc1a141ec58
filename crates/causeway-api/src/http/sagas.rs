//! Sagas: started, looked at, mended.
//!
//! In:    starts with a definition by name or written out, commands of people.      Out: how each saga stands.
//! Owner: the router.
//! Invariant: a start that was answered is durable; the same start again is the same saga (200 instead of 201).
//! Not here: running them (`causeway-saga`).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use causeway_model::{Kind, Name, ObjectKey, SagaDefinition, Spec, Timestamp};
use causeway_saga::{
    Command, Edit, Filter, LIST_LIMIT, Moment, Start, Status, StepEdit, StepState, Summary, View,
};
use causeway_spec::body::Definition;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::body::{self, COMMAND_BYTES_MAX};
use super::params::Params;
use super::problem::Problem;
use super::query::Query;
use super::route::Route;
use super::state::Door;
use super::{topics, views};

/// Most sagas of one list.
const LIST_MAX: usize = 1000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::put("/v1/sagas/definitions/{name}", "Declares a definition", define)
            .scoped()
            .json("the `spec` of kind Saga"),
        Route::post("/v1/sagas", "Starts a saga; again with the same id it is the same one", start)
            .scoped()
            .json("{\"id\": …, \"definition\": name or definition, \"input\": …, \"wait\": \"10s\", \"namespace\": …}")
            .answers(&[(201, "started"), (200, "it was there already"), (409, "the id is another saga's")]),
        Route::get("/v1/sagas", "Sagas, the newest first, and how many have each status", list)
            .scoped()
            .query(&[
                ("status", "only of this status"),
                ("definition", "only of this definition"),
                ("since", "only those started at this time (RFC 3339) or later"),
                ("limit", "most of them, 100 unless said"),
            ]),
        Route::get("/v1/sagas/{id}", "A saga with its steps and its timeline", show).scoped(),
        Route::post("/v1/sagas/{id}/retry", "Tries again now what waits or is stuck", retry).scoped().json("{}"),
        Route::post("/v1/sagas/{id}/skip", "Takes a step as settled by hand", skip).scoped().json("{\"step\": …}"),
        Route::post("/v1/sagas/{id}/edit", "Changes what is sent from now on", edit)
            .scoped()
            .json("{\"input\": …} or {\"step\": …, \"undo\": false, \"path\": …, \"body\": …}"),
        Route::post("/v1/sagas/{id}/compensate", "Undoes it, also past its pivot", compensate)
            .scoped()
            .json("{\"reason\": …}"),
        Route::post("/v1/sagas/{id}/resolve", "Ends it as settled by hand", resolve)
            .scoped()
            .json("{\"status\": \"done|undone|failed\", \"note\": …}"),
        Route::post("/v1/sagas/{id}/cancel", "Undoes it before its pivot", cancel).scoped().json("{\"reason\": …}"),
    ]
}

// === starting ===

async fn define(State(door): State<Door>, params: Params, body: Body) -> Result<Response, Problem> {
    let (namespace, name) = (params.namespace()?, params.name("name")?);
    let bytes = body::read(body, COMMAND_BYTES_MAX).await?;
    topics::declare(&door, causeway_spec::body::saga(&namespace, &name, &bytes)?).await
}

async fn start(
    State(door): State<Door>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let sagas = door.sagas()?;
    let said = causeway_spec::body::start(&params.namespace()?, &body::read(body, COMMAND_BYTES_MAX).await?)?;
    let definition = match said.definition {
        Definition::Inline(definition) => definition,
        Definition::Named(name) => declared(&door, said.namespace, name)?,
    };
    let id = said.id.map(|id| id.parse()).transpose();
    let id =
        id.map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "CW-1012", format!("{error}")))?;
    let start = Start {
        id,
        definition: Arc::new(definition),
        input: said.input,
        caller: views::CALLER.to_owned(),
        trace: trace(&headers),
    };
    let started = sagas.start(start).await?;
    let status = if started.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let view = match said.wait {
        None | Some(Duration::ZERO) => started.view,
        Some(wait) => sagas.wait(&started.view.summary.id, wait).await?,
    };
    Ok((status, Json(saga(&view))).into_response())
}

fn declared(door: &Door, namespace: Name, name: Name) -> Result<SagaDefinition, Problem> {
    let key = ObjectKey { kind: Kind::Saga, namespace, name };
    match door.registry.snapshot().object(&key).map(|object| &object.spec) {
        Some(Spec::Saga(definition)) => Ok(definition.clone()),
        _ => Err(Problem::not_there(format!(
            "there is no definition {}/{}: PUT /v1/namespaces/{}/sagas/definitions/{}, or a document of kind Saga, declares it",
            key.namespace, key.name, key.namespace, key.name
        ))),
    }
}

/// The trace id of W3C `traceparent`: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`.
fn trace(headers: &HeaderMap) -> Option<[u8; 16]> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let id = text.split('-').nth(1).filter(|id| id.len() == 32 && text.len() >= 55)?;
    let is_hex = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let number = u128::from_str_radix(id, 16).ok().filter(|number| is_hex && *number != 0)?;
    Some(number.to_be_bytes())
}

// === looking ===

async fn list(State(door): State<Door>, params: Params, query: Query) -> Result<Json<Value>, Problem> {
    let sagas = door.sagas()?;
    let scope = params.scope()?;
    let words = Status::ALL.map(Status::as_str).join(", ");
    let limit = query.count("limit", LIST_MAX)?.unwrap_or(LIST_LIMIT);
    let filter = Filter {
        status: query.get("status", &format!("one of {words}"), Status::find)?,
        definition: query.name("definition")?,
        since: query.get("since", "a time in RFC 3339", Timestamp::from_rfc3339)?,
        // A namespace is picked out afterwards, so that all must be looked at for it.
        limit: if scope.is_some() { usize::MAX } else { limit },
    };
    let found = sagas.list(&filter);
    let wanted = found.iter().filter(|saga| scope.as_ref().is_none_or(|scope| saga.namespace == *scope));
    let shown: Vec<Value> = wanted.take(limit).map(summary).collect();
    let counts = sagas.counts();
    let counts: Map<String, Value> = Status::ALL
        .into_iter()
        .map(|status| (status.as_str().to_owned(), counts.of(status).into()))
        .collect();
    Ok(Json(json!({ "counts": counts, "sagas": shown })))
}

async fn show(State(door): State<Door>, params: Params) -> Result<Json<Value>, Problem> {
    found(&door, &params).map(|view| Json(saga(&view)))
}

/// The saga of the path; one of another namespace than the path says is not there.
fn found(door: &Door, params: &Params) -> Result<View, Problem> {
    let id = params.saga()?;
    let view = door.sagas()?.get(&id)?;
    match params.scope()? {
        Some(scope) if scope != view.summary.namespace => {
            Err(causeway_saga::Error::from(causeway_saga::ErrorKind::NotFound(id)).into())
        }
        _ => Ok(view),
    }
}

// === mending ===

async fn tell(door: &Door, params: &Params, command: Command) -> Result<Json<Value>, Problem> {
    let id = found(door, params)?.summary.id;
    let view = door.sagas()?.command(&id, command, views::CALLER).await?;
    Ok(Json(saga(&view)))
}

async fn retry(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    causeway_spec::body::nothing(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    tell(&door, &params, Command::Retry).await
}

async fn skip(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let step = causeway_spec::body::skip(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    tell(&door, &params, Command::Skip { step }).await
}

async fn edit(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let said = causeway_spec::body::edit(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let step = said.step.map(|step| StepEdit {
        step: step.step,
        is_undo: step.is_undo,
        path: step.path,
        body: step.body,
    });
    tell(&door, &params, Command::Edit(Edit { input: said.input, step })).await
}

async fn compensate(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let reason = causeway_spec::body::reason(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    tell(&door, &params, Command::Compensate { reason }).await
}

async fn cancel(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let reason = causeway_spec::body::reason(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    tell(&door, &params, Command::Cancel { reason }).await
}

async fn resolve(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let said = causeway_spec::body::resolve(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let status = match said.status.and_then(Status::find) {
        Some(status) => status,
        None => settled(&found(&door, &params)?),
    };
    tell(&door, &params, Command::Resolve { status, note: said.note }).await
}

/// What a saga that was settled by hand has ended as, when nobody says: undone if it was on its way back, else done.
fn settled(view: &View) -> Status {
    let is_back = view.steps.iter().any(|step| matches!(step.state, StepState::Undoing | StepState::Undone));
    if is_back { Status::Undone } else { Status::Done }
}

// === views ===

#[derive(Serialize)]
struct StepLine<'a> {
    name: &'a str,
    stage: usize,
    state: &'static str,
    pivot: bool,
    attempts: u32,
    #[serde(rename = "nextAttemptAt")]
    next_attempt: Option<String>,
    status: Option<u16>,
    body: Option<Box<RawValue>>,
}

fn summary(summary: &Summary) -> Value {
    json!({
        "id": summary.id.as_str(),
        "namespace": summary.namespace.as_str(),
        "definition": summary.definition.as_str(),
        "status": summary.status.as_str(),
        "startedAt": summary.started.to_rfc3339(),
        "endedAt": summary.ended.map(Timestamp::to_rfc3339),
        "error": summary.error,
    })
}

fn saga(view: &View) -> Value {
    let steps: Vec<StepLine<'_>> = view
        .steps
        .iter()
        .map(|step| StepLine {
            name: step.name.as_str(),
            stage: step.stage,
            state: step.state.as_str(),
            pivot: step.is_pivot,
            attempts: step.attempts,
            next_attempt: step.next_attempt.map(Timestamp::to_rfc3339),
            status: (step.status != 0).then_some(step.status),
            body: step.body.as_deref().map(raw),
        })
        .collect();
    let mut whole = summary(&view.summary);
    whole["caller"] = view.caller.as_str().into();
    whole["trace"] = view.trace.as_str().into();
    whole["deadline"] = view.deadline.map(Timestamp::to_rfc3339).into();
    whole["input"] = json!(raw(&view.input));
    whole["steps"] = json!(steps);
    whole["timeline"] = view.timeline.iter().map(moment).collect();
    whole["leftOut"] = view.left_out.into();
    whole["refusal"] = refusal(view);
    whole
}

/// JSON as it was kept; a text that is none (a step's answer need not be) as a string.
fn raw(text: &str) -> Box<RawValue> {
    let kept = RawValue::from_string(text.to_owned());
    kept.or_else(|_| serde_json::value::to_raw_value(text)).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn moment(moment: &Moment) -> Value {
    let mut detail: Vec<String> = Vec::new();
    if moment.is_undo {
        detail.push("compensation".to_owned());
    }
    if moment.status != 0 {
        detail.push(format!("status {}", moment.status));
    }
    if moment.attempt > 1 {
        detail.push(format!("attempt {}", moment.attempt));
    }
    detail.extend(moment.text.clone());
    detail.extend(moment.caller.as_ref().map(|caller| format!("by {caller}")));
    json!({
        "at": moment.time.to_rfc3339(),
        "step": moment.step.as_ref().map(Name::as_str),
        "what": moment.what,
        "detail": (!detail.is_empty()).then(|| detail.join(", ")),
        "undo": moment.is_undo,
        "status": (moment.status != 0).then_some(moment.status),
        "attempt": (moment.attempt != 0).then_some(moment.attempt),
        "saga": moment.saga.as_str(),
    })
}

/// The step whose refusal turned the saga back, if one did: the first since somebody last mended it.
fn refusal(view: &View) -> Value {
    if matches!(view.summary.status, Status::Running | Status::Done) {
        return Value::Null;
    }
    let mut found = Value::Null;
    for moment in &view.timeline {
        match (moment.what, &moment.step) {
            ("refused", Some(step)) if !moment.is_undo && found.is_null() => {
                found = json!({ "step": step.as_str(), "status": moment.status });
            }
            ("retry" | "edit" | "skip", _) if moment.caller.is_some() => found = Value::Null,
            _ => {}
        }
    }
    found
}
