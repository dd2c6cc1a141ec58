//! `bench pair`: two proxies with mutual TLS between them, as two sidecars stand, side by side with pairs of the peers.
//!
//! In:    subjects.      Out: CPU time of both proxies for each request; what the pair adds to the median latency at a steady pace.
//! Owner: `cargo xtask bench pair`.
//! Invariant: every pair speaks HTTP/1.1 with its client and its service, and HTTP/2 over TLS 1.3 with P-256 certificates in between.
//! Not here: one proxy alone (`proxy`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::certificates::Certificates;
use super::child::Child;
use super::flags::Flags;
use super::load::{self, Load};
use super::node::Node;
use super::stats::{Spread, cell, paired_ratio, table};
use super::subject::{self, Subject, Upstream, answers};
use super::tools;

const CONNECTIONS: u32 = 64;
/// The steady pace, requests a second over all connections.
const PACE: u32 = 3_000;
const PACED_CONNECTIONS: u32 = 30;
const WARM_UP_SECONDS: u32 = 1;

/// A pair that runs.
struct Pair {
    label: String,
    name: &'static str,
    /// The two proxies, whose time counts.
    proxies: Vec<Child>,
    /// What they need around them (a node), whose time does not.
    _around: Vec<Child>,
    port: u16,
    cpu: Vec<Option<f64>>,
    rate: Vec<f64>,
    added: Vec<Option<f64>>,
}

