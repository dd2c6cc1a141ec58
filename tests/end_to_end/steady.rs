//! Nothing fails while things change: a rolling restart, the node's death, route flips, certificate rotation, under four kinds of clients at once.
//!
//! `CAUSEWAY_STEADY_REQUESTS` is how many requests each of the four scenarios makes; the default is for CI, 200,000 for the figures.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use causeway_tests::{Mesh, Process, binary, free_port, until};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

const INSTANCES: usize = 3;

fn wanted() -> u64 {
    std::env::var("CAUSEWAY_STEADY_REQUESTS").map_or(4_000, |text| text.parse().unwrap())
}

/// Requests so far, and what failed.
#[derive(Default)]
struct Tally {
    good: [AtomicU64; 4],
    bad: AtomicU64,
    is_over: AtomicBool,
    /// A WebSocket that the service closes properly is opened again; where nothing restarts none may be closed.
    may_close: AtomicBool,
}

const KINDS: [&str; 4] = ["HTTP/1.1", "HTTP/2", "gRPC", "WebSocket"];

impl Tally {
    fn count(&self, kind: usize, end: Result<(), String>) {
        match end {
            Ok(()) => drop(self.good[kind].fetch_add(1, Relaxed)),
            Err(why) => {
                self.bad.fetch_add(1, Relaxed);
                eprintln!("FAILED {}: {why}", KINDS[kind]);
            }
        }
    }

    fn total(&self) -> u64 {
        self.good.iter().map(|count| count.load(Relaxed)).sum::<u64>() + self.bad.load(Relaxed)
    }
}

struct House {
    mesh: Mesh,
    gateway: u16,
    apps: Vec<(&'static str, usize, Process)>,
    _gateway: Process,
}

fn documents(gateway: u16, web: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  gatewayClassName: causeway
  addresses: [{{type: IPAddress, value: 127.0.0.1}}]
  listeners: [{{name: http, port: {gateway}, protocol: HTTP}}]
---
{}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: rpc}}
spec:
  parentRefs: [{{name: public}}]
  rules: [{{matches: [{{method: {{service: echo.Echo}}}}], backendRefs: [{{name: rpc}}]}}]
",
        web_route(web)
    )
}

fn web_route(service: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: public}}]
  rules: [{{backendRefs: [{{name: {service}}}]}}]"
    )
}

impl House {
    async fn start(extra: &[&str]) -> House {
        let gateway = free_port();
        let mesh = Mesh::up(&documents(gateway, "web"), extra).await;
        // One more to flip to.
        let mut apps = vec![("rest", 0, run(&mesh, "rest", "http", 0))];
        mesh.until_registered("rest", 1).await;
        for (service, protocol) in [("web", "http"), ("rpc", "grpc")] {
            for n in 0..INSTANCES {
                apps.push((service, n, run(&mesh, service, protocol, n)));
            }
        }
        mesh.until_registered("web", INSTANCES).await;
        mesh.until_registered("rpc", INSTANCES).await;
        let process = mesh.run_gateway("public");
        mesh.until_ready(gateway, "/").await;
        House { mesh, gateway, apps, _gateway: process }
    }

    async fn settled(&self) {
        let revision = self.mesh.get("/v1/version").await.unwrap()["revision"].as_u64().unwrap();
        let path = format!("/v1/revisions/{revision}/wait?timeout=30s");
        self.mesh.get(&path).await.expect("every proxy acknowledges");
    }

    /// Eight clients of each kind, until `over`.
    fn load(&self, tally: &Arc<Tally>) -> Vec<JoinHandle<()>> {
        let port = self.gateway;
        let mut tasks = Vec::new();
        for _ in 0..8 {
            tasks.push(tokio::spawn(http1(port, tally.clone())));
        }
        for kind in [1, 2] {
            tasks.push(tokio::spawn(http2(port, kind, tally.clone())));
        }
        for _ in 0..4 {
            tasks.push(tokio::spawn(websocket(port, tally.clone())));
        }
        tasks
    }

