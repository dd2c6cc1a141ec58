//! Objects as documents again, for `GET /v1/config/…`.
//!
//! In:    [`Object`]s.     Out: JSON values: what was written, with origin, revision and status beside it.
//! Owner: nobody; one pure function.
//! Invariant: what is rendered can be applied again (the fields that it adds are dropped when read); no secret is shown.
//! Not here: YAML (`emit.rs`).

use causeway_model::{Condition, Object};
use serde_json::{Map, Value, json};

use crate::document::ORIGIN_ANNOTATION;

/// The object as a document: spec as written, our origin annotation, `status.conditions` as Gateway API has them.
pub fn render(object: &Object) -> Value {
    // What is kept was written by this crate; should it be damaged, names and status are shown without the rest.
    let mut document: Map<String, Value> = serde_json::from_str(&object.written).unwrap_or_default();
    document.insert("apiVersion".to_owned(), json!(object.key.kind.api_version()));
    document.insert("kind".to_owned(), json!(object.key.kind.as_str()));
    let mut metadata = take_map(&mut document, "metadata");
    metadata.insert("name".to_owned(), json!(object.key.name.as_str()));
    metadata.insert("namespace".to_owned(), json!(object.key.namespace.as_str()));
    metadata.insert("resourceVersion".to_owned(), json!(object.revision.to_string()));
    let mut annotations = take_map(&mut metadata, "annotations");
    annotations.insert(ORIGIN_ANNOTATION.to_owned(), json!(object.origin.to_string()));
    metadata.insert("annotations".to_owned(), Value::Object(annotations));
    document.insert("metadata".to_owned(), Value::Object(metadata));
    let conditions: Vec<Value> = object.conditions.iter().map(condition).collect();
    document.insert("status".to_owned(), json!({ "conditions": conditions }));
    Value::Object(document)
}

fn take_map(map: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match map.remove(key) {
        Some(Value::Object(inner)) => inner,
        _ => Map::new(),
    }
}

fn condition(condition: &Condition) -> Value {
    json!({
        "type": condition.kind.as_str(),
        "status": if condition.is_true { "True" } else { "False" },
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.since.to_rfc3339(),
    })
}
