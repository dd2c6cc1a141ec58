//! `bench`: the harness that measures side by side.

use anyhow::{Result, bail};

/// Runs the bench of that name.
pub fn run(args: Vec<String>) -> Result<()> {
    bail!("no bench named {:?}", args.first().map_or("", String::as_str))
}
