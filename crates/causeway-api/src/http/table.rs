//! The table of paths: what the API is, said once.
//!
//! In:    each room's `routes()`.      Out: the router, and the list that `/openapi.json` is made of.
//! Owner: built once for each router.
//! Invariant: a path that is not here is not answered, and one that is here is described.
//! Not here: what the handlers do (one file for each room), the console's files (`console.rs`).

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};

use super::metrics::AnswerLabel;
use super::openapi::describe;
use super::problem::{Problem, code};
use super::query::Query;
use super::route::{REVISION, Route, revision_value};
use super::state::{Door, Rooms};
use super::{config, console, events, node, observed, registry, sagas, subscriptions, topics, watch};

/// Every path.
pub(super) fn routes() -> Vec<Route> {
    let rooms = [
        node::routes(),
        observed::routes(),
        registry::routes(),
        watch::routes(),
        config::routes(),
        topics::routes(),
        events::routes(),
        subscriptions::routes(),
        sagas::routes(),
    ];
    rooms.into_iter().flatten().collect()
}

/// The description of every path, as `/openapi.json` gives it.
pub fn openapi() -> serde_json::Value {
    describe(&routes())
}

/// The router of every path.
pub(super) fn router(rooms: Rooms) -> Router {
    let routes = routes();
    let door = Door::new(rooms, describe(&routes));
    let mut router = Router::new();
    for route in routes {
        for path in route.paths() {
            let state = (
                door.clone(),
                Entry { method: as_text(&route.method), path: route.path, query: route.query },
            );
            let around = axum::middleware::from_fn_with_state(state, around);
            router = router.route(&path, route.handler.clone().route_layer(around));
        }
    }
    router.fallback(console::asset).method_not_allowed_fallback(no_method).with_state(door)
}

#[derive(Clone, Copy)]
struct Entry {
    method: &'static str,
    path: &'static str,
    query: &'static [(&'static str, &'static str)],
}

/// What every path has in common: its query is one that it knows, its answer is counted and bears the revision.
async fn around(State((door, entry)): State<(Door, Entry)>, request: Request, next: Next) -> Response {
    let names: Vec<&str> = entry.query.iter().map(|(name, _)| *name).collect();
    let query = Query::read(request.uri().query().unwrap_or_default());
    let mut response = match query.and_then(|query| query.check(&names)) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let label = AnswerLabel { method: entry.method, path: entry.path, status: response.status().as_u16() };
    door.counts.answers.get_or_create(&label).inc();
    if entry.path.starts_with("/v1") && !response.headers().contains_key(&REVISION) {
        response.headers_mut().insert(REVISION, revision_value(door.registry.snapshot().revision()));
    }
    response
}

/// The name of a method that the table has.
fn as_text(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        _ => "DELETE",
    }
}

async fn no_method(request: Request) -> Problem {
    let text = format!(
        "{} does not take {}; /openapi.json says what it takes",
        request.uri().path(),
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, code::NO_PATH, text)
}
