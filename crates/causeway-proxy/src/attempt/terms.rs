//! The terms of one call: what its rule and the policies for it say of retries, hedges and time, with the defaults in between.
//!
//! In:    the rule, the service, both with their policies.      Out: [`Terms`].
//! Owner: one delivery; borrowed from the plan.
//! Invariant: what stands in the rule itself goes before policies for the rule, those before policies for its service; zero as a time
//! is "no limit", and so is no value here.
//! Not here: which policy is the most specific one (`plan::policy`).

use std::sync::Arc;
use std::time::Duration;

use causeway_model::{Hedge, Retry, TrafficTimeouts};
use causeway_wire::deadline;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::time::Instant;

use crate::budget::Grant;
use crate::circuit::Bounds;
use crate::limits;
use crate::patience::Patience;
use crate::plan::policy::{Policy, Said, decide};
use crate::plan::{Rule, Service};
use crate::progress::Progress;

/// The terms of one call.
#[derive(Clone, Debug)]
pub(crate) struct Terms<'a> {
    pub retries: Retries<'a>,
    pub hedge: Option<&'a Hedge>,
    /// The whole request.
    pub request: Option<Duration>,
    /// Each try, to the head of its answer.
    pub per_try: Option<Duration>,
    /// Making a connection.
    pub connect: Duration,
    /// Of requests at once, and the document that says so.
    pub circuit: Bounds,
    pub circuit_by: Option<&'a str>,
    idle: Idle,
    stream: Option<Duration>,
    is_inbound: bool,
}

/// What is tried again.
#[derive(Clone, Debug)]
pub(crate) struct Retries<'a> {
    /// After the first.
    pub attempts: u32,
    pub codes: &'a [u16],
    pub grpc_codes: &'a [u16],
    pub backoff: Option<Duration>,
    pub grant: Grant,
    /// Somebody wrote it down, so it is done even where there is no other endpoint.
    pub is_asked: bool,
}

/// How long nothing may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Unsaid,
    Said(Option<Duration>),
}

/// When a request's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub at: Instant,
    /// It is the caller's own wish, and perhaps shorter than anybody could meet.
    pub is_callers: bool,
}

impl Deadline {
    /// Of a request with these fields that began then: the smaller of what its terms and what its caller allow.
    pub(crate) fn of(terms: &Terms<'_>, headers: &HeaderMap, began: Instant) -> Option<Self> {
        let ours = terms.request;
        match deadline::remaining(headers) {
            Some(theirs) if ours.is_none_or(|ours| theirs < ours) => {
                Some(Deadline { at: began + theirs, is_callers: true })
            }
            _ => ours.map(|ours| Deadline { at: began + ours, is_callers: false }),
        }
    }
}

impl Default for Retries<'_> {
    fn default() -> Self {
        Retries {
            attempts: limits::RETRIES,
            codes: &[],
            grpc_codes: &[],
            backoff: None,
            grant: Grant::default(),
            is_asked: false,
        }
    }
}

impl<'a> Retries<'a> {
    fn of(rule: &'a Rule, said: Option<&'a Retry>) -> Self {
        let usual = Retries::default();
        let mut retries = match said {
            None => usual,
            Some(said) => Retries {
                attempts: said.attempts.unwrap_or(usual.attempts).min(limits::RETRIES_MAX),
                codes: &said.codes,
                grpc_codes: &said.grpc_codes,
                backoff: said.backoff,
                grant: Grant {
                    percent: said.budget_percent.unwrap_or(usual.grant.percent),
                    per_second: said.budget_per_second.unwrap_or(usual.grant.per_second),
                },
                is_asked: true,
            },
        };
        // An HTTPRoute's `retry` knows no gRPC and no budget: those stay the policy's.
        if let Some(attempts) = rule.retries {
            (retries.attempts, retries.is_asked) = (attempts, true);
            retries.codes = &rule.retry_codes;
            retries.backoff = rule.backoff;
        }
        retries
    }

    /// Whether an answer with this status, or with this status of gRPC, is tried again.
    pub(crate) fn name(&self, status: u16, grpc_status: Option<u16>) -> bool {
        match grpc_status {
            Some(code) => self.grpc_codes.contains(&code),
            None => self.codes.contains(&status),
        }
    }

    /// Whether an answer may lead to another attempt.
    pub(crate) fn name_any(&self) -> bool {
        !self.codes.is_empty() || !self.grpc_codes.is_empty()
    }
}

