//! The answer no: RFC 9457 `application/problem+json`, with a code that `causeway explain` knows.
//!
//! In:    errors of the rooms, problems of texts.     Out: [`Problem`], a response.
//! Owner: whoever refuses.
//! Invariant: every refusal bears a code with a page; what a client did is 4xx, what this node cannot do now is 5xx.
//! Not here: what is refused (handlers and rooms).

use axum::response::{IntoResponse, Response};
use causeway_xds::{Reason, Refused};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

/// Codes of these doors; the rooms' errors bear their own.
pub(super) mod code {
    /// The request's `Host` or `Origin` is not this door's.
    pub(in crate::http) const FOREIGN_HOST: &str = "CW-1910";
    /// This node does not run the role.
    pub(in crate::http) const NO_ROLE: &str = "CW-1911";
    /// No such path, or not with this method.
    pub(in crate::http) const NO_PATH: &str = "CW-1912";
    /// A part of the path or the query is not what it must be.
    pub(in crate::http) const PARAMETER: &str = "CW-1913";
    /// The body is too long, or did not come in time.
    pub(in crate::http) const BODY: &str = "CW-1914";
    /// There is no such service, instance or object.
    pub(in crate::http) const NOT_THERE: &str = "CW-1915";
    /// Something of what was sent was not taken.
    pub(in crate::http) const NOT_ALL: &str = "CW-1916";
    /// The revision is older than what is remembered.
    pub(in crate::http) const FORGOTTEN: &str = "CW-1917";
    /// Proxies have not acknowledged the revision.
    pub(in crate::http) const LAGGING: &str = "CW-1918";
    /// The node is not ready.
    pub(in crate::http) const NOT_READY: &str = "CW-1919";
    /// Too many streams are open.
    pub(in crate::http) const STREAMS: &str = "CW-1920";
    /// No proxy has told of that request or trace.
    pub(in crate::http) const NOT_TOLD: &str = "CW-1921";
}

/// A refusal.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    code: String,
    detail: String,
    problems: Vec<String>,
    more: Map<String, Value>,
    retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let code = code.to_owned();
        Problem {
            status,
            code,
            detail: detail.into(),
            problems: Vec::new(),
            more: Map::new(),
            retry_after: None,
        }
    }

    /// A bad part of path or query.
    pub(super) fn parameter(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, code::PARAMETER, detail)
    }

    /// Nothing is there.
    pub(super) fn not_there(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::NOT_FOUND, code::NOT_THERE, detail)
    }

    /// A room that this node does not run.
    pub(super) fn no_role(role: &str) -> Self {
        let text = format!(
            "this node does not run the role {role}: start it with `--roles` that name {role}, or ask another node"
        );
        let mut problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, code::NO_ROLE, text);
        problem.more.insert("role".into(), role.into());
        problem
    }

    /// With each thing that is wrong.
    pub(super) fn with(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }

    /// With a further member.
    pub(super) fn member(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    /// With the advice to come back after so many seconds.
    pub(super) fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Problem");
        let mut body = json!({
            "title": title, "status": self.status.as_u16(), "detail": self.detail, "code": self.code,
        });
        if let Value::Object(map) = &mut body {
            if !self.problems.is_empty() {
                map.insert("problems".into(), self.problems.into());
            }
            map.extend(self.more);
        }
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Everything that is wrong with a text. Syntax is 400, size 413, sense 422.
impl From<Vec<causeway_spec::Problem>> for Problem {
    fn from(problems: Vec<causeway_spec::Problem>) -> Self {
        use causeway_spec::Code;
        let first = problems.iter().find(|problem| !problem.is_warning()).or(problems.first());
        let (status, code, detail) = match first {
            None => (
                StatusCode::UNPROCESSABLE_ENTITY,
                code::NOT_ALL.to_owned(),
                "the body is not accepted".to_owned(),
            ),
            Some(first) => {
                let status = match first.code {
                    Code::Syntax => StatusCode::BAD_REQUEST,
                    Code::TooBig => StatusCode::PAYLOAD_TOO_LARGE,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                (status, first.code.to_string(), first.summary())
            }
        };
        Problem::new(status, &code, detail).with(problems.iter().map(ToString::to_string).collect())
    }
}

impl From<causeway_registry::Error> for Problem {
    fn from(error: causeway_registry::Error) -> Self {
        use causeway_registry::Kind;
        let status = match error.kind() {
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict { .. } | Kind::StaleOwner { .. } => StatusCode::CONFLICT,
            Kind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Full => StatusCode::INSUFFICIENT_STORAGE,
            Kind::Unavailable | Kind::Corrupt => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut problem = Problem::new(status, error.code().unwrap_or(code::NOT_THERE), error.to_string());
        match error.kind() {
            Kind::Conflict { place } => problem = problem.member("owner", place.to_string().into()),
            Kind::StaleOwner { epoch } => problem = problem.member("epoch", epoch.get().into()),
            Kind::Unavailable => problem = problem.after(1),
            _ => {}
        }
        problem
    }
}

impl From<causeway_events::Error> for Problem {
    fn from(error: causeway_events::Error) -> Self {
        use causeway_events::Kind;
        let status = match error.kind() {
            Kind::TopicNotFound | Kind::SubscriptionNotFound => StatusCode::NOT_FOUND,
            Kind::InvalidEvent => StatusCode::BAD_REQUEST,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::StaleToken | Kind::NotPulled => StatusCode::CONFLICT,
            Kind::InvalidFilter | Kind::InvalidPosition => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Unreadable => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, error.code(), error.to_string());
        if error.kind() == Kind::Unavailable { problem.after(1) } else { problem }
    }
}

impl From<causeway_saga::Error> for Problem {
    fn from(error: causeway_saga::Error) -> Self {
        use causeway_saga::ErrorKind as Kind;
        let status = match error.kind() {
            Kind::Definition { .. } | Kind::Input(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Conflict { .. } | Kind::NotNow { .. } => StatusCode::CONFLICT,
            Kind::NotFound(_) => StatusCode::NOT_FOUND,
            Kind::Busy { .. } | Kind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, error.code(), error.to_string());
        match error.kind() {
            Kind::Definition { problems, .. } => {
                problem.with(problems.iter().map(ToString::to_string).collect())
            }
            Kind::Busy { .. } | Kind::Closed => problem.after(1),
            _ => problem,
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused.reason {
            Reason::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Reason::Unauthenticated => StatusCode::UNAUTHORIZED,
            Reason::NotAllowed => StatusCode::FORBIDDEN,
            Reason::Conflict => StatusCode::CONFLICT,
            Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        let problem = Problem::new(status, &refused.code, refused.to_string());
        if refused.reason == Reason::Unavailable { problem.after(1) } else { problem }
    }
}
