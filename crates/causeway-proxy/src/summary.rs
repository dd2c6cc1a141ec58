//! What a proxy says of itself, as JSON, and its side of the admin door.

use std::net::SocketAddr;

use causeway_model::Failure;
use serde_json::{Value, json};

use crate::admin::Questions;
use crate::balance::{Nearness, Share};
use crate::endpoint::{Endpoint, Micros, Transport};
use crate::proxy::Proxy;

impl Questions for Proxy {
    fn is_ready(&self) -> bool {
        Proxy::is_ready(self)
    }

    fn metrics(&self) -> String {
        Proxy::metrics(self)
    }

    fn summary(&self) -> Value {
        Proxy::summary(self)
    }

    fn failures(&self) -> Value {
        Proxy::failures(self)
    }
}

impl Proxy {
    /// What the proxy runs, as JSON: revision, openings, routes' problems, services with their endpoints and how they fare.
    pub fn summary(&self) -> Value {
        let plan = self.shared().plan.load_full();
        let now = self.shared().micros(tokio::time::Instant::now());
        let mut keys: Vec<_> = plan.services.keys().collect();
        keys.sort();
        let services = keys.into_iter().map(|key| {
            let service = &plan.services[key];
            let ports = service.ports.iter().map(|port| {
                let group = &port.group;
                let endpoints = group.shares(now).flat_map(|share| {
                    share.endpoints.iter().map(move |endpoint| endpoint_json(endpoint, &share, now))
                });
                let by = service.policy.balancer.as_ref().map(|said| &*said.by);
                json!({
                    "port": port.number,
                    "protocol": port.protocol.as_str(),
                    "algorithm": group.how.as_str(),
                    "algorithm_by": by,
                    "locality": group.how.here.as_ref().map_or("off", |_| "prefer"),
                    "endpoints": endpoints.collect::<Vec<_>>(),
                })
            });
            json!({"service": key.to_string(), "ports": ports.collect::<Vec<_>>()})
        });
        json!({
            "revision": plan.revision.get(),
            "ready": self.is_ready(),
            "addresses": self.addresses().iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            "problems": self.problems(),
            "services": services.collect::<Vec<_>>(),
        })
    }

    /// Recent failures, oldest first, as JSON; what `causeway why REQUEST-ID` looks through.
    pub fn failures(&self) -> Value {
        let mut failures: Vec<_> =
            self.workers().iter().flat_map(|worker| worker.ledger.failures()).collect();
        failures.sort_by_key(|failure| failure.at);
        let failures = failures.iter().map(|failure| failure_json(failure));
        Value::Array(failures.collect())
    }
}

fn endpoint_json(endpoint: &Endpoint, share: &Share<'_>, now: Micros) -> Value {
    let transport = match &endpoint.transport {
        Transport::Http1 => "http/1.1".to_owned(),
        Transport::Http2 => "h2c".to_owned(),
        Transport::Mesh(identity) => format!("mesh {identity}"),
        Transport::Tcp => "tcp".to_owned(),
        Transport::MeshTcp(identity, None) => format!("mesh tcp {identity}"),
        Transport::MeshTcp(identity, Some(port)) => format!("mesh tcp {identity} port {port}"),
    };
    json!({
        "name": endpoint.name,
        "address": format!("{}:{}", endpoint.host, endpoint.port),
        "transport": transport,
        "weight": endpoint.weight,
        "load": endpoint.vitals.load(),
        "latency_us": endpoint.vitals.latency(now) as u64,
        "region": endpoint.locality.region,
        "zone": endpoint.locality.zone,
        "nearness": share.nearness.map(Nearness::as_str),
        "share_percent": share.percent,
        "panic": share.is_panic,
        "ejected": endpoint.vitals.is_ejected(now),
        "ejected_for": endpoint.vitals.ejected_for(now),
        "ejected_left_ms": endpoint.vitals.ejected_until().saturating_sub(now) / 1000,
        "probation": endpoint.vitals.is_on_probation(),
    })
}

fn failure_json(failure: &Failure) -> Value {
    let tried = failure.tried.iter().map(|attempt| {
        json!({
            "endpoint": attempt.endpoint,
            "address": attempt.address,
            "transport": attempt.transport,
            "after_us": attempt.after,
            "duration_us": attempt.micros,
            "status": attempt.status,
            "error": attempt.error,
            "details": attempt.details,
        })
    });
    let passed_over = failure.passed_over.iter();
    json!({
        "time": failure.at.to_rfc3339(),
        "request_id": failure.request_id,
        "trace_id": failure.trace_id,
        "side": failure.side.as_str(),
        "request": format!("{} {}{}", failure.method, failure.host, failure.path),
        "protocol": failure.protocol,
        "caller": failure.caller,
        "rule": failure.rule,
        "written_at": failure.rule_origin,
        "refused_by": failure.refused_by,
        "service": failure.service.as_ref().map(ToString::to_string),
        "endpoint": failure.endpoint,
        "status": failure.status,
        "reason": failure.reason,
        "details": failure.details,
        "duration_us": failure.micros,
        "attempts": failure.attempts,
        "tried": tried.collect::<Vec<_>>(),
        "passed_over": passed_over.map(|o| json!({"endpoint": o.endpoint, "why": o.why})).collect::<Vec<_>>(),
        "notes": failure.notes,
        "untold": failure.untold,
    })
}
