//! The whole follower: a real registry, apps on a network in memory, time that is paused.

use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use causeway_base::net::{BindOptions, Stream};
use causeway_model::{Check, CheckKind, Health, InstanceId, Origin, ServiceKey};
use causeway_registry::{Options, Registration};
use causeway_store::{Faults, Store};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Longer than any transition takes; paused time makes it free.
const LONG: Duration = Duration::from_secs(300);

struct House {
    scope: Scope,
    net: Net,
    registry: Registry,
    metrics: Shared,
}

impl House {
    fn new() -> House {
        let (scope, net, metrics) = (Scope::root("test"), Net::memory(), Shared::default());
        let (store, clock) = (Store::memory(Faults::none()), Clock::simulated());
        let registry = Registry::open(store, clock.clone(), Options::default(), &metrics, &scope).unwrap();
        follow(registry.clone(), net.clone(), clock, Seed::from_number(3), &metrics, &scope);
        House { scope, net, registry, metrics }
    }

    async fn register(&self, id: &str, kinds: &[CheckKind]) -> InstanceKey {
        let service = ServiceKey::parse("default", "orders").unwrap();
        let key = InstanceKey { service, id: InstanceId::new(id).unwrap() };
        let origin = Origin::Api { caller: "test".to_owned() };
        let mut registration = Registration::new(key.clone(), "10.0.0.5", 80, origin);
        let check = |kind: &CheckKind| Check { kind: kind.clone(), interval: 5 * SECOND, timeout: SECOND };
        registration.checks = kinds.iter().map(check).collect();
        self.registry.submit(Command::Register(registration)).await.unwrap();
        key
    }

    fn health(&self, key: &InstanceKey) -> Health {
        self.registry.snapshot().instance(key).unwrap().health
    }

    async fn until(&self, key: &InstanceKey, health: Health) {
        let mut watch = self.registry.watch();
        let shown = watch.wait_for(|picture| picture.instance(key).is_some_and(|i| i.health == health));
        tokio::time::timeout(LONG, shown)
            .await
            .unwrap_or_else(|_| panic!("{key} never became {health:?}"))
            .unwrap();
    }

    /// A number of the exposition.
    fn count(&self, line: &str) -> u64 {
        let text = self.metrics.exposition();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or(0)
    }

    async fn until_count(&self, line: &str, least: u64) {
        let reached = async {
            while self.count(line) < least {
                tokio::time::sleep(SECOND / 10).await;
            }
        };
        tokio::time::timeout(LONG, reached).await.unwrap_or_else(|_| panic!("{line} stays below {least}"));
    }
}

/// An HTTP app at `address` that answers with the status that it is told, and says what it was asked.
#[derive(Clone)]
struct App {
    status: Arc<Mutex<u16>>,
    asked: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl App {
    fn start(house: &House, address: &str, status: u16) -> App {
        let app = App { status: Arc::new(Mutex::new(status)), asked: Arc::default() };
        let served = app.clone();
        serve(house, address, move |stream, scope| {
            let app = served.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = app.answer(&request);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            scope.spawn("app", OnFailure::Log, async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                Ok(())
            });
        });
        app
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.asked.lock().unwrap().push((request.uri().to_string(), request.headers().clone()));
        Response::builder()
            .status(*self.status.lock().unwrap())
            .header(header::LOCATION, "http://10.0.0.9:80/elsewhere")
            .body(Full::new(Bytes::from(vec![b'x'; 100_000])))
            .unwrap()
    }

    fn turn(&self, status: u16) {
        *self.status.lock().unwrap() = status;
    }
}

fn serve(house: &House, address: &str, take: impl Fn(Stream, Scope) + Send + 'static) {
    let mut listener = house.net.bind(address.parse().unwrap(), BindOptions::default()).unwrap();
    let (stop, scope) = (house.scope.cancelled(), house.scope.clone());
    house.scope.spawn("listener", OnFailure::Log, async move {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Ok((stream, _)) = listener.accept() => take(stream, scope.clone()),
            }
        }
    });
}

