//! Who may call a service: enforced by the service's own sidecar, on the identity that the caller proved.
//!
//! In:    every policy that guards the service, a caller, what it wants.      Out: yes or no, and by which document.
//! Owner: the plan of a sidecar; it holds no state of a request.
//! Invariant: without a policy the service is open to its own namespace, to the house's own callers (`ns/causeway/…`) and, where it
//! takes plaintext at all, to whoever speaks that; with one or more, a rule of one of them must allow the call, whoever calls, and
//! no rule allows a caller that proved no identity.
//! Not here: who proved what (`causeway-identity`), asking again while a call runs (`causeway-proxy`).

use std::sync::Arc;

use causeway_model::{AccessPolicy, AccessRule, ServiceKey, SpiffeId};
use causeway_wire::path::is_below;
use causeway_wire::{ProxyError, ProxyStatus};

use crate::Reply;

/// The namespace of the house's own callers (events, sagas, health checks).
pub const HOUSE_NAMESPACE: &str = "causeway";

/// Documents that a refusal names; further ones are counted.
const NAMED_MAX: usize = 3;

/// Everything that guards one service.
#[derive(Debug)]
pub struct Access {
    service: ServiceKey,
    enforced: Vec<Document>,
    on_trial: Vec<Document>,
    /// The enforced documents in a refusal's words, and with the places where they are written.
    names: String,
    places: Arc<str>,
}

/// One policy.
#[derive(Clone, Debug)]
pub struct Document {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Where it is written: for operators, never for a caller.
    pub place: String,
    /// What it says.
    pub policy: AccessPolicy,
}

/// What a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A request; the path is in its canonical form.
    Request {
        /// Its method.
        method: &'a str,
        /// Its path.
        path: &'a str,
    },
    /// A connection of bytes, in which no request can be looked at: a rule that speaks of methods or paths allows none.
    Bytes,
}

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The identity that the caller proved; none on a plaintext connection.
    pub caller: Option<&'a SpiffeId>,
    /// What it wants.
    pub wanted: Wanted<'a>,
    /// The port of the app that it wants to reach.
    pub port: u16,
}

/// A call that is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The enforced document that allows it; none where none guards the service.
    by: Option<u16>,
    /// A document on trial without which it would be refused.
    doubt: Option<u16>,
}

/// A call that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the caller: which policy, but not where it is written.
    pub details: String,
    /// For the operator: `AccessPolicy namespace/name at FILE:LINE`.
    pub by: Option<Arc<str>>,
    /// The documents that refuse it together.
    pub names: Vec<Arc<str>>,
}

impl Refusal {
    /// The answer 403.
    pub fn into_reply(self) -> Reply {
        let failure = ProxyStatus { error: ProxyError::HttpRequestDenied, details: self.details };
        Reply { by: self.by, ..Reply::failure(failure) }
    }
}

impl Access {
    /// What guards `service`: of these documents, those that name it or its namespace.
    pub fn new(service: ServiceKey, documents: impl Iterator<Item = Document>) -> Self {
        let guards = |document: &Document| {
            let AccessPolicy { targets, namespaces, .. } = &document.policy;
            targets.contains(&service) || namespaces.contains(&service.namespace)
        };
        let (on_trial, enforced): (Vec<_>, Vec<_>) =
            documents.filter(guards).take(u16::MAX.into()).partition(|document| document.policy.is_dry_run);
        let names = list(&enforced, |document| document.name.to_string());
        let places = list(&enforced, |document| format!("{} at {}", document.name, document.place));
        Access { service, on_trial, names, places: format!("AccessPolicy {places}").into(), enforced }
    }

    /// Whether both decide every call alike, and by documents of the same names.
    pub fn decides_like(&self, other: &Access) -> bool {
        let alike = |mine: &[Document], theirs: &[Document]| {
            mine.len() == theirs.len()
                && mine.iter().zip(theirs).all(|(a, b)| a.name == b.name && a.policy == b.policy)
        };
        self.service == other.service
            && alike(&self.enforced, &other.enforced)
            && alike(&self.on_trial, &other.on_trial)
    }

