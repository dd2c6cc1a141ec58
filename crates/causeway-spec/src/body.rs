//! Bodies of the HTTP API, read as strictly as documents: every problem at once, each with line and column of the body.
//!
//! In:    JSON text (an empty body counts as `{}`).     Out: plain values, or all that is wrong.
//! Owner: the caller.
//! Invariant: a problem's path is `body`; an unknown field is an error here too.
//! Not here: what is in a request's path and query, which the callers pass in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_model::{
    Check, CheckKind, Health, Kind, Lease, Locality, Name, ObjectKey, Offset, Protocol, SagaDefinition, Spec,
    Timestamp,
};

use crate::document::{Document, TEXT_BYTES_MAX};
use crate::json;
use crate::kinds::{self, service};
use crate::problem::{Code, Problem};
use crate::reader::{At, Fields, ITEMS_MAX, Reader};
use crate::text;
use crate::tree::{Entry, Mark, Node, Value, shorten};

mod command;

pub use command::{Edit, Resolve, StepEdit, edit, nothing, reason, resolve, skip};

/// Most events of one pull, and most tokens of one answer: each is a record in one batch of the log.
pub const EVENTS_MAX: u32 = 10_000;
/// Most events of a pull that names no number.
pub const PULL_DEFAULT: u32 = 100;
/// Longest that a request waits for an answer.
pub const WAIT_MAX: Duration = Duration::from_secs(300);
/// Longest saga id: it is part of a stream's name and of each step's `Idempotency-Key`.
pub const SAGA_ID_BYTES_MAX: usize = 200;
/// Shortest lease of a registration: below it, heartbeats are a load test.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Longest life of a join token.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Most checks of an instance.
const CHECKS_MAX: usize = 16;

/// `PUT …/services/{name}/instances/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// IP address or host name.
    pub address: String,
    /// Main port; the one named `http`, or the first by name, when only `ports` are written.
    pub port: u16,
    /// Further ports by name.
    pub ports: BTreeMap<String, u16>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Version of the program; empty when not written.
    pub version: String,
    /// Free tags.
    pub tags: BTreeSet<String>,
    /// Free metadata.
    pub metadata: BTreeMap<String, String>,
    /// Relative share of calls.
    pub weight: u32,
    /// Where it stands.
    pub locality: Locality,
    /// `ttl`, or a check of kind `ttl`; permanent when neither is written.
    pub lease: Lease,
    /// Checks that the node runs.
    pub checks: Vec<Check>,
}

/// `POST …/pull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Most events of the answer.
    pub max: u32,
    /// How long to wait for the first one.
    pub wait: Duration,
}

/// `POST …/ack`, `…/nack`, `…/extend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Tokens of pulled events.
    pub tokens: Vec<String>,
    /// `nack`: when to deliver again; `extend`: by how much.
    pub delay: Option<Duration>,
}

/// Where in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// This event.
    Offset(Offset),
    /// The first event at or after this time.
    Time(Timestamp),
    /// The oldest that is kept.
    Earliest,
    /// What comes next.
    Latest,
}

/// `POST …/deadletters/redrive`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redrive {
    /// CEL over `event` and `data`; every dead letter when absent.
    pub filter: Option<String>,
    /// Most events a second; no bound when absent.
    pub rate: Option<u32>,
    /// Only count.
    pub is_dry_run: bool,
}

/// `POST /v1/sagas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The saga's id; one is made when absent.
    pub id: Option<String>,
    /// What is to be done.
    pub definition: Definition,
    /// The input as canonical JSON text (keys sorted, no blanks), so that equal inputs are equal texts; `null` when absent.
    pub input: String,
    /// How long to wait for its end.
    pub wait: Option<Duration>,
    /// Where a named definition lies, and where an inline one's services and topics are.
    pub namespace: Name,
}

/// Which definition a saga is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A declared one.
    Named(Name),
    /// Written into the request.
    Inline(SagaDefinition),
}

/// A request for a join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The service it admits.
    pub name: Name,
    /// Its namespace.
    pub namespace: Name,
    /// For how long; the issuer's default when absent.
    pub ttl: Option<Duration>,
}

type Body<T> = Result<T, Vec<Problem>>;

