//! Kind GRPCRoute (Gateway API v1.6): which gRPC methods go where.
//!
//! In:    a spec's node.     Out: [`HttpRoute`]: a method is the path `/package.Service/Method`.
//! Owner: the reader of one text.
//! Invariant: what Gateway API's own validation refuses is refused here, with the same reasons.
//! Not here: what it has in common with an HTTPRoute (`route.rs`).

use causeway_model::{HttpRoute, Name, PathMatch, RequestMatch, Rule, Timeouts};

use super::filter::{self, Scope};
use super::route::{self, BACKENDS_MAX, MATCHES_MAX, RULES_MAX};
use crate::problem::Code;
use crate::reader::{At, Reader};
use crate::text;

pub(crate) fn read(r: &mut Reader<'_>, namespace: &Name, spec: &At<'_>) -> Option<HttpRoute> {
    let mut f = spec.fields(r)?;
    let (parents, hostnames) = route::attachment(r, namespace, spec, &mut f);
    let rules = match f.take("rules") {
        Some(at) => at.each(r, RULES_MAX, |r, at| rule(r, namespace, at)),
        None => Some(Vec::new()),
    };
    f.refuse(r, "useDefaultGateways", "name the Gateway in `parentRefs`");
    f.done(r);
    Some(HttpRoute { parents, hostnames, rules: rules? })
}

fn rule(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<Rule> {
    let mut f = at.fields(r)?;
    let name = f.take("name").and_then(|at| text::label(r, &at));
    let matches = f
        .take("matches")
        .and_then(|at| at.each(r, MATCHES_MAX, request_match))
        .filter(|list| !list.is_empty())
        .unwrap_or_else(|| vec![route::any_request()]);
    let filters =
        f.take("filters").and_then(|at| filter::read(r, namespace, &at, Scope::Grpc)).unwrap_or_default();
    let backends = f
        .take("backendRefs")
        .and_then(|at| {
            at.each(r, BACKENDS_MAX, |r, at| route::backend(r, namespace, at, &matches, Scope::Grpc))
        })
        .unwrap_or_default();
    let affinity = f.take("sessionPersistence").and_then(|at| super::traffic::session_persistence(r, &at));
    f.done(r);
    Some(Rule {
        name,
        matches,
        filters: filters.list,
        backends,
        timeouts: Timeouts::default(),
        retry: None,
        affinity,
    })
}

fn request_match(r: &mut Reader<'_>, at: &At<'_>) -> Option<RequestMatch> {
    let mut f = at.fields(r)?;
    let path = f.take("method").map_or(Some(PathMatch::Prefix("/".to_owned())), |at| method(r, &at));
    let headers = route::header_matches(r, &mut f);
    f.done(r);
    Some(RequestMatch { path: path?, headers, query: Vec::new(), method: None })
}

/// A service, a method, or both, as a path.
fn method(r: &mut Reader<'_>, at: &At<'_>) -> Option<PathMatch> {
    let mut f = at.fields(r)?;
    let is_regex = f
        .take("type")
        .map_or(Some(false), |at| at.choice(r, &[("Exact", false), ("RegularExpression", true)]))?;
    let read = |r: &mut Reader<'_>, at: At<'_>| match is_regex {
        true => text::regex(r, &at),
        false => identifier(r, &at),
    };
    let service_at = f.take("service");
    let method_at = f.take("method");
    f.done(r);
    if service_at.is_none() && method_at.is_none() {
        at.report(r, Code::Missing, "names neither a service nor a method", "write `service: shop.v1.Cart`");
        return None;
    }
    let service = match service_at {
        Some(at) => Some(read(r, at)?),
        None => None,
    };
    let method = match method_at {
        Some(at) => Some(read(r, at)?),
        None => None,
    };
    Some(match (service, method, is_regex) {
        (Some(service), Some(method), false) => PathMatch::Exact(format!("/{service}/{method}")),
        (Some(service), None, false) => PathMatch::Prefix(format!("/{service}")),
        (None, Some(method), false) => PathMatch::Regex(format!("/[^/]+/{}", escape(&method))),
        (service, method, _) => {
            let any = || "[^/]+".to_owned();
            let group = |pattern: String| format!("(?:{pattern})");
            PathMatch::Regex(format!(
                "/{}/{}",
                service.map_or_else(any, group),
                method.map_or_else(any, group)
            ))
        }
    })
}

/// A name of a service or method: letters, digits, `_`, and `.` between.
fn identifier(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, text::PATH_BYTES_MAX)?;
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte)) {
        return Some(text.to_owned());
    }
    let hint = "write it as in the .proto file, `package.Service`; patterns need `type: RegularExpression`";
    at.report(r, Code::BadText, "is not the name of a gRPC service or method", hint);
    None
}

fn escape(text: &str) -> String {
    text.replace('.', "\\.")
}
