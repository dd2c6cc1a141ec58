//! Kind Service: a service that does not register itself, or a subset of one that does.
//!
//! In:    a spec's node.     Out: [`Service`].
//! Owner: the reader of one text.
//! Invariant: port names and numbers are unique; an endpoint says `port` or `ports`, never both.
//! Not here: registered instances (`body`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_model::{HealthProbe, Protocol, Service, ServicePort, StaticEndpoint, Subset};

use crate::problem::Code;
use crate::reader::{At, ITEMS_MAX, Reader};
use crate::text;

/// Share of an endpoint that names none.
pub(crate) const WEIGHT_DEFAULT: u32 = 100;
/// Largest share (Gateway API's bound for backends).
pub(crate) const WEIGHT_MAX: u32 = 1_000_000;
/// Most ports of a service.
const PORTS_MAX: usize = 128;
/// How often an endpoint is probed, and for how long an answer is awaited, when not written.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(5);
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What may be spoken, as documents have it.
pub(crate) const PROTOCOLS: [(&str, Protocol); 6] = [
    ("HTTP", Protocol::Http),
    ("H2C", Protocol::H2c),
    ("GRPC", Protocol::Grpc),
    ("TCP", Protocol::Tcp),
    ("TLS", Protocol::Tls),
    ("UDP", Protocol::Udp),
];

pub(crate) fn read(r: &mut Reader<'_>, spec: &At<'_>) -> Option<Service> {
    let mut f = spec.fields(r)?;
    let ports_at = f.take("ports");
    let ports = ports_at.as_ref().and_then(|at| at.each(r, PORTS_MAX, port)).unwrap_or_default();
    check_ports(r, spec, &ports);
    let endpoints_at = f.take("endpoints");
    let endpoints = match &endpoints_at {
        Some(at) => at.each(r, ITEMS_MAX, |r, at| endpoint(r, at, &ports)).unwrap_or_default(),
        None => Vec::new(),
    };
    let health = f.take("health").and_then(|at| probe(r, &at));
    let subset_at = f.take("subset");
    let subset = subset_at.as_ref().and_then(|at| subset(r, at));
    if let (Some(at), Some(_)) = (&subset_at, &endpoints_at) {
        let hint = "a subset takes its instances from the service that it names: leave `endpoints` out";
        at.report(r, Code::Contradiction, "and endpoints exclude each other", hint);
    }
    if let Some(at) = endpoints_at.filter(|_| ports_at.is_none()) {
        let hint =
            "write `ports: [{port: 80, protocol: HTTP}]`: a route selects an endpoint by its service's port";
        at.report(r, Code::Missing, "need the service's ports, and there are none", hint);
    }
    f.done(r);
    Some(Service { ports, endpoints, health, subset })
}

fn port(r: &mut Reader<'_>, at: &At<'_>) -> Option<ServicePort> {
    let mut f = at.fields(r)?;
    let name = f.take("name").and_then(|at| at.name(r));
    let port = f.need(r, "port", "80").and_then(|at| at.port(r));
    let protocol = f.take("protocol").and_then(|at| at.choice(r, &PROTOCOLS)).unwrap_or_default();
    f.done(r);
    Some(ServicePort { name, port: port?, protocol })
}

fn check_ports(r: &mut Reader<'_>, spec: &At<'_>, ports: &[ServicePort]) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for port in ports {
        if let Some(name) = &port.name
            && !names.insert(name)
        {
            spec.report_as(
                "ports",
                r,
                Code::Repeated,
                format!("name {name:?} twice"),
                "give each port its own name",
            );
        }
        if !numbers.insert(port.port) {
            let hint = "a route selects a port by its number, so each number may stand once";
            spec.report_as("ports", r, Code::Repeated, format!("have number {} twice", port.port), hint);
        }
        if port.name.is_none() && ports.len() > 1 {
            let message = format!("are several, and number {} has no name", port.port);
            spec.report_as("ports", r, Code::Missing, message, "write `name: http` beside each port");
        }
    }
}

