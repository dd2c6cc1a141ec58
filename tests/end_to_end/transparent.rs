//! Transparent mode in network namespaces of the test's own: apps and clients without any settings call by name and by address, and
//! between the namespaces there is nothing but mutual TLS.
//!
//! The test starts itself again in a network, mount and process namespace of its own (`unshare`), where it is free to lay networks:
//! the kernel takes all of it away with the last process, whatever happens. Inside:
//!
//! ```text
//!   hub (10.77.0.1, fd77::1)                  node, DNS of the outside, a host of the outside
//!    |-- orders   10.77.0.2                   run --transparent: an HTTP server in Python, on loopback only
//!    |-- greeter  10.77.0.3                   run --transparent: a TCP server in Python that speaks first
//!    '-- shop     10.77.0.4, no default route run --transparent: curl and Python as clients
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use causeway_tests::{Mesh, Process, binary, free_port, has_peer, until};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Set for the inner run.
const INSIDE: &str = "CAUSEWAY_TESTS_INSIDE";
/// In every answer: it must not be seen on the wire.
const SECRET: &str = "unobtainium-4711";

const ORDERS: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = ("SECRET caller=" + self.headers.get("x-causeway-caller", "nobody")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const GREETER: &str = r#"
import os, socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220 SECRET\n")
        while data := self.request.recv(65536):
            self.request.sendall(data.upper())
        self.request.sendall(b"bye")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const CLIENT: &str = r#"
import os, socket, sys, time, urllib.request
assert not [name for name in os.environ if "proxy" in name.lower()], "no settings"
for host in ["orders.mesh", "orders.default.mesh", "orders", "10.77.0.2:9000"]:
    said = urllib.request.urlopen("http://%s/hello" % host, timeout=20).read().decode()
    assert said == "SECRET caller=spiffe://causeway.local/ns/default/svc/shop", (host, said)
for host in ["greeter.mesh", "greeter", "10.77.0.3"]:
    begun = time.monotonic()
    with socket.create_connection((host, 7000), timeout=20) as sock:
        assert sock.recv(100) == b"220 SECRET\n", host
        took = time.monotonic() - begun
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO", host
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"bye" and sock.recv(100) == b"", host
    print("%s spoke first after %.0f ms" % (host, took * 1000))
try:
    socket.getaddrinfo("nobody.mesh", 80)
    sys.exit("nobody.mesh has an address")
except socket.gaierror as error:
    assert error.errno == socket.EAI_NONAME, error
print("all is well")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apps_without_settings_call_through_the_mesh() {
    let _alone = causeway_tests::alone().await;
    let peers = [
        ("unshare", "apt-get install util-linux"),
        ("ip", "apt-get install iproute2"),
        ("nft", "apt-get install nftables"),
        ("curl", "apt-get install curl"),
        ("python3", "apt-get install python3"),
        ("tcpdump", "apt-get install tcpdump"),
    ];
    if !peers.iter().all(|(program, how)| has_peer(program, how)) {
        return;
    }
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "CI must be root to make network namespaces");
    if !is_root {
        eprintln!("\n*** SKIPPED: this test makes network namespaces: run it as root ***\n");
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "transparent::inside", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .env_remove("https_proxy")
        .env_remove("HTTPS_PROXY")
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .env_remove("all_proxy")
        .env_remove("ALL_PROXY")
        .status()
        .unwrap();
    assert!(status.success(), "inside the namespaces: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the test above runs it, in namespaces of its own"]
async fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        eprintln!(
            "not in namespaces of its own: run transparent::apps_without_settings_call_through_the_mesh"
        );
        return;
    }
    let files = tempfile::tempdir().unwrap();
    lay_networks(files.path());
    outside().await;
    let mesh = Mesh::up("", &[]).await;
    let control = relay(mesh.control).await;

    let (orders, _orders) =
        start(&mesh, files.path(), control, &Spec::app("orders", 2, ORDERS, 9000, "http")).await;
    let (greeter, _greeter) =
        start(&mesh, files.path(), control, &Spec::app("greeter", 3, GREETER, 7000, "tcp")).await;
    let (_, mut shop) = start(&mesh, files.path(), control, &Spec::client("shop")).await;
    mesh.until_registered("orders", 1).await;
    mesh.until_registered("greeter", 1).await;
    let capture = files.path().join("hub.pcap");
    let mut tcpdump = Command::new("tcpdump");
    tcpdump
        .args(["-i", "hub", "-U", "-s", "0", "-w"])
        .arg(&capture)
        .args(["tcp and not port", &control.to_string()]);
    let mut tcpdump = Process::start(files.path(), "tcpdump", tcpdump);
    until("tcpdump captures", || async { tcpdump.log().contains("listening on").then_some(()) }).await;

    // By name and by address, with curl and Python.
    for url in ["http://orders.mesh/hello", "http://orders/hello", "http://10.77.0.2:9000/hello"] {
        let said = curl(&[url]);
        assert_eq!(said, format!("{SECRET} caller=spiffe://causeway.local/ns/default/svc/shop"), "{url}");
    }
    let script = files.path().join("client.py");
    std::fs::write(&script, CLIENT.replace("SECRET", SECRET)).unwrap();
    let said = within("shop", &["python3", script.to_str().unwrap()]);
    assert!(said.status.success(), "{}", text(&said));
    assert!(text(&said).contains("all is well"));

    // What is not of the mesh goes where it was going, untouched, on both families of addresses.
    for url in ["http://www.outside.test:8000/", "http://10.77.0.1:8000/", "http://[fd77::1]:8000/"] {
        let said = curl(&[url]);
        assert!(said.starts_with("GET / HTTP/1.1") && !said.to_lowercase().contains("via:"), "{url}: {said}");
    }

    // Between the namespaces nothing of it can be read, and nobody gets in without an identity.
    tcpdump.stop();
    let seen = std::fs::read(&capture).unwrap();
    assert!(seen.len() > 10_000, "the capture holds what went over the hub: {} bytes", seen.len());
    for word in [SECRET, "x-causeway-caller", "HELLO"] {
        let is_seen = seen.windows(word.len()).any(|window| window == word.as_bytes());
        assert!(!is_seen, "{word:?} travels in plaintext");
    }
    for address in [orders, greeter] {
        assert_plaintext_is_refused(address).await;
    }

    // One app a namespace, and it says what is missing.
    let second = within("shop", &causeway_run(&mesh, control, "second", &token(&mesh, "second")));
    assert!(!second.status.success() && text(&second).contains("CW-2014"), "{}", text(&second));
    let run = causeway_run(&mesh, control, "third", &token(&mesh, "third"));
    let mut unable = vec!["setpriv", "--bounding-set", "-net_admin"];
    unable.extend(run.iter().copied());
    let unable = Command::new(unable[0]).args(&unable[1..]).output().unwrap();
    assert!(!unable.status.success() && text(&unable).contains("CW-2013"), "{}", text(&unable));
    assert_eq!(tables("hub").len(), 0, "nothing half-installed");

    // A sidecar that was killed leaves its table, so that nothing leaves past the mesh, and the next one replaces it.
    let before = tables("shop");
    assert_eq!(before.len(), 1);
    shop.kill();
    drop(shop);
    assert_eq!(tables("shop"), before);
    let refused = within("shop", &["curl", "-sS", "-m", "5", "http://10.77.0.1:8000/"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    let (_, mut shop) = start(&mesh, files.path(), control, &Spec::client("shop")).await;
    let after = tables("shop");
    assert!(after.len() == 1 && after != before, "{after:?}");
    assert!(curl(&["http://orders.mesh/hello"]).starts_with(SECRET));

    // An orderly end leaves nothing.
    assert!(shop.stop().success());
    assert_eq!(tables("shop"), [""; 0]);
    let routes = within("shop", &["ip", "-4", "route"]);
    assert!(!text(&routes).contains("240.240"), "{}", text(&routes));
    let gone = within("shop", &["curl", "-sS", "-m", "5", "http://10.77.0.1:8000/"]);
    assert!(text(&gone).starts_with("GET / HTTP/1.1"), "calls go straight again: {}", text(&gone));
}

// === networks ===

fn lay_networks(files: &Path) {
    // What `ip netns` keeps there is ours alone; the machine's resolver is the hub.
    sh("mount -t tmpfs tmpfs /run");
    let resolv = files.join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {HUB}\n")).unwrap();
    let target =
        std::fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| PathBuf::from("/etc/resolv.conf"));
    if !target.exists() {
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(&target, "").unwrap();
    }
    sh(&format!("mount --bind {} {}", resolv.display(), target.display()));
    sh("ip link set lo up && ip link add hub type bridge && ip link set hub up");
    sh(&format!("ip addr add {HUB}/24 dev hub && ip -6 addr add fd77::1/64 dev hub nodad"));
    for (name, host) in [("orders", 2), ("greeter", 3), ("shop", 4)] {
        sh(&format!(
            "ip netns add {name} && ip link add {name} type veth peer name eth0 netns {name} \
             && ip link set {name} master hub && ip link set {name} up \
             && ip -n {name} link set lo up && ip -n {name} link set eth0 up \
             && ip -n {name} addr add 10.77.0.{host}/24 dev eth0 && ip -n {name} -6 addr add fd77::{host}/64 dev eth0 nodad"
        ));
    }
    // The shop has no way anywhere else, as an isolated namespace may.
    sh(&format!("ip -n orders route add default via {HUB} && ip -n greeter route add default via {HUB}"));
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", text(&output));
}

/// A resolver and a web server that are not of the mesh, at the hub.
async fn outside() {
    let dns = UdpSocket::bind((HUB, 53)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, asker)) = dns.recv_from(&mut buffer).await {
            let _ = dns.send_to(&resolve(&buffer[..length]), asker).await;
        }
    });
    for address in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(repeat(stream));
            }
        });
    }
}

