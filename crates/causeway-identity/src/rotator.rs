//! Keeps one identity's certificate fresh.
//!
//! In:    [`Credentials`], someone who can [`Renew`].   Out: new content in the credentials, a [`RotationStatus`] to watch.
//! Owner: one task per identity, in the scope it was given.
//! Invariant: what is in the credentials is replaced only by a certificate that is checked and better; a failure changes nothing.
//! Not here: when ([`crate::rotation`]); the call itself (`causeway-xds` for a sidecar, the authority directly for a node).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::scope::Failure;
use causeway_base::{Clock, OnFailure, Scope, Seed};
use causeway_model::{ServiceKey, SpiffeId, Timestamp};
use rustls_pki_types::UnixTime;
use tokio::sync::{Notify, watch};

use crate::authority::Issued;
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind};
use crate::explain::explain;
use crate::rotation::{self, Jitter, Next, Standing};
use crate::svid::{KeyPair, Svid};
use crate::trust::{Part, TrustBundle};

/// An attempt that takes longer has failed: the authority answers in milliseconds, or it is not there.
pub const RENEW_TIMEOUT: Duration = Duration::from_secs(10);
/// The wall clock is looked at this often while waiting: it may be set, and a laptop may sleep.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why a renewal failed, in the words of whoever tried.
pub type RenewError = Box<dyn std::error::Error + Send + Sync>;

/// Someone who has signing requests signed.
pub trait Renew: Send + 'static {
    /// Has this request (DER) signed for the identity that asks.
    ///
    /// # Cancel safety
    /// It is dropped after [`RENEW_TIMEOUT`] and when the scope ends; a certificate that was signed meanwhile is lost, which is harmless.
    fn renew(&mut self, csr: Vec<u8>) -> impl Future<Output = Result<Issued, RenewError>> + Send;
}

/// How an identity's rotation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationStatus {
    /// When the current certificate's life ends.
    pub not_after: Timestamp,
    /// How often it was renewed since the start.
    pub renewals: u64,
    /// Failures since the last success.
    pub failures: u32,
    /// What the last failure was; gone after a success.
    pub last_error: Option<String>,
}

/// The handle of a running rotation. Cheap to clone; the task ends with its scope, not with the last handle.
#[derive(Clone, Debug)]
pub struct Rotator {
    status: watch::Receiver<RotationStatus>,
    asked: Arc<Notify>,
}

impl Rotator {
    /// Starts to keep `credentials` fresh.
    pub fn start(credentials: Credentials, renew: impl Renew, seed: Seed, scope: &Scope) -> Rotator {
        let asked = Arc::new(Notify::new());
        let svid = credentials.svid();
        let first =
            RotationStatus { not_after: svid.not_after(), renewals: 0, failures: 0, last_error: None };
        let (sender, status) = watch::channel(first);
        // Subscribed before the standing is taken: a swap between here and the task's first step is not missed.
        let changes = credentials.subscribe();
        let (jitter, standing) = (Jitter::draw(&seed), standing(&credentials));
        let task = Task { credentials, renew, seed, jitter, standing, status: sender, asked: asked.clone() };
        scope.spawn("rotator", OnFailure::StopNode, task.run(changes, scope.clone()));
        Rotator { status, asked }
    }

    /// How it stands now and from now on.
    pub fn status(&self) -> watch::Receiver<RotationStatus> {
        self.status.clone()
    }

    /// Renews now, without waiting for half life (an operator asked, or the identity was revoked).
    pub fn rotate_now(&self) {
        self.asked.notify_one();
    }
}

/// Gets the first certificate: makes a key, has it signed, checks that the answer is for `service`. Our trust domain is the
/// one that the answer says. With a join token, `pinned_root` is its root's hash, and roots that do not hold it are refused;
/// without, the caller vouches for whom it asks (a node asks its own authority).
///
/// # Errors
/// [`ErrorKind::Renewal`] when nobody signed in time, [`ErrorKind::Pin`], [`ErrorKind::Mismatch`] or [`ErrorKind::Unreadable`]
/// for a wrong answer.
///
/// # Cancel safety
/// Dropping it loses the attempt and nothing else.
pub async fn enroll(
    renew: &mut impl Renew,
    service: &ServiceKey,
    pinned_root: Option<[u8; 32]>,
    clock: &Clock,
) -> Result<Credentials, Error> {
    let (svid, bundle) = obtain(renew, service, clock).await?;
    if pinned_root.is_some_and(|pinned| !bundle.has_root(&pinned)) {
        let text = "cannot believe the roots that came with our certificate: the join token's root is not among them";
        return Err(Error::new(ErrorKind::Pin, text));
    }
    Credentials::new(svid, bundle, clock.clone())
}

