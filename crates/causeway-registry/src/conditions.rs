//! What is to be said of each object: whether it is in use, and whether what it names is there.
//!
//! In:    an object and the state around it.      Out: its conditions, as Gateway API words them.
//! Owner: `machine.rs` asks when an object is written and when something that it names comes, changes or goes.
//! Invariant: pure; conditions follow from specs and presence, never from other conditions, so recomputing cannot loop.
//! Not here: `Programmed` (whoever runs the data plane knows it), what the data plane does about a broken object.

use causeway_model::{
    AccessPolicy, Action, Condition, ConditionKind, Delivery, Gateway, HttpRoute, Kind, Listener, Name,
    Object, ObjectKey, ParentKind, ParentRef, PolicyTarget, SagaDefinition, Service, ServiceKey, Snapshot,
    Spec, Subscription, TargetKind, Timestamp, TrafficPolicy,
};

use crate::services::Services;

/// Problems that one condition's message names; the rest is counted.
const PROBLEMS_SHOWN_MAX: usize = 5;
/// `spec.gatewayClassName` of the gateways that are ours.
const GATEWAY_CLASS: &str = "causeway";

/// The state around an object.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) services: &'a Services,
}

/// Something that keeps a condition from holding.
struct Problem {
    reason: &'static str,
    code: &'static str,
    text: String,
}

/// What `spec`, the content of `key`, names: when one of these comes, changes or goes, its conditions are computed again.
pub(crate) fn names(key: &ObjectKey, spec: &Spec) -> Vec<ObjectKey> {
    let service = |of: &ServiceKey| ObjectKey::service(of);
    let topic = |name: &Name| object(Kind::Topic, &key.namespace, name);
    match spec {
        Spec::Service(Service { subset, .. }) => {
            subset.iter().map(|subset| object(Kind::Service, &key.namespace, &subset.of)).collect()
        }
        Spec::Gateway(gateway) => {
            secrets(gateway).map(|(namespace, name)| object(Kind::Secret, namespace, name)).collect()
        }
        Spec::HttpRoute(route) | Spec::GrpcRoute(route) => route
            .parents
            .iter()
            .map(parent_key)
            .chain(route.destinations().map(|(to, _)| service(to)))
            .collect(),
        Spec::TrafficPolicy(policy) => policy.targets.iter().filter_map(target_key).collect(),
        Spec::AccessPolicy(policy) => policy.targets.iter().map(service).collect(),
        Spec::Subscription(Subscription { topic: of, delivery, .. }) => {
            let pushed = match delivery {
                Delivery::Push { service: to, .. } => Some(service(to)),
                Delivery::Pull => None,
            };
            std::iter::once(topic(of)).chain(pushed).collect()
        }
        Spec::Saga(saga) => {
            let (services, topics) = saga_names(saga);
            let topics = topics.map(|name| object(Kind::Topic, &saga.namespace, name));
            services.map(service).chain(topics).collect()
        }
        Spec::Topic(_) | Spec::Secret(_) => Vec::new(),
    }
}

/// The conditions of an object. One that says what it said before keeps its time.
pub(crate) fn conditions(world: World<'_>, object: &Object, at: Timestamp) -> Vec<Condition> {
    let (accepted, resolved) = match &object.spec {
        Spec::Service(service) => (vec![], subset_problems(world, &object.key, service)),
        Spec::Gateway(gateway) => (class_problems(gateway), secret_problems(world, &object.key, gateway)),
        Spec::HttpRoute(route) | Spec::GrpcRoute(route) => route_problems(world, &object.key, route),
        Spec::TrafficPolicy(policy) => traffic_problems(world, policy),
        Spec::AccessPolicy(policy) => policy_problems(world, policy),
        Spec::Subscription(subscription) => {
            (vec![], subscription_problems(world, &object.key.namespace, subscription))
        }
        Spec::Saga(saga) => (vec![], saga_problems(world, saga)),
        Spec::Topic(_) | Spec::Secret(_) => (vec![], vec![]),
    };
    let before = |kind| object.conditions.iter().find(|condition| condition.kind == kind);
    let condition = |kind, holds: &str, problems: &[Problem]| {
        let (is_true, reason) = (problems.is_empty(), problems.first().map_or(holds, |p| p.reason));
        let same = before(kind).filter(|old: &&Condition| old.is_true == is_true && old.reason == reason);
        let since = same.map_or(at, |old| old.since);
        Condition { kind, is_true, reason: reason.to_owned(), message: message(problems), since }
    };
    let others = object.conditions.iter().filter(|condition| condition.kind == ConditionKind::Programmed);
    [
        condition(ConditionKind::Accepted, "Accepted", &accepted),
        condition(ConditionKind::ResolvedRefs, "ResolvedRefs", &resolved),
    ]
    .into_iter()
    .chain(others.cloned())
    .collect()
}

