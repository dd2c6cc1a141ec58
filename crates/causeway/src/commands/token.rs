//! `token create`: a join token, alone on standard output.

use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use serde_json::json;

use super::print::millis;
use crate::client::Client;

/// Asks the node for a join token for a service or gateway.
pub(crate) async fn create(client: &Client, namespace: &str, name: &str, ttl: Duration) -> Result<String> {
    let body = json!({ "name": name, "namespace": namespace, "ttl": millis(ttl) });
    let answer = client.json(Method::POST, "/v1/tokens", Some(&body)).await?;
    Ok(answer["token"].as_str().context("the API's answer holds no token")?.to_owned())
}
