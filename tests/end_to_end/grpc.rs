//! gRPC with Google's own library on both ends, through a pair of sidecars with mutual TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_tests::{Mesh, Process, alone, free_port, has_peer, until};

/// The library, as PyPI has it.
const GRPCIO: &str = "grpcio==1.85.1";
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/end_to_end/grpc_peer.py");

const DOCUMENTS: &str = r"
apiVersion: causeway.dev/v1
kind: Service
metadata: {name: peer}
spec:
  ports: [{name: grpc, port: 80, protocol: GRPC}]
---
apiVersion: causeway.dev/v1
kind: Service
metadata: {name: guarded}
spec:
  ports: [{name: grpc, port: 80, protocol: GRPC}]
---
apiVersion: causeway.dev/v1
kind: AccessPolicy
metadata: {name: guarded}
spec:
  targetRefs: [{kind: Service, name: guarded}]
  allow:
  - from: [{namespace: default, service: somebody-else}]
";

/// A Python that has the library; made beside the build when it is not there.
fn python() -> Option<PathBuf> {
    if !has_peer("python3", "install python3 with venv") {
        return None;
    }
    let mut dir = std::env::current_exe().unwrap();
    while dir.file_name().is_some_and(|name| name != "debug" && name != "release") && dir.pop() {}
    let venv = dir.join("venv-grpc");
    let python = venv.join("bin/python");
    let has_it = |python: &Path| {
        let version = GRPCIO.rsplit('=').next().unwrap();
        let code = format!("import grpc; assert grpc.__version__ == '{version}'");
        Command::new(python).args(["-c", &code]).output().is_ok_and(|output| output.status.success())
    };
    if has_it(&python) {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
    let installed = Command::new(&python).args(["-m", "pip", "install", "--quiet", GRPCIO]).status();
    if made.is_ok_and(|made| made.success()) && installed.is_ok_and(|done| done.success()) && has_it(&python)
    {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "{GRPCIO} cannot be installed in CI");
    eprintln!("\n*** SKIPPED: this test needs {GRPCIO} from PyPI ***\n");
    None
}

/// A server of gRPC behind a sidecar.
fn server(mesh: &Mesh, python: &Path, service: &str, instance: &str) -> Process {
    let port = free_port().to_string();
    let mut command = mesh.causeway("run", instance);
    command.args(["--name", service, "--port", &port, "--protocol", "grpc", "--"]);
    command.arg(python).args([PEER, "server", &port]);
    Process::start(mesh.dir.path(), instance, command)
}

/// Runs the peer as a client of `service` behind a sidecar of its own; what it printed.
async fn client(mesh: &Mesh, python: &Path, service: &str, verb: &str, rest: &[&str]) -> String {
    let port = free_port().to_string();
    let name = format!("caller-{verb}-{port}");
    let mut command = mesh.causeway("run", &name);
    command.args(["--name", "caller", "--upstream", &format!("{service}:{port}"), "--"]);
    command.arg(python).args([PEER, verb, &port]).args(rest);
    let mut process = Process::start(mesh.dir.path(), &name, command);
    until(&format!("{verb} ends"), || {
        let is_running = process.is_running();
        async move { (!is_running).then_some(()) }
    })
    .await;
    let status = process.stop();
    assert!(status.success(), "{verb} of {service}: {status}\n{}", process.log());
    process.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_real_client_pass_as_they_are() {
    let _alone = alone().await;
    let Some(python) = python() else { return };
    let mesh = Mesh::up(DOCUMENTS, &[]).await;
    let mut peer = server(&mesh, &python, "peer", "peer-0");
    mesh.until_registered("peer", 1).await;
    let said = client(&mesh, &python, "peer", "client", &[]).await;
    assert!(said.contains("ok check_many_at_once"), "{said}");
    // It dies in the middle of an answer.
    client(&mesh, &python, "peer", "die", &[]).await;
    peer.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mesh_refuses_is_told_in_words_of_grpc() {
    let _alone = alone().await;
    let Some(python) = python() else { return };
    let mesh = Mesh::up(DOCUMENTS, &[]).await;
    let nobody = client(&mesh, &python, "peer", "refused", &["UNAVAILABLE"]).await;
    assert!(nobody.contains("no endpoint"), "{nobody}");
    let _guarded = server(&mesh, &python, "guarded", "guarded-0");
    mesh.until_registered("guarded", 1).await;
    let denied = client(&mesh, &python, "guarded", "refused", &["PERMISSION_DENIED"]).await;
    assert!(denied.contains("ok "), "{denied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_a_server_is_replaced() {
    let _alone = alone().await;
    let Some(python) = python() else { return };
    let mesh = Mesh::up(DOCUMENTS, &[]).await;
    let mut first = server(&mesh, &python, "peer", "peer-0");
    mesh.until_registered("peer", 1).await;
    let loading = client(&mesh, &python, "peer", "load", &["12"]);
    let replacing = async {
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        let second = server(&mesh, &python, "peer", "peer-1");
        mesh.until_registered("peer", 2).await;
        tokio::task::block_in_place(|| first.stop());
        second
    };
    let (said, _second) = tokio::join!(loading, replacing);
    let line = said.lines().find(|line| line.starts_with("calls ")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(" failed 0 servers 2"), "{line}");
    assert!(!line.starts_with("calls 0"), "{line}");
}
