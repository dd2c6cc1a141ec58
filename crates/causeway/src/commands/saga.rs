//! `saga …`: start sagas, look at them, mend those that are stuck.

use anyhow::{Context, Result};
use comfy_table::Table;
use http::Method;
use serde_json::{Value, json};

use super::print::{cell, millis, print, table};
use crate::cli::SagaVerb;
use crate::client::Client;

/// Does what was asked.
pub(crate) async fn saga(client: &Client, verb: SagaVerb) -> Result<()> {
    match verb {
        SagaVerb::Start { definition, id, input, wait, namespace, output } => {
            let input: Value = serde_json::from_str(&input).context("--input is not JSON")?;
            let mut body =
                json!({ "definition": definition, "namespace": namespace.namespace, "input": input });
            if let Some(id) = id {
                body["id"] = id.into();
            }
            if let Some(wait) = wait {
                body["wait"] = millis(wait).into();
            }
            let answer =
                client.json_waiting(Method::POST, "/v1/sagas", Some(&body), wait.unwrap_or_default()).await?;
            print(&answer, output.output, one);
        }
        SagaVerb::List { status, output } => {
            let query = status.map(|status| format!("?status={status}")).unwrap_or_default();
            let answer = client.json(Method::GET, &format!("/v1/sagas{query}"), None).await?;
            print(&answer, output.output, list);
        }
        SagaVerb::Show { id, output } => {
            let answer = client.json(Method::GET, &format!("/v1/sagas/{id}"), None).await?;
            print(&answer, output.output, one);
        }
        SagaVerb::Retry { id } => tell(client, &id, "retry", json!({})).await?,
        SagaVerb::Skip { id } => tell(client, &id, "skip", json!({})).await?,
        SagaVerb::Compensate { id } => tell(client, &id, "compensate", json!({})).await?,
        SagaVerb::Cancel { id } => tell(client, &id, "cancel", json!({})).await?,
        SagaVerb::Resolve { id, note } => tell(client, &id, "resolve", json!({ "note": note })).await?,
    }
    Ok(())
}

async fn tell(client: &Client, id: &str, what: &str, body: Value) -> Result<()> {
    let answer = client.json(Method::POST, &format!("/v1/sagas/{id}/{what}"), Some(&body)).await?;
    println!("saga {id} is {}", cell(&answer["status"]));
    Ok(())
}

fn list(value: &Value) -> Table {
    let mut table = table(&["id", "definition", "status", "started"]);
    for saga in value["sagas"].as_array().into_iter().flatten() {
        table.add_row(["id", "definition", "status", "startedAt"].map(|key| cell(&saga[key])));
    }
    table
}

fn one(saga: &Value) -> Table {
    let mut table = table(&["time", "step", "what", "detail"]);
    println!("{}  {}  {}", cell(&saga["id"]), cell(&saga["definition"]), cell(&saga["status"]));
    for entry in saga["timeline"].as_array().into_iter().flatten() {
        table.add_row(["at", "step", "what", "detail"].map(|key| cell(&entry[key])));
    }
    table
}
