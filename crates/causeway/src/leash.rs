//! Children that end with their parent: the app when its sidecar is killed, the demo's processes when the demo is.
//!
//! In:    a command to start.      Out: the same command behind `causeway leash`, which asks the kernel to end it with its parent and
//!        then becomes it.
//! Owner: `run` and `demo`.
//! Invariant: an app never outlives its sidecar, so that a restarted one finds its port free.
//! Not here: orderly stops (SIGTERM and a wait, by the callers). Other systems than Linux: the child is started as it is.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// The hidden verb that [`command`] starts.
pub(crate) const VERB: &str = "leash";

/// A command that runs `program` and ends with this process.
///
/// The kernel ends the child when the *thread* that started it ends: start it from one that lives as long as the process does.
pub(crate) fn command(program: &OsStr) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find our own executable")?);
    command.arg(VERB).arg(std::process::id().to_string()).arg("--").arg(program);
    Ok(command)
}

/// Becomes the program that `args` (`PARENT -- PROGRAM ARG…`) name; returns only when that fails.
pub(crate) fn become_program(args: &[std::ffi::OsString]) -> anyhow::Error {
    let [parent, _, program, rest @ ..] = args else { return anyhow!("{VERB} is for internal use") };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return anyhow!("cannot tie the program to its parent: {error}");
    }
    // The parent may have ended before the kernel was asked.
    let expected = parent.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    if getppid() != expected {
        return anyhow!("the parent is gone");
    }
    let error = std::process::Command::new(program).args(rest).exec();
    anyhow!("cannot start {}: {error}", program.to_string_lossy())
}