/// One attempt, checked: right service, right key, valid now, vouched for by the roots that came with it.
async fn obtain(
    renew: &mut impl Renew,
    service: &ServiceKey,
    clock: &Clock,
) -> Result<(Svid, TrustBundle), Error> {
    let failed = |why: String| {
        Error::new(ErrorKind::Renewal, format!("cannot get a certificate for {service}: {why}"))
    };
    let key = KeyPair::generate();
    let issued = match tokio::time::timeout(RENEW_TIMEOUT, renew.renew(key.csr())).await {
        Ok(Ok(issued)) => issued,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {} s", RENEW_TIMEOUT.as_secs()))),
    };
    let svid = Svid::new(&issued.chain_pem, key)?;
    let SpiffeId { trust_domain, service: got } = svid.id();
    if got != service {
        let text = format!("asked for a certificate for {service}, got one for {got}");
        return Err(Error::new(ErrorKind::Mismatch, text));
    }
    let bundle = TrustBundle::from_pem(trust_domain.clone(), &issued.roots_pem)?;
    let now = clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (leaf, rest) = svid.chain().split_first().expect("a chain is never empty");
    for part in [Part::Server, Part::Client] {
        bundle.vouches(leaf, rest, part, UnixTime::since_unix_epoch(now)).map_err(|error| {
            let why = explain(&error).unwrap_or_else(|| error.to_string());
            Error::new(ErrorKind::Mismatch, format!("cannot use the new certificate for {service}: {why}"))
        })?;
    }
    Ok((svid, bundle))
}

struct Task<R> {
    credentials: Credentials,
    renew: R,
    seed: Seed,
    jitter: Jitter,
    standing: Standing,
    status: watch::Sender<RotationStatus>,
    asked: Arc<Notify>,
}

impl<R: Renew> Task<R> {
    async fn run(mut self, mut changes: watch::Receiver<u64>, scope: Scope) -> Result<(), Failure> {
        let mut cancelled = std::pin::pin!(scope.cancelled());
        let asked = self.asked.clone();
        let mut is_asked = false;
        loop {
            let now = self.now();
            let until = match rotation::next(&self.standing, self.jitter, now) {
                Next::Wait { until } if !is_asked => until,
                _ => {
                    is_asked = false;
                    tokio::select! {
                        () = &mut cancelled => return Ok(()),
                        () = self.attempt() => continue,
                    }
                }
            };
            tokio::select! {
                () = &mut cancelled => return Ok(()),
                () = asked.notified() => is_asked = true,
                // The sender lives in `self.credentials`, so this ends by a change only.
                _ = changes.changed() => self.look_again(),
                () = tokio::time::sleep(until.since(now).min(LOOK_EVERY)) => {}
            }
        }
    }

    async fn attempt(&mut self) {
        let id = self.credentials.id();
        let outcome = obtain(&mut self.renew, &id.service, self.credentials.clock()).await;
        // One synchronous step from here on: a cancelled attempt leaves everything as it was.
        let outcome = outcome.and_then(|(svid, bundle)| self.credentials.replace(svid, bundle));
        self.jitter = Jitter::draw(&self.seed);
        match outcome {
            Ok(()) => self.succeeded(&id),
            Err(error) => self.failed(&id, &error),
        }
    }

    fn succeeded(&mut self, id: &SpiffeId) {
        let svid = self.credentials.svid();
        self.standing = Standing { since: self.now(), ..standing(&self.credentials) };
        tracing::info!(%id, serial = svid.serial(), not_after = %svid.not_after().to_rfc3339(), "certificate renewed");
        self.status.send_modify(|status| {
            let renewals = status.renewals + 1;
            *status = RotationStatus { not_after: svid.not_after(), renewals, failures: 0, last_error: None };
        });
    }

    fn failed(&mut self, id: &SpiffeId, error: &Error) {
        self.standing.failures = self.standing.failures.saturating_add(1);
        self.standing.failed_at = self.now();
        let (failures, code) = (self.standing.failures, error.code());
        match self.credentials.is_expired() {
            true => tracing::error!(%id, failures, %error, code, "certificate expired and cannot be renewed"),
            false => {
                tracing::warn!(%id, failures, %error, code, "certificate not renewed, the old one is kept")
            }
        }
        self.status.send_modify(|status| {
            status.failures = failures;
            status.last_error = Some(error.to_string());
        });
    }

    /// Somebody swapped something: another certificate begins a standing of its own, another bundle may void ours.
    fn look_again(&mut self) {
        let fresh = standing(&self.credentials);
        let Standing { not_before, not_after, is_void, .. } = fresh;
        match (not_before, not_after) == (self.standing.not_before, self.standing.not_after) {
            true => self.standing.is_void = is_void,
            false => self.standing = fresh,
        }
        self.status.send_if_modified(|status| {
            let is_new = status.not_after != not_after;
            status.not_after = not_after;
            is_new
        });
    }

    fn now(&self) -> Timestamp {
        self.credentials.clock().now().into()
    }
}

/// How a certificate stands that was not renewed by us: nothing keeps us from asking at once when it is past its half.
fn standing(credentials: &Credentials) -> Standing {
    let svid = credentials.svid();
    Standing {
        not_before: svid.not_before(),
        not_after: svid.not_after(),
        since: svid.not_before(),
        failures: 0,
        failed_at: Timestamp::default(),
        is_void: !credentials.is_vouched() || credentials.is_own_revoked(),
    }
}
