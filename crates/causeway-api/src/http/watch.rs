//! The stream of changes: what changed after a revision, and then each change as it happens.
//!
//! In:    a revision (`from`, or `Last-Event-ID` of a client that comes back).      Out: server-sent events.
//! Owner: the connection.
//! Invariant: nothing is skipped. An event's id is its revision and stands on the last event of that revision alone, so that a
//! client which broke off within one gets all of it again. Who asks for more than is remembered gets 410, or the event `gone`.
//! Not here: what is remembered (`causeway_model::Snapshot`), waiting for one service without a stream (`registry.rs`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use causeway_model::{Name, ResourceKey, Revision, ServiceKey, Snapshot};
use futures_util::Stream;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::params::Params;
use super::problem::{Problem, code};
use super::query::Query;
use super::route::Route;
use super::state::Door;
use super::stream::{self, LAST_EVENT_ID};
use super::views::InstanceView;

/// Changes that are taken from the history at a time; a revision's changes are never parted, so it may be more by one command.
const CHUNK: usize = 256;
/// How often a stream without news for its reader moves the reader's `Last-Event-ID` on, so that a reader of a quiet service does
/// not come back with an id that is forgotten.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/watch", "Changes of services and documents, as server-sent events", watch_changes)
            .scoped()
            .query(&[
                ("from", "changes after this revision; Last-Event-ID says the same; from now on when neither is there"),
                ("service", "only changes of this service (name, or namespace/name)"),
            ])
            .answers(&[(200, "text/event-stream; the id of an event is its revision"), (410, "older than what is remembered: list again")]),
    ]
}

async fn watch_changes(
    State(door): State<Door>,
    params: Params,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let scope = params.scope()?;
    let service = query.text("service").map(|text| service(text, scope.as_ref())).transpose()?;
    let mut pictures = door.registry.watch();
    let snapshot = pictures.borrow_and_update().clone();
    // A client that comes back knows better than the address it came with first.
    let from = match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
            Some(Revision::new(id.ok_or_else(|| Problem::parameter("Last-Event-ID is not a revision"))?))
        }
        None => query.revision("from")?,
    };
    let from = from.unwrap_or(snapshot.revision());
    if from > snapshot.revision() || snapshot.changes_since(from).is_none() {
        return Err(forgotten(from, snapshot.revision()));
    }
    let watcher = Watcher {
        pictures,
        snapshot,
        cursor: from,
        said: from,
        wanted: Wanted { scope, service },
        queue: VecDeque::new(),
        is_over: false,
    };
    Ok(stream::response(watcher.into_stream(), door.stream()?))
}

fn service(text: &str, scope: Option<&Name>) -> Result<ServiceKey, Problem> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (namespace, name),
        None => (scope.map_or("default", Name::as_str), text),
    };
    ServiceKey::parse(namespace, name)
        .map_err(|error| Problem::parameter(format!("query parameter service: {error}")))
}

fn forgotten(from: Revision, newest: Revision) -> Problem {
    let text = format!(
        "changes after revision {from} are not remembered (the newest is {newest}): list again, and watch from the list's \
         X-Causeway-Revision"
    );
    Problem::new(StatusCode::GONE, code::FORGOTTEN, text).member("revision", newest.get().into())
}

/// Which changes a watcher is told of.
struct Wanted {
    scope: Option<Name>,
    service: Option<ServiceKey>,
}

impl Wanted {
    fn takes(&self, key: &ResourceKey) -> bool {
        let (namespace, service) = match key {
            ResourceKey::Instance(key) => (&key.service.namespace, Some(&key.service.name)),
            ResourceKey::Object(key) => {
                (&key.namespace, (key.kind == causeway_model::Kind::Service).then_some(&key.name))
            }
            // Of no namespace: for those who watch everything.
            ResourceKey::Revocations => return self.scope.is_none() && self.service.is_none(),
        };
        self.scope.as_ref().is_none_or(|scope| scope == namespace)
            && self
                .service
                .as_ref()
                .is_none_or(|wanted| wanted.namespace == *namespace && service == Some(&wanted.name))
    }
}

