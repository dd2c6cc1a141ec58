//! `wait --rev N`: until every connected proxy runs it.

use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;

use super::print::millis;
use crate::client::Client;

/// Waits for `rev`, or for the newest revision there is now.
pub(crate) async fn wait(client: &Client, rev: Option<u64>, timeout: Duration) -> Result<()> {
    let rev = match rev {
        Some(rev) => rev,
        None => {
            let version = client.json(Method::GET, "/v1/version", None).await?;
            version["revision"].as_u64().context("the API's answer holds no revision")?
        }
    };
    let path = format!("/v1/revisions/{rev}/wait?timeout={}", millis(timeout));
    client.json_waiting(Method::GET, &path, None, timeout).await?;
    println!("revision {rev} is acknowledged by every connected proxy");
    Ok(())
}
