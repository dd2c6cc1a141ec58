//! Text to documents: the envelope (apiVersion, kind, metadata, spec) that every kind has.
//!
//! In:    a text and the path it came from.     Out: [`Parsed`]: every good document, every problem.
//! Owner: the caller.
//! Invariant: a document with an error is left out and its neighbours are not; no server-filled field is kept.
//! Not here: what stands in a spec (`kinds`), bodies of the API (`body`).

use std::collections::BTreeMap;

use causeway_model::{Kind, Name, ObjectKey, Spec};

use crate::json;
use crate::kinds;
use crate::problem::{Code, Place, Problem};
use crate::reader::{At, ITEMS_MAX, Reader, suggest};
use crate::tree::{Entry, Mark, Node, Value, shorten};
use crate::yaml;

/// Largest text that is read: some 30,000 routes. A bound, so that one request cannot take a node's memory.
pub const TEXT_BYTES_MAX: usize = 8 << 20;
/// Most documents of one text.
pub const DOCUMENTS_MAX: usize = 50_000;
/// The annotation in which an object's origin is shown; dropped when it comes back.
pub const ORIGIN_ANNOTATION: &str = "causeway.dev/origin";

/// What a text came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The documents that are whole, in the order written.
    pub documents: Vec<Document>,
    /// Everything that is wrong, warnings included, in the order of places.
    pub problems: Vec<Problem>,
}

impl Parsed {
    /// Whether any document was left out.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| !problem.is_warning())
    }
}

/// One object as it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Which object.
    pub key: ObjectKey,
    /// What it says.
    pub spec: Spec,
    /// The document as written, as canonical JSON text; secrets' values are `"***"`.
    pub written: String,
    /// Where it begins.
    pub place: Place,
    /// What is odd about it, though it is accepted (also among [`Parsed::problems`]).
    pub warnings: Vec<Problem>,
}

/// Reads YAML (several documents) or JSON (one value, several, or a list of them).
pub fn parse(path: &str, text: &str) -> Parsed {
    let mut r = Reader::new(path);
    let mut documents = Vec::new();
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the text has {} bytes, at most {TEXT_BYTES_MAX} are read", text.len());
        r.report(Code::TooBig, Mark { line: 1, column: 1 }, message, "spread it over several files");
        return Parsed { documents, problems: r.finish() };
    }
    for chunk in chunks(text) {
        let is_broken = !chunk.faults.is_empty();
        r.about(chunk.nodes.first().and_then(describe));
        chunk.faults.into_iter().for_each(|fault| r.fault(fault));
        for node in &chunk.nodes {
            read_node(&mut r, node, is_broken, &mut documents);
        }
    }
    refuse_second(&mut r, &mut documents);
    Parsed { documents, problems: r.finish() }
}

/// JSON when the text is whole JSON, or would be but for what a JSON reader says of it; else YAML.
fn chunks(text: &str) -> Vec<yaml::Chunk> {
    if text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).starts_with(['{', '[']) {
        let (nodes, faults) = json::parse_stream(text);
        if faults.iter().all(|fault| fault.code != Code::Syntax) {
            return vec![yaml::Chunk { nodes, faults }];
        }
        let chunks = yaml::parse(text, DOCUMENTS_MAX);
        // Flow-style YAML reads as YAML; where neither does, JSON's complaint is the one that helps with JSON.
        let is_yaml = chunks.iter().all(|chunk| chunk.faults.iter().all(|fault| fault.code != Code::Syntax));
        let looks_like_json =
            text.trim_start_matches(['\u{feff}', '{', '[', ' ', '\t', '\r', '\n']).starts_with('"');
        if is_yaml || !looks_like_json {
            return chunks;
        }
        return vec![yaml::Chunk { nodes, faults }];
    }
    yaml::parse(text, DOCUMENTS_MAX)
}

/// The object that a node is about, as far as one can tell before it is read.
fn describe(node: &Node) -> Option<String> {
    let kind = node.get("kind")?.as_text()?;
    let metadata = node.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Node::as_text).unwrap_or("default");
    let name = metadata.get("name")?.as_text()?;
    Some(format!("{} {}/{}", shorten(kind), shorten(namespace), shorten(name)))
}

fn read_node(r: &mut Reader<'_>, node: &Node, is_broken: bool, documents: &mut Vec<Document>) {
    match &node.value {
        Value::Null => {}
        Value::List(items) => items.iter().for_each(|item| read_node(r, item, is_broken, documents)),
        _ if is_list(node) => {
            let items = node.get("items").map(|items| &items.value);
            match items {
                Some(Value::List(items)) => {
                    items.iter().for_each(|item| read_node(r, item, is_broken, documents));
                }
                _ => r.report(Code::Missing, node.mark, "a List has no items", "write `items: […]`"),
            }
        }
        _ if documents.len() >= DOCUMENTS_MAX => {
            let message = format!("more than {DOCUMENTS_MAX} documents in one text");
            r.report(Code::TooBig, node.mark, message, "spread them over several files");
        }
        _ => {
            r.about(describe(node));
            documents.extend(read_document(r, node).filter(|_| !is_broken));
            r.about(None);
        }
    }
}

