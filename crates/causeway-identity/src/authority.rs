//! The embedded certificate authority: signs what it was told to sign, never what the request asks for.
//!
//! In:    a trust domain, or root and key in PEM; signing requests in DER.   Out: [`Issued`] certificates, the root.
//! Owner: the control role of a node; the roof keeps the two files (0600).
//! Invariant: a certificate has exactly one URI name, the given identity of our trust domain; it ends no later than its root.
//! Not here: who may ask for which identity (the api, with the registry's tokens).

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use causeway_model::{SpiffeId, Timestamp, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{Error, ErrorKind};
use crate::peer::{hex, life};
use crate::svid::{KeyPair, certificate_pem, certificates};
use crate::trust::{ROOTS_MAX, TrustBundle, sha256};

/// How long a root of ours lives. It sits in files of every sidecar and its hash in join tokens, so it changes seldom; a
/// successor is made by itself when two thirds are over ([`Authorities::wants_successor`]).
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Shortest life that is signed: below this a renewal (at half life) would fall within a slow handshake.
pub const SVID_LIFE_MIN: Duration = Duration::from_secs(10);
/// Longest life that is signed. It bounds how long a stolen key is of use, and how long a new root waits ([`ROOT_SETTLES`]).
pub const SVID_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// A certificate begins this much before it is signed (a tenth of its life if that is less), so that a machine whose clock
/// is a little late takes it.
pub const BACKDATE_MAX: Duration = Duration::from_secs(60);
/// A new root signs only when it is this old: every identity has been renewed by then (none lives longer), and with its
/// new certificate each got the bundle that holds this root.
pub const ROOT_SETTLES: Duration = SVID_LIFE_MAX;
/// Largest signing request that is read; one for a P-256 key has some 250 bytes.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Most DNS names and addresses in a control server's certificate.
pub const SERVER_NAMES_MAX: usize = 64;

/// A root certificate with its key.
pub struct CertAuthority {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    root_sha256: [u8; 32],
    not_before: Timestamp,
    not_after: Timestamp,
    key: KeyPair,
    issuer: Issuer<'static, KeyHandle>,
}

/// A certificate that was just signed, as `Sign` answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate and what lies between it and the root, in PEM.
    pub chain_pem: String,
    /// The trust bundle to believe from now on, in PEM, newest root first.
    pub roots_pem: String,
    /// Serial number, lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// When its life begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// The authorities of one trust domain: normally one, two while a successor takes over.
#[derive(Debug)]
pub struct Authorities {
    /// Newest first, never empty, one trust domain.
    all: Vec<CertAuthority>,
}

// === impl CertAuthority ===

impl CertAuthority {
    /// A new self-signed root for a trust domain, with [`ROOT_LIFE`].
    pub fn generate(trust_domain: &TrustDomain, now: Timestamp) -> Self {
        CertAuthority::generate_for(trust_domain, ROOT_LIFE, now)
    }

    /// A new self-signed root with a life of its own.
    pub fn generate_for(trust_domain: &TrustDomain, life: Duration, now: Timestamp) -> Self {
        let key = KeyPair::generate();
        let serial = random_serial();
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Causeway");
        // Each root has a name of its own, so that overlapping ones are told apart by it and not by trying signatures.
        name.push(DnType::CommonName, format!("Causeway root {}", &hex(&serial)[..8]));
        params.distinguished_name = name;
        params.not_before = whole_seconds(earlier(now, BACKDATE_MAX)).into();
        params.not_after = whole_seconds(now.plus(life)).into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&domain_uri(trust_domain))];
        let root = params.self_signed(&**key.inner()).expect("a P-256 key signs its own certificate");
        CertAuthority::assemble(root.der().clone(), key).expect("our own root is a good root")
    }

    /// Reads a root and its key, as [`CertAuthority::to_pem`] gave them.
    ///
    /// # Errors
    /// [`ErrorKind::Unreadable`], or [`ErrorKind::Authority`] when they do not belong together or may not sign.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let mut found = certificates(certificate_pem)?.into_iter();
        let (Some(root), None) = (found.next(), found.next()) else {
            let text =
                "cannot use the authority's certificate file: exactly one certificate is expected in it";
            return Err(Error::new(ErrorKind::Authority, text));
        };
        CertAuthority::assemble(root, KeyPair::from_pem(key_pem)?)
    }

    fn assemble(root: CertificateDer<'static>, key: KeyPair) -> Result<Self, Error> {
        let bad = |why: String| {
            Error::new(ErrorKind::Authority, format!("cannot use the authority's certificate: {why}"))
        };
        let (_, parsed) = X509Certificate::from_der(&root).map_err(|e| bad(e.to_string()))?;
        let constraints = parsed.basic_constraints().map_err(|e| bad(e.to_string()))?;
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(bad("it is not an authority's (its basic constraints do not say so)".into()));
        }
        let usage = parsed.key_usage().map_err(|e| bad(e.to_string()))?;
        if !usage.is_none_or(|usage| usage.value.key_cert_sign()) {
            return Err(bad("its key usage does not let it sign certificates".into()));
        }
        if !key.fits(&parsed) {
            return Err(bad("the private key is not the one it was made for".into()));
        }
        let trust_domain = read_domain(&parsed).map_err(bad)?;
        let (not_before, not_after) = life(&parsed);
        let issuer =
            Issuer::from_ca_cert_der(&root, KeyHandle(key.clone())).map_err(|e| bad(e.to_string()))?;
        let root_sha256 = sha256(&root);
        Ok(CertAuthority { trust_domain, root, root_sha256, not_before, not_after, key, issuer })
    }

    /// Certificate and private key in PEM. The second is the secret of the whole mesh: for a file with mode 0600 only.
    pub fn to_pem(&self) -> (String, String) {
        (self.root_pem(), self.key.to_pem())
    }

    /// The root in PEM.
    pub fn root_pem(&self) -> String {
        certificate_pem(&self.root)
    }

    /// SHA-256 of the root's DER: what a join token carries.
    pub fn root_sha256(&self) -> [u8; 32] {
        self.root_sha256
    }

    /// The trust domain it vouches for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// When its life begins.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When its life ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs a workload's certificate. Of the request only the public key counts; its signature must prove that the
    /// asker has the private one. `ttl` is cut to [`SVID_LIFE_MIN`]..=[`SVID_LIFE_MAX`] and to the root's own life.
    ///
    /// # Errors
    /// [`ErrorKind::Request`] for a bad request or an identity of another trust domain, [`ErrorKind::Authority`] when the
    /// root is expired or not valid yet.
    pub fn sign(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        self.sign_names(csr_der, id, Vec::new(), ttl, (now, Timestamp::default()))
    }

    /// As [`CertAuthority::sign`], with a life that begins at `earliest` at the earliest: those that began before are revoked.
    ///
    /// # Errors
    /// As [`CertAuthority::sign`].
    pub fn sign_from(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        earliest: Timestamp,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        self.sign_names(csr_der, id, Vec::new(), ttl, (now, earliest))
    }

    /// As [`CertAuthority::sign`], for a control server or API that is also found by DNS names and IP addresses.
    ///
    /// # Errors
    /// As [`CertAuthority::sign`], and [`ErrorKind::Request`] for a name that is none.
    pub fn sign_server(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        names: &[String],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        if names.len() > SERVER_NAMES_MAX {
            return Err(refuse(format!(
                "{} server names are too many (at most {SERVER_NAMES_MAX})",
                names.len()
            )));
        }
        let names = names.iter().map(|name| server_name(name)).collect::<Result<Vec<_>, _>>()?;
        self.sign_names(csr_der, id, names, ttl, (now, Timestamp::default()))
    }

    fn sign_names(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        server_names: Vec<SanType>,
        ttl: Duration,
        (now, earliest): (Timestamp, Timestamp),
    ) -> Result<Issued, Error> {
        if id.trust_domain != self.trust_domain {
            let ours = self.trust_domain.as_str();
            return Err(refuse(format!("{id} is not of our trust domain {ours:?}")));
        }
        if now < self.not_before || now >= self.not_after {
            let (from, to) = (self.not_before.to_rfc3339(), self.not_after.to_rfc3339());
            let text = format!("cannot sign for {id}: our root is valid from {from} to {to} only");
            return Err(Error::new(ErrorKind::Authority, text));
        }
        let public_key = read_request(csr_der)?;
        let ttl = ttl.clamp(SVID_LIFE_MIN, SVID_LIFE_MAX);
        let not_before = earlier(now, BACKDATE_MAX.min(ttl / 10)).max(self.not_before).max(earliest);
        let not_before = whole_seconds(not_before);
        let not_after = whole_seconds(now.plus(ttl).min(self.not_after));
        let serial = random_serial();

        let mut params = CertificateParams::default();
        // A subject keeps the alternative names from having to be critical; who it is they alone say.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Causeway");
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri(&id.to_string())];
        params.subject_alt_names.extend(server_names);
        let certificate = params
            .signed_by(&public_key, &self.issuer)
            .map_err(|e| Error::new(ErrorKind::Authority, format!("cannot sign for {id}: {e}")))?;
        Ok(Issued {
            chain_pem: certificate_pem(certificate.der()),
            roots_pem: self.root_pem(),
            serial: hex(&serial),
            not_before: not_before.into(),
            not_after: not_after.into(),
        })
    }
}

