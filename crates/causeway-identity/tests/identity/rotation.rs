//! Renewal under a clock that the test owns: short lives, an authority that goes away, wrong answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use causeway_base::{Clock, Scope, Seed};
use causeway_identity::rotation::backoff_max;
use causeway_identity::rotator::RENEW_TIMEOUT;
use causeway_identity::{
    CertAuthority, Credentials, ErrorKind, Expected, Issued, Renew, RenewError, RotationStatus, Rotator,
    enroll, mesh_client_config, mesh_server_config, peer,
};
use causeway_model::{ServiceKey, SpiffeId, Timestamp};
use tokio::sync::watch;

use crate::world::{World, service, shake};

const TTL: Duration = Duration::from_secs(60);

/// The authority as a sidecar sees it: it may be away, slow, or wrong.
#[derive(Clone)]
struct Control {
    authority: Arc<CertAuthority>,
    id: SpiffeId,
    clock: Clock,
    is_away: Arc<AtomicBool>,
    is_hanging: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
    /// How far its clock is behind ours.
    behind: Duration,
}

impl Control {
    fn new(world: &World, name: &str) -> Self {
        let (certificate, key) = world.authority.to_pem();
        Control {
            authority: Arc::new(CertAuthority::from_pem(&certificate, &key).unwrap()),
            id: world.id(name),
            clock: world.clock.clone(),
            is_away: Arc::default(),
            is_hanging: Arc::default(),
            calls: Arc::default(),
            behind: Duration::ZERO,
        }
    }

    async fn enroll(&self) -> Credentials {
        let credentials =
            enroll(&mut self.clone(), &self.id.service, Some(self.authority.root_sha256()), &self.clock)
                .await;
        self.calls.store(0, SeqCst);
        credentials.unwrap()
    }
}

impl Renew for Control {
    async fn renew(&mut self, csr: Vec<u8>) -> Result<Issued, RenewError> {
        self.calls.fetch_add(1, SeqCst);
        if self.is_hanging.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.is_away.load(SeqCst) {
            return Err("connection refused".into());
        }
        Ok(self.authority.sign(&csr, &self.id, TTL, (self.clock.now() - self.behind).into())?)
    }
}

