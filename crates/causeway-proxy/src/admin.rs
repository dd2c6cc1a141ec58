//! The admin door: is it alive, is it ready, what does it count, what does it run, why did a request fail.
//!
//! In:    GET requests on loopback.      Out: text or JSON.
//! Owner: one task of the proxy; not on the data path's threads.
//! Invariant: reads only; a request whose Host is not this machine is refused (DNS rebinding).
//! Not here: changing anything (the control plane does), the answers (`summary`).

use std::convert::Infallible;

use bytes::Bytes;
use causeway_base::net::Listener;
use causeway_base::{OnFailure, Scope};
use causeway_wire::Authority;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;

/// What the door is asked, of whoever knows.
pub(crate) trait Questions: Clone + Send + Sync + 'static {
    /// Whether it takes traffic.
    fn is_ready(&self) -> bool;
    /// What it counts, as OpenMetrics text.
    fn metrics(&self) -> String;
    /// What it runs.
    fn summary(&self) -> Value;
    /// Which requests failed lately.
    fn failures(&self) -> Value;
}

/// Serves until the scope is cancelled.
pub(crate) async fn serve(proxy: impl Questions, mut listener: Listener, scope: Scope) {
    let stopped = scope.cancelled();
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (proxy, cancelled) = (proxy.clone(), scope.cancelled());
        scope.spawn("connection", OnFailure::Log, async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&proxy, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(crate::limits::HEAD);
            let served = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! { biased; () = cancelled => {}, _ = served => {} }
            Ok(())
        });
    }
}

fn answer<B>(proxy: &impl Questions, request: &Request<B>) -> Response<Full<Bytes>> {
    if !is_from_here(request) {
        return text(StatusCode::FORBIDDEN, "this door answers only to this machine's own names\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "this door only reads\n");
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match proxy.is_ready() {
            true => text(StatusCode::OK, "ok\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, &proxy.metrics());
            let openmetrics =
                HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, openmetrics);
            response
        }
        "/config" => json_answer(&proxy.summary()),
        "/failures" => json_answer(&proxy.failures()),
        _ => text(StatusCode::NOT_FOUND, "there is /livez /readyz /metrics /config /failures\n"),
    }
}

fn is_from_here<B>(request: &Request<B>) -> bool {
    Authority::of_request(request.uri(), request.headers()).is_ok_and(|authority| {
        let host = authority.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn json_answer(value: &Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, &format!("{value:#}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
