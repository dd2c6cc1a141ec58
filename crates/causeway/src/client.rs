//! The CLI's way to a node's API: plain HTTP, JSON in and out, problems shown as the node said them.
//!
//! In:    method, path, body.      Out: JSON, or an error with the node's code and text.
//! Owner: each verb makes one.
//! Not here: what the verbs print (`commands`).

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Longest answer that a verb reads; lists are paged well below it.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long the node may take to answer; verbs that wait add their own wait.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// A node's API.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    base: String,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

/// An answer: status and body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Client {
    /// A client of the node at `api` (`http://host:port`, or `host:port`).
    pub(crate) fn new(api: &str) -> Result<Self> {
        let base = if api.contains("://") { api.to_owned() } else { format!("http://{api}") };
        let uri: Uri = base.parse().with_context(|| format!("{api:?} is not the address of an API"))?;
        if uri.scheme_str() != Some("http") {
            bail!("{api:?}: the CLI speaks plain http to the API (on loopback) in this version");
        }
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Ok(Client { base: base.trim_end_matches('/').to_owned(), http })
    }

    /// Sends a request and gives the answer whatever its status.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        wait: Duration,
    ) -> Result<Answer> {
        let mut request =
            Request::builder().method(method).uri(format!("{}{path}", self.base)).body(Full::new(body))?;
        request.headers_mut().extend(headers);
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|error| {
                let hint = if error.is_connect() {
                    " (is a node running? start one with `causeway up`)"
                } else {
                    ""
                };
                anyhow!("cannot reach the API at {}: {}{hint}", self.base, chain(&error))
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|e| anyhow!("reading the answer: {e}"))?;
            Ok(Answer { status: head.status, body: body.to_bytes() })
        };
        tokio::time::timeout(wait + ANSWER_WAIT, exchange)
            .await
            .map_err(|_| anyhow!("the API at {} did not answer", self.base))?
    }

    /// Sends JSON and reads JSON; a failing status becomes an error with the node's code and text.
    pub(crate) async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.json_waiting(method, path, body, Duration::ZERO).await
    }

    /// The same for a call that the node may answer as late as `wait`.
    pub(crate) async fn json_waiting(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Value> {
        let mut headers = HeaderMap::new();
        let bytes = match body {
            Some(body) => {
                headers.insert("content-type", "application/json".parse()?);
                Bytes::from(serde_json::to_vec(body)?)
            }
            None => Bytes::new(),
        };
        self.send(method, path, headers, bytes, wait).await?.json()
    }

    /// Opens a stream of server-sent events; gives the body to read from.
    pub(crate) async fn stream(&self, path: &str) -> Result<hyper::body::Incoming> {
        let request = Request::builder()
            .uri(format!("{}{path}", self.base))
            .header("accept", "text/event-stream")
            .body(Full::new(Bytes::new()))?;
        let answer = self
            .http
            .request(request)
            .await
            .map_err(|error| anyhow!("cannot reach the API: {}", chain(&error)))?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| anyhow!("reading the answer: {e}"))?;
        Err(Answer { status: head.status, body: body.to_bytes() }.problem())
    }
}

impl Answer {
    /// The body as JSON, or the problem that the status says there is.
    pub(crate) fn json(self) -> Result<Value> {
        if !self.status.is_success() {
            return Err(self.problem());
        }
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).context("the API's answer is not JSON")
    }

    /// What went wrong, in the node's own words (RFC 9457 problem+json).
    pub(crate) fn problem(&self) -> anyhow::Error {
        let Ok(problem) = serde_json::from_slice::<Value>(&self.body) else {
            return anyhow!(
                "the API answered {}: {}",
                self.status,
                String::from_utf8_lossy(&self.body).trim()
            );
        };
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        let mut lines = match problem["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => text("title"),
        };
        if let Some(code) = problem["code"].as_str().filter(|code| !lines.contains(*code)) {
            lines.push_str(&format!(" [{code}]"));
        }
        for each in problem["problems"].as_array().into_iter().flatten() {
            lines.push_str(&format!("\n  {}", each.as_str().map_or_else(|| each.to_string(), str::to_owned)));
        }
        anyhow!("{lines}")
    }
}

/// An error with its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
