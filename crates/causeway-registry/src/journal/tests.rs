use std::path::PathBuf;
use std::time::Duration;

use causeway_model::{
    Check, CheckKind, Epoch, InstanceId, Lease, Lifecycle, Locality, MeshAddress, Name, Origin, Protocol,
    ServiceKey, Spec, SpiffeId, Topic, TrustDomain,
};

use super::*;
use crate::token::{Digest, TokenUse};

/// The file: one record a line, in hexadecimal.
fn fixture(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/journal").join(version).join("records.hex")
}

/// What the lines of v1 say, in their order.
fn written() -> Vec<Decree> {
    let service = ServiceKey::parse("shop", "orders").unwrap();
    let key = InstanceKey { service: service.clone(), id: InstanceId::new("10.0.0.5:8080#1").unwrap() };
    let check = |kind, seconds| Check {
        kind,
        interval: Duration::from_secs(seconds),
        timeout: Duration::from_millis(1500),
    };
    let instance = Instance {
        key: key.clone(),
        address: "10.0.0.5".into(),
        port: 8080,
        ports: [("admin".to_owned(), 9000)].into(),
        protocol: Protocol::Grpc,
        version: "1.2".into(),
        tags: ["a".to_owned(), "b".to_owned()].into(),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        weight: 50,
        locality: Locality { region: "r".into(), zone: "z".into() },
        mesh: Some(MeshAddress { address: "10.0.0.5".into(), port: 15008 }),
        health: Health::Warning,
        lifecycle: Lifecycle::Up,
        lease: Lease::Ttl(Duration::from_millis(15_500)),
        epoch: Epoch::new(3),
        origin: Origin::Mesh { identity: "spiffe://causeway.local/ns/shop/svc/orders".into() },
        registered_at: Timestamp::from_millis(1_767_225_600_123),
        revision: Revision::new(3),
        checks: vec![
            check(CheckKind::Http("http://10.0.0.5:8080/healthz".into()), 5),
            check(CheckKind::Tcp("10.0.0.5:8080".into()), 6),
            check(CheckKind::Grpc("10.0.0.5:8080/orders".into()), 7),
        ],
    };
    let name = Name::new("placed").unwrap();
    let topic = ObjectKey { kind: causeway_model::Kind::Topic, namespace: service.namespace.clone(), name };
    let object = Object {
        key: topic.clone(),
        origin: Origin::File { path: "shop.yaml".into(), line: 12 },
        revision: Revision::new(3),
        spec: Spec::Topic(Topic { retention_bytes: Some(1 << 40), ..Topic::default() }),
        conditions: vec![],
        written: r#"{"kind":"Topic"}"#.into(),
    };
    let id = TokenId::new("tok_1").unwrap();
    let token = |use_for, expires_at| Token {
        id: id.clone(),
        digest: Digest::new(std::array::from_fn(|n| n as u8)),
        use_for,
        namespace: Some(service.namespace.clone()),
        service: Some(service.name.clone()),
        expires_at,
        issued_by: "local".into(),
    };
    let serial = Serial::new("0a1b2c").unwrap();
    let issued = Issued {
        serial: serial.clone(),
        identity: SpiffeId::new(TrustDomain::new("causeway.local").unwrap(), service.clone()),
        not_after: Timestamp::from_millis(1_767_229_200_000),
        revoked_at: None,
        not_before: Timestamp::default(),
    };
    vec![
        Decree::Registered { instance: Arc::new(instance), owner: Owner::new("run_1h2k") },
        Decree::HealthChanged { key: key.clone(), health: Health::Critical },
        Decree::Drained { key: key.clone() },
        Decree::Removed { key: key.clone(), why: Removal::Asked },
        Decree::Removed { key: key.clone(), why: Removal::Expired },
        Decree::Removed { key: key.clone(), why: Removal::GivenUp },
        Decree::Lost { key: key.clone() },
        Decree::Suspected { key: key.clone() },
        Decree::Returned { key },
        Decree::Written { object: Box::new(object) },
        Decree::Deleted { key: topic.clone() },
        Decree::TokenIssued {
            token: Box::new(token(TokenUse::Join, Some(Timestamp::from_millis(1_767_229_200_000)))),
        },
        Decree::TokenIssued { token: Box::new(token(TokenUse::Api(vec!["read *".into()]), None)) },
        Decree::TokenRevoked { id },
        Decree::CertificateIssued { issued: Box::new(issued) },
        Decree::CertificateRevoked { serial },
        Decree::Moved { key: topic, line: 13 },
    ]
}

/// What the lines of v2 say: what was added to v1, and fields that v1's records did not have.
fn written_since() -> Vec<Decree> {
    let service = ServiceKey::parse("shop", "orders").unwrap();
    let issued = Issued {
        serial: Serial::new("0a1b2c").unwrap(),
        identity: SpiffeId::new(TrustDomain::new("causeway.local").unwrap(), service.clone()),
        not_after: Timestamp::from_millis(1_767_229_200_000),
        revoked_at: None,
        not_before: Timestamp::from_millis(1_767_225_540_000),
    };
    vec![
        Decree::CertificateIssued { issued: Box::new(issued) },
        Decree::ServiceRevoked { service, until: Timestamp::from_millis(1_767_229_200_000) },
    ]
}

fn record(decree: Decree) -> Record {
    Record { revision: Revision::new(3), at: Timestamp::from_millis(1_767_225_600_123), decree }
}

#[test]
fn records_of_every_version_are_read_for_ever() {
    for (version, written) in [("v1", written()), ("v2", written_since())] {
        let text = std::fs::read_to_string(fixture(version)).unwrap();
        let read: Vec<Record> = text.lines().map(|line| Record::decode(&from_hex(line)).unwrap()).collect();
        let expected: Vec<Record> = written.into_iter().map(record).collect();
        assert_eq!(read.len(), expected.len(), "{version}");
        for (read, expected) in read.into_iter().zip(expected) {
            assert_eq!(read, expected, "{version}");
        }
    }
}

#[test]
fn a_field_from_the_future_is_skipped_and_a_decree_from_the_future_is_refused() {
    let drained = Record::encode(&record(written().swap_remove(2)));
    let mut longer = drained.clone();
    assert_eq!(longer[0], 0x83, "an array of three fields");
    longer[0] = 0x84;
    longer.push(0x07); // a fourth field, an integer
    assert_eq!(Record::decode(&longer).unwrap(), Record::decode(&drained).unwrap());
    // [revision, at, [variant, [fields]]]: the variant follows the array header after two integers.
    let variant = drained.windows(2).position(|two| two == [0x82, 0x02]).unwrap() + 1;
    let mut unknown = drained;
    unknown[variant] = 0x17;
    assert!(Record::decode(&unknown).is_err(), "a newer version's journal is not half understood");
}

/// Writes the fixture of a version; never overwrites one.
#[test]
#[ignore = "run once when a version of the journal is born"]
fn write_the_fixture() {
    let path = fixture("v2");
    assert!(!path.exists(), "{} is there: it is read for ever, not written again", path.display());
    let lines: Vec<String> =
        written_since().into_iter().map(|decree| to_hex(&record(decree).encode())).collect();
    std::fs::write(path, lines.join("\n") + "\n").unwrap();
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap());
    digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
}
