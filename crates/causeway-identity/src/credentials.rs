//! What a process is and whom it believes, now: one value that every connection shares and that rotation swaps.
//!
//! In:    an [`Svid`] and a [`TrustBundle`], again and again.   Out: the current pair to each handshake; a signal on change.
//! Owner: the roof makes one per identity; the [`crate::Rotator`] and the configuration stream replace its content.
//! Invariant: a handshake sees certificate and bundle of one moment; what is put in belongs together and is of one trust
//! domain for ever.
//! Not here: when to replace ([`crate::rotation`]); closing connections of those who are no longer believed (the proxy).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use causeway_base::Clock;
use causeway_model::{Revocations, SpiffeId, Timestamp, TrustDomain};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind};
use crate::peer::Peer;
use crate::svid::{KeyPair, Svid};
use crate::trust::{Part, TrustBundle, provider};

/// First line of a saved identity; PEM readers pass over text outside the blocks.
const SAVED_HEADER: &str =
    "# A Causeway identity: certificate chain, private key, trusted roots (in this order). Keep it secret.\n";

/// The current certificate and trust bundle of one identity. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    held: ArcSwap<Held>,
    revoked: ArcSwap<Revocations>,
    changes: watch::Sender<u64>,
    /// Held while a replacement is made from what is there, so that two writers do not undo each other.
    writing: Mutex<()>,
    clock: Clock,
    provider: Arc<CryptoProvider>,
}

/// One moment's content.
pub(crate) struct Held {
    pub(crate) svid: Svid,
    pub(crate) bundle: TrustBundle,
    /// What we show to neighbours.
    pub(crate) mesh: Arc<CertifiedKey>,
    /// The same with the root at its end, for newcomers who know only the root's hash.
    pub(crate) control: Arc<CertifiedKey>,
    is_vouched: bool,
}

impl Credentials {
    /// Credentials that use this certificate and believe this bundle, by this clock.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when no root of the bundle vouches for the certificate or their trust domains differ. An
    /// expired certificate is taken: one that was kept on disk may be, and it is renewed at once.
    pub fn new(svid: Svid, bundle: TrustBundle, clock: Clock) -> Result<Self, Error> {
        let provider = provider();
        let held = Held::new(svid, bundle, &provider)?.only_vouched()?;
        let shared = Shared {
            held: ArcSwap::from_pointee(held),
            revoked: ArcSwap::default(),
            changes: watch::Sender::new(0),
            writing: Mutex::new(()),
            clock,
            provider,
        };
        Ok(Credentials { shared: Arc::new(shared) })
    }

    /// Swaps both. Handshakes from now on use the new ones; connections that stand are not touched.
    ///
    /// # Errors
    /// As [`Credentials::new`]; what was there stays.
    pub fn replace(&self, svid: Svid, bundle: TrustBundle) -> Result<(), Error> {
        self.write(|_| Held::new(svid, bundle, &self.shared.provider)?.only_vouched())
    }

    /// Swaps the bundle alone (a root was added or taken away). When our own certificate's root is gone with it,
    /// [`Credentials::is_vouched`] turns false and the rotator renews at once.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] for another trust domain; what was there stays.
    pub fn replace_bundle(&self, bundle: TrustBundle) -> Result<(), Error> {
        if bundle == self.bundle() {
            return Ok(());
        }
        self.write(|held| Held::new(held.svid.clone(), bundle, &self.shared.provider))
    }

    /// Says what is revoked: handshakes from now on refuse those certificates. Closing the connections that they have is for whoever
    /// holds those ([`Credentials::is_revoked`]). When our own is among them, the rotator renews at once.
    pub fn revoke(&self, list: Arc<Revocations>) {
        if *self.shared.revoked.load_full() == *list {
            return;
        }
        self.shared.revoked.store(list);
        if self.is_own_revoked() {
            self.shared.changes.send_modify(|count| *count += 1);
        }
    }

    /// What is revoked, as it was last said.
    pub fn revocations(&self) -> Arc<Revocations> {
        self.shared.revoked.load_full()
    }

    /// Whether this peer's certificate is revoked.
    pub fn is_revoked(&self, peer: &Peer) -> bool {
        self.shared.revoked.load().revokes(&peer.serial, &peer.id.service, peer.not_before)
    }

    /// Whether our own current certificate is.
    pub fn is_own_revoked(&self) -> bool {
        let svid = self.svid();
        self.shared.revoked.load().revokes(svid.serial(), &svid.id().service, svid.not_before())
    }