/// Reads a registration.
///
/// # Errors
/// All that is wrong with the body.
pub fn registration(body: &[u8]) -> Body<Registration> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let address = f.need(r, "address", "10.0.0.5").and_then(|at| text::address(r, &at));
        let ports_at = f.take("ports");
        let ports = ports_at.as_ref().map_or(Some(BTreeMap::new()), |at| service::named_ports(r, at));
        let fallback = ports.as_ref().and_then(|ports| ports.get("http").or(ports.values().next()).copied());
        let port = match (f.take("port"), fallback) {
            (Some(at), _) => at.port(r),
            (None, Some(port)) => Some(port),
            (None, None) => f.need(r, "port", "8080").and_then(|at| at.port(r)),
        };
        let protocol = f.take("protocol").map_or(Some(Protocol::Http), |at| protocol(r, &at));
        let version = f.take("version").and_then(|at| label_or_empty(r, &at));
        let tags = f.take("tags").and_then(|at| at.each(r, ITEMS_MAX, text::label)).unwrap_or_default();
        let metadata = f.take("metadata").map_or(Some(BTreeMap::new()), |at| at.text_map(r));
        let weight =
            f.take("weight").map_or(Some(service::WEIGHT_DEFAULT), |at| at.u32(r, 0..=service::WEIGHT_MAX));
        let locality = f.take("locality").map_or(Some(Locality::default()), |at| locality(r, &at));
        let ttl_at = f.take("ttl");
        let ttl = ttl_at.as_ref().and_then(|at| ttl(r, at));
        let (checks, check_ttl) = checks(r, &mut f, ttl_at.is_some());
        f.done(r);
        Some(Registration {
            address: address?,
            port: port?,
            ports: ports?,
            protocol: protocol?,
            version: version.unwrap_or_default(),
            tags: tags.into_iter().collect(),
            metadata: metadata?,
            weight: weight?,
            locality: locality?,
            lease: ttl.or(check_ttl).map_or(Lease::Permanent, Lease::Ttl),
            checks,
        })
    })
}

fn protocol(r: &mut Reader<'_>, at: &At<'_>) -> Option<Protocol> {
    match Protocol::find(at.text(r)?) {
        Some(protocol) => Some(protocol),
        None => at.choice(r, &service::PROTOCOLS.map(|(name, protocol)| (lower(name), protocol))),
    }
}

/// The API says protocols in lower case.
const fn lower(name: &'static str) -> &'static str {
    match name.as_bytes() {
        b"HTTP" => "http",
        b"H2C" => "h2c",
        b"GRPC" => "grpc",
        b"TCP" => "tcp",
        b"TLS" => "tls",
        b"UDP" => "udp",
        _ => name,
    }
}

fn label_or_empty(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    match at.text(r)? {
        "" => Some(String::new()),
        _ => text::label(r, at),
    }
}

fn locality(r: &mut Reader<'_>, at: &At<'_>) -> Option<Locality> {
    let mut f = at.fields(r)?;
    let region = f.take("region").and_then(|at| label_or_empty(r, &at)).unwrap_or_default();
    let zone = f.take("zone").and_then(|at| label_or_empty(r, &at)).unwrap_or_default();
    f.done(r);
    Some(Locality { region, zone })
}

fn ttl(r: &mut Reader<'_>, at: &At<'_>) -> Option<Duration> {
    let ttl = at.long_duration(r)?;
    if ttl < TTL_MIN {
        let least = crate::duration::format(TTL_MIN);
        at.report(r, Code::OutOfRange, format_args!("must be at least {least}"), "write \"15s\"");
        return None;
    }
    Some(ttl)
}

/// Checks that the node runs; one of kind `ttl` is the lease, since both say "gone without a heartbeat".
fn checks(r: &mut Reader<'_>, f: &mut Fields<'_>, has_ttl: bool) -> (Vec<Check>, Option<Duration>) {
    let (mut checks, mut lease) = (Vec::new(), None);
    for at in f.take("checks").and_then(|at| at.list(r, CHECKS_MAX)).unwrap_or_default() {
        let Some(mut f) = at.fields(r) else { continue };
        let http = f.take("http");
        let tcp = f.take("tcp");
        let grpc = f.take("grpc");
        let ttl_at = f.take("ttl");
        let written = [&http, &tcp, &grpc, &ttl_at].into_iter().flatten().count();
        if written != 1 {
            let message = format!("must have exactly one of http, tcp, grpc and ttl, found {written}");
            at.report(
                r,
                Code::Contradiction,
                message,
                "write one check for each: `{\"http\": \"http://…/healthz\"}`",
            );
        }
        if let Some(ttl_at) = ttl_at {
            if has_ttl || lease.is_some() {
                ttl_at.report(
                    r,
                    Code::Repeated,
                    "is a second ttl",
                    "keep one: `ttl` is the same as a ttl check",
                );
            }
            lease = ttl(r, &ttl_at);
            f.done(r);
            continue;
        }
        let kind = match (http, tcp, grpc) {
            (Some(at), _, _) => text::url(r, &at).map(CheckKind::Http),
            (_, Some(at), _) => text::host_and_port(r, &at).map(CheckKind::Tcp),
            (_, _, Some(at)) => text::host_and_port(r, &at).map(CheckKind::Grpc),
            (None, None, None) => None,
        };
        let (interval, timeout) = service::interval_and_timeout(r, &mut f);
        f.done(r);
        checks.extend(kind.map(|kind| Check { kind, interval, timeout }));
    }
    (checks, lease)
}

/// Reads a heartbeat; `None` when it says no status.
///
/// # Errors
/// All that is wrong with the body.
pub fn heartbeat(body: &[u8]) -> Body<Option<Health>> {
    const STATUSES: [(&str, Health); 3] =
        [("passing", Health::Passing), ("warning", Health::Warning), ("critical", Health::Critical)];
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let status = f.take("status").and_then(|at| at.choice(r, &STATUSES));
        f.done(r);
        Some(status)
    })
}

