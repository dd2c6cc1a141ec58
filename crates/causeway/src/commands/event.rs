//! `event …`: publish, tail, lag, redrive.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use comfy_table::Table;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::print::{cell, print, table};
use super::stream::Events;
use crate::cli::EventVerb;
use crate::client::Client;

/// Does what was asked.
pub(crate) async fn event(client: &Client, verb: EventVerb) -> Result<()> {
    match verb {
        EventVerb::Publish { topic, kind, source, id, key, data, namespace } => {
            let id = id.unwrap_or_else(|| format!("{:016x}", causeway_base::Seed::from_entropy().u64()));
            let mut event = json!({ "specversion": "1.0", "type": kind, "source": source, "id": id });
            if let Some(key) = key {
                event["partitionkey"] = key.into();
            }
            if let Some(data) = data {
                event["data"] = serde_json::from_str(&data).context("data is not JSON")?;
                event["datacontenttype"] = "application/json".into();
            }
            let mut headers = HeaderMap::new();
            headers.insert("content-type", "application/cloudevents+json".parse()?);
            let path = format!("/v1/namespaces/{}/topics/{topic}/events", namespace.namespace);
            let body = Bytes::from(serde_json::to_vec(&event)?);
            let answer = client.send(Method::POST, &path, headers, body, Duration::ZERO).await?.json()?;
            println!("offset {}", cell(&answer["offsets"]));
        }
        EventVerb::Tail { topic, from, limit, namespace } => {
            let from = from.as_deref().unwrap_or("latest");
            let path = format!("/v1/namespaces/{}/topics/{topic}/events?from={from}", namespace.namespace);
            tail(Events::new(client.stream(&path).await?), limit.unwrap_or(u64::MAX)).await?;
        }
        EventVerb::Lag { topic, namespace, output } => {
            let path = format!("/v1/namespaces/{}/topics/{topic}", namespace.namespace);
            print(&client.json(Method::GET, &path, None).await?, output.output, lag);
        }
        EventVerb::Redrive { topic, group, filter, dry_run, namespace } => {
            let path = format!(
                "/v1/namespaces/{}/topics/{topic}/subscriptions/{group}/deadletters/redrive",
                namespace.namespace
            );
            let mut body = json!({ "dryRun": dry_run });
            if let Some(filter) = filter {
                body["filter"] = filter.into();
            }
            let answer = client.json(Method::POST, &path, Some(&body)).await?;
            println!(
                "{} dead letters {}",
                cell(&answer["count"]),
                if dry_run { "would be sent again" } else { "are sent again" }
            );
        }
    }
    Ok(())
}

/// Prints the data of a stream of server-sent events.
async fn tail(mut events: Events, limit: u64) -> Result<()> {
    let mut printed = 0;
    while printed < limit
        && let Some((_, data)) = events.next().await?
    {
        println!("{data}");
        printed += 1;
    }
    Ok(())
}

fn lag(topic: &Value) -> Table {
    let mut table = table(&["group", "lag", "in flight", "dead letters", "state"]);
    for group in topic["subscriptions"].as_array().into_iter().flatten() {
        table.add_row(["group", "lag", "inFlight", "deadLetters", "state"].map(|key| cell(&group[key])));
    }
    table
}
