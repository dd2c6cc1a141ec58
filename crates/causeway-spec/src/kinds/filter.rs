//! The filters of an HTTPRoute or GRPCRoute: what is done to a request or its answer.
//!
//! In:    a `filters` list.     Out: [`Filter`]s in order.
//! Owner: the reader of one text.
//! Invariant: `type` and body agree; each type but RequestMirror stands at most once; a redirect and a rewrite never stand together.
//! Not here: running them (`causeway-filters`).

use std::collections::BTreeSet;

use causeway_model::{Filter, HeaderEdit, Name, PathRewrite, Share};

use crate::problem::Code;
use crate::reader::{At, Fields, Reader};
use crate::text;

/// Most filters of a rule or backend, and most edits of one (Gateway API's bound is 16 for each).
const FILTERS_MAX: usize = 16;
const EDITS_MAX: usize = 64;

/// Where the filters stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Rule,
    Backend,
    /// A GRPCRoute, wherever in it: it has neither redirects nor rewrites.
    Grpc,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    RequestHeaders,
    ResponseHeaders,
    Redirect,
    Rewrite,
    Mirror,
}

const TYPES: [(&str, Type); 5] = [
    ("RequestHeaderModifier", Type::RequestHeaders),
    ("ResponseHeaderModifier", Type::ResponseHeaders),
    ("RequestRedirect", Type::Redirect),
    ("URLRewrite", Type::Rewrite),
    ("RequestMirror", Type::Mirror),
];

/// `type` and name of the body of the filters that upstream has and we do not.
const UNSUPPORTED: [(&str, &str); 3] =
    [("CORS", "cors"), ("ExternalAuth", "externalAuth"), ("ExtensionRef", "extensionRef")];

const fn body_of(kind: Type) -> &'static str {
    match kind {
        Type::RequestHeaders => "requestHeaderModifier",
        Type::ResponseHeaders => "responseHeaderModifier",
        Type::Redirect => "requestRedirect",
        Type::Rewrite => "urlRewrite",
        Type::Mirror => "requestMirror",
    }
}

/// What a list of filters came to.
#[derive(Default)]
pub(crate) struct Filters {
    pub(crate) list: Vec<Filter>,
    pub(crate) has_redirect: bool,
    /// The place of a `ReplacePrefixMatch`, which wants a prefix to replace.
    pub(crate) replaces_prefix: bool,
}

pub(crate) fn read(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>, scope: Scope) -> Option<Filters> {
    let entries = at.list(r, FILTERS_MAX)?;
    let mut filters = Filters::default();
    let mut seen: Vec<Type> = Vec::new();
    for entry in &entries {
        let Some((kind, filter)) = one(r, namespace, entry, scope) else { continue };
        let name = body_of(kind);
        if kind != Type::Mirror && seen.contains(&kind) {
            let hint = "put all of it into one filter of that type";
            entry.report(r, Code::Repeated, format_args!("is a second {name} in one list"), hint);
        }
        seen.push(kind);
        if seen.contains(&Type::Redirect) && seen.contains(&Type::Rewrite) {
            let hint =
                "a redirect answers by itself, so that nothing is left to rewrite: keep one of the two";
            at.report(r, Code::Contradiction, "hold both RequestRedirect and URLRewrite", hint);
        }
        filters.has_redirect |= kind == Type::Redirect;
        if let Some(
            Filter::Redirect { path: Some(PathRewrite::Prefix(_)), .. }
            | Filter::Rewrite { path: Some(PathRewrite::Prefix(_)), .. },
        ) = &filter
        {
            filters.replaces_prefix = true;
        }
        filters.list.extend(filter);
    }
    Some(filters)
}

