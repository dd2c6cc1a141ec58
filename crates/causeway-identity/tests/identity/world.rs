//! A trust domain to test in: an authority, identities, odd certificates, and handshakes over memory.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::Clock;
use causeway_identity::{CertAuthority, Credentials, KeyPair, Svid, TrustBundle, explain, unnamed_server};
use causeway_model::{ServiceKey, SpiffeId, Timestamp, TrustDomain};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyUsagePurpose, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) domain: TrustDomain,
    pub(crate) authority: CertAuthority,
}

impl World {
    pub(crate) fn new() -> Self {
        World::named("causeway.local")
    }

    pub(crate) fn named(domain: &str) -> Self {
        let clock = Clock::simulated();
        let domain = TrustDomain::new(domain).unwrap();
        let authority = CertAuthority::generate(&domain, clock.now().into());
        World { clock, domain, authority }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().into()
    }

    pub(crate) fn id(&self, name: &str) -> SpiffeId {
        SpiffeId::new(self.domain.clone(), service(name))
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(self.domain.clone(), &self.authority.root_pem()).unwrap()
    }

    pub(crate) fn svid(&self, name: &str, ttl: Duration) -> Svid {
        let key = KeyPair::generate();
        let issued = self.authority.sign(&key.csr(), &self.id(name), ttl, self.now()).unwrap();
        Svid::new(&issued.chain_pem, key).unwrap()
    }

    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        Credentials::new(self.svid(name, HOUR), self.bundle(), self.clock.clone()).unwrap()
    }

    pub(crate) fn control(&self) -> Credentials {
        let id = SpiffeId::new(self.domain.clone(), causeway_identity::control_service());
        let key = KeyPair::generate();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let issued = self.authority.sign_server(&key.csr(), &id, &names, HOUR, self.now()).unwrap();
        Credentials::new(Svid::new(&issued.chain_pem, key).unwrap(), self.bundle(), self.clock.clone())
            .unwrap()
    }

    /// A certificate with these names that our authority's key signed, as a broken or wicked authority tool might.
    pub(crate) fn odd(&self, uris: &[&str], dns: &[&str]) -> Odd {
        self.odd_with(uris, dns, |_| {})
    }

    pub(crate) fn odd_with(
        &self,
        uris: &[&str],
        dns: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Odd {
        let (root, root_key) = self.authority.to_pem();
        let issuer = Issuer::from_ca_cert_pem(&root, rcgen::KeyPair::from_pem(&root_key).unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = odd_params(self.now(), uris, dns, change);
        Odd { certificate: params.signed_by(&key, &issuer).unwrap().der().clone(), key }
    }
}

pub(crate) fn self_signed(now: Timestamp, uri: &str) -> Odd {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = odd_params(now, &[uri], &[], |_| {});
    Odd { certificate: params.self_signed(&key).unwrap().der().clone(), key }
}

fn odd_params(
    now: Timestamp,
    uris: &[&str],
    dns: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = std::time::SystemTime::from(now).into();
    params.not_after = std::time::SystemTime::from(now.plus(HOUR)).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
    params.subject_alt_names.extend(dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())));
    change(&mut params);
    params
}

/// A certificate that our own code would not make.
pub(crate) struct Odd {
    certificate: CertificateDer<'static>,
    key: rcgen::KeyPair,
}

impl Odd {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.serialize_pem().as_bytes()).unwrap()
    }

    /// A client that shows it and believes everybody.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let builder = credulous(&[&rustls::version::TLS13]);
        // Shown as it is: a client that looks at its own certificate would not show every odd one.
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(self.key()).unwrap();
        let shown = rustls::sign::CertifiedKey::new(vec![self.certificate.clone()], key);
        Arc::new(builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown))))
    }

    /// A server that shows it and wants no certificate.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key())
            .unwrap();
        Arc::new(config)
    }
}

/// A client configuration that believes every server.
pub(crate) fn credulous(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) type Served = tokio_rustls::server::TlsStream<DuplexStream>;
pub(crate) type Called = tokio_rustls::client::TlsStream<DuplexStream>;

/// One handshake and one byte from server to client. An error is the sentence of `explain`.
pub(crate) async fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (Result<Served, String>, Result<Called, String>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serve = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(far).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let call = async {
        let mut stream = TlsConnector::from(client.clone()).connect(unnamed_server(), near).await?;
        // In TLS 1.3 the client is done before the server has judged its certificate: only reading tells.
        stream.read_u8().await?;
        Ok(stream)
    };
    let (served, called): (std::io::Result<Served>, std::io::Result<Called>) = tokio::join!(serve, call);
    let words = |error: std::io::Error| explain(&error).unwrap_or_else(|| format!("not TLS: {error}"));
    (served.map_err(words), called.map_err(words))
}

pub(crate) fn service(name: &str) -> ServiceKey {
    ServiceKey::parse("default", name).unwrap()
}