struct Watcher {
    pictures: watch::Receiver<Arc<Snapshot>>,
    snapshot: Arc<Snapshot>,
    /// Changes up to here are sent or in the queue.
    cursor: Revision,
    /// The id that the reader has.
    said: Revision,
    wanted: Wanted,
    queue: VecDeque<(Revision, Event)>,
    is_over: bool,
}

impl Watcher {
    fn into_stream(self) -> impl Stream<Item = Event> + Send {
        futures_util::stream::unfold(self, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((event, watcher))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((revision, event)) = self.queue.pop_front() {
                self.said = revision;
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            if self.cursor < self.snapshot.revision() {
                if !self.fill() {
                    self.is_over = true;
                    let gone = json!({ "revision": self.snapshot.revision().get(), "code": code::FORGOTTEN });
                    return Some(Event::default().event("gone").data(gone.to_string()));
                }
                continue;
            }
            match tokio::time::timeout(PROGRESS_INTERVAL, self.pictures.changed()).await {
                Ok(Ok(())) => self.snapshot = self.pictures.borrow_and_update().clone(),
                Ok(Err(_)) => return None,
                // An event without data is none: it only moves the reader's id.
                Err(_) if self.said < self.cursor => {
                    self.said = self.cursor;
                    return Some(Event::default().id(self.cursor.to_string()));
                }
                Err(_) => {}
            }
        }
    }

    /// Takes the next changes from the history; false when they are forgotten.
    fn fill(&mut self) -> bool {
        let Some(changes) = self.snapshot.changes_since(self.cursor) else { return false };
        let mut last = self.snapshot.revision();
        let mut taken: Vec<(Revision, &ResourceKey)> = Vec::new();
        for (revision, key) in changes {
            if taken.len() >= CHUNK && taken.last().is_some_and(|(before, _)| *before != revision) {
                last = taken.last().map_or(last, |(before, _)| *before);
                break;
            }
            taken.push((revision, key));
        }
        taken.retain(|(_, key)| self.wanted.takes(key));
        for (place, (revision, key)) in taken.iter().enumerate() {
            let is_last = taken.get(place + 1).is_none_or(|(next, _)| next != revision);
            let data = change(&self.snapshot, *revision, key).to_string();
            let event = Event::default().event("change").data(data);
            let event = if is_last { event.id(revision.to_string()) } else { event };
            let said = if is_last { *revision } else { self.said };
            self.queue.push_back((said, event));
        }
        self.cursor = last;
        true
    }
}

/// One change: what it was about, and how that stands in the newest picture.
fn change(snapshot: &Snapshot, revision: Revision, key: &ResourceKey) -> Value {
    match key {
        ResourceKey::Instance(key) => {
            let instance = snapshot.instance(key);
            json!({
                "revision": revision.get(), "type": kind_of(instance.is_some()), "kind": "Instance",
                "namespace": key.service.namespace.as_str(), "service": key.service.name.as_str(), "id": key.id.as_str(),
                "instance": instance.map(|instance| InstanceView::new(instance)),
            })
        }
        ResourceKey::Object(key) => {
            let object = snapshot.object(key);
            json!({
                "revision": revision.get(), "type": kind_of(object.is_some()), "kind": key.kind.as_str(),
                "namespace": key.namespace.as_str(), "name": key.name.as_str(),
                "object": object.map(|object| causeway_spec::render(object)),
            })
        }
        ResourceKey::Revocations => json!({
            "revision": revision.get(), "type": "put", "kind": "Revocations",
            "count": snapshot.revocations().len(),
        }),
    }
}

const fn kind_of(is_there: bool) -> &'static str {
    if is_there { "put" } else { "removed" }
}
