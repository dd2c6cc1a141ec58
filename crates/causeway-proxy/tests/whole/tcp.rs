//! Connections of bytes: in plaintext, through a pair of sidecars, refused, broken, tried elsewhere, ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use causeway_base::Scope;
use causeway_base::net::{BindOptions, Stream};
use causeway_model::{
    AccessPolicy, AccessRule, Circuit, PolicyTarget, Protocol, ServicePort, Spec, TargetKind, TrafficPolicy,
    TrafficTimeouts,
};
use causeway_proxy::{Proxy, Role};
use causeway_testkit::House;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

const LOCAL: &str = "127.0.0.1:9101";
const BANNER: &[u8] = b"220 hello from ";

/// Says who it is as soon as somebody connects, then gives every byte back; ends when the client has ended.
struct Echo {
    address: SocketAddr,
    name: &'static str,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    fn start(house: &House, name: &'static str, port: u16) -> Self {
        Echo::at(house, name, house.address(port))
    }

    fn at(house: &House, name: &'static str, address: SocketAddr) -> Self {
        let mut listener = house.net().bind(address, BindOptions::default()).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        #[allow(clippy::disallowed_methods, reason = "an app of a test stands outside the house")]
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                #[allow(clippy::disallowed_methods, reason = "as above")]
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(stream);
                    write.write_all(&[BANNER, name.as_bytes()].concat()).await.unwrap();
                    // It breaks when the client is cut off.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.write_all(b"bye").await;
                    let _ = write.shutdown().await;
                });
            }
        });
        Echo { address, name, connections, task }
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Registers it as an instance of `service` without a sidecar.
    fn place(&self, house: &House, service: &str) {
        house.place(service, self.name, self.address).with(|i| i.protocol = Protocol::Tcp).put();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The sidecar of `shop`, whose port [`LOCAL`] stands for `db`.
async fn shop(house: &House) -> Proxy {
    let mut role = sidecar_role(house, "shop", None);
    role.upstreams = vec![(House::key("db"), LOCAL.parse().unwrap())];
    let mut options = options(house, Role::Sidecar(role), house.snapshots());
    options.credentials = Some(house.credentials("shop"));
    let shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    caught_up(house, &shop).await;
    shop
}

/// A sidecar in front of `app`, registered as an instance of `db`.
async fn db(house: &House, app: &Echo, protocol: Protocol) -> Proxy {
    let mut role = sidecar_role(house, "db", None);
    (role.app, role.inbound) = (Some(app.address), Some(house.address(15008)));
    role.protocol = protocol;
    let mut options = options(house, Role::Sidecar(role), house.snapshots());
    options.credentials = Some(house.credentials("db"));
    let db = Proxy::start(options, &Scope::root("db")).await.unwrap();
    let placing = house.place("db", app.name, app.address).mesh(db.inbound_address().unwrap());
    placing.with(|i| i.protocol = Protocol::Tcp).put();
    db
}

async fn call(house: &House) -> Stream {
    house.net().connect(LOCAL.parse().unwrap()).await.unwrap()
}

/// Speaks with an echo and gives its name; half of what is said is said after the client's own end was heard.
async fn converse(stream: &mut Stream, bytes: usize) -> String {
    let mut banner = [0; BANNER.len() + 4];
    stream.read_exact(&mut banner).await.unwrap();
    assert!(banner.starts_with(BANNER));
    let sent: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let hear = read.read_to_end(&mut heard);
    let ((), count) = tokio::join!(send, hear);
    count.unwrap();
    assert!(heard.strip_suffix(b"bye") == Some(&sent[..]), "{} of {bytes} bytes came back", heard.len());
    String::from_utf8_lossy(&banner[BANNER.len()..]).into_owned()
}

/// A client that is cut off, or refused, gets no byte of an answer.
async fn assert_refused(house: &House) {
    let mut heard = Vec::new();
    let _ = call(house).await.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
}

fn last_failure(proxy: &Proxy) -> serde_json::Value {
    proxy.failures().as_array().unwrap().last().cloned().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways_in_plaintext_and_ends_are_passed_on() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    app.place(&house, "db");
    let shop = shop(&house).await;
    assert_eq!(converse(&mut call(&house).await, 1_000_000).await, "db-1");
    assert_eq!(converse(&mut call(&house).await, 0).await, "db-1");
    until(|| shop.metrics().contains("causeway_proxy_tcp_connections_total{direction=\"outbound\",namespace=\"default\",service=\"db\"} 2")).await;
    let metrics = shop.metrics();
    assert!(metrics.contains("causeway_proxy_tcp_bytes_sent_total{direction=\"outbound\",namespace=\"default\",service=\"db\"} 1000000"), "{metrics}");
    assert!(metrics.contains("causeway_proxy_tcp_bytes_received_total{direction=\"outbound\",namespace=\"default\",service=\"db\"} 1000044"), "{metrics}");
    assert!(!metrics.contains("tcp_connections_failed_total"), "{metrics}");
    let report = shop.traffic();
    assert_eq!((report.edges[0].requests, report.edges[0].failures), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn bytes_cross_the_mesh_as_mutual_tls_and_ends_are_passed_on() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    let db = db(&house, &app, Protocol::Tcp).await;
    let shop = shop(&house).await;
    for bytes in [0, 1, 20_000, 3_000_000] {
        assert_eq!(converse(&mut call(&house).await, bytes).await, "db-1");
    }
    until(|| {
        db.metrics().contains(
            "causeway_proxy_tcp_connections_total{direction=\"inbound\",namespace=\"default\",service=\"db\"} 4",
        )
    })
    .await;
    assert!(db.metrics().contains(
        "tcp_bytes_sent_total{direction=\"inbound\",namespace=\"default\",service=\"db\"} 3020001"
    ));
    assert_eq!(shop.traffic().edges[0].failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_cannot_be_made_is_tried_elsewhere() {
    let house = House::new();
    let (dead, app) = (Echo::start(&house, "dead", 5432), Echo::start(&house, "db-1", 5432));
    dead.place(&house, "db");
    app.place(&house, "db");
    drop(dead);
    let shop = shop(&house).await;
    for _ in 0..6 {
        assert_eq!(converse(&mut call(&house).await, 10).await, "db-1");
    }
    assert!(shop.metrics().contains("causeway_proxy_retries_total"), "{}", shop.metrics());
    drop(app);
    assert_refused(&house).await;
    until(|| last_failure(&shop)["reason"] == "connection_refused").await;
    assert_eq!(last_failure(&shop)["tried"].as_array().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_whose_app_is_down_says_so_before_a_byte_is_sent() {
    let house = House::new();
    let (dead, app) = (Echo::start(&house, "dead", 5432), Echo::start(&house, "db-1", 5432));
    let (_first, _second) = (db(&house, &dead, Protocol::Tcp).await, db(&house, &app, Protocol::Tcp).await);
    drop(dead);
    let shop = shop(&house).await;
    for _ in 0..6 {
        assert_eq!(converse(&mut call(&house).await, 10).await, "db-1");
    }
    drop(app);
    assert_refused(&house).await;
    until(|| last_failure(&shop)["reason"] == "connection_refused").await;
    let details = last_failure(&shop)["details"].as_str().unwrap().to_owned();
    assert!(details.starts_with("the sidecar of ") && details.contains("cannot connect to"), "{details}");
}

#[tokio::test(start_paused = true)]
async fn an_app_of_requests_is_not_reached_as_bytes() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 8080);
    // Its sidecar guards requests, but somebody registers it as one that takes bytes.
    let db = db(&house, &app, Protocol::Http).await;
    let shop = shop(&house).await;
    assert_refused(&house).await;
    until(|| last_failure(&shop)["reason"] == "tls_protocol_error").await;
    assert_eq!(app.count(), 0);
    // Nor does a caller of our own trust domain that asks by hand.
    let alpn: &[&[u8]] = &[b"causeway-tcp"];
    let expected = causeway_identity::Expected::Service(House::key("db"));
    let config = causeway_identity::mesh_client_config(&house.credentials("shop"), expected, alpn);
    let stream = house.net().connect(db.inbound_address().unwrap()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    assert!(connector.connect(causeway_identity::unnamed_server(), stream).await.is_err());
    assert_eq!(app.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_app_of_bytes_is_not_asked_by_request() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    let db = db(&house, &app, Protocol::Tcp).await;
    let shop = shop(&house).await;
    let answer = house.ask(shop.outbound_address().unwrap(), "GET http://db.mesh/").await;
    assert_eq!(answer.line(), "500 Service default/db speaks TCP there and no HTTP");
    for alpn in [&[b"h2".as_slice()][..], &[b"http/1.1"], &[]] {
        let expected = causeway_identity::Expected::Service(House::key("db"));
        let config = causeway_identity::mesh_client_config(&house.credentials("shop"), expected, alpn);
        let stream = house.net().connect(db.inbound_address().unwrap()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let made = connector.connect(causeway_identity::unnamed_server(), stream).await;
        if let Ok(mut stream) = made {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: db\r\n\r\n").await;
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
        }
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn policies_speak_of_bytes_too() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    let db = db(&house, &app, Protocol::Tcp).await;
    let shop = shop(&house).await;
    let policy = |methods: &[&str]| {
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        let allow = vec![AccessRule { methods, ..AccessRule::default() }];
        let targets = vec![House::key("db")];
        Spec::AccessPolicy(AccessPolicy { targets, allow, ..AccessPolicy::default() })
    };
    house.put("guard", policy(&["GET"]));
    caught_up(&house, &db).await;
    assert_refused(&house).await;
    assert_eq!(app.count(), 0);
    until(|| last_failure(&shop)["reason"] == "http_request_denied").await;
    let details = last_failure(&shop)["details"].as_str().unwrap().to_owned();
    assert!(details.contains("AccessPolicy default/guard does not allow"), "{details}");
    house.put("guard", policy(&[]));
    caught_up(&house, &db).await;
    assert_eq!(converse(&mut call(&house).await, 10).await, "db-1");
}

#[tokio::test(start_paused = true)]
async fn connect_leads_to_services_of_bytes_by_name() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    let _db = db(&house, &app, Protocol::Tcp).await;
    let shop = shop(&house).await;
    let mut stream = house.net().connect(shop.outbound_address().unwrap()).await.unwrap();
    stream.write_all(b"CONNECT db.mesh:5432 HTTP/1.1\r\nhost: db.mesh:5432\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    assert_eq!(converse(&mut stream, 100_000).await, "db-1");
}

#[tokio::test(start_paused = true)]
async fn a_further_port_is_asked_for_by_number_and_only_if_the_app_named_it() {
    let house = House::new();
    let http = house.app("db");
    let further = Echo::at(&house, "db-7", SocketAddr::new(http.address().ip(), 5432));
    let secret = Echo::at(&house, "db-8", SocketAddr::new(http.address().ip(), 6000));
    let mut role = sidecar_role(&house, "db", Some(&http));
    role.tcp_ports = vec![further.address];
    let mut options = options(&house, Role::Sidecar(role), house.snapshots());
    options.credentials = Some(house.credentials("db"));
    let db = Proxy::start(options, &Scope::root("db")).await.unwrap();
    let port = |label: &str, port, protocol| ServicePort { name: Some(name(label)), port, protocol };
    let declare = |raw| {
        let ports = vec![port(raw, 5432, Protocol::Tcp), port("http", 80, Protocol::Http)];
        house.put("db", Spec::Service(causeway_model::Service { ports, ..Default::default() }));
        let placing = house.place("db", "db-1", http.address()).mesh(db.inbound_address().unwrap());
        placing.with(|i| i.ports = [("pg".into(), 5432), ("secret".into(), 6000)].into()).put();
    };
    declare("pg");
    let shop = shop(&house).await;
    assert_eq!(converse(&mut call(&house).await, 10).await, "db-7");
    assert_eq!(house.ask(shop.outbound_address().unwrap(), "GET http://db.mesh/").await.line(), "200 db");
    // A registration may name any port; the sidecar gives out what its own flags name.
    declare("secret");
    caught_up(&house, &shop).await;
    assert_refused(&house).await;
    assert_eq!(secret.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lasts_until_the_drain_is_over() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    let db = db(&house, &app, Protocol::Tcp).await;
    let shop = shop(&house).await;
    let (mut short, mut long) = (call(&house).await, call(&house).await);
    long.read_exact(&mut [0; BANNER.len() + 4]).await.unwrap();
    let draining = db.drain(Duration::from_secs(10));
    let using = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(converse(&mut short, 1000).await, "db-1", "what was there before the drain goes on");
        let mut rest = Vec::new();
        let ended = long.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "cut off, {ended:?}");
    };
    let (is_whole, ()) = tokio::join!(draining, using);
    assert!(!is_whole, "one was still open");
    until(|| last_failure(&db)["reason"] == "drained").await;
    until(|| last_failure(&shop)["reason"] == "upstream_broke").await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_moves_ends() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    app.place(&house, "db");
    let shop = shop(&house).await;
    let mut stream = call(&house).await;
    stream.read_exact(&mut [0; BANNER.len() + 4]).await.unwrap();
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(1800)).await;
    stream.write_all(b"x").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"x");
    assert_eq!(begun.elapsed().as_secs(), 1800 + 3600, "an hour after the last byte");
    until(|| last_failure(&shop)["reason"] == "idle_limit").await;
}

// === on real sockets, where bytes are spliced ===

/// An app on a port of this machine that answers each connection as `serve` does.
async fn real_app<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[allow(clippy::disallowed_methods, reason = "an app of a test stands outside the house")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            #[allow(clippy::disallowed_methods, reason = "as above")]
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Where `db` is to be found at the sidecar of `shop`, with the sidecar; `is_mesh` puts one in front of the app as well.
async fn real_pair(house: &House, app: SocketAddr, is_mesh: bool) -> (SocketAddr, Vec<Proxy>) {
    let any = || SocketAddr::new("127.0.0.1".parse().unwrap(), 0);
    let start = async |service: &str, app: Option<SocketAddr>, upstreams: Vec<_>| {
        let mut role = sidecar_role(house, service, None);
        (role.app, role.inbound, role.protocol, role.upstreams) =
            (app, app.map(|_| any()), Protocol::Tcp, upstreams);
        let mut options = options(house, Role::Sidecar(role), house.snapshots());
        options.net = causeway_base::net::Net::tcp();
        options.credentials = Some(house.credentials(service));
        Proxy::start(options, &Scope::root("real")).await.unwrap()
    };
    let mut proxies = Vec::new();
    let mut placing = house.place("db", "db-1", app).with(|i| i.protocol = Protocol::Tcp);
    if is_mesh {
        let db = start("db", Some(app), vec![]).await;
        placing = placing.mesh(db.inbound_address().unwrap());
        proxies.push(db);
    }
    placing.put();
    let shop = start("shop", None, vec![(House::key("db"), any())]).await;
    caught_up(house, &shop).await;
    let local = shop.upstream_address(&House::key("db")).unwrap();
    proxies.push(shop);
    (local, proxies)
}

#[tokio::test]
async fn spliced_bytes_are_the_same_bytes() {
    for is_mesh in [false, true] {
        let house = House::new();
        let app = real_app(async |mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            // Only after the client's end: what comes back is half of a connection.
            stream.write_all(&all).await.unwrap();
        })
        .await;
        let (local, proxies) = real_pair(&house, app, is_mesh).await;
        let mut stream = tokio::net::TcpStream::connect(local).await.unwrap();
        let sent: Vec<u8> = (0..20_000_000_u32).map(|at| (at * 31 % 253) as u8).collect();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert!(heard == sent, "{} of {} bytes came back", heard.len(), sent.len());
        until(|| proxies.last().unwrap().metrics().contains("service=\"db\"} 20000000")).await;
    }
}

#[tokio::test]
async fn many_small_messages_at_once_keep_their_order() {
    for is_mesh in [false, true] {
        let house = House::new();
        let app = real_app(async |stream| {
            let (mut read, mut write) = stream.into_split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let (local, _proxies) = real_pair(&house, app, is_mesh).await;
        let talks = (0..50_u32).map(|number| async move {
            let mut stream = tokio::net::TcpStream::connect(local).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for turn in 0..100_u32 {
                let sent: Vec<u8> = (0..turn % 7 * 40 + 1).map(|at| (number + turn + at) as u8).collect();
                stream.write_all(&sent).await.unwrap();
                let mut heard = vec![0; sent.len()];
                stream.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard, sent);
            }
        });
        futures_util::future::join_all(talks).await;
    }
}

#[tokio::test]
async fn a_broken_connection_is_not_passed_on_as_an_orderly_end() {
    for is_mesh in [false, true] {
        let house = House::new();
        let app = real_app(async |mut stream| {
            stream.write_all(b"half an ans").await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            // A reset, as when the process is killed with unread bytes.
            stream.set_zero_linger().unwrap();
        })
        .await;
        let (local, proxies) = real_pair(&house, app, is_mesh).await;
        let mut stream = tokio::net::TcpStream::connect(local).await.unwrap();
        stream.read_exact(&mut [0; 11]).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let ended = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "mesh: {is_mesh}");
        until(|| last_failure(proxies.last().unwrap())["reason"] == "upstream_broke").await;
    }
}

// === by policy ===

fn policy(timeouts: TrafficTimeouts, circuit: Option<Circuit>) -> Spec {
    let target = PolicyTarget {
        kind: TargetKind::Service,
        namespace: House::key("db").namespace,
        name: name("db"),
        section: None,
    };
    let (targets, timeouts) = (vec![target], Some(timeouts));
    Spec::TrafficPolicy(TrafficPolicy { targets, timeouts, circuit, ..Default::default() })
}

#[tokio::test(start_paused = true)]
async fn policies_say_how_long_a_connection_may_be_silent_and_last() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    app.place(&house, "db");
    let (idle, stream) = (Some(Duration::from_secs(10)), Some(Duration::from_secs(60)));
    house.put("patience", policy(TrafficTimeouts { idle, stream, ..Default::default() }, None));
    let shop = shop(&house).await;
    let begun = tokio::time::Instant::now();
    let mut silent = call(&house).await;
    let _ = silent.read_to_end(&mut Vec::new()).await;
    assert_eq!(begun.elapsed().as_secs(), 10);
    until(|| last_failure(&shop)["reason"] == "idle_limit").await;
    let begun = tokio::time::Instant::now();
    let mut busy = call(&house).await;
    let mut seen = [0; 1];
    while busy.write_all(b"x").await.is_ok() && busy.read_exact(&mut seen).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((60..62).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    until(|| last_failure(&shop)["reason"] == "time_limit").await;
}

#[tokio::test(start_paused = true)]
async fn policies_say_how_many_connections_an_endpoint_gets_at_once() {
    let house = House::new();
    let app = Echo::start(&house, "db-1", 5432);
    app.place(&house, "db");
    let circuit = Circuit { connections: Some(1), ..Default::default() };
    house.put("few", policy(TrafficTimeouts::default(), Some(circuit)));
    let shop = shop(&house).await;
    let mut first = call(&house).await;
    first.read_exact(&mut [0; BANNER.len() + 4]).await.unwrap();
    assert_refused(&house).await;
    until(|| last_failure(&shop)["reason"] == "connection_limit_reached").await;
    drop(first);
    until_async(async || {
        let mut heard = Vec::new();
        let mut next = call(&house).await;
        let _ = next.read_buf(&mut heard).await;
        !heard.is_empty()
    })
    .await;
}