#[tokio::test(start_paused = true)]
async fn an_http_check_follows_the_status_and_no_redirect() {
    let house = House::new();
    let app = App::start(&house, "10.0.0.5:80", 503);
    let elsewhere = App::start(&house, "10.0.0.9:80", 200);
    let key = house.register("a", &[CheckKind::Http("http://10.0.0.5/healthz?deep=1".to_owned())]).await;
    assert_eq!(house.health(&key), Health::Passing, "nobody has asked it yet");
    house.until(&key, Health::Critical).await;
    for (status, health) in
        [(204, Health::Passing), (429, Health::Warning), (302, Health::Critical), (200, Health::Passing)]
    {
        app.turn(status);
        house.until(&key, health).await;
    }
    let (path, headers) = app.asked.lock().unwrap()[0].clone();
    assert_eq!((path.as_str(), headers["host"].as_bytes()), ("/healthz?deep=1", &b"10.0.0.5"[..]));
    assert!(headers["user-agent"].to_str().unwrap().starts_with("causeway-check/"));
    assert!(elsewhere.asked.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_report_per_transition_whatever_the_number_of_answers() {
    let house = House::new();
    let app = App::start(&house, "10.0.0.5:80", 200);
    let key = house.register("a", &[CheckKind::Http("http://10.0.0.5:80".to_owned())]).await;
    house.until_count("causeway_checks_probes_total{kind=\"http\",outcome=\"passed\"}", 10).await;
    assert_eq!(house.count("causeway_checks_reports_total{outcome=\"taken\"}"), 0);
    let revision = house.registry.snapshot().revision();
    app.turn(500);
    house.until_count("causeway_checks_probes_total{kind=\"http\",outcome=\"failed\"}", 10).await;
    assert_eq!(house.count("causeway_checks_reports_total{outcome=\"taken\"}"), 1);
    assert_eq!(house.registry.snapshot().revision(), revision.next());
    assert_eq!(house.health(&key), Health::Critical);
}

#[tokio::test(start_paused = true)]
async fn an_https_check_takes_any_certificate_but_not_any_status() {
    let house = House::new();
    let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let status = Arc::new(Mutex::new(200_u16));
    let said = status.clone();
    serve(&house, "10.0.0.5:443", move |stream, scope| {
        let (acceptor, said) = (acceptor.clone(), said.clone());
        scope.spawn("app", OnFailure::Log, async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let status = *said.lock().unwrap();
                let answer =
                    Response::builder().status(status).body(Full::new(Bytes::from_static(b"so so"))).unwrap();
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let stream = TokioIo::new(acceptor.accept(stream).await?);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
            Ok(())
        });
    });
    let key = house.register("a", &[CheckKind::Http("https://10.0.0.5/healthz".to_owned())]).await;
    house.until_count("causeway_checks_probes_total{kind=\"http\",outcome=\"passed\"}", 3).await;
    *status.lock().unwrap() = 500;
    house.until(&key, Health::Critical).await;
}

#[tokio::test(start_paused = true)]
async fn a_tcp_check_follows_the_network_and_its_timeout() {
    let house = House::new();
    let Net::Memory(faults) = house.net.clone() else { panic!() };
    let address: SocketAddr = "10.0.0.6:5432".parse().unwrap();
    serve(&house, "10.0.0.6:5432", |stream, _| drop(stream));
    let key = house.register("a", &[CheckKind::Tcp(address.to_string())]).await;
    house.until_count("causeway_checks_probes_total{kind=\"tcp\",outcome=\"passed\"}", 2).await;
    faults.cut(address.ip());
    house.until(&key, Health::Critical).await;
    faults.heal(address.ip());
    house.until(&key, Health::Passing).await;
    faults.delay(address.ip(), 2 * SECOND);
    house.until(&key, Health::Critical).await;
    faults.delay(address.ip(), SECOND / 2);
    house.until(&key, Health::Passing).await;
}

#[tokio::test(start_paused = true)]
async fn a_grpc_check_asks_for_the_service_that_it_names() {
    let house = House::new();
    let serving = Arc::new(Mutex::new(1_u8));
    let status = serving.clone();
    serve(&house, "10.0.0.7:50051", move |stream, scope| {
        let status = status.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let status = status.clone();
            async move {
                let path = request.uri().path().to_owned();
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                let is_right =
                    path == "/grpc.health.v1.Health/Check" && asked.ends_with(b"\x0a\x09shop.Cart");
                let code = if is_right { "0" } else { "5" };
                let answer = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, *status.lock().unwrap()]);
                let trailers =
                    [("grpc-status".parse().unwrap(), code.parse().unwrap())].into_iter().collect();
                let frames = Full::new(answer).with_trailers(async move { Some(Ok(trailers)) });
                Ok::<_, std::convert::Infallible>(Response::new(frames))
            }
        });
        scope.spawn("app", OnFailure::Log, async move {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            Ok(())
        });
    });
    let key = house.register("a", &[CheckKind::Grpc("10.0.0.7:50051/shop.Cart".to_owned())]).await;
    house.until_count("causeway_checks_probes_total{kind=\"grpc\",outcome=\"passed\"}", 2).await;
    *serving.lock().unwrap() = 2;
    house.until(&key, Health::Critical).await;
    *serving.lock().unwrap() = 1;
    house.until(&key, Health::Passing).await;
    let other = house.register("b", &[CheckKind::Grpc("10.0.0.7:50051/shop.Unknown".to_owned())]).await;
    house.until(&other, Health::Critical).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_or_talks_nonsense_is_critical() {
    let house = House::new();
    serve(&house, "10.0.0.8:80", |stream, scope| {
        let stop = scope.cancelled();
        scope.spawn("mute", OnFailure::Log, async move {
            stop.await;
            drop(stream);
            Ok(())
        });
    });
    serve(&house, "10.0.0.8:81", |mut stream, scope| {
        scope.spawn("nonsense", OnFailure::Log, async move {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.9\r\n").await?;
            Ok(())
        });
    });
    let kinds = [
        CheckKind::Http("http://10.0.0.8:80/".to_owned()),
        CheckKind::Http("https://10.0.0.8:80/".to_owned()),
        CheckKind::Grpc("10.0.0.8:80".to_owned()),
        CheckKind::Http("http://10.0.0.8:81/".to_owned()),
        CheckKind::Grpc("10.0.0.8:81".to_owned()),
        CheckKind::Tcp("10.0.0.8:82".to_owned()),
    ];
    for (n, kind) in kinds.iter().enumerate() {
        let key = house.register(&format!("i{n}"), std::slice::from_ref(kind)).await;
        house.until(&key, Health::Critical).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_is_not_asked_any_more_and_the_end_is_quick() {
    let house = House::new();
    let app = App::start(&house, "10.0.0.5:80", 200);
    let key = house.register("a", &[CheckKind::Http("http://10.0.0.5/".to_owned())]).await;
    house.until_count("causeway_checks_probes_total{kind=\"http\",outcome=\"passed\"}", 2).await;
    house.registry.submit(Command::Deregister { key, epoch: None }).await.unwrap();
    let other = house.register("b", &[CheckKind::Tcp("10.0.0.5:80".to_owned())]).await;
    house.until_count("causeway_checks_probes_total{kind=\"tcp\",outcome=\"passed\"}", 3).await;
    let asked = app.asked.lock().unwrap().len();
    assert_eq!(house.count("causeway_checks_running"), 1);
    house.until_count("causeway_checks_probes_total{kind=\"tcp\",outcome=\"passed\"}", 6).await;
    assert_eq!(app.asked.lock().unwrap().len(), asked);
    assert_eq!(house.health(&other), Health::Passing);
    assert!(house.scope.shutdown(SECOND).await, "{:?}", house.scope.census());
}

#[tokio::test(start_paused = true)]
async fn more_checks_than_places_are_all_made() {
    let house = House::new();
    let count = 3 * PROBES_MAX;
    let Net::Memory(faults) = house.net.clone() else { panic!() };
    // Nobody listens there, and it takes the whole timeout to learn that.
    faults.delay("10.0.0.66".parse().unwrap(), 60 * SECOND);
    let mut keys = Vec::new();
    for n in 0..count {
        keys.push(house.register(&format!("i{n}"), &[CheckKind::Tcp("10.0.0.66:1".to_owned())]).await);
    }
    for key in &keys {
        house.until(key, Health::Critical).await;
    }
    assert_eq!(house.count("causeway_checks_reports_total{outcome=\"taken\"}"), count as u64);
}
