//! Redirected connections: by mesh name, by address, by server name, to anywhere else.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_base::Scope;
use causeway_base::net::{BindOptions, Stream};
use causeway_model::{Protocol, ServiceKey};
use causeway_proxy::{Named, Proxy, Role};
use causeway_testkit::{App, Client, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::common::*;

/// A sidecar of `shop` to which connections are redirected.
async fn shop(house: &House) -> Proxy {
    let options = transparent(house);
    let shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    caught_up(house, &shop).await;
    shop
}

fn transparent(house: &House) -> causeway_proxy::Options {
    let mut role = sidecar_role(house, "shop", None);
    role.transparent = vec!["127.0.0.1:15006".parse().unwrap()];
    let mut options = options(house, Role::Sidecar(role), house.snapshots());
    options.credentials = Some(house.credentials("shop"));
    options
}

/// A connection of the app to `to`, which the kernel redirects.
async fn redirected(house: &House, shop: &Proxy, to: SocketAddr) -> Stream {
    let at = shop.transparent_addresses()[0];
    Stream::Memory(house.faults().connect_redirected(to, at).await.unwrap())
}

async fn named(shop: &Proxy, host: &str, port: u16) -> SocketAddr {
    match shop.name(host).await {
        Named::Service(address) => SocketAddr::from((address, port)),
        other => panic!("{host} is {other:?}"),
    }
}

async fn ask(house: &House, shop: &Proxy, to: SocketAddr, line: &str) -> String {
    let mut client = Client::over(redirected(house, shop, to).await).await;
    client.send(House::request(line)).await.unwrap().line()
}

/// Says hello at once, and then nothing.
fn greeter(house: &House, address: SocketAddr) {
    let mut listener = house.net().bind(address, BindOptions::default()).unwrap();
    #[allow(clippy::disallowed_methods, reason = "an app of a test stands outside the house")]
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"hello").await.unwrap();
            open.push(stream);
        }
    });
}

async fn greeting(mut stream: Stream) -> Duration {
    let begun = tokio::time::Instant::now();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    begun.elapsed()
}

/// An app behind a sidecar of its own.
async fn behind_sidecar(house: &House, service: &str) -> (App, Proxy) {
    let app = house.app(service);
    let sidecar = start_sidecar(house, service, 1, Some(&app)).await;
    (app, sidecar)
}

#[tokio::test(start_paused = true)]
async fn names_lead_to_services_through_the_mesh() {
    let house = House::new();
    let (app, _cart) = behind_sidecar(&house, "cart").await;
    let shop = shop(&house).await;
    let cart = named(&shop, "cart.mesh", 80).await;
    assert_eq!(cart.ip().to_string().split('.').next(), Some("240"));
    assert_eq!(named(&shop, "Cart.Default.Mesh.", 80).await, cart, "one service, one address");
    assert_eq!(named(&shop, "cart", 80).await, cart, "in its own namespace a name is enough");
    assert_eq!(ask(&house, &shop, cart, "GET cart.mesh/x").await, "200 cart");
    assert_eq!(ask(&house, &shop, cart, "GET anything.example/y").await, "200 cart", "the address says it");
    let other_port = SocketAddr::new(cart.ip(), 8080);
    assert_eq!(ask(&house, &shop, other_port, "GET cart.mesh/z").await, "200 cart");
    let seen: Vec<_> = app.seen().iter().map(|seen| seen.headers["x-causeway-caller"].clone()).collect();
    assert_eq!(seen, ["spiffe://house.test/ns/default/svc/shop"; 3], "all of it came as mutual TLS");
    assert_eq!(shop.name("www.example").await, Named::Foreign);
    assert_eq!(shop.name("nobody").await, Named::Foreign);
    assert_eq!(shop.name("nobody.mesh").await, Named::Nobody);
}

#[tokio::test(start_paused = true)]
async fn a_declared_protocol_is_not_waited_for_and_an_unknown_one_not_for_long() {
    let house = House::new();
    let (db, foreign) = (house.address(5432), house.address(3306));
    greeter(&house, db);
    greeter(&house, foreign);
    house.place("db", "db-1", db).with(|i| i.protocol = Protocol::Tcp).put();
    let shop = shop(&house).await;
    let by_name = redirected(&house, &shop, named(&shop, "db.mesh", 5432).await).await;
    assert_eq!(greeting(by_name).await, Duration::ZERO);
    let by_address = redirected(&house, &shop, db).await;
    assert_eq!(greeting(by_address).await, Duration::ZERO);
    let took = greeting(redirected(&house, &shop, foreign).await).await;
    assert!((200..210).contains(&took.as_millis()), "{took:?}");
    assert_eq!(shop.traffic().edges.len(), 0, "connections that are open are not written down yet");
}