fn message(problems: &[Problem]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for Problem { text, code, .. } in problems.iter().take(PROBLEMS_SHOWN_MAX) {
        texts.push(format!("{text} [{code}]"));
    }
    if problems.len() > PROBLEMS_SHOWN_MAX {
        texts.push(format!("and {} more", problems.len() - PROBLEMS_SHOWN_MAX));
    }
    texts.join("; ")
}

// === services ===

fn no_such_service(world: World<'_>, service: &ServiceKey) -> Option<Problem> {
    (!world.services.is_there(service)).then(|| Problem {
        reason: "BackendNotFound",
        code: "CW-1210",
        text: format!("service {service} is not declared and has no instance"),
    })
}

fn subset_problems(world: World<'_>, key: &ObjectKey, service: &Service) -> Vec<Problem> {
    let of = service.subset.iter().map(|subset| ServiceKey::new(key.namespace.clone(), subset.of.clone()));
    of.filter_map(|of| no_such_service(world, &of)).collect()
}

// === gateways ===

fn class_problems(gateway: &Gateway) -> Vec<Problem> {
    let other = (gateway.class != GATEWAY_CLASS).then(|| Problem {
        reason: "InvalidParameters",
        code: "CW-1216",
        text: format!("gateway class {:?} is not ours, which is {GATEWAY_CLASS:?}", gateway.class),
    });
    other.into_iter().collect()
}

fn secrets(gateway: &Gateway) -> impl Iterator<Item = (&Name, &Name)> {
    let of_tls = gateway.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    of_tls.flat_map(|tls| tls.secrets.iter().map(|(namespace, name)| (namespace, name)))
}

fn secret_problems(world: World<'_>, key: &ObjectKey, gateway: &Gateway) -> Vec<Problem> {
    let problem = |(namespace, name): (&Name, &Name)| {
        if *namespace != key.namespace {
            return Some(not_permitted(&format!("secret {namespace}/{name}"), &key.namespace));
        }
        let is_there = world.snapshot.object(&object(Kind::Secret, namespace, name)).is_some();
        (!is_there).then(|| Problem {
            reason: "InvalidCertificateRef",
            code: "CW-1214",
            text: format!("secret {namespace}/{name} does not exist"),
        })
    };
    secrets(gateway).filter_map(problem).collect()
}

fn not_permitted(what: &str, from: &Name) -> Problem {
    Problem {
        reason: "RefNotPermitted",
        code: "CW-1212",
        text: format!("{what} is in another namespace than {from} and no ReferenceGrant permits it"),
    }
}

// === routes ===

fn route_problems(world: World<'_>, key: &ObjectKey, route: &HttpRoute) -> (Vec<Problem>, Vec<Problem>) {
    let (mut unattached, mut unresolved, mut is_attached) = (Vec::new(), Vec::new(), false);
    for parent in &route.parents {
        match attach(world, key, route, parent) {
            Ok(()) => is_attached = true,
            Err(problem) => unattached.push(problem),
        }
        unresolved.extend(no_such_parent(world, parent));
    }
    if route.parents.is_empty() {
        let text = "the route names no parent".to_owned();
        unattached.push(Problem { reason: "NoMatchingParent", code: "CW-1211", text });
    }
    if is_attached {
        unattached.clear(); // a route that hangs on one parent is in use; the others are told under ResolvedRefs
    }
    unresolved.extend(
        route.destinations().filter_map(|(service, port)| backend_problem(world, key, service, port)),
    );
    (unattached, unresolved)
}

fn no_such_parent(world: World<'_>, parent: &ParentRef) -> Option<Problem> {
    let ParentRef { namespace, name, .. } = parent;
    let (is_there, what) = match parent.kind {
        ParentKind::Gateway => (world.snapshot.object(&parent_key(parent)).is_some(), "gateway"),
        ParentKind::Service => {
            (world.services.is_there(&ServiceKey::new(namespace.clone(), name.clone())), "service")
        }
    };
    let text = || format!("{what} {namespace}/{name} does not exist");
    (!is_there).then(|| Problem { reason: "ParentNotFound", code: "CW-1211", text: text() })
}

