//! Revoked certificates: refused by both sides from the next handshake on, and replaced by their owner at once.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{Scope, Seed};
use causeway_identity::{
    CertAuthority, Credentials, Expected, Issued, KeyPair, Renew, RenewError, Rotator, Svid,
    control_server_config, control_service, mesh_client_config, mesh_server_config, peer,
};
use causeway_model::{Revocations, RevokedService, SpiffeId, Timestamp};

use crate::world::{HOUR, World, service, shake};

fn list(change: impl FnOnce(&mut Revocations)) -> Arc<Revocations> {
    let mut list = Revocations::default();
    change(&mut list);
    Arc::new(list)
}

#[tokio::test(start_paused = true)]
async fn a_revoked_certificate_is_refused_on_both_sides_and_its_owner_is_told() {
    let world = World::new();
    let (orders, cart) = (world.credentials("orders"), world.credentials("cart"));
    let (server, client) = (
        mesh_server_config(&orders, &[]),
        mesh_client_config(&cart, Expected::Service(service("orders")), &[]),
    );
    let before = peer(shake(&server, &client).await.0.unwrap().get_ref().1).unwrap();
    let serial = cart.svid().serial().to_owned();
    orders.revoke(list(|list| list.revoke_serial(serial, service("cart"), cart.svid().not_after())));
    assert!(orders.is_revoked(&before), "connections that stand are asked for");
    let (served, called) = shake(&server, &client).await;
    assert_eq!(served.unwrap_err(), "the peer is refused: its certificate was revoked [CW-1423]");
    assert_eq!(called.unwrap_err(), "the peer refused us: our certificate was revoked [CW-1423]");
    // A new one is let in, and so is everybody else.
    cart.replace(world.svid("cart", HOUR), world.bundle()).unwrap();
    shake(&server, &client).await.0.unwrap();
    // The other side: whoever is called.
    cart.revoke(list(|list| list.revoke_service(service("orders"), world.now().plus(HOUR), world.now())));
    let (served, called) = shake(&server, &client).await;
    assert_eq!(called.unwrap_err(), "the peer is refused: its certificate was revoked [CW-1423]");
    served.unwrap_err();
    assert!(cart.is_revoked(&peer_of(&orders)) && !cart.is_own_revoked() && !orders.is_own_revoked());
    cart.revoke(Arc::default());
    shake(&server, &client).await.0.unwrap();
}

fn peer_of(credentials: &Credentials) -> causeway_identity::Peer {
    let svid = credentials.svid();
    causeway_identity::Peer {
        id: svid.id().clone(),
        serial: svid.serial().to_owned(),
        not_before: svid.not_before(),
        not_after: svid.not_after(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_control_server_refuses_a_revoked_member() {
    let world = World::new();
    let (control, cart) = (world.control(), world.credentials("cart"));
    let server = control_server_config(&control, &[]);
    let client = mesh_client_config(&cart, Expected::Service(control_service()), &[]);
    control.revoke(list(|list| list.revoke_service(service("cart"), world.now(), world.now().plus(HOUR))));
    assert!(shake(&server, &client).await.0.unwrap_err().contains("revoked"));
}

/// Whoever is revoked with all it has gets a new one in the same second that is not.
#[tokio::test(start_paused = true)]
async fn a_service_is_revoked_up_to_a_moment() {
    let world = World::new();
    for (late, ttl) in [(0, 10), (1, 10), (999, 10), (500, 3600), (0, 86_400)] {
        tokio::time::advance(Duration::from_millis(1000 - world.now().as_millis() % 1000 + late)).await;
        let sign = |earliest: Timestamp| {
            let key = KeyPair::generate();
            let (id, ttl) = (world.id("cart"), Duration::from_secs(ttl));
            let issued = world.authority.sign_from(&key.csr(), &id, ttl, earliest, world.now()).unwrap();
            Svid::new(&issued.chain_pem, key).unwrap()
        };
        let old = sign(Timestamp::default());
        let mut list = Revocations::default();
        list.revoke_service(service("cart"), world.now(), old.not_after());
        let new = sign(list.earliest(&service("cart")).unwrap());
        assert_eq!(list.earliest(&service("cart")), Some(RevokedService::whole(world.now())));
        let is_revoked = |svid: &Svid| list.revokes(svid.serial(), &service("cart"), svid.not_before());
        assert!(is_revoked(&old) && !is_revoked(&new), "{late} ms after the second, life {ttl} s");
        assert!(new.not_before() <= world.now(), "and is valid at once");
    }
}

struct Control {
    authority: CertAuthority,
    id: SpiffeId,
    world: Arc<World>,
}

impl Renew for Control {
    async fn renew(&mut self, csr: Vec<u8>) -> Result<Issued, RenewError> {
        let now = self.world.now();
        Ok(self.authority.sign_from(&csr, &self.id, HOUR, now, now)?)
    }
}

#[tokio::test(start_paused = true)]
async fn who_learns_that_it_is_revoked_itself_renews_at_once() {
    let world = Arc::new(World::new());
    let cart = world.credentials("cart");
    let (certificate, key) = world.authority.to_pem();
    let authority = CertAuthority::from_pem(&certificate, &key).unwrap();
    let control = Control { authority, id: world.id("cart"), world: world.clone() };
    let scope = Scope::root("t");
    let mut status = Rotator::start(cart.clone(), control, Seed::from_number(1), &scope).status();
    let (old, before) = (cart.svid(), world.now());
    cart.revoke(list(|list| list.revoke_service(service("bank"), before, before.plus(HOUR))));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(status.borrow().renewals, 0, "somebody else's is not ours");
    let at = world.now();
    cart.revoke(list(|list| list.revoke_serial(old.serial().into(), service("cart"), old.not_after())));
    status.wait_for(|status| status.renewals == 1).await.unwrap();
    assert_eq!(world.now(), at, "no waiting");
    assert!(!cart.is_own_revoked() && cart.svid().serial() != old.serial());
    scope.cancel();
}
