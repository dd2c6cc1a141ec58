//! Who is measured: Causeway and its peers, each started with one worker and its settings from `bench/config`.
//!
//! In:    a name and a protocol.      Out: a running proxy on a port, in front of the one upstream.
//! Owner: `proxy`, `idle`.
//! Invariant: all subjects have comparable features on (access record, retries, keep-alive; metrics where they exist).
//! Not here: what is sent through them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::child::Child;
use super::flags::Flags;
use super::http::Connection;
use super::node::Node;
use super::tools;

/// Everybody, in the order of measuring.
pub const ALL: [&str; 4] = ["causeway", "haproxy", "nginx", "envoy"];

/// The example that is Causeway's data path alone.
const EXAMPLE: &str = "bench_proxy";

/// What is spoken on both sides of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    H1,
    /// HTTP/2 in clear text, by prior knowledge.
    H2,
}

impl Protocol {
    /// As file names say it.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::H1 => "h1",
            Protocol::H2 => "h2",
        }
    }
}

/// Which Causeway: the binary that users run, or the data path alone.
pub enum Causeway {
    /// `causeway`.
    Binary(PathBuf),
    /// The example `bench_proxy` of `causeway-proxy`.
    Example(PathBuf),
}

impl Causeway {
    /// From `--causeway`; builds what is needed.
    pub fn from_flags(flags: &mut Flags) -> Result<Causeway> {
        let example = || tools::build(&["-p", "causeway-proxy", "--example", EXAMPLE]).map(Causeway::Example);
        match flags.take("causeway").as_deref() {
            Some("example") => example(),
            Some(path) => {
                let path = std::fs::canonicalize(path).with_context(|| format!("looking for {path}"))?;
                let is_example =
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(EXAMPLE));
                Ok(if is_example { Causeway::Example(path) } else { Causeway::Binary(path) })
            }
            None => match tools::build(&["-p", "causeway", "--bin", "causeway"]) {
                Ok(path) => Ok(Causeway::Binary(path)),
                Err(error) => {
                    println!(
                        "!! the binary does not build ({error}): measuring the data path alone, by its example"
                    );
                    example()
                }
            },
        }
    }
}

/// A subject that can be started.
pub struct Subject {
    /// Its name, one of [`ALL`].
    pub name: &'static str,
    pub(super) program: PathBuf,
    /// Whether it is Causeway's data path alone.
    pub(super) is_example: bool,
}

/// A subject that runs.
pub struct Running {
    /// Its processes.
    pub child: Child,
    /// Where it takes requests.
    pub port: u16,
}

/// Finds the wanted subjects; says loudly who is missing.
pub fn find(flags: &mut Flags) -> Result<Vec<Subject>> {
    let mut found = Vec::new();
    for name in flags.among("subjects", &ALL)? {
        let mut is_example = false;
        let program = match name {
            "causeway" => Causeway::from_flags(flags).map(|causeway| match causeway {
                Causeway::Binary(path) => path,
                Causeway::Example(path) => {
                    is_example = true;
                    path
                }
            }),
            "envoy" => tools::envoy(),
            other => tools::find(other),
        };
        match program {
            Ok(program) => found.push(Subject { name, program, is_example }),
            Err(error) => println!("!! {name} IS LEFT OUT: {error:#}"),
        }
    }
    // `--causeway` without the subject of that name is no mistake.
    flags.take("causeway");
    if found.is_empty() {
        bail!("nobody is left to measure");
    }
    Ok(found)
}

impl Subject {
    /// As tables say it.
    pub fn label(&self) -> String {
        match (self.name, self.is_example) {
            ("causeway", true) => "causeway (data path)".to_owned(),
            (name, _) => name.to_owned(),
        }
    }

