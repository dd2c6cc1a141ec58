//! `check`: everything that must never break, in the order of speed.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{source, tidy};

/// Runs every check; stops at the first that fails.
pub fn run() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    tidy::run()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    // The end-to-end tests start these binaries.
    cargo(&["build", "--locked", "-p", "causeway", "-p", "causeway-shop"])?;
    cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])
}

/// Mends what can be mended by itself.
pub fn fix() -> Result<()> {
    cargo(&["fmt", "--all"])
}

/// Runs the simulation with the seeds asked for, in a build of its own: only there tokio lets its generator be seeded, which a
/// replay to the microsecond wants.
pub fn simulate(args: Vec<String>) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.env("RUSTFLAGS", "--cfg tokio_unstable");
    command.args(["test", "--target-dir", "target/simulation", "-p", "causeway-testkit"]);
    command.args(["--test", "simulation", "--", "--nocapture"]);
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let Some(value) = args.next() else { bail!("{flag} wants a number") };
        match flag.as_str() {
            "--seed" => command.env("CAUSEWAY_SIM_SEED", value),
            "--seeds" => command.env("CAUSEWAY_SIM_SEEDS", value),
            _ => bail!("sim knows --seed N and --seeds N, not {flag}"),
        };
    }
    finish(command)
}

fn cargo(args: &[&str]) -> Result<()> {
    println!("\n=== cargo {}", args.join(" "));
    let mut command = Command::new(env!("CARGO"));
    command.args(args);
    finish(command)
}

fn finish(mut command: Command) -> Result<()> {
    let status = command.current_dir(source::root()).status()?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