/// Answers a request with its own head.
async fn repeat(mut stream: TcpStream) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await? > 0 {}
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", head.len());
    stream.write_all(&[answer.as_bytes(), &head].concat()).await
}

/// `www.outside.test` is the hub; there is no other name.
fn resolve(question: &[u8]) -> Vec<u8> {
    let name = b"\x03www\x07outside\x04test\x00";
    let is_known = question[12..].starts_with(name);
    let is_a = question[12..].get(name.len()..name.len() + 2) == Some(&[0, 1]);
    let mut answer = question[..12].to_vec();
    answer[2..4].copy_from_slice(if is_known { &[0x81, 0x80] } else { &[0x81, 0x83] });
    answer[4..12].copy_from_slice(&[0, 1, 0, u8::from(is_known && is_a), 0, 0, 0, 0]);
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    answer.extend_from_slice(&question[12..end]);
    if is_known && is_a {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&HUB.octets());
    }
    answer
}

/// The node listens on loopback only; this lets other namespaces reach its configuration stream.
async fn relay(port: u16) -> u16 {
    let listener = TcpListener::bind((HUB, 0)).await.unwrap();
    let relay = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    relay
}

// === processes ===

/// A sidecar to start.
struct Spec {
    name: &'static str,
    host: u8,
    /// The app's script, port and protocol; without one it only calls others.
    app: Option<(&'static str, u16, &'static str)>,
}

