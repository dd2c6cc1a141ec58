//! One entry of the table of paths, and what every answer has in common.
//!
//! In:    a method, a path, a handler.      Out: [`Route`], described enough for `/openapi.json`.
//! Owner: each room's file makes its own; `table.rs` collects them.
//! Not here: the table, the router.

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use causeway_model::Revision;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::problem::{Problem, code};
use super::state::Door;

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
    pub(super) handler: MethodRouter<Door>,
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

/// The revision as a header's value.
pub(super) fn revision_value(revision: Revision) -> HeaderValue {
    HeaderValue::from(revision.get())
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
