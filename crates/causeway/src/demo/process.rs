//! The demo's processes: started, started again when they end, stopped in order.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_base::scope::Failure;
use causeway_base::{OnFailure, Scope};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::oneshot;

use crate::leash;

/// How long to wait before a process that ended is started again: long enough not to spin, short enough to watch.
const RESTART_WAIT: Duration = Duration::from_millis(500);
/// How long a process may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(15);

/// A process to run: this executable with arguments.
#[derive(Clone, Debug)]
pub(super) struct Process {
    name: String,
    args: Vec<std::ffi::OsString>,
    env: Vec<(String, String)>,
}

impl Process {
    pub(super) fn causeway(name: &str) -> Self {
        Process { name: name.into(), args: vec![], env: vec![] }
    }

    pub(super) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.args.extend(args.map(Into::into));
        self
    }

    pub(super) fn path(mut self, flag: &str, path: PathBuf) -> Self {
        self.args.extend([flag.into(), path.into()]);
        self
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// Keeps processes running.
pub(super) struct Supervisor {
    logs: PathBuf,
    scope: Scope,
    running: Vec<oneshot::Sender<oneshot::Sender<()>>>,
}

impl Supervisor {
    pub(super) fn new(home: &Path, scope: Scope) -> Result<Self> {
        Ok(Supervisor { logs: home.join("logs"), scope, running: Vec::new() })
    }

    /// Starts a process and keeps it running until [`Supervisor::stop`].
    pub(super) fn start(&mut self, process: Process) -> Result<()> {
        let log = self.logs.join(format!("{}.log", process.name));
        let child = spawn(&process, &log)?;
        let (stop, stopped) = oneshot::channel();
        self.running.push(stop);
        self.scope.spawn(&process.name.clone(), OnFailure::Log, keep(process, log, child, stopped));
        Ok(())
    }

    /// Stops them one after the other, last started first.
    pub(super) async fn stop(&mut self) {
        while let Some(stop) = self.running.pop() {
            let (done, is_done) = oneshot::channel();
            if stop.send(done).is_ok() {
                // An error means that its keeper has ended already.
                let _ = is_done.await;
            }
        }
    }
}

async fn keep(
    process: Process,
    log: PathBuf,
    mut child: Child,
    mut stopped: oneshot::Receiver<oneshot::Sender<()>>,
) -> Result<(), Failure> {
    loop {
        let status = tokio::select! {
            status = child.wait() => status?,
            asked = &mut stopped => {
                end(&mut child).await;
                if let Ok(done) = asked {
                    let _ = done.send(());
                }
                return Ok(());
            }
        };
        println!("  {} ended ({status}); it is started again", process.name);
        tokio::time::sleep(RESTART_WAIT).await;
        child = spawn(&process, &log).map_err(|error| Failure(format!("{error:#}")))?;
    }
}

async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended just now; then there is nothing to signal.
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn spawn(process: &Process, log: &Path) -> Result<Child> {
    let open = || OpenOptions::new().create(true).append(true).open(log);
    let open = || open().with_context(|| format!("cannot write {}", log.display()));
    let program = std::env::current_exe().context("cannot find our own executable")?;
    let mut command = leash::command(program.as_os_str())?;
    command
        .args(&process.args)
        .envs(process.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(open()?)
        .stderr(open()?)
        // Ctrl-C in the terminal is for the demo, which stops its processes in order.
        .process_group(0);
    command.spawn().with_context(|| format!("cannot start {}", process.name))
}
