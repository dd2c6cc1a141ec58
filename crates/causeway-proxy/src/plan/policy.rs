//! Which TrafficPolicy decides what, for every service and every rule, part by part.
//!
//! In:    the TrafficPolicies of a Snapshot.      Out: a [`Policy`] for a service or a rule, each part with its document's label.
//! Owner: the compiler; a policy that says the same in the next plan stays the same `Arc`, and what hangs on it stays too.
//! Invariant: a part comes whole from one document: the most specific one, among equals the one whose name comes first.
//! Not here: what a part does (`balance`, `outlier`, `attempt`, …), the defaults where nobody says anything (theirs too).

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use causeway_model::{
    Affinity, Balancer, Circuit, Concurrency, Egress, Fault, Hedge, Kind, MtlsMode, Name, Object, Outlier,
    PolicyTarget, RateLimit, Retry, ServiceKey, Snapshot, Spec, TargetKind, TrafficPolicy, TrafficTimeouts,
};

use crate::kept::Kept;

/// A wish, and the document that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said<T> {
    pub wish: T,
    /// `TrafficPolicy namespace/name at file:line`.
    pub by: Arc<str>,
}

/// What policies say of calls to a service, or of calls that a rule takes. A part that is absent is as it is by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub balancer: Option<Said<Balancer>>,
    pub affinity: Option<Said<Affinity>>,
    pub outlier: Option<Said<Outlier>>,
    pub circuit: Option<Said<Circuit>>,
    pub retry: Option<Said<Retry>>,
    pub timeouts: Option<Said<TrafficTimeouts>>,
    pub hedge: Option<Said<Hedge>>,
    pub rate_limit: Option<Said<RateLimit>>,
    pub concurrency: Option<Said<Concurrency>>,
    pub priority: Option<Said<u8>>,
    pub fault: Option<Said<Fault>>,
    pub mtls: Option<Said<MtlsMode>>,
    pub egress: Option<Said<Egress>>,
    /// What its limits count with.
    pub kept: Kept,
}

/// What is said of a service: by policies for it before those for its namespace.
pub(crate) type ServicePolicy = Policy;
/// What is said of a rule: by policies for it before those for its route. It goes before its service's: see [`decide`].
pub(crate) type RulePolicy = Policy;

/// The part that counts for a call: its rule's before its service's.
pub(crate) fn decide<'a, T>(
    rule: &'a Option<Said<T>>,
    service: Option<&'a Option<Said<T>>>,
) -> Option<&'a Said<T>> {
    rule.as_ref().or_else(|| service.and_then(Option::as_ref))
}

/// The policies of one picture.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    /// By what they are for; in the order of their names.
    by_target: HashMap<PolicyTarget, Vec<Written>>,
    /// What this picture's plan uses, and the last one's: by service or by the rule's label.
    used: RefCell<HashMap<String, Arc<Policy>>>,
    nothing: Arc<Policy>,
}

/// A document and its label.
#[derive(Clone, Debug)]
struct Written {
    object: Arc<Object>,
    label: Arc<str>,
}

impl<T> Deref for Said<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.wish
    }
}

impl Policy {
    /// Takes over what nobody has said yet.
    fn lay_under(&mut self, policy: &TrafficPolicy, by: &Arc<str>) {
        fn part<T: Clone>(said: &mut Option<Said<T>>, wish: Option<&T>, by: &Arc<str>) {
            if said.is_none() {
                *said = wish.map(|wish| Said { wish: wish.clone(), by: by.clone() });
            }
        }
        part(&mut self.balancer, policy.balancer.as_ref(), by);
        part(&mut self.affinity, policy.affinity.as_ref(), by);
        part(&mut self.outlier, policy.outlier.as_ref(), by);
        part(&mut self.circuit, policy.circuit.as_ref(), by);
        part(&mut self.retry, policy.retry.as_ref(), by);
        part(&mut self.timeouts, policy.timeouts.as_ref(), by);
        part(&mut self.hedge, policy.hedge.as_ref(), by);
        part(&mut self.rate_limit, policy.rate_limit.as_ref(), by);
        part(&mut self.concurrency, policy.concurrency.as_ref(), by);
        part(&mut self.priority, policy.priority.as_ref(), by);
        part(&mut self.fault, policy.fault.as_ref(), by);
        part(&mut self.mtls, policy.mtls.as_ref(), by);
        part(&mut self.egress, policy.egress.as_ref(), by);
    }
}

