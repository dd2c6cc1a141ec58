//! `top`: golden signals of the last seconds, by service or by caller and callee.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use comfy_table::Table;
use http::Method;
use serde_json::Value;

use super::print::{millis, print, table};
use crate::cli::{Format, Top};
use crate::client::Client;

/// Clears a terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows golden signals, once or again and again.
pub(crate) async fn top(client: &Client, top: Top) -> Result<()> {
    let mut path = format!("/v1/traffic?by={}&window={}", top.by.as_str(), millis(top.window));
    for (name, value) in [("service", &top.service), ("namespace", &top.namespace)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={value}"));
        }
    }
    loop {
        let value = client.json(Method::GET, &path, None).await?;
        let is_screen = !top.once && top.output == Format::Table && std::io::stdout().is_terminal();
        if is_screen {
            print!("{CLEAR}");
        }
        match (top.output, top.once) {
            // One value a line, for programs.
            (Format::Json, false) => println!("{value}"),
            (format, _) => print(&value, format, rows),
        }
        std::io::stdout().flush()?;
        if top.once {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = crate::signals::stop() => return Ok(()),
            () = tokio::time::sleep(top.interval) => {}
        }
    }
}

fn rows(value: &Value) -> Table {
    let has_source =
        value["rows"].as_array().is_some_and(|rows| rows.iter().any(|row| row["source"].is_string()));
    let mut columns = vec!["to", "rps", "success", "retries/s", "p50 ms", "p95 ms", "p99 ms", "max ms"];
    if has_source {
        columns.insert(0, "from");
    }
    let mut table = table(&columns);
    let mut rows: Vec<&Value> = value["rows"].as_array().into_iter().flatten().collect();
    rows.sort_by(|a, b| number(&b["rate"]).total_cmp(&number(&a["rate"])));
    for row in rows {
        let latency = |key: &str| row[key].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        let mut cells = vec![
            row["target"].as_str().unwrap_or("-").to_owned(),
            format!("{:.1}", number(&row["rate"])),
            format!("{:.2}%", number(&row["success"]) * 100.0),
            format!("{:.1}", number(&row["retryRate"])),
            latency("p50Ms"),
            latency("p95Ms"),
            latency("p99Ms"),
            latency("latencyMsMax"),
        ];
        if has_source {
            cells.insert(0, row["source"].as_str().unwrap_or("-").to_owned());
        }
        table.add_row(cells);
    }
    table
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}
