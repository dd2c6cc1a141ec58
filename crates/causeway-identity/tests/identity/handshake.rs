//! Handshakes over memory: who is let in, who is refused, and in which words.

use std::sync::Arc;
use std::time::Duration;

use crate::world::{HOUR, World, credulous, self_signed, service, shake};
use causeway_identity::{
    Authorities, CertAuthority, Credentials, Expected, KeyPair, Peer, Svid, control_server_config,
    control_service, mesh_client_config, mesh_server_config, peer, peer_identity, pinned_client_config,
};
use rustls::{ClientConfig, NamedGroup, ProtocolVersion};

const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

fn expect(name: &str) -> Expected {
    Expected::Service(service(name))
}

/// The server must refuse this client with these words.
async fn check_client(world: &World, client: &Arc<ClientConfig>, words: &str) {
    let server = mesh_server_config(&world.credentials("orders"), &[]);
    let (served, called) = shake(&server, client).await;
    let refusal = served.expect_err("the server let it in");
    assert!(refusal.contains(words), "{refusal}");
    called.expect_err("the client got an answer");
}

#[tokio::test(start_paused = true)]
async fn both_sides_see_who_the_other_is() {
    let world = World::new();
    let (orders, cart) = (world.credentials("orders"), world.credentials("cart"));
    let (served, called) =
        shake(&mesh_server_config(&orders, ALPN), &mesh_client_config(&cart, expect("orders"), ALPN)).await;
    let (served, called) = (served.unwrap(), called.unwrap());
    assert_eq!(peer_identity(served.get_ref().1), Some(world.id("cart")));
    assert_eq!(peer_identity(called.get_ref().1), Some(world.id("orders")));
    let expected = Peer {
        id: world.id("cart"),
        serial: cart.svid().serial().to_owned(),
        not_before: cart.svid().not_before(),
        not_after: cart.svid().not_after(),
    };
    assert_eq!(peer(served.get_ref().1), Some(expected));
    for connection in [served.get_ref().1 as &rustls::CommonState, called.get_ref().1] {
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn any_of_several_services_will_do() {
    let world = World::new();
    let any = Expected::AnyOf([service("cart"), service("orders")].into());
    let client = mesh_client_config(&world.credentials("shop"), any, &[]);
    for (name, is_allowed) in [("cart", true), ("orders", true), ("bank", false)] {
        let server = mesh_server_config(&world.credentials(name), &[]);
        assert_eq!(shake(&server, &client).await.1.is_ok(), is_allowed, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let client = Arc::new(credulous(&[&rustls::version::TLS13]).with_no_client_auth());
    check_client(&world, &client, "showed no certificate").await;
    let server = mesh_server_config(&world.credentials("orders"), &[]);
    let told = shake(&server, &client).await.1.unwrap_err();
    assert!(told.contains("it wants a client certificate"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn another_trust_domain_is_refused_on_both_sides() {
    let (world, other) = (World::new(), World::named("elsewhere.example"));
    let client = mesh_client_config(&other.credentials("cart"), expect("orders"), &[]);
    let server = mesh_server_config(&world.credentials("orders"), &[]);
    // The client judges first; to see the server's word the client must believe everybody.
    let refusal = shake(&server, &client).await.1.unwrap_err();
    assert!(refusal.contains("of another trust domain; ours is \"elsewhere.example\""), "{refusal}");
    let foreign = other.odd(&["spiffe://elsewhere.example/ns/default/svc/cart"], &[]);
    check_client(&world, &foreign.client(), "ours is \"causeway.local\"").await;
    // A sound chain does not help: an identity of another domain under our own root.
    let smuggled = world.odd(&["spiffe://elsewhere.example/ns/default/svc/cart"], &[]);
    check_client(&world, &smuggled.client(), "ours is \"causeway.local\"").await;
    // A foreign root that claims our domain's name.
    let liar = World::new();
    let client = liar.odd(&["spiffe://causeway.local/ns/default/svc/cart"], &[]);
    check_client(&world, &client.client(), "not signed by any root we trust").await;
}

#[tokio::test(start_paused = true)]
async fn odd_certificates_are_refused() {
    let world = World::new();
    let (cart, bank) =
        ("spiffe://causeway.local/ns/default/svc/cart", "spiffe://causeway.local/ns/default/svc/bank");
    for (uris, dns, words) in [
        (&[cart, bank][..], &[][..], "has 2 URI subject alternative names"),
        (&[cart, cart], &[], "has 2 URI subject alternative names"),
        (&[cart, "https://causeway.local/"], &[], "has 2 URI subject alternative names"),
        (&[], &["cart.causeway.local"], "names no SPIFFE identity"),
        (&[], &[], "names no SPIFFE identity"),
        (&["spiffe://causeway.local/ns/default/svc/*"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/cart/"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/sa/cart"], &[], "is not an identity of the form"),
        (&["spiffe://CAUSEWAY.local/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["SPIFFE://causeway.local/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["Spiffe://causeway.local/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["https://causeway.local/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe:/causeway.local/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&[" spiffe://causeway.local/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/cart "], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/c%61rt"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns%2Fdefault/svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/Cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns//svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local//ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe:///ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/cart/x"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/../svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/./svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/cart?x=1"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/cart?"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/ns/default/svc/cart#x"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local:443/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://u@causeway.local/ns/default/svc/cart"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local"], &[], "is not an identity of the form"),
        (&["spiffe://causeway.local/svc/cart/ns/default"], &[], "is not an identity of the form"),
        (&[""], &[], "is not an identity of the form"),
        (&["", cart], &[], "has 2 URI subject alternative names"),
        (
            &[cart, "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"],
            &[],
            "has 2 URI subject alternative names",
        ),
        (&[bank, cart, bank], &["cart"], "has 3 URI subject alternative names"),
    ] {
        let odd = world.odd(uris, dns);
        check_client(&world, &odd.client(), words).await;
        let client = mesh_client_config(&world.credentials("shop"), expect("cart"), &[]);
        let refusal = shake(&odd.server(), &client).await.1.expect_err("the client believed it");
        assert!(refusal.contains(words), "{refusal}");
    }
    check_client(&world, &self_signed(world.now(), cart).client(), "not signed by any root we trust").await;
    let server_only = world
        .odd_with(&[cart], &[], |p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]);
    check_client(&world, &server_only.client(), "not meant for this side").await;
    let signer = world.odd_with(&[cart], &[], |p| p.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign));
    check_client(&world, &signer.client(), "one that signs others").await;
    // A second extension of the same kind, whichever of the two is read.
    let twice = world.odd_with(&[cart], &[], |params| {
        // GeneralNames with one URI.
        let length = u8::try_from(bank.len()).unwrap();
        let content = [&[0x30, length + 2, 0x86, length], bank.as_bytes()].concat();
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], content));
    });
    let server = mesh_server_config(&world.credentials("orders"), &[]);
    shake(&server, &twice.client()).await.0.expect_err("two extensions of names");
    // Names of other kinds say nothing, and do no harm.
    let named = world.odd_with(&[cart], &["bank.causeway.local"], |params| {
        params.subject_alt_names.push(rcgen::SanType::IpAddress("10.0.0.1".parse().unwrap()));
        params.subject_alt_names.push(rcgen::SanType::Rfc822Name("bank@causeway.local".try_into().unwrap()));
        params.distinguished_name.push(rcgen::DnType::CommonName, bank);
    });
    let served = shake(&server, &named.client()).await.0.unwrap();
    assert_eq!(peer_identity(served.get_ref().1), Some(world.id("cart")));
    // The control: the same way of making one, with nothing odd about it, is let in.
    let plain = world.odd(&[cart], &["cart.causeway.local"]);
    let served =
        shake(&mesh_server_config(&world.credentials("orders"), &[]), &plain.client()).await.0.unwrap();
    assert_eq!(peer_identity(served.get_ref().1), Some(world.id("cart")));
}

#[tokio::test(start_paused = true)]
async fn expired_and_not_yet_valid_are_refused_by_our_clock() {
    let world = World::new();
    let short =
        Credentials::new(world.svid("cart", Duration::from_secs(60)), world.bundle(), world.clock.clone());
    let client = mesh_client_config(&short.unwrap(), expect("orders"), &[]);
    let server = mesh_server_config(&world.credentials("orders"), &[]);
    tokio::time::advance(Duration::from_secs(60)).await;
    shake(&server, &client).await.0.expect("in its last second it is still good");
    tokio::time::advance(Duration::from_secs(1)).await;
    let (served, called) = shake(&server, &client).await;
    assert!(served.unwrap_err().contains("its certificate expired at 2026-01-01T00:01:00.000Z"));
    let told = called.unwrap_err();
    assert!(told.contains("it says that our certificate is expired"), "{told}");

    let soon = world.odd_with(&["spiffe://causeway.local/ns/default/svc/cart"], &[], |params| {
        params.not_before = std::time::SystemTime::from(world.now().plus(Duration::from_secs(30))).into();
    });
    check_client(&world, &soon.client(), "valid only from 2026-01-01T00:01:31").await;
    tokio::time::advance(Duration::from_secs(30)).await;
    shake(&server, &soon.client()).await.0.expect("now it is valid");
}

#[tokio::test(start_paused = true)]
async fn the_wrong_service_is_refused_by_name() {
    let world = World::new();
    let server = mesh_server_config(&world.credentials("bank"), &[]);
    let client = mesh_client_config(&world.credentials("cart"), expect("orders"), &[]);
    let (served, called) = shake(&server, &client).await;
    let refusal = called.unwrap_err();
    let words =
        "the peer is spiffe://causeway.local/ns/default/svc/bank, but default/orders was expected [CW-1420]";
    assert!(refusal.ends_with(words), "{refusal}");
    let told = served.unwrap_err();
    assert!(told.contains("does not accept our certificate's identity"), "{told}");
    // The same name in another namespace is another service.
    let elsewhere = world.odd(&["spiffe://causeway.local/ns/test/svc/orders"], &[]);
    shake(&elsewhere.server(), &client).await.1.expect_err("another namespace");
}

#[tokio::test(start_paused = true)]
async fn tls_1_2_is_refused() {
    let world = World::new();
    let client = Arc::new(credulous(&[&rustls::version::TLS12]).with_no_client_auth());
    check_client(&world, &client, "it does not speak TLS 1.3").await;
}

#[tokio::test(start_paused = true)]
async fn sessions_are_not_resumed() {
    let world = World::new();
    let server = mesh_server_config(&world.credentials("orders"), &[]);
    let ours = mesh_client_config(&world.credentials("cart"), expect("orders"), &[]);
    // Also a client that would like to: rustls keeps tickets by default.
    let eager = world.odd(&["spiffe://causeway.local/ns/default/svc/cart"], &[]).client();
    for client in [ours, eager] {
        for _ in 0..3 {
            let (served, called) = shake(&server, &client).await;
            for kind in
                [served.unwrap().get_ref().1.handshake_kind(), called.unwrap().get_ref().1.handshake_kind()]
            {
                assert_eq!(kind, Some(rustls::HandshakeKind::Full));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tickets_of_a_server_are_not_used() {
    let world = World::new();
    let generous = world.odd(&["spiffe://causeway.local/ns/default/svc/orders"], &[]).server();
    assert!(generous.send_tls13_tickets > 0);
    let client = mesh_client_config(&world.credentials("cart"), expect("orders"), &[]);
    for _ in 0..3 {
        let called = shake(&generous, &client).await.1.unwrap();
        assert_eq!(called.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test(start_paused = true)]
async fn with_several_roots_the_refusal_is_that_of_the_one_that_signed() {
    let mut world = World::new();
    let before = CertAuthority::generate(&world.domain, world.now());
    tokio::time::advance(HOUR).await;
    world.authority = CertAuthority::generate_for(&world.domain, HOUR, world.now());
    let cart = world.odd_with(&["spiffe://causeway.local/ns/default/svc/cart"], &[], |params| {
        params.not_after = std::time::SystemTime::from(world.now().plus(HOUR * 100)).into();
    });
    tokio::time::advance(HOUR * 2).await;
    let after = CertAuthority::generate(&world.domain, world.now());
    // The root that says more than "not mine" is once the older, once the newer of two.
    for other in [before, after] {
        let roots = format!("{}{}", other.root_pem(), world.authority.root_pem());
        let both = causeway_identity::TrustBundle::from_pem(world.domain.clone(), &roots).unwrap();
        let neighbour = World { authority: other, domain: world.domain.clone(), clock: world.clock.clone() };
        let orders = Credentials::new(neighbour.svid("orders", HOUR), both, world.clock.clone()).unwrap();
        let refusal = shake(&mesh_server_config(&orders, &[]), &cart.client()).await.0.unwrap_err();
        assert!(refusal.contains("root expired at"), "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn live_configurations_follow_a_rotation() {
    let world = World::new();
    let (orders, cart) = (world.credentials("orders"), world.credentials("cart"));
    let (server, client) =
        (mesh_server_config(&orders, &[]), mesh_client_config(&cart, expect("orders"), &[]));
    let mut changes = cart.subscribe();
    let before = shake(&server, &client).await.0.unwrap();
    let fresh = world.svid("cart", HOUR);
    cart.replace(fresh.clone(), world.bundle()).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let after = shake(&server, &client).await.0.unwrap();
    assert_ne!(peer(before.get_ref().1).unwrap().serial, fresh.serial());
    assert_eq!(peer(after.get_ref().1).unwrap().serial, fresh.serial());
    // What does not belong together is refused and changes nothing.
    let stranger = World::new();
    cart.replace(stranger.svid("cart", HOUR), world.bundle()).unwrap_err();
    cart.replace_bundle(World::named("elsewhere.example").bundle()).unwrap_err();
    assert!(!changes.has_changed().unwrap());
    // Publishing the same bundle again is no change.
    cart.replace_bundle(world.bundle()).unwrap();
    assert!(!changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_removed_root_counts_from_the_next_handshake() {
    let world = World::new();
    let (orders, cart) = (world.credentials("orders"), world.credentials("cart"));
    let (server, client) =
        (mesh_server_config(&orders, &[]), mesh_client_config(&cart, expect("orders"), &[]));
    shake(&server, &client).await.0.unwrap();
    let successor = World::new();
    orders.replace_bundle(successor.bundle()).unwrap();
    assert!(!orders.is_vouched() && cart.is_vouched());
    let refusal = shake(&server, &client).await.0.unwrap_err();
    assert!(refusal.contains("not signed by any root we trust"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn roots_overlap_while_one_takes_over() {
    let world = World::new();
    let old = world.credentials("orders");
    let (cert, key) = world.authority.to_pem();
    let mut authorities = Authorities::new(vec![CertAuthority::from_pem(&cert, &key).unwrap()]).unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    authorities.add(CertAuthority::generate(&world.domain, world.now()), world.now()).unwrap();
    let sign = |authorities: &Authorities, now| {
        let key = KeyPair::generate();
        let issued = authorities.sign(&key.csr(), &world.id("cart"), HOUR, now).unwrap();
        let svid = Svid::new(&issued.chain_pem, key).unwrap();
        let bundle =
            causeway_identity::TrustBundle::from_pem(world.domain.clone(), &issued.roots_pem).unwrap();
        Credentials::new(svid, bundle, world.clock.clone()).unwrap()
    };
    let both = authorities.bundle(world.now()).unwrap();
    assert_eq!(both.root_hashes().count(), 2);
    // At first the old root signs still, so who has not heard of the new one is not cut off.
    let early = sign(&authorities, world.now());
    assert_eq!(early.bundle(), both);
    let server = mesh_server_config(&old, &[]);
    shake(&server, &mesh_client_config(&early, expect("orders"), &[])).await.0.unwrap();
    // Once it has settled the new one signs; those with the bundle of both understand either.
    tokio::time::advance(causeway_identity::authority::ROOT_SETTLES).await;
    let late = sign(&authorities, world.now());
    let renewed = Credentials::new(world.svid("orders", HOUR), both, world.clock.clone()).unwrap();
    let server = mesh_server_config(&renewed, &[]);
    let (served, called) = shake(&server, &mesh_client_config(&late, expect("orders"), &[])).await;
    assert_eq!(peer_identity(served.unwrap().get_ref().1), Some(world.id("cart")));
    called.unwrap();
    late.replace_bundle(world.bundle()).unwrap();
    assert!(!late.is_vouched(), "it was the new root that signed");
}

#[tokio::test(start_paused = true)]
async fn an_expired_root_vouches_for_nobody() {
    let world = World::new();
    let short = CertAuthority::generate_for(&world.domain, HOUR, world.now());
    let brief = World { authority: short, domain: world.domain.clone(), clock: world.clock.clone() };
    let server = mesh_server_config(&brief.credentials("orders"), &[]);
    // A thief of the old root's key signs for longer than the root lives.
    let stolen = brief.odd_with(&["spiffe://causeway.local/ns/default/svc/cart"], &[], |params| {
        params.not_after = std::time::SystemTime::from(brief.now().plus(HOUR * 100)).into();
    });
    shake(&server, &stolen.client()).await.0.unwrap();
    tokio::time::advance(HOUR + Duration::from_secs(1)).await;
    let refusal = shake(&server, &stolen.client()).await.0.unwrap_err();
    assert!(refusal.contains("root expired at 2026-01-01T01:00:00.000Z"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_believes_the_pinned_root_and_the_control_server_only() {
    let world = World::new();
    let pin = world.authority.root_sha256();
    let server = control_server_config(&world.control(), &[b"h2"]);
    let client = pinned_client_config(pin, &world.clock, &[b"h2"]);
    let (served, called) = shake(&server, &client).await;
    assert_eq!(peer_identity(served.unwrap().get_ref().1), None, "a newcomer is nobody yet");
    let who = peer_identity(called.unwrap().get_ref().1).unwrap();
    assert_eq!(who.service, control_service());

    let wrong_pin = pinned_client_config([7; 32], &world.clock, &[]);
    let refusal = shake(&server, &wrong_pin).await.1.unwrap_err();
    assert!(refusal.contains("does not hold the root that the join token names"), "{refusal}");
    // A member of the mesh plays the control server: its chain is sound, its name is not.
    let member = control_server_config(&world.credentials("cart"), &[]);
    let refusal = shake(&member, &client).await.1.unwrap_err();
    assert!(refusal.contains("causeway/control was expected"), "{refusal}");
    // The right root sent along by someone whom it did not sign for.
    let impostor = World::new();
    let forged = impostor.control();
    let mut chain = forged.svid().chain_pem();
    chain.push_str(&world.authority.root_pem());
    let svid = Svid::new(&chain, forged.svid().key().clone()).unwrap();
    let forged = Credentials::new(svid, impostor.bundle(), world.clock.clone()).unwrap();
    let refusal = shake(&control_server_config(&forged, &[]), &client).await.1.unwrap_err();
    assert!(refusal.contains("[CW-1420]"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn the_control_server_knows_members_and_refuses_bad_certificates() {
    let world = World::new();
    let server = control_server_config(&world.control(), &[]);
    let client = mesh_client_config(&world.credentials("cart"), Expected::Service(control_service()), &[]);
    let (served, called) = shake(&server, &client).await;
    assert_eq!(peer_identity(served.unwrap().get_ref().1), Some(world.id("cart")));
    called.unwrap();
    let odd = world.odd(&[], &["cart"]).client();
    shake(&server, &odd).await.0.expect_err("a certificate that is shown must be good");
}
