//! Server and client together, over a network in memory and under paused time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::clock::Clock;
use causeway_base::net::{BindOptions, MemoryNet, Net};
use causeway_base::outbound::Pending;
use causeway_base::scope::{OnFailure, Scope};
use causeway_base::seed::Seed;
use causeway_base::telemetry::Metrics;
use causeway_model::{
    Edge, Epoch, Health, Instance, InstanceKey, Kind, Lifecycle, Observations, ParentKind, Revision, Side,
    Snapshot, SpiffeId, Tap, Tapped, Taps, Timestamp, TrafficReport, TrustDomain,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::presence::Held;
use crate::proto::DeltaDiscoveryRequest;
use crate::stream::ACK_TIME_MAX;
use crate::testing::*;
use crate::*;

const SOON: Duration = Duration::from_secs(20);

/// A node and the network around it.
struct House {
    net: Net,
    faults: MemoryNet,
    clock: Clock,
    scope: Scope,
    pictures: watch::Sender<Arc<Snapshot>>,
    signals: Signals,
    serving: Mutex<Scope>,
    registry: Registry,
    addresses: Mutex<Vec<(SocketAddr, Peer)>>,
}

fn identity(name: &str) -> SpiffeId {
    SpiffeId::new(TrustDomain::new("causeway.test").unwrap(), service(name))
}

impl House {
    fn new() -> Arc<Self> {
        let faults = MemoryNet::default();
        let (scope, clock) = (Scope::root("test"), Clock::simulated());
        let pictures = watch::Sender::new(Arc::new(Snapshot::default()));
        let options = Options::new("test");
        let signals = Signals::new(pictures.subscribe(), clock.clone(), options, &Metrics::default(), &scope);
        Arc::new(House {
            net: Net::Memory(faults.clone()),
            faults,
            clock,
            serving: Mutex::new(scope.child("serving")),
            scope,
            pictures,
            signals,
            registry: Registry::default(),
            addresses: Mutex::default(),
        })
    }

    /// An address at which whoever connects is this peer (in life, the certificate says so).
    fn door(&self, peer: Option<SpiffeId>) -> String {
        let peer = peer.map(|spiffe| Proven { spiffe, serial: "0a".into() });
        let port = 7071 + u16::try_from(self.addresses.lock().len()).unwrap();
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        self.addresses.lock().push((address, Peer(peer.clone())));
        self.serve(address, Peer(peer));
        address.to_string()
    }

    fn serve(&self, address: SocketAddr, peer: Peer) {
        let routes = self.signals.routes(Arc::new(Notary), Arc::new(self.registry.clone()));
        let mut listener = self.net.bind(address, BindOptions::default()).unwrap();
        let scope = self.serving.lock().clone();
        let connections = scope.clone();
        scope.spawn("accept", OnFailure::StopNode, async move {
            let cancelled = connections.cancelled();
            tokio::pin!(cancelled);
            loop {
                let (stream, _) = tokio::select! {
                    () = &mut cancelled => return Ok(()),
                    accepted = listener.accept() => accepted?,
                };
                let (routes, peer, end) = (routes.clone(), peer.clone(), connections.cancelled());
                connections.spawn("connection", OnFailure::Log, async move {
                    let service = hyper::service::service_fn(move |mut request: http::Request<_>| {
                        request.extensions_mut().insert(peer.clone());
                        routes.clone().oneshot(request.map(tonic::body::Body::new))
                    });
                    let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .timer(TokioTimer::new())
                        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
                        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! { () = end => {} _ = serve => {} }
                    Ok(())
                });
            }
        });
    }

    /// The node's process ends.
    async fn stop(&self) {
        let serving = self.serving.lock().clone();
        assert!(serving.shutdown(SOON).await);
    }

    /// It is back, with what the registry has by now.
    fn restart(&self) {
        *self.serving.lock() = self.scope.child("serving");
        for (address, peer) in self.addresses.lock().clone() {
            self.serve(address, peer);
        }
    }

    fn edit(&self, edit: impl FnOnce(&mut Snapshot, u64)) -> Revision {
        self.pictures.send_modify(|snapshot| {
            let at = snapshot.revision().next().get();
            edit(Arc::make_mut(snapshot), at);
        });
        self.pictures.borrow().revision()
    }

    fn link(self: &Arc<Self>, door: String) -> Link {
        let dial = Arc::new(Cable(self.net.clone()));
        Link::start(vec![door], dial, &self.clock, &Seed::from_number(7), &self.scope)
    }

    fn client(self: &Arc<Self>, role: Role, wants: &[&str], last: Option<Picture>) -> ClientHandle {
        let (Role::Sidecar(own) | Role::Gateway(own)) = &role;
        let door = self.door(Some(identity(own.name.as_str())));
        let config = ClientConfig {
            node_id: format!("{own}-1"),
            role,
            wants: wants.iter().map(|name| service(name)).collect(),
            last,
        };
        Client::start(config, self.link(door), &self.clock, &Seed::from_number(9), &self.scope)
    }

    async fn everyone_has(&self, revision: Revision) {
        let lagging = self.signals.hub().wait_acknowledged(revision, SOON).await;
        assert!(lagging.is_ok(), "{lagging:?}");
    }
}

struct Cable(Net);

impl Dial for Cable {
    fn dial(&self, address: &str) -> Pending<std::io::Result<Box<dyn Io>>> {
        let (net, address) = (self.0.clone(), address.parse::<SocketAddr>());
        Box::pin(async move {
            let address = address.map_err(std::io::Error::other)?;
            Ok(Box::new(net.connect(address).await?) as Box<dyn Io>)
        })
    }
}

struct Notary;

impl Signer for Notary {
    fn sign(&self, peer: PeerIdentity, csr_der: Bytes) -> Pending<Result<Signed, Refused>> {
        Box::pin(async move {
            let name = match (peer.spiffe, peer.token.as_deref()) {
                (Some(identity), _) => identity.to_string(),
                (None, Some("good")) => "newcomer".to_owned(),
                _ => return Err(Refused::new(Reason::Unauthenticated, "CW-1999", "that token is not known")),
            };
            let chain_pem = format!("{name} {}", csr_der.len());
            let not_after = Timestamp::from_millis(5);
            Ok(Signed { chain_pem, bundle_pem: "roots".into(), not_after })
        })
    }
}

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Registry {
    told: Arc<Mutex<Vec<String>>>,
    refusals: Arc<Mutex<Vec<Refused>>>,
    /// What drains and withdrawals are answered with.
    revision: Arc<Mutex<Revision>>,
    taps: watch::Sender<Arc<Taps>>,
}

impl Registry {
    fn note(&self, text: String) -> u64 {
        let mut told = self.told.lock();
        told.push(text);
        told.len() as u64
    }

    async fn has(&self, texts: &[&str]) {
        let reached = tokio::time::timeout(SOON, async {
            while *self.told.lock() != texts {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(reached.await.is_ok(), "{:?} instead of {texts:?}", self.told.lock());
    }

    fn answer(&self, text: String) -> Pending<Result<Revision, Refused>> {
        self.note(text);
        let revision = *self.revision.lock();
        Box::pin(async move { Ok(revision) })
    }
}

impl Presence for Registry {
    fn register(&self, peer: SpiffeId, instance: Instance) -> Pending<Result<Held, Refused>> {
        let refusal = self.refusals.lock().pop();
        let at = self.note(format!(
            "register {} {:?} {:?} by {}",
            instance.key, instance.health, instance.lifecycle, peer.service
        ));
        let held = Held { revision: Revision::default(), epoch: Epoch::new(at) };
        Box::pin(async move { refusal.map_or(Ok(held), Err) })
    }
    fn health(&self, key: InstanceKey, epoch: Epoch, health: Health) -> Pending<Result<Revision, Refused>> {
        self.answer(format!("health {key} {epoch} {health:?}"))
    }
    fn drain(&self, key: InstanceKey, epoch: Epoch) -> Pending<Result<Revision, Refused>> {
        self.answer(format!("drain {key} {epoch}"))
    }
    fn withdraw(&self, key: InstanceKey, epoch: Epoch) -> Pending<Result<Revision, Refused>> {
        self.answer(format!("withdraw {key} {epoch}"))
    }
    fn lost(&self, key: InstanceKey, epoch: Epoch) -> Pending<()> {
        self.note(format!("lost {key} {epoch}"));
        Box::pin(async {})
    }
    fn traffic(&self, peer: SpiffeId, report: TrafficReport) {
        let edges = report
            .edges
            .iter()
            .map(|edge| format!("{}>{}={}", edge.source.name, edge.target.name, edge.requests));
        self.note(format!("traffic of {}: {}", peer.service, edges.collect::<Vec<_>>().join(" ")));
    }
    fn observed(&self, peer: SpiffeId, seen: Observations) {
        let tapped = seen.tapped.iter().map(|t| format!("{} {} {}", t.request_id, t.seen_by, t.instance));
        self.note(format!("{} saw: {}", peer.service, tapped.collect::<Vec<_>>().join(" ")));
    }
    fn taps(&self) -> watch::Receiver<Arc<Taps>> {
        self.taps.subscribe()
    }
}

fn ids(snapshot: &Snapshot, name: &str) -> Vec<String> {
    snapshot.instances_of(&service(name)).map(|instance| instance.key.id.to_string()).collect()
}

async fn until(client: &ClientHandle, what: impl FnMut(&Arc<Snapshot>) -> bool) {
    let mut snapshot = client.snapshot();
    let reached = tokio::time::timeout(SOON, snapshot.wait_for(what)).await;
    assert!(reached.is_ok(), "it never came: {:?}", client.current());
}

fn sidecar(name: &str) -> Role {
    Role::Sidecar(service(name))
}

#[tokio::test(start_paused = true)]
async fn a_change_arrives_and_what_is_removed_goes() {
    let house = House::new();
    house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
    let client = house.client(sidecar("orders"), &["pay"], None);
    assert!(client.ready().await);
    assert_eq!(ids(&client.current(), "pay"), ["1"]);
    let before = house.clock.instant();
    let revision = house.edit(|s, at| s.put_instance(instance("pay", "2", at)));
    until(&client, |s| ids(s, "pay") == ["1", "2"]).await;
    assert!(before.elapsed() < Duration::from_millis(5), "nothing waits for a timer");
    house.everyone_has(revision).await;
    assert_eq!(client.revision(), revision);
    house.edit(|s, at| s.remove_instance(&instance("pay", "1", at).key, Revision::new(at)));
    until(&client, |s| ids(s, "pay") == ["2"]).await;
    assert!(client.is_connected());
    let proxies = house.signals.hub().proxies();
    assert_eq!(proxies.len(), 1);
    assert_eq!(
        (proxies[0].node_id.as_str(), &proxies[0].identity),
        ("default/orders-1", &identity("orders"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_comes_on_first_use() {
    let house = House::new();
    house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
    house.edit(|s, at| s.put_object(object(Kind::Service, "new-pay", subset(Some("pay")), at)));
    let client = house.client(sidecar("orders"), &[], None);
    client.ready().await;
    assert_eq!(client.current().instance_count(), 0, "only what it uses");
    assert!(client.resolve(&service("new-pay"), SOON).await);
    assert_eq!(ids(&client.current(), "new-pay"), ["1"], "a subset brings its parent");
    assert!(
        client.resolve(&service("nobody"), SOON).await,
        "there is no such service, and that is an answer"
    );
    house.stop().await;
    assert!(!client.resolve(&service("later"), Duration::from_secs(1)).await);
    house.restart();
    assert!(client.resolve(&service("later"), SOON).await, "it was asked for as soon as someone listened");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_never_shows_a_route_before_its_backend() {
    let house = House::new();
    let web = [(ParentKind::Gateway, "web")];
    house.edit(|s, at| s.put_object(object(Kind::Gateway, "web", gateway(&[("default", "cert")]), at)));
    house.edit(|s, at| s.put_object(object(Kind::Secret, "cert", secret(), at)));
    house.edit(|s, at| s.put_object(object(Kind::HttpRoute, "r", route(&web, &["b0"]), at)));
    for n in 0..8 {
        house.edit(|s, at| s.put_instance(instance(&format!("b{n}"), "1", at)));
    }
    let client = house.client(Role::Gateway(service("web")), &[], None);
    // A task of its own: the test's is polled too rarely to see every picture.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (mut snapshots, pictures) = (client.snapshot(), seen.clone());
    house.scope.spawn("watcher", OnFailure::StopNode, async move {
        while snapshots.changed().await.is_ok() {
            let now = snapshots.borrow_and_update().clone();
            pictures.lock().push(now);
        }
        Ok(())
    });
    client.ready().await;
    for n in 1..=8 {
        until(&client, |s| s.instances().any(|i| i.key.service == service(&format!("b{}", n - 1)))).await;
        house.edit(|s, at| s.put_object(object(Kind::HttpRoute, "r", route(&web, &[&format!("b{n}")]), at)));
    }
    until(&client, |s| s.instance_count() == 0).await;
    assert!(seen.lock().len() >= 9, "each step was published");
    for now in seen.lock().iter() {
        assert_eq!(
            now.objects().filter(|o| o.key.kind != Kind::HttpRoute).count(),
            2,
            "never a half picture"
        );
        for object in now.objects_of(Kind::HttpRoute) {
            let causeway_model::Spec::HttpRoute(route) = &object.spec else { unreachable!() };
            let backend = &route.rules[0].backends[0].service;
            let expected = usize::from(backend.name.as_str() != "b8");
            assert_eq!(
                now.instances_of(backend).count(),
                expected,
                "{backend} is there with the route to it"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_control_plane_the_picture_stays_and_only_differences_come_after() {
    let house = House::new();
    for n in 0..50 {
        house.edit(|s, at| s.put_instance(instance("pay", &format!("i{n:02}"), at)));
    }
    let client = house.client(sidecar("orders"), &["pay"], None);
    client.ready().await;
    let sent = house.signals.sent();
    assert_eq!(sent, 50);
    house.stop().await;
    house.edit(|s, at| s.remove_instance(&instance("pay", "i00", at).key, Revision::new(at)));
    let last = house.edit(|s, at| s.put_instance(instance("pay", "new", at)));
    tokio::time::timeout(SOON, async {
        while client.is_connected() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(ids(&client.current(), "pay").len(), 50, "it serves on with what it had");
    house.restart();
    let back = house.clock.instant();
    until(&client, |s| ids(s, "pay").contains(&"new".to_owned())).await;
    assert!(back.elapsed() <= 2 * BACKOFF_MAX);
    assert!(!ids(&client.current(), "pay").contains(&"i00".to_owned()));
    house.everyone_has(last).await;
    assert_eq!(house.signals.sent() - sent, 1, "nothing unchanged is resent");
}

#[tokio::test(start_paused = true)]
async fn a_proxy_starts_with_its_picture_while_the_node_is_away() {
    let house = House::new();
    house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
    let client = house.client(sidecar("orders"), &["pay"], None);
    client.ready().await;
    let bytes = client.picture().to_bytes();
    house.stop().await;
    let picture = Picture::from_bytes(&bytes).unwrap();
    let config =
        ClientConfig { node_id: "x".into(), role: sidecar("orders"), wants: vec![], last: Some(picture) };
    let door = house.addresses.lock()[0].0.to_string();
    let again = Client::start(config, house.link(door), &house.clock, &Seed::from_number(3), &house.scope);
    assert!(again.ready().await);
    assert_eq!(ids(&again.current(), "pay"), ["1"]);
    assert!(again.resolve(&service("pay"), Duration::ZERO).await, "what it knows needs no control plane");
    let sent = house.signals.sent();
    house.restart();
    house.edit(|s, at| s.put_instance(instance("pay", "2", at)));
    until(&again, |s| ids(s, "pay") == ["1", "2"]).await;
    until(&client, |s| ids(s, "pay") == ["1", "2"]).await;
    assert_eq!(house.signals.sent() - sent, 2, "one for each of the two clients");
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_merged_while_a_push_is_under_way() {
    let house = House::new();
    house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
    let client = house.client(sidecar("orders"), &["pay"], None);
    client.ready().await;
    let pushes = house.signals.pushes();
    let mut last = Revision::default();
    for _ in 0..2000 {
        last = house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
        // As on a busy machine: other tasks get a turn now and then.
        if last.get() % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    house.everyone_has(last).await;
    let pushes = house.signals.pushes() - pushes;
    assert!((1..=21).contains(&pushes), "{pushes} pushes for 2000 changes in 20 turns");
    until(&client, |s| s.instances().all(|i| i.revision == last)).await;
}

#[tokio::test(start_paused = true)]
async fn who_lags_is_named_and_who_is_not_concerned_counts_at_once() {
    let house = House::new();
    let pay = house.client(sidecar("orders"), &["pay"], None);
    let other = house.client(sidecar("mail"), &[], None);
    pay.ready().await;
    other.ready().await;
    house.everyone_has(house.pictures.borrow().revision()).await;
    house.faults.cut("10.0.0.1".parse().unwrap());
    let revision = house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
    // Broken streams are taken off the list as soon as they are seen to be broken; then nobody lags.
    house.everyone_has(revision).await;
    assert_eq!(house.signals.hub().count(), 0);
    house.faults.heal("10.0.0.1".parse().unwrap());
    until(&pay, |s| ids(s, "pay") == ["1"]).await;
    house.everyone_has(revision).await;
    let mut stuck = Raw::open(&house, "stuck").await.unwrap();
    stuck.ask("default/pay").await;
    stuck.responses.message().await.unwrap().unwrap();
    let revision = house.edit(|s, at| s.put_instance(instance("pay", "2", at)));
    let lagging = house.signals.hub().wait_acknowledged(revision, Duration::from_secs(2)).await.unwrap_err();
    let names: Vec<_> =
        lagging.iter().map(|l| (l.proxy.node_id.as_str(), l.proxy.acknowledged.get())).collect();
    assert_eq!(names, [("stuck", 1)]);
}

/// A client without manners.
struct Raw {
    requests: tokio::sync::mpsc::Sender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<proto::DeltaDiscoveryResponse>,
}

impl Raw {
    async fn open(house: &Arc<House>, name: &str) -> Result<Raw, tonic::Status> {
        Self::open_at(house, house.door(Some(identity(name))), name).await
    }

    async fn open_at(house: &Arc<House>, door: String, name: &str) -> Result<Raw, tonic::Status> {
        let conduit = house.link(door).conduit().await.unwrap();
        let (requests, queue) = tokio::sync::mpsc::channel(8);
        let node = proto::Node { id: name.into(), ..Default::default() };
        let url = resource::ResourceType::Instance.url().to_owned();
        let first = DeltaDiscoveryRequest { node: Some(node), type_url: url, ..Default::default() };
        requests.send(first).await.unwrap();
        let mut grpc = conduit.grpc();
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::default();
        let path = http::uri::PathAndQuery::from_static(proto::DELTA_PATH);
        let request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
        Ok(Raw { requests, responses: grpc.streaming(request, path, codec).await?.into_inner() })
    }

    async fn ask(&self, name: &str) {
        let request = DeltaDiscoveryRequest {
            type_url: resource::ResourceType::Instance.url().into(),
            resource_names_subscribe: vec![name.into()],
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_dropped() {
    let house = House::new();
    house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
    let mut raw = Raw::open(&house, "slow").await.unwrap();
    raw.ask("default/pay").await;
    let began = house.clock.instant();
    raw.responses.message().await.unwrap().unwrap();
    let status = raw.responses.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert!(status.message().contains(code::SLOW_READER), "{status}");
    assert!(began.elapsed() >= ACK_TIME_MAX && began.elapsed() < ACK_TIME_MAX + Duration::from_secs(1));
    house.everyone_has(Revision::new(1)).await;
    assert_eq!(house.signals.hub().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_proves_nothing_may_only_have_a_request_signed() {
    let house = House::new();
    let door = house.door(None);
    let refused = Raw::open_at(&house, door.clone(), "x").await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    assert!(refused.message().contains(code::NO_IDENTITY));
    let cable = Cable(house.net.clone());
    let csr = Bytes::from_static(b"csr");
    let nobody_there = "10.9.9.9:1".to_owned();
    let signed = sign(&cable, &[nobody_there.clone(), door.clone()], csr.clone(), "good").await.unwrap();
    assert_eq!((signed.chain_pem.as_str(), signed.not_after.as_millis()), ("newcomer 3", 5));
    let refused = sign(&cable, std::slice::from_ref(&door), csr.clone(), "bad").await.unwrap_err();
    assert_eq!((refused.reason, refused.code.as_str()), (Reason::Unauthenticated, "CW-1999"));
    let refused = sign(&cable, &[nobody_there], csr.clone(), "good").await.unwrap_err();
    assert_eq!((refused.reason, refused.code.as_str()), (Reason::Unavailable, code::UNREACHABLE));
    let renewed = house.link(house.door(Some(identity("pay")))).sign(csr, SOON).await.unwrap();
    assert_eq!(renewed.chain_pem, "spiffe://causeway.test/ns/default/svc/pay 3");
    let hold = Hold::start(house.link(door), &house.clock, &Seed::from_number(1), &house.scope);
    let registered = tokio::time::timeout(SOON, hold.register((*instance("pay", "1", 0)).clone())).await;
    assert!(registered.is_err(), "it waits, and nothing reaches the registry");
    assert!(house.registry.told.lock().is_empty());
}

fn hold(house: &Arc<House>, name: &str) -> Hold {
    let link = house.link(house.door(Some(identity(name))));
    Hold::start(link, &house.clock, &Seed::from_number(1), &house.scope)
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_there_as_long_as_its_stream() {
    let house = House::new();
    let hold = hold(&house, "pay");
    let held = hold.register((*instance("pay", "1", 0)).clone()).await.unwrap();
    assert_eq!(held.epoch, Epoch::new(1));
    hold.health(Health::Warning).await;
    house
        .registry
        .has(&["register default/pay/1 Passing Up by default/pay", "health default/pay/1 1 Warning"])
        .await;
    house.registry.told.lock().clear();
    house.faults.cut("10.0.0.1".parse().unwrap());
    house.registry.has(&["lost default/pay/1 1"]).await;
    house.faults.heal("10.0.0.1".parse().unwrap());
    house.registry.has(&["lost default/pay/1 1", "register default/pay/1 Warning Up by default/pay"]).await;
    let known = hold.drain().await.unwrap();
    assert_eq!(known.lagging, 0);
    hold.withdraw().await.unwrap();
    let told = ["drain default/pay/1 2", "withdraw default/pay/1 2"];
    house
        .registry
        .has(
            &[&["lost default/pay/1 1", "register default/pay/1 Warning Up by default/pay"], &told[..]]
                .concat(),
        )
        .await;
    assert!(hold.drain().await.is_err(), "nothing is registered any more");
    house.registry.told.lock().clear();
    house.stop().await;
    house.restart();
    tokio::time::sleep(SOON).await;
    house.registry.has(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_instance_comes_back_draining() {
    let house = House::new();
    let hold = hold(&house, "pay");
    hold.register((*instance("pay", "1", 0)).clone()).await.unwrap();
    hold.drain().await.unwrap();
    house.registry.told.lock().clear();
    house.stop().await;
    house.restart();
    house
        .registry
        .has(&["lost default/pay/1 1", "register default/pay/1 Passing Draining by default/pay"])
        .await;
    assert_eq!(instance("pay", "1", 0).lifecycle, Lifecycle::Up);
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_for_another_service() {
    let house = House::new();
    let mallory = hold(&house, "mallory");
    let refused = mallory.register((*instance("pay", "1", 0)).clone()).await.unwrap_err();
    assert_eq!(refused.code, code::NOT_ALLOWED);
    let edge = |source: &str, target: &str, requests| Edge {
        requests,
        micros: 1,
        micros_max: 1,
        ..Edge::new(service(source), service(target))
    };
    let report = |edges: Vec<Edge>| TrafficReport { edges };
    mallory.traffic(&report(vec![edge("mallory", "pay", 2), edge("orders", "pay", 9)]));
    mallory.traffic(&report(vec![edge("mallory", "pay", 3), edge("web", "mallory", 1)]));
    house.registry.has(&["traffic of default/mallory: mallory>pay=5 web>mallory=1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_registration_refused_for_now_is_tried_again() {
    let house = House::new();
    house.registry.refusals.lock().push(Refused::new(Reason::Unavailable, "CW-1299", "not now"));
    let hold = hold(&house, "pay");
    let held = tokio::time::timeout(SOON, hold.register((*instance("pay", "1", 0)).clone())).await.unwrap();
    assert_eq!(held.unwrap().epoch, Epoch::new(2));
    house.registry.refusals.lock().push(Refused::new(Reason::Conflict, "CW-1298", "another owner"));
    let again = hold.register((*instance("pay", "1", 0)).clone()).await.unwrap_err();
    assert_eq!(again.code, "CW-1298");
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_drain_says_who_does_not_know_yet() {
    let house = House::new();
    let mut stuck = Raw::open(&house, "stuck").await.unwrap();
    stuck.ask("default/pay").await;
    stuck.responses.message().await.unwrap().unwrap();
    *house.registry.revision.lock() = house.edit(|s, at| s.put_instance(instance("pay", "1", at)));
    let hold = hold(&house, "pay");
    hold.register((*instance("pay", "1", 0)).clone()).await.unwrap();
    let began = house.clock.instant();
    let known = hold.drain().await.unwrap();
    assert_eq!((known.lagging, known.revision.get()), (1, 1));
    assert!(began.elapsed() >= ACKNOWLEDGE_WAIT_MAX);
}

fn tapped(request_id: &str) -> Tapped {
    Tapped {
        taps: vec![7],
        at: Timestamp::default(),
        side: Side::Caller,
        // Whatever a proxy says of itself.
        seen_by: service("somebody-else"),
        instance: "another".into(),
        request_id: request_id.into(),
        trace_id: String::new(),
        caller: String::new(),
        service: None,
        endpoint: String::new(),
        method: "GET".into(),
        host: String::new(),
        path: "/".into(),
        protocol: "HTTP/1.1".into(),
        status: 200,
        reason: String::new(),
        micros: 1,
        bytes: 0,
        attempts: 1,
        rule: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_saw_bears_the_identity_that_it_proved() {
    let house = House::new();
    let hold = hold(&house, "pay");
    hold.register((*instance("pay", "1", 0)).clone()).await.unwrap();
    house.registry.told.lock().clear();
    hold.observe(Observations { tapped: vec![tapped("r1")], ..Observations::default() });
    house.registry.has(&["default/pay saw: r1 default/pay 1"]).await;
}

#[tokio::test(start_paused = true)]
async fn taps_are_heard_by_every_proxy_and_end_with_the_node() {
    let house = House::new();
    let (early, late) = (hold(&house, "pay"), hold(&house, "shop"));
    early.register((*instance("pay", "1", 0)).clone()).await.unwrap();
    let wanted = Arc::new(Taps { taps: vec![Tap { id: 7, per_second: 10, ..Tap::default() }] });
    house.registry.taps.send_replace(wanted.clone());
    for hold in [&early, &late] {
        let mut taps = hold.taps();
        tokio::time::timeout(SOON, taps.wait_for(|taps| *taps == wanted)).await.unwrap().unwrap();
    }
    house.stop().await;
    let mut taps = early.taps();
    tokio::time::timeout(SOON, taps.wait_for(|taps| taps.taps.is_empty())).await.unwrap().unwrap();
    house.restart();
    tokio::time::timeout(SOON, taps.wait_for(|taps| *taps == wanted)).await.unwrap().unwrap();
    house.registry.taps.send_replace(Arc::default());
    tokio::time::timeout(SOON, taps.wait_for(|taps| taps.taps.is_empty())).await.unwrap().unwrap();
}
