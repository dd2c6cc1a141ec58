//! Kind Gateway (Gateway API v1.6): HTTP and HTTPS listeners.
//!
//! In:    a spec's node.     Out: [`Gateway`].
//! Owner: the reader of one text.
//! Invariant: listener names are unique, and so is each (port, protocol, hostname); an HTTPS listener has a certificate.
//! Not here: whether its Secrets exist (registry), binding (proxy).

use std::collections::BTreeSet;

use causeway_model::{Gateway, Listener, ListenerProtocol, ListenerTls, Name};

use crate::problem::Code;
use crate::reader::{At, Fields, Reader};
use crate::text;

/// The class that is ours.
pub(crate) const CLASS: &str = "causeway";
/// Most listeners, addresses and certificates (Gateway API's bounds are 64, 16 and 64).
const LISTENERS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 16;

pub(crate) fn read(r: &mut Reader<'_>, namespace: &Name, spec: &At<'_>) -> Option<Gateway> {
    let mut f = spec.fields(r)?;
    let class = f.need(r, "gatewayClassName", CLASS).and_then(|at| at.choice(r, &[(CLASS, CLASS)]));
    let addresses = f.take("addresses").and_then(|at| at.each(r, ADDRESSES_MAX, address)).unwrap_or_default();
    let listeners_at = f.need(r, "listeners", "[{name: http, port: 8080, protocol: HTTP}]");
    let listeners = listeners_at.as_ref().and_then(|at| {
        if matches!(&at.node.value, crate::tree::Value::List(items) if items.is_empty()) {
            let hint = "write `listeners: [{name: http, port: 8080, protocol: HTTP}]`";
            at.report(r, Code::OutOfRange, "must have at least one entry", hint);
        }
        let mut seen = Seen::default();
        at.each(r, LISTENERS_MAX, |r, at| listener(r, namespace, at, &mut seen))
    });
    let hint = "leave it out; the gateway runs in this process";
    f.refuse(r, "infrastructure", hint);
    f.refuse(r, "backendTLS", "leave it out; calls in the mesh use mTLS by themselves");
    f.refuse(r, "tls", "leave it out; set certificates at each listener's `tls`");
    f.refuse(r, "allowedListeners", "leave it out, and write every listener into this Gateway");
    f.refuse(r, "defaultScope", "leave it out, and name this Gateway in each route's `parentRefs`");
    f.done(r);
    Some(Gateway { class: class?.to_owned(), addresses, listeners: listeners? })
}

fn address(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let mut f = at.fields(r)?;
    let kind = f.take("type");
    let mut is_ip = true;
    if let Some(at) = &kind {
        is_ip = at.node.as_text() == Some("IPAddress");
        match at.text(r)? {
            "IPAddress" => {}
            kind @ ("Hostname" | "NamedAddress") => {
                at.not_supported(r, kind, "write `type: IPAddress` and the address to bind");
            }
            _ => {
                at.choice(r, &[("IPAddress", ())]);
            }
        }
    }
    let value_at = f.need(r, "value", "127.0.0.1");
    f.done(r);
    let value_at = value_at.filter(|_| is_ip)?;
    let value = value_at.text(r)?;
    match value.parse::<std::net::IpAddr>() {
        Ok(ip) => Some(ip.to_string()),
        Err(_) => {
            let message = format!("must be an IP address, found {:?}", crate::tree::shorten(value));
            value_at.report(
                r,
                Code::BadText,
                message,
                "write the address to bind, such as \"127.0.0.1\" or \"::\"",
            );
            None
        }
    }
}

#[derive(Default)]
struct Seen {
    names: BTreeSet<Name>,
    places: Vec<(u16, ListenerProtocol, Option<String>)>,
}

fn listener(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>, seen: &mut Seen) -> Option<Listener> {
    let mut f = at.fields(r)?;
    let name = f.need(r, "name", "http").and_then(|at| at.name(r));
    let port = f.need(r, "port", "8080").and_then(|at| at.port(r));
    let protocol = f.need(r, "protocol", "HTTP").and_then(|at| protocol(r, &at));
    let hostname = f.take("hostname").and_then(|at| text::hostname(r, &at, true));
    let tls = listener_tls(r, namespace, &mut f, protocol);
    let is_open_to_all_namespaces =
        f.take("allowedRoutes").and_then(|at| allowed_routes(r, &at)).unwrap_or(false);
    f.done(r);
    let listener =
        Listener { name: name?, port: port?, protocol: protocol?, hostname, tls, is_open_to_all_namespaces };
    check_unique(r, at, &listener, seen);
    Some(listener)
}