fn one(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>, scope: Scope) -> Option<(Type, Option<Filter>)> {
    let mut f = at.fields(r)?;
    let type_at = f.need(r, "type", "RequestHeaderModifier");
    let bodies: Vec<(Type, Option<At<'_>>)> =
        TYPES.into_iter().map(|(_, kind)| (kind, f.take(body_of(kind)))).collect();
    let kind_name = type_at.as_ref().and_then(|at| at.text(r));
    let is_unsupported = UNSUPPORTED.iter().any(|(name, _)| kind_name == Some(name));
    for (name, body) in UNSUPPORTED {
        match kind_name {
            Some(kind) if kind == name => {
                f.take(body);
                if let Some(at) = &type_at {
                    at.not_supported(r, &format!("filter {name}"), "take the filter out of the route");
                }
            }
            _ => f.refuse(r, body, "take the filter out of the route"),
        }
    }
    f.done(r);
    if is_unsupported {
        return None;
    }
    let kind = type_at?.choice(r, &TYPES)?;
    let mut body = None;
    for (other, found) in bodies {
        match found {
            Some(found) if other == kind => body = Some(found),
            Some(found) => {
                let message =
                    format!("does not belong to a filter of type {}", kind_name.unwrap_or_default());
                let hint = format!("write `type` as it fits, or put the body into {:?}", body_of(kind));
                found.report(r, Code::Contradiction, message, hint);
            }
            None => {}
        }
    }
    let Some(body) = body else {
        let name = body_of(kind);
        at.report(
            r,
            Code::Missing,
            format_args!("has no {name:?}"),
            format!("write `{name}: {{…}}` beside `type`"),
        );
        return Some((kind, None));
    };
    if kind == Type::Redirect && scope == Scope::Backend {
        at.not_supported(r, "a redirect for one backend", "put the redirect into the rule's own `filters`");
    }
    if scope == Scope::Grpc && matches!(kind, Type::Redirect | Type::Rewrite) {
        let hint = "a gRPC client follows no redirect and knows its methods: take the filter out";
        at.report(r, Code::Contradiction, "is of a type that a GRPCRoute does not have", hint);
    }
    let filter = match kind {
        Type::RequestHeaders => header_edit(r, &body).map(Filter::RequestHeaders),
        Type::ResponseHeaders => header_edit(r, &body).map(Filter::ResponseHeaders),
        Type::Redirect => redirect(r, &body),
        Type::Rewrite => rewrite(r, &body),
        Type::Mirror => mirror(r, namespace, &body),
    };
    Some((kind, filter))
}

fn header_edit(r: &mut Reader<'_>, at: &At<'_>) -> Option<HeaderEdit> {
    let mut f = at.fields(r)?;
    let mut is_empty = true;
    let set = pairs(r, &mut f, "set", &mut is_empty);
    let add = pairs(r, &mut f, "add", &mut is_empty);
    let remove_at = f.take("remove");
    is_empty &= remove_at.is_none();
    let remove =
        remove_at.as_ref().and_then(|at| at.each(r, EDITS_MAX, text::header_name)).unwrap_or_default();
    f.done(r);
    if is_empty {
        at.report(r, Code::Missing, "edits nothing", "write `set`, `add` or `remove`");
    }
    let mut seen = BTreeSet::new();
    for name in set.iter().chain(&add).map(|(name, _)| name).chain(&remove) {
        if !seen.insert(name) {
            let hint = "name each header once; one value may hold several, with commas between";
            at.report(r, Code::Repeated, format_args!("names the header {name:?} twice"), hint);
        }
    }
    Some(HeaderEdit { set, add, remove })
}

fn pairs(
    r: &mut Reader<'_>,
    f: &mut Fields<'_>,
    name: &'static str,
    is_empty: &mut bool,
) -> Vec<(String, String)> {
    let read = |r: &mut Reader<'_>, at: &At<'_>| {
        let mut f = at.fields(r)?;
        let name = f.need(r, "name", "x-env").and_then(|at| text::header_name(r, &at));
        let value = f.need(r, "value", "prod").and_then(|at| text::header_value(r, &at));
        f.done(r);
        Some((name?, value?))
    };
    let Some(at) = f.take(name) else { return Vec::new() };
    *is_empty = false;
    at.each(r, EDITS_MAX, read).unwrap_or_default()
}

fn redirect(r: &mut Reader<'_>, at: &At<'_>) -> Option<Filter> {
    let mut f = at.fields(r)?;
    let scheme = f
        .take("scheme")
        .and_then(|at| at.choice(r, &[("http", "http"), ("https", "https")]))
        .map(str::to_owned);
    let hostname = f.take("hostname").and_then(|at| text::hostname(r, &at, false));
    let path = f.take("path").and_then(|at| path(r, &at));
    let port = f.take("port").and_then(|at| at.port(r));
    let status = f.take("statusCode").map_or(Some(302), |at| {
        const STATUSES: [u64; 5] = [301, 302, 303, 307, 308];
        let status = at.number(r, 300..=399)?;
        if !STATUSES.contains(&status) {
            let hint = "301 and 308 are for good, 302, 303 and 307 for now";
            at.report(
                r,
                Code::NotAllowed,
                format_args!("must be 301, 302, 303, 307 or 308, found {status}"),
                hint,
            );
            return None;
        }
        u16::try_from(status).ok()
    });
    f.done(r);
    Some(Filter::Redirect { scheme, hostname, path, port, status: status? })
}

fn rewrite(r: &mut Reader<'_>, at: &At<'_>) -> Option<Filter> {
    let mut f = at.fields(r)?;
    let hostname = f.take("hostname").and_then(|at| text::hostname(r, &at, false));
    let path_at = f.take("path");
    let path = path_at.as_ref().and_then(|at| path(r, at));
    f.done(r);
    if hostname.is_none() && path_at.is_none() {
        at.report(r, Code::Missing, "rewrites nothing", "write `hostname` or `path`");
    }
    Some(Filter::Rewrite { hostname, path })
}

/// Gateway API's `percent` (a whole number) or `fraction`; every request when neither is written.
fn mirror(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<Filter> {
    let mut f = at.fields(r)?;
    let backend = f.need(r, "backendRef", "{name: orders-next, port: 80}").and_then(|at| {
        let mut f = at.fields(r)?;
        let service = super::refs::service(r, &mut f, namespace);
        let port = f.take("port").and_then(|at| at.port(r));
        f.done(r);
        Some((service?, port))
    });
    let percent_at = f.take("percent");
    let percent = percent_at.as_ref().and_then(|at| super::traffic::share(r, at));
    let fraction_at = f.take("fraction");
    let fraction = fraction_at.as_ref().and_then(|at| fraction(r, at));
    f.done(r);
    if let (Some(at), Some(_)) = (fraction_at, percent_at) {
        at.report(r, Code::Contradiction, "and `percent` exclude each other", "keep one of the two");
    }
    let (service, port) = backend?;
    Some(Filter::Mirror { service, port, share: percent.or(fraction).unwrap_or(Share::WHOLE) })
}

fn fraction(r: &mut Reader<'_>, at: &At<'_>) -> Option<Share> {
    let mut f = at.fields(r)?;
    let numerator = f.need(r, "numerator", "5").and_then(|at| at.u32(r, 0..=1_000_000));
    let denominator = f.take("denominator").map_or(Some(100), |at| at.u32(r, 1..=1_000_000));
    f.done(r);
    let (numerator, denominator) = (u64::from(numerator?), u64::from(denominator?));
    if numerator > denominator {
        at.report(r, Code::OutOfRange, "is more than one", "the numerator is at most the denominator");
        return None;
    }
    u32::try_from(numerator * 1_000_000 / denominator).ok().map(Share::new)
}

fn path(r: &mut Reader<'_>, at: &At<'_>) -> Option<PathRewrite> {
    let mut f = at.fields(r)?;
    let type_at = f.need(r, "type", "ReplacePrefixMatch");
    let full_at = f.take("replaceFullPath");
    let prefix_at = f.take("replacePrefixMatch");
    f.done(r);
    let is_full = type_at?.choice(r, &[("ReplaceFullPath", true), ("ReplacePrefixMatch", false)])?;
    let (wanted, other, name) = match is_full {
        true => (full_at, prefix_at, "replaceFullPath"),
        false => (prefix_at, full_at, "replacePrefixMatch"),
    };
    if let Some(other) = other {
        let hint = format!("this type wants `{name}` alone");
        other.report(r, Code::Contradiction, "does not belong to this type of path", hint);
    }
    let Some(wanted) = wanted else {
        at.report(r, Code::Missing, format_args!("has no {name:?}"), format!("write `{name}: /new`"));
        return None;
    };
    // An empty prefix is upstream's way to say "/".
    let text = match wanted.text(r)? {
        "" if !is_full => "/".to_owned(),
        _ => text::match_path(r, &wanted)?,
    };
    Some(if is_full { PathRewrite::Full(text) } else { PathRewrite::Prefix(text) })
}