impl<'a> Terms<'a> {
    /// Of a call that leaves here.
    pub(crate) fn of(rule: &'a Rule, service: Option<&'a Service>) -> Self {
        let policy = service.map(|service| &*service.policy);
        fn part<'a, T>(
            rule: &'a Rule,
            policy: Option<&'a Policy>,
            of: impl Fn(&'a Policy) -> &'a Option<Said<T>>,
        ) -> Option<&'a Said<T>> {
            decide(of(&rule.policy), policy.map(of))
        }
        let said = part(rule, policy, |policy| &policy.timeouts);
        let times = said.map(|said| &said.wish);
        let time = |of: fn(&TrafficTimeouts) -> Option<Duration>| times.and_then(of);
        let circuit = part(rule, policy, |policy| &policy.circuit);
        Terms {
            retries: Retries::of(rule, part(rule, policy, |policy| &policy.retry).map(|said| &said.wish)),
            hedge: part(rule, policy, |policy| &policy.hedge).map(|said| &said.wish),
            request: limit(rule.timeout.or(time(|times| times.request))),
            per_try: limit(rule.try_timeout.or(time(|times| times.per_try))),
            connect: limit(time(|times| times.connect)).unwrap_or(limits::CONNECT),
            circuit: circuit.map_or_else(Bounds::default, |said| {
                let usual = Bounds::default();
                Bounds {
                    requests: said.requests.unwrap_or(usual.requests),
                    pending: said.pending.unwrap_or(usual.pending),
                    wait: said.wait.unwrap_or(usual.wait),
                }
            }),
            circuit_by: circuit.map(|said| &*said.by),
            idle: time(|times| times.idle).map_or(Idle::Unsaid, |idle| Idle::Said(limit(Some(idle)))),
            stream: limit(time(|times| times.stream)),
            is_inbound: false,
        }
    }

    /// Of a call that comes in for the app: its caller's sidecar is the one that gives up, and says so by ending it.
    pub(crate) fn inbound(rule: &'a Rule) -> Self {
        Terms { request: None, per_try: None, is_inbound: true, ..Terms::of(rule, None) }
    }

    /// How long nothing may move before an answer begins. A request that has an end is not given up for being silent unless its policy
    /// says so.
    pub(crate) fn silence(&self, is_grpc: bool, has_end: bool) -> Option<Duration> {
        match self.idle {
            Idle::Said(idle) => idle,
            Idle::Unsaid if has_end => None,
            Idle::Unsaid if self.is_inbound => Some(limits::STREAM_SILENCE),
            // A stream's answer may begin with its first message, and that may come late.
            Idle::Unsaid if is_grpc => Some(limits::SILENCE),
            Idle::Unsaid => Some(limits::ANSWER),
        }
    }

    /// What an answer with these fields may take, to a request that began then and whose body may still be on its way.
    pub(crate) fn patience(
        &self,
        answer: &HeaderMap,
        began: Instant,
        deadline: Option<Deadline>,
        upload: Option<Arc<Progress>>,
    ) -> Patience {
        let is_stream = is_stream(answer);
        let idle = match self.idle {
            Idle::Said(idle) => idle,
            Idle::Unsaid if is_stream || self.is_inbound => Some(limits::STREAM_SILENCE),
            Idle::Unsaid => Some(limits::SILENCE),
        };
        let whole = deadline.map(|deadline| deadline.at);
        let oldest = self.stream.filter(|_| is_stream).map(|age| began + age);
        let end = match (whole, oldest) {
            (Some(whole), Some(oldest)) => Some(whole.min(oldest)),
            (whole, oldest) => whole.or(oldest),
        };
        Patience::new(end, idle, upload)
    }

    /// How long a connection that changed its protocol may be silent, and last.
    pub(crate) fn tunnel(&self) -> (Option<Duration>, Option<Duration>) {
        let idle = match self.idle {
            Idle::Said(idle) => idle,
            Idle::Unsaid => Some(limits::STREAM_SILENCE),
        };
        (idle, self.stream)
    }
}

/// Zero is none.
fn limit(time: Option<Duration>) -> Option<Duration> {
    time.filter(|time| !time.is_zero())
}

