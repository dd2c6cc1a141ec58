//! `/openapi.json`: the table of paths as OpenAPI 3.1.
//!
//! In:    the table's entries.      Out: one JSON value.
//! Owner: nobody; pure.
//! Invariant: every path of the router is in it, with its query and body; nothing else is.
//! Not here: schemas of documents (Gateway API's are upstream's; ours are in the manual).

use serde_json::{Map, Value, json};

use super::route::Route;

/// The description of these paths.
pub(super) fn describe(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        for path in route.paths() {
            let operation = operation(route, &path);
            let method = route.method.as_str().to_ascii_lowercase();
            let item = paths.entry(path).or_insert_with(|| json!({}));
            item[method] = operation;
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Causeway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Services, configuration, events and sagas of a node. Paths without /namespaces/{ns} mean the \
                            namespace `default`. Every answer of /v1 bears X-Causeway-Revision.",
        },
        "paths": paths,
        "components": { "schemas": { "Problem": problem() } },
    })
}

fn operation(route: &Route, path: &str) -> Value {
    let mut parameters: Vec<Value> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(route.query.iter().map(|(name, about)| {
        json!({ "name": name, "in": "query", "description": about, "schema": { "type": "string" } })
    }));
    let mut answers: Map<String, Value> = route
        .answers
        .iter()
        .map(|(status, about)| (status.to_string(), json!({ "description": about })))
        .collect();
    let refusal = json!({
        "description": "refused",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    answers.insert("default".into(), refusal);
    let mut operation = json!({ "summary": route.about, "responses": answers });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some((media, about)) = route.body {
        operation["requestBody"] = json!({ "description": about, "content": { media: {} } });
    }
    operation
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457",
        "required": ["title", "status", "detail", "code"],
        "properties": {
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "code": { "type": "string", "pattern": "^CW-[0-9]{4}$", "description": "`causeway explain` knows it" },
            "problems": { "type": "array", "items": { "type": "string" }, "description": "everything that is wrong" },
        },
    })
}
