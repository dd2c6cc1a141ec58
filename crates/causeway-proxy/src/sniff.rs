//! Which HTTP a connection speaks, told from its first bytes.
//!
//! In:    a stream on which nothing was read.      Out: whether it is HTTP/2, and the first bytes, which can be put back ([`Rewound`]).
//! Owner: the connection's task.
//! Invariant: no byte is lost, and no buffer is held while nothing comes.
//! Not here: what is then spoken (`listen` hands over).

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::limits;

/// How HTTP/2 with prior knowledge begins (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first byte of TLS (a record with a handshake), which begins no request.
pub(crate) const TLS: u8 = 0x16;

/// A stream with bytes that were read of it put back.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    first: Bytes,
    stream: S,
}

/// Reads until it is clear whether the peer speaks HTTP/2.
///
/// # Errors
/// Those of the stream, its end, and [`io::ErrorKind::TimedOut`] when nothing came in time.
pub(crate) async fn sniff<S>(mut stream: S) -> io::Result<(bool, Bytes, S)>
where
    S: AsyncRead + Unpin,
{
    let read = async {
        let mut seen = [0; PREFACE.len()];
        let mut length = 0;
        while length < seen.len() && PREFACE.starts_with(&seen[..length]) {
            match stream.read(&mut seen[length..]).await? {
                0 => break,
                read => length += read,
            }
        }
        Ok::<_, io::Error>((seen, length))
    };
    let (seen, length) = tokio::time::timeout(limits::HEAD, pin!(read)).await??;
    let first = Bytes::copy_from_slice(&seen[..length]);
    Ok((seen[..length] == PREFACE[..], first, stream))
}

impl<S> Rewound<S> {
    /// A stream of which `first` was read.
    pub(crate) fn new(first: Bytes, stream: S) -> Self {
        Rewound { first, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn check(parts: &[&[u8]], is_http2: bool) {
        let (mut client, server) = tokio::io::duplex(1024);
        let all: Vec<u8> = parts.concat();
        let write = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let read = async {
            let (found, first, stream) = sniff(server).await.unwrap();
            let mut stream = Rewound::new(first, stream);
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).await.unwrap();
            (found, seen)
        };
        let ((), (found, seen)) = tokio::join!(write, read);
        assert_eq!((found, seen), (is_http2, all));
    }

    #[tokio::test]
    async fn only_the_whole_preface_is_http2_and_no_byte_is_lost() {
        check(&[PREFACE, b"frames"], true).await;
        check(&[b"PRI * HTT", b"P/2.0\r\n\r\nSM\r\n\r\nframes"], true).await;
        check(&[b"GET / HTTP/1.1\r\n\r\n"], false).await;
        check(&[b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n"], false).await;
        check(&[b"P", b"UT / HTTP/1.1\r\nHost: a\r\n\r\n"], false).await;
        check(&[b"PRI"], false).await;
        check(&[], false).await;
    }
}
