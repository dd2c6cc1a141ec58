//! `Identity/Sign`: a certificate for a key that the caller keeps.
//!
//! In:    a signing request, from a peer with a token or with a certificate that is still good.     Out: a chain and the roots to trust.
//! Owner: the api room implements [`Signer`]; the roof calls [`sign`] for a sidecar or gateway.
//! Invariant: the private key never travels.
//! Not here: who may have which certificate (`causeway-api`, `causeway-registry`), signing (`causeway-identity`).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::outbound::Pending;
use causeway_model::Timestamp;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::link::{Conduit, Dial, Link, connect};
use crate::peer::{PeerIdentity, Reason, Refused};
use crate::proto;
use crate::stream::code;

/// Longest wait for a signature once there is a connection.
pub const SIGN_TIME_MAX: Duration = Duration::from_secs(10);

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
        let text = format!("signing needs a join token or a certificate [{}]", code::NO_IDENTITY);
        return Err(Status::unauthenticated(text));
    }
    let signed = signer.sign(peer, request.csr_der).await.map_err(Refused::into_status)?;
    Ok(Response::new(proto::SignResponse {
        chain_pem: signed.chain_pem,
        bundle_pem: signed.bundle_pem,
        not_after_ms: signed.not_after.as_millis(),
    }))
}

/// Has a key certified before there is an identity: connects to each of `control` in turn until one answers. `dial` must pin
/// the root that the token names, and shows no certificate.
///
/// # Errors
/// The refusal of the first node that decided, or why none was reached ([`Reason::Unavailable`]).
///
/// # Cancel safety
/// Dropping the future may leave a certificate signed that nobody has the answer of.
pub async fn sign(
    dial: &dyn Dial,
    control: &[String],
    csr_der: Bytes,
    token: &str,
) -> Result<Signed, Refused> {
    let mut last = unreachable("no address of a control plane is given");
    for address in control {
        last = match connect(dial, address).await {
            Err(error) => unreachable(format!("{address}: {error}")),
            Ok((sender, connection)) => {
                let conduit = Conduit::once(sender);
                let answer = tokio::select! {
                    biased;
                    answer = ask(&conduit, csr_der.clone(), Some(token)) => answer,
                    _ = connection => Err(unreachable(format!("{address}: the connection was lost"))),
                };
                match answer {
                    Err(refused) if refused.reason == Reason::Unavailable => refused,
                    decided => return decided,
                }
            }
        };
    }
    Err(last)
}

impl Link {
    /// Has a new certificate signed over the link, on the strength of the certificate it was made with; waits for the link
    /// at most `within`.
    ///
    /// # Errors
    /// The node's refusal, or that it was not reached ([`Reason::Unavailable`]).
    ///
    /// # Cancel safety
    /// As [`sign`].
    pub async fn sign(&self, csr_der: Bytes, within: Duration) -> Result<Signed, Refused> {
        match tokio::time::timeout(within, self.conduit()).await {
            Ok(Some(conduit)) => ask(&conduit, csr_der, None).await,
            _ => Err(unreachable("there is no connection")),
        }
    }
}

async fn ask(conduit: &Conduit, csr_der: Bytes, token: Option<&str>) -> Result<Signed, Refused> {
    let mut request = Request::new(proto::SignRequest { csr_der });
    if let Some(token) = token {
        let invalid =
            |_| Refused::new(Reason::Invalid, code::NOT_UNDERSTOOD, "the join token is not plain text");
        let mut value: tonic::metadata::MetadataValue<_> =
            format!("Bearer {token}").parse().map_err(invalid)?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    let mut grpc = conduit.grpc();
    let call = async {
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = http::uri::PathAndQuery::from_static(proto::SIGN_PATH);
        let codec = ProstCodec::<proto::SignRequest, proto::SignResponse>::default();
        grpc.unary(request, path, codec).await
    };
    let answer = tokio::time::timeout(SIGN_TIME_MAX, call).await;
    let response =
        answer.map_err(|_| unreachable("no answer in time"))?.map_err(|status| refusal(&status))?;
    let proto::SignResponse { chain_pem, bundle_pem, not_after_ms } = response.into_inner();
    Ok(Signed { chain_pem, bundle_pem, not_after: Timestamp::from_millis(not_after_ms) })
}

fn unreachable(why: impl fmt::Display) -> Refused {
    let text = format!("the control plane did not sign the certificate: {why}");
    Refused::new(Reason::Unavailable, code::UNREACHABLE, text)
}

/// A status as the refusal that it was made of: the code stands in brackets at its end.
fn refusal(status: &Status) -> Refused {
    let reason = match status.code() {
        Code::InvalidArgument => Reason::Invalid,
        Code::Unauthenticated => Reason::Unauthenticated,
        Code::PermissionDenied => Reason::NotAllowed,
        Code::AlreadyExists => Reason::Conflict,
        _ => Reason::Unavailable,
    };
    match status.message().strip_suffix(']').and_then(|text| text.rsplit_once(" [")) {
        Some((message, code)) if code.starts_with("CW-") => Refused::new(reason, code, message),
        _ => Refused::new(reason, code::UNREACHABLE, status.message()),
    }
}
