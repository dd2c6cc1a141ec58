//! The built-in trace store: the spans that proxies reported last, by trace.
//!
//! In:    spans.      Out: a trace; the newest traces of a service.
//! Owner: [`Observed`](super::Observed).
//! Invariant: at most [`BYTES_MAX`] in all and [`SPANS_MAX`] spans of one trace; the trace that began first goes first.
//! Not here: which requests are traced (`causeway-proxy`), sending spans elsewhere (OTLP, by each proxy).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use causeway_model::{Attribute, Name, Span, TraceId};
use parking_lot::Mutex;

/// Bytes of all spans: some thirty thousand.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Spans of one trace; whoever sends one trace id with everything must not push all others out.
pub const SPANS_MAX: usize = 1_000;

/// See the [module](self). Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    traces: HashMap<TraceId, Trace>,
    /// In the order of their first spans.
    order: VecDeque<TraceId>,
    bytes: usize,
}

#[derive(Default)]
struct Trace {
    spans: Vec<Arc<Span>>,
    bytes: usize,
}

impl Traces {
    /// Keeps spans.
    pub fn add(&self, spans: Vec<Span>) {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        for span in spans {
            let order = &mut kept.order;
            let trace = kept.traces.entry(span.trace).or_insert_with(|| {
                order.push_back(span.trace);
                Trace::default()
            });
            if trace.spans.len() >= SPANS_MAX {
                continue;
            }
            let bytes = weight(&span);
            trace.bytes += bytes;
            kept.bytes += bytes;
            trace.spans.push(Arc::new(span));
            while kept.bytes > BYTES_MAX {
                let Some(oldest) = kept.order.pop_front() else { break };
                kept.bytes -= kept.traces.remove(&oldest).map_or(0, |trace| trace.bytes);
            }
        }
    }

    /// The spans of a trace, in the order in which they began.
    pub fn trace(&self, id: TraceId) -> Vec<Arc<Span>> {
        let kept = self.kept.lock();
        let mut spans = kept.traces.get(&id).map_or_else(Vec::new, |trace| trace.spans.clone());
        drop(kept);
        spans.sort_by_key(|span| span.begun);
        spans
    }

    /// The newest traces that a service had a part in, newest first; of each its first span.
    pub fn newest(
        &self,
        namespace: Option<&Name>,
        service: Option<&Name>,
        limit: usize,
    ) -> Vec<(TraceId, Arc<Span>, usize)> {
        let kept = self.kept.lock();
        let is_of = |span: &Arc<Span>| {
            service.is_none_or(|name| span.service.name == *name)
                && namespace.is_none_or(|name| span.service.namespace == *name)
        };
        let traces = kept.order.iter().rev().filter_map(|id| {
            let spans = &kept.traces.get(id)?.spans;
            let first = spans.iter().min_by_key(|span| (span.begun, span.parent))?;
            spans.iter().any(is_of).then(|| (*id, first.clone(), spans.len()))
        });
        traces.take(limit).collect()
    }
}

/// About how many bytes a span takes.
fn weight(span: &Span) -> usize {
    let attributes = span.attributes.iter().map(|(name, value)| match value {
        Attribute::Text(text) => 56 + name.len() + text.len(),
        Attribute::Number(_) => 56 + name.len(),
    });
    260 + span.name.len() + span.message.len() + span.state.len() + attributes.sum::<usize>()
}

#[cfg(test)]
pub(crate) mod tests {
    use causeway_model::{ServiceKey, SpanKind};

    use super::*;

    pub(crate) fn span(trace: &str, id: u64, parent: u64, service: &str) -> Span {
        Span {
            trace: TraceId::parse(trace).unwrap(),
            id,
            parent,
            kind: SpanKind::Server,
            name: "GET".into(),
            begun: 1_000 + id,
            micros: 10,
            service: ServiceKey::parse("default", service).unwrap(),
            instance: String::new(),
            is_error: false,
            message: String::new(),
            attributes: vec![("http.request.method".into(), Attribute::Text("GET".into()))],
            state: String::new(),
        }
    }

    #[test]
    fn spans_of_several_proxies_make_one_trace() {
        let traces = Traces::default();
        let (one, other) = (format!("{:032x}", 1), format!("{:032x}", 2));
        traces.add(vec![span(&one, 2, 1, "cart"), span(&other, 9, 0, "mail")]);
        traces.add(vec![span(&one, 1, 0, "shop")]);
        let spans = traces.trace(TraceId::parse(&one).unwrap());
        assert_eq!(spans.iter().map(|span| span.id).collect::<Vec<_>>(), [1, 2]);
        let name = Name::new("cart").unwrap();
        let newest = traces.newest(None, Some(&name), 9);
        assert_eq!((newest.len(), newest[0].1.id, newest[0].2), (1, 1, 2));
        assert_eq!(traces.newest(None, None, 1)[0].0.to_string(), other);
    }

    #[test]
    fn the_store_is_bounded() {
        let traces = Traces::default();
        let endless = format!("{:032x}", 0xfff_ffff);
        traces.add((0..5_000).map(|id| span(&endless, id, 0, "loud")).collect());
        assert_eq!(traces.trace(TraceId::parse(&endless).unwrap()).len(), SPANS_MAX);
        for trace in 1..60_000_u64 {
            traces.add(vec![span(&format!("{trace:032x}"), 1, 0, "shop")]);
        }
        let kept = traces.kept.lock();
        assert!(kept.bytes <= BYTES_MAX && kept.order.len() == kept.traces.len());
        assert_eq!(kept.bytes, kept.traces.values().map(|trace| trace.bytes).sum::<usize>());
        assert!(!kept.traces.contains_key(&TraceId::parse(&endless).unwrap()), "the oldest goes first");
        assert!(kept.traces.len() > 20_000, "{}", kept.traces.len());
    }
}
