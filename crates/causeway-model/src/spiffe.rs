//! Identities: `spiffe://<trust-domain>/ns/<namespace>/svc/<service>`, parsed exactly.
//!
//! Source: SPIFFE-ID standard, sections 2.1 and 2.2. No wildcards, no escapes, no trailing slash, no query.

use std::fmt;

use crate::names::{InvalidName, Name, ServiceKey};

/// A trust domain: the part of an identity that says which CA vouches. Lower-case letters, digits, `.`, `-`, `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Name);

impl TrustDomain {
    /// Reads a trust domain.
    ///
    /// # Errors
    /// [`InvalidName`] when it is not one.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        Name::new(text).map(TrustDomain)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The identity of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// Who vouches.
    pub trust_domain: TrustDomain,
    /// Who it is.
    pub service: ServiceKey,
}

/// Why a text is not one of our identities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an identity of the form spiffe://<trust-domain>/ns/<namespace>/svc/<service>")]
pub struct InvalidSpiffeId {
    text: String,
}

impl SpiffeId {
    /// An identity from its parts.
    pub fn new(trust_domain: TrustDomain, service: ServiceKey) -> Self {
        SpiffeId { trust_domain, service }
    }

    /// Reads the URI form.
    ///
    /// # Errors
    /// [`InvalidSpiffeId`] for anything but the exact form.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        let read = || {
            let rest = text.strip_prefix("spiffe://")?;
            let mut parts = rest.split('/');
            let trust_domain = TrustDomain::new(parts.next()?).ok()?;
            let ("ns", namespace) = (parts.next()?, parts.next()?) else { return None };
            let ("svc", name) = (parts.next()?, parts.next()?) else { return None };
            let service = ServiceKey::parse(namespace, name).ok()?;
            parts.next().is_none().then_some(SpiffeId { trust_domain, service })
        };
        read().ok_or_else(|| InvalidSpiffeId { text: text.chars().take(300).collect() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceKey { namespace, name } = &self.service;
        write!(f, "spiffe://{}/ns/{namespace}/svc/{name}", self.trust_domain.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_parsed_exactly() {
        let text = "spiffe://causeway.local/ns/default/svc/orders";
        assert_eq!(SpiffeId::parse(text).unwrap().to_string(), text);
        for wrong in [
            "SPIFFE://causeway.local/ns/default/svc/orders",
            "spiffe://causeway.local/ns/default/svc/orders/",
            "spiffe://causeway.local/ns/default/svc/orders?x",
            "spiffe://causeway.local/ns/default/svc/*",
            "spiffe://causeway.local//default/svc/orders",
            "spiffe://causeway.local:80/ns/default/svc/orders",
            "spiffe://u@causeway.local/ns/default/svc/orders",
            "spiffe:///ns/default/svc/orders",
            "spiffe://causeway.local/ns/de%66ault/svc/orders",
            "https://causeway.local/ns/default/svc/orders",
        ] {
            assert!(SpiffeId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