#[tokio::test(start_paused = true)]
async fn an_address_leads_to_that_very_instance_through_the_mesh() {
    let house = House::new();
    let (first, second) = (house.app("one"), house.app("two"));
    let _first = start_sidecar(&house, "cart", 1, Some(&first)).await;
    let _second = start_sidecar(&house, "cart", 2, Some(&second)).await;
    let shop = shop(&house).await;
    for _ in 0..5 {
        assert_eq!(ask(&house, &shop, second.address(), "GET x/").await, "200 two");
    }
    assert_eq!(second.seen()[0].headers["x-causeway-caller"], "spiffe://house.test/ns/default/svc/shop");
    assert_eq!(first.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn anything_else_goes_where_it_was_going_untouched() {
    let house = House::new();
    let (_app, _cart) = behind_sidecar(&house, "cart").await;
    let shop = shop(&house).await;
    let outside = house.app("outside");
    assert_eq!(ask(&house, &shop, outside.address(), "GET www.example/a%2Fb/../c").await, "200 outside");
    let seen = &outside.seen()[0];
    assert_eq!(seen.line, "GET /a%2Fb/../c");
    assert!(!seen.headers.contains_key("via") && !seen.headers.contains_key("x-request-id"), "{seen:?}");
    // But a request that names a service is the mesh's, wherever its connection was going.
    assert_eq!(ask(&house, &shop, outside.address(), "GET cart.mesh/").await, "200 cart");
    // Nor does a connection to the sidecar itself go round in a circle.
    for own in [shop.transparent_addresses()[0], shop.outbound_address().unwrap()] {
        let mut heard = Vec::new();
        let _ = redirected(&house, &shop, own).await.read_to_end(&mut heard).await;
        assert!(heard.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn kept_connections_may_change_between_the_mesh_and_their_host() {
    let house = House::new();
    let (_app, _cart) = behind_sidecar(&house, "cart").await;
    let shop = shop(&house).await;
    let outside = house.app("outside");
    let mut client = Client::over(redirected(&house, &shop, outside.address()).await).await;
    assert_eq!(client.send(House::request("GET cart.mesh/")).await.unwrap().line(), "200 cart");
    assert_eq!(client.send(House::request("GET www.example/")).await.unwrap().line(), "200 outside");
}

#[tokio::test(start_paused = true)]
async fn virtual_addresses_that_nobody_was_given_lead_nowhere() {
    let house = House::new();
    let shop = shop(&house).await;
    let mut heard = Vec::new();
    let to = "240.240.7.7:80".parse().unwrap();
    let _ = redirected(&house, &shop, to).await.read_to_end(&mut heard).await;
    assert!(heard.is_empty());
    let failures = shop.failures().to_string();
    assert!(failures.contains("240.240.7.7:80 stands for no service"), "{failures}");
}

/// The beginning of a TLS connection to `name`.
fn hello(name: &'static str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client = rustls::ClientConnection::new(config.into(), name.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Gives the first bytes of its connections to the test.
fn listener(house: &House, address: SocketAddr) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let (said, heard) = mpsc::unbounded_channel();
    let mut listener = house.net().bind(address, BindOptions::default()).unwrap();
    #[allow(clippy::disallowed_methods, reason = "an app of a test stands outside the house")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            bytes.truncate(count);
            said.send(bytes).unwrap();
        }
    });
    heard
}

#[tokio::test(start_paused = true)]
async fn tls_that_is_not_ours_goes_by_its_server_name() {
    let house = House::new();
    let (bank, elsewhere) = (house.address(8443), house.address(443));
    let mut at_bank = listener(&house, bank);
    let mut at_elsewhere = listener(&house, elsewhere);
    house.place("bank", "bank-1", bank).with(|i| i.protocol = Protocol::Tls).put();
    house.service("cart", 1);
    let shop = shop(&house).await;
    for cut in [1, 5, 100] {
        let bytes = hello("bank.mesh");
        let mut stream = redirected(&house, &shop, elsewhere).await;
        stream.write_all(&bytes[..cut]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(&bytes[cut..]).await.unwrap();
        assert_eq!(at_bank.recv().await.unwrap(), bytes, "not a byte is touched");
    }
    let mut stream = redirected(&house, &shop, elsewhere).await;
    let bytes = hello("www.example");
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(at_elsewhere.recv().await.unwrap(), bytes);
    // On the port for calls out, too; there only the mesh can be meant.
    let mut stream = house.net().connect(shop.outbound_address().unwrap()).await.unwrap();
    let bytes = hello("bank.mesh");
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(at_bank.recv().await.unwrap(), bytes);
    for name in ["www.example", "cart.mesh"] {
        let mut stream = house.net().connect(shop.outbound_address().unwrap()).await.unwrap();
        stream.write_all(&hello(name)).await.unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert!(heard.is_empty(), "{name}");
    }
    let failures = shop.failures().to_string();
    assert!(failures.contains("not to \\\"www.example\\\""), "{failures}");
    assert!(failures.contains("Service default/cart speaks HTTP there"), "{failures}");
}

#[tokio::test(start_paused = true)]
async fn a_name_of_the_mesh_is_asked_for_at_its_first_use() {
    let house = House::new();
    house.service("cart", 1);
    let (part, snapshots) = watch::channel(Default::default());
    let (wants, mut wanted) = mpsc::unbounded_channel();
    let mut options = transparent(&house);
    (options.snapshots, options.wants) = (snapshots, Some(wants));
    let shop = Proxy::start(options, &Scope::root("shop")).await.unwrap();
    let whole = house.snapshots().borrow().clone();
    let answer = async {
        assert_eq!(wanted.recv().await, Some(House::key("cart")));
        tokio::time::sleep(Duration::from_millis(30)).await;
        part.send_replace(whole);
    };
    let (found, ()) = tokio::join!(shop.name("cart"), answer);
    assert!(matches!(found, Named::Service(_)), "{found:?}");
    let asked = async |name: &str| {
        let begun = tokio::time::Instant::now();
        (shop.name(name).await, begun.elapsed().as_millis())
    };
    assert!(matches!(asked("nobody.mesh").await, (Named::Nobody, 2000..2010)));
    assert_eq!(asked("nobody.mesh").await, (Named::Nobody, 0), "waited for once");
    assert!(matches!(asked("printer").await, (Named::Foreign, 250..260)));
    assert_eq!(asked("printer").await, (Named::Foreign, 0));
    assert_eq!(asked("www.example").await, (Named::Foreign, 0));
    let asked: Vec<ServiceKey> = std::iter::from_fn(|| wanted.try_recv().ok()).collect();
    assert_eq!(asked, [House::key("nobody"), House::key("printer")]);
}