impl std::fmt::Debug for CertAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertAuthority")
            .field("trust_domain", &self.trust_domain.as_str())
            .field("not_after", &self.not_after.to_rfc3339())
            .finish_non_exhaustive()
    }
}

// === impl Authorities ===

impl Authorities {
    /// The authorities of one trust domain, in any order.
    ///
    /// # Errors
    /// [`ErrorKind::Authority`] when there is none, too many, or they are of several trust domains.
    pub fn new(mut all: Vec<CertAuthority>) -> Result<Self, Error> {
        let bad =
            |text: &str| Err(Error::new(ErrorKind::Authority, format!("cannot use the authorities: {text}")));
        let Some(first) = all.first() else { return bad("there is none") };
        if all.iter().any(|one| one.trust_domain != first.trust_domain) {
            return bad("they are of several trust domains");
        }
        if all.len() > ROOTS_MAX {
            return bad("there are too many");
        }
        all.sort_by_key(|one| std::cmp::Reverse((one.not_before, one.not_after)));
        Ok(Authorities { all })
    }

    /// The one that signs now: the newest that is valid and has settled ([`ROOT_SETTLES`]), else the oldest valid one. While
    /// there is only one, it signs from the first moment.
    pub fn signer(&self, now: Timestamp) -> &CertAuthority {
        let mut valid = self.all.iter().filter(|one| now >= one.not_before && now < one.not_after);
        let oldest = valid.clone().next_back();
        let settled = valid.find(|one| now.since(one.not_before) >= ROOT_SETTLES);
        settled.or(oldest).unwrap_or(&self.all[0])
    }