async fn until(
    status: &mut watch::Receiver<RotationStatus>,
    is_so: impl FnMut(&RotationStatus) -> bool,
) -> RotationStatus {
    tokio::time::timeout(TTL * 100, status.wait_for(is_so)).await.expect("it never came").unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_life_again_and_again() {
    let world = World::new();
    let control = Control::new(&world, "cart");
    let credentials = control.enroll().await;
    let scope = Scope::root("t");
    let rotator = Rotator::start(credentials.clone(), control.clone(), Seed::from_number(1), &scope);
    let mut status = rotator.status();
    for renewals in 1..=20 {
        let old = credentials.svid();
        let life = old.not_after().since(old.not_before());
        until(&mut status, |status| status.renewals == renewals).await;
        let spent = world.now().since(old.not_before());
        let slack = Duration::from_secs(1);
        assert!(spent + slack >= life * 45 / 100 && spent <= life / 2 + slack, "{spent:?} of {life:?}");
        assert_ne!(credentials.svid().serial(), old.serial());
        assert_ne!(
            credentials.svid().key().to_pem(),
            old.key().to_pem(),
            "each certificate has a key of its own"
        );
        assert_eq!(credentials.id(), world.id("cart"));
    }
    assert_eq!(control.calls.load(SeqCst), 20);
    assert!(scope.shutdown(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn while_the_authority_is_away_the_old_one_is_kept() {
    let world = World::new();
    let control = Control::new(&world, "cart");
    let credentials = control.enroll().await;
    let old = credentials.svid();
    let scope = Scope::root("t");
    let mut status =
        Rotator::start(credentials.clone(), control.clone(), Seed::from_number(2), &scope).status();
    control.is_away.store(true, SeqCst);
    let failing = until(&mut status, |status| status.failures == 4).await;
    assert!(failing.last_error.unwrap().contains("connection refused"));
    assert_eq!(credentials.svid().serial(), old.serial());
    assert!(!credentials.is_expired());
    control.is_away.store(false, SeqCst);
    let back = until(&mut status, |status| status.renewals == 1).await;
    assert_eq!((back.failures, back.last_error), (0, None));
    assert!(world.now() < old.not_after(), "no gap");
    scope.cancel();
}

#[tokio::test(start_paused = true)]
async fn pauses_stay_bounded_and_it_comes_back_even_after_expiry() {
    let world = World::new();
    let control = Control::new(&world, "cart");
    let credentials = control.enroll().await;
    let life = credentials.svid().not_after().since(credentials.svid().not_before());
    let scope = Scope::root("t");
    let mut status =
        Rotator::start(credentials.clone(), control.clone(), Seed::from_number(3), &scope).status();
    control.is_away.store(true, SeqCst);
    let mut last: Option<Timestamp> = None;
    while !credentials.is_expired() || status.borrow().failures < 30 {
        let failures = status.borrow().failures;
        until(&mut status, |status| status.failures > failures).await;
        let pause = last.map_or(Duration::ZERO, |last| world.now().since(last));
        assert!(pause <= backoff_max(life) + Duration::from_millis(5), "{pause:?}");
        last = Some(world.now());
    }
    control.is_away.store(false, SeqCst);
    until(&mut status, |status| status.renewals == 1).await;
    assert!(!credentials.is_expired());
    scope.cancel();
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_hangs_counts_as_away() {
    let world = World::new();
    let control = Control::new(&world, "cart");
    let credentials = control.enroll().await;
    let scope = Scope::root("t");
    let rotator = Rotator::start(credentials.clone(), control.clone(), Seed::from_number(4), &scope);
    let mut status = rotator.status();
    control.is_hanging.store(true, SeqCst);
    let before = world.now();
    rotator.rotate_now();
    let failing = until(&mut status, |status| status.failures == 1).await;
    assert!(failing.last_error.unwrap().contains("no answer within 10 s"));
    assert_eq!(world.now().since(before), RENEW_TIMEOUT);
    // The task ends with its scope also in the middle of an attempt.
    let calls = control.calls.load(SeqCst);
    while control.calls.load(SeqCst) == calls {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(scope.shutdown(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn it_renews_at_once_when_asked_or_when_the_root_is_taken_away() {
    let world = World::new();
    let mut control = Control::new(&world, "cart");
    let credentials = control.enroll().await;
    let successor = Arc::new(CertAuthority::generate(&world.domain, world.now()));
    control.authority = successor.clone();
    let scope = Scope::root("t");
    let rotator = Rotator::start(credentials.clone(), control.clone(), Seed::from_number(5), &scope);
    let mut status = rotator.status();
    let before = world.now();
    let roots =
        causeway_identity::TrustBundle::from_pem(world.domain.clone(), &successor.root_pem()).unwrap();
    credentials.replace_bundle(roots).unwrap();
    assert!(!credentials.is_vouched());
    until(&mut status, |status| status.renewals == 1).await;
    assert!(credentials.is_vouched());
    rotator.rotate_now();
    until(&mut status, |status| status.renewals == 2).await;
    assert_eq!(world.now(), before, "no waiting");
    // Someone else replaces the certificate: the rotator goes by the new one's life.
    let other = Control { authority: successor, ..control.clone() };
    tokio::time::advance(TTL / 4).await;
    let foreign = other.enroll().await;
    credentials.replace(foreign.svid(), foreign.bundle()).unwrap();
    let seen = until(&mut status, |status| status.not_after == foreign.svid().not_after()).await;
    assert_eq!(seen.renewals, 2);
    until(&mut status, |status| status.renewals == 3).await;
    assert!(world.now().since(foreign.svid().not_before()) >= TTL * 2 / 5);
    scope.cancel();
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_from_disk_is_renewed_at_once() {
    let world = World::new();
    let control = Control::new(&world, "cart");
    let saved = control.enroll().await.to_pem();
    tokio::time::advance(TTL * 2).await;
    let credentials = Credentials::from_pem(&saved, world.clock.clone()).unwrap();
    assert!(credentials.is_expired());
    let before = world.now();
    let scope = Scope::root("t");
    let mut status = Rotator::start(credentials.clone(), control, Seed::from_number(6), &scope).status();
    until(&mut status, |status| status.renewals == 1).await;
    assert_eq!(world.now(), before);
    assert!(!credentials.is_expired());
    scope.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_runs_ahead_does_not_flood_the_authority() {
    let world = World::new();
    // Each new certificate seems to be past its half already.
    let control = Control { behind: TTL * 2 / 3, ..Control::new(&world, "cart") };
    let credentials = control.enroll().await;
    let scope = Scope::root("t");
    let mut status =
        Rotator::start(credentials.clone(), control.clone(), Seed::from_number(9), &scope).status();
    until(&mut status, |status| status.renewals == 1).await;
    tokio::time::sleep(TTL).await;
    let calls = control.calls.load(SeqCst);
    assert!((2..=11).contains(&calls), "{calls} in one life: a tenth of it lies between two");
    assert!(!credentials.is_expired());
    scope.cancel();
}

#[tokio::test(start_paused = true)]
async fn wrong_answers_are_refused() {
    let world = World::new();
    let good = Control::new(&world, "cart");
    let pin = world.authority.root_sha256();
    // A certificate for somebody else.
    let error = enroll(&mut Control::new(&world, "bank"), &service("cart"), Some(pin), &world.clock)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    // The wrong root.
    let error = enroll(&mut good.clone(), &service("cart"), Some([7; 32]), &world.clock).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Pin, "CW-1412"));
    // A certificate that was signed under another root than it came with, one that is over, one for another key.
    struct Wrong<F>(F);
    impl<F: Fn(&[u8]) -> Issued + Send + Sync + 'static> Renew for Wrong<F> {
        async fn renew(&mut self, csr: Vec<u8>) -> Result<Issued, RenewError> {
            Ok((self.0)(&csr))
        }
    }
    let (ours, other) = (good.authority.clone(), World::new().authority.root_pem());
    let (id, now) = (world.id("cart"), world.now());
    let sign = move |csr: &[u8]| ours.sign(csr, &id, TTL, now).unwrap();
    let id = service("cart");
    let unrelated = {
        let (sign, other) = (sign.clone(), other.clone());
        Wrong(move |csr: &[u8]| Issued { roots_pem: other.clone(), ..sign(csr) })
    };
    check(unrelated, &id, &world.clock, "not signed by any root").await;
    let replayed = {
        let first = sign(&causeway_identity::KeyPair::generate().csr());
        Wrong(move |_: &[u8]| first.clone())
    };
    check(replayed, &id, &world.clock, "another private key").await;
    tokio::time::advance(TTL * 2).await;
    check(Wrong(sign), &id, &world.clock, "expired at").await;

    async fn check(mut wrong: impl Renew, id: &ServiceKey, clock: &Clock, words: &str) {
        let error = enroll(&mut wrong, id, None, clock).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn neighbours_can_always_talk_while_both_rotate_and_the_authority_comes_and_goes() {
    let world = World::new();
    let (orders, cart) = (Control::new(&world, "orders"), Control::new(&world, "cart"));
    let (to, from) = (orders.enroll().await, cart.enroll().await);
    let scope = Scope::root("t");
    Rotator::start(to.clone(), orders.clone(), Seed::from_number(7), &scope);
    Rotator::start(from.clone(), cart.clone(), Seed::from_number(8), &scope);
    let server = mesh_server_config(&to, &[]);
    let client = mesh_client_config(&from, Expected::Service(service("orders")), &[]);
    let mut serials = std::collections::BTreeSet::new();
    for second in 0..TTL.as_secs() * 10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Away for 20 of every 60 seconds: less than what is left of a life at its half.
        let is_away = second % 60 >= 40;
        orders.is_away.store(is_away, SeqCst);
        cart.is_away.store(is_away, SeqCst);
        let (served, called) = shake(&server, &client).await;
        let served = served.unwrap_or_else(|why| panic!("after {second} s: {why}"));
        called.unwrap_or_else(|why| panic!("after {second} s: {why}"));
        serials.insert(peer(served.get_ref().1).unwrap().serial);
    }
    assert!(serials.len() >= 10, "{}", serials.len());
    assert!(cart.calls.load(SeqCst) > serials.len() as u32, "some attempts failed");
    scope.cancel();
}
