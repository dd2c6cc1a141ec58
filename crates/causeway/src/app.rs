//! The app behind a sidecar: started with the environment that leads its calls through the mesh, watched, stopped.
//!
//! In:    the command, the sidecar's addresses.      Out: its readiness, its health, its exit code.
//! Owner: `sidecar`.
//! Invariant: the app is registered only after it answers, and ends before its sidecar does.
//! Not here: registration (`causeway-xds`), the order of things (`sidecar`).

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_base::net::Net;
use causeway_model::Health;
use http::{HeaderMap, Method};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::watch;

use crate::client::Client;
use crate::leash;

/// How often an app that is not ready yet is asked, and how often a ready one's health is.
const ASK_STARTING: Duration = Duration::from_millis(50);
const ASK_RUNNING: Duration = Duration::from_secs(2);
/// How long an answer about health may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Failed answers in a row that make an app critical: one lost answer is no news.
const FAILURES_MAX: u32 = 2;
/// When an app that is not ready is mentioned in the log, again and again.
const MENTION_EVERY: Duration = Duration::from_secs(10);

/// How to start the app.
pub(crate) struct Start<'a> {
    pub(crate) command: &'a [String],
    pub(crate) port: Option<u16>,
    /// The sidecar's HTTP proxy.
    pub(crate) outbound: Option<SocketAddr>,
}

/// Starts the app.
pub(crate) fn start(start: &Start<'_>) -> Result<Child> {
    let (program, args) = start.command.split_first().context("no command is given after --")?;
    let mut command = leash::command(program.as_ref())?;
    command.args(args);
    if let Some(port) = start.port {
        command.env("PORT", port.to_string());
    }
    if let Some(outbound) = start.outbound {
        let proxy = format!("http://{outbound}");
        for name in ["HTTP_PROXY", "http_proxy"] {
            command.env(name, &proxy);
        }
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "localhost,127.0.0.1,::1");
        }
    }
    command.spawn().with_context(|| format!("cannot start {program}"))
}

/// Waits until the app answers on its port (and at `path`, when there is one).
pub(crate) async fn ready(port: u16, path: Option<&str>) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (net, mut waited) = (Net::tcp(), Duration::ZERO);
    loop {
        let is_ready = match path {
            Some(path) => is_healthy(port, path).await,
            None => net.connect(address).await.is_ok(),
        };
        if is_ready {
            return;
        }
        tokio::time::sleep(ASK_STARTING).await;
        waited += ASK_STARTING;
        if waited.as_millis() % MENTION_EVERY.as_millis() == 0 {
            tracing::warn!(%address, path, "the app does not answer yet; it is registered when it does");
        }
    }
}

async fn is_healthy(port: u16, path: &str) -> bool {
    let Ok(client) = Client::new(&format!("http://127.0.0.1:{port}")) else { return false };
    let ask = client.send(Method::GET, path, HeaderMap::new(), Default::default(), Duration::ZERO);
    matches!(tokio::time::timeout(ANSWER_MAX, ask).await, Ok(Ok(answer)) if answer.status.is_success())
}

/// Asks after the app's health for ever and says what changes.
pub(crate) async fn watch_health(port: u16, path: String, say: watch::Sender<Health>) {
    let mut failures = 0;
    loop {
        tokio::time::sleep(ASK_RUNNING).await;
        failures = if is_healthy(port, &path).await { 0 } else { failures + 1 };
        let health = if failures >= FAILURES_MAX { Health::Critical } else { Health::Passing };
        if failures == 0 || failures >= FAILURES_MAX {
            say.send_if_modified(|old| std::mem::replace(old, health) != health);
        }
    }
}

/// Asks the app to stop and waits for it at most `within`; then it is killed.
pub(crate) async fn stop(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended just now; then there is nothing to signal.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(within, child.wait()).await {
        Ok(status) => status.ok(),
        Err(_) => {
            tracing::warn!("the app did not stop in time and is killed");
            let _ = child.kill().await;
            None
        }
    }
}

/// Says so when the app can be reached past its sidecar: it listens on more than loopback.
pub(crate) fn warn_of_open_port(port: u16) {
    let open = ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        std::fs::read_to_string(table)
            .is_ok_and(|text| text.lines().skip(1).any(|line| listens_openly(line, port)))
    });
    if open {
        tracing::warn!(
            port,
            "the app listens on an address other than loopback: others can reach it past its sidecar; bind it to 127.0.0.1"
        );
    }
}

/// One line of `/proc/net/tcp`: whether it is a listening socket (state 0A) on `port` and not on 127.0.0.0/8 or ::1.
fn listens_openly(line: &str, port: u16) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let (Some(local), _, Some("0A")) = (words.next(), words.next(), words.next()) else { return false };
    let Some((address, local_port)) = local.split_once(':') else { return false };
    let is_loopback =
        (address.len() == 8 && address.ends_with("7F")) || address == "00000000000000000000000001000000";
    u16::from_str_radix(local_port, 16) == Ok(port) && !is_loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_ports_are_told_from_loopback() {
        let line =
            |address: &str| format!("   0: {address}:2328 00000000:0000 0A 00000000:00000000 00:00000000");
        assert!(listens_openly(&line("00000000"), 9000));
        assert!(!listens_openly(&line("0100007F"), 9000));
        assert!(!listens_openly(&line("00000000"), 9001));
        assert!(!listens_openly(&line("00000000").replace(" 0A ", " 01 "), 9000));
    }
}
