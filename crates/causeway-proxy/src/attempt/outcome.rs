//! How an attempt ended, and what that says of the request and of its endpoint.
//!
//! In:    an answer's head, or why there is none.      Out: good, bad or failed; what a retry needs to know; a verdict.
//! Owner: one delivery.
//! Invariant: only a sidecar, which has proved who it is, is believed how far a request came.
//! Not here: what follows (`retry`), what a verdict leads to (`outlier`).

use std::time::{Duration, SystemTime};

use causeway_wire::deadline::is_grpc;
use causeway_wire::proxy_status::PROXY_STATUS;
use causeway_wire::{ProxyError, ProxyStatus};
use http::header::RETRY_AFTER;
use http::{HeaderMap, Response};

use super::retry::Ended;
use super::terms::Retries;
use crate::body::Inflow;
use crate::endpoint::Endpoint;
use crate::grpc;
use crate::outlier::Verdict;
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
    pub(super) blame: Blame,
}

/// Whose failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    Endpoint,
    /// The client's upload broke off or stopped.
    Client,
    /// The client had less patience than most: it says nothing of the endpoint but that it took at least so long.
    Nobody,
}

/// What an attempt says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Verdict(Verdict),
    /// It would have taken longer than this.
    Longer,
    Nothing,
}

/// How an attempt ended.
pub(super) enum Outcome {
    /// An answer to be given back.
    Good(Response<Inflow>),
    /// An answer that says that nothing, or nothing useful, was done: perhaps another endpoint does better.
    Bad(Response<Inflow>, Option<Failure>),
    Failed(Failure),
}

impl Failure {
    /// Before anything was sent.
    pub(super) fn unsent(error: ProxyError, details: String) -> Self {
        Failure { error, details, is_unsent: true, was_reused: false, blame: Blame::Endpoint }
    }
}

impl Outcome {
    /// Looks at an answer's head: a sidecar's own failure, or a status that the policy tries again.
    pub(super) fn of(endpoint: &Endpoint, retries: &Retries<'_>, mut response: Response<Inflow>) -> Self {
        // An app could say anything of how far a request came.
        if !endpoint.is_mesh() {
            response.headers_mut().remove(&PROXY_STATUS);
        }
        let status = response.status().as_u16();
        let grpc_status = grpc_status(response.headers());
        if status < 400 && grpc_status.unwrap_or(0) == 0 {
            return Outcome::Good(response);
        }
        // A sidecar's own word. That its answer may bear any status says nothing: none of them is its app's.
        if let Some(error) = response.headers().get(&PROXY_STATUS).and_then(ProxyStatus::error_in) {
            let details = format!("the sidecar of {} says {}", endpoint.name, error.as_str());
            let is_unsent = !error.may_be_processed();
            let failure = Failure { is_unsent, ..Failure::unsent(error, details) };
            return Outcome::Bad(response, Some(failure));
        }
        match retries.name(status, grpc_status) {
            true => Outcome::Bad(response, None),
            false => Outcome::Good(response),
        }
    }

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

    /// For the choice of another attempt; none when it is good.
    pub(super) fn ended(&self, wall: impl FnOnce() -> SystemTime) -> Option<Ended> {
        Some(match self {
            Outcome::Good(..) => return None,
            Outcome::Bad(response, failure) => {
                let retry_after =
                    response.headers().get(RETRY_AFTER).and_then(|_| retry_after(response.headers(), wall()));
                match failure {
                    None => Ended::Named { retry_after },
                    Some(failure) => Ended::Refused { error: failure.error, retry_after },
                }
            }
            Outcome::Failed(failure) => Ended::Failed {
                error: failure.error,
                is_unsent: failure.is_unsent,
                was_reused: failure.was_reused,
                is_clients: failure.blame == Blame::Client,
            },
        })
    }

    /// What it says of its endpoint.
    pub(super) fn word(&self) -> Word {
        let failure = match self {
            Outcome::Good(response) | Outcome::Bad(response, None) => {
                return Word::Verdict(if is_well(response) { Verdict::Good } else { Verdict::Failed });
            }
            // It refuses, or has too much to do. Were it ejected for that, the others would have more.
            Outcome::Bad(_, Some(failure))
                if failure.error.status() < 500 || failure.error == ProxyError::ConnectionLimitReached =>
            {
                return Word::Nothing;
            }
            Outcome::Bad(_, Some(failure)) | Outcome::Failed(failure) => failure,
        };
        match failure.blame {
            // An idle connection that ended is no sign of ill health.
            _ if failure.is_unsent && failure.was_reused => Word::Nothing,
            Blame::Client => Word::Nothing,
            Blame::Nobody => Word::Longer,
            Blame::Endpoint if failure.is_unsent => Word::Verdict(Verdict::Unreachable),
            Blame::Endpoint => Word::Verdict(Verdict::Failed),
        }
    }

    /// Whether there is an answer, of whatever kind.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self, Outcome::Failed(_))
    }

    /// Whether it is worth a part of a retry.
    pub(super) fn is_well(&self) -> bool {
        matches!(self, Outcome::Good(response) if is_well(response))
    }

    /// Why the request may have been processed by this attempt, which is followed by another.
    pub(super) fn doubt(self) -> Option<Failure> {
        match self {
            Outcome::Failed(failure) | Outcome::Bad(_, Some(failure)) => {
                (!failure.is_unsent).then_some(failure)
            }
            Outcome::Good(response) | Outcome::Bad(response, None) => {
                let details = format!("an attempt was answered {}", response.status());
                let failure = Failure::unsent(ProxyError::ConnectionTerminated, details);
                Some(Failure { is_unsent: false, ..failure })
            }
        }
    }
}

/// The status of an answer of gRPC that is all head (trailers alone).
fn grpc_status(answer: &HeaderMap) -> Option<u16> {
    grpc::status(answer).filter(|_| is_grpc(answer))
}

fn is_well(answer: &Response<Inflow>) -> bool {
    let is_fault = || is_grpc(answer.headers()) && grpc::is_fault(answer.headers());
    answer.status().as_u16() < 500 && !is_fault()
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(answer: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = answer.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (text, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:39 GMT", Some(2)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            let read = retry_after(&head(&[("retry-after", text)]), now);
            assert_eq!(read, expected.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_status_of_grpc_counts_in_answers_of_grpc_that_are_all_head() {
        const GRPC: (&str, &str) = ("content-type", "application/grpc");
        for (fields, expected) in [
            (&[GRPC, ("grpc-status", "14")][..], Some(14)),
            (&[("grpc-status", "14")], None),
            (&[GRPC], None),
            (&[GRPC, ("grpc-status", "x")], None),
        ] {
            assert_eq!(grpc_status(&head(fields)), expected, "{fields:?}");
        }
    }
}
