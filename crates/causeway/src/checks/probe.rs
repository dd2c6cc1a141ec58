//! Asks one app once: an HTTP GET, a TCP connection, or a gRPC health call.
//!
//! In:    what a check asks and how long to wait.      Out: an [`Outcome`], with the reason in words.
//! Owner: a task of the follower in `checks.rs`, one per probe.
//! Invariant: a connection lives no longer than its probe; no redirect is followed, no more than a head and BODY_BYTES_MAX is read.
//! Not here: what gRPC's bytes mean (`grpc.rs`), what follows from an outcome (`schedule.rs`).

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::{Net, Stream};
use causeway_model::CheckKind;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::schedule::Outcome;
use super::{grpc, trust};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a body that are read, so that an app does not log a broken connection for an ordinary status page.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Who asks, for the app's access log.
const USER_AGENT: &str = concat!("causeway-check/", env!("CARGO_PKG_VERSION"));

/// The name of a check's kind in metrics.
pub(super) fn label(kind: &CheckKind) -> &'static str {
    match kind {
        CheckKind::Http(_) => "http",
        CheckKind::Tcp(_) => "tcp",
        CheckKind::Grpc(_) => "grpc",
    }
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(super) struct Prober {
    net: Net,
    tls: Arc<ClientConfig>,
}

impl Prober {
    pub(super) fn new(net: Net) -> Self {
        Prober { net, tls: trust::config() }
    }

    /// Asks, and waits for the whole answer at most `timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(super) async fn ask(&self, kind: &CheckKind, timeout: Duration) -> Outcome {
        let asked = async {
            match kind {
                CheckKind::Http(url) => self.http(url).await,
                CheckKind::Tcp(target) => self.reach(authority(target)).await.map(|_| Outcome::Passed),
                CheckKind::Grpc(target) => self.grpc(target).await,
            }
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => Outcome::Failed(why),
            Err(_) => Outcome::Failed(format!("no answer within {timeout:?}")),
        }
    }

    async fn http(&self, url: &str) -> Result<Outcome, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or_else(|| format!("{url:?} names no host"))?;
        let is_tls = uri.scheme_str() == Some("https");
        let stream = self
            .reach(&format!("{host}:{}", uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 })))
            .await?;
        // The port is said only where it is written, as everybody does; user and password are not passed on.
        let named = uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, named)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| format!("cannot ask for {url:?}: {error}"))?;
        if !is_tls {
            return http_status(stream, request).await;
        }
        let name =
            ServerName::try_from(bare(host).to_owned()).map_err(|error| format!("{host:?}: {error}"))?;
        let secured = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        http_status(secured.map_err(|error| format!("TLS handshake with {host}: {error}"))?, request).await
    }

    async fn grpc(&self, target: &str) -> Result<Outcome, String> {
        let authority = authority(target);
        let service = target[authority.len()..].trim_start_matches('/');
        let stream = self.reach(authority).await?;
        let request = Request::post(format!("http://{authority}{}", grpc::PATH))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, USER_AGENT)
            .body(Full::new(grpc::question(service)))
            .map_err(|error| format!("cannot ask {target:?}: {error}"))?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| in_words(&error))?;
        let exchange = async move {
            let answer = sender.send_request(request).await.map_err(|error| in_words(&error))?;
            let (head, body) = answer.into_parts();
            let body =
                Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| in_words(&*error))?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            Ok(grpc::judge(head.status, &head.headers, &trailers, &body.to_bytes()))
        };
        beside(exchange, connection).await
    }

    /// Connects to the first address of `host:port` that takes it.
    async fn reach(&self, target: &str) -> Result<Stream, String> {
        let connected = |error: io::Error| format!("cannot connect to {target}: {error}");
        if let Ok(address) = target.parse::<SocketAddr>() {
            return self.net.connect(address).await.map_err(connected);
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host(target).await.map_err(connected)? {
            match self.net.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(connected(last))
    }
}

async fn http_status<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Outcome, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| in_words(&error))?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|error| in_words(&error))?;
        let (status, body) = (answer.status(), answer.into_body());
        match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(_) => Ok(judge(status)),
            Err(error) if error.is::<LengthLimitError>() => Ok(judge(status)),
            Err(error) => Err(format!("{status}, and then: {}", in_words(&*error))),
        }
    };
    beside(exchange, connection).await
}

fn judge(status: StatusCode) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Passed,
        StatusCode::TOO_MANY_REQUESTS => Outcome::Warned(format!("answered {status}")),
        status => Outcome::Failed(format!("answered {status}")),
    }
}

/// Runs an exchange and the connection below it in one task; the exchange decides when it is over.
async fn beside<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        over = &mut exchange => over,
        // What it brought is in the exchange's hands; if that is not all, the exchange says what is missing.
        _ = connection => exchange.await,
    }
}

/// `host:port` of `host:port[/service]`.
fn authority(target: &str) -> &str {
    target.split('/').next().unwrap_or_default()
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// An error with its causes.
fn in_words(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
