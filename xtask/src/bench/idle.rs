//! `bench idle`: resident memory of a subject that does nothing, and what each idle keep-alive connection adds.
//!
//! In:    subjects.      Out: a table: MB when idle, kB per connection.
//! Owner: `cargo xtask bench idle`.
//! Invariant: every connection has had one answer before it is idle, so that what it needs has been allocated.
//! Not here: CPU (`proxy`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::child::Child;
use super::flags::Flags;
use super::http::Connection;
use super::node::Node;
use super::stats::table;
use super::subject::{self, Protocol, Running, Subject, Upstream};
use super::tools;

/// Rest before memory is looked at, so that start-up and the last requests are over.
const REST: Duration = Duration::from_secs(3);

/// Runs it.
pub fn run(flags: &mut Flags) -> Result<()> {
    let connections = flags.number("connections", 2000usize)?;
    let subjects = subject::find(flags)?;
    flags.finish()?;
    let dir = tools::working_dir("idle")?;
    let upstream = Upstream::start(&dir)?;
    println!("{}\n{connections} keep-alive connections, each idle after one request", tools::machine());
    let (mut rows, mut failures) = (Vec::new(), 0);
    let mut add = |label: &str, row: Result<Vec<String>>| match row {
        Ok(row) => rows.push(row),
        Err(error) => {
            println!("!! {label} IS LEFT OUT: {error:#}");
            failures += 1;
        }
    };
    for subject in &subjects {
        let label = match subject.binary() {
            Some(_) => "causeway up (registry, gateway)".to_owned(),
            None => subject.label(),
        };
        let started = subject.start(&dir, Protocol::H1, &upstream);
        add(&label, started.and_then(|running| look(&label, &running, connections)));
        if let Some(program) = subject.binary() {
            alone(program, &dir, &upstream, connections, &mut add)?;
        }
    }
    drop(upstream);
    print!("{}", table(&["subject", "idle MB", "with connections MB", "kB/connection"], &rows));
    ensure!(failures == 0, "{failures} measurements failed; the logs are in {}", dir.display());
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

/// A gateway and a sidecar as processes of their own, which is what stands beside the peers.
fn alone(
    program: &Path,
    dir: &Path,
    upstream: &Upstream,
    connections: usize,
    add: &mut impl FnMut(&str, Result<Vec<String>>),
) -> Result<()> {
    let (node, port) = (Node::new(dir, "node")?, tools::free_port()?);
    let words = [("PORT", port.to_string()), ("UPSTREAM_PORT", upstream.port.to_string())];
    let words: Vec<(&str, &str)> = words.iter().map(|(word, value)| (*word, value.as_str())).collect();
    let config = tools::render(dir, "causeway-h1.yaml", &words)?.to_string_lossy().into_owned();
    let mut up = Child::start(dir, "node", program, &node.args(&config, "registry,control"))?;
    up.wait_for_port(node.api)?;

    let label = "causeway proxy --gateway";
    let gateway = node.gateway(dir, program).and_then(|mut child| {
        child.wait_until("an answer", || subject::answers(port))?;
        Ok(Running { child, port })
    });
    add(label, gateway.and_then(|running| look(label, &running, connections)));

    let label = "causeway proxy (a sidecar)";
    let sidecar = node.sidecar(dir, program, upstream.port).and_then(|(mut child, outbound)| {
        child.wait_for_port(outbound)?;
        std::thread::sleep(REST);
        Ok(vec![label.to_owned(), megabytes(child.resident()), "-".to_owned(), "-".to_owned()])
    });
    add(label, sidecar);
    Ok(())
}

fn look(label: &str, running: &Running, connections: usize) -> Result<Vec<String>> {
    std::thread::sleep(REST);
    let idle = running.child.resident();
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut connection = Connection::open(running.port)?;
        let answer = connection.request("GET", "/100", "")?;
        ensure!(answer.status == 200, "answered {}", answer.status);
        open.push(connection);
    }
    std::thread::sleep(REST);
    let loaded = running.child.resident();
    // Still there: otherwise something else was measured.
    let kept = open.iter_mut().filter_map(|connection| connection.request("GET", "/100", "").ok()).count();
    ensure!(kept == connections, "only {kept} of {connections} connections were kept");
    let each = loaded.saturating_sub(idle) as f64 / connections as f64 / 1000.0;
    Ok(vec![label.to_owned(), megabytes(idle), megabytes(loaded), format!("{each:.1}")])
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

impl Subject {
    /// The `causeway` binary, if this is one.
    fn binary(&self) -> Option<&Path> {
        (self.name == "causeway" && !self.is_example).then_some(self.program.as_path())
    }
}
