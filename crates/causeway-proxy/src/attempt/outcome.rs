//! How an attempt ended, and what that says of the request.
//!
//! In:    an answer's head, or why there is none.      Out: good, bad or failed.
//! Owner: one delivery.
//! Invariant: only a sidecar, which has proved who it is, is believed how far a request came.
//! Not here: what follows (`retry`), what it says of the endpoint (`once`).

use causeway_wire::proxy_status::PROXY_STATUS;
use causeway_wire::{ProxyError, ProxyStatus};
use http::Response;

use crate::body::Inflow;
use crate::endpoint::Endpoint;
use crate::plan::Rule;
use crate::story::End;

/// Why a delivery failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: ProxyError,
    pub details: String,
    /// No byte of it can have been processed.
    pub(super) is_unsent: bool,
    /// The connection had served before: perhaps its idle end crossed our request.
    pub(super) was_reused: bool,
    /// It is the client's upload that failed: that says nothing of the endpoint.
    pub(super) is_clients: bool,
}

/// How an attempt ended.
pub(super) enum Outcome {
    /// An answer to be given back.
    Good(Response<Inflow>),
    /// An answer that says that nothing, or nothing useful, was done: perhaps another endpoint does better.
    Bad(Response<Inflow>, Option<Failure>),
    Failed(Failure),
}

impl Outcome {
    /// For the request's story.
    pub(super) fn end(&self) -> End<'_> {
        match self {
            Outcome::Good(response) | Outcome::Bad(response, None) => {
                End::Answered(response.status().as_u16())
            }
            Outcome::Bad(response, Some(failure)) => End::Refused(response.status().as_u16(), failure.error),
            Outcome::Failed(failure) => End::Failed(failure.error, &failure.details),
        }
    }

    /// Why the request may have been processed by this attempt, which is followed by another.
    pub(super) fn doubt(self) -> Option<Failure> {
        match self {
            Outcome::Failed(failure) | Outcome::Bad(_, Some(failure)) => {
                (!failure.is_unsent).then_some(failure)
            }
            Outcome::Good(response) | Outcome::Bad(response, None) => Some(Failure {
                error: ProxyError::ConnectionTerminated,
                details: format!("an attempt was answered {}", response.status()),
                is_unsent: false,
                was_reused: false,
                is_clients: false,
            }),
        }
    }
}

/// Looks at an answer's head: a sidecar's own failure, or a status that the rule tries again.
pub(super) fn judge(endpoint: &Endpoint, rule: &Rule, response: Response<Inflow>) -> Outcome {
    let status = response.status().as_u16();
    if status < 400 {
        return Outcome::Good(response);
    }
    if endpoint.is_mesh()
        && status >= 500
        && let Some(error) = response.headers().get(&PROXY_STATUS).and_then(ProxyStatus::error_in)
    {
        let is_unsent = !error.may_be_processed();
        let details = format!("the sidecar of {} says {}", endpoint.name, error.as_str());
        // Where the sidecar lost the race against the end of an idle connection to its app, it leaves it to us to try again.
        let was_reused = error == ProxyError::ConnectionTerminated;
        let failure = Failure { error, details, is_unsent, was_reused, is_clients: false };
        return Outcome::Bad(response, Some(failure));
    }
    match rule.retry_codes.contains(&status) {
        true => Outcome::Bad(response, None),
        false => Outcome::Good(response),
    }
}
