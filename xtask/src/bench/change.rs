//! `bench change`: how long a change takes until traffic follows it.
//!
//! In:    the release binary, two backends that say their name.      Out: times from the answer to a registration until the first
//!        request that the new instance serves, and the requests that failed meanwhile.
//! Owner: `cargo xtask bench change`.
//! Invariant: while failures are counted at least one registered instance is alive, so a failed request is the gateway's.
//! Not here: throughput (`proxy`).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::child::Child;
use super::flags::Flags;
use super::http::{self, Connection};
use super::node::Node;
use super::stats::{percentile, table};
use super::subject::Causeway;
use super::tools;

/// The bar: half of the changes must reach traffic within it.
const P50_MAX: Duration = Duration::from_millis(20);
/// How long one change may take before the bench gives up.
const FLIP_MAX: Duration = Duration::from_secs(10);
/// After a withdrawal this many answers in a row without the old name count as followed (balancing would show it before that).
const FOLLOWED_AFTER: usize = 20;
/// Changes in which an address returns that was there before: few, because each can take seconds.
const RETURNS: usize = 22;
const NAMES: [&str; 2] = ["red", "blue"];

/// What was seen.
#[derive(Default)]
struct Seen {
    /// A new address as the only instance: the gateway must follow, and has no choice.
    alone: Vec<Duration>,
    /// A new address beside another instance: the balancer must choose it, too.
    beside: Vec<Duration>,
    /// An address that was there a moment ago: what the balancer remembers of it counts.
    returns: Vec<Duration>,
    withdrawals: Vec<Duration>,
    requests: u64,
    failed: u64,
}