impl Spec {
    fn app(name: &'static str, host: u8, script: &'static str, port: u16, protocol: &'static str) -> Self {
        Spec { name, host, app: Some((script, port, protocol)) }
    }

    fn client(name: &'static str) -> Self {
        Spec { name, host: 4, app: None }
    }
}

/// Starts a sidecar in the namespace of its name and waits until it redirects; gives the address of its mesh port.
async fn start(mesh: &Mesh, files: &Path, control: u16, spec: &Spec) -> (SocketAddr, Process) {
    let inbound = SocketAddr::from(([10, 77, 0, spec.host], free_port()));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", spec.name]).arg(binary("causeway")).args(["run", "--transparent"]);
    command.args(["--name", spec.name, "--control", &format!("{HUB}:{control}")]);
    command
        .args(["--token", &token(mesh, spec.name), "--state-dir"])
        .arg(mesh.dir.path().join("state").join(spec.name));
    match spec.app {
        Some((script, port, protocol)) => {
            let file = files.join(format!("{}.py", spec.name));
            std::fs::write(&file, script.replace("SECRET", SECRET)).unwrap();
            command.args(["--port", &port.to_string(), "--protocol", protocol]);
            command.args([
                "--advertise",
                &inbound.ip().to_string(),
                "--listen-inbound",
                &inbound.to_string(),
            ]);
            command.args(["--", "python3"]).arg(file);
        }
        None => drop(command.args(["--", "sleep", "100000"])),
    }
    let process = Process::start(files, &format!("{}-{}", spec.name, inbound.port()), command);
    until(&format!("{} redirects", spec.name), || async {
        process.log().contains("is redirected to the sidecar").then_some(())
    })
    .await;
    (inbound, process)
}

/// A sidecar that is not expected to come up.
fn causeway_run(mesh: &Mesh, control: u16, name: &str, token: &str) -> Vec<&'static str> {
    let (program, state) = (binary("causeway"), mesh.dir.path().join("state").join(name));
    let mut words = vec![program.to_str().unwrap().to_owned()];
    words.extend(["run", "--transparent", "--name", name, "--token", token].map(str::to_owned));
    words.extend(["--control".to_owned(), format!("{HUB}:{control}")]);
    words.extend(["--state-dir", state.to_str().unwrap(), "--", "sleep", "100000"].map(str::to_owned));
    // A test's few words may live as long as it.
    words.into_iter().map(|word| &*Box::leak(word.into_boxed_str())).collect()
}

fn token(mesh: &Mesh, name: &str) -> String {
    let api = format!("http://127.0.0.1:{}", mesh.api);
    let output = Command::new(binary("causeway"))
        .args(["--api", &api, "token", "create", "--name", name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs a command in a namespace; `hub` is the outer one.
fn within(namespace: &str, command: &[&str]) -> Output {
    let mut all = Command::new("ip");
    match namespace {
        "hub" => all = Command::new(command[0]),
        namespace => drop(all.args(["netns", "exec", namespace, command[0]])),
    }
    all.args(&command[1..]).output().unwrap()
}

/// What curl gets in the shop's namespace.
fn curl(args: &[&str]) -> String {
    let output = within("shop", &[&["curl", "-sS", "--fail-with-body", "-m", "20"], args].concat());
    assert!(output.status.success(), "curl {args:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn tables(namespace: &str) -> Vec<String> {
    let listed = text(&within(namespace, &["nft", "list", "tables"]));
    listed.lines().filter(|line| line.contains("causeway_")).map(str::to_owned).collect()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// From the hub, which is no part of the mesh.
async fn assert_plaintext_is_refused(address: SocketAddr) {
    use tokio::io::AsyncReadExt;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: orders.mesh\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    // A reset is a refusal as well.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut heard)).await.unwrap();
    let heard = String::from_utf8_lossy(&heard);
    assert!(!heard.contains(SECRET) && !heard.contains("HTTP/1"), "{address} answers plaintext: {heard}");
}