    fn write(&self, make: impl FnOnce(&Held) -> Result<Held, Error>) -> Result<(), Error> {
        let _writing = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.shared.held.load_full();
        let new = make(&old)?;
        if new.bundle.trust_domain() != old.bundle.trust_domain() {
            let (new, old) = (new.bundle.trust_domain().as_str(), old.bundle.trust_domain().as_str());
            let text = format!("cannot go from trust domain {old:?} to {new:?}: start anew instead");
            return Err(Error::new(ErrorKind::Mismatch, text));
        }
        self.shared.held.store(Arc::new(new));
        self.shared.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The current certificate.
    pub fn svid(&self) -> Svid {
        self.shared.held.load().svid.clone()
    }

    /// The current bundle.
    pub fn bundle(&self) -> TrustBundle {
        self.shared.held.load().bundle.clone()
    }

    /// Who we are.
    pub fn id(&self) -> SpiffeId {
        self.shared.held.load().svid.id().clone()
    }

    /// Our trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        self.shared.held.load().bundle.trust_domain().clone()
    }

    /// Whether a root of the current bundle vouches for the current certificate (its dates aside).
    pub fn is_vouched(&self) -> bool {
        self.shared.held.load().is_vouched
    }

    /// Whether the current certificate's life is over.
    pub fn is_expired(&self) -> bool {
        self.svid().not_after() < Timestamp::from(self.shared.clock.now())
    }

    /// Changes whenever something was swapped; the value counts the swaps.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// The clock by which certificates are judged.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Everything in one text, to be kept in a file with mode 0600 and read back with [`Credentials::from_pem`].
    pub fn to_pem(&self) -> String {
        let held = self.held();
        let [chain, key, roots] = [held.svid.chain_pem(), held.svid.key().to_pem(), held.bundle.to_pem()];
        format!("{SAVED_HEADER}{chain}{key}{roots}")
    }

    /// Reads what [`Credentials::to_pem`] wrote: certificates before the private key are the chain, those after it the roots.
    ///
    /// # Errors
    /// [`ErrorKind::Unreadable`] or [`ErrorKind::Mismatch`].
    pub fn from_pem(text: &str, clock: Clock) -> Result<Self, Error> {
        let missing =
            |what: &str| Error::new(ErrorKind::Unreadable, format!("cannot read a saved identity: {what}"));
        let end = "-----END PRIVATE KEY-----";
        let (chain, rest) =
            text.split_once("-----BEGIN PRIVATE KEY-----").ok_or_else(|| missing("it has no private key"))?;
        let (_, roots) = rest.split_once(end).ok_or_else(|| missing("its private key is cut short"))?;
        let key = &text[chain.len()..text.len() - roots.len()];
        let svid = Svid::new(chain, KeyPair::from_pem(key)?)?;
        let bundle = TrustBundle::from_pem(svid.id().trust_domain.clone(), roots)?;
        Credentials::new(svid, bundle, clock)
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        self.shared.held.load_full()
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.shared.provider
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held();
        f.debug_struct("Credentials")
            .field("svid", &held.svid)
            .field("bundle", &held.bundle)
            .finish_non_exhaustive()
    }
}

// === impl Held ===

impl Held {
    fn new(svid: Svid, bundle: TrustBundle, provider: &CryptoProvider) -> Result<Self, Error> {
        let key = provider
            .key_provider
            .load_private_key(svid.key().private_der())
            .map_err(|e| Error::new(ErrorKind::Unreadable, format!("cannot use the private key: {e}")))?;
        let root = root_of(&svid, &bundle);
        let certified = |chain: Vec<CertificateDer<'static>>| Arc::new(CertifiedKey::new(chain, key.clone()));
        let mesh = certified(svid.chain().to_vec());
        let control = certified(svid.chain().iter().cloned().chain(root.clone()).collect());
        Ok(Held { mesh, control, is_vouched: root.is_some(), svid, bundle })
    }

    fn only_vouched(self) -> Result<Self, Error> {
        let (ours, theirs) = (&self.svid.id().trust_domain, self.bundle.trust_domain());
        let mismatch = |text: String| Err(Error::new(ErrorKind::Mismatch, text));
        if ours != theirs {
            let (id, theirs) = (self.svid.id(), theirs.as_str());
            return mismatch(format!(
                "cannot use the certificate of {id}: the roots are those of {theirs:?}"
            ));
        }
        if !self.is_vouched {
            return mismatch(format!(
                "cannot use the certificate of {}: no trusted root signed it",
                self.svid.id()
            ));
        }
        Ok(self)
    }
}

/// The root that signed this certificate. Asked for the moment its life begins, so that an expired one has a root too.
fn root_of(svid: &Svid, bundle: &TrustBundle) -> Option<CertificateDer<'static>> {
    let (leaf, rest) = svid.chain().split_first()?;
    let then = UnixTime::since_unix_epoch(std::time::Duration::from_millis(svid.not_before().as_millis()));
    bundle.vouches(leaf, rest, Part::Server, then).ok().map(|root| root.der().clone())
}
