//! What the end-to-end tests share: the real binaries as child processes, free ports, and waiting for conditions.
//!
//! Every process is started as a user would start it. A test that fails prints the end of each process's log.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take before the test fails. Generous: CI machines are slow, and nothing waits for it when all is well.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// One end-to-end test at a time: each has some ten processes, and two cores are soon full. Hold it to the test's end.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

/// A binary of this workspace, built beside the test.
pub fn binary(name: &str) -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    while !dir.join(name).is_file() {
        assert!(dir.pop(), "{name} is not built: cargo build -p causeway -p causeway-shop");
    }
    dir.join(name)
}

/// A port that nobody uses now and that no other caller in this process was given.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// A child process with a log file; killed when dropped.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; its output goes to `<dir>/<name>.log`.
    pub fn start(dir: &Path, name: &str, mut command: Command) -> Process {
        use std::os::unix::process::CommandExt;
        let log = dir.join(format!("{name}.log"));
        let open = || OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Process { name: name.to_owned(), log, child }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    /// kill -9 of this process alone (not of its children).
    pub fn kill(&mut self) {
        let _ = kill_process(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        let _ = kill_process(self.pid(), Signal::TERM);
        let until = Instant::now() + WAIT_MAX;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "{} does not stop\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- end of {}'s log", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Waits until `holds` gives something; panics with `what` after [`WAIT_MAX`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut holds: impl FnMut() -> F) -> T {
    let end = Instant::now() + WAIT_MAX;
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {WAIT_MAX:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A node with its directories and ports; sidecars and gateways join it.
pub struct Mesh {
    pub dir: TempDir,
    pub api: u16,
    pub control: u16,
    pub http: reqwest::Client,
    pub node: Option<Process>,
    extra: Vec<String>,
}

impl Mesh {
    /// A node with these documents, ready.
    pub async fn up(documents: &str, extra: &[&str]) -> Mesh {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::fs::write(dir.path().join("config/test.yaml"), documents).unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(WAIT_MAX).build().unwrap();
        let extra = extra.iter().map(|s| (*s).to_owned()).collect();
        let mut mesh = Mesh { dir, api: free_port(), control: free_port(), http, node: None, extra };
        mesh.start_node().await;
        mesh
    }

    /// Starts the node (again) on its own ports and data directory.
    pub async fn start_node(&mut self) {
        let mut command = Command::new(binary("causeway"));
        command
            .args(["up", "--roles", "registry,control,events,sagas"])
            .args(["--listen-api", &format!("127.0.0.1:{}", self.api)])
            .args(["--listen-config", &format!("127.0.0.1:{}", self.control)])
            .arg("--data-dir")
            .arg(self.dir.path().join("node"))
            .arg("--config")
            .arg(self.dir.path().join("config"))
            .args(&self.extra);
        self.node = Some(Process::start(self.dir.path(), "node", command));
        self.until_ready(self.api, "/readyz").await;
    }

    /// kill -9.
    pub fn kill_node(&mut self) {
        self.node.take().unwrap().kill();
    }

    pub async fn until_ready(&self, port: u16, path: &str) {
        until(&format!("127.0.0.1:{port}{path} answers 200"), || async {
            let answer = self.http.get(format!("http://127.0.0.1:{port}{path}")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// A command of the CLI that joins this mesh.
    pub fn causeway(&self, verb: &str, name: &str) -> Command {
        let mut command = Command::new(binary("causeway"));
        command
            .arg(verb)
            .args(["--api", &format!("http://127.0.0.1:{}", self.api)])
            .args(["--control", &format!("127.0.0.1:{}", self.control)])
            .arg("--state-dir")
            .arg(self.dir.path().join("state").join(name));
        command
    }

    /// Starts a program of the shop under `causeway run`; gives the process and the port of the app.
    pub fn run_shop(&self, service: &str, version: &str, instance: &str) -> (Process, u16) {
        let port = free_port();
        let mut command = self.causeway("run", instance);
        command
            .args([
                "--name",
                service,
                "--version",
                version,
                "--port",
                &port.to_string(),
                "--health",
                "/healthz",
            ])
            .env("SHOP_VERSION", version)
            .env("SHOP_DATA", self.dir.path().join("shop"))
            .env("WORKFLOW_URL", format!("http://127.0.0.1:{}/v1/sagas", self.api))
            .arg("--")
            .arg(binary(&format!("shop-{service}")));
        (Process::start(self.dir.path(), instance, command), port)
    }

    /// Starts a gateway of this name.
    pub fn run_gateway(&self, name: &str) -> Process {
        let mut command = self.causeway("proxy", name);
        command.args(["--gateway", name]);
        Process::start(self.dir.path(), name, command)
    }

    /// JSON of the node's API.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("http://127.0.0.1:{}{path}", self.api)).send().await.ok()?;
        answer.status().is_success().then_some(())?;
        answer.json().await.ok()
    }

    pub async fn post(&self, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        self.http.post(format!("http://127.0.0.1:{}{path}", self.api)).json(body).send().await
    }

    /// Waits until `count` instances of the service are registered and pass.
    pub async fn until_registered(&self, service: &str, count: usize) -> Vec<Value> {
        until(&format!("{count} instances of {service}"), || async {
            let answer = self.get(&format!("/v1/services/{service}?passing")).await?;
            let instances = answer["instances"].as_array()?.clone();
            (instances.len() == count).then_some(instances)
        })
        .await
    }
}

/// Whether a peer that a test needs is there. In CI a missing one fails the test; elsewhere it says so loudly and the test is skipped.
pub fn has_peer(program: &str, how_to_get_it: &str) -> bool {
    let is_there =
        Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    let is_there = is_there.is_ok_and(|status| status.success());
    assert!(is_there || std::env::var_os("CI").is_none(), "{program} is missing in CI: {how_to_get_it}");
    if !is_there {
        eprintln!("\n*** SKIPPED: this test needs {program}: {how_to_get_it} ***\n");
    }
    is_there
}