impl Policies {
    /// Of a picture; `is_refused` leaves documents out. What the last picture's plan used is kept where it stays the same.
    pub(super) fn new(snapshot: &Snapshot, is_refused: impl Fn(&Object) -> bool, last: Policies) -> Self {
        let mut by_target: HashMap<PolicyTarget, Vec<Written>> = HashMap::new();
        for object in snapshot.objects_of(Kind::TrafficPolicy).filter(|object| !is_refused(object)) {
            let Spec::TrafficPolicy(policy) = &object.spec else { continue };
            let label: Arc<str> = format!("{} at {}", object.key, object.origin).into();
            for target in &policy.targets {
                let written = Written { object: object.clone(), label: label.clone() };
                by_target.entry(target.clone()).or_default().push(written);
            }
        }
        let used = last.used.into_inner().into_iter().filter(|(_, policy)| Arc::strong_count(policy) > 1);
        Policies { by_target, used: RefCell::new(used.collect()), nothing: last.nothing }
    }

    /// Whether any says that clients stay with an endpoint.
    pub(super) fn has_sessions(&self) -> bool {
        self.by_target.values().flatten().any(
            |written| matches!(&written.object.spec, Spec::TrafficPolicy(said) if said.affinity.is_some()),
        )
    }

    /// What is said of a service; one that is a subset of another follows that one where nothing is said of itself.
    pub(super) fn of_service(&self, service: &ServiceKey, subset_of: Option<&Name>) -> Arc<ServicePolicy> {
        let target = |kind, name: &Name| PolicyTarget {
            kind,
            namespace: service.namespace.clone(),
            name: name.clone(),
            section: None,
        };
        let names = [Some(&service.name), subset_of].into_iter().flatten();
        let own = names.map(|name| target(TargetKind::Service, name));
        let targets = own.chain([target(TargetKind::Namespace, &service.namespace)]);
        self.collect(targets, || format!("Service {service}"), None)
    }

    /// What is said of a rule of a route. `affinity` is what stands in the rule itself.
    pub(super) fn of_rule(
        &self,
        route: &Object,
        rule: Option<&str>,
        label: &Arc<str>,
        affinity: Option<&Affinity>,
    ) -> Arc<RulePolicy> {
        let kind = match route.key.kind {
            Kind::GrpcRoute => TargetKind::GrpcRoute,
            _ => TargetKind::HttpRoute,
        };
        let target = |section: Option<&str>| PolicyTarget {
            kind,
            namespace: route.key.namespace.clone(),
            name: route.key.name.clone(),
            section: section.map(str::to_owned),
        };
        let targets = rule.map(|rule| target(Some(rule))).into_iter().chain([target(None)]);
        let affinity = affinity
            .map(|wish| Said { wish: wish.clone(), by: format!("{label} at {}", route.origin).into() });
        self.collect(targets, || label.to_string(), affinity)
    }

    /// `targets` from the most specific to the least.
    fn collect(
        &self,
        targets: impl Iterator<Item = PolicyTarget>,
        name: impl FnOnce() -> String,
        affinity: Option<Said<Affinity>>,
    ) -> Arc<Policy> {
        // Most services and rules: nobody says anything.
        if self.by_target.is_empty() && affinity.is_none() {
            return self.nothing.clone();
        }
        let mut policy = Policy { affinity, ..Policy::default() };
        for written in targets.filter_map(|target| self.by_target.get(&target)).flatten() {
            if let Spec::TrafficPolicy(said) = &written.object.spec {
                policy.lay_under(said, &written.label);
            }
        }
        if policy == *self.nothing {
            return self.nothing.clone();
        }
        let mut used = self.used.borrow_mut();
        let kept = used.entry(name()).or_default();
        if **kept != policy {
            *kept = Arc::new(policy);
        }
        kept.clone()
    }
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
