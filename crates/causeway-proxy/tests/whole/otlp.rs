//! Spans at a collector: read with the generated messages of OpenTelemetry, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::Net;
use causeway_base::{OnFailure, Scope};
use causeway_proxy::{Options, Otlp, Proxy, Role};
use causeway_testkit::House;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::common::*;

/// A span, and the service whose proxy made it.
type Seen = Arc<Mutex<Vec<(String, Span)>>>;

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector {
    seen: Seen,
    /// Requests that are refused for now before one is taken.
    refusals: Arc<AtomicUsize>,
    keys: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn take(&self, request: ExportTraceServiceRequest) {
        for of_resource in request.resource_spans {
            let service = text(&of_resource.resource.unwrap_or_default().attributes, "service.name");
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.seen.lock().extend(spans.map(|span| (service.clone(), span)));
        }
    }

    /// Whether this request is to be refused.
    fn refuses(&self) -> bool {
        self.refusals.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    async fn has(&self, count: usize) {
        for _ in 0..1_000 {
            if self.seen.lock().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} spans instead of {count}", self.seen.lock().len());
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.refuses() {
            return Err(Status::unavailable("not now"));
        }
        let key = request.metadata().get("x-key").map_or("", |key| key.to_str().unwrap());
        self.keys.lock().push(key.to_owned());
        self.take(request.into_inner());
        let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "one was odd".into() };
        Ok(Response::new(ExportTraceServiceResponse { partial_success: Some(partial) }))
    }
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == name);
    match value.and_then(|attribute| attribute.value.clone()).and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

async fn grpc_collector(scope: &Scope) -> (Collector, SocketAddr) {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(collector.clone());
    scope.spawn("collector", OnFailure::Log, async move {
        let server = tonic::transport::Server::builder().add_service(service);
        let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        Ok(())
    });
    (collector, address)
}

async fn http_collector(scope: &Scope, tls: Option<TlsAcceptor>) -> (Collector, SocketAddr) {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, taking, tasks) = (listener.local_addr().unwrap(), collector.clone(), scope.clone());
    scope.spawn("collector", OnFailure::Log, async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (collector, tls) = (taking.clone(), tls.clone());
            tasks.spawn("collecting", OnFailure::Log, async move {
                match tls {
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            collect(collector, stream).await;
                        }
                    }
                    None => collect(collector, stream).await,
                }
                Ok(())
            });
        }
        Ok(())
    });
    (collector, address)
}

