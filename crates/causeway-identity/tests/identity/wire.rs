//! What a handshake of the mesh puts on the wire, read byte by byte: TLS 1.3 alone, the hybrid post-quantum group first.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use causeway_identity::{
    Expected, control_server_config, control_service, mesh_client_config, mesh_server_config,
    pinned_client_config, unnamed_server,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::world::{World, service};

/// RFC 9846bis / draft-ietf-tls-ecdhe-mlkem: X25519MLKEM768.
const HYBRID: u16 = 0x11ec;
const TLS13: u16 = 0x0304;
const SUPPORTED_GROUPS: u16 = 10;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

/// A stream that keeps what was written to it.
struct Tapped<S>(S, Arc<Mutex<Vec<u8>>>);

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.0).poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = &polled {
            self.1.lock().unwrap().extend_from_slice(&bytes[..*n]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A hello: its extensions in order.
struct Hello(Vec<(u16, Vec<u8>)>);

impl Hello {
    /// Reads the handshake message of type `kind` at the beginning of a stream (one record each, as rustls writes them).
    fn read(bytes: &[u8], kind: u8) -> Hello {
        assert_eq!(bytes[0], 22, "a record of the handshake");
        let record = &bytes[5..5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))];
        assert_eq!(record[0], kind);
        let mut rest = Bytes(&record[4..]);
        rest.take(2 + 32);
        let session = rest.u8();
        rest.take(session.into());
        match kind {
            1 => {
                let suites = rest.u16();
                rest.take(suites.into());
                let compressions = rest.u8();
                rest.take(compressions.into());
            }
            _ => drop(rest.take(3)),
        }
        let mut extensions = Bytes(rest.vector());
        let mut found = Vec::new();
        while !extensions.0.is_empty() {
            let kind = extensions.u16();
            found.push((kind, extensions.vector().to_vec()));
        }
        Hello(found)
    }

    fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.0.iter().find(|(of, _)| *of == kind).map(|(_, bytes)| bytes.as_slice())
    }

    /// Groups of the client's key shares, in order.
    fn key_shares(&self) -> Vec<u16> {
        let mut shares = Bytes(Bytes(self.extension(KEY_SHARE).unwrap()).vector());
        let mut groups = Vec::new();
        while !shares.0.is_empty() {
            groups.push(shares.u16());
            shares.vector();
        }
        groups
    }

    fn numbers(&self, kind: u16, skip: usize) -> Vec<u16> {
        let bytes = &self.extension(kind).unwrap()[skip..];
        bytes.chunks(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect()
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }
    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }
    fn u16(&mut self) -> u16 {
        let two = self.take(2);
        u16::from_be_bytes([two[0], two[1]])
    }
    fn vector(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.take(length.into())
    }
}

async fn hellos(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Hello, Hello) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (sent, answered) = (Arc::default(), Arc::default());
    let (near, far) = (Tapped(near, Arc::clone(&sent)), Tapped(far, Arc::clone(&answered)));
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await.unwrap();
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
    };
    let call = async {
        let mut stream = TlsConnector::from(client).connect(unnamed_server(), near).await.unwrap();
        stream.read_u8().await.unwrap();
    };
    tokio::join!(serve, call);
    let (sent, answered) = (sent.lock().unwrap().clone(), answered.lock().unwrap().clone());
    (Hello::read(&sent, 1), Hello::read(&answered, 2))
}

#[tokio::test(start_paused = true)]
async fn the_wire_shows_tls_1_3_with_the_hybrid_group_first() {
    let world = World::new();
    let mesh = (
        mesh_server_config(&world.credentials("orders"), &[b"h2"]),
        mesh_client_config(&world.credentials("cart"), Expected::Service(service("orders")), &[b"h2"]),
    );
    let member = (
        control_server_config(&world.control(), &[b"h2"]),
        mesh_client_config(&world.credentials("cart"), Expected::Service(control_service()), &[b"h2"]),
    );
    let newcomer = (
        control_server_config(&world.control(), &[b"h2"]),
        pinned_client_config(world.authority.root_sha256(), &world.clock, &[b"h2"]),
    );
    for (server, client) in [mesh, member, newcomer] {
        let (hello, answer) = hellos(server, client).await;
        assert_eq!(hello.numbers(SUPPORTED_VERSIONS, 1), [TLS13], "nothing older is offered");
        assert_eq!(hello.numbers(SUPPORTED_GROUPS, 2)[0], HYBRID);
        assert_eq!(hello.key_shares()[0], HYBRID, "its key comes with the first message");
        assert_eq!(hello.extension(PRE_SHARED_KEY), None, "no session is resumed");
        assert_eq!(hello.extension(EARLY_DATA), None);
        assert_eq!(answer.numbers(SUPPORTED_VERSIONS, 0), [TLS13]);
        let share = answer.extension(KEY_SHARE).unwrap();
        assert_eq!(u16::from_be_bytes([share[0], share[1]]), HYBRID, "and is taken at once");
        assert!(share.len() > 4 + 1088, "with an ML-KEM ciphertext in it: {} bytes", share.len());
    }
}
