//! Who gets which certificate: a newcomer the one its join token names, a member its own again.
//!
//! In:    signing requests with what the peer proved or brought.     Out: certificates, each written down before it is handed out.
//! Owner: the control port.
//! Invariant: a certificate names the service of the token or of the peer's own certificate, and nothing that the request asks for.
//! Not here: signing (`causeway-identity`), what tokens there are (`causeway-registry`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::Clock;
use causeway_base::outbound::Pending;
use causeway_identity::{Authorities, JoinToken, TokenTerms, control_service};
use causeway_model::{ServiceKey, SpiffeId, Timestamp, TrustDomain};
use causeway_registry::{Command, Digest, Issued, Registry, Serial, Token, TokenId, TokenUse};
use causeway_xds::{PeerIdentity, Reason, Refused, Signed, Signer};
use parking_lot::{Mutex, RwLock};

/// For how long a token is good when nothing is said.
pub const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Certificates for one identity in a minute: a thousand instances may start at once, but one that asks in a loop must not fill the
/// registry's list of issued certificates for everybody.
pub const SIGNED_PER_MINUTE_MAX: u32 = 3_000;
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The desk where certificates and tokens are made. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    shared: Arc<Shared>,
}

struct Shared {
    authorities: RwLock<Authorities>,
    trust_domain: TrustDomain,
    registry: Registry,
    clock: Clock,
    ttl: Duration,
    /// Certificates signed for each identity within the minute that began then.
    signed: Mutex<HashMap<ServiceKey, (Timestamp, u32)>>,
}

impl Desk {
    /// A desk that signs with `authorities`, each certificate for `ttl`.
    pub fn new(
        authorities: Authorities,
        trust_domain: TrustDomain,
        registry: Registry,
        clock: Clock,
        ttl: Duration,
    ) -> Self {
        let authorities = RwLock::new(authorities);
        Desk {
            shared: Arc::new(Shared {
                authorities,
                trust_domain,
                registry,
                clock,
                ttl,
                signed: Mutex::default(),
            }),
        }
    }

    /// Makes a join token for one service or gateway and writes it down; gives its whole text, which is shown nowhere again.
    ///
    /// # Errors
    /// A service of the house itself (namespace `causeway`), or the registry's refusal.
    pub async fn join_token(
        &self,
        service: ServiceKey,
        ttl: Duration,
        issued_by: &str,
    ) -> Result<String, Refused> {
        self.may_be_given(&service)?;
        let root = self.shared.authorities.read().signer(self.now()).root_sha256();
        let token = JoinToken::generate(root);
        let id = TokenId::new(&token.id()).ok_or_else(|| unavailable(&"a token's id is not one"))?;
        let record = Token {
            id,
            digest: Digest::new(token.secret_sha256()),
            use_for: TokenUse::Join,
            namespace: Some(service.namespace),
            service: Some(service.name),
            expires_at: Some(self.now().plus(ttl)),
            issued_by: issued_by.to_owned(),
        };
        self.shared
            .registry
            .submit(Command::IssueToken(record))
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(token.reveal())
    }

    /// Signs for an identity that this very process bears: the control port (with the names and addresses it is reached at), the
    /// house's own callers, a gateway that runs in the node. Not reachable from any door.
    ///
    /// # Errors
    /// A request that cannot be signed, or the registry's refusal to write it down.
    pub async fn sign_own(
        &self,
        service: ServiceKey,
        csr: &[u8],
        names: &[String],
    ) -> Result<causeway_identity::Issued, Refused> {
        let id = SpiffeId::new(self.shared.trust_domain.clone(), service);
        let issued = {
            let authorities = self.shared.authorities.read();
            match names {
                [] => authorities.sign_from(csr, &id, self.shared.ttl, self.earliest(&id), self.now()),
                names => authorities.sign_server(csr, &id, names, self.shared.ttl, self.now()),
            }
        };
        let issued =
            issued.map_err(|error| Refused::new(Reason::Invalid, error.code(), error.to_string()))?;
        self.write_down(&id, &issued, None).await?;
        Ok(issued)
    }

    /// Writes a certificate down that was asked for with the certificate `by` (or with a token).
    async fn write_down(
        &self,
        id: &SpiffeId,
        issued: &causeway_identity::Issued,
        by: Option<&str>,
    ) -> Result<(), Refused> {
        let serial = Serial::new(&issued.serial).ok_or_else(|| unavailable(&"a serial number is not one"))?;
        let (not_before, not_after) = (issued.not_before, issued.not_after);
        let record = Issued { serial, identity: id.clone(), not_after, revoked_at: None, not_before };
        self.shared
            .registry
            .submit(Command::RecordIssued { issued: record, by: by.and_then(Serial::new) })
            .await
            .map_err(|error| unavailable(&error))?;
        tracing::info!(identity = %id, serial = issued.serial, until = issued.not_after.to_rfc3339(), "a certificate was issued");
        Ok(())
    }

