//! `get`: what there is, as a table, JSON or YAML.

use anyhow::{Result, bail};
use comfy_table::Table;
use http::Method;
use serde_json::Value;

use super::print::{cell, print, table};
use crate::cli::Get;
use crate::client::Client;

/// Shows what was asked for.
pub(crate) async fn get(client: &Client, get: Get) -> Result<()> {
    let namespace = &get.namespace.namespace;
    let format = get.output.output;
    let ask = |path: String| async move { client.json(Method::GET, &path, None).await };
    match (get.what.as_str(), &get.name) {
        ("services", None) => {
            let value = ask(format!("/v1/namespaces/{namespace}/services")).await?;
            print(&value, format, services);
        }
        ("instances", Some(name)) | ("services" | "service", Some(name)) => {
            let value = ask(format!("/v1/namespaces/{namespace}/services/{name}")).await?;
            print(&value, format, instances);
        }
        ("instances", None) => bail!("`get instances` wants the service: causeway get instances NAME"),
        ("topics", None) => print(&ask(format!("/v1/namespaces/{namespace}/topics")).await?, format, topics),
        ("proxies", None) => print(&ask("/v1/proxies".into()).await?, format, proxies),
        (kind, name) => {
            let Some(kind) = causeway_model::Kind::find(kind) else {
                let kinds: Vec<_> = causeway_model::Kind::ALL.iter().map(|k| k.as_str()).collect();
                bail!(
                    "`get` knows services, instances, topics, proxies and the kinds {}; not {kind:?}",
                    kinds.join(", ")
                );
            };
            let value = match name {
                Some(name) => ask(format!("/v1/config/{kind}/{namespace}/{name}")).await?,
                None => ask(format!("/v1/config?kind={kind}&namespace={namespace}")).await?,
            };
            print(&value, format, objects);
        }
    }
    Ok(())
}

fn rows<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn services(value: &Value) -> Table {
    let mut table = table(&["name", "instances", "passing", "versions"]);
    for service in rows(value, "services") {
        table.add_row(["name", "instances", "passing", "versions"].map(|key| cell(&service[key])));
    }
    table
}

fn instances(value: &Value) -> Table {
    let mut table = table(&["id", "address", "version", "health", "state", "mesh", "origin"]);
    for instance in rows(value, "instances") {
        let address = format!("{}:{}", cell(&instance["address"]), instance["port"]);
        let mesh = match instance["mesh"].is_null() {
            true => "-".into(),
            false => format!("{}:{}", cell(&instance["mesh"]["address"]), instance["mesh"]["port"]),
        };
        let [id, version, health, state, origin] =
            ["id", "version", "health", "lifecycle", "origin"].map(|key| cell(&instance[key]));
        table.add_row([id, address, version, health, state, mesh, origin]);
    }
    table
}

fn topics(value: &Value) -> Table {
    let mut table = table(&["topic", "events", "subscriptions", "lag", "dead letters"]);
    for topic in rows(value, "topics") {
        let groups: Vec<&Value> = rows(topic, "subscriptions").collect();
        let sum = |key: &str| groups.iter().filter_map(|g| g[key].as_u64()).sum::<u64>().to_string();
        let names = groups.iter().map(|g| cell(&g["group"])).collect::<Vec<_>>().join(",");
        table.add_row([cell(&topic["topic"]), cell(&topic["next"]), names, sum("lag"), sum("deadLetters")]);
    }
    table
}

fn proxies(value: &Value) -> Table {
    let mut table = table(&["node", "identity", "connected", "acknowledged", "rejected"]);
    for proxy in rows(value, "proxies") {
        table.add_row(["node", "identity", "since", "acknowledged", "rejected"].map(|key| cell(&proxy[key])));
    }
    table
}

fn objects(value: &Value) -> Table {
    let mut table = table(&["kind", "namespace", "name", "accepted", "resolved", "origin"]);
    let one = [value.clone()];
    let items = value["items"].as_array().map_or(&one[..], Vec::as_slice);
    for object in items {
        let condition = |kind: &str| {
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            conditions
                .filter(|c| c["type"] == kind)
                .map(|c| cell(&c["status"]))
                .next()
                .unwrap_or_else(|| "-".into())
        };
        let metadata = &object["metadata"];
        table.add_row([
            cell(&object["kind"]),
            cell(&metadata["namespace"]),
            cell(&metadata["name"]),
            condition("Accepted"),
            condition("ResolvedRefs"),
            cell(&metadata["annotations"]["causeway.dev/origin"]),
        ]);
    }
    table
}
