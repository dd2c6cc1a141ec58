//! What the authority signs, whatever it was asked for.

use std::time::Duration;

use causeway_identity::authority::{
    BACKDATE_MAX, REQUEST_BYTES_MAX, ROOT_LIFE, ROOT_SETTLES, SVID_LIFE_MAX, SVID_LIFE_MIN,
};
use causeway_identity::{Authorities, CertAuthority, ErrorKind, KeyPair, Svid, TrustBundle};
use causeway_model::{ServiceKey, SpiffeId, Timestamp, TrustDomain};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_123);
const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    TrustDomain::new("causeway.local").unwrap()
}

fn cart() -> SpiffeId {
    SpiffeId::new(domain(), ServiceKey::parse("default", "cart").unwrap())
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::URI(uri) => format!("uri {uri}"),
            GeneralName::DNSName(name) => format!("dns {name}"),
            GeneralName::IPAddress(bytes) => format!("ip {bytes:?}"),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn what_a_request_asks_for_is_ignored() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "root of all");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![
        SanType::URI("spiffe://causeway.local/ns/default/svc/bank".try_into().unwrap()),
        SanType::DnsName("bank.example".try_into().unwrap()),
    ];
    let csr = params.serialize_request(&key).unwrap();
    let issued = authority.sign(csr.der(), &cart(), HOUR, NOW).unwrap();
    let der = der(&issued.chain_pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(names(&certificate), ["uri spiffe://causeway.local/ns/default/svc/cart"]);
    assert_eq!(certificate.subject().to_string(), "O=Causeway");
    assert!(!certificate.is_ca());
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(certificate.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
}

#[test]
fn a_control_server_has_its_names_beside_its_identity() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let csr = KeyPair::generate().csr();
    let sign = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        authority.sign_server(&csr, &cart(), &names, HOUR, NOW)
    };
    let der = der(&sign(&["node-1.example", "10.0.0.5", "::1"]).unwrap().chain_pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(
        names(&certificate),
        [
            "uri spiffe://causeway.local/ns/default/svc/cart",
            "dns node-1.example",
            "ip [10, 0, 0, 5]",
            "ip [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]"
        ]
    );
    for wrong in ["", "a b", "spiffe://x", "-", "ü.example"] {
        assert_eq!(sign(&[wrong]).unwrap_err().kind(), ErrorKind::Request, "{wrong:?}");
    }
    assert_eq!(sign(&["a.example"; 65]).unwrap_err().kind(), ErrorKind::Request);
}

#[test]
fn bad_requests_are_refused() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let good = KeyPair::generate().csr();
    let check = |csr: &[u8], words: &str| {
        let error = authority.sign(csr, &cart(), HOUR, NOW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Request);
        assert!(error.to_string().contains(words), "{error}");
    };
    authority.sign(&good, &cart(), HOUR, NOW).unwrap();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    check(&forged, "does not prove possession");
    // Somebody else's public key under our signature: the key's last bytes lie in the middle of the request.
    let (other, ours) = (KeyPair::generate(), KeyPair::generate());
    let point = |key: &KeyPair| rcgen::KeyPair::from_pem(&key.to_pem()).unwrap().public_key_raw().to_vec();
    let mut stolen = ours.csr();
    let at = stolen.windows(65).position(|window| window == point(&ours)).unwrap();
    stolen[at..at + 65].copy_from_slice(&point(&other));
    check(&stolen, "does not prove possession");
    check(b"", "not a PKCS #10 request");
    check(&good[..good.len() - 1], "not a PKCS #10 request");
    check(&[&good[..], b"x"].concat(), "bytes follow it");
    check(&vec![0x30; REQUEST_BYTES_MAX + 1], "at most 16384");
    let request = |algorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    };
    check(&request(&rcgen::PKCS_ED25519), "not on the curve P-256");
    check(&request(&rcgen::PKCS_ECDSA_P384_SHA384), "not on the curve P-256");
    let elsewhere = SpiffeId::new(TrustDomain::new("elsewhere").unwrap(), cart().service);
    let error = authority.sign(&good, &elsewhere, HOUR, NOW).unwrap_err();
    assert!(error.to_string().contains("not of our trust domain"), "{error}");
}

