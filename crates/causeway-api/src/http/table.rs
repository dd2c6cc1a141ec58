//! The table of paths: what the API is, said once.
//!
//! In:    each room's `routes()`.      Out: the router, and the list that `/openapi.json` is made of.
//! Owner: built once for each router.
//! Invariant: a path that is not here is not answered, and one that is here is described.
//! Not here: what the handlers do (one file for each room), the console's files (`console.rs`).

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use causeway_model::Revision;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::metrics::AnswerLabel;
use super::problem::{Problem, code};
use super::query::Query;
use super::state::Door;
use super::{config, console, events, node, registry, sagas, subscriptions, topics, watch};

/// The registry's revision that an answer shows, or that a write became.
pub(super) const REVISION: HeaderName = HeaderName::from_static("x-causeway-revision");

/// One path with one method.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) method: Method,
    /// As described, parts in braces.
    pub(super) path: &'static str,
    /// One line.
    pub(super) about: &'static str,
    /// Whether it exists under `/namespaces/{ns}` too.
    pub(super) is_scoped: bool,
    /// Query parameters that it takes, with what they mean.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// Media type and meaning of its body.
    pub(super) body: Option<(&'static str, &'static str)>,
    /// Statuses of good answers, with what they mean.
    pub(super) answers: &'static [(u16, &'static str)],
    handler: MethodRouter<Door>,
}

impl Route {
    fn new<H, T>(
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        about: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Door>,
        T: 'static,
    {
        let handler = on(filter, handler);
        Route {
            method,
            path,
            about,
            is_scoped: false,
            query: &[],
            body: None,
            answers: &[(200, "done")],
            handler,
        }
    }

    pub(super) fn get<H: Handler<T, Door>, T: 'static>(
        path: &'static str,
        about: &'static str,
        handler: H,
    ) -> Self {
        Route::new(Method::GET, MethodFilter::GET, path, about, handler)
    }

    pub(super) fn put<H: Handler<T, Door>, T: 'static>(
        path: &'static str,
        about: &'static str,
        handler: H,
    ) -> Self {
        Route::new(Method::PUT, MethodFilter::PUT, path, about, handler)
    }

    pub(super) fn post<H: Handler<T, Door>, T: 'static>(
        path: &'static str,
        about: &'static str,
        handler: H,
    ) -> Self {
        Route::new(Method::POST, MethodFilter::POST, path, about, handler)
    }

    pub(super) fn delete<H: Handler<T, Door>, T: 'static>(
        path: &'static str,
        about: &'static str,
        handler: H,
    ) -> Self {
        Route::new(Method::DELETE, MethodFilter::DELETE, path, about, handler)
    }

    /// It exists under `/v1/namespaces/{ns}` too.
    pub(super) fn scoped(mut self) -> Self {
        self.is_scoped = true;
        self
    }

    pub(super) fn query(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }

    /// A body of JSON.
    pub(super) fn json(self, about: &'static str) -> Self {
        self.body("application/json", about)
    }

    pub(super) fn body(mut self, media: &'static str, about: &'static str) -> Self {
        self.body = Some((media, about));
        self
    }

    pub(super) fn answers(mut self, answers: &'static [(u16, &'static str)]) -> Self {
        self.answers = answers;
        self
    }

    /// Every path under which it is found.
    pub(super) fn paths(&self) -> Vec<String> {
        let scoped = self.path.strip_prefix("/v1").filter(|_| self.is_scoped);
        let scoped = scoped.map(|rest| format!("/v1/namespaces/{{ns}}{rest}"));
        std::iter::once(self.path.to_owned()).chain(scoped).collect()
    }
}

/// Every path.
pub(super) fn routes() -> Vec<Route> {
    let rooms = [
        node::routes(),
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

/// The router of every path.
pub(super) fn router(door: Door) -> Router {
    let mut router = Router::new();
    for route in routes() {
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

/// The revision as a header's value.
pub(super) fn revision_value(revision: Revision) -> HeaderValue {
    HeaderValue::from(revision.get())
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

/// A path that is not here.
pub(super) fn no_path(path: &str) -> Problem {
    let path: String = path.chars().take(200).collect();
    Problem::new(
        StatusCode::NOT_FOUND,
        code::NO_PATH,
        format!("there is no {path}; /openapi.json lists every path"),
    )
}

async fn no_method(request: Request) -> Problem {
    let text = format!(
        "{} does not take {}; /openapi.json says what it takes",
        request.uri().path(),
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, code::NO_PATH, text)
}
