//! The floors of the house, held against `cargo metadata`: every import points down.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::source;

/// Who may stand on whom; `base` and `model` are allowed to all above the ground but `store`, `spec` and `expression`, which say it themselves.
/// The same table as in ARCHITECTURE.md. `dev` crates are free.
const ALLOWED: [(&str, &[&str]); 17] = [
    ("base", &[]),
    ("model", &[]),
    ("wire", &[]),
    ("store", &["base"]),
    ("spec", &["model"]),
    ("expression", &[]),
    ("filters", &["base", "model", "wire"]),
    ("identity", &["base", "model"]),
    ("registry", &["base", "model", "store"]),
    ("events", &["base", "model", "store", "expression"]),
    ("saga", &["base", "model", "store", "expression"]),
    ("xds", &["base", "model"]),
    ("proxy", &["base", "model", "wire", "filters", "identity"]),
    ("interop", &["base", "model", "registry", "spec"]),
    ("api", &["base", "model", "registry", "events", "saga", "xds", "identity", "spec"]),
    ("testkit", &["base", "model", "wire", "filters", "identity", "proxy", "registry", "store", "xds"]),
    (
        "causeway",
        &[
            "base", "model", "store", "spec", "identity", "registry", "events", "saga", "xds", "proxy",
            "interop", "api",
        ],
    ),
];

/// Crates that the nouns must not have anywhere below them.
const NOT_IN_MODEL: [&str; 4] = ["serde", "tokio", "prost", "hyper"];
/// Rooms whose state the data plane must not link.
const NOT_IN_PROXY: [&str; 4] = ["causeway-store", "causeway-registry", "causeway-events", "causeway-saga"];

/// Problems, each with how to mend it.
pub fn problems() -> Result<Vec<String>> {
    let metadata = metadata()?;
    let mut problems = Vec::new();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for (name, dependencies) in ours(&metadata) {
        let Some(may) = allowed.get(short(&name)) else {
            problems.push(format!(
                "crate {name} has no floor: give it one in xtask/src/floors.rs and in ARCHITECTURE.md"
            ));
            continue;
        };
        for dependency in
            dependencies.iter().filter(|d| d.starts_with("causeway") && !may.contains(&short(d)))
        {
            problems.push(format!(
                "{name} imports {dependency}, which is not below it: move the code down, or pass the thing in from the roof"
            ));
        }
    }
    let below_model = below(&metadata, "causeway-model");
    let below_proxy = below(&metadata, "causeway-proxy");
    for (below, banned, who) in
        [(&below_model, &NOT_IN_MODEL, "causeway-model"), (&below_proxy, &NOT_IN_PROXY, "causeway-proxy")]
    {
        for name in banned.iter().filter(|name| below.contains(**name)) {
            problems.push(format!("{who} has {name} in its tree: it must not"));
        }
    }
    Ok(problems)
}

fn short(name: &str) -> &str {
    name.strip_prefix("causeway-").unwrap_or(name)
}

fn metadata() -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(source::root())
        .output()
        .context("running cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Our crates under `crates/` with their ordinary (not dev) dependencies.
fn ours(metadata: &Value) -> Vec<(String, BTreeSet<String>)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|p| {
            p["manifest_path"]
                .as_str()
                .is_some_and(|path| path.contains("/crates/causeway") && p["source"].is_null())
        })
        .map(|p| {
            let dependencies = p["dependencies"].as_array().into_iter().flatten();
            let ordinary = dependencies.filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str());
            (p["name"].as_str().unwrap_or_default().to_owned(), ordinary.map(str::to_owned).collect())
        })
        .collect()
}

/// Names of everything that `name` links, by ordinary dependencies.
fn below(metadata: &Value, name: &str) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?)))
        .collect();
    let start = names.iter().find(|(_, n)| **n == name).map(|(id, _)| *id);
    let (mut open, mut seen) = (Vec::from_iter(start), BTreeSet::new());
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        let ordinary = dependencies.filter(|d| {
            d["dep_kinds"].as_array().is_none_or(|kinds| kinds.iter().any(|k| k["kind"].is_null()))
        });
        open.extend(ordinary.filter_map(|d| d["pkg"].as_str()));
    }
    seen.into_iter().filter_map(|id| names.get(id).map(|n| (*n).to_owned())).collect()
}