/// Whether the route hangs on this parent, by Gateway API's rules of attachment.
fn attach(world: World<'_>, key: &ObjectKey, route: &HttpRoute, parent: &ParentRef) -> Result<(), Problem> {
    if let Some(Problem { code, text, .. }) = no_such_parent(world, parent) {
        return Err(Problem { reason: "NoMatchingParent", code, text });
    }
    let Some(Spec::Gateway(gateway)) = world.snapshot.object(&parent_key(parent)).map(|o| &o.spec) else {
        return Ok(()); // a service: any route may be for calls to it
    };
    let ParentRef { namespace, name, .. } = parent;
    let refuse = |reason, code, why: &str| {
        Err(Problem { reason, code, text: format!("gateway {namespace}/{name} {why}") })
    };
    let named = |listener: &&Listener| {
        parent.section.as_ref().is_none_or(|section| *section == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
    };
    let is_open = |listener: &&Listener| key.namespace == *namespace || listener.is_open_to_all_namespaces;
    let listeners: Vec<&Listener> = gateway.listeners.iter().filter(named).collect();
    if gateway.class != GATEWAY_CLASS || listeners.is_empty() {
        return refuse(
            "NoMatchingParent",
            "CW-1211",
            "has no listener of the name and port that the route asks for",
        );
    }
    let open: Vec<&Listener> = listeners.into_iter().filter(is_open).collect();
    if open.is_empty() {
        return refuse("NotAllowedByListeners", "CW-1215", "takes no routes of this namespace");
    }
    match open.iter().any(|listener| share_a_host(listener.hostname.as_deref(), &route.hostnames)) {
        true => Ok(()),
        false => refuse("NoMatchingListenerHostname", "CW-1215", "listens for none of the route's hostnames"),
    }
}

fn share_a_host(listener: Option<&str>, route: &[String]) -> bool {
    let Some(listener) = listener else { return true };
    route.is_empty() || route.iter().any(|host| hosts_meet(listener, host))
}

/// Whether a host matches both patterns; `*.` stands for one or more labels.
fn hosts_meet(a: &str, b: &str) -> bool {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => a == b,
        (Some(suffix), None) => b.len() > suffix.len() && b.ends_with(suffix),
        (None, Some(suffix)) => a.len() > suffix.len() && a.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
    }
}

fn backend_problem(
    world: World<'_>,
    key: &ObjectKey,
    service: &ServiceKey,
    port: Option<u16>,
) -> Option<Problem> {
    if service.namespace != key.namespace {
        return Some(not_permitted(&format!("service {service}"), &key.namespace));
    }
    if let Some(problem) = no_such_service(world, service) {
        return Some(problem);
    }
    // A service that only registered itself has no ports to choose from (API.md), nor has one declared without any.
    let declared = world.snapshot.service(service)?;
    let is_known = |port: &u16| declared.ports.iter().any(|of| of.port == *port);
    let port = port.filter(|port| !declared.ports.is_empty() && !is_known(port))?;
    let text = format!("service {service} has no port {port}");
    Some(Problem { reason: "BackendNotFound", code: "CW-1210", text })
}

// === policies, subscriptions, sagas ===

fn policy_problems(world: World<'_>, policy: &AccessPolicy) -> (Vec<Problem>, Vec<Problem>) {
    let missing: Vec<&ServiceKey> =
        policy.targets.iter().filter(|target| !world.services.is_there(target)).collect();
    let problem = |text: String| Problem { reason: "TargetNotFound", code: "CW-1213", text };
    let closed = "the policy fails closed: it holds from the moment that such a service appears";
    let is_namespace_wide = !policy.namespaces.is_empty();
    let broken = policy.broken.as_ref().map(|why| Problem {
        reason: "Invalid",
        code: "CW-1218",
        text: format!("the document cannot be used as it is written, and until it is mended everything that it guards is refused: {why}"),
    });
    let idle = match (policy.targets.is_empty(), missing.len() == policy.targets.len()) {
        (true, _) if !is_namespace_wide => {
            Some(problem("the policy targets nothing, so it guards nothing".to_owned()))
        }
        (false, true) if !is_namespace_wide => {
            Some(problem(format!("the policy targets no service that exists; {closed}")))
        }
        _ => None,
    };
    let absent = missing.iter().map(|target| problem(format!("service {target} does not exist; {closed}")));
    let parts = policy.targets.iter().filter_map(|target| part_of_another(world, target));
    (broken.into_iter().chain(idle).collect(), parts.chain(absent).collect())
}

/// What a traffic policy is for, as an object; a namespace is none.
fn target_key(target: &PolicyTarget) -> Option<ObjectKey> {
    let kind = match target.kind {
        TargetKind::Namespace => return None,
        TargetKind::Service => Kind::Service,
        TargetKind::HttpRoute => Kind::HttpRoute,
        TargetKind::GrpcRoute => Kind::GrpcRoute,
    };
    Some(object(kind, &target.namespace, &target.name))
}

/// A policy of which one target is there is in use; what is missing is told under ResolvedRefs.
fn traffic_problems(world: World<'_>, policy: &TrafficPolicy) -> (Vec<Problem>, Vec<Problem>) {
    let missing: Vec<Problem> =
        policy.targets.iter().filter_map(|target| no_such_target(world, target)).collect();
    let is_in_use = missing.len() < policy.targets.len();
    let text = "the policy is for nothing that exists: it is in force from the moment that one of its targets appears";
    let unused = Problem { reason: "TargetNotFound", code: "CW-1213", text: text.to_owned() };
    (if is_in_use { Vec::new() } else { vec![unused] }, missing)
}