#[test]
fn lives_are_bounded_and_begin_a_little_early() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let key = KeyPair::generate();
    let second = Timestamp::from_millis(NOW.as_millis() / 1000 * 1000);
    let life_of = |ttl, now| {
        let issued = authority.sign(&key.csr(), &cart(), ttl, now).unwrap();
        let svid = Svid::new(&issued.chain_pem, key.clone()).unwrap();
        assert_eq!((svid.not_before(), svid.not_after()), (issued.not_before, issued.not_after));
        assert_eq!(svid.serial(), issued.serial);
        issued
    };
    let hour = life_of(HOUR, NOW.plus(HOUR));
    assert_eq!(hour.not_after, second.plus(HOUR * 2));
    assert_eq!(hour.not_after.since(hour.not_before), HOUR + BACKDATE_MAX);
    assert_eq!(life_of(Duration::ZERO, NOW).not_after, second.plus(SVID_LIFE_MIN));
    assert_eq!(life_of(Duration::MAX, NOW).not_after, second.plus(SVID_LIFE_MAX));
    let minute = life_of(Duration::from_secs(60), NOW);
    assert_eq!(minute.not_before, Timestamp::from_millis(second.as_millis() - 5000 - 1000));
    // Never longer than the root, and not at all when its time is over.
    let last = life_of(HOUR, NOW.plus(ROOT_LIFE - Duration::from_secs(60)));
    assert_eq!(last.not_after, authority.not_after());
    let late = authority.sign(&key.csr(), &cart(), HOUR, NOW.plus(ROOT_LIFE)).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Authority);
    let early = Timestamp::from_millis(NOW.as_millis() - 3_600_000);
    assert_eq!(authority.sign(&key.csr(), &cart(), HOUR, early).unwrap_err().kind(), ErrorKind::Authority);
}

#[test]
fn serial_numbers_are_random_and_long() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let csr = KeyPair::generate().csr();
    let serials: std::collections::BTreeSet<String> =
        (0..50).map(|_| authority.sign(&csr, &cart(), HOUR, NOW).unwrap().serial).collect();
    assert_eq!(serials.len(), 50);
    assert!(serials.iter().all(|serial| serial.len() == 32), "{serials:?}");
}

#[test]
fn an_authority_comes_back_from_its_files() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let (certificate, key) = authority.to_pem();
    let again = CertAuthority::from_pem(&certificate, &key).unwrap();
    assert_eq!(again.root_sha256(), authority.root_sha256());
    assert_eq!((again.not_before(), again.not_after()), (authority.not_before(), authority.not_after()));
    assert_eq!(again.trust_domain(), &domain());
    let mine = KeyPair::generate();
    let issued = again.sign(&mine.csr(), &cart(), HOUR, NOW).unwrap();
    let bundle = TrustBundle::from_pem(domain(), &authority.root_pem()).unwrap();
    assert_eq!(bundle.root_hashes().collect::<Vec<_>>(), [authority.root_sha256()]);
    let svid = Svid::new(&issued.chain_pem, mine.clone()).unwrap();
    causeway_identity::Credentials::new(svid, bundle, causeway_base::Clock::system()).unwrap();
    assert!(!format!("{again:?} {mine:?}").contains("PRIVATE"));

    let (other, other_key) = CertAuthority::generate(&domain(), NOW).to_pem();
    for (certificate, key, kind) in [
        (&certificate, &other_key, ErrorKind::Authority),
        (&issued.chain_pem, &mine.to_pem(), ErrorKind::Authority),
        (&format!("{certificate}{other}"), &key, ErrorKind::Authority),
        (&String::new(), &key, ErrorKind::Authority),
        (&certificate, &String::new(), ErrorKind::Unreadable),
        (&certificate.replacen("MII", "!!!", 1), &key, ErrorKind::Unreadable),
    ] {
        assert_eq!(CertAuthority::from_pem(certificate, key).unwrap_err().kind(), kind);
    }
    assert!(TrustBundle::from_pem(domain(), "").is_err());
    assert!(TrustBundle::from_pem(domain(), &issued.chain_pem).is_err(), "a leaf is no root");
}

