//! `why [REQUEST-ID]`: why a request failed, in plain words, as every proxy on its way saw it.

use std::time::Duration;

use anyhow::{Result, bail};
use comfy_table::Table;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::print::{cell, print, table};
use super::reasons;
use crate::cli::{Format, Why};
use crate::client::Client;

/// Proxies report once a second: a failure of just now is waited for.
const WAIT: Duration = Duration::from_secs(3);
/// How often it is asked for meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// After the first account has come, the others get this long.
const OTHERS: Duration = Duration::from_millis(1_200);

/// Says why.
pub(crate) async fn why(client: &Client, why: Why) -> Result<()> {
    let format = why.output.output;
    let Some(id) = &why.request_id else {
        let mut path = format!("/v1/failures?limit={}", why.limit);
        for (name, value) in [("service", &why.service), ("namespace", &why.namespace)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={value}"));
            }
        }
        print(&client.json(Method::GET, &path, None).await?, format, newest);
        return Ok(());
    };
    let told = ask(client, id).await?;
    match format {
        Format::Table => print!("{}", story(&told)),
        Format::Json | Format::Yaml => print(&told, format, |_| Table::new()),
    }
    Ok(())
}

async fn ask(client: &Client, id: &str) -> Result<Value> {
    let path = format!("/v1/failures/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    let send = || client.send(Method::GET, &path, HeaderMap::new(), Default::default(), Duration::ZERO);
    let mut waited = Duration::ZERO;
    loop {
        let answer = send().await?;
        if answer.status == StatusCode::NOT_FOUND && waited < WAIT {
            tokio::time::sleep(ASK_EVERY).await;
            waited += ASK_EVERY;
            continue;
        }
        let told = answer.json()?;
        if waited.is_zero() {
            return Ok(told);
        }
        // It has just come in: its neighbours' reports are on their way.
        tokio::time::sleep(OTHERS).await;
        return send().await?.json();
    }
}

fn newest(value: &Value) -> Table {
    let mut table = table(&["time", "request id", "request", "service", "status", "reason", "seen by"]);
    for failure in value["failures"].as_array().into_iter().flatten() {
        let request =
            format!("{} {}{}", cell(&failure["method"]), cell(&failure["host"]), cell(&failure["path"]));
        let seen = format!("{} {}", cell(&failure["side"]), cell(&failure["seenBy"]));
        let [time, id, service, status, reason] =
            ["time", "requestId", "service", "status", "reason"].map(|key| cell(&failure[key]));
        table.add_row([time, id, request, service, status, reason, seen]);
    }
    table
}

/// The whole story, for people.
fn story(told: &Value) -> String {
    let accounts: Vec<&Value> = told["accounts"].as_array().into_iter().flatten().collect();
    let Some(first) = accounts.first() else { return String::new() };
    let mut text = format!(
        "{} {}{}: {}\n{}, request id {}{}\n",
        cell(&first["method"]),
        cell(&first["host"]),
        text_of(first, "path"),
        outcome(first),
        cell(&first["time"]),
        cell(&first["requestId"]),
        match text_of(first, "traceId") {
            "" => String::new(),
            trace => format!(", trace {trace}"),
        }
    );
    for account in &accounts {
        text.push('\n');
        tell(account, &mut text);
    }
    text.push_str(&format!("\n{}\n", conclusion(&accounts)));
    text
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

/// `503 connection_refused`, `no answer, client_left`, `500 by the service itself`.
fn outcome(account: &Value) -> String {
    let status = match account["status"].as_u64() {
        Some(status) => status.to_string(),
        None => "no answer,".to_owned(),
    };
    match text_of(account, "reason") {
        "" => format!("{status} by the service itself"),
        reason => format!("{status} {reason}"),
    }
}

fn tell(account: &Value, text: &mut String) {
    let seen_by = text_of(account, "seenBy");
    let place = match text_of(account, "side") {
        "gateway" => format!("at the gateway {seen_by}"),
        "caller" => format!("beside the caller, {seen_by}"),
        "callee" => format!("beside the callee, {seen_by}"),
        _ => format!("in the node, {seen_by}"),
    };
    let instance = match text_of(account, "instance") {
        "" => String::new(),
        instance => format!(" (instance {instance})"),
    };
    text.push_str(&format!("{place}{instance}\n"));
    let mut line = |label: &str, words: String| {
        if !words.is_empty() {
            text.push_str(&format!("  {label:<11} {words}\n"));
        }
    };
    line("came from", format!("{} over {}", cell(&account["caller"]), cell(&account["protocol"])));
    line("rule", placed(text_of(account, "rule"), text_of(account, "ruleWrittenAt")));
    line("service", text_of(account, "service").to_owned());
    line("refused by", text_of(account, "refusedBy").to_owned());
    for (at, attempt) in account["tried"].as_array().into_iter().flatten().enumerate() {
        line(&format!("attempt {}", at + 1), tried(attempt));
    }
    for other in account["passedOver"].as_array().into_iter().flatten() {
        line("not chosen", format!("{}: {}", text_of(other, "endpoint"), text_of(other, "why")));
    }
    for note in account["notes"].as_array().into_iter().flatten() {
        line("note", cell(note));
    }
    if let Some(untold) = account["untold"].as_u64().filter(|untold| *untold > 0) {
        line("", format!("and {untold} more lines"));
    }
    let details = match text_of(account, "details") {
        "" => String::new(),
        details => format!(": {details}"),
    };
    line("ended", format!("{} after {:.1} ms{details}", outcome(account), millis(&account["durationMs"])));
}

fn placed(what: &str, at: &str) -> String {
    match (what, at) {
        ("", _) => String::new(),
        (what, "") => what.to_owned(),
        (what, at) => format!("{what}, written at {at}"),
    }
}

fn tried(attempt: &Value) -> String {
    let [endpoint, address, transport] =
        ["endpoint", "address", "transport"].map(|key| text_of(attempt, key));
    let end = match (attempt["status"].as_u64(), text_of(attempt, "error"), text_of(attempt, "details")) {
        (Some(status), "", _) => format!("answered {status}"),
        (Some(status), error, _) => format!("its sidecar answered {status} {error}"),
        (None, error, "") => error.to_owned(),
        (None, error, details) => format!("{error}: {details}"),
    };
    let (after, took) = (millis(&attempt["afterMs"]), millis(&attempt["durationMs"]));
    let place = if endpoint == address { address.to_owned() } else { format!("{endpoint} at {address}") };
    format!("{place} ({transport}), begun after {after:.1} ms, took {took:.1} ms: {end}")
}

fn millis(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// The account that is nearest to the cause: the innermost one that names a reason.
fn conclusion(accounts: &[&Value]) -> String {
    let cause = accounts.iter().rev().find(|account| !text_of(account, "reason").is_empty());
    let Some(cause) = cause else {
        return "why: the service itself gave this answer and the mesh passed it on; look at the service's own log".to_owned();
    };
    let word = text_of(cause, "reason");
    match reasons::find(word) {
        Some(reason) => format!("why: {}\nlook at: {}", reason.what, reason.look),
        None => format!("why: {word}"),
    }
}

/// Says what a reason means, for `causeway explain`.
pub(crate) fn explain(word: &str) -> Result<()> {
    let Some(reason) = reasons::find(word) else { bail!("there is no reason {word}") };
    println!("{word}: {}\nlook at: {}", reason.what, reason.look);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told() -> Value {
        json!({"requestId": "r1", "accounts": [
            {
                "time": "2026-01-01T00:00:00.000Z", "requestId": "r1", "traceId": "", "side": "gateway", "seenBy": "default/public",
                "instance": "", "method": "GET", "host": "shop.test", "path": "/cart", "protocol": "HTTP/1.1", "caller": "127.0.0.1",
                "rule": "HTTPRoute default/shop rule 1", "ruleWrittenAt": "routes.yaml:4", "refusedBy": "",
                "service": "default/cart", "endpoint": "cart-1", "status": 503, "reason": "connection_refused",
                "details": "default/cart: the sidecar of cart-1 says connection_refused", "durationMs": 12.34, "attempts": 2,
                "tried": [
                    {"endpoint": "cart-2", "address": "10.0.0.2:15008", "transport": "mesh", "afterMs": 0.2, "durationMs": 1.0,
                     "status": null, "error": "connection_timeout", "details": "no connection within 2s"},
                    {"endpoint": "cart-1", "address": "10.0.0.1:15008", "transport": "mesh", "afterMs": 6.0, "durationMs": 5.0,
                     "status": 503, "error": "connection_refused", "details": ""},
                ],
                "passedOver": [{"endpoint": "cart-3", "why": "draining: it takes no new calls"}], "notes": [], "untold": 0,
            },
            {
                "time": "2026-01-01T00:00:00.006Z", "requestId": "r1", "traceId": "", "side": "callee", "seenBy": "default/cart",
                "instance": "cart-1", "method": "GET", "host": "shop.test", "path": "/cart", "protocol": "HTTP/2",
                "caller": "spiffe://causeway.local/ns/default/svc/public", "rule": "", "ruleWrittenAt": "", "refusedBy": "",
                "service": "default/cart", "endpoint": "127.0.0.1:9011", "status": 503, "reason": "connection_refused",
                "details": "cannot connect to 127.0.0.1:9011", "durationMs": 1.0, "attempts": 1, "tried": [], "passedOver": [],
                "notes": ["the app has not answered for 3 s"], "untold": 2,
            },
        ]})
    }

    #[test]
    fn the_story_is_told_in_plain_words() {
        let expected = "\
GET shop.test/cart: 503 connection_refused
2026-01-01T00:00:00.000Z, request id r1

at the gateway default/public
  came from   127.0.0.1 over HTTP/1.1
  rule        HTTPRoute default/shop rule 1, written at routes.yaml:4
  service     default/cart
  attempt 1   cart-2 at 10.0.0.2:15008 (mesh), begun after 0.2 ms, took 1.0 ms: connection_timeout: no connection within 2s
  attempt 2   cart-1 at 10.0.0.1:15008 (mesh), begun after 6.0 ms, took 5.0 ms: its sidecar answered 503 connection_refused
  not chosen  cart-3: draining: it takes no new calls
  ended       503 connection_refused after 12.3 ms: default/cart: the sidecar of cart-1 says connection_refused

beside the callee, default/cart (instance cart-1)
  came from   spiffe://causeway.local/ns/default/svc/public over HTTP/2
  service     default/cart
  note        the app has not answered for 3 s
              and 2 more lines
  ended       503 connection_refused after 1.0 ms: cannot connect to 127.0.0.1:9011

why: nobody listens at the endpoint
look at: is the app running; does it listen on that port
";
        assert_eq!(story(&told()), expected);
    }

    #[test]
    fn an_answer_of_the_services_own_is_said_to_be_one() {
        let mut told = told();
        told["accounts"].as_array_mut().unwrap().truncate(1);
        told["accounts"][0]["reason"] = "".into();
        let story = story(&told);
        assert!(
            story.contains("503 by the service itself") && story.contains("look at the service's own log"),
            "{story}"
        );
    }
}
