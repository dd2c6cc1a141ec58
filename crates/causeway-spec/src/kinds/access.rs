//! Kind AccessPolicy: who may call a service.
//!
//! In:    a spec's node.     Out: [`AccessPolicy`].
//! Owner: the reader of one text.
//! Invariant: fails closed: a policy that guards nothing is an error, and so is an empty list that would mean "everybody".
//! Not here: deciding (`causeway-filters`).

use causeway_model::{AccessPolicy, AccessRule, Name, Peer, ServiceKey};

use crate::problem::Code;
use crate::reader::{At, Fields, Reader};
use crate::text;

/// Most entries of each of a policy's lists: all are tried on every call.
const ENTRIES_MAX: usize = 1024;

pub(crate) fn read(r: &mut Reader<'_>, namespace: &Name, spec: &At<'_>) -> Option<AccessPolicy> {
    let mut f = spec.fields(r)?;
    let targets_at = f.need(r, "targetRefs", "[{kind: Service, name: payments}]");
    let targets =
        targets_at.as_ref().and_then(|at| at.each(r, ENTRIES_MAX, |r, at| target(r, namespace, at)));
    if let Some(at) = targets_at.filter(is_empty_list) {
        let hint = "write `targetRefs: [{kind: Service, name: payments}]`, or remove the policy";
        at.report(r, Code::EmptyPolicy, "is empty, so the policy would guard nothing", hint);
    }
    let allow = f
        .need_or(r, "allow", "write `allow: [{from: [{service: orders}]}]`; `allow: []` allows nothing")
        .and_then(|at| at.each(r, ENTRIES_MAX, |r, at| rule(r, namespace, at)));
    let is_dry_run = f.take("dryRun").and_then(|at| at.boolean(r)).unwrap_or(false);
    f.done(r);
    let (services, namespaces) = split(targets?);
    Some(AccessPolicy { targets: services, allow: allow?, is_dry_run, namespaces, broken: None })
}

/// What a policy guards.
enum Target {
    Service(ServiceKey),
    Namespace(Name),
}

fn split(targets: Vec<Target>) -> (Vec<ServiceKey>, Vec<Name>) {
    let (mut services, mut namespaces) = (Vec::new(), Vec::new());
    for target in targets {
        match target {
            Target::Service(service) => services.push(service),
            Target::Namespace(name) => namespaces.push(name),
        }
    }
    (services, namespaces)
}

fn is_empty_list(at: &At<'_>) -> bool {
    matches!(&at.node.value, crate::tree::Value::List(items) if items.is_empty())
}

fn target(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<Target> {
    let mut f = at.fields(r)?;
    let kind_at = f.need(r, "kind", "Service");
    let group_at = f.take("group");
    let mut is_namespace = false;
    if let Some(at) = kind_at {
        match at.text(r)? {
            kind @ ("HTTPRoute" | "GRPCRoute" | "Gateway") => {
                at.not_supported(
                    r,
                    &format!("target {kind}"),
                    "name the Services behind it: `kind: Service`",
                );
            }
            _ => {
                is_namespace = at.choice(r, &[("Service", false), ("Namespace", true)])?;
                if let Some(group_at) = group_at {
                    match is_namespace {
                        true => group_at.choice(r, &[("", ())]),
                        false => group_at.choice(r, &super::refs::SERVICE_GROUPS),
                    };
                }
            }
        }
    }
    let name_at = f.need(r, "name", "payments");
    let name = name_at.as_ref().and_then(|at| at.name(r));
    if let (true, Some(at), Some(name)) = (is_namespace, &name_at, &name)
        && name != namespace
    {
        super::refs::only_own_namespace(r, at, name, namespace);
    }
    let hint = "a policy guards services of its own namespace: move it there";
    super::refs::own_namespace(r, &mut f, namespace, hint);
    f.refuse(r, "sectionName", "a policy guards every port of its service; leave it out");
    f.done(r);
    let name = name?;
    Some(match is_namespace {
        true => Target::Namespace(name),
        false => Target::Service(ServiceKey::new(namespace.clone(), name)),
    })
}

fn rule(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<AccessRule> {
    let mut f = at.fields(r)?;
    let from = part(r, &mut f, "from", "caller", |r, at| peer(r, namespace, at));
    let methods = part(r, &mut f, "methods", "method", text::method);
    let paths = part(r, &mut f, "paths", "path", path);
    let ports = part(r, &mut f, "ports", "port", |r, at| at.port(r));
    f.done(r);
    Some(AccessRule { from: from?, methods: methods?, paths: paths?, ports: ports? })
}

/// One list of a rule. Left out it means "every"; written but empty it is refused, because one person reads it as "none".
fn part<T>(
    r: &mut Reader<'_>,
    f: &mut Fields<'_>,
    name: &'static str,
    noun: &str,
    read: impl FnMut(&mut Reader<'_>, &At<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(at) = f.take(name) else { return Some(Vec::new()) };
    if is_empty_list(&at) {
        let hint = format!("leave `{name}` out to allow every {noun}; remove the rule to allow none");
        at.report(r, Code::EmptyPolicy, "is empty, which could mean every or none", hint);
    }
    at.each(r, ENTRIES_MAX, read)
}

fn peer(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<Peer> {
    let mut f = at.fields(r)?;
    let service_at = f.take("service");
    let namespace_at = f.take("namespace");
    f.done(r);
    if service_at.is_none() && namespace_at.is_none() {
        let hint = "write `service: orders`, or `namespace: shop` for all of a namespace's services";
        at.report(r, Code::Missing, "names neither a service nor a namespace", hint);
        return None;
    }
    let peer_namespace = match &namespace_at {
        Some(at) => at.name(r)?,
        None => namespace.clone(),
    };
    let service = match &service_at {
        Some(at) => Some(at.name(r)?),
        None => None,
    };
    Some(Peer { namespace: peer_namespace, service })
}

/// Exact, or a prefix of whole elements with a trailing `/*`.
fn path(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let path = text::match_path(r, at)?;
    let body = path.strip_suffix("/*").unwrap_or(&path);
    if body.contains('*') {
        let hint = "write \"/charges/*\" for everything below /charges; patterns elsewhere are not supported";
        at.report(r, Code::BadText, "may have a '*' only at its end, as \"/*\"", hint);
        return None;
    }
    Some(path)
}