    /// The namespace `causeway` is the house's own: events, sagas, the control port itself.
    fn may_be_given(&self, service: &ServiceKey) -> Result<(), Refused> {
        if service.namespace != control_service().namespace {
            return Ok(());
        }
        let text = format!("{service} is an identity of the node itself; no token is made for it");
        Err(Refused::new(Reason::NotAllowed, "CW-1901", text))
    }

    async fn decide(&self, peer: PeerIdentity, csr: Bytes) -> Result<Signed, Refused> {
        let service = match (&peer.spiffe, &peer.token) {
            (Some(spiffe), _) => spiffe.service.clone(),
            (None, Some(token)) => self.redeem(token)?,
            (None, None) => {
                return Err(Refused::new(
                    Reason::Unauthenticated,
                    "CW-1902",
                    "a join token or a certificate is needed",
                ));
            }
        };
        self.may_be_given(&service)?;
        self.within_rate(&service)?;
        let id = SpiffeId::new(self.shared.trust_domain.clone(), service);
        let issued = {
            let authorities = self.shared.authorities.read();
            authorities.sign_from(&csr, &id, self.shared.ttl, self.earliest(&id), self.now())
        };
        let issued =
            issued.map_err(|error| Refused::new(Reason::Invalid, error.code(), error.to_string()))?;
        self.write_down(&id, &issued, peer.serial.as_deref()).await?;
        Ok(Signed { chain_pem: issued.chain_pem, bundle_pem: issued.roots_pem, not_after: issued.not_after })
    }

    /// Whether the identity may have one more certificate this minute. Identities are those that tokens were made for, so the map is
    /// as bounded as those are.
    fn within_rate(&self, service: &ServiceKey) -> Result<(), Refused> {
        let now = self.now();
        let mut signed = self.shared.signed.lock();
        let (began, count) = signed.entry(service.clone()).or_insert((now, 0));
        if now.since(*began) >= RATE_WINDOW {
            (*began, *count) = (now, 0);
        }
        if *count >= SIGNED_PER_MINUTE_MAX {
            let text = format!("{service} got {count} certificates within a minute, which is the most");
            return Err(Refused::new(Reason::Unavailable, "CW-1903", text));
        }
        *count += 1;
        Ok(())
    }

    /// The service that a join token stands for.
    fn redeem(&self, text: &str) -> Result<ServiceKey, Refused> {
        // The same words for every reason, so that a guess learns nothing.
        let unknown = || {
            let text = "the join token is not known here, was revoked or has expired; make one with `causeway token create`";
            Refused::new(Reason::Unauthenticated, "CW-1902", text)
        };
        let token = JoinToken::parse(text)
            .map_err(|error| Refused::new(Reason::Unauthenticated, error.code(), error.to_string()))?;
        let id = TokenId::new(&token.id()).ok_or_else(unknown)?;
        let digest = token.secret_sha256();
        let record = self.shared.registry.verify(&id, &Digest::new(digest)).map_err(|_| unknown())?;
        let (TokenUse::Join, Some(namespace), Some(name)) =
            (&record.use_for, &record.namespace, &record.service)
        else {
            return Err(unknown());
        };
        let scope = ServiceKey::new(namespace.clone(), name.clone());
        let expires_at = record.expires_at.unwrap_or(Timestamp::from_millis(u64::MAX));
        let terms = TokenTerms { secret_sha256: &digest, scope: &scope, expires_at };
        token.check(&terms, &scope, self.now()).map_err(|_| unknown())?;
        Ok(scope)
    }

    /// From when on certificates of an identity are not revoked.
    fn earliest(&self, id: &SpiffeId) -> Timestamp {
        self.shared.registry.snapshot().revocations().earliest(&id.service).unwrap_or_default()
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now().into()
    }
}

impl Signer for Desk {
    fn sign(&self, peer: PeerIdentity, csr_der: Bytes) -> Pending<Result<Signed, Refused>> {
        let desk = self.clone();
        Box::pin(async move { desk.decide(peer, csr_der).await })
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Refused {
    Refused::new(Reason::Unavailable, "CW-1903", format!("cannot write it down now: {error}"))
}