    /// Why this subject cannot take part, if it cannot.
    pub fn cannot(&self, protocol: Protocol) -> Option<&'static str> {
        (self.name == "nginx" && protocol == Protocol::H2)
            .then_some("nginx cannot speak HTTP/2 to an upstream")
    }

    /// Starts it in front of `upstream` and waits until it serves.
    pub fn start(&self, dir: &Path, protocol: Protocol, upstream: &Upstream) -> Result<Running> {
        let port = tools::free_port()?;
        let (kind, port_text) = (protocol.word(), port.to_string());
        let admin = tools::free_port()?.to_string();
        let words = [
            ("PORT", port_text.as_str()),
            ("ADMIN_PORT", &admin),
            ("UPSTREAM_PORT", &upstream.port.to_string()),
            ("UPSTREAM_H2_PORT", &upstream.port_h2.to_string()),
            ("DIR", &dir.to_string_lossy()),
        ];
        let config = |name: &str| {
            Ok::<_, anyhow::Error>(tools::render(dir, name, &words)?.to_string_lossy().into_owned())
        };
        let name = format!("{}-{kind}", self.name);
        let run = |args: &[&str]| Child::start(dir, &name, &self.program, args);
        let child = match self.name {
            "haproxy" => run(&["-f", &config(&format!("haproxy-{kind}.cfg"))?])?,
            "nginx" => run(&["-c", &config("nginx-h1.conf")?])?,
            "envoy" => {
                let config = config(&format!("envoy-{kind}.yaml"))?;
                let base = "--use-dynamic-base-id";
                run(&["-c", &config, "--concurrency", "1", "--log-level", "warning", base])?
            }
            _ if self.is_example => {
                let (listen, to) = (format!("127.0.0.1:{port}"), upstream.address(protocol));
                let speaks = if protocol == Protocol::H2 { "h2c" } else { "http" };
                let args = ["--listen", &listen, "--upstream", &to, "--workers", "1", "--protocol", speaks];
                run(&args)?
            }
            _ => {
                let config = config(&format!("causeway-{kind}.yaml"))?;
                let node = Node::new(dir, &name)?;
                run(&node.args(&config, "registry,gateway"))?
            }
        };
        let mut running = Running { child, port };
        running.child.wait_for_port(port)?;
        if protocol == Protocol::H1 {
            running.child.wait_until("an answer", || answers(port))?;
        }
        Ok(running)
    }
}

/// The upstream of every measurement.
pub struct Upstream {
    _child: Child,
    /// Where it speaks HTTP/1.1.
    pub port: u16,
    /// Where it speaks HTTP/2.
    pub port_h2: u16,
}

impl Upstream {
    /// Starts nginx with bodies of 100 B (`/100`) and 10 kB (`/10k`).
    pub fn start(dir: &Path) -> Result<Upstream> {
        std::fs::create_dir_all(dir.join("www"))?;
        std::fs::write(dir.join("www/100"), [b'x'; 100])?;
        std::fs::write(dir.join("www/10k"), [b'x'; 10_000])?;
        let (port, port_h2) = (tools::free_port()?, tools::free_port()?);
        let words = [
            ("UPSTREAM_PORT", port.to_string()),
            ("UPSTREAM_H2_PORT", port_h2.to_string()),
            ("DIR", dir.to_string_lossy().into_owned()),
        ];
        let words: Vec<(&str, &str)> = words.iter().map(|(word, value)| (*word, value.as_str())).collect();
        let config = tools::render(dir, "upstream.nginx.conf", &words)?;
        let nginx = tools::find("nginx")?;
        let mut child = Child::start(dir, "upstream", &nginx, &["-c", &config.to_string_lossy()])?;
        child.wait_until("an answer", || answers(port))?;
        Ok(Upstream { _child: child, port, port_h2 })
    }

    fn address(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::H1 => format!("127.0.0.1:{}", self.port),
            Protocol::H2 => format!("127.0.0.1:{}", self.port_h2),
        }
    }
}

/// Whether a GET is answered with 200 there.
pub fn answers(port: u16) -> bool {
    let answer = Connection::open(port).and_then(|mut connection| connection.request("GET", "/100", ""));
    answer.is_ok_and(|answer| answer.status == 200)
}
