//! `demo`: the whole thing as real processes on this machine: a node, a gateway, four services behind sidecars, a little load.
//!
//! In:    nothing but this executable and the shop's programs beside it.     Out: a running shop, and what to try.
//! Owner: `main`.
//! Invariant: every process is one that a user could start by hand with the command that `--help` shows; nothing is faked in between.
//! Not here: the shop (`examples/shop`), what each process does (`node`, `sidecar`).

mod load;
mod process;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_base::net::{BindOptions, Net};
use causeway_base::{OnFailure, Scope};

use crate::cli::Demo;
use crate::client::Client;
use process::{Process, Supervisor};

/// How long the demo may take to come up.
const START_MAX: Duration = Duration::from_secs(60);
/// How often readiness is asked for while the demo starts.
const ASK_AGAIN: Duration = Duration::from_millis(100);

const SHOP: &str = include_str!("../../../../examples/shop/config/shop.yaml");
const ORDERS: &str = include_str!("../../../../examples/shop/config/orders.yaml");

/// Ports of the demo, each shifted by `--port-offset`.
struct Ports {
    api: u16,
    control: u16,
    gateway: u16,
    apps: u16,
}

impl Ports {
    /// Says which port is taken before anything is started: with another node on the API's port, the demo's services would join that one.
    fn are_free(&self) -> Result<()> {
        let apps = SERVICES.into_iter().map(|(name, _, offset)| (name, self.apps.checked_add(offset)));
        let doors = [
            ("the API", Some(self.api)),
            ("the configuration stream", Some(self.control)),
            ("the gateway", Some(self.gateway)),
        ];
        for (what, port) in doors.into_iter().chain(apps) {
            let port = port.context("--port-offset is too large")?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Net::tcp().bind(address, BindOptions::default()).with_context(|| {
                format!("{address} is taken, and {what} of the demo needs it; `--port-offset 100` moves all of the demo's ports [CW-2009]")
            })?;
        }
        Ok(())
    }
}

/// Runs the demo until it is told to stop.
pub(crate) async fn run(demo: Demo) -> Result<()> {
    let shift = |port: u16| port.checked_add(demo.port_offset).context("--port-offset is too large");
    let ports = Ports { api: shift(7070)?, control: shift(7071)?, gateway: shift(8080)?, apps: shift(9000)? };
    let programs = find_programs()?;
    ports.are_free()?;
    let made_anew = demo.data_dir.is_none();
    let home = match demo.data_dir {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("causeway-demo-{}", std::process::id())),
    };
    write_config(&home, ports.gateway)?;

    let scope = Scope::root("demo");
    let mut supervisor = Supervisor::new(&home, scope.child("processes"))?;
    let outcome = tokio::select! {
        outcome = show(&mut supervisor, &home, &ports, &programs, demo.no_load, &scope, demo.stop_after) => outcome,
        () = crate::signals::stop() => Ok(()),
    };
    println!("\nstopping …");
    scope.cancel();
    supervisor.stop().await;
    if made_anew && outcome.is_ok() {
        // What is left in the temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&home);
    }
    outcome
}

