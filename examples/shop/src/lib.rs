//! What the shop's four programs share: a server, and a journal that several copies of a program may write.
//!
//! In:    `PORT`, `SHOP_VERSION`, `SHOP_DATA` from the environment, as any program on a platform would take them.
//! Out:   plain HTTP on `127.0.0.1:PORT`.
//! Owner: each program's `main`.
//! Invariant: nothing here names Causeway; calls to other services are plain HTTP by name, through `http_proxy` if it is set.
//! Not here: what each program does (`src/bin/*.rs`), how they are started (`causeway demo`).

mod journal;

pub use journal::Journal;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Where the program keeps its journal: `SHOP_DATA`, or `./shop-data`.
pub fn data_dir() -> PathBuf {
    std::env::var_os("SHOP_DATA").map_or_else(|| PathBuf::from("shop-data"), PathBuf::from)
}

/// The program's version: `SHOP_VERSION`, or `v1`.
pub fn version() -> String {
    std::env::var("SHOP_VERSION").unwrap_or_else(|_| "v1".into())
}

/// Serves `app` on `127.0.0.1:PORT` until SIGTERM or SIGINT, then finishes the requests that are under way.
///
/// # Errors
/// The text says which variable is wrong or why the port cannot be had.
pub async fn serve(name: &str, app: Router) -> Result<(), String> {
    let port = std::env::var("PORT").map_err(|_| "PORT is not set".to_owned())?;
    let port: u16 = port.parse().map_err(|_| format!("PORT is {port:?}, not a port"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("{name} cannot listen on {address}: {error}"))?;
    let app = app.route("/healthz", get(|| async { "ok\n" }));
    eprintln!("{name} {} listens on {address}", version());
    axum::serve(listener, app).with_graceful_shutdown(stop()).await.map_err(|error| error.to_string())
}

async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

/// The caller's idempotency key: the same key means the same request again.
pub fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    headers.get("idempotency-key")?.to_str().ok().map(str::to_owned)
}

/// An answer of a handler that failed.
#[derive(Debug)]
pub struct Refusal(pub StatusCode, pub String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, axum::Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}
