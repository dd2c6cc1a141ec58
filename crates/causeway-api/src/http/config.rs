//! Configuration: documents in, what became of each out.
//!
//! In:    YAML or JSON.      Out: `Apply` and `Delete` commands; documents as they are in force, with their conditions.
//! Owner: the router.
//! Invariant: a bad document never takes its neighbours down; what is refused is named, each with its reason.
//! Not here: files of `--config` (the roof), reading (`causeway-spec`), who owns an object (`causeway-registry`).

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use causeway_model::{Kind, Name, ObjectKey, Revision};
use causeway_registry::{Applied, AppliedOutcome, Command, Proposed};
use causeway_spec::{Document, Parsed};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::body::{self, DOCUMENTS_BYTES_MAX};
use super::params::Params;
use super::problem::{Problem, code};
use super::query::Query;
use super::registry::at;
use super::route::Route;
use super::state::Door;
use super::views;
use crate::sound::{sound, unsound};

/// Names the file that a text was read from, so that problems say where they are as the user knows it.
const SOURCE: &str = "causeway-source";
/// Longest such name.
const SOURCE_BYTES_MAX: usize = 4096;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/apply", "Writes documents; each is taken or refused for itself", apply)
            .query(&[("dryRun", "only say what would happen")])
            .body("application/yaml", "documents, YAML or JSON")
            .answers(&[(200, "all are in force"), (422, "some were refused; the others are in force")]),
        Route::get("/v1/config", "Documents in force", list)
            .query(&[("kind", "only of this kind"), ("namespace", "only of this namespace")]),
        Route::get("/v1/config/{kind}/{name}", "A document of the namespace `default`", show),
        Route::put("/v1/config/{kind}/{name}", "Writes a document of the namespace `default`", put)
            .body("application/yaml", "the document, YAML or JSON"),
        Route::delete("/v1/config/{kind}/{name}", "Removes a document of the namespace `default`", delete),
        Route::get("/v1/config/{kind}/{ns}/{name}", "A document", show),
        Route::put("/v1/config/{kind}/{ns}/{name}", "Writes a document", put)
            .body("application/yaml", "the document, YAML or JSON"),
        Route::delete("/v1/config/{kind}/{ns}/{name}", "Removes a document", delete),
    ]
}

// === apply ===

async fn apply(
    State(door): State<Door>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let is_dry_run = query.flag("dryRun")?;
    let text = text(body).await?;
    let Parsed { documents, problems } = causeway_spec::parse(&source(&headers), &text);
    let is_bad = problems.iter().any(|problem| !problem.is_warning());
    let mut said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let (good, unsound) = sound(documents);
    let is_bad = is_bad || !unsound.is_empty();
    said.extend(unsound);
    let command =
        Command::Apply { objects: good.into_iter().map(proposed).collect(), is_dry_run, prune: Vec::new() };
    let answer = door.registry.submit(command).await?;
    let objects: Vec<Value> = answer.objects.iter().map(outcome).collect();
    let refused: Vec<&Applied> = answer.objects.iter().filter(|one| refusal(one).is_some()).collect();
    said.extend(refused.iter().filter_map(|one| Some(format!("{}: {}", one.key, refusal(one)?))));
    let revision = answer.revision;
    if !is_bad && refused.is_empty() {
        let view = json!({
            "revision": revision.get(), "dryRun": is_dry_run, "objects": objects, "warnings": said,
        });
        return Ok(at(revision, view));
    }
    let taken = answer.objects.len() - refused.len();
    let verb = if is_dry_run { "would be taken" } else { "are in force" };
    let text = format!("not everything was applied: {taken} objects {verb}, the rest is not used as written");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code::NOT_ALL, text)
        .with(said)
        .member("objects", objects.into())
        .member("revision", revision.get().into()))
}

async fn text(body: Body) -> Result<String, Problem> {
    let bytes = body::read(body, DOCUMENTS_BYTES_MAX).await?;
    String::from_utf8(bytes.into()).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::new(StatusCode::BAD_REQUEST, code::BODY, format!("the body is not UTF-8 from byte {at} on"))
    })
}

