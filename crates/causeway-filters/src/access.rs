//! Who may call a service: enforced by the service's own sidecar, on the identity that the caller proved.
//!
//! Without a policy the service is open to identities of its own namespace and to the house's own (`ns/causeway/…`); with
//! one or more, a call must be allowed by a rule of one of them, whoever calls.

use std::fmt;

use causeway_model::{AccessPolicy, AccessRule, ServiceKey, SpiffeId};
use causeway_wire::path::is_below;
use causeway_wire::{ProxyError, ProxyStatus};

use crate::{Exchange, Filter, Flow, Reply};

/// The namespace of the house's own callers (events, sagas, health checks).
pub const HOUSE_NAMESPACE: &str = "causeway";

/// The policies of one service.
#[derive(Debug)]
pub struct Access {
    service: ServiceKey,
    enforced: Vec<(String, AccessPolicy)>,
    on_trial: Vec<(String, AccessPolicy)>,
}

impl Access {
    /// The policies (each with its `namespace/name`) that target `service`.
    pub fn new(service: ServiceKey, policies: impl Iterator<Item = (String, AccessPolicy)>) -> Self {
        let (on_trial, enforced) = policies
            .filter(|(_, policy)| policy.targets.contains(&service))
            .partition(|(_, policy)| policy.is_dry_run);
        Access { service, enforced, on_trial }
    }

    /// Whether `caller` may have a connection of bytes, in which no request can be looked at. A rule that speaks of methods or
    /// paths allows none. Gives the name of a policy's kind on trial that would have refused.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn connection(&self, caller: &SpiffeId) -> Result<Option<&'static str>, String> {
        self.decide(caller, Asked::Connection)
    }

    fn decide(&self, caller: &SpiffeId, asked: Asked<'_>) -> Result<Option<&'static str>, String> {
        if let Some(details) = self.refusal(caller, asked) {
            return Err(details);
        }
        let is_doubtful = !self.on_trial.is_empty() && !any_allows(&self.on_trial, caller, asked);
        Ok(is_doubtful.then_some("access-policy"))
    }

    fn refusal(&self, caller: &SpiffeId, asked: Asked<'_>) -> Option<String> {
        let ServiceKey { namespace, .. } = &self.service;
        let is_near =
            caller.service.namespace == *namespace || caller.service.namespace.as_str() == HOUSE_NAMESPACE;
        match self.enforced.as_slice() {
            [] if is_near => None,
            [] => Some(format!(
                "{} has no AccessPolicy and is open to its own namespace only; {} is of another",
                self.service, caller.service
            )),
            policies if any_allows(policies, caller, asked) => None,
            policies => {
                let names: Vec<&str> = policies.iter().map(|(name, _)| name.as_str()).collect();
                Some(format!(
                    "AccessPolicy {} does not allow {} to {asked} of {}",
                    names.join(", "),
                    caller.service,
                    self.service
                ))
            }
        }
    }
}

impl Filter for Access {
    fn on_request(&self, exchange: &mut Exchange<'_>) -> Flow {
        let refuse = |details: String| {
            Flow::Reply(Box::new(Reply::failure(ProxyStatus {
                error: ProxyError::HttpRequestDenied,
                details,
            })))
        };
        let Some(caller) = &exchange.client.identity else {
            return refuse("the caller has proved no identity".into());
        };
        let (method, path) = (exchange.request.method.as_str(), exchange.request.uri.path());
        match self.decide(caller, Asked::Request { method, path }) {
            Err(details) => refuse(details),
            Ok(None) => Flow::Next,
            Ok(doubt) => {
                exchange.would_refuse = doubt;
                Flow::Next
            }
        }
    }
}

/// What a caller wants.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Request { method: &'a str, path: &'a str },
    Connection,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Request { method, .. } => write!(f, "{method} this path"),
            Asked::Connection => f.write_str("have a connection of bytes"),
        }
    }
}

fn any_allows(policies: &[(String, AccessPolicy)], caller: &SpiffeId, asked: Asked<'_>) -> bool {
    policies.iter().flat_map(|(_, policy)| &policy.allow).any(|rule| allows(rule, caller, asked))
}

fn allows(rule: &AccessRule, caller: &SpiffeId, asked: Asked<'_>) -> bool {
    let is_from = rule.from.is_empty()
        || rule.from.iter().any(|peer| {
            peer.namespace == caller.service.namespace
                && peer.service.as_ref().is_none_or(|service| *service == caller.service.name)
        });
    let Asked::Request { method, path } = asked else {
        return is_from && rule.methods.is_empty() && rule.paths.is_empty();
    };
    let is_method = rule.methods.is_empty() || rule.methods.iter().any(|allowed| allowed == method);
    let is_path = rule.paths.is_empty()
        || rule.paths.iter().any(|allowed| match allowed.strip_suffix("/*") {
            Some(prefix) => is_below(path, prefix),
            None => allowed == path,
        });
    is_from && is_method && is_path
}
