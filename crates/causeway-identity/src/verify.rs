//! Decides in a handshake whether the peer is let in.
//!
//! In:    the peer's certificates, the [`Credentials`] of this moment, what was expected.   Out: yes, or an error that says why.
//! Owner: the configurations of `tls.rs`.
//! Invariant: chain first, then identity; nothing of a certificate whose chain is unsound is believed.
//! Not here: words for the errors of the TLS library ([`crate::explain()`]).

use std::fmt;
use std::sync::Arc;

use causeway_model::ServiceKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::credentials::{Credentials, Held};
use crate::error::Refusal;
use crate::peer::{Expected, Peer, read_peer};
use crate::trust::{Part, Root, sha256};

/// Lets in clients of our trust domain.
pub(crate) struct Clients {
    pub(crate) credentials: Credentials,
    /// Without a certificate a client may still connect: the control server's first contact.
    pub(crate) is_optional: bool,
}

/// Takes a server for the service that was called.
pub(crate) struct Servers {
    pub(crate) credentials: Credentials,
    pub(crate) expected: Expected,
}

/// Takes a control server whose chain holds the root with a known hash.
pub(crate) struct Pinned {
    pub(crate) root_sha256: [u8; 32],
    pub(crate) expected: ServiceKey,
    pub(crate) provider: Arc<CryptoProvider>,
}

fn identify(held: &Held, leaf: &CertificateDer<'_>) -> Result<Peer, Refusal> {
    let peer = read_peer(leaf)?;
    match &peer.id.trust_domain == held.bundle.trust_domain() {
        true => Ok(peer),
        false => Err(Refusal::OtherTrustDomain {
            got: peer.id.to_string(),
            ours: held.bundle.trust_domain().as_str().to_owned(),
        }),
    }
}

/// Refuses a revoked certificate, with the alert that tells its owner so (a sidecar that hears it gets a new one).
fn in_force(credentials: &Credentials, peer: &Peer) -> Result<(), Error> {
    if !credentials.is_revoked(peer) {
        return Ok(());
    }
    tracing::info!(peer = %peer.id, serial = peer.serial, "a revoked certificate was shown and refused");
    Err(Error::InvalidCertificate(CertificateError::Revoked))
}

/// A chain of another trust domain fails as "unknown issuer"; that text would hide the likely cause.
fn unknown_or_foreign(error: Error, held: &Held, leaf: &CertificateDer<'_>) -> Error {
    let is_unknown = matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    match identify(held, leaf) {
        Err(refusal @ Refusal::OtherTrustDomain { .. }) if is_unknown => refusal.into(),
        _ => error,
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        !self.is_optional
    }

    /// None: a workload has one certificate, so there is nothing to choose by them.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let held = self.credentials.held();
        held.bundle
            .vouches(leaf, intermediates, Part::Client, now)
            .map_err(|error| unknown_or_foreign(error, &held, leaf))?;
        in_force(&self.credentials, &identify(&held, leaf)?)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(self.credentials.provider(), message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let held = self.credentials.held();
        held.bundle
            .vouches(leaf, intermediates, Part::Server, now)
            .map_err(|error| unknown_or_foreign(error, &held, leaf))?;
        let peer = identify(&held, leaf)?;
        if !self.expected.allows(&peer.id.service) {
            let expected = self.expected.services().to_vec();
            return Err(Refusal::OtherService { got: peer.id.to_string(), expected }.into());
        }
        in_force(&self.credentials, &peer)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(self.credentials.provider(), message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    /// The pinned root is the only anchor, whatever else the server sent. The leaf must be the control server's: every
    /// workload of the mesh has a certificate under that same root, and any of them could otherwise play the authority.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates.iter().find(|der| sha256(der) == self.root_sha256);
        let pinned = pinned.ok_or(Refusal::NotPinned)?;
        let unusable =
            |why: String| Error::from(Refusal::Unreadable(format!("its root cannot be used: {why}")));
        let root =
            Root::new(pinned.clone().into_owned(), self.root_sha256, &self.provider).map_err(unusable)?;
        root.vouches(leaf, intermediates, Part::Server, now)?;
        let id = read_peer(leaf)?.id;
        if id.service != self.expected {
            let expected = vec![self.expected.clone()];
            return Err(Refusal::OtherService { got: id.to_string(), expected }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.provider, message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_signature(
    provider: &CryptoProvider,
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, leaf, signature, &provider.signature_verification_algorithms)
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}
opaque!(Clients, Servers, Pinned);