fn no_such_target(world: World<'_>, target: &PolicyTarget) -> Option<Problem> {
    let problem = |text: String| Some(Problem { reason: "TargetNotFound", code: "CW-1213", text });
    let key = target_key(target)?;
    let PolicyTarget { namespace, name, section, .. } = target;
    let rules = match world.snapshot.object(&key).map(|found| &found.spec) {
        Some(Spec::HttpRoute(route) | Spec::GrpcRoute(route)) => &route.rules,
        Some(_) => return None,
        None if world.services.is_there(&ServiceKey::new(namespace.clone(), name.clone()))
            && key.kind == Kind::Service =>
        {
            return None;
        }
        None => return problem(format!("{key} does not exist")),
    };
    let section =
        section.as_ref().filter(|section| rules.iter().all(|rule| rule.name.as_ref() != Some(section)))?;
    problem(format!("{key} has no rule named {section:?}"))
}

/// Access is decided by the sidecars of a service that registers; a part of one has none of its own, so the whole is guarded. (The
/// text names the whole: another one is another condition, and so a new revision of the policy, which is sent along with its wholes.)
fn part_of_another(world: World<'_>, target: &ServiceKey) -> Option<Problem> {
    let whole = world.snapshot.whole_of(target)?;
    let text = format!(
        "service {target} is a part of {whole}, and the policy guards all of that: name {whole} as the target to say so"
    );
    Some(Problem { reason: "TargetIsSubset", code: "CW-1213", text })
}

fn no_such_topic(world: World<'_>, namespace: &Name, topic: &Name) -> Option<Problem> {
    let is_there = world.snapshot.object(&object(Kind::Topic, namespace, topic)).is_some();
    let text = || format!("topic {namespace}/{topic} does not exist");
    (!is_there).then(|| Problem { reason: "TopicNotFound", code: "CW-1217", text: text() })
}

fn subscription_problems(world: World<'_>, namespace: &Name, subscription: &Subscription) -> Vec<Problem> {
    let pushed = match &subscription.delivery {
        Delivery::Push { service, .. } => no_such_service(world, service),
        Delivery::Pull => None,
    };
    no_such_topic(world, namespace, &subscription.topic).into_iter().chain(pushed).collect()
}

fn saga_names(saga: &SagaDefinition) -> (impl Iterator<Item = &ServiceKey>, impl Iterator<Item = &Name>) {
    let services = saga.steps().flat_map(|step| {
        let called = match &step.action {
            Action::Call(call) => Some(&call.service),
            Action::Publish { .. } => None,
        };
        called.into_iter().chain(step.compensate.as_ref().map(|call| &call.service))
    });
    let topics = saga.steps().filter_map(|step| match &step.action {
        Action::Publish { topic, .. } => Some(topic),
        Action::Call(_) => None,
    });
    (services, topics)
}

fn saga_problems(world: World<'_>, saga: &SagaDefinition) -> Vec<Problem> {
    let (services, topics) = saga_names(saga);
    let services: std::collections::BTreeSet<&ServiceKey> = services.collect();
    let topics: std::collections::BTreeSet<&Name> = topics.collect();
    let services = services.into_iter().filter_map(|service| no_such_service(world, service));
    let topics = topics.into_iter().filter_map(|topic| no_such_topic(world, &saga.namespace, topic));
    services.chain(topics).collect()
}

fn object(kind: Kind, namespace: &Name, name: &Name) -> ObjectKey {
    ObjectKey { kind, namespace: namespace.clone(), name: name.clone() }
}

fn parent_key(parent: &ParentRef) -> ObjectKey {
    let kind = match parent.kind {
        ParentKind::Gateway => Kind::Gateway,
        ParentKind::Service => Kind::Service,
    };
    object(kind, &parent.namespace, &parent.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_meet_as_gateway_api_says() {
        for (a, b, meet) in [
            ("shop.example", "shop.example", true),
            ("shop.example", "SHOP.example", true),
            ("*.example", "shop.example", true),
            ("*.example", "a.shop.example", true),
            ("*.example", "example", false),
            ("*.example", "shop.other", false),
            ("*.example", "*.shop.example", true),
            ("*.shop.example", "*.cart.example", false),
            ("*.shop.example", "*.op.example", false),
        ] {
            assert_eq!(hosts_meet(a, b), meet, "{a} {b}");
            assert_eq!(hosts_meet(b, a), meet, "{b} {a}");
        }
    }
}