fn source(headers: &HeaderMap) -> String {
    let named = headers.get(SOURCE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let named = named.filter(|name| !name.is_empty() && name.len() <= SOURCE_BYTES_MAX);
    named.unwrap_or_else(|| "body".to_owned())
}

fn proposed(document: Document) -> Proposed {
    Proposed { key: document.key, origin: views::origin(), spec: document.spec, written: document.written }
}

fn refusal(applied: &Applied) -> Option<&causeway_registry::Error> {
    match &applied.outcome {
        AppliedOutcome::Refused(error) => Some(error),
        _ => None,
    }
}

/// What became of one object: `why` says why it was refused, or which condition does not hold.
fn outcome(applied: &Applied) -> Value {
    let mut view = json!({
        "kind": applied.key.kind.as_str(),
        "namespace": applied.key.namespace.as_str(),
        "name": applied.key.name.as_str(),
        "outcome": word(&applied.outcome),
    });
    let unmet = || {
        let unmet: Vec<&str> =
            applied.conditions.iter().filter(|c| !c.is_true).map(|c| c.message.as_str()).collect();
        (!unmet.is_empty()).then(|| unmet.join("; "))
    };
    if let Some(why) = refusal(applied).map(ToString::to_string).or_else(unmet) {
        view["why"] = why.into();
    }
    view
}

const fn word(outcome: &AppliedOutcome) -> &'static str {
    match outcome {
        AppliedOutcome::Created => "created",
        AppliedOutcome::Changed => "changed",
        AppliedOutcome::Unchanged => "unchanged",
        AppliedOutcome::Removed => "removed",
        AppliedOutcome::Refused(_) => "refused",
    }
}

/// Writes one document; for paths whose body is a document's spec.
pub(super) async fn write(door: &Door, document: Document) -> Result<(Revision, &'static str), Problem> {
    if let Some(flaws) = unsound(&document) {
        let text = format!("{} cannot be run: {}", document.key, flaws.texts[0]);
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, flaws.code, text).with(flaws.texts));
    }
    let command = Command::Apply { objects: vec![proposed(document)], is_dry_run: false, prune: Vec::new() };
    let mut answer = door.registry.submit(command).await?;
    match answer.objects.pop().map(|applied| applied.outcome) {
        Some(AppliedOutcome::Refused(error)) => Err(error.into()),
        Some(outcome) => Ok((answer.revision, word(&outcome))),
        None => Ok((answer.revision, word(&AppliedOutcome::Unchanged))),
    }
}

/// Removes one object.
pub(super) async fn remove(door: &Door, key: ObjectKey) -> Result<Response, Problem> {
    let revision = door.registry.submit(Command::Delete { key, origin: views::origin() }).await?.revision;
    Ok(at(revision, json!({ "revision": revision.get(), "outcome": "removed" })))
}

// === single documents ===

fn key(params: &Params) -> Result<ObjectKey, Problem> {
    Ok(ObjectKey {
        kind: kind(params.text("kind"))?,
        namespace: params.namespace()?,
        name: params.name("name")?,
    })
}

fn kind(text: &str) -> Result<Kind, Problem> {
    Kind::find(text).ok_or_else(|| {
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        let text: String = text.chars().take(100).collect();
        Problem::parameter(format!("{text:?} is not a kind of this node, which has {}", kinds.join(", ")))
    })
}

async fn list(State(door): State<Door>, query: Query) -> Result<Response, Problem> {
    let kind = query.text("kind").map(kind).transpose()?;
    let namespace: Option<Name> = query.name("namespace")?;
    let snapshot = door.registry.snapshot();
    let wanted = snapshot.objects().filter(|object| {
        kind.is_none_or(|kind| object.key.kind == kind)
            && namespace.as_ref().is_none_or(|namespace| object.key.namespace == *namespace)
    });
    let items: Vec<Value> = wanted.map(|object| causeway_spec::render(object)).collect();
    Ok(at(snapshot.revision(), json!({ "items": items })))
}

async fn show(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    let key = key(&params)?;
    let snapshot = door.registry.snapshot();
    let object = snapshot.object(&key).ok_or_else(|| Problem::not_there(format!("there is no {key}")))?;
    Ok(at(snapshot.revision(), causeway_spec::render(object)))
}

async fn put(
    State(door): State<Door>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = key(&params)?;
    let text = text(body).await?;
    let Parsed { mut documents, problems } = causeway_spec::parse(&source(&headers), &text);
    if problems.iter().any(|problem| !problem.is_warning()) {
        return Err(problems.into());
    }
    let (Some(document), true) = (documents.pop(), documents.is_empty()) else {
        let text = format!("the body must hold one document, {key}; POST /v1/apply takes several");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code::NOT_ALL, text));
    };
    if document.key != key {
        let text = format!("the body is {}, and the path is that of {key}", document.key);
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code::NOT_ALL, text));
    }
    let (revision, _) = write(&door, document).await?;
    let snapshot = door.registry.snapshot();
    match snapshot.object(&key) {
        Some(object) => Ok(at(revision, causeway_spec::render(object))),
        // Removed by somebody else since.
        None => Ok(at(revision, json!({ "revision": revision.get() })).into_response()),
    }
}

async fn delete(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    remove(&door, key(&params)?).await
}