async fn collect(collector: Collector, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let collector = collector.clone();
        async move {
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
            assert_eq!(request.uri().path(), "/v1/traces");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let status = if collector.refuses() { 503 } else { 200 };
            if status == 200 {
                collector.take(ExportTraceServiceRequest::decode(body).unwrap());
            }
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            http::Response::builder().status(status).body(Full::new(Bytes::from(answer)))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A gateway on a real port in front of an app, sending its spans to `otlp`.
async fn gateway_to(otlp: Otlp, scope: &Scope) -> (Proxy, SocketAddr, House) {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = app.local_addr().unwrap();
    let tasks = scope.clone();
    scope.spawn("app", OnFailure::Log, async move {
        while let Ok((stream, _)) = app.accept().await {
            tasks.spawn("serving", OnFailure::Log, async move {
                let service = service_fn(|_| async {
                    Ok::<_, hyper::Error>(http::Response::new(Full::<Bytes>::default()))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                Ok(())
            });
        }
        Ok(())
    });
    let house = House::new();
    house.place("app", "app-1", at).put();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut door = causeway_model::Gateway {
        class: "causeway".into(),
        addresses: vec!["127.0.0.1".into()],
        listeners: vec![listener("http", port, None)],
    };
    door.listeners.truncate(1);
    house.put("public", causeway_model::Spec::Gateway(door));
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let role = Role::Gateway { key: (name("default"), name("public")), bind: None };
    let mut options = Options::new(role, house.snapshots());
    options.net = Net::tcp();
    options.tracing.ratio = 1.0;
    options.tracing.otlp = Some(otlp);
    let proxy = Proxy::start(options, &scope.child("gateway")).await.unwrap();
    (proxy, SocketAddr::from(([127, 0, 0, 1], port)), house)
}

async fn ask(at: SocketAddr) -> String {
    let mut client = causeway_testkit::Client::connect(&Net::tcp(), at).await;
    let answer = client.send(House::request("GET shop.test/a")).await.unwrap();
    answer.header("x-request-id").to_owned()
}

fn check(collector: &Collector, request_id: &str) {
    let seen = collector.seen.lock();
    let [(of, root), (_, attempt)] = seen.as_slice() else { panic!("{seen:#?}") };
    assert_eq!(of, "public");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!((hex(&root.trace_id).as_str(), hex(&attempt.trace_id).as_str()), (request_id, request_id));
    assert!(root.parent_span_id.is_empty() && root.span_id.len() == 8);
    assert_eq!(attempt.parent_span_id, root.span_id);
    assert_eq!((root.kind, attempt.kind), (2, 3), "server, client");
    assert_eq!(text(&root.attributes, "url.path"), "/a");
    assert_eq!(text(&attempt.attributes, "http.response.status_code"), "200");
    assert!(root.status.is_none() && root.end_time_unix_nano >= attempt.end_time_unix_nano);
    assert!(root.start_time_unix_nano > 1_700_000_000_000_000_000);
}

#[tokio::test]
async fn a_collector_is_sent_spans_by_grpc_and_again_when_it_refuses() {
    let scope = Scope::root("test");
    let (collector, at) = grpc_collector(&scope).await;
    collector.refusals.store(1, Relaxed);
    let otlp = Otlp::new(&format!("http://{at}"), Some(true)).unwrap().with_header("x-key", "k").unwrap();
    let (proxy, door, _house) = gateway_to(otlp, &scope).await;
    let id = ask(door).await;
    collector.has(2).await;
    check(&collector, &id);
    assert_eq!(collector.keys.lock()[0], "k");
    let counted = "causeway_proxy_spans_exported_total{outcome=\"lost\"} 1";
    until(|| proxy.metrics().contains(counted)).await;
    assert_eq!(proxy.observations().spans.len(), 2, "the node is told all the same");
}

#[tokio::test]
async fn a_collector_is_sent_spans_by_http_and_the_last_ones_at_the_end() {
    let scope = Scope::root("test");
    let (collector, at) = http_collector(&scope, None).await;
    collector.refusals.store(1, Relaxed);
    let otlp = Otlp::new(&format!("http://{at}"), Some(false)).unwrap();
    let (proxy, door, _house) = gateway_to(otlp, &scope).await;
    let id = ask(door).await;
    collector.has(2).await;
    check(&collector, &id);
    ask(door).await;
    proxy.drain(Duration::from_secs(5)).await;
    assert_eq!(collector.seen.lock().len(), 4, "what was not sent yet is sent before the end");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_up_neither_requests_nor_the_end() {
    let scope = Scope::root("test");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let otlp = Otlp::new(&format!("http://{nobody}"), Some(true)).unwrap();
    let (proxy, door, _house) = gateway_to(otlp, &scope).await;
    ask(door).await;
    ask(door).await;
    let began = tokio::time::Instant::now();
    proxy.drain(Duration::from_secs(1)).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_collector_behind_tls_must_prove_who_it_is() {
    let scope = Scope::root("test");
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let (collector, at) = http_collector(&scope, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    for (roots, is_believed) in [(other.cert.pem(), false), (certified.cert.pem(), true)] {
        let otlp = Otlp::new(&format!("https://localhost:{}", at.port()), Some(false)).unwrap();
        let (proxy, door, _house) = gateway_to(otlp.with_roots(roots), &scope).await;
        let id = ask(door).await;
        proxy.drain(Duration::from_secs(5)).await;
        match is_believed {
            true => check(&collector, &id),
            false => assert!(collector.seen.lock().is_empty()),
        }
    }
}