/// `v1 List`, as `kubectl get -o yaml` writes it.
fn is_list(node: &Node) -> bool {
    node.get("kind").and_then(Node::as_text) == Some("List")
        && node.get("apiVersion").and_then(Node::as_text) == Some("v1")
}

fn read_document(r: &mut Reader<'_>, node: &Node) -> Option<Document> {
    let errors_before = r.errors();
    let problems_before = r.problems().len();
    let at = At::new(node, "");
    let mut f = match &node.value {
        Value::Map(_) => at.fields(r)?,
        _ => {
            let message = format!("a document must be a mapping, found {}", node.describe());
            r.report(
                Code::WrongType,
                node.mark,
                message,
                "begin with `apiVersion: …`, `kind: …`, `metadata: …`",
            );
            return None;
        }
    };
    let kind = read_kind(r, &mut f)?;
    let metadata = f.need(r, "metadata", "{name: orders}").and_then(|at| read_metadata(r, &at));
    f.take("status");
    let (namespace, name) = metadata.unzip();
    // With a bad name the rest is still read, for its problems; the document is dropped all the same.
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let is_named = name.is_some();
    let name = name.unwrap_or_else(Name::default_namespace);
    let spec = match kind {
        Kind::Secret => {
            r.is_discreet = true;
            let secret = kinds::secret::read(r, &mut f);
            r.is_discreet = false;
            secret.map(Spec::Secret)
        }
        Kind::Subscription if !is_named => {
            f.take("spec");
            None
        }
        _ => match (f.take("spec"), kind) {
            (Some(spec), _) => kinds::read(r, kind, &namespace, &name, &spec),
            // A service or topic may say nothing but its name.
            (None, Kind::Service | Kind::Topic) => {
                let empty = Node { mark: node.mark, value: Value::Map(Vec::new()) };
                kinds::read(r, kind, &namespace, &name, &At::new(&empty, "spec"))
            }
            (None, _) => {
                f.need(r, "spec", spec_example(kind));
                None
            }
        },
    };
    f.done(r);
    let warnings = r.problems().get(problems_before..).unwrap_or_default().to_vec();
    if r.errors() > errors_before || !is_named {
        return None;
    }
    let key = ObjectKey { kind, namespace, name };
    let written = written(node, &key);
    Some(Document { key, spec: spec?, written, place: r.place(node.mark), warnings })
}

/// The least that a spec of this kind says.
const fn spec_example(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => {
            "{gatewayClassName: causeway, listeners: [{name: http, port: 8080, protocol: HTTP}]}"
        }
        Kind::HttpRoute => {
            "{parentRefs: [{name: public}], rules: [{backendRefs: [{name: orders, port: 80}]}]}"
        }
        Kind::AccessPolicy => {
            "{targetRefs: [{kind: Service, name: payments}], allow: [{from: [{service: orders}]}]}"
        }
        Kind::GrpcRoute => {
            "{parentRefs: [{name: public}], rules: [{backendRefs: [{name: orders, port: 80}]}]}"
        }
        Kind::TrafficPolicy => "{targetRefs: [{kind: Service, name: payments}], retry: {attempts: 1}}",
        Kind::Subscription => "{push: {service: mail, path: /events}}",
        Kind::Saga => "{steps: [{name: reserve, call: {service: inventory, path: /reservations}}]}",
        Kind::Service | Kind::Topic | Kind::Secret => "{}",
    }
}

/// Kinds that exist elsewhere, and what to do instead.
const KNOWN_KINDS: [(&str, &str, &str); 16] = [
    ("gateway.networking.k8s.io", "TCPRoute", "leave it out"),
    ("gateway.networking.k8s.io", "TLSRoute", "leave it out"),
    ("gateway.networking.k8s.io", "UDPRoute", "leave it out"),
    ("gateway.networking.k8s.io", "GatewayClass", "leave it out: the class `causeway` is built in"),
    ("gateway.networking.k8s.io", "ReferenceGrant", "put the route into the namespace of its backends"),
    (
        "gateway.networking.k8s.io",
        "BackendTLSPolicy",
        "leave it out: calls in the mesh use mTLS by themselves",
    ),
    ("gateway.networking.k8s.io", "ListenerSet", "write the listeners into the Gateway"),
    ("gateway.networking.x-k8s.io", "XListenerSet", "write the listeners into the Gateway"),
    ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy", "leave it out"),
    (
        "causeway.dev",
        "AuthPolicy",
        "until then keep the route off the gateway, or authenticate in the service",
    ),
    ("causeway.dev", "GRPCRoute", "write `apiVersion: gateway.networking.k8s.io/v1`"),
    ("causeway.dev", "Aggregate", "leave it out"),
    (
        "causeway.dev",
        "Import",
        "register those services through the API, or declare them as Service documents",
    ),
    ("causeway.dev", "App", "write the Service and HTTPRoute documents out"),
    ("causeway.dev", "Gateway", "write `apiVersion: gateway.networking.k8s.io/v1`"),
    ("causeway.dev", "HTTPRoute", "write `apiVersion: gateway.networking.k8s.io/v1`"),
];

