//! `Identity/Sign`: a certificate for a key that the caller keeps.
//!
//! In:    a signing request, from a peer with a token or with a certificate that is still good.     Out: a chain and the roots to trust.
//! Owner: the api room implements [`Signer`]; the roof calls [`sign`] for a sidecar or gateway.
//! Invariant: the private key never travels.
//! Not here: who may have which certificate (`causeway-api`, `causeway-registry`), signing (`causeway-identity`).

use std::fmt;

use bytes::Bytes;
use causeway_base::outbound::Pending;
use causeway_model::Timestamp;
use tonic::{Response, Status};

use crate::peer::{PeerIdentity, Refused};
use crate::proto;

/// Most bytes of a request: the largest sensible CSR (RSA 8192 with names) has 3 KiB.
pub(crate) const REQUEST_BYTES_MAX: usize = 32 * 1024;

/// A certificate, and what it stands on.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate and what it hangs on, PEM.
    pub chain_pem: String,
    /// Roots to trust, PEM.
    pub bundle_pem: String,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("not_after", &self.not_after.to_rfc3339()).finish_non_exhaustive()
    }
}

/// Decides on and signs requests; implemented by the api room.
pub trait Signer: Send + Sync + 'static {
    /// Signs `csr_der` (PKCS#10) for `peer`, which proved itself by its certificate or brings a token that is yet to be verified.
    fn sign(&self, peer: PeerIdentity, csr_der: Bytes) -> Pending<Result<Signed, Refused>>;
}

/// Serves one call.
pub(crate) async fn serve(
    signer: &dyn Signer,
    peer: PeerIdentity,
    request: proto::SignRequest,
) -> Result<Response<proto::SignResponse>, Status> {
    if peer.spiffe.is_none() && peer.token.is_none() {
        let text =
            format!("signing needs a join token or a certificate [{}]", crate::stream::code::NO_IDENTITY);
        return Err(Status::unauthenticated(text));
    }
    let signed = signer.sign(peer, request.csr_der).await.map_err(Refused::into_status)?;
    Ok(Response::new(proto::SignResponse {
        chain_pem: signed.chain_pem,
        bundle_pem: signed.bundle_pem,
        not_after_ms: signed.not_after.as_millis(),
    }))
}
