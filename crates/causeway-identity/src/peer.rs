//! Reads who a certificate belongs to, strictly.
//!
//! In:    one certificate in DER, or a finished TLS connection.   Out: a [`Peer`], or a [`Refusal`] that says which rule it breaks.
//! Owner: nobody; pure.
//! Invariant: exactly one URI name and that one an identity of our form (X.509-SVID standard, sections 2 and 5.2); other
//! kinds of names are ignored, so the control server may have DNS names as well.
//! Not here: whether the chain is sound ([`crate::trust`]), whether this peer is the wanted one (`verify.rs`).

use std::sync::Arc;

use causeway_model::{ServiceKey, SpiffeId, Timestamp};
use rustls::CommonState;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::Refusal;

/// Whose certificate it is, and how long it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The identity.
    pub id: SpiffeId,
    /// The certificate's serial number, lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// When its life begins.
    pub not_before: Timestamp,
    /// When it ends: a connection should not outlive it.
    pub not_after: Timestamp,
}

/// The identity at the far end of a finished handshake (`tokio_rustls` streams give the connection with `get_ref().1`).
/// `None` when the peer sent no certificate, which only the control server allows.
pub fn peer_identity(connection: &CommonState) -> Option<SpiffeId> {
    peer(connection).map(|peer| peer.id)
}

/// As [`peer_identity`], with the certificate's serial number and life.
pub fn peer(connection: &CommonState) -> Option<Peer> {
    read_peer(connection.peer_certificates()?.first()?).ok()
}

/// Who the server at the far end has to be. The trust domain is always our own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Exactly this service.
    Service(ServiceKey),
    /// One of these (an upstream that several services back).
    AnyOf(Arc<[ServiceKey]>),
}

impl Expected {
    /// Every service that would do.
    pub fn services(&self) -> &[ServiceKey] {
        match self {
            Expected::Service(service) => std::slice::from_ref(service),
            Expected::AnyOf(services) => services,
        }
    }

    /// Whether this service would do.
    pub fn allows(&self, service: &ServiceKey) -> bool {
        self.services().contains(service)
    }
}

/// The service whose identity the control server bears: `causeway/control`. A newcomer with a join token believes nobody else,
/// so no token may ever be issued for it.
pub fn control_service() -> ServiceKey {
    ServiceKey::parse("causeway", "control").expect("both parts are names")
}

/// Reads a workload's certificate.
pub(crate) fn read_peer(der: &[u8]) -> Result<Peer, Refusal> {
    let unreadable = |why: String| Refusal::Unreadable(why);
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| unreadable(e.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("bytes follow it".into()));
    }
    let usage = certificate.key_usage().map_err(|e| unreadable(e.to_string()))?;
    let signs = usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    let constraints = certificate.basic_constraints().map_err(|e| unreadable(e.to_string()))?;
    if signs || constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Refusal::Signer);
    }
    let names = certificate.subject_alternative_name().map_err(|e| unreadable(e.to_string()))?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(unreadable("one of its subject alternative names is malformed".into()));
    }
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(Refusal::NoIdentity)?;
    match uris.count() {
        0 => {}
        more => return Err(Refusal::ManyIdentities(more + 1)),
    }
    let id = SpiffeId::parse(uri).map_err(|e| Refusal::NotAnIdentity(e.to_string()))?;
    let (not_before, not_after) = life(&certificate);
    Ok(Peer { id, serial: hex(certificate.raw_serial()), not_before, not_after })
}

/// From when to when a certificate is valid.
pub(crate) fn life(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let millis = |seconds: i64| Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0) * 1000);
    let validity = certificate.validity();
    (millis(validity.not_before.timestamp()), millis(validity.not_after.timestamp()))
}

/// A serial number as we print it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.trim_start_matches('0').to_owned()
}
