//! `tap`: live requests, one line each, until it is stopped.

use std::io::Write;

use anyhow::Result;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::time::Instant;

use super::print::cell;
use super::stream::Events;
use crate::cli::{Format, Tap};
use crate::client::Client;

/// Shows live requests.
pub(crate) async fn tap(client: &Client, tap: Tap) -> Result<()> {
    let mut events = Events::new(client.stream(&path(&tap)).await?);
    let until = tap.stop_after.map(|time| Instant::now() + time);
    let mut pace = Pace { most: tap.max_rate, second: Instant::now(), shown: 0, left_out: 0 };
    let mut shown = 0_u64;
    if tap.output == Format::Table {
        eprintln!("{}", line(["time", "seen", "from", "to", "request", "status", "ms", "endpoint"]));
    }
    while tap.limit.is_none_or(|limit| shown < limit) {
        let next = async {
            match until {
                Some(until) => tokio::time::timeout_at(until, events.next()).await.unwrap_or(Ok(None)),
                None => events.next().await,
            }
        };
        let (name, data) = tokio::select! {
            biased;
            () = crate::signals::stop() => break,
            next = next => match next? {
                Some(event) => event,
                None => break,
            },
        };
        let value: Value = serde_json::from_str(&data)?;
        match name.as_str() {
            "request" if pace.takes(Instant::now()) => match show(&value, tap.output) {
                Ok(()) => shown += 1,
                // Whoever read it (`| head`) has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(error.into()),
            },
            "lost" => pace.left_out += value["count"].as_u64().unwrap_or(0),
            _ => {}
        }
    }
    if pace.left_out > 0 {
        eprintln!("{} more requests were not shown: there were too many a second", pace.left_out);
    }
    Ok(())
}

/// How many are shown a second.
struct Pace {
    most: u32,
    second: Instant,
    shown: u32,
    left_out: u64,
}

impl Pace {
    fn takes(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second).as_secs() >= 1 {
            (self.second, self.shown) = (now, 0);
        }
        let is_taken = self.shown < self.most;
        match is_taken {
            true => self.shown += 1,
            false => self.left_out += 1,
        }
        is_taken
    }
}

fn path(tap: &Tap) -> String {
    let mut path = format!("/v1/tap?rate={}", tap.max_rate);
    let parts = [
        ("service", &tap.service),
        ("namespace", &tap.namespace),
        ("from", &tap.from),
        ("status", &tap.status),
        ("path", &tap.path),
        ("method", &tap.method),
        ("side", &tap.side),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
    }
    path
}

fn show(value: &Value, format: Format) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{value}")?,
        Format::Yaml => write!(out, "---\n{}", causeway_spec::emit(value))?,
        Format::Table => {
            let text = |key: &str| cell(&value[key]);
            let request = format!("{} {}{}", text("method"), text("host"), text("path"));
            let status = match (&value["status"], text("reason").as_str()) {
                (Value::Null, reason) => reason.to_owned(),
                (status, "-") => status.to_string(),
                (status, reason) => format!("{status} {reason}"),
            };
            let took = format!("{:.1}", value["durationMs"].as_f64().unwrap_or(0.0));
            let time = text("time");
            let clock = time.get(11..23).unwrap_or(&time);
            let (side, caller) = (text("side"), text("caller"));
            let caller = caller.rsplit_once("/ns/").map_or(caller.as_str(), |(_, rest)| rest);
            let (to, endpoint) = (text("service"), text("endpoint"));
            writeln!(
                out,
                "{}",
                line([clock, &side, &caller.replace("/svc/", "/"), &to, &request, &status, &took, &endpoint])
            )?;
        }
    }
    out.flush()
}

fn line(cells: [&str; 8]) -> String {
    let [time, side, from, to, request, status, took, endpoint] = cells;
    format!("{time:<12} {side:<7} {from:<20} {to:<20} {request:<40} {status:<8} {took:>8} {endpoint}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_are_shown_than_was_asked_for() {
        let mut pace = Pace { most: 2, second: Instant::now(), shown: 0, left_out: 0 };
        assert_eq!((0..5).filter(|_| pace.takes(Instant::now())).count(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(pace.takes(Instant::now()));
        assert_eq!(pace.left_out, 3);
    }
}
