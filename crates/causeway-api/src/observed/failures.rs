//! Requests that failed, as proxies told of them: the newest, found by request id, trace id or service.
//!
//! In:    accounts of proxies.      Out: all accounts of one request in the order of its way; the newest of a service.
//! Owner: [`Observed`](super::Observed).
//! Invariant: at most [`BYTES_MAX`] in all and [`PER_PROXY_MAX`] of one proxy; the oldest of whoever has most goes first.
//! Not here: what an account says (`causeway-proxy`), how it is shown (`http/observed.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use causeway_model::{Failure, Name};
use parking_lot::Mutex;

/// Bytes of all accounts: some ten thousand.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Accounts of one proxy.
pub const PER_PROXY_MAX: usize = 1_000;

/// See the [module](self). Cheap to clone.
#[derive(Clone, Default)]
pub struct Failures {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    by_proxy: HashMap<String, VecDeque<Arc<Failure>>>,
    bytes: usize,
}

impl Failures {
    /// Keeps what a proxy told.
    pub fn add(&self, proxy: &str, failures: Vec<Failure>) {
        if failures.is_empty() {
            return;
        }
        let mut kept = self.kept.lock();
        if !kept.by_proxy.contains_key(proxy) {
            kept.by_proxy.insert(proxy.to_owned(), VecDeque::new());
        }
        for failure in failures {
            kept.bytes += weight(&failure);
            let own = kept.by_proxy.entry(proxy.to_owned()).or_default();
            own.push_back(Arc::new(failure));
            if own.len() > PER_PROXY_MAX {
                kept.forget_one_of(proxy);
            }
        }
        while kept.bytes > BYTES_MAX {
            let longest =
                kept.by_proxy.iter().max_by_key(|(_, own)| own.len()).map(|(proxy, _)| proxy.clone());
            let Some(longest) = longest else { break };
            kept.forget_one_of(&longest);
        }
        kept.by_proxy.retain(|_, own| !own.is_empty());
    }

    /// Every account of the request of this id (or of the trace of this id), in the order of its way: from the edge inwards.
    pub fn of(&self, id: &str) -> Vec<Arc<Failure>> {
        let mut found = self.find(|failure| failure.request_id == id || failure.trace_id == id);
        found.sort_by_key(|failure| (failure.at, failure.side));
        found
    }

    /// The newest, newest first.
    pub fn newest(
        &self,
        namespace: Option<&Name>,
        service: Option<&Name>,
        limit: usize,
    ) -> Vec<Arc<Failure>> {
        let mut found = self.find(|failure| {
            let called = failure.service.as_ref();
            let is_of = |wanted: Option<&Name>, of: fn(&causeway_model::ServiceKey) -> &Name| {
                wanted.is_none_or(|wanted| {
                    called.is_some_and(|key| of(key) == wanted) || of(&failure.seen_by) == wanted
                })
            };
            is_of(namespace, |key| &key.namespace) && is_of(service, |key| &key.name)
        });
        found.sort_by_key(|failure| std::cmp::Reverse(failure.at));
        found.truncate(limit);
        found
    }

    fn find(&self, wanted: impl Fn(&Failure) -> bool) -> Vec<Arc<Failure>> {
        let kept = self.kept.lock();
        kept.by_proxy.values().flatten().filter(|failure| wanted(failure)).cloned().collect()
    }
}

impl Kept {
    fn forget_one_of(&mut self, proxy: &str) {
        if let Some(failure) = self.by_proxy.get_mut(proxy).and_then(VecDeque::pop_front) {
            self.bytes -= weight(&failure);
        }
    }
}

/// About how many bytes an account takes.
fn weight(failure: &Failure) -> usize {
    let attempts = failure.tried.iter().map(|a| 160 + a.endpoint.len() + a.address.len() + a.details.len());
    let passed_over = failure.passed_over.iter().map(|other| 48 + other.endpoint.len() + other.why.len());
    let notes = failure.notes.iter().map(|note| 24 + note.len());
    let texts = [
        &failure.request_id,
        &failure.host,
        &failure.path,
        &failure.details,
        &failure.rule,
        &failure.rule_origin,
        &failure.refused_by,
        &failure.caller,
        &failure.endpoint,
        &failure.instance,
    ];
    let texts: usize = texts.iter().map(|text| text.len()).sum();
    700 + texts + attempts.chain(passed_over).chain(notes).sum::<usize>()
}

#[cfg(test)]
pub(crate) mod tests {
    use causeway_model::{ServiceKey, Side, Timestamp};

    use super::*;

    pub(crate) fn failure(request_id: &str, at: u64, side: Side) -> Failure {
        let key = |name| ServiceKey::parse("default", name).unwrap();
        Failure {
            at: Timestamp::from_millis(at),
            request_id: request_id.into(),
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            side,
            seen_by: key("shop"),
            instance: "shop-1".into(),
            method: "GET".into(),
            host: "cart.mesh".into(),
            path: "/items".into(),
            protocol: "HTTP/1.1".into(),
            status: 503,
            reason: "connection_refused".into(),
            details: "nobody listens".into(),
            rule: String::new(),
            rule_origin: String::new(),
            refused_by: String::new(),
            service: Some(key("cart")),
            endpoint: "cart-1".into(),
            caller: "127.0.0.1".into(),
            micros: 1_500,
            attempts: 1,
            tried: vec![],
            passed_over: vec![],
            notes: vec![],
            untold: 0,
        }
    }

    fn ids(found: &[Arc<Failure>]) -> Vec<&str> {
        found.iter().map(|failure| failure.request_id.as_str()).collect()
    }

    #[test]
    fn accounts_of_one_request_stand_in_the_order_of_its_way() {
        let failures = Failures::default();
        failures.add("cart", vec![failure("a", 5, Side::Callee), failure("b", 6, Side::Callee)]);
        failures.add("shop", vec![failure("a", 5, Side::Caller)]);
        failures.add("public", vec![failure("a", 4, Side::Gateway)]);
        let sides: Vec<_> = failures.of("a").iter().map(|failure| failure.side).collect();
        assert_eq!(sides, [Side::Gateway, Side::Caller, Side::Callee]);
        assert_eq!(failures.of("0af7651916cd43dd8448eb211c80319c").len(), 4, "a trace's id finds it too");
        assert!(failures.of("c").is_empty());
        let name = |text| Name::new(text).unwrap();
        assert_eq!(ids(&failures.newest(None, Some(&name("cart")), 2)), ["b", "a"]);
        assert!(failures.newest(Some(&name("other")), None, 9).is_empty());
    }

    #[test]
    fn a_proxy_with_much_to_say_pushes_nobody_out() {
        let failures = Failures::default();
        failures.add("quiet", vec![failure("quiet", 1, Side::Caller)]);
        for at in 0..40 {
            let long = |n: usize| Failure {
                details: "x".repeat(20_000),
                ..failure(&n.to_string(), at, Side::Caller)
            };
            failures.add("loud", (0..50).map(long).collect());
        }
        assert_eq!(failures.of("quiet").len(), 1);
        let kept = failures.kept.lock();
        assert!(kept.bytes <= BYTES_MAX && kept.by_proxy["loud"].len() <= PER_PROXY_MAX);
        assert!(kept.by_proxy["loud"].len() > 500, "but what there is room for is kept");
        assert_eq!(
            kept.bytes,
            kept.by_proxy.values().flatten().map(|failure| weight(failure)).sum::<usize>()
        );
    }
}
