//! What a proxy reports of single requests, besides counts: bounded, and lost when there is too much of it.

use minicbor::{Decode, Encode};

use crate::failure::Failure;
use crate::span::Span;
use crate::tap::Tapped;

/// What one proxy saw of single requests since its last report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Observations {
    /// Requests that failed.
    #[n(0)]
    pub failures: Vec<Failure>,
    /// Spans of requests that are traced.
    #[n(1)]
    pub spans: Vec<Span>,
    /// Requests that somebody wants to see live.
    #[n(2)]
    pub tapped: Vec<Tapped>,
    /// How many of all these were lost since the last report, because there was no room.
    #[n(3)]
    pub lost: u64,
}

impl Observations {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty() && self.spans.is_empty() && self.tapped.is_empty() && self.lost == 0
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        self.failures.len() + self.spans.len() + self.tapped.len()
    }
}