fn read_kind(r: &mut Reader<'_>, f: &mut crate::reader::Fields<'_>) -> Option<Kind> {
    let version_at = f.need(r, "apiVersion", "causeway.dev/v1");
    let kind_at = f.need(r, "kind", "Service");
    let (version_at, kind_at) = (version_at?, kind_at?);
    let (version, kind_text) = (version_at.text(r)?, kind_at.text(r)?);
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let known = KNOWN_KINDS.iter().find(|(g, k, _)| *g == group && *k == kind_text);
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == kind_text);
    match (kind, known) {
        (Some(kind), _) if kind.api_version() == version => return Some(kind),
        // The older name of the same schema.
        (Some(kind @ (Kind::Gateway | Kind::HttpRoute | Kind::GrpcRoute)), _)
            if version == "gateway.networking.k8s.io/v1beta1" =>
        {
            return Some(kind);
        }
        (Some(kind), _) => {
            let message = format!("{:?} has no kind {kind}", shorten(version));
            version_at.report(
                r,
                Code::UnknownKind,
                message,
                format!("write `apiVersion: {}`", kind.api_version()),
            );
        }
        (None, Some((_, known, hint))) => {
            let message =
                format!("{known} is known but not supported by this version, so the document is refused");
            kind_at.report(r, Code::KindNotSupported, message, *hint);
        }
        (None, None) => {
            let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
            let message = format!("{:?} is not a kind of {:?}", shorten(kind_text), shorten(version));
            kind_at.report(r, Code::UnknownKind, message, suggest(kind_text, &names, "write"));
        }
    }
    None
}

/// Fields of metadata that a server fills; a document that was read from one may bear them.
const SERVER_FIELDS: [&str; 10] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
];

fn read_metadata(r: &mut Reader<'_>, at: &At<'_>) -> Option<(Name, Name)> {
    let mut f = at.fields(r)?;
    let name = f.need(r, "name", "orders").and_then(|at| at.name(r));
    let namespace = f.take("namespace").map_or(Some(Name::default_namespace()), |at| at.name(r));
    for field in ["labels", "annotations"] {
        f.take(field).and_then(|at| at.text_map(r));
    }
    f.refuse(r, "generateName", "write `name`");
    for field in SERVER_FIELDS {
        f.take(field);
    }
    f.done(r);
    Some((namespace?, name?))
}

/// The document as it is kept: what a server fills is dropped, the namespace is written, secrets' values are hidden.
fn written(node: &Node, key: &ObjectKey) -> String {
    let mut node = node.clone();
    let Value::Map(entries) = &mut node.value else { return node.to_json() };
    entries.retain(|entry| entry.key != "status" && !entry.value.is_null());
    for entry in entries.iter_mut() {
        match (entry.key.as_str(), &mut entry.value.value) {
            ("metadata", Value::Map(metadata)) => clean_metadata(metadata, key),
            ("data" | "stringData", Value::Map(values)) if key.kind == Kind::Secret => {
                for value in values {
                    value.value.value = Value::Text(kinds::secret::HIDDEN.to_owned());
                }
            }
            _ => {}
        }
    }
    node.to_json()
}

fn clean_metadata(metadata: &mut Vec<Entry>, key: &ObjectKey) {
    metadata.retain(|entry| !SERVER_FIELDS.contains(&entry.key.as_str()) && entry.key != "namespace");
    for entry in metadata.iter_mut().filter(|entry| entry.key == "annotations") {
        if let Value::Map(annotations) = &mut entry.value.value {
            annotations.retain(|entry| {
                // What `kubectl apply` leaves there repeats the document, secrets' values and all.
                entry.key != ORIGIN_ANNOTATION
                    && entry.key != "kubectl.kubernetes.io/last-applied-configuration"
            });
        }
    }
    metadata.retain(|entry| {
        !(entry.key == "annotations" && matches!(&entry.value.value, Value::Map(map) if map.is_empty()))
    });
    let value = Node { mark: Mark::default(), value: Value::Text(key.namespace.to_string()) };
    metadata.push(Entry { key: "namespace".to_owned(), mark: Mark::default(), value });
}

/// The first declaration of an object stands; each further one is an error that names the first.
fn refuse_second(r: &mut Reader<'_>, documents: &mut Vec<Document>) {
    let mut first: BTreeMap<ObjectKey, u32> = BTreeMap::new();
    documents.retain(|document| match first.get(&document.key) {
        None => {
            first.insert(document.key.clone(), document.place.line);
            true
        }
        Some(line) => {
            r.about(Some(document.key.to_string()));
            let mark = Mark { line: document.place.line, column: document.place.column };
            let message = format!("the object is declared a second time; the first is at line {line}");
            r.report(Code::DeclaredTwice, mark, message, "remove one of the two, or give it another name");
            r.about(None);
            false
        }
    });
}

const _: () = assert!(DOCUMENTS_MAX >= ITEMS_MAX);