    /// Runs `change` under load until it has ended and enough requests were made; nothing may fail.
    async fn steady(&mut self, what: &str, may_close: bool, change: impl AsyncFnOnce(&mut House, &Tally)) {
        self.settled().await;
        let tally = Arc::new(Tally::default());
        tally.may_close.store(may_close, Relaxed);
        let (begun, tasks) = (Instant::now(), self.load(&tally));
        change(self, &tally).await;
        until("enough requests were made", || async { (tally.total() >= wanted()).then_some(()) }).await;
        tally.is_over.store(true, Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        let good = tally.good.each_ref().map(|count| count.load(Relaxed));
        let bad = tally.bad.load(Relaxed);
        println!("{what}: {good:?} of {KINDS:?} good, {bad} failed, {:?}", begun.elapsed());
        assert_eq!(bad, 0, "{what}");
        assert!(good.iter().all(|count| *count > 20), "{what}: every kind of client was served: {good:?}");
    }
}

fn run(mesh: &Mesh, service: &str, protocol: &str, n: usize) -> Process {
    let (port, instance) = (free_port(), format!("{service}-{n}"));
    let mut command: Command = mesh.causeway("run", &instance);
    command.args(["--name", service, "--protocol", protocol, "--port", &port.to_string()]);
    command.env("VERSION", service).arg("--").arg(binary("echo-app"));
    Process::start(mesh.dir.path(), &instance, command)
}

// === clients ===

async fn http1(port: u16, tally: Arc<Tally>) {
    // A client keeps its connections, as people's clients do, and never tries again.
    let client = reqwest::Client::builder().no_proxy().retry(reqwest::retry::never()).build().unwrap();
    let mut n = 0_u64;
    while !tally.is_over.load(Relaxed) {
        n += 1;
        let body = format!("{n}");
        let sent = client.post(format!("http://127.0.0.1:{port}/")).body(body.clone()).send().await;
        let end = match sent {
            Ok(answer) if answer.status().is_success() => match answer.text().await {
                Ok(text) if text == body => Ok(()),
                other => Err(format!("{other:?}")),
            },
            Ok(answer) => Err(format!("{} {:?}", answer.status(), answer.headers().get("proxy-status"))),
            Err(error) => Err(format!("{error:?}")),
        };
        tally.count(0, end);
    }
}

/// Eight streams at a time on one connection; a new one when the gateway says goodbye.
async fn http2(port: u16, kind: usize, tally: Arc<Tally>) {
    while !tally.is_over.load(Relaxed) {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driving = tokio::spawn(connection);
        let mut streams = Vec::new();
        for _ in 0..8 {
            let (tally, sender) = (tally.clone(), sender.clone());
            streams.push(tokio::spawn(async move {
                while !tally.is_over.load(Relaxed) {
                    let Ok(sender) = sender.clone().ready().await else { return };
                    tally.count(kind, one_stream(sender, kind == 2).await);
                }
            }));
        }
        for stream in streams {
            stream.await.unwrap();
        }
        drop(sender);
        driving.abort();
    }
}

async fn one_stream(mut sender: h2::client::SendRequest<Bytes>, is_grpc: bool) -> Result<(), String> {
    let text = |error: h2::Error| format!("{error:?}");
    let mut request = Request::post(if is_grpc { "http://h/echo.Echo/Say" } else { "http://h/h2" });
    if is_grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(5);
    message.put_slice(b"hello");
    let message = message.freeze();
    let (answer, mut body) = sender.send_request(request.body(()).unwrap(), false).map_err(text)?;
    body.send_data(message.clone(), true).map_err(text)?;
    let answer = answer.await.map_err(text)?;
    let (parts, mut body) = answer.into_parts();
    if !parts.status.is_success() {
        return Err(format!("{} {:?}", parts.status, parts.headers.get("proxy-status")));
    }
    let mut echoed = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(text)?;
        let _ = body.flow_control().release_capacity(data.len());
        echoed.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.map_err(text)?;
    let status = |fields: &HeaderMap| fields.get("grpc-status").map(|status| status.as_bytes().to_vec());
    let grpc_status = trailers.as_ref().and_then(status).or_else(|| status(&parts.headers));
    match (echoed == message, is_grpc, grpc_status.as_deref()) {
        (true, false, _) | (true, true, Some(b"0")) => Ok(()),
        other => Err(format!("{other:?} {:?}", parts.headers)),
    }
}

async fn websocket(port: u16, tally: Arc<Tally>) {
    let mut n = 0_u64;
    while !tally.is_over.load(Relaxed) {
        let opened = tokio_tungstenite::client_async(
            format!("ws://h:{port}/ws"),
            TcpStream::connect(("127.0.0.1", port)).await.unwrap(),
        );
        let mut socket = match opened.await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tally.count(3, Err(format!("cannot open: {error:?}")));
                continue;
            }
        };
        while !tally.is_over.load(Relaxed) {
            n += 1;
            let sent = socket.send(Message::text(n.to_string())).await;
            let end = match socket.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == n.to_string() => Ok(()),
                Some(Ok(Message::Close(_))) if tally.may_close.load(Relaxed) => {
                    let _ = socket.close(None).await;
                    break;
                }
                other => Err(format!("{sent:?} {other:?}")),
            };
            let is_broken = end.is_err();
            tally.count(3, end);
            if is_broken {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

// === scenarios ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_things_change() {
    let _alone = causeway_tests::alone().await;
    let mut house = House::start(&[]).await;

    house
        .steady("200 route flips", false, async |house, _| {
            let file = house.mesh.dir.path().join("config/test.yaml");
            for n in 0..200 {
                let service = if n % 2 == 0 { "rest" } else { "web" };
                std::fs::write(&file, documents(house.gateway, service)).unwrap();
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        })
        .await;

    house
        .steady("rolling restart", true, async |house, tally| {
            loop {
                for at in 0..house.apps.len() {
                    let (service, n, process) = &mut house.apps[at];
                    let (service, n) = (*service, *n);
                    process.stop();
                    let (protocol, instances) = match service {
                        "web" => ("http", INSTANCES),
                        "rpc" => ("grpc", INSTANCES),
                        _ => ("http", 1),
                    };
                    house.apps[at].2 = run(&house.mesh, service, protocol, n);
                    house.mesh.until_registered(service, instances).await;
                }
                if tally.total() >= wanted() {
                    break;
                }
            }
        })
        .await;

    house
        .steady("node killed", false, async |house, _| {
            house.mesh.kill_node();
            let away = if wanted() >= 100_000 { 60 } else { 5 };
            tokio::time::sleep(Duration::from_secs(away)).await;
            house.mesh.start_node().await;
            house.mesh.until_registered("web", INSTANCES).await;
        })
        .await;
}
