//! One connection to the collector, made again when it breaks: a request at a time.
//!
//! In:    an encoded message.      Out: how many spans the collector did not take, or why it has none of them.
//! Owner: the exporter's task.
//! Not here: what is done about a failure (`otlp`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use causeway_base::net::Net;
use causeway_base::{OnFailure, Scope};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::address::Otlp;
use super::message;

/// Connecting and being answered; OpenTelemetry's own default.
const ANSWER: Duration = Duration::from_secs(10);
/// An answer is some words.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A connection to the collector.
pub(super) struct Sender {
    otlp: Otlp,
    place: String,
    net: Net,
    scope: Scope,
    connection: Option<Connection>,
}

enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Why spans did not arrive.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Whether the same may succeed later.
    pub(super) is_temporary: bool,
}

fn later(why: impl ToString) -> Failure {
    Failure { why: why.to_string(), is_temporary: true }
}

impl Sender {
    pub(super) fn new(otlp: Otlp, net: Net, scope: Scope) -> Self {
        Sender { place: otlp.to_string(), otlp, net, scope, connection: None }
    }

    /// For people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Sends one message; gives how many of its spans the collector rejected.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; the collector may have the message.
    pub(super) async fn send(&mut self, body: Bytes) -> Result<u64, Failure> {
        // Taken out, so that a connection on which anything went wrong is not used again.
        let last = self.connection.take();
        let exchange = async {
            let mut connection = match last.filter(Connection::is_open) {
                Some(connection) => connection,
                None => self.connect().await.map_err(later)?,
            };
            let response = connection.send(self.request(body)).await.map_err(later)?;
            let rejected =
                if self.otlp.is_grpc { of_grpc(response).await? } else { of_http(response).await? };
            Ok((connection, rejected))
        };
        let answered = tokio::time::timeout(ANSWER, exchange).await;
        let (connection, rejected) =
            answered.map_err(|_| later(format!("no answer within {ANSWER:?}")))??;
        self.connection = Some(connection);
        Ok(rejected)
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let Otlp { host, port, path, is_grpc, .. } = &self.otlp;
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let body = if *is_grpc { framed(&body) } else { body };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("causeway/", env!("CARGO_PKG_VERSION"))));
        headers.extend(self.otlp.headers.iter().cloned());
        match is_grpc {
            true => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(TE, HeaderValue::from_static("trailers"));
                let scheme = if self.otlp.is_tls() { "https" } else { "http" };
                *request.uri_mut() = format!("{scheme}://{authority}{path}").parse().unwrap_or_default();
                *request.version_mut() = Version::HTTP_2;
            }
            false => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                if let Ok(host) = HeaderValue::try_from(authority) {
                    headers.insert(HOST, host);
                }
                *request.uri_mut() = path.parse::<Uri>().unwrap_or_default();
            }
        }
        request
    }

    async fn connect(&self) -> io::Result<Connection> {
        let Otlp { host, port, roots, is_grpc, .. } = &self.otlp;
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
            match self.net.connect(address).await {
                Ok(stream) => {
                    return match roots {
                        None => self.shake_hands(stream).await,
                        Some(roots) => {
                            let config = tls(roots, *is_grpc)?;
                            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                            self.shake_hands(TlsConnector::from(config).connect(name, stream).await?).await
                        }
                    };
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn shake_hands(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> io::Result<Connection> {
        let io = TokioIo::new(stream);
        if !self.otlp.is_grpc {
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            self.drive(connection);
            return Ok(Connection::Http1(sender));
        }
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
        self.drive(connection);
        Ok(Connection::Http2(sender))
    }

    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let cancelled = self.scope.cancelled();
        self.scope.spawn("otlp-connection", OnFailure::Log, async move {
            // Its errors reach whoever waits for an answer.
            tokio::select! { biased; () = cancelled => {}, _ = connection => {} }
            Ok(())
        });
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Connection::Http1(sender) => !sender.is_closed(),
            Connection::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Connection::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Connection::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// A message of gRPC: not compressed, its length, itself.
fn framed(message: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.extend_from_slice(message);
    bytes.freeze()
}

async fn of_http(response: Response<Incoming>) -> Result<u64, Failure> {
    let status = response.status();
    let (body, _) = whole(response).await?;
    if !status.is_success() {
        let is_temporary = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let words =
            String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(200).collect::<String>();
        return Err(Failure { why: format!("the collector answers {status}: {words}"), is_temporary });
    }
    Ok(rejected(&body))
}

async fn of_grpc(response: Response<Incoming>) -> Result<u64, Failure> {
    if response.status() != StatusCode::OK {
        let is_temporary = matches!(response.status().as_u16(), 429 | 502 | 503 | 504);
        return Err(Failure {
            why: format!("the collector answers HTTP {}", response.status()),
            is_temporary,
        });
    }
    let early = response.headers().get("grpc-status").cloned();
    let early_message = response.headers().get("grpc-message").cloned();
    let (body, trailers) = whole(response).await?;
    let trailers = trailers.unwrap_or_default();
    let status = trailers.get("grpc-status").cloned().or(early);
    let words = trailers.get("grpc-message").cloned().or(early_message);
    let code = status.as_ref().and_then(|status| status.to_str().ok()?.parse::<u8>().ok());
    match code {
        Some(0) => Ok(rejected(body.get(5..).unwrap_or_default())),
        code => {
            // What the protocol calls retryable; 8 (resource exhausted) is a collector that is behind.
            let is_temporary = matches!(code, None | Some(1 | 4 | 8 | 10 | 11 | 14 | 15));
            let words = words.as_ref().and_then(|words| words.to_str().ok()).unwrap_or("");
            let code = code.map_or_else(|| "no status".to_owned(), |code| format!("status {code}"));
            Err(Failure { why: format!("the collector answers gRPC {code} {words}"), is_temporary })
        }
    }
}

async fn whole(response: Response<Incoming>) -> Result<(Bytes, Option<HeaderMap>), Failure> {
    let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(later)?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}

/// How many spans the answer says were not taken.
fn rejected(body: &[u8]) -> u64 {
    let answer = message::Response::decode(body).unwrap_or_default();
    let Some(partial) = answer.partial_success else { return 0 };
    let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
    if rejected > 0 {
        tracing::warn!(rejected, why = partial.error_message, "the collector did not take all spans");
    }
    rejected
}

fn tls(roots: &str, is_grpc: bool) -> io::Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(roots.as_bytes()).filter_map(Result::ok);
    store.add_parsable_certificates(certificates);
    if store.is_empty() {
        return Err(io::Error::other("there are no roots to trust the collector's certificate by"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(store)
        .with_no_client_auth();
    let protocol: &[u8] = if is_grpc { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}
