//! `bench handshake`: CPU time of a full TLS 1.3 handshake at an HTTPS door, the same certificate and key-exchange group everywhere.
//!
//! In:    subjects.      Out: CPU us/handshake and the ratios to HAProxy and Envoy.
//! Owner: `cargo xtask bench handshake`.
//! Invariant: every connection is new, without resumption, and ends after the handshake; the client is openssl's own.
//! Not here: what is sent afterwards (`proxy`, `pair`).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::path::Arg;

use super::certificates::Certificates;
use super::child::{Child, LOAD_CPU};
use super::flags::Flags;
use super::node::Node;
use super::stats::{Spread, cell, paired_ratio, table};
use super::subject::{self, Subject, Upstream};
use super::tools;

/// The group: what every subject and the client have in common.
const GROUP: &str = "X25519";

struct Row {
    name: &'static str,
    label: String,
    child: Child,
    port: u16,
    cpu: Vec<Option<f64>>,
}

/// Runs it.
pub fn run(flags: &mut Flags) -> Result<()> {
    let (rounds, seconds) = (flags.number("rounds", 5u32)?, flags.number("seconds", 4u32)?);
    let subjects = subject::find(flags)?;
    flags.finish()?;
    let dir = tools::working_dir("handshake")?;
    let upstream = Upstream::start(&dir)?;
    let certificates = Certificates::make(&dir)?;
    println!("{}; proxy on CPU 0, openssl s_time on CPU 1", tools::machine());
    println!("full TLS 1.3 handshakes, P-256 certificate, {GROUP}: {rounds} rounds x {seconds} s");
    let (mut rows, mut failures) = (Vec::new(), 0);
    for subject in &subjects {
        let started = start(subject, &dir, &upstream, &certificates);
        match started.and_then(|row| once(&row, &certificates, 1).map(|_| row)) {
            Ok(row) => rows.push(row),
            Err(error) => {
                println!("!! {} IS LEFT OUT: {error:#}", subject.label());
                failures += u32::from(subject.name != "nginx");
            }
        }
    }
    for _ in 0..rounds {
        for row in &mut rows {
            let cpu = once(row, &certificates, seconds);
            if let Err(error) = &cpu {
                println!("!! a round of {} FAILED: {error:#}", row.label);
                failures += 1;
            }
            row.cpu.push(cpu.ok());
        }
    }
    print!("{}", show(&rows));
    drop((rows, upstream));
    if failures > 0 {
        bail!("{failures} measurements failed; the logs are in {}", dir.display());
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

/// One turn: CPU microseconds of a handshake.
fn once(row: &Row, certificates: &Certificates, seconds: u32) -> Result<f64> {
    let before = row.child.cpu();
    let made = s_time(row.port, certificates, seconds)?;
    let used = row.child.cpu().saturating_sub(before);
    ensure!(made > 100, "only {made} handshakes were made");
    Ok(used.as_secs_f64() * 1e6 / f64::from(made))
}

/// How many connections openssl made.
fn s_time(port: u16, certificates: &Certificates, seconds: u32) -> Result<u32> {
    let settings = certificates.authority.with_file_name("openssl.cnf");
    let text = format!(
        "openssl_conf = main\n[main]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n[all]\nGroups = {GROUP}\nMinProtocol = TLSv1.3\n"
    );
    std::fs::write(&settings, text)?;
    let output = Command::new("timeout")
        .args([
            &format!("{}s", seconds + 20),
            "taskset",
            "-c",
            &LOAD_CPU.to_string(),
            "openssl",
            "s_time",
            "-new",
        ])
        .args(["-connect", &format!("127.0.0.1:{port}"), "-time", &seconds.to_string()])
        .args(["-CAfile", certificates.authority.as_str()?])
        .env("OPENSSL_CONF", &settings)
        .output()
        .context("running openssl s_time")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `12345 connections in 4 real seconds, 0 bytes read per connection`
    let line = text.lines().find(|line| line.contains("real seconds"));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    count.with_context(|| {
        format!(
            "openssl s_time said what is not understood:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

fn start(subject: &Subject, dir: &Path, upstream: &Upstream, certificates: &Certificates) -> Result<Row> {
    let port = tools::free_port()?;
    let base64 = |path: &Path| -> Result<String> {
        let output = Command::new("base64").args(["-w0", path.as_str()?]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let words = [
        ("PORT", port.to_string()),
        ("ADMIN_PORT", tools::free_port()?.to_string()),
        ("UPSTREAM_PORT", upstream.port.to_string()),
        ("DIR", dir.to_string_lossy().into_owned()),
        ("GROUP", GROUP.to_owned()),
        ("CERTIFICATE", certificates.certificate.to_string_lossy().into_owned()),
        ("KEY", certificates.key.to_string_lossy().into_owned()),
        ("BOTH", certificates.both.to_string_lossy().into_owned()),
        ("CERTIFICATE_BASE64", base64(&certificates.certificate)?),
        ("KEY_BASE64", base64(&certificates.key)?),
    ];
    let words: Vec<(&str, &str)> = words.iter().map(|(word, value)| (*word, value.as_str())).collect();
    let render =
        |name: &str| Ok::<_, anyhow::Error>(tools::render(dir, name, &words)?.to_string_lossy().into_owned());
    let name = format!("{}-tls", subject.name);
    let mut child = match subject.name {
        "haproxy" => Child::start(dir, &name, &subject.program, &["-f", &render("haproxy-tls.cfg")?])?,
        "envoy" => {
            let config = render("envoy-tls.yaml")?;
            let args =
                ["-c", &config, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id"];
            Child::start(dir, &name, &subject.program, &args)?
        }
        "causeway" if !subject.is_example => {
            let (config, node) = (render("causeway-tls.yaml")?, Node::new(dir, "tls")?);
            Child::start(dir, &name, &subject.program, &node.args(&config, "registry,gateway"))?
        }
        _ => bail!("it takes no part in this one"),
    };
    child.wait_for_port(port)?;
    Ok(Row { name: subject.name, label: subject.label(), child, port, cpu: vec![] })
}

fn show(rows: &[Row]) -> String {
    let of = |name: &str| rows.iter().find(|row| row.name == name);
    let lines = rows.iter().map(|row| {
        let ratio = |to: &str| of(to).and_then(|other| paired_ratio(&row.cpu, &other.cpu));
        let cpu = Spread::of(&row.cpu.iter().flatten().copied().collect::<Vec<_>>());
        vec![
            row.label.clone(),
            cell(cpu.map(|cpu| cpu.median), 1),
            cell(cpu.map(|cpu| cpu.min), 1),
            cell(cpu.map(|cpu| cpu.max), 1),
            cell(ratio("haproxy"), 2),
            cell(ratio("envoy"), 2),
        ]
    });
    table(&["subject", "CPU us/handshake", "min", "max", "x HAProxy", "x Envoy"], &lines.collect::<Vec<_>>())
}