#[test]
fn a_saved_identity_comes_back_also_when_it_is_expired() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let key = KeyPair::generate();
    let issued = authority.sign(&key.csr(), &cart(), HOUR, NOW).unwrap();
    let (svid, clock) = (Svid::new(&issued.chain_pem, key).unwrap(), causeway_base::Clock::system());
    let bundle = TrustBundle::from_pem(domain(), &issued.roots_pem).unwrap();
    let credentials = causeway_identity::Credentials::new(svid, bundle, clock.clone()).unwrap();
    let text = credentials.to_pem();
    let again = causeway_identity::Credentials::from_pem(&text, clock.clone()).unwrap();
    assert_eq!(again.svid().serial(), issued.serial);
    assert_eq!(again.svid().key().to_pem(), credentials.svid().key().to_pem());
    assert_eq!(again.bundle(), credentials.bundle());
    assert_eq!(again.to_pem(), text);
    assert!(!format!("{again:?}").contains("PRIVATE KEY"));
    for cut in [0, 40, text.len() / 2, text.len() - 40] {
        assert!(causeway_identity::Credentials::from_pem(&text[..cut], clock.clone()).is_err(), "{cut}");
    }
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let authority = CertAuthority::generate(&domain(), NOW);
    let issued = authority.sign(&KeyPair::generate().csr(), &cart(), HOUR, NOW).unwrap();
    let error = Svid::new(&issued.chain_pem, KeyPair::generate()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(error.code(), "CW-1404");
}

#[test]
fn the_newest_settled_authority_signs() {
    let first = CertAuthority::generate(&domain(), NOW);
    let first_hash = first.root_sha256();
    let mut all = Authorities::new(vec![first]).unwrap();
    assert_eq!(all.signer(NOW).root_sha256(), first_hash, "the only one signs at once");
    assert!(!all.wants_successor(NOW.plus(ROOT_LIFE / 2)));
    let later = NOW.plus(ROOT_LIFE * 2 / 3);
    assert!(all.wants_successor(later));
    let second = CertAuthority::generate(&domain(), later);
    let second_hash = second.root_sha256();
    all.add(second, later).unwrap();
    assert!(!all.wants_successor(later));
    assert_eq!(all.signer(later).root_sha256(), first_hash);
    assert_eq!(all.signer(later.plus(ROOT_SETTLES)).root_sha256(), second_hash);
    assert_eq!(all.bundle(later).unwrap().root_hashes().collect::<Vec<_>>(), [second_hash, first_hash]);
    let end = NOW.plus(ROOT_LIFE + HOUR);
    assert_eq!(all.bundle(end).unwrap().root_hashes().collect::<Vec<_>>(), [second_hash]);
    all.add(CertAuthority::generate(&TrustDomain::new("elsewhere").unwrap(), end), end).unwrap_err();
    all.add(CertAuthority::generate(&domain(), end), end).unwrap();
    assert_eq!(all.all().len(), 2, "the expired one is dropped");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_identity_comes_back_from_its_certificate(
        domain in "[a-z0-9]([a-z0-9._-]{0,60}[a-z0-9])?",
        namespace in "[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?",
        name in "[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?",
    ) {
        let domain = TrustDomain::new(&domain).unwrap();
        let id = SpiffeId::new(domain.clone(), ServiceKey::parse(&namespace, &name).unwrap());
        let key = KeyPair::generate();
        let issued = CertAuthority::generate(&domain, NOW).sign(&key.csr(), &id, HOUR, NOW).unwrap();
        let svid = Svid::new(&issued.chain_pem, key).unwrap();
        prop_assert_eq!(svid.id(), &id);
        // And the chain verifies, however long the names are.
        let bundle = TrustBundle::from_pem(domain, &issued.roots_pem).unwrap();
        let credentials = causeway_identity::Credentials::new(svid, bundle, causeway_base::Clock::system());
        prop_assert!(credentials.is_ok());
    }

    #[test]
    fn no_bytes_make_the_authority_stumble(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0usize..400) {
        let authority = CertAuthority::generate(&domain(), NOW);
        prop_assert!(authority.sign(&bytes, &cart(), HOUR, NOW).is_err());
        let mut csr = KeyPair::generate().csr();
        let at = at % csr.len();
        bytes.truncate(csr.len() - at);
        let changed = csr[at..at + bytes.len()] != bytes[..];
        csr[at..at + bytes.len()].copy_from_slice(&bytes);
        prop_assert_eq!(authority.sign(&csr, &cart(), HOUR, NOW).is_err(), changed);
    }
}
