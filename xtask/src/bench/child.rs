//! Children of a bench: started on a CPU, watched, ended.
//!
//! In:    a program and its arguments.      Out: a running process tree with a log; dropping it ends the tree.
//! Owner: who started it.
//! Invariant: no child outlives the bench: `Drop` ends it, and the kernel sends it SIGTERM when the bench is killed.
//! Not here: what is started (`subject`), load generators (`load`).

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::procfs::{self, Process};

/// CPU of proxies and upstreams: they share one, as a sidecar and its app do.
pub const SERVING_CPU: u32 = 0;
/// CPU of load generators, so that they never take time from what is measured.
pub const LOAD_CPU: u32 = 1;
/// How long a subject may take until it answers: Envoy on a busy machine takes seconds.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long SIGTERM is given before SIGKILL.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Wait between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running process tree.
pub struct Child {
    name: String,
    process: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `program` on [`SERVING_CPU`]; its log is `<dir>/<name>.log`.
    pub fn start(dir: &Path, name: &str, program: &Path, args: &[&str]) -> Result<Child> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        // Both replace themselves by the program, so the child's id is the program's.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", &SERVING_CPU.to_string()])
            .arg(program)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Child { name: name.to_owned(), process, log })
    }

    /// Waits until `is_ready`; fails when the process ends first or never gets there.
    pub fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let until = Instant::now() + READY_MAX;
        while !is_ready() {
            if let Some(status) = self.process.try_wait()? {
                bail!("{} ended with {status} before {what}:\n{}", self.name, self.log_end());
            }
            if Instant::now() > until {
                bail!("{}: no {what} within {READY_MAX:?}:\n{}", self.name, self.log_end());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until somebody accepts on this port.
    pub fn wait_for_port(&mut self, port: u16) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        self.wait_until("an open port", || TcpStream::connect(address).is_ok())
    }

    /// CPU time of the tree so far.
    pub fn cpu(&self) -> Duration {
        procfs::cpu(self.process.id())
    }

    /// Resident memory of the tree.
    pub fn resident(&self) -> u64 {
        procfs::resident(self.process.id())
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn stop(&mut self) {
        let tree = procfs::tree(self.process.id());
        if matches!(self.process.try_wait(), Ok(None)) {
            signal(self.process.id(), Signal::TERM);
        }
        let until = Instant::now() + STOP_MAX;
        while Instant::now() < until && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK_EVERY);
        }
        for process in tree.into_iter().filter(|process: &Process| process.exists()) {
            signal(process.pid, Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself: that is what was wanted.
        let _ = kill_process(pid, signal);
    }
}
