//! Kind HTTPRoute (Gateway API v1.6): which requests go where.
//!
//! In:    a spec's node.     Out: [`HttpRoute`].
//! Owner: the reader of one text.
//! Invariant: what Gateway API's own validation refuses is refused here, with the same reasons.
//! Not here: filters (`filter.rs`), whether its parents and backends exist (registry).

use std::collections::BTreeSet;

use causeway_model::{
    Backend, HeaderMatch, HttpRoute, Name, ParentKind, ParentRef, PathMatch, QueryMatch, RequestMatch,
    RetryRule, Rule, TextMatch, Timeouts,
};

use super::filter::{self, Filters, Scope};
use super::traffic::session_persistence;
use crate::problem::Code;
use crate::reader::{At, Fields, Reader};
use crate::text;

/// Most entries of a route's lists. Upstream's bounds are lower (16 rules, 64 matches); without an etcd behind us there is
/// no reason for them, but one route stays one moment's work for a proxy.
pub(crate) const RULES_MAX: usize = 2048;
pub(crate) const MATCHES_MAX: usize = 256;
pub(crate) const BACKENDS_MAX: usize = 256;
const PARENTS_MAX: usize = 32;
const HOSTNAMES_MAX: usize = 256;
const CONDITIONS_MAX: usize = 64;
/// Largest share of a backend (Gateway API's bound).
const WEIGHT_MAX: u32 = 1_000_000;
/// Most retries of a rule: more is a storm, not a retry.
const RETRIES_MAX: u32 = 100;

pub(crate) fn read(r: &mut Reader<'_>, namespace: &Name, spec: &At<'_>) -> Option<HttpRoute> {
    let mut f = spec.fields(r)?;
    let (parents, hostnames) = attachment(r, namespace, spec, &mut f);
    let rules = match f.take("rules") {
        Some(at) => at.each(r, RULES_MAX, |r, at| rule(r, namespace, at)),
        // Upstream's default: every request, no backend.
        None => Some(vec![Rule { matches: vec![any_request()], ..Rule::default() }]),
    };
    f.refuse(r, "useDefaultGateways", "name the Gateway in `parentRefs`");
    f.done(r);
    Some(HttpRoute { parents, hostnames, rules: rules? })
}

/// What a route hangs on, and for which hosts.
pub(crate) fn attachment(
    r: &mut Reader<'_>,
    namespace: &Name,
    spec: &At<'_>,
    f: &mut Fields<'_>,
) -> (Vec<ParentRef>, Vec<String>) {
    let parents = parents(r, namespace, f);
    if parents.is_empty() && f.take("parentRefs").is_none() {
        let hint = "write `parentRefs: [{name: public}]`, the Gateway (or the Service) that it hangs on";
        r.report(Code::NoEffect, spec.mark(), "the route hangs on nothing, so it takes no traffic", hint);
    }
    let hostnames = f
        .take("hostnames")
        .and_then(|at| at.each(r, HOSTNAMES_MAX, |r, at| text::hostname(r, at, true)))
        .unwrap_or_default();
    (parents, hostnames)
}

pub(crate) fn any_request() -> RequestMatch {
    RequestMatch {
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        query: Vec::new(),
        method: None,
    }
}

fn parents(r: &mut Reader<'_>, namespace: &Name, f: &mut Fields<'_>) -> Vec<ParentRef> {
    let Some(entries) = f.take("parentRefs").and_then(|at| at.list(r, PARENTS_MAX)) else {
        return Vec::new();
    };
    let mut parents: Vec<ParentRef> = Vec::new();
    for at in &entries {
        let Some(parent) = parent(r, namespace, at) else { continue };
        if parents.contains(&parent) {
            let hint = "leave one out, or tell them apart with `sectionName` or `port`";
            at.report(r, Code::Repeated, "is the same as one before it", hint);
        }
        parents.push(parent);
    }
    parents
}

