//! Addresses that stand for services: given out by our DNS, known again when a connection to one comes in.
//!
//! In:    services by name.      Out: an address for each, and back.
//! Owner: the proxy; its lock is taken for a name that is asked for and a connection that comes in, never on a request's way.
//! Invariant: an address stands for one service as long as the process lives; another process of the mesh mostly gives the same
//! ones, because they are drawn by the service's name.
//! Not here: DNS (the roof), where such a connection goes (`transparent`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use causeway_model::ServiceKey;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

/// `240.240.0.0/16`: of the block that is reserved for ever (RFC 1112 section 4), so that no host of anybody has such an address; the
/// kernel treats it like any other. Istio uses the same part for the same purpose.
const NET: [u8; 2] = [240, 240];
/// The prefix as rules and routes write it.
pub const VIRTUAL_NET: &str = "240.240.0.0/16";
/// Services that may have one: what an app may ask for by first use, and well under the 65,534 of the block, so that a free one
/// is found at once.
const SERVICES_MAX: usize = crate::limits::WANTS_MAX;

/// The addresses of one proxy.
#[derive(Default)]
pub(crate) struct Virtuals {
    given: RwLock<Given>,
    /// Since when names are asked for that the picture does not hold.
    asked: Mutex<HashMap<ServiceKey, Instant>>,
}

#[derive(Default)]
struct Given {
    by_service: HashMap<ServiceKey, u16>,
    by_slot: HashMap<u16, ServiceKey>,
}

impl Virtuals {
    /// The address of a service; `None` when too many have one.
    pub(crate) fn address(&self, service: &ServiceKey) -> Option<Ipv4Addr> {
        if let Some(slot) = self.given.read().by_service.get(service) {
            return Some(address_of(*slot));
        }
        let mut given = self.given.write();
        if given.by_service.len() >= SERVICES_MAX {
            return None;
        }
        // Neither the first nor the last of the block: some systems take them for the net itself and for everybody in it.
        let first = hash(service) % (u16::MAX - 1);
        let slots = (0..u16::MAX - 1).map(|step| 1 + ((u32::from(first) + u32::from(step)) % 65_534) as u16);
        let mut slots = slots.filter(|slot| given.by_slot.get(slot).is_none_or(|owner| owner == service));
        let slot = slots.next()?;
        drop(slots);
        given.by_service.insert(service.clone(), slot);
        given.by_slot.insert(slot, service.clone());
        Some(address_of(slot))
    }

    /// When a service was first asked for; now, when it was not.
    pub(crate) fn asked(&self, service: &ServiceKey, now: Instant) -> Instant {
        let mut asked = self.asked.lock();
        if asked.len() >= SERVICES_MAX {
            // Whoever invents so many names waits again for each.
            asked.clear();
        }
        *asked.entry(service.clone()).or_insert(now)
    }

    /// The service that an address stands for.
    pub(crate) fn service(&self, address: IpAddr) -> Option<ServiceKey> {
        let slot = slot_of(address)?;
        self.given.read().by_slot.get(&slot).cloned()
    }
}

/// Whether an address is one of ours, given out or not.
pub(crate) fn is_virtual(address: IpAddr) -> bool {
    slot_of(address).is_some()
}

fn address_of(slot: u16) -> Ipv4Addr {
    let [high, low] = slot.to_be_bytes();
    Ipv4Addr::new(NET[0], NET[1], high, low)
}

fn slot_of(address: IpAddr) -> Option<u16> {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, high, low] = address.octets();
            ([a, b] == NET).then(|| u16::from_be_bytes([high, low]))
        }
        IpAddr::V6(_) => None,
    }
}

/// FNV-1a, folded: the same in every process and version, which the standard library's hash is not.
fn hash(service: &ServiceKey) -> u16 {
    let text = [service.namespace.as_str(), "/", service.name.as_str()];
    let bytes = text.iter().flat_map(|part| part.bytes());
    let sum = bytes.fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (sum >> 16 ^ sum) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_an_address_of_its_own_that_stays() {
        let (virtuals, other) = (Virtuals::default(), Virtuals::default());
        let key = |number: usize| ServiceKey::parse("default", &format!("s{number}")).unwrap();
        let addresses: Vec<Ipv4Addr> =
            (0..SERVICES_MAX).map(|number| virtuals.address(&key(number)).unwrap()).collect();
        let distinct: std::collections::HashSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), SERVICES_MAX);
        for (number, address) in addresses.iter().enumerate() {
            assert_eq!(virtuals.service(IpAddr::V4(*address)), Some(key(number)));
            assert_eq!(virtuals.address(&key(number)), Some(*address));
            assert!(
                is_virtual(IpAddr::V4(*address)) && !matches!(address.octets()[2..], [0, 0] | [255, 255])
            );
        }
        assert_eq!(virtuals.address(&key(SERVICES_MAX)), None, "bounded");
        assert_eq!(other.address(&key(7)), Some(addresses[7]), "another process gives the same");
        assert_eq!(virtuals.service("10.0.0.1".parse().unwrap()), None);
        assert!(!is_virtual("::1".parse().unwrap()) && is_virtual("::ffff:240.240.1.1".parse().unwrap()));
    }
}
