//! `bench`: measures Causeway beside its peers on this machine, and each room beside the disk under it.
//!
//! In:    a name and its flags.      Out: tables on standard output; exit code 1 when something could not be measured.
//! Owner: `cargo xtask bench`.
//! Invariant: subjects are measured in turn within one round (A B C D A B C D), so that drift of the machine hits all of them;
//!        a subject that is missing or that failed requests is said loudly; every child is ended, whatever happens.
//! Not here: what the figures ought to be and what they were (`bench/README.md`), the peers' settings (`bench/config`).
// A bench reads the machine's own clock: there is no other one to pass in.
#![allow(clippy::disallowed_methods)]

mod certificates;
mod change;
mod child;
mod flags;
mod handshake;
mod http;
mod idle;
mod load;
mod node;
mod pair;
mod procfs;
mod proxy;
mod room;
mod stats;
mod subject;
mod tools;

use anyhow::{Result, bail};

use flags::Flags;

const USAGE: &str = "cargo xtask bench NAME [FLAG VALUE]...
  proxy      CPU per request beside HAProxy, nginx and Envoy
             --rounds 5  --seconds 5  --only h1,h1-10k,h2  --subjects causeway,haproxy,nginx,envoy
  pair       two proxies with mutual TLS between, beside pairs of HAProxy and Envoy: CPU and added latency
             --rounds 5  --seconds 5  --subjects …
  handshake  CPU of a full TLS 1.3 handshake
             --rounds 5  --seconds 4  --subjects …
  idle       memory when idle, and of each idle connection
             --connections 2000  --subjects …
  change     from a registration's answer to the first request that the new instance serves
             --flips 100  --gateway node|proxy (both when not given)
  store, saga, registry     the rooms' own measurements, beside the disk's fdatasync
             --dir DIR (a directory on the disk that is meant; target/bench when not given)
  proxy, idle and change take --causeway: a built `causeway` (or `bench_proxy`) by path; `example` for the data
             path alone (proxy, idle);
             when not given the release binary is built, and if it does not build, the example";

/// Runs the bench of that name.
pub fn run(args: Vec<String>) -> Result<()> {
    let Some((name, rest)) = args.split_first() else { bail!("{USAGE}") };
    tools::raise_file_limit();
    let mut flags = Flags::parse(rest)?;
    match name.as_str() {
        "proxy" => proxy::run(&mut flags),
        "idle" => idle::run(&mut flags),
        "pair" => pair::run(&mut flags),
        "handshake" => handshake::run(&mut flags),
        "change" => change::run(&mut flags),
        "store" => room::store(&mut flags),
        "saga" => room::saga(&mut flags),
        "registry" => room::registry(&mut flags),
        _ => bail!("no bench is named {name:?}\n{USAGE}"),
    }
}
