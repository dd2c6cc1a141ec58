//! Finds out what a connection speaks that nobody declared, without holding it up for long.
//!
//! In:    a connection on which nothing, or little, was read.      Out: what it speaks, and the bytes that were read for that.
//! Owner: the connection's task.
//! Invariant: a client that waits for its server to speak first waits at most [`PATIENCE`]; no byte is lost.
//! Not here: what bytes mean (`causeway-wire::sniff`), where it then goes (`transparent`).

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use causeway_wire::sniff::{self, Hello, Host, Sniffed};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use crate::limits;

/// How long a client may be silent before its connection is taken for one whose server speaks first (MySQL, SMTP, SSH). The client is
/// the app beside us: what it has to say it says within a millisecond of connecting, so this outlasts a busy machine's pauses, and
/// is less than what setting up such a session takes anyway.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);
/// Read at a time: the first segment of a request or a hello.
const READ_BYTES: usize = 2048;

/// What a connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    /// HTTP/1, and the host that its first request names, as it is written there; empty when it names none.
    Http1(String),
    /// HTTP/2 in plaintext.
    Http2,
    Tls(Hello),
    /// Something else, or nothing yet.
    Bytes,
}

/// Reads until it is clear; `first` was read before.
///
/// # Errors
/// Those of the connection, and [`io::ErrorKind::TimedOut`] when the head of a request has no end.
pub(crate) async fn detect(
    stream: &mut (impl AsyncRead + Unpin),
    first: &[u8],
) -> io::Result<(Detected, Bytes)> {
    let begun = Instant::now();
    let mut seen = BytesMut::from(first);
    loop {
        let (found, patience) = look(&seen);
        if let Some(found) = found {
            return Ok((found, seen.freeze()));
        }
        seen.reserve(READ_BYTES);
        match tokio::time::timeout_at(begun + patience, stream.read_buf(&mut seen)).await {
            Ok(Ok(count)) if count > 0 => {}
            Ok(Err(error)) => return Err(error),
            Err(late) if patience > PATIENCE => return Err(late.into()),
            // The end of what the client says, or nothing more in time.
            Ok(Ok(_)) | Err(_) => return Ok((Detected::Bytes, seen.freeze())),
        }
    }
}

/// What is clear from the bytes so far, or how long more may be waited for.
fn look(seen: &[u8]) -> (Option<Detected>, Duration) {
    let found = match sniff::sniff(seen) {
        Sniffed::NeedMore => return (None, PATIENCE),
        Sniffed::Tls(hello) => Detected::Tls(hello),
        Sniffed::Http2 => Detected::Http2,
        Sniffed::Unknown => Detected::Bytes,
        Sniffed::Http1 => match sniff::host(seen) {
            // It is a request: its head may take as long as any.
            Host::NeedMore => return (None, limits::HEAD),
            Host::Named(host) => Detected::Http1(host.to_owned()),
            Host::None => Detected::Http1(String::new()),
        },
    };
    (Some(found), Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn check(parts: &[&str], expected: Detected, within: Duration) {
        let (mut client, mut server) = tokio::io::duplex(65_536);
        let begun = Instant::now();
        let write = async {
            for part in parts {
                client.write_all(part.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ((), detected) = tokio::join!(write, async {
            let detected = detect(&mut server, b"").await.unwrap();
            (detected, begun.elapsed())
        });
        let ((found, seen), took) = detected;
        assert_eq!(found, expected, "{parts:?}");
        assert!(took <= within, "{parts:?} took {took:?}");
        let mut all = seen.to_vec();
        drop(client);
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(String::from_utf8(all).unwrap(), parts.concat(), "no byte is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_clear_is_not_waited_for_and_silence_not_for_long() {
        let http = |host: &str| Detected::Http1(host.to_owned());
        let now = Duration::ZERO;
        check(&["GET / HTTP/1.1\r\nHost: cart.mesh\r\n\r\n"], http("cart.mesh"), now).await;
        check(&["GET / HTTP/1.1\r\n", "\r\n"], http(""), Duration::from_millis(60)).await;
        check(&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], Detected::Http2, now).await;
        check(&["SSH-2.0-x\r\n"], Detected::Bytes, now).await;
        check(&[], Detected::Bytes, PATIENCE + Duration::from_millis(1)).await;
        check(&["GE"], Detected::Bytes, PATIENCE + Duration::from_millis(1)).await;
        let slow = ["G", "E", "T", " ", "/", "x HTTP/1.1\r\nHost: ab\r\n"];
        check(&slow, Detected::Bytes, PATIENCE + Duration::from_millis(1)).await;
        let slow = ["GET / HTTP/1.1\r\n", "X: y\r\n", "A: b\r\n", "C: d\r\n", "E: f\r\n", "Host: ab\r\n"];
        check(&slow, http("ab"), Duration::from_millis(260)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_real_hello_is_read() {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = "Pay.Mesh".to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let (detected, seen) = detect(&mut &hello[3..], &hello[..3]).await.unwrap();
        let Detected::Tls(found) = detected else { panic!("{detected:?}") };
        assert_eq!(found.server_name.as_deref(), Some("pay.mesh"));
        assert_eq!(found.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(seen, hello);
    }
}
