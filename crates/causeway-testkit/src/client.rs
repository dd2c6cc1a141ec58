//! A plain HTTP/1.1 client of a test, on the network in memory.

use std::net::SocketAddr;

use bytes::Bytes;
use causeway_base::net::{Net, Stream};
use causeway_base::{OnFailure, Scope};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body as text.
    pub body: String,
}

impl Answer {
    /// A field's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// `200 cart`: status and body, for comparisons.
    pub fn line(&self) -> String {
        format!("{} {}", self.status.as_u16(), self.body.trim_end())
    }
}

/// A connection to one address.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens there: the test is wrong.
    pub async fn connect(net: &Net, address: SocketAddr) -> Self {
        Client::over(net.connect(address).await.expect("somebody listens")).await
    }

    /// On a connection that is there.
    pub async fn over(stream: Stream) -> Self {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.expect("a handshake without bytes");
        Scope::root("client").spawn("connection", OnFailure::Log, async move {
            // Its errors reach the one who waits for an answer.
            let _ = connection.with_upgrades().await;
            Ok(())
        });
        Client { sender }
    }

    /// Sends a request; an error means that the connection ended without an answer.
    ///
    /// # Errors
    /// The client's.
    pub async fn send(&mut self, request: Request<Bytes>) -> hyper::Result<Answer> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request.map(Full::new)).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// Sends a request and gives back the answer's head with the connection, for a change of protocol.
    ///
    /// # Errors
    /// The client's.
    pub async fn upgrade(
        &mut self,
        request: Request<Bytes>,
    ) -> hyper::Result<(StatusCode, hyper::upgrade::Upgraded)> {
        let response = self.sender.send_request(request.map(Full::new)).await?;
        let status = response.status();
        Ok((status, hyper::upgrade::on(response).await?))
    }
}

/// The request of a line: `GET /path`, `GET host/path` or `GET http://host/path`.
pub(crate) fn request(line: &str) -> Request<Bytes> {
    let (method, url) = line.split_once(' ').expect("METHOD and URL");
    let builder = Request::builder().method(method);
    let request = match url.strip_prefix("http://") {
        Some(rest) => {
            let host = rest.split('/').next().unwrap_or(rest);
            builder.uri(url).header("host", host)
        }
        None => {
            let at = url.find('/').expect("a path");
            builder.uri(&url[at..]).header("host", &url[..at])
        }
    };
    request.body(Bytes::new()).expect("a request of the test")
}
