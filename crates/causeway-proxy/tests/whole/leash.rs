//! What is under way when a policy changes or something is revoked: what is no longer allowed ends, promptly, and only that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::Scope;
use causeway_base::net::{BindOptions, Stream};
use causeway_identity::{Expected, mesh_client_config, unnamed_server};
use causeway_model::{AccessRule, Kind, ParentKind, Peer, Protocol, Spec, Timestamp};
use causeway_proxy::{Proxy, Role};
use causeway_testkit::{Client, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access::{policy, rule_for};
use crate::common::*;

/// An app whose every answer never ends: a line now, and one more at each drop. Upgrades are echoed.
struct Drip {
    address: SocketAddr,
    drops: watch::Sender<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drip {
    fn start(house: &House) -> Self {
        let address = house.address(8080);
        let mut listener = house.net().bind(address, BindOptions::default()).unwrap();
        let (drops, falling) = watch::channel(0);
        #[allow(clippy::disallowed_methods, reason = "an app of a test stands outside the house")]
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                #[allow(clippy::disallowed_methods, reason = "as above")]
                tokio::spawn(answer(stream, falling.clone()));
            }
        });
        Drip { address, drops, task }
    }

    fn drop_one(&self) {
        self.drops.send_modify(|count| *count += 1);
    }
}

impl Drop for Drip {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: Stream, mut drops: watch::Receiver<u64>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if head.contains("upgrade: echo") {
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(switched).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        return;
    }
    if head.starts_with("get /late") {
        // Its head comes with the first drop.
        drops.mark_unchanged();
        let _ = drops.changed().await;
    }
    let begun = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhi!\n\r\n";
    let mut sent = stream.write_all(begun).await;
    while sent.is_ok() && drops.changed().await.is_ok() {
        sent = stream.write_all(b"5\r\ndrop\n\r\n").await;
    }
}

/// A sidecar of `service` (named `drip`) in front of an app.
async fn start_drip(house: &House, app: &Drip) -> Proxy {
    let mut role = sidecar_role(house, "drip", None);
    (role.app, role.inbound) = (Some(app.address), Some(house.address(15008)));
    let mut options = options(house, Role::Sidecar(role), house.snapshots());
    options.credentials = Some(house.credentials("drip"));
    let proxy = Proxy::start(options, &Scope::root("drip")).await.unwrap();
    house.place("drip", "drip-1", app.address).mesh(proxy.inbound_address().unwrap()).put();
    proxy
}

/// One request through a caller's sidecar, as bytes.
struct Call(Stream);

impl Call {
    async fn get(house: &House, from: &Proxy, path: &str) -> Call {
        let mut stream = house.net().connect(from.outbound_address().unwrap()).await.unwrap();
        let head = format!("GET http://drip.mesh{path} HTTP/1.1\r\nhost: drip.mesh\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Call(stream)
    }

    async fn begun(house: &House, from: &Proxy, path: &str) -> Call {
        let mut call = Call::get(house, from, path).await;
        assert!(call.hears("hi!\n").await, "{path}");
        call
    }

    /// Reads until it has heard `text`; false when the connection ends before.
    async fn hears(&mut self, text: &str) -> bool {
        let mut heard = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(5), self.0.read_u8()).await {
                Err(_) | Ok(Err(_)) => return false,
                Ok(Ok(byte)) => heard.push(byte),
            }
            if heard.ends_with(text.as_bytes()) {
                return true;
            }
        }
    }

    /// What comes until the end.
    async fn rest(&mut self) -> String {
        let mut heard = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(5), self.0.read_to_end(&mut heard)).await;
        assert!(end.is_ok(), "it did not end");
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Ends within a second, and not as if its answer were whole.
    async fn is_cut(&mut self) {
        let begun = Instant::now();
        let rest = self.rest().await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(!rest.ends_with("0\r\n\r\n"), "it looks whole: {rest:?}");
    }
}

fn guard(house: &House, allow: Vec<AccessRule>) {
    house.put("guard", Spec::AccessPolicy(policy("drip", allow)));
}

fn only(service: &str, path: &str) -> AccessRule {
    AccessRule { paths: vec![path.into()], ..rule_for(service) }
}