/// Runs it.
pub fn run(flags: &mut Flags) -> Result<()> {
    let (rounds, seconds) = (flags.number("rounds", 5u32)?, flags.number("seconds", 5u32)?);
    let subjects = subject::find(flags)?;
    flags.finish()?;
    let dir = tools::working_dir("pair")?;
    let upstream = Upstream::start(&dir)?;
    let certificates = Certificates::make(&dir)?;
    println!("{}; both proxies and the upstream on CPU 0, load on CPU 1", tools::machine());
    println!(
        "mTLS pair, h2 between, {CONNECTIONS} connections, 100 B: {rounds} rounds x {seconds} s, and {PACE} requests/s"
    );
    let (mut pairs, mut failures) = (Vec::new(), 0);
    for subject in &subjects {
        let started = start(subject, &dir, &upstream, &certificates);
        match started.and_then(|pair| once(&pair, WARM_UP_SECONDS).map(|_| pair)) {
            Ok(pair) => pairs.push(pair),
            Err(error) => {
                println!("!! {} IS LEFT OUT: {error:#}", subject.label());
                failures += u32::from(subject.name != "nginx");
            }
        }
    }
    for _ in 0..rounds {
        let direct = load::paced(upstream.port, "/100", PACED_CONNECTIONS, PACE, seconds)?;
        for pair in &mut pairs {
            match once(pair, seconds) {
                Ok((cpu, load)) => {
                    pair.cpu.push(Some(cpu));
                    pair.rate.push(load.rate);
                }
                Err(error) => {
                    println!("!! a round of {} FAILED: {error:#}", pair.label);
                    pair.cpu.push(None);
                    failures += 1;
                }
            }
            match load::paced(pair.port, "/100", PACED_CONNECTIONS, PACE, seconds) {
                Ok(median) => pair.added.push(Some(median - direct)),
                Err(error) => {
                    println!("!! a paced round of {} FAILED: {error:#}", pair.label);
                    pair.added.push(None);
                    failures += 1;
                }
            }
        }
    }
    print!("{}", show(&pairs));
    drop((pairs, upstream));
    if failures > 0 {
        bail!("{failures} measurements failed; the logs are in {}", dir.display());
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

fn once(pair: &Pair, seconds: u32) -> Result<(f64, Load)> {
    let cpu = || pair.proxies.iter().map(Child::cpu).sum::<std::time::Duration>();
    let before = cpu();
    let load = load::wrk(pair.port, "/100", CONNECTIONS, seconds)?;
    let used = cpu().saturating_sub(before);
    if load.requests == 0 || used.is_zero() {
        bail!("nothing was measured: {} requests, {used:?} of CPU time", load.requests);
    }
    Ok((used.as_secs_f64() * 1e6 / load.requests as f64, load))
}

fn start(subject: &Subject, dir: &Path, upstream: &Upstream, certificates: &Certificates) -> Result<Pair> {
    let port = tools::free_port()?;
    let (mut proxies, mut around) = (Vec::new(), Vec::new());
    match subject.name {
        "causeway" if !subject.is_example => {
            let node = Node::new(dir, "pair")?;
            let config = empty_config(dir)?;
            let mut child =
                Child::start(dir, "pair-node", &subject.program, &node.args(&config, "registry,control"))?;
            child.wait_for_port(node.api)?;
            around.push(child);
            proxies.push(node.server(dir, &subject.program, upstream.port)?);
            proxies.push(node.client(dir, &subject.program, port)?);
        }
        "haproxy" | "envoy" => {
            let (middle, admins) = (tools::free_port()?, [tools::free_port()?, tools::free_port()?]);
            for (side, admin) in ["front", "back"].into_iter().zip(admins) {
                proxies.push(peer(subject, dir, side, [port, middle, upstream.port, admin], certificates)?);
            }
        }
        _ => bail!("it makes no pair with HTTP/2 between"),
    }
    for proxy in &mut proxies {
        proxy.wait_until("an answer through the pair", || answers(port) || !proxy_is_last(port))?;
    }
    if let Some(last) = proxies.last_mut() {
        last.wait_until("an answer through the pair", || answers(port))?;
    }
    let (label, name) = (subject.label(), subject.name);
    Ok(Pair { label, name, proxies, _around: around, port, cpu: vec![], rate: vec![], added: vec![] })
}

/// Whether nobody listens there yet: then it is not this proxy's turn to answer.
fn proxy_is_last(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn empty_config(dir: &Path) -> Result<String> {
    let path: PathBuf = dir.join("pair-config");
    std::fs::create_dir_all(&path)?;
    Ok(path.to_string_lossy().into_owned())
}

fn peer(
    subject: &Subject,
    dir: &Path,
    side: &str,
    [port, middle, upstream, admin]: [u16; 4],
    certificates: &Certificates,
) -> Result<Child> {
    let words = [
        ("PORT", port.to_string()),
        ("MIDDLE_PORT", middle.to_string()),
        ("UPSTREAM_PORT", upstream.to_string()),
        ("ADMIN_PORT", admin.to_string()),
        ("DIR", dir.to_string_lossy().into_owned()),
        ("CA", certificates.authority.to_string_lossy().into_owned()),
        ("CERTIFICATE", certificates.certificate.to_string_lossy().into_owned()),
        ("KEY", certificates.key.to_string_lossy().into_owned()),
        ("BOTH", certificates.both.to_string_lossy().into_owned()),
    ];
    let words: Vec<(&str, &str)> = words.iter().map(|(word, value)| (*word, value.as_str())).collect();
    let (extension, name) = (if subject.name == "envoy" { "yaml" } else { "cfg" }, subject.name);
    let config = tools::render(dir, &format!("{name}-pair-{side}.{extension}"), &words)?;
    let config = config.to_string_lossy().into_owned();
    let args: Vec<&str> = match name {
        "envoy" => {
            vec!["-c", &config, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id"]
        }
        _ => vec!["-f", &config],
    };
    Child::start(dir, &format!("{name}-pair-{side}"), &subject.program, &args)
}

fn show(pairs: &[Pair]) -> String {
    let of = |name: &str| pairs.iter().find(|pair| pair.name == name);
    let lines = pairs.iter().map(|pair| {
        let ratio = |to: &str| of(to).and_then(|other| paired_ratio(&pair.cpu, &other.cpu));
        let cpu = Spread::of(&pair.cpu.iter().flatten().copied().collect::<Vec<_>>());
        let added = Spread::of(&pair.added.iter().flatten().copied().collect::<Vec<_>>());
        let slower = of("haproxy").and_then(|other| paired_ratio(&pair.added, &other.added));
        vec![
            pair.label.clone(),
            cell(cpu.map(|cpu| cpu.median), 2),
            cell(cpu.map(|cpu| cpu.min), 2),
            cell(cpu.map(|cpu| cpu.max), 2),
            cell(Spread::of(&pair.rate).map(|rate| rate.median), 0),
            cell(ratio("haproxy"), 2),
            cell(ratio("envoy"), 2),
            cell(added.map(|added| added.median), 0),
            cell(slower, 2),
        ]
    });
    let head = [
        "pair",
        "CPU us/request",
        "min",
        "max",
        "requests/s",
        "x HAProxy",
        "x Envoy",
        "added p50 us",
        "x HAProxy",
    ];
    table(&head, &lines.collect::<Vec<_>>())
}
