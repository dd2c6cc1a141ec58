//! Certificates that are worth nothing before their time.
//!
//! In:    what the registry decreed.      Out: yes or no to one certificate.
//! Owner: a [`crate::Snapshot`] holds the list whole; proxies hand it to their TLS.
//! Invariant: an entry leaves when the last certificate that it speaks of has expired, so the list is as long as what was
//! revoked within one certificate's life.
//! Not here: deciding (`causeway-registry`), refusing in a handshake (`causeway-identity`), ending connections (`causeway-proxy`).

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::ids::Timestamp;
use crate::names::ServiceKey;

/// What is revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Revocations {
    /// Single certificates, by serial number (lower-case hexadecimal without leading zeros).
    #[n(0)]
    serials: BTreeMap<String, RevokedSerial>,
    /// Every certificate that a service had at a moment.
    #[n(1)]
    services: BTreeMap<ServiceKey, RevokedService>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevokedSerial {
    /// Whom it names.
    #[n(0)]
    pub service: ServiceKey,
    /// When it expires anyway.
    #[n(1)]
    pub until: Timestamp,
}

/// Every certificate of a service whose life began before a moment. Nothing says when a certificate was signed but the
/// beginning of its life, which lies at least a second before; later ones are signed so that theirs does not ([`RevokedService::whole`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevokedService {
    /// Those whose life began before this (a whole second, as certificates count).
    #[n(0)]
    pub before: Timestamp,
    /// When the last of them expires.
    #[n(1)]
    pub until: Timestamp,
}

impl RevokedService {
    /// The second in which a revocation falls: certificates signed from then on are not meant.
    pub fn whole(at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.as_millis() / 1000 * 1000)
    }
}

impl Revocations {
    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.services.is_empty()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.serials.len() + self.services.len()
    }

    /// Whether this certificate is revoked.
    pub fn revokes(&self, serial: &str, service: &ServiceKey, not_before: Timestamp) -> bool {
        if self.is_empty() {
            return false;
        }
        self.serials.contains_key(serial)
            || self.services.get(service).is_some_and(|revoked| not_before < revoked.before)
    }

    /// From when on the life of a new certificate for a service may begin.
    pub fn earliest(&self, service: &ServiceKey) -> Option<Timestamp> {
        self.services.get(service).map(|revoked| revoked.before)
    }

    /// The single certificates, by serial number.
    pub fn serials(&self) -> &BTreeMap<String, RevokedSerial> {
        &self.serials
    }

    /// The services.
    pub fn services(&self) -> &BTreeMap<ServiceKey, RevokedService> {
        &self.services
    }

    /// Adds a certificate.
    pub fn revoke_serial(&mut self, serial: String, service: ServiceKey, until: Timestamp) {
        self.serials.insert(serial, RevokedSerial { service, until });
    }

    /// Adds every certificate that a service has at `at`; `until` is when the last of them expires. Single ones of that service
    /// are meant by it too, so they leave.
    pub fn revoke_service(&mut self, service: ServiceKey, at: Timestamp, until: Timestamp) {
        self.serials.retain(|_, one| one.service != service);
        let entry = RevokedService { before: RevokedService::whole(at), until };
        self.services
            .entry(service)
            .and_modify(|old| {
                old.before = old.before.max(entry.before);
                old.until = old.until.max(entry.until);
            })
            .or_insert(entry);
    }

    /// Forgets what has expired by `now`; whether there was anything.
    pub fn forget_expired(&mut self, now: Timestamp) -> bool {
        let before = self.len();
        self.serials.retain(|_, one| one.until > now);
        self.services.retain(|_, all| all.until > now);
        self.len() != before
    }

    /// Whether anything has expired by `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.serials.values().any(|one| one.until <= now)
            || self.services.values().any(|all| all.until <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::parse("default", name).unwrap()
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + millis)
    }

    #[test]
    fn a_service_is_revoked_up_to_a_moment_and_a_serial_for_good() {
        let mut list = Revocations::default();
        list.revoke_serial("ab".into(), key("pay"), at(60_000));
        assert!(list.revokes("ab", &key("pay"), at(0)) && !list.revokes("a", &key("pay"), at(0)));
        list.revoke_service(key("cart"), at(7_900), at(60_000));
        assert!(list.revokes("x", &key("cart"), at(6_000)));
        assert!(!list.revokes("x", &key("cart"), at(7_000)), "signed in that second or later");
        assert!(!list.revokes("x", &key("pay"), at(6_000)));
        assert_eq!(list.earliest(&key("cart")), Some(at(7_000)));
        // A later one moves the moment on, an earlier one does not move it back.
        list.revoke_service(key("cart"), at(9_000), at(50_000));
        list.revoke_service(key("cart"), at(8_000), at(40_000));
        assert_eq!(list.services()[&key("cart")], RevokedService { before: at(9_000), until: at(60_000) });
        list.revoke_service(key("pay"), at(9_000), at(70_000));
        assert_eq!((list.serials().len(), list.len()), (0, 2), "the one is among the many");
    }

    #[test]
    fn what_has_expired_leaves() {
        let mut list = Revocations::default();
        list.revoke_serial("ab".into(), key("pay"), at(1_000));
        list.revoke_service(key("cart"), at(0), at(2_000));
        assert!(!list.has_expired(at(999)) && !list.forget_expired(at(999)));
        assert!(list.has_expired(at(1_000)) && list.forget_expired(at(1_000)));
        assert_eq!(list.len(), 1);
        assert!(list.forget_expired(at(1_000).plus(Duration::from_secs(1))) && list.is_empty());
    }

    #[test]
    fn it_survives_the_codec() {
        let mut list = Revocations::default();
        list.revoke_serial("ab".into(), key("pay"), at(1_000));
        list.revoke_service(key("cart"), at(0), at(2_000));
        let bytes = crate::codec::encode(&list);
        assert_eq!(crate::codec::decode::<Revocations>(&bytes).unwrap(), list);
    }
}