fn parent(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<ParentRef> {
    let mut f = at.fields(r)?;
    let kind = match f.take("kind") {
        None => Some(ParentKind::Gateway),
        Some(at) => match at.text(r)? {
            kind @ ("ListenerSet" | "XListenerSet") => {
                at.not_supported(r, &format!("kind {kind}"), "write the listeners into a Gateway");
                None
            }
            _ => at.choice(r, &[("Gateway", ParentKind::Gateway), ("Service", ParentKind::Service)]),
        },
    };
    if let (Some(at), Some(kind)) = (f.take("group"), kind) {
        match kind {
            ParentKind::Gateway => at.choice(r, &[(super::refs::GATEWAY_GROUP, ())]),
            ParentKind::Service => at.choice(r, &super::refs::SERVICE_GROUPS),
        };
    }
    let name = f.need(r, "name", "public").and_then(|at| at.name(r));
    let parent_namespace = match kind {
        Some(ParentKind::Service) => {
            let hint = "a route on a Service stands in that Service's namespace: move it there";
            super::refs::own_namespace(r, &mut f, namespace, hint);
            namespace.clone()
        }
        _ => f.take("namespace").map_or(Some(namespace.clone()), |at| at.name(r))?,
    };
    let section = f.take("sectionName").and_then(|at| at.name(r));
    let port = f.take("port").and_then(|at| at.port(r));
    f.done(r);
    Some(ParentRef { kind: kind?, namespace: parent_namespace, name: name?, section, port })
}

fn rule(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<Rule> {
    let mut f = at.fields(r)?;
    let name = f.take("name").and_then(|at| text::label(r, &at));
    let matches = f
        .take("matches")
        .and_then(|at| at.each(r, MATCHES_MAX, request_match))
        .filter(|list| !list.is_empty());
    let matches = matches.unwrap_or_else(|| vec![any_request()]);
    let filters_at = f.take("filters");
    let filters =
        filters_at.as_ref().and_then(|at| filter::read(r, namespace, at, Scope::Rule)).unwrap_or_default();
    check_prefix(r, filters_at.as_ref(), &filters, &matches);
    let backends_at = f.take("backendRefs");
    let backends = backends_at
        .as_ref()
        .and_then(|at| at.each(r, BACKENDS_MAX, |r, at| backend(r, namespace, at, &matches, Scope::Backend)))
        .unwrap_or_default();
    if let Some(at) = backends_at.filter(|_| filters.has_redirect && !backends.is_empty()) {
        let hint = "a redirect answers by itself: leave `backendRefs` out of this rule";
        at.report(r, Code::Contradiction, "and a RequestRedirect filter exclude each other", hint);
    }
    let timeouts = f.take("timeouts").and_then(|at| timeouts(r, &at)).unwrap_or_default();
    let retry = f.take("retry").and_then(|at| retry(r, &at));
    let affinity = f.take("sessionPersistence").and_then(|at| session_persistence(r, &at));
    f.done(r);
    Some(Rule { name, matches, filters: filters.list, backends, timeouts, retry, affinity })
}

/// A prefix can be replaced only where exactly one prefix matched.
fn check_prefix(r: &mut Reader<'_>, at: Option<&At<'_>>, filters: &Filters, matches: &[RequestMatch]) {
    let Some(at) = at.filter(|_| filters.replaces_prefix) else { return };
    let has_one_prefix = matches!(matches, [RequestMatch { path: PathMatch::Prefix(_), .. }]);
    if !has_one_prefix {
        let hint =
            "give the rule exactly one match, of type PathPrefix; further matches go into rules of their own";
        at.report(
            r,
            Code::Contradiction,
            "use ReplacePrefixMatch, which needs exactly one PathPrefix match",
            hint,
        );
    }
}

fn request_match(r: &mut Reader<'_>, at: &At<'_>) -> Option<RequestMatch> {
    let mut f = at.fields(r)?;
    let path = f.take("path").map_or(Some(PathMatch::Prefix("/".to_owned())), |at| path_match(r, &at));
    let headers = header_matches(r, &mut f);
    let mut names = BTreeSet::new();
    let mut query = Vec::new();
    for at in f.take("queryParams").and_then(|at| at.list(r, CONDITIONS_MAX)).unwrap_or_default() {
        let Some((name, value)) = condition(r, &at, "page", text::label) else { continue };
        if !names.insert(name.clone()) {
            at.report(
                r,
                Code::Repeated,
                format_args!("matches {name:?} a second time"),
                "match each parameter once",
            );
        }
        query.push(QueryMatch { name, value });
    }
    let method = f.take("method").and_then(|at| text::method(r, &at));
    f.done(r);
    Some(RequestMatch { path: path?, headers, query, method })
}

/// The `headers` of a match.
pub(crate) fn header_matches(r: &mut Reader<'_>, f: &mut Fields<'_>) -> Vec<HeaderMatch> {
    let mut names = BTreeSet::new();
    let mut headers = Vec::new();
    for at in f.take("headers").and_then(|at| at.list(r, CONDITIONS_MAX)).unwrap_or_default() {
        let Some((name, value)) = condition(r, &at, "x-env", text::header_name) else { continue };
        if !names.insert(name.clone()) {
            at.report(
                r,
                Code::Repeated,
                format_args!("matches {name:?} a second time"),
                "match each header once",
            );
        }
        headers.push(HeaderMatch { name, value });
    }
    headers
}

fn path_match(r: &mut Reader<'_>, at: &At<'_>) -> Option<PathMatch> {
    #[derive(Clone, Copy)]
    enum Type {
        Exact,
        Prefix,
        Regex,
    }
    const TYPES: [(&str, Type); 3] =
        [("Exact", Type::Exact), ("PathPrefix", Type::Prefix), ("RegularExpression", Type::Regex)];
    let mut f = at.fields(r)?;
    let kind = f.take("type").map_or(Some(Type::Prefix), |at| at.choice(r, &TYPES));
    let value_at = f.take("value");
    f.done(r);
    let (kind, Some(value)) = (kind?, value_at) else { return Some(PathMatch::Prefix("/".to_owned())) };
    match kind {
        Type::Exact => text::match_path(r, &value).map(PathMatch::Exact),
        Type::Prefix => text::match_path(r, &value).map(PathMatch::Prefix),
        Type::Regex => text::regex(r, &value).map(PathMatch::Regex),
    }
}

/// A header or parameter that must be there.
fn condition(
    r: &mut Reader<'_>,
    at: &At<'_>,
    example: &str,
    read_name: fn(&mut Reader<'_>, &At<'_>) -> Option<String>,
) -> Option<(String, TextMatch)> {
    let mut f = at.fields(r)?;
    let is_regex = f
        .take("type")
        .map_or(Some(false), |at| at.choice(r, &[("Exact", false), ("RegularExpression", true)]));
    let name = f.need(r, "name", example).and_then(|at| read_name(r, &at));
    let value_at = f.need(r, "value", "prod");
    f.done(r);
    let value = match is_regex? {
        true => text::regex(r, &value_at?).map(TextMatch::Regex),
        false => {
            value_at?.text_within(r, text::VALUE_BYTES_MAX).map(|text| TextMatch::Exact(text.to_owned()))
        }
    };
    Some((name?, value?))
}

pub(crate) fn backend(
    r: &mut Reader<'_>,
    namespace: &Name,
    at: &At<'_>,
    matches: &[RequestMatch],
    scope: Scope,
) -> Option<Backend> {
    let mut f = at.fields(r)?;
    let service = super::refs::service(r, &mut f, namespace);
    let port = f.take("port").and_then(|at| at.port(r));
    let weight = f.take("weight").map_or(Some(1), |at| at.u32(r, 0..=WEIGHT_MAX));
    let filters_at = f.take("filters");
    let filters =
        filters_at.as_ref().and_then(|at| filter::read(r, namespace, at, scope)).unwrap_or_default();
    check_prefix(r, filters_at.as_ref(), &filters, matches);
    f.done(r);
    Some(Backend { service: service?, port, weight: weight?, filters: filters.list })
}

fn timeouts(r: &mut Reader<'_>, at: &At<'_>) -> Option<Timeouts> {
    let mut f = at.fields(r)?;
    let request = f.take("request").and_then(|at| at.duration(r));
    let backend_at = f.take("backendRequest");
    let backend_request = backend_at.as_ref().and_then(|at| at.duration(r));
    if let (Some(at), Some(whole), Some(each)) = (backend_at, request, backend_request)
        && !whole.is_zero()
        && each > whole
    {
        let message = format!("must not be longer than `request`, {}", crate::duration::format(whole));
        at.report(
            r,
            Code::Contradiction,
            message,
            "the whole request holds all of its tries: lengthen `request`",
        );
    }
    f.done(r);
    Some(Timeouts { request, backend_request })
}

fn retry(r: &mut Reader<'_>, at: &At<'_>) -> Option<RetryRule> {
    /// Retries when `retry` names no number (GEP-1731 leaves it to us).
    const ATTEMPTS_DEFAULT: u32 = 2;
    let mut f = at.fields(r)?;
    let code =
        |r: &mut Reader<'_>, at: &At<'_>| at.number(r, 400..=599).and_then(|code| u16::try_from(code).ok());
    let codes = f.take("codes").and_then(|at| at.each(r, CONDITIONS_MAX, code)).unwrap_or_default();
    let attempts = f.take("attempts").map_or(Some(ATTEMPTS_DEFAULT), |at| at.u32(r, 0..=RETRIES_MAX));
    let backoff = f.take("backoff").and_then(|at| at.duration(r));
    f.done(r);
    Some(RetryRule { attempts: attempts?, codes, backoff })
}