async fn show(
    supervisor: &mut Supervisor,
    home: &Path,
    ports: &Ports,
    programs: &Path,
    no_load: bool,
    scope: &Scope,
    stop_after: Option<Duration>,
) -> Result<()> {
    let api = format!("http://127.0.0.1:{}", ports.api);
    println!("starting the node …");
    supervisor.start(node(home, ports))?;
    let client = Client::new(&api)?;
    until("the node is ready", || async { is_ok(&client, "/readyz").await }).await?;

    println!("starting the gateway and six services behind their sidecars …");
    supervisor.start(gateway(home, ports, &api))?;
    for (number, (name, version, offset)) in SERVICES.into_iter().enumerate() {
        supervisor.start(service(home, ports, &api, programs, name, version, number, ports.apps + offset))?;
    }
    let door = Client::new(&format!("http://127.0.0.1:{}", ports.gateway))?;
    until("the shop answers at the gateway", || async { is_ok(&door, "/catalog").await }).await?;
    for (name, _, _) in SERVICES {
        until(&format!("{name} is in the registry"), || async {
            let path = format!("/v1/services/{name}?passing");
            let answer = client.json(http::Method::GET, &path, None).await;
            let wanted = SERVICES.iter().filter(|(other, _, _)| *other == name).count();
            answer.is_ok_and(|a| a["instances"].as_array().is_some_and(|i| i.len() >= wanted))
        })
        .await?;
    }
    if !no_load {
        let stop = scope.cancelled();
        scope.spawn("load", OnFailure::Log, load::run(door, stop));
    }
    say_what_to_try(home, ports, programs, no_load);
    match stop_after {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
    Ok(())
}

/// Name, version, and where its app listens after the first app's port.
const SERVICES: [(&str, &str, u16); 6] = [
    ("inventory", "v1", 11),
    ("inventory", "v1", 12),
    ("payments", "v1", 21),
    ("mail", "v1", 31),
    ("storefront", "v1", 1),
    ("storefront", "v2", 2),
];

fn node(home: &Path, ports: &Ports) -> Process {
    Process::causeway("node")
        .args(["up", "--roles", "registry,control,events,sagas"])
        .args(["--listen-api", &format!("127.0.0.1:{}", ports.api)])
        .args(["--listen-config", &format!("127.0.0.1:{}", ports.control)])
        .path("--data-dir", home.join("node"))
        .path("--config", home.join("config"))
}

fn gateway(home: &Path, ports: &Ports, api: &str) -> Process {
    Process::causeway("gateway")
        .args(["proxy", "--gateway", "public", "--api", api])
        .args(["--control", &format!("127.0.0.1:{}", ports.control)])
        .path("--state-dir", home.join("gateway"))
        .path("--access-log", home.join("logs/gateway-access.log"))
}

#[allow(clippy::too_many_arguments, reason = "one line of a table, spelled out once")]
fn service(
    home: &Path,
    ports: &Ports,
    api: &str,
    programs: &Path,
    name: &str,
    version: &str,
    number: usize,
    port: u16,
) -> Process {
    let instance = format!("{name}-{version}-{number}");
    Process::causeway(&instance)
        .args(["run", "--name", name, "--version", version, "--port", &port.to_string()])
        .args(["--health", "/healthz", "--api", api, "--control", &format!("127.0.0.1:{}", ports.control)])
        .path("--state-dir", home.join(&instance))
        .env("SHOP_VERSION", version)
        .env("SHOP_DATA", &home.join("shop").display().to_string())
        .env("WORKFLOW_URL", &format!("{api}/v1/sagas"))
        .path("--", programs.join(format!("shop-{name}")))
}

/// The shop's programs stand beside this executable, where cargo builds both.
fn find_programs() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot find our own executable")?;
    let dir = here.parent().context("our own executable is in no directory")?;
    for (name, _, _) in SERVICES {
        let program = dir.join(format!("shop-{name}"));
        if !program.is_file() {
            bail!(
                "the sample shop is not built: {} is missing; build both with `cargo build --release` [CW-2002]",
                program.display()
            );
        }
    }
    Ok(dir.to_path_buf())
}

fn write_config(home: &Path, gateway_port: u16) -> Result<()> {
    let config = home.join("config");
    std::fs::create_dir_all(&config).with_context(|| format!("cannot make {}", config.display()))?;
    std::fs::create_dir_all(home.join("logs")).context("cannot make the log directory")?;
    let shop = SHOP.replace("port: 8080", &format!("port: {gateway_port}"));
    for (name, text) in [("shop.yaml", shop.as_str()), ("orders.yaml", ORDERS)] {
        let path = config.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn is_ok(client: &Client, path: &str) -> bool {
    let answer =
        client.send(http::Method::GET, path, Default::default(), Default::default(), Duration::ZERO).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) -> Result<()> {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    if tokio::time::timeout(START_MAX, wait).await.is_err() {
        bail!("waited {START_MAX:?} in vain until {what}; the processes' logs say more [CW-2003]");
    }
    println!("  {what}");
    Ok(())
}

fn say_what_to_try(home: &Path, ports: &Ports, programs: &Path, no_load: bool) {
    let (api, gateway) = (ports.api, ports.gateway);
    let causeway = programs.join("causeway");
    let causeway = causeway.display();
    let cli =
        if api == 7070 { format!("{causeway}") } else { format!("{causeway} --api http://127.0.0.1:{api}") };
    let config = home.join("config/shop.yaml");
    let load = if no_load { "" } else { "  A little load runs; look at it in the console.\n" };
    println!(
        "
The shop is open.
{load}
  Console     http://127.0.0.1:{api}/
  Shop        http://127.0.0.1:{gateway}/
  Logs        {logs}

Try:
  curl -s http://127.0.0.1:{gateway}/catalog
  curl -si http://127.0.0.1:{gateway}/orders -H 'content-type: application/json' -d '{{\"sku\":\"tea\",\"card\":\"4242\"}}'
  curl -si http://127.0.0.1:{gateway}/orders -H 'content-type: application/json' -d '{{\"sku\":\"tea\",\"card\":\"4000\"}}'   # declined: undone
  {cli} get services
  {cli} get instances inventory
  {cli} saga list
  {cli} event tail orders --from 0 --limit 3
  {cli} get httproute shop -o yaml
  $EDITOR {config}     # change the 90/10 split and save: the gateway follows at once
  pkill -9 -f 'shop-inventory' -o     # kill one inventory: calls go to the other, the demo starts it again

Ctrl-C stops everything.",
        logs = home.join("logs").display(),
        config = config.display(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_said_before_anything_is_started() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = Ports { api: port, control: 0, gateway: 0, apps: 40_000 };
        let error = format!("{:#}", ports.are_free().unwrap_err());
        assert!(
            error.contains(&port.to_string()) && error.contains("--port-offset") && error.contains("CW-2009"),
            "{error}"
        );
    }
}
