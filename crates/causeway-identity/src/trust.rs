//! Whom we believe: the roots of one trust domain, several at once while one takes over from another.
//!
//! In:    root certificates.   Out: yes or no to a chain, and by which root.
//! Owner: [`crate::Credentials`] holds the current one; the authority sends it along with each certificate.
//! Invariant: a root past its own life vouches for nobody (webpki does not look at an anchor's dates, so we do).
//! Not here: what the leaf must say about itself (`verify.rs`).

use std::fmt;
use std::sync::Arc;

use causeway_model::{Timestamp, TrustDomain};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{Error, ErrorKind, Refusal};
use crate::peer::life;
use crate::svid::{certificate_pem, certificates};

/// Most roots in a bundle: two while one takes over from the other, and room for mistakes; each may cost a signature
/// check per handshake.
pub const ROOTS_MAX: usize = 8;

/// The roots of one trust domain, newest first. Cheap to clone.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Arc<[Root]>,
}

/// One root.
pub(crate) struct Root {
    der: CertificateDer<'static>,
    sha256: [u8; 32],
    not_before: Timestamp,
    not_after: Timestamp,
    store: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// In which part a certificate is shown; its extended key usage must allow it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Client,
    Server,
}

impl TrustBundle {
    /// A bundle of the certificates in a PEM text.
    ///
    /// # Errors
    /// [`ErrorKind::Unreadable`] when there is none, more than [`ROOTS_MAX`], or one that cannot be a root.
    pub fn from_pem(trust_domain: TrustDomain, pem: &str) -> Result<Self, Error> {
        TrustBundle::new(trust_domain, certificates(pem)?)
    }

    /// A bundle of certificates in DER, in any order; the same one twice counts once.
    ///
    /// # Errors
    /// As [`TrustBundle::from_pem`].
    pub fn new(trust_domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let unreadable =
            |why: String| Error::new(ErrorKind::Unreadable, format!("cannot use a trust bundle: {why}"));
        let provider = provider();
        let mut read: Vec<Root> = Vec::with_capacity(roots.len().min(ROOTS_MAX));
        for der in roots {
            let sha256 = sha256(&der);
            if read.iter().any(|root| root.sha256 == sha256) {
                continue;
            }
            if read.len() == ROOTS_MAX {
                return Err(unreadable(format!("it has more than {ROOTS_MAX} roots")));
            }
            read.push(Root::new(der, sha256, &provider).map_err(unreadable)?);
        }
        if read.is_empty() {
            return Err(unreadable("it has no root".into()));
        }
        read.sort_by_key(|root| std::cmp::Reverse((root.not_before, root.not_after)));
        Ok(TrustBundle { trust_domain, roots: read.into() })
    }

    /// The trust domain it speaks for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots in PEM, newest first.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(|root| certificate_pem(&root.der)).collect()
    }

    /// SHA-256 of each root's DER, newest first.
    pub fn root_hashes(&self) -> impl Iterator<Item = [u8; 32]> + '_ {
        self.roots.iter().map(|root| root.sha256)
    }

    /// Whether the root with this hash is in it.
    pub fn has_root(&self, sha256: &[u8; 32]) -> bool {
        self.roots.iter().any(|root| &root.sha256 == sha256)
    }

    /// The root that vouches for this chain at `now`.
    pub(crate) fn vouches(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        part: Part,
        now: UnixTime,
    ) -> Result<&Root, rustls::Error> {
        let mut why = None;
        for root in self.roots.iter() {
            match root.vouches(leaf, intermediates, part, now) {
                Ok(()) => return Ok(root),
                // "Not signed by this one" says less than what another root found wrong.
                Err(error) if why.is_none() || !is_unknown_issuer(&error) => why = Some(error),
                Err(_) => {}
            }
        }
        Err(why.unwrap_or(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)))
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.root_hashes().eq(other.root_hashes())
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain.as_str())
            .field("roots", &self.roots.len())
            .finish()
    }
}

// === impl Root ===

impl Root {
    pub(crate) fn new(
        der: CertificateDer<'static>,
        sha256: [u8; 32],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| e.to_string())?;
        let constraints = parsed.basic_constraints().map_err(|e| e.to_string())?;
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(format!("{} is not an authority's certificate", parsed.subject()));
        }
        let (not_before, not_after) = life(&parsed);
        let mut store = RootCertStore::empty();
        store.add(der.clone()).map_err(|e| e.to_string())?;
        let store = Arc::new(store);
        let clients = WebPkiClientVerifier::builder_with_provider(store.clone(), provider.clone())
            .build()
            .map_err(|e| e.to_string())?;
        let algorithms = provider.signature_verification_algorithms;
        Ok(Root { der, sha256, not_before, not_after, store, clients, algorithms })
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) fn vouches(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        part: Part,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match part {
            Part::Client => self.clients.verify_client_cert(leaf, intermediates, now).map(|_| ())?,
            Part::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf)?,
                &self.store,
                intermediates,
                now,
                self.algorithms.all,
            )?,
        }
        match Timestamp::from_millis(now.as_secs() * 1000) > self.not_after {
            true => Err(Refusal::RootExpired { at: self.not_after }.into()),
            false => Ok(()),
        }
    }
}

fn is_unknown_issuer(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
}

/// The one TLS provider of the house: aws-lc-rs, the hybrid post-quantum group first (a recorded conversation stays
/// unreadable when X25519 falls), then X25519, then P-256 for clients that have nothing else.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    Arc::new(CryptoProvider { kx_groups, ..default_provider() })
}

/// SHA-256, for naming a root.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