/// Runs it.
pub fn run(flags: &mut Flags) -> Result<()> {
    let flips = flags.number("flips", 100usize)?;
    let wanted = flags.among("gateway", &["node", "proxy"])?;
    let Causeway::Binary(program) = Causeway::from_flags(flags)? else {
        bail!("this bench needs the `causeway` binary, not the data path alone")
    };
    flags.finish()?;
    let dir = tools::working_dir("change")?;
    println!("{}; bar: p50 <= {P50_MAX:?}, no failed request", tools::machine());
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for kind in wanted {
        let label = match kind {
            "node" => "gateway in the node",
            _ => "gateway of its own (configuration stream)",
        };
        match measure(&program, &dir, kind, flips) {
            Ok(mut seen) => {
                rows.extend(show(label, &mut seen));
                println!("  {label}: {} requests, {} failed", seen.requests, seen.failed);
                let is_late =
                    [&seen.alone, &seen.beside].iter().any(|times| percentile(times, 0.5) > P50_MAX);
                if is_late || seen.failed > 0 {
                    problems.push(format!("{label} misses the bar"));
                }
            }
            Err(error) => problems.push(format!("{label}: {error:#}")),
        }
    }
    print!("{}", table(&["change to traffic", "what", "p50 ms", "p99 ms", "max ms"], &rows));
    ensure!(problems.is_empty(), "{}; the logs are in {}", problems.join("; "), dir.display());
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

fn measure(program: &Path, dir: &Path, kind: &str, flips: usize) -> Result<Seen> {
    let (node, port) = (Node::new(dir, kind)?, tools::free_port()?);
    let config = tools::render(dir, "causeway-change.yaml", &[("PORT", &port.to_string())])?;
    let roles = if kind == "node" { "registry,control,gateway" } else { "registry,control" };
    let args = node.args(config.to_str().context("the path is not text")?, roles);
    let mut up = Child::start(dir, &format!("node-{kind}"), program, &args)?;
    up.wait_for_port(node.api)?;
    let mut gateway = match kind {
        "node" => None,
        _ => Some(node.gateway(dir, program)?),
    };
    gateway.as_mut().unwrap_or(&mut up).wait_for_port(port)?;

    let mut flipper = Flipper {
        api: Connection::open(node.api)?,
        public: Connection::open(port)?,
        port,
        seen: Seen::default(),
    };
    flipper.arrive(0, http::serve(NAMES[0])?)?;
    // Until here the route had no backend.
    flipper.seen = Seen::default();
    for flip in 0..flips {
        let (old, new) = (flip % 2, (flip + 1) % 2);
        let took = flipper.arrive(new, http::serve(NAMES[new])?)?;
        flipper.seen.beside.push(took);
        flipper.deregister(old)?;
        let took = flipper.until_gone(NAMES[old])?;
        flipper.seen.withdrawals.push(took);
    }
    let ports = [http::serve(NAMES[0])?, http::serve(NAMES[1])?];
    for flip in flips..flips + RETURNS {
        let (old, new) = (flip % 2, (flip + 1) % 2);
        let took = flipper.arrive(new, ports[new])?;
        // The first two were never there before.
        if flip >= flips + 2 {
            flipper.seen.returns.push(took);
        }
        flipper.deregister(old)?;
        flipper.until_gone(NAMES[old])?;
    }
    let (requests, failed) = (flipper.seen.requests, flipper.seen.failed);
    for flip in flips + RETURNS..2 * flips + RETURNS {
        let (old, new) = (flip % 2, (flip + 1) % 2);
        flipper.deregister(old)?;
        flipper.until(|answer| answer.is_none())?;
        let took = flipper.arrive(new, http::serve(NAMES[new])?)?;
        flipper.seen.alone.push(took);
    }
    // That phase fails requests on purpose.
    Ok(Seen { requests, failed, ..flipper.seen })
}

/// One caller of the API and one of the gateway.
struct Flipper {
    api: Connection,
    public: Connection,
    port: u16,
    seen: Seen,
}

impl Flipper {
    /// Registers and waits for the first answer by the new instance.
    fn arrive(&mut self, which: usize, port: u16) -> Result<Duration> {
        self.register(which, port)?;
        self.until(|answer| answer == Some(NAMES[which]))
    }

    fn register(&mut self, which: usize, port: u16) -> Result<()> {
        let body = format!(r#"{{"address":"127.0.0.1","port":{port},"protocol":"http","ttl":"10m"}}"#);
        self.say("PUT", which, &body)
    }

    fn deregister(&mut self, which: usize) -> Result<()> {
        self.say("DELETE", which, "")
    }

    fn say(&mut self, method: &str, which: usize, body: &str) -> Result<()> {
        let path = format!("/v1/services/echo/instances/{}", NAMES[which]);
        let answer = self.api.request(method, &path, body)?;
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// Asks as fast as answers come until one is as wanted; how long that took.
    fn until(&mut self, is_wanted: impl Fn(Option<&str>) -> bool) -> Result<Duration> {
        let began = Instant::now();
        while began.elapsed() < FLIP_MAX {
            if is_wanted(self.ask()?.as_deref()) {
                return Ok(began.elapsed());
            }
        }
        bail!("traffic did not follow within {FLIP_MAX:?}")
    }

    /// The time of the last answer by `old`, once enough others have come.
    fn until_gone(&mut self, old: &str) -> Result<Duration> {
        let (began, mut last, mut others) = (Instant::now(), Duration::ZERO, 0);
        while others < FOLLOWED_AFTER {
            ensure!(began.elapsed() < FLIP_MAX, "{old} is still asked {FLIP_MAX:?} after it was withdrawn");
            match self.ask()? {
                Some(answer) if answer == old => (last, others) = (began.elapsed(), 0),
                _ => others += 1,
            }
        }
        Ok(last)
    }

    /// One request through the gateway; nothing when it failed.
    fn ask(&mut self) -> Result<Option<String>> {
        self.seen.requests += 1;
        match self.public.request("GET", "/", "") {
            Ok(answer) if answer.status == 200 => Ok(Some(answer.body)),
            Ok(_) => {
                self.seen.failed += 1;
                Ok(None)
            }
            Err(_) => {
                self.seen.failed += 1;
                self.public = Connection::open(self.port)?;
                Ok(None)
            }
        }
    }
}

fn show(label: &str, seen: &mut Seen) -> [Vec<String>; 4] {
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    let row = |what: &str, times: &mut Vec<Duration>| {
        times.sort_unstable();
        let shares = [0.5, 0.99, 1.0].map(|share| ms(percentile(times, share)));
        [label, what].into_iter().map(str::to_owned).chain(shares).collect()
    };
    [
        row("new address, alone: registered -> first request", &mut seen.alone),
        row("new address beside another: registered -> first request", &mut seen.beside),
        row("known address returns beside another: the same", &mut seen.returns),
        row("deregistered -> last request", &mut seen.withdrawals),
    ]
}
