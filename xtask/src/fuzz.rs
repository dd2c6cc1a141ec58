//! `fuzz`: coverage-guided fuzzing on the pinned toolchain, by libFuzzer. What `cargo fuzz` passes to a nightly compiler, less the
//! address sanitizer (our code has no `unsafe`), the stable one takes too.
//!
//! In:    a target of `fuzz/`, or `all`, and how long.      Out: libFuzzer's account; a crash fails, and its input is kept.
//! Not here: what must hold (`crates/causeway-wire/tests/h1/properties.rs`).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::source;

const TARGETS: [&str; 3] = ["h1_request", "h1_response", "h1_body"];

/// Counters at each edge and the operands of comparisons: what libFuzzer steers by.
const FLAGS: &str = "-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Builds the targets and runs those asked for, one after the other.
pub fn run(args: Vec<String>) -> Result<()> {
    let mut args = args.into_iter();
    let wanted = args.next().unwrap_or_else(|| "all".to_owned());
    let targets: Vec<&str> = TARGETS.into_iter().filter(|name| wanted == "all" || wanted == *name).collect();
    if targets.is_empty() {
        bail!("there is no target {wanted:?}: all, {}", TARGETS.join(", "));
    }
    let minutes: u64 = match (args.next().as_deref(), args.next()) {
        (None, _) => 1,
        (Some("--minutes"), Some(minutes)) => minutes.parse().context("--minutes wants a whole number")?,
        (Some(other), _) => bail!("fuzz knows --minutes N, not {other}"),
    };
    if minutes == 0 {
        bail!("--minutes 0 would go on for ever");
    }
    let work = source::root().join("target/fuzz");
    let triple = triple()?;
    build(&work, &triple)?;
    for target in targets {
        attack(target, minutes, &work, &triple)?;
    }
    Ok(())
}

fn build(work: &Path, triple: &str) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    // With a target named, build scripts and macros are built without the counters.
    command.args(["build", "--release", "--locked", "--target", triple, "--target-dir"]).arg(work);
    command.env("RUSTFLAGS", FLAGS).current_dir(source::root().join("fuzz"));
    finish(command)
}

/// Inputs that reach new places are kept from run to run beside the build, not in the tree; the seeds of the tree are read.
fn attack(target: &str, minutes: u64, work: &Path, triple: &str) -> Result<()> {
    let found = work.join("corpus").join(target);
    let crashes = work.join("crashes").join(target);
    for dir in [&found, &crashes] {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    println!("\n=== fuzz {target}, {minutes} min; what breaks it is kept in {}", crashes.display());
    let here = source::root().join("fuzz");
    let mut command = Command::new(work.join(triple).join("release").join(target));
    command.arg(format!("-max_total_time={}", minutes * 60)).args(["-max_len=4096", "-print_final_stats=1"]);
    command.args(["-verbosity=0", "-timeout=10", "-rss_limit_mb=1024"]);
    command.arg(option("-dict=", &here.join("h1.dict"))).arg(option("-artifact_prefix=", &crashes.join("")));
    command.arg(found).arg(here.join("corpus").join(target));
    finish(command)
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}{}", path.display())
}

fn triple() -> Result<String> {
    let output =
        Command::new("rustc").arg("-vV").current_dir(source::root()).output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host =
        text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(host.to_owned())
}

fn finish(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