/// Reads the body of `PUT …/topics/{topic}` as the document that it stands for.
///
/// # Errors
/// All that is wrong with the body.
pub fn topic(namespace: &Name, name: &Name, body: &[u8]) -> Body<Document> {
    let key = ObjectKey { kind: Kind::Topic, namespace: namespace.clone(), name: name.clone() };
    document(key, body, &[], |r, at| kinds::topic::read(r, at).map(Spec::Topic))
}

/// Reads the body of `PUT …/topics/{topic}/subscriptions/{group}` as the document that it stands for.
///
/// # Errors
/// All that is wrong with the body, or that topic and group together make no name.
pub fn subscription(namespace: &Name, topic: &Name, group: &Name, body: &[u8]) -> Body<Document> {
    let name = Name::new(&format!("{topic}.{group}")).map_err(|error| {
        let mut r = Reader::new("body");
        let hint = "shorten the topic's or the group's name";
        r.report(Code::BadName, Mark { line: 1, column: 1 }, format!("topic and group: {error}"), hint);
        r.finish()
    })?;
    let key = ObjectKey { kind: Kind::Subscription, namespace: namespace.clone(), name };
    // `a.b` of the topic `t` and `b` of the topic `t.a` have one name: only what is written beside it tells them apart.
    let extra: &[(&str, &Name)] =
        if group.as_str().contains('.') { &[("topic", topic), ("group", group)] } else { &[] };
    document(key, body, extra, |r, at| {
        kinds::subscription::body(r, namespace, topic.clone(), group.clone(), at).map(Spec::Subscription)
    })
}

/// Reads the body of `PUT /v1/sagas/definitions/{name}` as the document that it stands for.
///
/// # Errors
/// All that is wrong with the body.
pub fn saga(namespace: &Name, name: &Name, body: &[u8]) -> Body<Document> {
    let key = ObjectKey { kind: Kind::Saga, namespace: namespace.clone(), name: name.clone() };
    document(key, body, &[], |r, at| kinds::saga::read(r, namespace, name, at).map(Spec::Saga))
}

/// Reads the start of a saga; `namespace` is the one it has when the body names none.
///
/// # Errors
/// All that is wrong with the body.
pub fn start(namespace: &Name, body: &[u8]) -> Body<Start> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let id = f.take("id").map(|at| saga_id(r, &at));
        let namespace = &f.take("namespace").map_or(Some(namespace.clone()), |at| at.name(r))?;
        let hint = "write `\"definition\": \"place-order\"`, or the definition itself";
        let definition = f.need_or(r, "definition", hint).and_then(|at| match &at.node.value {
            Value::Map(_) => {
                let inline = Name::new("inline").ok()?;
                let spec = At::new(at.node, "definition");
                kinds::saga::read(r, namespace, &inline, &spec).map(Definition::Inline)
            }
            _ => at.name(r).map(Definition::Named),
        });
        let input = f.take("input").map_or_else(|| "null".to_owned(), |at| at.node.to_json());
        let wait = f.take("wait").map(|at| wait(r, &at));
        f.done(r);
        let id = match id {
            Some(id) => Some(id?),
            None => None,
        };
        let wait = match wait {
            Some(wait) => Some(wait?),
            None => None,
        };
        Some(Start { id, definition: definition?, input, wait, namespace: namespace.clone() })
    })
}