fn endpoint(r: &mut Reader<'_>, at: &At<'_>, services: &[ServicePort]) -> Option<StaticEndpoint> {
    let mut f = at.fields(r)?;
    let address = f.need(r, "address", "10.0.0.5").and_then(|at| text::address(r, &at));
    let port_at = f.take("port");
    let ports_at = f.take("ports");
    let port = port_at.as_ref().and_then(|at| at.port(r));
    let ports = ports_at.as_ref().and_then(|at| named_ports(r, at)).unwrap_or_default();
    match (&port_at, &ports_at) {
        (Some(at), Some(_)) => {
            at.report(r, Code::Contradiction, "and ports exclude each other", "keep one of them");
        }
        (None, None) => at.report(
            r,
            Code::Missing,
            "has neither `port` nor `ports`",
            "write `port: 3000`, or `ports: {http: 3000, admin: 3001}` by the names of the service's ports",
        ),
        (None, Some(ports_at)) => {
            for name in ports.keys() {
                if !services.iter().any(|port| port.name.as_ref().is_some_and(|known| known.as_str() == name))
                {
                    let known: Vec<&str> =
                        services.iter().filter_map(|p| p.name.as_ref()).map(|n| n.as_str()).collect();
                    let message = format!("names {name:?}, which is no port of this service");
                    ports_at.report(
                        r,
                        Code::NotAllowed,
                        message,
                        crate::reader::suggest(name, &known, "write"),
                    );
                }
            }
        }
        (Some(_), None) => {}
    }
    let zone = f.take("zone").and_then(|at| text::label(r, &at));
    let weight = f.take("weight").and_then(|at| at.u32(r, 0..=WEIGHT_MAX)).unwrap_or(WEIGHT_DEFAULT);
    f.done(r);
    Some(StaticEndpoint { address: address?, port, ports, zone, weight })
}

/// `{http: 3000, admin: 3001}`.
pub(crate) fn named_ports(r: &mut Reader<'_>, at: &At<'_>) -> Option<BTreeMap<String, u16>> {
    let mut ports = BTreeMap::new();
    for (entry, at) in at.free_map(r)? {
        if let Some(port) = at.port(r) {
            ports.insert(entry.key.clone(), port);
        }
    }
    Some(ports)
}

fn probe(r: &mut Reader<'_>, at: &At<'_>) -> Option<HealthProbe> {
    let mut f = at.fields(r)?;
    let http_path = f.take("http").and_then(|at| text::request_path(r, &at));
    let (interval, timeout) = interval_and_timeout(r, &mut f);
    f.done(r);
    let hint = "leave it out: the proxies eject an endpoint that fails calls; an instance that registers itself can have checks";
    at.report(r, Code::NoEffect, "has no effect: static endpoints are not probed by this version", hint);
    Some(HealthProbe { http_path, interval, timeout })
}

/// The two fields that every check has. A timeout that is not written is never longer than the interval.
pub(crate) fn interval_and_timeout(
    r: &mut Reader<'_>,
    f: &mut crate::reader::Fields<'_>,
) -> (Duration, Duration) {
    let interval = f.take("interval").and_then(|at| at.wait(r)).unwrap_or(PROBE_INTERVAL);
    let timeout_at = f.take("timeout");
    let timeout = match &timeout_at {
        Some(at) => at.wait(r).unwrap_or(PROBE_TIMEOUT),
        None => PROBE_TIMEOUT.min(interval),
    };
    if let Some(at) = timeout_at.filter(|_| timeout > interval) {
        let message = format!("must not be longer than the interval, {}", crate::duration::format(interval));
        at.report(r, Code::Contradiction, message, "shorten the timeout or lengthen the interval");
    }
    (interval, timeout)
}

fn subset(r: &mut Reader<'_>, at: &At<'_>) -> Option<Subset> {
    let mut f = at.fields(r)?;
    let of = f.need(r, "of", "orders").and_then(|at| at.name(r));
    let version = f.take("version").and_then(|at| text::label(r, &at));
    let tags = f.take("tags").and_then(|at| at.each(r, PORTS_MAX, text::label)).unwrap_or_default();
    if version.is_none() && tags.is_empty() {
        let hint = "write `version: \"2\"` or `tags: [canary]`: without either it would be the whole service";
        at.report(r, Code::Missing, "has neither `version` nor `tags`", hint);
    }
    f.done(r);
    Some(Subset { of: of?, version, tags })
}
