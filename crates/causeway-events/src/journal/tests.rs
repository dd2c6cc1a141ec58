//! What version 1 wrote is read for ever: the files in `fixtures/journal/v1` are never written anew. A new version gets a
//! folder of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::cloudevent::Extension;

fn event() -> CloudEvent {
    let mut event = CloudEvent::new("order-7", "/shop", "order.placed").with_extension("partitionkey", "c3");
    event.subject = Some("7".to_owned());
    event.time = Some("2026-11-20T10:51:00Z".to_owned());
    event.datacontenttype = Some("application/json".to_owned());
    event.dataschema = Some("https://example.org/order".to_owned());
    event.extensions.insert("sequence".to_owned(), Extension::Integer(7));
    event.extensions.insert("urgent".to_owned(), Extension::Boolean(true));
    event.data = Some(Bytes::from_static(b"{\"sku\":\"a\"}"));
    event
}

fn span(from: u64, until: u64) -> Span {
    Span { from: Offset::new(from), until: Offset::new(until) }
}

fn cursor_records() -> Vec<CursorRecord> {
    vec![
        CursorRecord::Started { cursor: Offset::new(3), at: Timestamp::from_millis(1_000) },
        CursorRecord::Settled { spans: vec![span(3, 5), span(9, 10)] },
        CursorRecord::Checkpoint {
            cursor: Offset::new(5),
            ahead: vec![span(9, 10)],
            stopped: Some(Revision::new(4)),
        },
        CursorRecord::Sought { cursor: Offset::new(0), at: Timestamp::from_millis(2_000) },
        CursorRecord::Stopped { revision: Revision::new(8) },
        CursorRecord::Resumed,
        CursorRecord::Dropped,
    ]
}

fn dead_records() -> Vec<DeadRecord> {
    let letter = |offset, reason| Letter {
        offset: Offset::new(offset),
        key: Some("c3".to_owned()),
        reason,
        error: "answered 500 Internal Server Error".to_owned(),
        attempts: 5,
        at: Timestamp::from_millis(3_000),
    };
    vec![
        DeadRecord::Dead(letter(4, Reason::Attempts)),
        DeadRecord::Dead(letter(5, Reason::Refused)),
        DeadRecord::Dead(Letter { key: None, ..letter(6, Reason::Behind) }),
        DeadRecord::Redriven {
            offsets: vec![Offset::new(4)],
            at: Timestamp::from_millis(4_000),
            rate: Some(10),
        },
        DeadRecord::Resolved { offsets: vec![Offset::new(4)] },
        DeadRecord::Dropped,
    ]
}

fn written() -> BTreeMap<String, Vec<u8>> {
    let event = encode_event(Timestamp::from_millis(1_700_000_000_000), 512, &codec::encode(&event()));
    let cursor = cursor_records().iter().map(codec::encode).collect::<Vec<_>>();
    let dead = dead_records().iter().map(codec::encode).collect::<Vec<_>>();
    let numbered = |kind: &'static str, all: Vec<Vec<u8>>| {
        all.into_iter().enumerate().map(move |(at, bytes)| (format!("{kind}-{at}.hex"), bytes))
    };
    let mut all: BTreeMap<_, _> = numbered("cursor", cursor).chain(numbered("dead", dead)).collect();
    all.insert("event-0.hex".to_owned(), event.to_vec());
    all
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/journal/v1")
}

fn read(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(name)).expect("the fixture is there");
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// `CAUSEWAY_WRITE_FIXTURES=1` writes the files that are missing; it never touches one that is there.
#[test]
fn version_1_is_read_for_ever() {
    if std::env::var_os("CAUSEWAY_WRITE_FIXTURES").is_some() {
        for (name, bytes) in written() {
            let path = folder().join(name);
            if !path.exists() {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                std::fs::write(path, hex + "\n").unwrap();
            }
        }
    }
    let bytes = read("event-0.hex");
    let record = decode_event(&bytes).unwrap();
    assert_eq!((record.published.as_millis(), record.bytes_before), (1_700_000_000_000, 512));
    assert_eq!(decode_cloudevent(record.event).unwrap(), event());
    let identity = decode_identity(record.event).unwrap();
    assert_eq!((identity.source, identity.id), ("/shop", "order-7"));
    for (at, expect) in cursor_records().into_iter().enumerate() {
        assert_eq!(codec::decode::<CursorRecord>(&read(&format!("cursor-{at}.hex"))).unwrap(), expect);
    }
    for (at, expect) in dead_records().into_iter().enumerate() {
        assert_eq!(codec::decode::<DeadRecord>(&read(&format!("dead-{at}.hex"))).unwrap(), expect);
    }
}

#[test]
fn what_is_no_record_is_refused() {
    assert!(decode_event(b"").is_err());
    assert!(decode_event(&[0x82, 0x18, 99, 0x80]).is_err(), "a variant of the future");
    let mut short = encode_event(Timestamp::default(), 0, b"x").to_vec();
    short.pop();
    assert!(decode_event(&short).is_err());
}
