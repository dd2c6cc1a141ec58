//! The node asks an app how it fares and takes it out of service and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use causeway_tests::{Mesh, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An app with a health page that can be switched.
struct App {
    address: SocketAddr,
    is_well: Arc<AtomicBool>,
}

impl App {
    async fn start() -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, is_well) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let says = is_well.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let status =
                    match (head.starts_with(b"GET /healthz HTTP/1.1\r\n"), says.load(Ordering::Relaxed)) {
                        (true, true) => "200 OK",
                        (true, false) => "503 Service Unavailable",
                        (false, _) => "404 Not Found",
                    };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        App { address, is_well }
    }
}

async fn put_instance(mesh: &Mesh, id: &str, app: &App, checks: serde_json::Value) {
    let body = json!({ "address": "127.0.0.1", "port": app.address.port(), "checks": checks });
    let url = format!("http://127.0.0.1:{}/v1/services/x/instances/{id}", mesh.api);
    let answer = mesh.http.put(url).json(&body).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{status}: {text}");
}

/// Ids of the service's instances that pass.
async fn passing(mesh: &Mesh) -> Option<Vec<String>> {
    let answer = mesh.get("/v1/services/x?passing").await?;
    let instances = answer["instances"].as_array()?;
    Some(instances.iter().map(|instance| instance["id"].as_str().unwrap().to_owned()).collect())
}

async fn until_health(mesh: &Mesh, id: &str, health: &str) {
    until(&format!("{id} is {health}"), || async {
        let answer = mesh.get("/v1/services/x").await?;
        let instance = answer["instances"].as_array()?.iter().find(|instance| instance["id"] == id)?.clone();
        (instance["health"] == health).then_some(())
    })
    .await;
}

/// Waits until the node has asked so often with this outcome since the start.
async fn until_probed(mesh: &Mesh, kind: &str, outcome: &str, least: u64) {
    let line = format!("causeway_checks_probes_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} ");
    until(&format!("{least} times {line}"), || async {
        let answer = mesh.http.get(format!("http://127.0.0.1:{}/metrics", mesh.api)).send().await.ok()?;
        let text = answer.text().await.ok()?;
        let count: u64 = text.lines().find_map(|l| l.strip_prefix(line.as_str())?.parse().ok())?;
        (count >= least).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_asks_an_app_how_it_fares() {
    let mut mesh = Mesh::up("", &[]).await;
    let app = App::start().await;
    let http = json!([{ "http": format!("http://{}/healthz", app.address), "interval": "200ms" }]);
    put_instance(&mesh, "a", &app, http).await;
    put_instance(&mesh, "b", &app, json!([{ "tcp": app.address.to_string(), "interval": "200ms" }])).await;
    until_probed(&mesh, "http", "passed", 3).await;
    until_probed(&mesh, "tcp", "passed", 3).await;
    assert_eq!(passing(&mesh).await.unwrap(), ["a", "b"]);

    app.is_well.store(false, Ordering::Relaxed);
    until_health(&mesh, "a", "critical").await;
    assert_eq!(
        passing(&mesh).await.unwrap(),
        ["b"],
        "it takes connections, which is all that the other check asks"
    );
    app.is_well.store(true, Ordering::Relaxed);
    until_health(&mesh, "a", "passing").await;

    // What was found is kept by a node that is killed, and found to be otherwise by the next one.
    app.is_well.store(false, Ordering::Relaxed);
    until_health(&mesh, "a", "critical").await;
    mesh.kill_node();
    mesh.start_node().await;
    assert_eq!(passing(&mesh).await.unwrap(), ["b"]);
    app.is_well.store(true, Ordering::Relaxed);
    until_health(&mesh, "a", "passing").await;
}
