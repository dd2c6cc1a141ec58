//! What host names mean to the app beside a proxy: what our DNS answers.
//!
//! In:    a host name.      Out: the address that stands for its service, or that it is none of ours.
//! Owner: the proxy's handle; the roof's DNS asks.
//! Invariant: a service that the picture does not hold is asked for at its first use and waited for, a bounded time, once.
//! Not here: DNS itself (the roof), what becomes of a connection to such an address (`transparent`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use causeway_model::{Name, ServiceKey};
use tokio::time::Instant;

use crate::inlet::Way;
use crate::limits;
use crate::mesh_name::mesh_names;
use crate::plan::Service;
use crate::proxy::Proxy;
use crate::worker::Shared;

/// What a host name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A service of the mesh; connections to this address go to it.
    Service(Ipv4Addr),
    /// A name of the mesh that no service has.
    Nobody,
    /// So many services have addresses that this one gets none.
    Full,
    /// No name of the mesh.
    Foreign,
}

impl Proxy {
    /// What `host` means to the app: `NAME.mesh` and `NAME.NAMESPACE.mesh` are names of the mesh; `NAME` alone is one when a
    /// service of the app's own namespace has it.
    ///
    /// # Cancel safety
    /// Safe; the service stays asked for.
    pub async fn name(&self, host: &str) -> Named {
        let shared = self.shared();
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let (names, patience, otherwise) = match mesh_names(&host, &shared.mesh_suffix, &shared.namespace) {
            Some(names) => (names, limits::WANT, Named::Nobody),
            None => match Name::new(&host) {
                // Anybody's own hosts have such names as well: they must not wait for long.
                Ok(name) if !host.contains('.') => {
                    (vec![ServiceKey::new(shared.namespace.clone(), name)], limits::WANT_BARE, Named::Foreign)
                }
                _ => return Named::Foreign,
            },
        };
        match find(shared, &names, patience).await {
            Some(service) => shared.virtuals.address(&service.key).map_or(Named::Full, Named::Service),
            None => otherwise,
        }
    }

    /// Where redirected connections come in: for IPv4 and, where the machine has it, for IPv6.
    pub fn transparent_addresses(&self) -> Vec<SocketAddr> {
        self.fixed_addresses(|way| matches!(way, Way::Transparent))
    }
}

/// The service that one of these names means. One that was asked for in vain is not waited for again: when it comes, the plan
/// has it.
async fn find(shared: &Shared, names: &[ServiceKey], patience: Duration) -> Option<Arc<Service>> {
    let plan = shared.plan.load();
    if let Some(service) = names.iter().find_map(|name| plan.service(name)) {
        return Some(service.clone());
    }
    drop(plan);
    let asked = shared.virtuals.asked(names.first()?, Instant::now());
    let left = patience.saturating_sub(asked.elapsed());
    if left.is_zero() {
        return None;
    }
    tokio::time::timeout(left, shared.service_of(names)).await.ok().flatten()
}
