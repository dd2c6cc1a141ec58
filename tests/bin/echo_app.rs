//! An app for tests: echoes over HTTP/1.1, HTTP/2 without TLS, gRPC and WebSocket, all on `PORT`. On SIGTERM it takes nothing new, lets
//! requests finish, closes its WebSockets properly, and ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (stop, stopping) = watch::channel(false);
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = terminated.recv() => break,
        };
        stream.set_nodelay(true).unwrap();
        tokio::spawn(serve(stream, stopping.clone()));
    }
    drop(listener);
    stop.send_replace(true);
    drop(stopping);
    // Every connection holds a receiver.
    let _ = tokio::time::timeout(Duration::from_secs(20), stop.closed()).await;
}

async fn serve(stream: tokio::net::TcpStream, stopping: watch::Receiver<bool>) {
    let mut stop = stopping.clone();
    let service = service_fn(move |request| answer(request, stopping.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Resolves when the app was told to stop.
async fn told(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|is| *is).await);
}

async fn answer(
    mut request: Request<Incoming>,
    stopping: watch::Receiver<bool>,
) -> Result<Response<Body>, Infallible> {
    let kind = request.headers().get("content-type").map(|kind| kind.as_bytes().to_vec()).unwrap_or_default();
    if kind.starts_with(b"application/grpc") {
        return Ok(grpc(request));
    }
    if let Some(key) = request.headers().get("sec-websocket-key") {
        let accept = derive_accept_key(key.as_bytes());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(stream) = upgrade.await {
                echo(TokioIo::new(stream), stopping).await;
            }
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", accept);
        return Ok(response.body(full(Bytes::new())).unwrap());
    }
    let version = std::env::var("VERSION").unwrap_or_default();
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(Response::builder().status(400).body(full(Bytes::new())).unwrap()),
    };
    let body = if body.is_empty() { Bytes::from(version) } else { body };
    Ok(Response::new(full(body)))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Each message back as it comes, then the status in the trailers.
fn grpc(request: Request<Incoming>) -> Response<Body> {
    let frames = request.into_body().into_data_stream().map(|data| data.map(Frame::data));
    let status = futures_util::stream::once(async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Ok(Frame::trailers(trailers))
    });
    let body = StreamBody::new(frames.chain(status)).boxed_unsync();
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

async fn echo(stream: TokioIo<hyper::upgrade::Upgraded>, mut stopping: watch::Receiver<bool>) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    loop {
        tokio::select! {
            biased;
            message = socket.next() => match message {
                Some(Ok(message)) if message.is_text() || message.is_binary() => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                _ => return,
            },
            () = told(&mut stopping) => {
                let _ = socket.close(None).await;
                // What is still on its way is echoed no more; the client's own Close ends it.
                while let Some(Ok(_)) = socket.next().await {}
                return;
            }
        }
    }
}
