//! `trace [TRACE-ID]`: the spans of a trace as a tree, or the newest traces.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use comfy_table::Table;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::print::{cell, print, table};
use crate::cli::{Format, Trace};
use crate::client::Client;

/// Shows a trace, or the newest.
pub(crate) async fn trace(client: &Client, trace: Trace) -> Result<()> {
    let format = trace.output.output;
    let Some(id) = &trace.trace_id else {
        let mut path = format!("/v1/traces?limit={}", trace.limit);
        if let Some(service) = &trace.service {
            path.push_str(&format!("&service={service}"));
        }
        print(&client.json(Method::GET, &path, None).await?, format, newest);
        return Ok(());
    };
    let path = format!("/v1/traces/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    let value = client.json(Method::GET, &path, None).await?;
    match format {
        Format::Table => print!("{}", tree(&value)),
        Format::Json | Format::Yaml => print(&value, format, |_| Table::new()),
    }
    Ok(())
}

fn newest(value: &Value) -> Table {
    let mut table = table(&["time", "trace id", "service", "name", "ms", "spans", "state"]);
    for trace in value["traces"].as_array().into_iter().flatten() {
        let [time, id, service, name, ms, spans] =
            ["time", "traceId", "service", "name", "durationMs", "spans"].map(|key| cell(&trace[key]));
        let state = if trace["isError"] == true { "failed" } else { "fine" };
        table.add_row([time, id, service, name, ms, spans, state.to_owned()]);
    }
    table
}

/// The spans, each below its parent; one whose parent is not kept stands at the left.
fn tree(value: &Value) -> String {
    let spans: Vec<&Value> = value["spans"].as_array().into_iter().flatten().collect();
    let known: BTreeSet<&str> = spans.iter().filter_map(|span| span["spanId"].as_str()).collect();
    let mut below: BTreeMap<Option<&str>, Vec<&Value>> = BTreeMap::new();
    for span in &spans {
        let parent = span["parentId"].as_str().filter(|parent| known.contains(parent));
        below.entry(parent).or_default().push(span);
    }
    let start = spans.iter().filter_map(|span| span["startUs"].as_u64()).min().unwrap_or(0);
    let mut text = format!("trace {}, {} spans\n", cell(&value["traceId"]), spans.len());
    let mut stack: Vec<(&Value, usize)> =
        below.remove(&None).unwrap_or_default().into_iter().rev().map(|s| (s, 0)).collect();
    while let Some((span, depth)) = stack.pop() {
        text.push_str(&line(span, depth, start));
        let children = below.remove(&span["spanId"].as_str()).unwrap_or_default();
        stack.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
    }
    text
}

fn line(span: &Value, depth: usize, start: u64) -> String {
    let after = span["startUs"].as_u64().unwrap_or(start).saturating_sub(start) as f64 / 1000.0;
    let took = span["durationMs"].as_f64().unwrap_or(0.0);
    let what = format!(
        "{}{} {} {}",
        "  ".repeat(depth),
        cell(&span["service"]),
        cell(&span["kind"]),
        cell(&span["name"])
    );
    let attributes = &span["attributes"];
    let status = &attributes["http.response.status_code"];
    let mut end = if status.is_null() { "no answer".to_owned() } else { status.to_string() };
    for key in ["causeway.endpoint", "error.type"] {
        if let Some(text) = attributes[key].as_str() {
            end.push_str(&format!(" {text}"));
        }
    }
    let message = match span["message"].as_str() {
        None | Some("") => String::new(),
        Some(message) => format!(": {message}"),
    };
    format!("{after:>9.1} ms {took:>9.1} ms  {what}  {end}{message}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_stand_below_their_parents_and_orphans_at_the_left() {
        let span = |id: &str, parent: Value, start: u64, service: &str| {
            json!({"spanId": id, "parentId": parent, "kind": "server", "name": "GET", "service": service, "startUs": start,
                   "durationMs": 1.5, "message": "", "attributes": {"http.response.status_code": 200}})
        };
        let value = json!({"traceId": "t", "spans": [
            span("a", json!("gone"), 1_000, "d/shop"), span("b", json!("a"), 1_200, "d/cart"), span("c", json!("a"), 1_400, "d/pay"),
            span("d", json!("b"), 2_000, "d/db"),
        ]});
        let services: Vec<String> = tree(&value).lines().skip(1).map(|line| line[27..].to_owned()).collect();
        let expected = [
            "d/shop server GET  200",
            "  d/cart server GET  200",
            "    d/db server GET  200",
            "  d/pay server GET  200",
        ];
        assert_eq!(services, expected);
        // A circle (somebody's ids are wrong) ends all the same.
        let circle =
            json!({"traceId": "t", "spans": [span("a", json!("b"), 1, "x"), span("b", json!("a"), 1, "y")]});
        assert_eq!(tree(&circle).lines().count(), 1);
    }
}