    /// Whether it is time to generate a successor: two thirds of the newest root's life are over.
    pub fn wants_successor(&self, now: Timestamp) -> bool {
        let newest = &self.all[0];
        now.since(newest.not_before) >= newest.not_after.since(newest.not_before) * 2 / 3
    }

    /// Adds a successor; expired authorities are dropped at the same time.
    ///
    /// # Errors
    /// As [`Authorities::new`]; `self` is then unchanged but for the expired ones.
    pub fn add(&mut self, successor: CertAuthority, now: Timestamp) -> Result<(), Error> {
        if successor.trust_domain != self.all[0].trust_domain || self.all.len() >= ROOTS_MAX {
            let text = "cannot add an authority: it is of another trust domain, or there are too many";
            return Err(Error::new(ErrorKind::Authority, text));
        }
        self.all.retain(|one| now < one.not_after);
        self.all.push(successor);
        self.all.sort_by_key(|one| std::cmp::Reverse((one.not_before, one.not_after)));
        Ok(())
    }

    /// All of them, newest first (to keep them in files).
    pub fn all(&self) -> &[CertAuthority] {
        &self.all
    }

    /// What everybody should believe: every root that is not expired, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Authority`] when all are expired.
    pub fn bundle(&self, now: Timestamp) -> Result<TrustBundle, Error> {
        let roots: Vec<_> =
            self.all.iter().filter(|one| now < one.not_after).map(|one| one.root.clone()).collect();
        if roots.is_empty() {
            return Err(Error::new(
                ErrorKind::Authority,
                "cannot make a trust bundle: every root is expired",
            ));
        }
        TrustBundle::new(self.all[0].trust_domain.clone(), roots)
    }