/// Everything that is none of `drip`'s business.
fn change_other_things(house: &House) {
    house.put("other", Spec::AccessPolicy(policy("other", vec![])));
    let parents = vec![parent(ParentKind::Service, "other")];
    house.put("r", route(parents, &[], vec![rule("/", vec![backend("other", 1)])]));
    house.service("more", 2);
    house.put("drip", Spec::Service(causeway_model::Service::default()));
    house.revoke(|list| list.revoke_serial("ff".into(), House::key("more"), Timestamp::default()));
    // What guards it says the same in other words, from another place.
    let origin = causeway_model::Origin::File { path: "moved.yaml".into(), line: 7 };
    let held = house.snapshots().borrow().clone();
    for object in held.objects_of(Kind::AccessPolicy).filter(|object| object.key.name.as_str() == "guard") {
        house.put_from(origin.clone(), "guard", object.spec.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_no_longer_allowed_end_and_others_go_on() {
    let house = House::new();
    let app = Drip::start(&house);
    guard(&house, vec![rule_for("shop"), rule_for("web")]);
    let drip = start_drip(&house, &app).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    let web = start_sidecar(&house, "web", 1, None).await;
    for proxy in [&drip, &shop, &web] {
        caught_up(&house, proxy).await;
    }
    let mut gone = Call::begun(&house, &shop, "/gone").await;
    let mut late = Call::get(&house, &shop, "/late").await;
    let mut kept = Call::begun(&house, &shop, "/kept").await;
    let mut others = Call::begun(&house, &web, "/gone").await;
    change_other_things(&house);
    caught_up(&house, &drip).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // `late` has its head now, and so do all of them a line.
    app.drop_one();
    assert!(late.hears("hi!\n").await);
    for call in [&mut gone, &mut kept, &mut others] {
        assert!(call.hears("drop\n").await, "an unrelated change ends nothing");
    }
    let mut waiting = Call::get(&house, &shop, "/late/again").await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    guard(&house, vec![only("shop", "/kept"), rule_for("web")]);
    tokio::join!(gone.is_cut(), late.is_cut());
    let refused = tokio::time::timeout(Duration::from_secs(1), waiting.hears("\r\n\r\n")).await;
    assert_eq!(refused, Ok(true), "who has no answer yet is told");
    app.drop_one();
    assert!(kept.hears("drop\n").await && others.hears("drop\n").await);
    assert!(Call::get(&house, &shop, "/gone").await.hears("403").await);
    assert!(drip.metrics().contains("causeway_proxy_withdrawn_total"), "{}", drip.metrics());

    // Now it may do nothing at all: its connection goes, the other caller's stays.
    guard(&house, vec![rule_for("web")]);
    kept.is_cut().await;
    app.drop_one();
    assert!(others.hears("drop\n").await);
    assert!(Call::get(&house, &shop, "/kept").await.hears("403").await);
}

#[tokio::test(start_paused = true)]
async fn a_websocket_lasts_through_unrelated_changes_and_ends_with_its_right() {
    let house = House::new();
    let app = Drip::start(&house);
    guard(&house, vec![rule_for("shop"), rule_for("web")]);
    let drip = start_drip(&house, &app).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    let web = start_sidecar(&house, "web", 1, None).await;
    for proxy in [&drip, &shop, &web] {
        caught_up(&house, proxy).await;
    }
    let mut sockets = Vec::new();
    for proxy in [&shop, &web] {
        let mut client = Client::connect(&house.net(), proxy.outbound_address().unwrap()).await;
        let mut request = House::request("GET http://drip.mesh/ws");
        request.headers_mut().insert("upgrade", "echo".parse().unwrap());
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        let (status, upgraded) = client.upgrade(request).await.unwrap();
        assert_eq!(status, 101);
        sockets.push(hyper_util::rt::TokioIo::new(upgraded));
    }
    let [shops, webs] = &mut sockets[..] else { panic!("two") };
    change_other_things(&house);
    guard(&house, vec![only("shop", "/ws"), rule_for("web")]);
    caught_up(&house, &drip).await;
    for socket in [&mut *shops, &mut *webs] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket.write_all(b"echo").await.unwrap();
        let mut heard = [0; 4];
        socket.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"echo", "an unrelated change, and one that leaves its right, end nothing");
    }
    guard(&house, vec![rule_for("web")]);
    let ended = tokio::time::timeout(Duration::from_secs(1), shops.read_u8()).await;
    assert!(ended.unwrap().is_err(), "it ends within a second");
    webs.write_all(b"echo").await.unwrap();
    let mut heard = [0; 4];
    webs.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"echo");
}

/// A caller that speaks HTTP/2 by itself.
async fn mesh_client(
    house: &House,
    to: &Proxy,
    as_who: &str,
) -> std::io::Result<(
    h2::client::SendRequest<bytes::Bytes>,
    impl Future<Output = Result<(), h2::Error>> + use<>,
)> {
    let config =
        mesh_client_config(&house.credentials(as_who), Expected::Service(House::key("drip")), &[b"h2"]);
    let stream = house.net().connect(to.inbound_address().unwrap()).await?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(unnamed_server(), stream).await?;
    let (send, connection) = h2::client::handshake(stream).await.map_err(std::io::Error::other)?;
    Ok((send, connection))
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_may_do_nothing_is_told_to_go_and_its_streams_are_reset() {
    let house = House::new();
    let app = Drip::start(&house);
    guard(&house, vec![rule_for("shop"), rule_for("web")]);
    let drip = start_drip(&house, &app).await;
    caught_up(&house, &drip).await;
    let (mut send, connection) = mesh_client(&house, &drip, "shop").await.unwrap();
    let (_other, others) = mesh_client(&house, &drip, "web").await.unwrap();
    let mut others = Box::pin(others);
    let request = http::Request::get("https://drip/stream").body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let streaming = async {
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hi!\n");
        guard(&house, vec![rule_for("web")]);
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::INADEQUATE_SECURITY), "gRPC reads: permission denied");
    };
    let ((), ended) = tokio::join!(streaming, tokio::time::timeout(Duration::from_secs(2), connection));
    assert!(ended.is_ok(), "the connection was told to go, and went");
    let still = tokio::time::timeout(Duration::from_millis(100), &mut others).await;
    assert!(still.is_err(), "the other caller's stays");
}

