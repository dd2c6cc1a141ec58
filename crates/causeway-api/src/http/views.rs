//! What the API shows of services, proxies and traffic, as JSON.
//!
//! In:    the rooms' values.      Out: what is serialised.
//! Owner: nobody; pure.
//! Invariant: names are camelCase, times RFC 3339, durations as they are written in bodies.
//! Not here: topics (`topics.rs`), sagas (`sagas.rs`), documents (`causeway_spec::render`).

use std::collections::{BTreeMap, BTreeSet};

use causeway_model::{Instance, Lease, Origin, Protocol, ResourceKey, Service, Timestamp};
use causeway_spec::duration;
use causeway_xds::Proxy;
use serde::Serialize;
use serde_json::{Value, json};

use crate::traffic::Flow;

/// Who a caller on loopback is.
pub(super) const CALLER: &str = "local";

/// Who writes when a caller of these doors does.
pub(super) fn origin() -> Origin {
    Origin::Api { caller: CALLER.to_owned() }
}

/// An instance.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceView<'a> {
    id: &'a str,
    address: &'a str,
    port: u16,
    ports: &'a BTreeMap<String, u16>,
    protocol: String,
    version: &'a str,
    tags: &'a BTreeSet<String>,
    metadata: &'a BTreeMap<String, String>,
    weight: u32,
    locality: Place<'a>,
    health: &'static str,
    lifecycle: &'static str,
    mesh: Option<Mesh<'a>>,
    lease: Value,
    origin: String,
    registered_at: String,
    revision: u64,
    epoch: u64,
}

#[derive(Serialize)]
struct Place<'a> {
    region: &'a str,
    zone: &'a str,
}

#[derive(Serialize)]
struct Mesh<'a> {
    address: &'a str,
    port: u16,
}

impl<'a> InstanceView<'a> {
    pub(super) fn new(instance: &'a Instance) -> Self {
        InstanceView {
            id: instance.key.id.as_str(),
            address: &instance.address,
            port: instance.port,
            ports: &instance.ports,
            protocol: protocol(instance.protocol),
            version: &instance.version,
            tags: &instance.tags,
            metadata: &instance.metadata,
            weight: instance.weight,
            locality: Place { region: &instance.locality.region, zone: &instance.locality.zone },
            health: instance.health.as_str(),
            lifecycle: instance.lifecycle.as_str(),
            mesh: instance.mesh.as_ref().map(|mesh| Mesh { address: &mesh.address, port: mesh.port }),
            lease: lease(instance.lease, None),
            origin: instance.origin.to_string(),
            registered_at: instance.registered_at.to_rfc3339(),
            revision: instance.revision.get(),
            epoch: instance.epoch.get(),
        }
    }
}

fn protocol(protocol: Protocol) -> String {
    protocol.as_str().to_ascii_lowercase()
}

/// What keeps an instance registered.
pub(super) fn lease(lease: Lease, expires_at: Option<Timestamp>) -> Value {
    let mut view = match lease {
        Lease::Permanent => json!({ "kind": "permanent" }),
        Lease::Connection => json!({ "kind": "connection" }),
        Lease::Ttl(ttl) => json!({ "kind": "ttl", "ttl": duration::format(ttl) }),
    };
    if let Some(expires_at) = expires_at {
        view["expiresAt"] = expires_at.to_rfc3339().into();
    }
    view
}

/// What a document declares of a service.
pub(super) fn declared(service: &Service) -> Value {
    let ports = service.ports.iter().map(|port| {
        json!({ "name": port.name.as_ref().map(|name| name.as_str()), "port": port.port, "protocol": protocol(port.protocol) })
    });
    let endpoints = service.endpoints.iter().map(|endpoint| {
        json!({
            "address": endpoint.address, "port": endpoint.port, "ports": endpoint.ports, "zone": endpoint.zone,
            "weight": endpoint.weight,
        })
    });
    json!({ "ports": ports.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>() })
}

/// A connected proxy.
pub(super) fn proxy(proxy: &Proxy) -> Value {
    let rejected: Vec<String> = proxy
        .rejected
        .iter()
        .map(|no| format!("{} at revision {}: {}", resource(&no.resource), no.revision, no.reason))
        .collect();
    json!({
        "node": proxy.node_id,
        "identity": proxy.identity.to_string(),
        "since": Timestamp::from(proxy.connected_at).to_rfc3339(),
        "cursor": proxy.cursor.get(),
        "acknowledged": proxy.acknowledged.get(),
        "rejected": rejected,
    })
}

/// An object or instance in words.
pub(super) fn resource(key: &ResourceKey) -> String {
    match key {
        ResourceKey::Object(key) => key.to_string(),
        ResourceKey::Instance(key) => format!("instance {key}"),
        ResourceKey::Revocations => "the list of revocations".to_owned(),
    }
}

/// Calls between two services.
pub(super) fn flow(flow: &Flow) -> Value {
    json!({
        "source": flow.source.to_string(),
        "target": flow.target.to_string(),
        "rate": flow.rate,
        "failureRate": flow.failure_rate,
        "latencyMs": flow.latency_ms,
        "latencyMsMax": flow.latency_ms_max,
    })
}