fn saga_id(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, SAGA_ID_BYTES_MAX)?;
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        let message = format!("may hold visible ASCII characters other than '/', found {:?}", shorten(text));
        at.report(r, Code::BadText, message, "write an id such as \"order-7\"");
        return None;
    }
    Some(text.to_owned())
}

fn wait(r: &mut Reader<'_>, at: &At<'_>) -> Option<Duration> {
    let wait = at.duration(r)?;
    if wait > WAIT_MAX {
        let most = crate::duration::format(WAIT_MAX);
        at.report(r, Code::OutOfRange, format_args!("must not be longer than {most}"), "ask again after it");
        return None;
    }
    Some(wait)
}

/// Reads a request for a join token.
///
/// # Errors
/// All that is wrong with the body.
pub fn token(body: &[u8]) -> Body<Token> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let name = f.need(r, "name", "orders").and_then(|at| at.name(r));
        let namespace = f.take("namespace").map_or(Some(Name::default_namespace()), |at| at.name(r));
        let ttl = f.take("ttl").and_then(|at| {
            let ttl = at.long_duration(r)?;
            if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
                at.report(r, Code::OutOfRange, "must be longer than zero, and at most 365d", "write \"1h\"");
            }
            Some(ttl)
        });
        f.done(r);
        Some(Token { name: name?, namespace: namespace?, ttl })
    })
}

/// Reads a pull.
///
/// # Errors
/// All that is wrong with the body.
pub fn pull(body: &[u8]) -> Body<Pull> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let max = f.take("max").map_or(Some(PULL_DEFAULT), |at| at.u32(r, 1..=EVENTS_MAX));
        let wait = f.take("wait").map_or(Some(Duration::ZERO), |at| wait(r, &at));
        f.done(r);
        Some(Pull { max: max?, wait: wait? })
    })
}

/// Reads the tokens of an `ack`.
///
/// # Errors
/// All that is wrong with the body.
pub fn ack(body: &[u8]) -> Body<Vec<String>> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let tokens = tokens(r, &mut f);
        f.done(r);
        tokens
    })
}

/// Reads a `nack`; without a delay the subscription's backoff holds.
///
/// # Errors
/// All that is wrong with the body.
pub fn nack(body: &[u8]) -> Body<Settle> {
    settle(body, |at, r| at.long_duration(r))
}

/// Reads an `extend`; without a delay the lease begins anew.
///
/// # Errors
/// All that is wrong with the body.
pub fn extend(body: &[u8]) -> Body<Settle> {
    settle(body, |at, r| kinds::subscription::lease(r, at))
}

fn settle(body: &[u8], read_delay: impl Fn(&At<'_>, &mut Reader<'_>) -> Option<Duration>) -> Body<Settle> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let tokens = tokens(r, &mut f);
        let delay = f.take("delay").and_then(|at| read_delay(&at, r));
        f.done(r);
        Some(Settle { tokens: tokens?, delay })
    })
}

fn tokens(r: &mut Reader<'_>, f: &mut Fields<'_>) -> Option<Vec<String>> {
    let at = f.need_or(r, "tokens", "write `\"tokens\": […]` with the tokens of pulled events")?;
    at.each(r, EVENTS_MAX as usize, |r, at| at.text_within(r, text::VALUE_BYTES_MAX).map(str::to_owned))
}

/// Reads a seek.
///
/// # Errors
/// All that is wrong with the body.
pub fn seek(body: &[u8]) -> Body<Seek> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let to = f.need(r, "to", "earliest");
        f.done(r);
        let at = to?;
        let found = match &at.node.value {
            Value::Number(number) => number.parse().ok().map(|offset| Seek::Offset(Offset::new(offset))),
            Value::Text(text) => seek_text(text),
            _ => None,
        };
        if found.is_none() {
            let message = format!("is no place in a topic, found {}", at.node.describe());
            at.report(
                r,
                Code::NotAllowed,
                message,
                "write an offset, an RFC 3339 time, \"earliest\" or \"latest\"",
            );
        }
        found
    })
}

