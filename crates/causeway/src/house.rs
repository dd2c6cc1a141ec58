//! Proxies that run inside the node, each with an identity of its own from the node's own authority.
//!
//! In:    a role and who it is.      Out: a running proxy over the registry's whole picture.
//! Owner: `node` and `gateways`.
//! Invariant: a proxy in the node is the same proxy as anywhere; only its picture comes without a stream.
//! Not here: what it does (`causeway-proxy`).

use std::io::Write;

use anyhow::{Result, anyhow};
use causeway_api::{Desk, Observed};
use causeway_base::net::Net;
use causeway_base::{Clock, Scope, Seed};
use causeway_identity::{Credentials, Issued, Renew, RenewError, Rotator, enroll};
use causeway_model::{Locality, ServiceKey};
use causeway_proxy::{Options, Proxy, Role, Tracing};
use causeway_registry::Registry;

use crate::report::{self, Reader};

/// What a proxy in the node stands on.
#[derive(Clone)]
pub(crate) struct House {
    pub(crate) desk: Desk,
    pub(crate) clock: Clock,
    pub(crate) net: Net,
    pub(crate) registry: Registry,
    pub(crate) tracing: Tracing,
    /// Where the node runs.
    pub(crate) locality: Locality,
}

/// Threads and access records of a proxy in the node.
pub(crate) struct DataPath {
    pub(crate) workers: usize,
    pub(crate) records: Option<Box<dyn Write + Send>>,
}

impl DataPath {
    /// For a room that calls out: its calls are few, and each is in its own timeline.
    pub(crate) fn caller() -> Self {
        DataPath { workers: 1, records: None }
    }
}

impl House {
    /// Gets an identity and keeps it fresh.
    pub(crate) async fn credentials(
        &self,
        service: ServiceKey,
        names: Vec<String>,
        seed: Seed,
        scope: &Scope,
    ) -> Result<Credentials> {
        let mut renew = Own { desk: self.desk.clone(), service: service.clone(), names };
        let credentials = enroll(&mut renew, &service, None, &self.clock).await?;
        Rotator::start(credentials.clone(), renew, seed, scope);
        Ok(credentials)
    }

    /// Starts a proxy.
    pub(crate) async fn proxy(
        &self,
        role: Role,
        identity: ServiceKey,
        path: DataPath,
        seed: Seed,
        scope: &Scope,
    ) -> Result<Proxy> {
        let credentials = self.credentials(identity, vec![], seed.fork(), scope).await?;
        let options = Options {
            net: self.net.clone(),
            clock: self.clock.clone(),
            seed,
            workers: path.workers,
            credentials: Some(credentials),
            records: path.records,
            tracing: self.tracing.clone(),
            locality: self.locality.clone(),
            ..Options::new(role, self.registry.watch())
        };
        Proxy::start(options, scope).await.map_err(|error| anyhow!("{error}"))
    }
}

/// Certificates for identities that the node itself bears.
struct Own {
    desk: Desk,
    service: ServiceKey,
    names: Vec<String>,
}

impl Renew for Own {
    async fn renew(&mut self, csr: Vec<u8>) -> Result<Issued, RenewError> {
        Ok(self.desk.sign_own(self.service.clone(), &csr, &self.names).await?)
    }
}

/// Hands on what the proxy sees.
pub(crate) fn report(proxy: &Proxy, source: &ServiceKey, observed: &Observed, scope: &Scope) {
    report::start(proxy, Reader::Here(observed.clone(), format!("{source} in the node")), scope);
}
