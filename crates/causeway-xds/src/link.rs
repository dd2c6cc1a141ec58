//! The client's connection to the control plane: one HTTP/2 connection for all its streams, made again for ever.
//!
//! In:    addresses and a [`Dial`] that makes a TLS stream to one of them.      Out: a [`Conduit`] while there is one.
//! Owner: the roof starts one [`Link`] for each process; [`Client`](crate::Client) and [`Hold`](crate::Hold) use it.
//! Invariant: there is at most one connection; whoever sees it broken sees the next one when it is there.
//! Not here: TLS and certificates (`causeway-identity`, behind [`Dial`]), what is said over the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway_base::clock::Clock;
use causeway_base::outbound::Pending;
use causeway_base::scope::{OnFailure, Scope};
use causeway_base::seed::Seed;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tonic::body::Body;

use crate::keep_alive::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};

/// Longest wait for a connection with its handshakes.
pub const DIAL_TIME_MAX: Duration = Duration::from_secs(5);
/// Wait before the second attempt; doubles from there.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait between attempts: 10,000 proxies whose control plane is back must be served within ten seconds.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// What lasted this long was fine: the next wait is short again.
const STABLE: Duration = Duration::from_secs(10);
/// Bytes of a stream that the server may send before they are read: a window of full messages.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Makes the encrypted connection to a control address; implemented by the roof (and by tests, in memory).
pub trait Dial: Send + Sync + 'static {
    /// Connects to one of the control addresses and does the TLS handshake (ALPN `h2`). The caller limits the time.
    fn dial(&self, address: &str) -> Pending<io::Result<Box<dyn Io>>>;
}

/// Waits between attempts: doubling, with jitter of a half, so that proxies that lost the same node do not return together.
#[derive(Debug)]
pub(crate) struct Backoff {
    attempts: u32,
    seed: Seed,
}

impl Backoff {
    pub(crate) fn new(seed: Seed) -> Self {
        Backoff { attempts: 0, seed }
    }

    /// How long to wait now, after something that lasted `lived`.
    pub(crate) fn next(&mut self, lived: Duration) -> Duration {
        if lived >= STABLE {
            self.attempts = 0;
        }
        let whole = BACKOFF_MIN.saturating_mul(1 << self.attempts.min(16)).min(BACKOFF_MAX);
        self.attempts = self.attempts.saturating_add(1);
        whole.mul_f64(0.5 + self.seed.unit() / 2.0)
    }
}

/// See the [module](self). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Link {
    conduits: watch::Receiver<Option<Conduit>>,
    redial: Arc<Notify>,
}

/// A connection that is there; carries any number of calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Conduit {
    number: u64,
    sender: http2::SendRequest<Body>,
}

impl Link {
    /// Keeps a connection to one of `control` (`host:port`) for as long as `scope` lives. It begins with a random one, so that
    /// many proxies spread over the nodes, and goes on to the next after each failure.
    pub fn start(
        control: Vec<String>,
        dial: Arc<dyn Dial>,
        clock: &Clock,
        seed: &Seed,
        scope: &Scope,
    ) -> Self {
        let (publish, conduits) = watch::channel(None);
        let redial = Arc::new(Notify::new());
        let keeper = Keeper {
            next: seed.below(control.len()),
            control,
            dial,
            clock: clock.clone(),
            backoff: Backoff::new(seed.fork()),
            redial: redial.clone(),
            publish,
        };
        let cancelled = scope.cancelled();
        scope.spawn("control-link", OnFailure::StopNode, async move {
            tokio::select! {
                biased;
                () = cancelled => {}
                () = keeper.keep() => {}
            }
            Ok(())
        });
        Link { conduits, redial }
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.conduits.borrow().is_some()
    }

    /// Makes the connection anew (the certificate was renewed, say); its streams resume over the next one.
    pub fn redial(&self) {
        self.redial.notify_one();
    }

    /// A connection, as soon as there is one; `None` when the link's scope has ended.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn conduit(&self) -> Option<Conduit> {
        let mut conduits = self.conduits.clone();
        conduits.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Resolves when `conduit` is no longer the link's connection.
    pub(crate) async fn lost(&self, conduit: &Conduit) {
        let number = conduit.number;
        let mut conduits = self.conduits.clone();
        let _ = conduits.wait_for(|now| now.as_ref().is_none_or(|now| now.number != number)).await;
    }
}

struct Keeper {
    control: Vec<String>,
    next: usize,
    dial: Arc<dyn Dial>,
    clock: Clock,
    backoff: Backoff,
    redial: Arc<Notify>,
    publish: watch::Sender<Option<Conduit>>,
}

impl Keeper {
    async fn keep(mut self) {
        if self.control.is_empty() {
            tracing::warn!("no address of a control plane is given, so there will be no connection to one");
            return std::future::pending().await;
        }
        for number in 1.. {
            let address = self.control[self.next % self.control.len()].clone();
            let began = self.clock.instant();
            match connect(&*self.dial, &address).await {
                Ok((sender, connection)) => {
                    tracing::info!(%address, "connected to the control plane");
                    self.publish.send_replace(Some(Conduit { number, sender }));
                    let is_wanted = tokio::select! {
                        biased;
                        ended = connection => {
                            let why = ended.err().map(|error| error.to_string()).unwrap_or_default();
                            tracing::warn!(%address, why, "the connection to the control plane is lost");
                            false
                        }
                        () = self.redial.notified() => true,
                    };
                    self.publish.send_replace(None);
                    if is_wanted {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::warn!(%address, why = %error, "the control plane cannot be reached");
                }
            }
            self.next += 1;
            tokio::time::sleep(self.backoff.next(began.elapsed())).await;
        }
    }
}

type Connection = http2::Connection<TokioIo<Box<dyn Io>>, Body, TokioExecutor>;

/// Makes one connection.
pub(crate) async fn connect(
    dial: &dyn Dial,
    address: &str,
) -> io::Result<(http2::SendRequest<Body>, Connection)> {
    let all = async {
        let io = dial.dial(address).await?;
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)
    };
    match tokio::time::timeout(DIAL_TIME_MAX, all).await {
        Ok(made) => made,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {DIAL_TIME_MAX:?}")))
        }
    }
}

impl Conduit {
    /// A conduit over a connection that is used once.
    pub(crate) fn once(sender: http2::SendRequest<Body>) -> Self {
        Conduit { number: 0, sender }
    }

    /// A gRPC client over it.
    pub(crate) fn grpc(&self) -> tonic::client::Grpc<Conduit> {
        tonic::client::Grpc::with_origin(self.clone(), http::Uri::from_static("https://control.causeway"))
    }
}

impl tower::Service<http::Request<Body>> for Conduit {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_a_bound_and_begin_anew_after_a_good_time() {
        let mut backoff = Backoff::new(Seed::from_number(1));
        let waits: Vec<Duration> = (0..12).map(|_| backoff.next(Duration::ZERO)).collect();
        for (n, wait) in waits.iter().enumerate() {
            let whole = BACKOFF_MIN.saturating_mul(1 << n).min(BACKOFF_MAX);
            assert!(*wait >= whole / 2 && *wait <= whole, "{n}: {wait:?}");
        }
        assert!(backoff.next(STABLE) <= BACKOFF_MIN);
    }
}
