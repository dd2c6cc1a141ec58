//! Causeway's own processes: a node, and a gateway or a sidecar that joins it.
//!
//! In:    the binary, settings.      Out: children on ports of their own.
//! Owner: `subject`, `idle`, `change`.
//! Invariant: one data-path worker and access records on, wherever there is a data path.
//! Not here: the peers (`subject`).

use std::path::Path;

use anyhow::Result;

use super::child::Child;
use super::tools;

/// Data path of every process that has one.
const DATA_PATH: [&str; 6] = ["--workers", "1", "--access-log", "/dev/null", "--log", "warn"];

/// The ports and the state of a Causeway node.
pub struct Node {
    /// Port of the API.
    pub api: u16,
    api_address: String,
    control_address: String,
    data_dir: String,
}

impl Node {
    /// With state in a directory of its own.
    pub fn new(dir: &Path, name: &str) -> Result<Node> {
        let (api, control) = (tools::free_port()?, tools::free_port()?);
        Ok(Node {
            api,
            api_address: format!("127.0.0.1:{api}"),
            control_address: format!("127.0.0.1:{control}"),
            data_dir: dir.join(format!("{name}-data-{api}")).to_string_lossy().into_owned(),
        })
    }

    /// The command line of the node.
    pub fn args<'a>(&'a self, config: &'a str, roles: &'a str) -> Vec<&'a str> {
        let doors = ["--listen-api", &self.api_address, "--listen-config", &self.control_address];
        let node = ["up", "--config", config, "--roles", roles, "--data-dir", &self.data_dir];
        node.into_iter().chain(doors).chain(DATA_PATH).collect()
    }

    /// Starts the gateway `bench` as a process of its own.
    pub fn gateway(&self, dir: &Path, program: &Path) -> Result<Child> {
        self.join(dir, program, "gateway", &["--gateway", "bench"])
    }

    /// Starts a sidecar for an app that is there already; says where its outbound door is.
    pub fn sidecar(&self, dir: &Path, program: &Path, app: u16) -> Result<(Child, u16)> {
        let (app, outbound) = (app.to_string(), tools::free_port()?);
        let door = format!("127.0.0.1:{outbound}");
        let child = self.join(
            dir,
            program,
            "sidecar",
            &["--name", "app", "--port", &app, "--listen-outbound", &door],
        )?;
        Ok((child, outbound))
    }

    /// Starts the sidecar `app` for an app that is there already.
    pub fn server(&self, dir: &Path, program: &Path, app: u16) -> Result<Child> {
        let (app, outbound) = (app.to_string(), format!("127.0.0.1:{}", tools::free_port()?));
        let args = ["--name", "app", "--port", &app, "--listen-outbound", &outbound];
        self.join(dir, program, "pair-back", &args)
    }

    /// Starts the sidecar `client`, at whose `port` the service `app` is.
    pub fn client(&self, dir: &Path, program: &Path, port: u16) -> Result<Child> {
        let (upstream, outbound) = (format!("app:{port}"), format!("127.0.0.1:{}", tools::free_port()?));
        let args = ["--name", "client", "--upstream", &upstream, "--listen-outbound", &outbound];
        self.join(dir, program, "pair-front", &args)
    }

    fn join(&self, dir: &Path, program: &Path, name: &str, what: &[&str]) -> Result<Child> {
        let (api, state) = (format!("http://{}", self.api_address), format!("{}-{name}", self.data_dir));
        let join = ["--api", &api, "proxy", "--control", &self.control_address, "--state-dir", &state];
        let args: Vec<&str> = join.iter().chain(what).chain(&DATA_PATH).copied().collect();
        Child::start(dir, name, program, &args)
    }
}
