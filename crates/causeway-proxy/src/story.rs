//! The story of a request that did not go well: which endpoints there were, what each attempt came to, who decided.
//!
//! In:    words of whoever handles the request, as it happens.      Out: what `causeway why` tells; the spans of attempts.
//! Owner: the request's `Facts`; one task at a time writes.
//! Invariant: a request that goes well at its first attempt allocates nothing here; a long story is cut, and says that it is.
//! Not here: keeping stories (`ledger`), choosing (`balance`), trying (`attempt`).

use std::borrow::Cow;
use std::sync::Arc;

use causeway_wire::ProxyError;
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::limits::{STORY_LINES_MAX, STORY_WORDS_MAX};

/// What happened to one request, told only when there is something to tell.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Every attempt is told, the good ones too: the request is traced.
    is_whole: bool,
    pages: Option<Box<Pages>>,
}

/// What there is to tell.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Attempts in the order of their ends.
    pub attempts: Vec<Attempt>,
    /// Endpoints that were not chosen, and why not.
    pub passed_over: Vec<(Box<str>, &'static str)>,
    /// Anything else, in words for an operator.
    pub notes: Vec<Cow<'static, str>>,
    /// Lines that did not fit.
    pub untold: u32,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub endpoint: Arc<Endpoint>,
    pub lap: Lap,
    /// The status of an answer; none when there was no answer.
    pub status: Option<u16>,
    /// What went wrong, in the words of RFC 9209 or ours; empty when nothing did.
    pub error: &'static str,
    pub details: Box<str>,
}

/// From when to when, and under which span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    pub begun: Instant,
    pub ended: Instant,
    /// Id of the attempt's span; 0 when the request is not traced.
    pub span: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End<'a> {
    /// The endpoint answered with this status.
    Answered(u16),
    /// A sidecar answered with this status, and says that this error was its own.
    Refused(u16, ProxyError),
    /// There was no answer.
    Failed(ProxyError, &'a str),
    /// It was given up by us: another attempt was faster, the client left.
    GivenUp(&'static str),
}

/// Why an endpoint was not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotChosen {
    /// It kept failing and is left alone for a while.
    Ejected,
    /// As many requests as it may have are under way.
    Full,
    /// It takes no new calls: it is about to stop.
    Draining,
    /// Its health checks fail.
    Unhealthy,
    /// Whoever wrote it down gave it no weight.
    Weightless,
    /// It is behind a sidecar, and this proxy has no identity to go through it.
    NoIdentity,
    /// It would have done as well; another one was chosen.
    Spare,
}

impl NotChosen {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            NotChosen::Ejected => "ejected: it kept failing",
            NotChosen::Full => "full: it has as many requests as it may",
            NotChosen::Draining => "draining: it takes no new calls",
            NotChosen::Unhealthy => "its health checks fail",
            NotChosen::Weightless => "it has no weight",
            NotChosen::NoIdentity => "it is behind a sidecar, and this proxy has no identity yet",
            NotChosen::Spare => "not needed",
        }
    }
}

impl Story {
    /// From now on every attempt is told.
    pub(crate) fn tell_all(&mut self) {
        self.is_whole = true;
    }

    /// An attempt ended. A good first one is not written down unless all is told.
    pub(crate) fn attempt(&mut self, endpoint: &Arc<Endpoint>, lap: Lap, end: End<'_>) {
        let is_good = matches!(end, End::Answered(status) if status < 500);
        if is_good && !self.is_whole && self.pages.is_none() {
            return;
        }
        let (status, error, details) = match end {
            End::Answered(status) => (Some(status), "", Box::default()),
            End::Refused(status, error) => (Some(status), error.as_str(), Box::default()),
            End::Failed(error, details) => (None, error.as_str(), cut(details)),
            End::GivenUp(why) => (None, why, Box::default()),
        };
        let attempt = Attempt { endpoint: endpoint.clone(), lap, status, error, details };
        let pages = self.pages.get_or_insert_default();
        put(&mut pages.attempts, attempt, &mut pages.untold);
    }

    /// An endpoint (or an instance that is none) was looked at and not chosen.
    pub(crate) fn considered(&mut self, name: &str, why: NotChosen) {
        let pages = self.pages.get_or_insert_default();
        if pages.passed_over.iter().any(|(known, _)| **known == *name) {
            return;
        }
        put(&mut pages.passed_over, (name.into(), why.as_str()), &mut pages.untold);
    }

    /// Something else that the operator wants to know: in plain words, lower case, no full stop.
    pub(crate) fn note(&mut self, what: impl Into<Cow<'static, str>>) {
        let pages = self.pages.get_or_insert_default();
        put(&mut pages.notes, what.into(), &mut pages.untold);
    }

    /// What there is to tell; nothing of a request that went well.
    pub(crate) fn pages(&self) -> Option<&Pages> {
        self.pages.as_deref()
    }
}

fn put<T>(lines: &mut Vec<T>, line: T, untold: &mut u32) {
    match lines.len() < STORY_LINES_MAX {
        true => lines.push(line),
        false => *untold += 1,
    }
}

/// An error's words come from outside and may be long.
pub(crate) fn cut(words: &str) -> Box<str> {
    let mut end = words.len().min(STORY_WORDS_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lap() -> Lap {
        let now = Instant::now();
        Lap { begun: now, ended: now, span: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_request_has_no_story_and_a_mended_one_tells_both_attempts() {
        let (first, second) = (Endpoint::for_test(1, 1), Endpoint::for_test(2, 1));
        let mut story = Story::default();
        story.attempt(&first, lap(), End::Answered(200));
        story.attempt(&first, lap(), End::Answered(404));
        assert!(story.pages().is_none());
        story.attempt(&first, lap(), End::Failed(ProxyError::ConnectionRefused, "nobody listens"));
        story.attempt(&second, lap(), End::Answered(200));
        let told: Vec<_> =
            story.pages().unwrap().attempts.iter().map(|a| (a.endpoint.id, a.status, a.error)).collect();
        assert_eq!(told, [(1, None, "connection_refused"), (2, Some(200), "")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_traced_request_tells_all() {
        let mut story = Story::default();
        story.tell_all();
        story.attempt(&Endpoint::for_test(1, 1), lap(), End::Answered(200));
        assert_eq!(story.pages().unwrap().attempts.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_story_is_cut_and_says_so() {
        let endpoint = Endpoint::for_test(1, 1);
        let mut story = Story::default();
        let long = "ü".repeat(STORY_WORDS_MAX);
        for _ in 0..STORY_LINES_MAX + 3 {
            story.attempt(&endpoint, lap(), End::Failed(ProxyError::DnsError, &long));
        }
        for at in 0..STORY_LINES_MAX + 2 {
            story.considered(&format!("e{at}"), NotChosen::Ejected);
            story.considered("e0", NotChosen::Full);
        }
        let pages = story.pages().unwrap();
        assert_eq!((pages.attempts.len(), pages.passed_over.len()), (STORY_LINES_MAX, STORY_LINES_MAX));
        assert_eq!(pages.untold, 5);
        assert!(pages.attempts[0].details.len() <= STORY_WORDS_MAX);
    }
}
