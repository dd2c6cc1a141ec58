//! The project's own commands: `cargo xtask check | tidy | fix | bench | sim | fuzz`.
//!
//! In:    a verb.      Out: what it checks or measures, on standard output; exit code 1 when something is wrong.
//! Owner: developers and CI, by the same names.
//! Not here: what the tests need installed (`./test`).

mod bench;
mod check;
mod floors;
mod fuzz;
mod imports;
mod source;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "cargo xtask VERB
  check        fmt, clippy, tidy and every test, in the order of speed (what ./test runs once its peers are installed)
  tidy         the rules of the house: floors, import circles, error pages, code map
  fix          what can be mended by itself: fmt
  bench NAME   proxy | idle | change | store | saga | registry: figures side by side (see bench/README.md)
  sim [--seed N] [--seeds N]   the simulation; a failing seed is printed and replays
  fuzz [TARGET] [--minutes N]   h1_request | h1_response | h1_body | all: the HTTP/1.1 codec against what coverage finds";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("check") => check::run(),
        Some("tidy") => tidy::run(),
        Some("fix") => check::fix(),
        Some("bench") => bench::run(args.collect()),
        Some("fuzz") => fuzz::run(args.collect()),
        Some("sim") => check::simulate(args.collect()),
        _ => bail!("{USAGE}"),
    }
}
