//! Where access records go, and how many threads the data path gets: what `up`, `run` and `proxy` share.

use std::io::Write;

use anyhow::{Context, Result};

/// The sink that `--access-log` names: `off`, `stdout`, `stderr` or a file that is appended to.
pub(crate) fn sink(wanted: &str) -> Result<Option<Box<dyn Write + Send>>> {
    Ok(match wanted {
        "off" => None,
        "stdout" | "-" => Some(Box::new(std::io::stdout())),
        "stderr" => Some(Box::new(std::io::stderr())),
        path => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            Some(Box::new(file.with_context(|| format!("cannot write access records to {path} [CW-2006]"))?))
        }
    })
}

/// Data-path threads: as wanted, or one for each core.
pub(crate) fn workers(wanted: Option<usize>) -> usize {
    wanted
        .filter(|wanted| *wanted > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
