//! A workload's key and certificate.
//!
//! In:    randomness, PEM texts.   Out: a [`KeyPair`] with its signing request, an [`Svid`] that fits its key.
//! Owner: [`crate::Credentials`] holds the current one.
//! Invariant: an [`Svid`]'s certificate names one identity and bears the key's own public half; `Debug` shows no key.
//! Not here: whether anybody trusts it ([`crate::trust`]); keeping it in a file (the roof, see [`crate::Credentials::to_pem`]).

use std::fmt;
use std::sync::Arc;

use causeway_model::{SpiffeId, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{Error, ErrorKind};
use crate::peer::read_peer;

/// Most certificates in one chain: ours have one, an outside authority's have two or three.
const CHAIN_LENGTH_MAX: usize = 8;

/// A private key (P-256) and its public half. Cheap to clone.
#[derive(Clone)]
pub struct KeyPair {
    key: Arc<rcgen::KeyPair>,
}

/// A workload's certificate with its key. Cheap to clone.
#[derive(Clone)]
pub struct Svid {
    facts: Arc<Facts>,
}

struct Facts {
    id: SpiffeId,
    serial: String,
    not_before: Timestamp,
    not_after: Timestamp,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

// === impl KeyPair ===

impl KeyPair {
    /// A new key from the TLS provider's generator.
    ///
    /// # Panics
    /// When the operating system gives no randomness: nothing sensible can be done without it.
    pub fn generate() -> Self {
        let key = rcgen::KeyPair::generate().expect("the operating system gives randomness");
        KeyPair { key: Arc::new(key) }
    }

    /// Reads a private key (PKCS #8, or SEC 1).
    ///
    /// # Errors
    /// [`ErrorKind::Unreadable`] when there is none, or one of an unknown algorithm.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let unreadable =
            |why: String| Error::new(ErrorKind::Unreadable, format!("cannot read a private key: {why}"));
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| unreadable(e.to_string()))?;
        let key = rcgen::KeyPair::try_from(&der).map_err(|e| unreadable(e.to_string()))?;
        Ok(KeyPair { key: Arc::new(key) })
    }

    /// The private key as PKCS #8 in PEM. It is a secret: for a file with mode 0600 only.
    pub fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A signing request in DER. It proves that we have the key and asks for nothing: the authority decides the content.
    pub fn csr(&self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&*self.key).expect("a P-256 key signs a request");
        request.der().to_vec()
    }

    pub(crate) fn inner(&self) -> &Arc<rcgen::KeyPair> {
        &self.key
    }

    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    pub(crate) fn fits(&self, certificate: &X509Certificate<'_>) -> bool {
        certificate.public_key().raw == self.key.subject_public_key_info().as_slice()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(***)")
    }
}

// === impl Svid ===

impl Svid {
    /// A certificate chain (leaf first) with the key it was asked for with.
    ///
    /// # Errors
    /// [`ErrorKind::Unreadable`] or, when the leaf is not for `key` or is no workload's, [`ErrorKind::Mismatch`].
    pub fn new(chain_pem: &str, key: KeyPair) -> Result<Self, Error> {
        let chain = certificates(chain_pem)?;
        let Some(leaf) = chain.first() else {
            return Err(Error::new(ErrorKind::Unreadable, "cannot read a certificate chain: it is empty"));
        };
        if chain.len() > CHAIN_LENGTH_MAX {
            let text =
                format!("cannot use a chain of {} certificates: at most {CHAIN_LENGTH_MAX}", chain.len());
            return Err(Error::new(ErrorKind::Unreadable, text));
        }
        let mismatch =
            |why: String| Error::new(ErrorKind::Mismatch, format!("cannot use the certificate: {why}"));
        let peer = read_peer(leaf).map_err(|refusal| mismatch(refusal.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| mismatch(e.to_string()))?;
        if !key.fits(&parsed) {
            return Err(mismatch(format!("that of {} is for another private key", peer.id)));
        }
        let (not_before, not_after) = (peer.not_before, peer.not_after);
        let facts = Facts { id: peer.id, serial: peer.serial, not_before, not_after, chain, key };
        Ok(Svid { facts: Arc::new(facts) })
    }

    /// As [`Svid::new`], with the key in PEM.
    ///
    /// # Errors
    /// As [`Svid::new`].
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, Error> {
        Svid::new(chain_pem, KeyPair::from_pem(key_pem)?)
    }

    /// Who we are.
    pub fn id(&self) -> &SpiffeId {
        &self.facts.id
    }

    /// The certificate's serial number, as [`crate::Issued`] gave it.
    pub fn serial(&self) -> &str {
        &self.facts.serial
    }

    /// When the certificate's life begins (a little before it was signed).
    pub fn not_before(&self) -> Timestamp {
        self.facts.not_before
    }

    /// When its life ends.
    pub fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// The chain, leaf first, in DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.facts.chain
    }

    /// The key.
    pub fn key(&self) -> &KeyPair {
        &self.facts.key
    }

    /// The chain in PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        self.chain().iter().map(|der| certificate_pem(der)).collect()
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id().to_string())
            .field("serial", &self.serial())
            .field("not_after", &self.not_after().to_rfc3339())
            .finish_non_exhaustive()
    }
}

/// Every certificate of a PEM text, in its order; other blocks are passed over.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::new(ErrorKind::Unreadable, format!("cannot read a certificate in PEM: {e}")))
}

/// One certificate as PEM.
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    // Lines of 64, as RFC 7468 wants from those who write; base64 is ASCII, so any cut is on a character.
    for at in (0..text.len()).step_by(64) {
        pem.push_str(&text[at..text.len().min(at + 64)]);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