    /// Signs with the [`Authorities::signer`]; the answer carries the whole bundle. See [`CertAuthority::sign`].
    ///
    /// # Errors
    /// As [`CertAuthority::sign`].
    pub fn sign(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let issued = self.signer(now).sign(csr_der, id, ttl, now)?;
        Ok(Issued { roots_pem: self.bundle(now)?.to_pem(), ..issued })
    }

    /// As [`Authorities::sign`], with a life that begins no earlier than said. See [`CertAuthority::sign_from`].
    ///
    /// # Errors
    /// As [`CertAuthority::sign`].
    pub fn sign_from(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        earliest: Timestamp,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let issued = self.signer(now).sign_from(csr_der, id, ttl, earliest, now)?;
        Ok(Issued { roots_pem: self.bundle(now)?.to_pem(), ..issued })
    }

    /// As [`Authorities::sign`], with DNS names and addresses. See [`CertAuthority::sign_server`].
    ///
    /// # Errors
    /// As [`CertAuthority::sign_server`].
    pub fn sign_server(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        names: &[String],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let issued = self.signer(now).sign_server(csr_der, id, names, ttl, now)?;
        Ok(Issued { roots_pem: self.bundle(now)?.to_pem(), ..issued })
    }
}

// === helpers ===

/// Lets a shared key sign for `rcgen`.
struct KeyHandle(KeyPair);

impl rcgen::PublicKeyData for KeyHandle {
    fn der_bytes(&self) -> &[u8] {
        self.0.inner().der_bytes()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.inner().algorithm()
    }
}

impl rcgen::SigningKey for KeyHandle {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.inner().sign(message)
    }
}

fn refuse(why: String) -> Error {
    Error::new(ErrorKind::Request, format!("cannot sign the request: {why}"))
}

/// The public key of a request whose signature proves possession of the private one. Only P-256 is taken: it is what our own
/// clients make, and one kind of key is one thing to get right.
fn read_request(der: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    if der.len() > REQUEST_BYTES_MAX {
        return Err(refuse(format!("it has {} bytes (at most {REQUEST_BYTES_MAX})", der.len())));
    }
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|e| refuse(format!("it is not a PKCS #10 request in DER: {e}")))?;
    if !rest.is_empty() {
        return Err(refuse("bytes follow it".into()));
    }
    let spki = request.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(spki)
        .map_err(|e| refuse(format!("its public key is not understood: {e}")))?;
    if rcgen::PublicKeyData::algorithm(&key) != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(refuse("its public key is not on the curve P-256".into()));
    }
    request
        .verify_signature()
        .map_err(|_| refuse("its signature does not prove possession of the private key".into()))?;
    Ok(key)
}

fn server_name(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let not_one = || refuse(format!("{name:?} is neither a DNS name nor an IP address"));
    rustls_pki_types::DnsName::try_from(name).map_err(|_| not_one())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| not_one())?))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("an identity is ASCII"))
}

fn domain_uri(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{}", trust_domain.as_str())
}

/// A root says its trust domain as the X.509-SVID standard wants a signer to: one URI without a path.
fn read_domain(root: &X509Certificate<'_>) -> Result<TrustDomain, String> {
    let names = root.subject_alternative_name().map_err(|e| e.to_string())?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let mut domains = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
        _ => None,
    });
    match (domains.next(), domains.next()) {
        (Some(domain), None) => TrustDomain::new(domain).map_err(|e| format!("its trust domain {e}")),
        (None, _) => Err("it names no trust domain (a URI name spiffe://<trust-domain> is needed)".into()),
        (Some(_), Some(_)) => Err("it names several trust domains".into()),
    }
}

/// 127 random bits under a leading 1: never zero, never negative, always 32 digits.
fn random_serial() -> [u8; 16] {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).expect("the operating system gives randomness");
    serial[0] |= 0x80;
    serial
}

fn earlier(time: Timestamp, by: Duration) -> Timestamp {
    let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(time.as_millis().saturating_sub(by))
}

/// X.509 knows seconds only; cutting here keeps what we say equal to what the certificate says.
fn whole_seconds(time: Timestamp) -> SystemTime {
    Timestamp::from_millis(time.as_millis() / 1000 * 1000).into()
}