fn check_unique(r: &mut Reader<'_>, at: &At<'_>, listener: &Listener, seen: &mut Seen) {
    if !seen.names.insert(listener.name.clone()) {
        let message = format!("has the name {:?} of a listener before it", listener.name);
        at.report(r, Code::Repeated, message, "give each listener its own name");
    }
    let same_port = seen.places.iter().filter(|(port, _, _)| *port == listener.port);
    for (port, protocol, hostname) in same_port {
        if *protocol != listener.protocol {
            let message = format!("wants port {port} for another protocol than a listener before it");
            at.report(r, Code::Contradiction, message, "give one of the two another port");
            break;
        }
        if *hostname == listener.hostname {
            let message = format!("has the port {port} and hostname of a listener before it");
            at.report(r, Code::Repeated, message, "give it another `hostname` or port");
            break;
        }
    }
    seen.places.push((listener.port, listener.protocol, listener.hostname.clone()));
}

fn protocol(r: &mut Reader<'_>, at: &At<'_>) -> Option<ListenerProtocol> {
    match at.text(r)? {
        protocol @ ("TLS" | "TCP" | "UDP") => {
            at.not_supported(r, &format!("protocol {protocol}"), "gateways take HTTP and HTTPS");
            None
        }
        _ => at.choice(r, &[("HTTP", ListenerProtocol::Http), ("HTTPS", ListenerProtocol::Https)]),
    }
}

fn listener_tls(
    r: &mut Reader<'_>,
    namespace: &Name,
    f: &mut Fields<'_>,
    protocol: Option<ListenerProtocol>,
) -> Option<ListenerTls> {
    const EXAMPLE: &str = "{certificateRefs: [{name: shop-tls}]}";
    let at = match protocol {
        Some(ListenerProtocol::Https) => f.need(r, "tls", EXAMPLE)?,
        _ => f.take("tls")?,
    };
    if protocol == Some(ListenerProtocol::Http) {
        at.report(r, Code::Contradiction, "and protocol HTTP exclude each other", "write `protocol: HTTPS`");
    }
    let mut f = at.fields(r)?;
    if let Some(at) = f.take("mode") {
        match at.text(r)? {
            "Terminate" => {}
            "Passthrough" => {
                at.not_supported(r, "mode Passthrough", "write `mode: Terminate` and name a certificate")
            }
            _ => {
                at.choice(r, &[("Terminate", ())]);
            }
        }
    }
    let secrets = f.need(r, "certificateRefs", "[{name: shop-tls}]").and_then(|at| {
        let refs = at.each(r, LISTENERS_MAX, |r, at| certificate(r, namespace, at))?;
        if matches!(&at.node.value, crate::tree::Value::List(items) if items.is_empty()) {
            at.report(
                r,
                Code::OutOfRange,
                "must have at least one entry",
                "name a Secret: `[{name: shop-tls}]`",
            );
        }
        Some(refs)
    });
    f.refuse(r, "options", "leave it out");
    f.refuse(r, "frontendValidation", "leave it out; client certificates of strangers are not asked for");
    f.done(r);
    Some(ListenerTls { secrets: secrets? })
}

fn certificate(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<(Name, Name)> {
    let mut f = at.fields(r)?;
    if let Some(at) = f.take("group") {
        at.choice(r, &[("", ())]);
    }
    if let Some(at) = f.take("kind") {
        at.choice(r, &[("Secret", ())]);
    }
    let name = f.need(r, "name", "shop-tls").and_then(|at| at.name(r));
    let hint =
        "move the Secret into the Gateway's namespace; ReferenceGrant is not supported by this version";
    super::refs::own_namespace(r, &mut f, namespace, hint);
    f.done(r);
    Some((namespace.clone(), name?))
}

/// Whether routes of every namespace may attach.
fn allowed_routes(r: &mut Reader<'_>, at: &At<'_>) -> Option<bool> {
    let mut f = at.fields(r)?;
    let is_open = f.take("namespaces").and_then(|at| {
        let mut f = at.fields(r)?;
        let is_open = f.take("from").and_then(|at| match at.text(r)? {
            from @ ("Selector" | "None") => {
                at.not_supported(r, &format!("from {from}"), "write `from: Same` or `from: All`");
                None
            }
            _ => at.choice(r, &[("Same", false), ("All", true)]),
        });
        f.refuse(r, "selector", "write `from: Same` or `from: All`");
        f.done(r);
        is_open
    });
    if let Some(kinds) = f.take("kinds") {
        kinds.each(r, LISTENERS_MAX, |r, at| {
            let mut f = at.fields(r)?;
            if let Some(at) = f.take("group") {
                at.choice(r, &[(super::refs::GATEWAY_GROUP, ())]);
            }
            let kind = f.need(r, "kind", "HTTPRoute")?;
            match kind.text(r)? {
                kind_name @ ("GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute") => {
                    kind.not_supported(r, kind_name, "list HTTPRoute alone, or leave `kinds` out");
                }
                _ => {
                    kind.choice(r, &[("HTTPRoute", ())]);
                }
            }
            f.done(r);
            Some(())
        });
    }
    f.done(r);
    is_open
}
