//! Connections to endpoints that rest between requests.
//!
//! In:    connections whose exchange ended whole.      Out: the youngest that still lives.
//! Owner: a worker's pool; calls hold it to bring their connection back. Its lock is held for a push or a pop.
//! Invariant: a connection that its peer closed, or on which something came that nobody asked for, is never lent.
//! Not here: making connections (`pool`), speaking on them (`call`).

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::endpoint::ById;
use crate::limits;
use crate::socket::Socket;

/// Idle connections by endpoint.
#[derive(Default)]
pub(crate) struct Shelf {
    idle: Mutex<HashMap<u64, Vec<Idle>, ById>>,
}

struct Idle {
    socket: Socket,
    since: Instant,
}

impl Shelf {
    /// The youngest connection: old ones are left to end.
    pub(crate) fn take(&self, endpoint: u64, now: Instant) -> Option<Socket> {
        let mut all = self.idle.lock();
        let idle = all.get_mut(&endpoint)?;
        while let Some(Idle { mut socket, since }) = idle.pop() {
            // Those before it are older still.
            if now.saturating_duration_since(since) >= limits::IDLE {
                idle.clear();
            } else if is_silent(&mut socket) {
                return Some(socket);
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way.
    pub(super) fn put(&self, endpoint: u64, socket: Socket) {
        let since = Instant::now();
        let mut all = self.idle.lock();
        let idle = all.entry(endpoint).or_default();
        if idle.len() < limits::IDLE_PER_ENDPOINT_MAX {
            idle.push(Idle { socket, since });
        }
    }

    /// Closes what was idle too long or has ended, and forgets endpoints without connections.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.idle.lock().retain(|_, idle| {
            idle.retain_mut(|idle| {
                now.saturating_duration_since(idle.since) < limits::IDLE && is_silent(&mut idle.socket)
            });
            !idle.is_empty()
        });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.idle.lock().values().map(Vec::len).sum()
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.idle.lock().clear();
    }
}

/// Whether nothing has come, not even the end. Without news from the runtime's driver this asks the kernel nothing.
fn is_silent(socket: &mut Socket) -> bool {
    let mut bytes = [0; 1];
    let mut buffer = ReadBuf::new(&mut bytes);
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(socket).poll_read(&mut cx, &mut buffer).is_pending()
}

#[cfg(test)]
mod tests {
    use causeway_base::net::Stream;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_that_rests_is_lent_and_the_youngest_first() {
        let shelf = Shelf::default();
        let put = |bytes: usize| {
            let (peer, near) = tokio::io::duplex(bytes);
            shelf.put(1, Socket::Plain(Stream::Memory(near)));
            peer
        };
        let (_old, closed, mut chatty, mut good) = (put(10), put(10), put(10), put(10));
        drop(closed);
        chatty.write_all(b"HTTP/1.1").await.unwrap();
        let mut lent = shelf.take(1, Instant::now()).unwrap();
        lent.write_all(b"hello").await.unwrap();
        let mut seen = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut good, &mut seen).await.unwrap();
        assert_eq!(&seen, b"hello");
        assert!(shelf.take(2, Instant::now()).is_none());
        tokio::time::advance(limits::IDLE).await;
        assert!(shelf.take(1, Instant::now()).is_none(), "the old one was too old, the others had ended");
        shelf.tidy();
        assert!(shelf.idle.lock().is_empty());
    }
}