/// Answers that may be silent for long.
fn is_stream(answer: &HeaderMap) -> bool {
    let kind = answer.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    [&b"application/grpc"[..], b"text/event-stream", b"multipart/x-mixed-replace"]
        .iter()
        .any(|stream| kind.starts_with(stream))
}

#[cfg(test)]
mod tests {
    use causeway_model::Circuit;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn said<T>(wish: T) -> Option<Said<T>> {
        Some(Said { wish, by: "TrafficPolicy default/p".into() })
    }

    /// When, in seconds, an answer of this kind must have ended, and how long it may be silent.
    fn after(terms: &Terms<'_>, kind: &str) -> (Option<u64>, Option<Duration>) {
        let answer = [(CONTENT_TYPE, kind.parse().unwrap())].into_iter().collect();
        let began = Instant::now();
        let (end, idle) = terms.patience(&answer, began, None, None).limits();
        (end.map(|end| (end - began).as_secs()), idle)
    }

    fn rule(policy: Policy) -> Rule {
        Rule { policy: Arc::new(policy), ..Rule::default() }
    }

    #[test]
    fn without_a_word_the_defaults_hold() {
        let rule = Rule::default();
        let terms = Terms::of(&rule, None);
        assert_eq!((terms.request, terms.per_try, terms.connect), (None, None, limits::CONNECT));
        assert_eq!(terms.silence(false, false), Some(limits::ANSWER));
        assert_eq!(terms.silence(true, false), Some(limits::SILENCE));
        assert_eq!(terms.silence(true, true), None);
        assert_eq!(after(&terms, "application/json"), (None, Some(limits::SILENCE)));
        for stream in ["text/event-stream", "application/grpc+proto"] {
            assert_eq!(after(&terms, stream), (None, Some(limits::STREAM_SILENCE)), "{stream}");
        }
        assert_eq!(terms.tunnel(), (Some(limits::STREAM_SILENCE), None));
        assert!(!terms.retries.is_asked && !terms.retries.name(503, None));
        let inbound = Terms::inbound(&rule);
        assert_eq!(inbound.silence(false, false), Some(limits::STREAM_SILENCE), "the caller gives up");
    }

    #[test]
    fn zero_is_no_limit_and_what_the_rule_says_goes_before_the_policy() {
        let times = TrafficTimeouts {
            request: Some(9 * SECOND),
            per_try: Some(2 * SECOND),
            idle: Some(Duration::ZERO),
            stream: Some(60 * SECOND),
            connect: Some(Duration::ZERO),
        };
        let mut rule = rule(Policy { timeouts: said(times), ..Policy::default() });
        (rule.timeout, rule.retries, rule.retry_codes) = (Some(Duration::ZERO), Some(7), vec![502]);
        let terms = Terms::of(&rule, None);
        assert_eq!((terms.request, terms.per_try), (None, Some(2 * SECOND)));
        assert_eq!(terms.silence(false, false), None);
        assert_eq!(after(&terms, "text/event-stream"), (Some(60), None));
        assert_eq!(after(&terms, "text/html"), (None, None));
        assert_eq!(terms.tunnel(), (None, Some(60 * SECOND)));
        assert_eq!(terms.connect, limits::CONNECT, "a connection that is never made must be given up");
        assert!(terms.retries.is_asked && terms.retries.name(502, None) && terms.retries.attempts == 7);
    }

    #[test]
    fn codes_of_grpc_are_looked_for_in_answers_of_grpc() {
        let retry = Retry { codes: vec![200, 503], grpc_codes: vec![14], ..Retry::default() };
        let rule = rule(Policy { retry: said(retry), ..Policy::default() });
        let retries = Terms::of(&rule, None).retries;
        for (status, grpc_status, expected) in [
            (503, None, true),
            (200, Some(14), true),
            (200, Some(0), false),
            (503, Some(13), false),
            (500, None, false),
        ] {
            assert_eq!(retries.name(status, grpc_status), expected, "{status} {grpc_status:?}");
        }
    }

    #[test]
    fn a_circuit_that_says_one_bound_leaves_the_others() {
        let circuit = Circuit { requests: Some(5), ..Circuit::default() };
        let rule = rule(Policy { circuit: said(circuit), ..Policy::default() });
        let terms = Terms::of(&rule, None);
        assert_eq!((terms.circuit.requests, terms.circuit.pending), (5, limits::PENDING_PER_SERVICE_MAX));
        assert_eq!(terms.circuit_by, Some("TrafficPolicy default/p"));
    }
}
