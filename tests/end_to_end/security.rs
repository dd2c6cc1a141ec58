//! Between sidecars there is TLS 1.3 and nothing else: plaintext is refused, other trust domains are refused, captures show it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use causeway_tests::{Mesh, Process, free_port, has_peer, until};

use crate::shop::{Back, documents};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_the_wire_shows_tls_1_3_only() {
    let _alone = causeway_tests::alone().await;
    let gateway_port = free_port();
    let mesh = Mesh::up(&documents(gateway_port), &[]).await;
    let _back = Back::start(&mesh).await;
    let instances = mesh.until_registered("inventory", 2).await;
    let ports: Vec<u64> = instances.iter().map(|i| i["mesh"]["port"].as_u64().unwrap()).collect();

    let capture = capture(&mesh, &ports).await;
    let _front = mesh.run_shop("storefront", "v1", "storefront-1");
    let _other = mesh.run_shop("storefront", "v2", "storefront-2");
    let _gateway = mesh.run_gateway("public");
    mesh.until_registered("storefront", 2).await;
    mesh.until_ready(gateway_port, "/catalog").await;
    if let Some((mut tcpdump, file)) = capture {
        for _ in 0..20 {
            mesh.http.get(format!("http://127.0.0.1:{gateway_port}/catalog")).send().await.unwrap();
        }
        until("the capture holds a handshake", || async {
            (!server_hellos(&std::fs::read(&file).ok()?).is_empty()).then_some(())
        })
        .await;
        tcpdump.stop();
        let bytes = std::fs::read(&file).unwrap();
        let versions = server_hellos(&bytes);
        assert!(versions.iter().all(|version| *version == 0x0304), "{versions:x?}");
        for secret in ["/stock", "unobtainium", "HTTP/1.1"] {
            let is_seen = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_seen, "{secret:?} travels in plaintext");
        }
    }

    let port = u16::try_from(ports[0]).unwrap();
    plaintext_is_refused(port);
    if has_peer("openssl", "apt-get install openssl") {
        another_trust_domain_is_refused(&mesh, port);
        old_tls_is_refused(port);
    }
}

fn plaintext_is_refused(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /stock HTTP/1.1\r\nHost: inventory.mesh\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A reset is a refusal as well.
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    assert!(!text.contains("HTTP/1"), "plaintext was answered: {text}");
}

fn another_trust_domain_is_refused(mesh: &Mesh, port: u16) {
    let (key, cert) = (mesh.dir.path().join("evil.key"), mesh.dir.path().join("evil.crt"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=evil",
        ])
        .args(["-addext", "subjectAltName=URI:spiffe://evil.example/ns/default/svc/storefront"])
        .args(["-addext", "extendedKeyUsage=clientAuth,serverAuth", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let mut with_certificate = s_client(port, &["-tls1_3", "-alpn", "http/1.1"]);
    with_certificate.arg("-cert").arg(&cert).arg("-key").arg(&key);
    for mut command in [with_certificate, s_client(port, &["-tls1_3", "-alpn", "http/1.1"])] {
        let output = talk(&mut command);
        assert!(!output.contains("HTTP/1.1 2"), "a stranger was served: {output}");
        assert!(output.contains("alert"), "a stranger gets an alert: {output}");
    }
}

fn old_tls_is_refused(port: u16) {
    let output = talk(&mut s_client(port, &["-tls1_2"]));
    assert!(output.contains("alert protocol version") || output.contains("alert"), "{output}");
}

fn s_client(port: u16, args: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-ign_eof"]).args(args);
    command
}

/// Sends a request through the client and gives everything that it said.
fn talk(command: &mut Command) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have ended already: then it was refused early.
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(b"GET /stock HTTP/1.1\r\nHost: inventory.mesh\r\nConnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Starts a capture of the sidecars' inbound ports; `None` where there is no tcpdump.
async fn capture(mesh: &Mesh, ports: &[u64]) -> Option<(Process, std::path::PathBuf)> {
    if !has_peer("tcpdump", "apt-get install tcpdump, and be root") {
        return None;
    }
    let file = mesh.dir.path().join("mesh.pcap");
    let filter = ports.iter().map(|port| format!("tcp port {port}")).collect::<Vec<_>>().join(" or ");
    let mut command = Command::new("tcpdump");
    command.args(["-i", "lo", "-U", "-Z", "root", "-w"]).arg(&file).arg(filter);
    let tcpdump = Process::start(mesh.dir.path(), "tcpdump", command);
    until("tcpdump listens", || async { tcpdump.log().contains("listening on").then_some(()) }).await;
    Some((tcpdump, file))
}

/// The TLS versions that servers chose, by the `supported_versions` extension (RFC 8446, 4.2.1) of each ServerHello in the capture;
/// 0x0303 where there is none.
fn server_hellos(pcap: &[u8]) -> Vec<u16> {
    let mut versions = Vec::new();
    // A TLS record of type handshake (0x16), whose first message is a ServerHello (0x02) with legacy version 3.3.
    for at in 0..pcap.len().saturating_sub(48) {
        let record = &pcap[at..];
        let is_hello = record[0] == 0x16
            && record[1] == 3
            && record[2] == 3
            && record[5] == 2
            && record[9..11] == [3, 3];
        if !is_hello {
            continue;
        }
        let session = usize::from(record[43]);
        let Some(extensions) = record.get(44 + session + 3..) else { continue };
        let Some(length) = extensions.get(..2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))) else {
            continue;
        };
        let Some(mut rest) = extensions.get(2..2 + length) else { continue };
        let mut version = 0x0303;
        while rest.len() >= 4 {
            let (kind, length) =
                (u16::from_be_bytes([rest[0], rest[1]]), usize::from(u16::from_be_bytes([rest[2], rest[3]])));
            if kind == 0x002b && rest.len() >= 6 {
                version = u16::from_be_bytes([rest[4], rest[5]]);
            }
            rest = rest.get(4 + length..).unwrap_or(&[]);
        }
        versions.push(version);
    }
    versions
}