    /// Decides a call.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn decide(&self, call: &Call<'_>) -> Result<Allowed, Refusal> {
        let by = position(&self.enforced, call);
        if by.is_none() && !self.enforced.is_empty() {
            return Err(self.refused(call));
        }
        if self.enforced.is_empty() && !self.is_near(call.caller) {
            return Err(self.refused_as_far(call.caller));
        }
        // A call that an enforced document allows is allowed all the same when the ones on trial are enforced beside it.
        let is_in_doubt =
            by.is_none() && !self.on_trial.is_empty() && position(&self.on_trial, call).is_none();
        Ok(Allowed { by, doubt: is_in_doubt.then_some(0) })
    }

    /// Whether this caller may do anything at all: where not, its connection is of no use.
    pub fn admits(&self, caller: Option<&SpiffeId>) -> bool {
        match (self.enforced.as_slice(), caller) {
            ([], _) => self.is_near(caller),
            (_, None) => false,
            (documents, Some(caller)) => rules(documents).any(|(_, rule)| is_from(rule, caller)),
        }
    }

    /// The name of the document that allowed a call.
    pub fn allowed_by(&self, allowed: Allowed) -> Option<&Arc<str>> {
        allowed.by.and_then(|at| self.enforced.get(usize::from(at))).map(|document| &document.name)
    }

    /// The name of a document on trial that would have refused a call (the first, where several would together).
    pub fn doubted_by(&self, allowed: Allowed) -> Option<&Arc<str>> {
        allowed.doubt.and_then(|at| self.on_trial.get(usize::from(at))).map(|document| &document.name)
    }

    /// Open without a policy: to the service's own namespace and to the house. Whoever speaks plaintext is somewhere near, too: the
    /// port takes plaintext only where an operator says so, and until there is a policy.
    fn is_near(&self, caller: Option<&SpiffeId>) -> bool {
        caller.is_none_or(|caller| {
            let namespace = &caller.service.namespace;
            *namespace == self.service.namespace || namespace.as_str() == HOUSE_NAMESPACE
        })
    }

    fn refused(&self, call: &Call<'_>) -> Refusal {
        let who = match call.caller {
            Some(caller) => caller.service.to_string(),
            None => "a caller without an identity (plaintext)".to_owned(),
        };
        let what = match call.wanted {
            Wanted::Request { method, .. } => format!("{method} this path of"),
            Wanted::Bytes => "have a connection of bytes to".to_owned(),
        };
        let Access { service, names, .. } = self;
        let broken = self.enforced.iter().find(|document| document.policy.broken.is_some());
        let details = match broken {
            Some(Document { name, .. }) => format!(
                "AccessPolicy {name} cannot be used as it is written, and until it is mended it allows nobody to {what} {service}"
            ),
            None => format!("AccessPolicy {names} does not allow {who} to {what} {service}"),
        };
        let by = match broken.and_then(|document| document.policy.broken.as_ref()) {
            Some(why) => format!("{}: {why}", self.places).into(),
            None => self.places.clone(),
        };
        let names = self.enforced.iter().map(|document| document.name.clone()).collect();
        Refusal { details, by: Some(by), names }
    }

    fn refused_as_far(&self, caller: Option<&SpiffeId>) -> Refusal {
        let who = caller.map_or_else(String::new, |caller| caller.service.to_string());
        let details = format!(
            "{} has no AccessPolicy and is open to its own namespace only; {who} is of another",
            self.service
        );
        Refusal { details, by: None, names: Vec::new() }
    }
}

/// The first document with a rule that allows the call.
fn position(documents: &[Document], call: &Call<'_>) -> Option<u16> {
    rules(documents).find(|(_, rule)| allows(rule, call)).and_then(|(at, _)| u16::try_from(at).ok())
}

/// Every rule that counts, with the number of its document.
fn rules(documents: &[Document]) -> impl Iterator<Item = (usize, &AccessRule)> {
    let whole = documents.iter().enumerate().filter(|(_, document)| document.policy.broken.is_none());
    whole.flat_map(|(at, document)| document.policy.allow.iter().map(move |rule| (at, rule)))
}

fn allows(rule: &AccessRule, call: &Call<'_>) -> bool {
    let Some(caller) = call.caller else { return false };
    let is_port = rule.ports.is_empty() || rule.ports.contains(&call.port);
    if !is_port || !is_from(rule, caller) {
        return false;
    }
    let Wanted::Request { method, path } = call.wanted else {
        return rule.methods.is_empty() && rule.paths.is_empty();
    };
    let is_method = rule.methods.is_empty() || rule.methods.iter().any(|allowed| allowed == method);
    let is_path = rule.paths.is_empty()
        || rule.paths.iter().any(|allowed| match allowed.strip_suffix("/*") {
            Some(prefix) => is_below(path, prefix),
            None => allowed == path,
        });
    is_method && is_path
}

/// A rule without `from` is for every identity of the mesh.
fn is_from(rule: &AccessRule, caller: &SpiffeId) -> bool {
    rule.from.is_empty()
        || rule.from.iter().any(|peer| {
            peer.namespace == caller.service.namespace
                && peer.service.as_ref().is_none_or(|service| *service == caller.service.name)
        })
}

fn list(documents: &[Document], word: impl Fn(&Document) -> String) -> String {
    let mut words: Vec<String> = documents.iter().take(NAMED_MAX).map(word).collect();
    if documents.len() > NAMED_MAX {
        words.push(format!("and {} more", documents.len() - NAMED_MAX));
    }
    words.join(", ")
}