#[tokio::test(start_paused = true)]
async fn connections_of_bytes_end_with_their_right() {
    let house = House::new();
    let app = Drip::start(&house);
    house.put("guard", Spec::AccessPolicy(policy("raw", vec![rule_for("shop"), rule_for("web")])));
    let mut role = sidecar_role(&house, "raw", None);
    (role.app, role.inbound) = (Some(app.address), Some(house.address(15008)));
    role.protocol = Protocol::Tcp;
    let mut options = options(&house, Role::Sidecar(role), house.snapshots());
    options.credentials = Some(house.credentials("raw"));
    let raw = Proxy::start(options, &Scope::root("raw")).await.unwrap();
    let placing = house.place("raw", "raw-1", app.address).mesh(raw.inbound_address().unwrap());
    placing.with(|instance| instance.protocol = Protocol::Tcp).put();
    let mut calls = Vec::new();
    for (service, port) in [("shop", 9101), ("web", 9102)] {
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let mut role = sidecar_role(&house, service, None);
        role.upstreams = vec![(House::key("raw"), local)];
        let mut options = crate::common::options(&house, Role::Sidecar(role), house.snapshots());
        options.credentials = Some(house.credentials(service));
        let proxy = Proxy::start(options, &Scope::root(service)).await.unwrap();
        caught_up(&house, &proxy).await;
        let mut stream = house.net().connect(local).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut call = Call(stream);
        assert!(call.hears("hi!\n").await, "{service}");
        calls.push((proxy, call));
    }
    change_other_things(&house);
    let from = vec![Peer { namespace: name("default"), service: None }];
    let all = AccessRule { from, ..AccessRule::default() };
    house.put("guard", Spec::AccessPolicy(policy("raw", vec![all])));
    caught_up(&house, &raw).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    app.drop_one();
    for (_, call) in &mut calls {
        assert!(call.hears("drop\n").await, "what is still allowed goes on");
    }
    // A rule that speaks of requests allows no bytes.
    house.put("guard", Spec::AccessPolicy(policy("raw", vec![only("shop", "/*"), rule_for("web")])));
    calls[0].1.is_cut().await;
    app.drop_one();
    assert!(calls[1].1.hears("drop\n").await);
}

fn revoke(house: &House, service: &str) {
    let later = house.clock().now() + Duration::from_secs(10);
    let until = Timestamp::from(house.clock().now() + Duration::from_secs(1_000_000));
    house.revoke(|list| list.revoke_service(House::key(service), later.into(), until));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_callers_streams_break_on_the_side_of_the_called_and_others_go_on() {
    let house = House::new();
    let app = Drip::start(&house);
    let drip = start_drip(&house, &app).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    let web = start_sidecar(&house, "web", 1, None).await;
    for proxy in [&drip, &shop, &web] {
        caught_up(&house, proxy).await;
    }
    let mut gone = Call::begun(&house, &shop, "/").await;
    let mut kept = Call::begun(&house, &web, "/").await;
    revoke(&house, "more");
    caught_up(&house, &drip).await;
    app.drop_one();
    assert!(gone.hears("drop\n").await && kept.hears("drop\n").await, "somebody else was revoked");
    revoke(&house, "shop");
    gone.is_cut().await;
    app.drop_one();
    assert!(kept.hears("drop\n").await);
    let mut refused = Call::get(&house, &shop, "/").await;
    assert!(refused.hears("tls_protocol_error").await, "nor is it let in again");
}

/// Whoever has the stolen key of a service and waits to be called.
#[tokio::test(start_paused = true)]
async fn a_revoked_services_connections_break_on_the_side_of_the_caller() {
    let house = House::new();
    let app = Drip::start(&house);
    // The thief's picture does not tell of it.
    let (frozen, pictures) = watch::channel(Arc::default());
    let mut role = sidecar_role(&house, "drip", None);
    (role.app, role.inbound) = (Some(app.address), Some(house.address(15008)));
    let mut options = options(&house, Role::Sidecar(role), pictures);
    options.credentials = Some(house.credentials("drip"));
    let thief = Proxy::start(options, &Scope::root("drip")).await.unwrap();
    house.place("drip", "drip-1", app.address).mesh(thief.inbound_address().unwrap()).put();
    frozen.send_replace(house.snapshots().borrow().clone());
    thief.planned(house.revision()).await;
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let mut gone = Call::begun(&house, &shop, "/").await;
    let mut waiting = Call::get(&house, &shop, "/late").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    revoke(&house, "drip");
    gone.is_cut().await;
    assert!(waiting.hears("502").await, "who has no answer yet is told");
    let mut refused = Call::get(&house, &shop, "/").await;
    assert!(refused.hears("was revoked").await, "nor is it called again");
}
