//! The trace of a request: whether it is kept, under which span, what the next one is told.
//!
//! In:    `traceparent` and `tracestate` as they came.      Out: the same towards the service; ids for spans.
//! Owner: the request's `Facts`; the sampler is its worker's.
//! Invariant: a request that is not kept carries its context on as it came and costs one comparison; what is kept is bounded by
//! the second, whatever flags come from outside.
//! Not here: what a span says (`spans`), where spans go (`ledger`, `otlp`).

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use causeway_model::TraceId;
use causeway_wire::trace::{self, TRACEPARENT, TRACESTATE};
use http::{HeaderMap, HeaderValue};

use crate::config::Tracing;

/// The trace that a request belongs to.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// `traceparent` as it came, or as it was made here.
    parent: Option<HeaderValue>,
    /// It was made here: the span that it names is this request's.
    is_ours: bool,
    kept: Option<Box<Kept>>,
}

/// A trace that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub trace: TraceId,
    /// The span above this request's; 0 when there is none.
    pub parent: u64,
    /// This request's span.
    pub span: u64,
    /// `tracestate`.
    pub state: Option<HeaderValue>,
}

impl Trace {
    /// Of a request that came with a valid `traceparent`.
    pub(crate) fn follow(headers: &HeaderMap, parent: HeaderValue, sampler: &Sampler, draw: u64) -> Self {
        let context = trace::read(&parent);
        let is_kept = context.is_some_and(|context| context.is_sampled) && sampler.follows();
        let kept = context.filter(|_| is_kept).and_then(|context| {
            Some(Box::new(Kept {
                trace: TraceId::parse(context.trace)?,
                parent: context.span,
                span: draw | 1,
                state: headers.get(&TRACESTATE).cloned(),
            }))
        });
        Trace { parent: Some(parent), is_ours: false, kept }
    }

    /// Of a request whose `traceparent` was made here.
    pub(crate) fn begin(parent: HeaderValue, is_kept: bool) -> Self {
        let mut trace = Trace { parent: Some(parent), is_ours: true, kept: None };
        if is_kept {
            trace.kept = trace.late(0).map(Box::new);
        }
        trace
    }

    /// Its id, 32 hexadecimal digits; empty when it has none.
    pub(crate) fn id(&self) -> &str {
        self.parent.as_ref().and_then(trace::trace_id).unwrap_or("")
    }

    /// What is kept of it.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_deref()
    }

    /// What should have been kept: the request failed.
    pub(crate) fn late(&self, draw: u64) -> Option<Kept> {
        let context = trace::read(self.parent.as_ref()?)?;
        let (parent, span) = if self.is_ours { (0, context.span) } else { (context.span, draw | 1) };
        Some(Kept { trace: TraceId::parse(context.trace)?, parent, span, state: None })
    }

    /// Tells the service under which span it is called. Gives the span; 0 when nothing is kept.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap, span: impl FnOnce(&Kept) -> u64) -> u64 {
        let (Some(kept), Some(parent)) = (&self.kept, &self.parent) else { return 0 };
        let span = span(kept);
        headers.insert(&TRACEPARENT, trace::child(parent, span));
        span
    }
}

/// Decides which requests are kept. Each worker has its own.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Draws below this are kept; none when the proxy makes no traces.
    below: Option<u64>,
    /// New traces that are kept whatever the draw, until the next refill: where there are few, each is wanted.
    few: AtomicU32,
    few_each: u32,
    /// Requests of others' traces that are kept until the next refill.
    follow: AtomicU32,
    follow_each: u32,
}

impl Sampler {
    /// `refills` a second.
    pub(crate) fn new(tracing: &Tracing, refills: u32) -> Self {
        let ratio = tracing.ratio.clamp(0.0, 1.0);
        let below = (ratio > 0.0).then_some((ratio * u64::MAX as f64) as u64);
        let few_each = if below.is_some() { tracing.few_per_second.div_ceil(refills) } else { 0 };
        let follow_each = tracing.follow_per_second.div_ceil(refills);
        Sampler {
            below,
            few: AtomicU32::new(few_each),
            few_each,
            follow: AtomicU32::new(follow_each),
            follow_each,
        }
    }

    /// Whether requests without a trace get one, and whether this one's is kept.
    pub(crate) fn begins(&self, draw: u64) -> Option<bool> {
        let below = self.below?;
        Some(draw <= below || take(&self.few))
    }

    fn follows(&self) -> bool {
        take(&self.follow)
    }

    /// So many times a second.
    pub(crate) fn refill(&self) {
        self.few.store(self.few_each, Relaxed);
        self.follow.store(self.follow_each, Relaxed);
    }
}

/// Only its own worker takes, so that a load and a store are enough.
fn take(left: &AtomicU32) -> bool {
    match left.load(Relaxed) {
        0 => false,
        some => {
            left.store(some - 1, Relaxed);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(ratio: f64) -> Sampler {
        Sampler::new(&Tracing { ratio, few_per_second: 10, follow_per_second: 20, otlp: None }, 5)
    }

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_share_is_kept_and_the_first_few_of_each_moment() {
        let sampler = sampler(0.5);
        let keeps = |draw: u64| sampler.begins(draw).unwrap();
        assert!(keeps(u64::MAX) && keeps(u64::MAX) && !keeps(u64::MAX) && keeps(1));
        sampler.refill();
        assert!(keeps(u64::MAX));
        assert_eq!(self::sampler(0.0).begins(0), None, "no traces are made");
    }

    #[test]
    fn the_flag_from_outside_is_followed_within_bounds() {
        let sampler = sampler(0.0);
        let follow = |text: &'static str| {
            Trace::follow(&HeaderMap::new(), HeaderValue::from_static(text), &sampler, 8)
        };
        assert!(follow("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").kept().is_none());
        let trace = follow(SAMPLED);
        let kept = trace.kept().unwrap();
        assert_eq!((kept.parent, kept.span), (0xb7ad_6b71_6920_3331, 9));
        assert_eq!((1..20).filter(|_| follow(SAMPLED).kept().is_some()).count(), 3);
        assert_eq!(follow(SAMPLED).id(), "0af7651916cd43dd8448eb211c80319c", "it is passed on all the same");
    }

    #[test]
    fn the_next_is_told_its_span_only_when_it_is_kept() {
        let sampler = sampler(0.0);
        let mut headers = HeaderMap::new();
        let trace = Trace::follow(&headers, HeaderValue::from_static(SAMPLED), &sampler, 8);
        assert_eq!(trace.stamp(&mut headers, |kept| kept.span + 1), 10);
        assert_eq!(headers[&TRACEPARENT], "00-0af7651916cd43dd8448eb211c80319c-000000000000000a-01");
        headers.clear();
        assert_eq!(Trace::default().stamp(&mut headers, |_| 1), 0);
        assert!(headers.is_empty());
    }

    #[test]
    fn of_a_failure_the_spans_are_known_late() {
        let (_, parent) = trace::new_trace([1, 2, 4], false);
        let ours = Trace::begin(parent, false);
        assert!(ours.kept().is_none());
        assert_eq!(ours.late(8).map(|kept| (kept.parent, kept.span)), Some((0, 5)));
        let theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let theirs = Trace::follow(&HeaderMap::new(), HeaderValue::from_static(theirs), &sampler(1.0), 2);
        assert_eq!(theirs.late(8).map(|kept| (kept.parent, kept.span)), Some((0xb7ad_6b71_6920_3331, 9)));
    }
}