/// Reads a place in a topic as it stands in a query: an offset, an RFC 3339 time, `earliest` or `latest`.
pub fn seek_text(text: &str) -> Option<Seek> {
    match text {
        "earliest" => Some(Seek::Earliest),
        "latest" => Some(Seek::Latest),
        _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().ok().map(|offset| Seek::Offset(Offset::new(offset)))
        }
        _ => Timestamp::from_rfc3339(text).map(Seek::Time),
    }
}

/// Reads a redrive.
///
/// # Errors
/// All that is wrong with the body.
pub fn redrive(body: &[u8]) -> Body<Redrive> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let filter = f.take("filter").and_then(|at| text::cel(r, &at));
        let rate = f.take("rate").and_then(|at| at.u32(r, 1..=1_000_000));
        let is_dry_run = f.take("dryRun").and_then(|at| at.boolean(r)).unwrap_or(false);
        f.done(r);
        Some(Redrive { filter, rate, is_dry_run })
    })
}

/// The tree of a body, with its problems reported.
fn tree(r: &mut Reader<'_>, body: &[u8]) -> Option<Node> {
    let start = Mark { line: 1, column: 1 };
    if body.len() > TEXT_BYTES_MAX {
        let message = format!("the body has {} bytes, at most {TEXT_BYTES_MAX} are read", body.len());
        r.report(Code::TooBig, start, message, "send less at once");
        return None;
    }
    let text = match std::str::from_utf8(body) {
        Ok(text) if text.trim().is_empty() => "{}",
        Ok(text) => text,
        Err(error) => {
            let message = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
            r.report(Code::Syntax, start, message, "send JSON in UTF-8");
            return None;
        }
    };
    let (node, faults) = json::parse(text);
    faults.into_iter().for_each(|fault| r.fault(fault));
    node
}

fn read<T>(body: &[u8], read: impl FnOnce(&mut Reader<'_>, &At<'_>) -> Option<T>) -> Body<T> {
    let mut r = Reader::new("body");
    r.is_json = true;
    let value = tree(&mut r, body).and_then(|node| read(&mut r, &At::new(&node, "the body")));
    let is_good = r.errors() == 0;
    value.filter(|_| is_good).ok_or_else(|| r.finish())
}

fn document(
    key: ObjectKey,
    body: &[u8],
    extra: &[(&str, &Name)],
    read: impl FnOnce(&mut Reader<'_>, &At<'_>) -> Option<Spec>,
) -> Body<Document> {
    let mut r = Reader::new("body");
    r.is_json = true;
    r.about(Some(key.to_string()));
    let node = tree(&mut r, body);
    let spec = node.as_ref().and_then(|node| read(&mut r, &At::new(node, "the body")));
    match (node, spec) {
        (Some(node), Some(spec)) if r.errors() == 0 => {
            let place = r.place(node.mark);
            Ok(Document { written: written(&key, node, extra), key, spec, place, warnings: r.finish() })
        }
        _ => Err(r.finish()),
    }
}

/// The document that a body stands for.
fn written(key: &ObjectKey, mut spec: Node, extra: &[(&str, &Name)]) -> String {
    let mark = Mark::default();
    let text = |text: &str| Node { mark, value: Value::Text(text.to_owned()) };
    let entry = |key: &str, value: Node| Entry { key: key.to_owned(), mark, value };
    if let Value::Map(entries) = &mut spec.value {
        entries.retain(|entry| !entry.value.is_null());
        entries.extend(extra.iter().map(|(key, name)| entry(key, text(name.as_str()))));
    }
    let metadata =
        vec![entry("name", text(key.name.as_str())), entry("namespace", text(key.namespace.as_str()))];
    let document = Value::Map(vec![
        entry("apiVersion", text(key.kind.api_version())),
        entry("kind", text(key.kind.as_str())),
        entry("metadata", Node { mark, value: Value::Map(metadata) }),
        entry("spec", spec),
    ]);
    Node { mark, value: document }.to_json()
}
