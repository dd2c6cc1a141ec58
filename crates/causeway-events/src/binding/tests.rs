use super::*;

fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
    let pair = |(name, value): &(&str, &[u8])| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap())
    };
    let mut map = HeaderMap::new();
    for (name, value) in lines.iter().map(pair) {
        map.append(name, value);
    }
    map
}

const BASE: [(&str, &[u8]); 4] =
    [("CE-Id", b"1"), ("ce-source", b"/s"), ("ce-type", b"t"), ("ce-specversion", b"1.0")];

fn check_binary(extra: &[(&str, &[u8])], body: &'static str, expect: Result<fn(&CloudEvent) -> bool, &str>) {
    let got = decode(&headers(&[&BASE, extra].concat()), Bytes::from_static(body.as_bytes()));
    match (got, expect) {
        (Ok(events), Ok(holds)) => assert!(events.len() == 1 && holds(&events[0]), "{extra:?}: {events:?}"),
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{extra:?}: {error}"),
        (got, _) => panic!("{extra:?}: {got:?}"),
    }
}

#[test]
fn binary_in() {
    check_binary(&[], "", Ok(|e| e.id == "1" && e.data.is_none() && e.datacontenttype.is_none()));
    check_binary(
        &[("content-type", b"application/json; charset=utf-8")],
        "{\"a\":1}",
        Ok(|e| e.json() == Some(serde_json::json!({"a": 1}))),
    );
    // As the Python SDK writes it, as the JavaScript SDK does (Latin-1), as raw UTF-8, and quoted.
    check_binary(&[("ce-subject", b"o%201/%C3%BC")], "", Ok(|e| e.subject.as_deref() == Some("o 1/ü")));
    check_binary(&[("ce-subject", b"o 1/\xFC")], "", Ok(|e| e.subject.as_deref() == Some("o 1/ü")));
    check_binary(&[("ce-subject", "o 1/ü".as_bytes())], "", Ok(|e| e.subject.as_deref() == Some("o 1/ü")));
    check_binary(&[("ce-subject", b"\"a \\\"b\"")], "", Ok(|e| e.subject.as_deref() == Some("a \"b")));
    check_binary(&[("ce-subject", b"100%")], "", Ok(|e| e.subject.as_deref() == Some("100%")));
    check_binary(&[("ce-ext", b"x"), ("other", b"y")], "", Ok(|e| e.extensions.len() == 1));
    check_binary(&[("traceparent", b"00-a-b-01")], "", Ok(|e| e.extension("traceparent").is_some()));
}

#[test]
fn binary_refused() {
    check_binary(&[("ce-datacontenttype", b"text/plain")], "", Err("ce-datacontenttype"));
    check_binary(&[("ce-id", b"2")], "", Err("comes twice"));
    check_binary(&[("ce-subject", b"%FF")], "", Err("not UTF-8"));
    check_binary(&[("ce-subject", b"%00")], "", Err("U+0000"));
    check_binary(&[("ce-my-ext", b"x")], "", Err("\"my-ext\""));
    check_binary(&[("ce-time", b"now")], "", Err("RFC 3339"));
    let missing = decode(&headers(&[("content-type", b"application/json")]), Bytes::from_static(b"{}"));
    assert!(missing.unwrap_err().to_string().contains("ce-specversion is missing"));
}

#[test]
fn content_type_selects_the_mode() {
    let check = |content_type: &str, expect: Option<Mode>| {
        let got = mode(&headers(&[("content-type", content_type.as_bytes())]));
        assert_eq!(got.ok(), expect, "{content_type}");
    };
    check("application/json", Some(Mode::Binary));
    check("application/cloudevents+json", Some(Mode::Structured));
    check("Application/CloudEvents+JSON; Charset=\"UTF-8\"", Some(Mode::Structured));
    check("application/cloudevents-batch+json; charset=utf-8", Some(Mode::Batch));
    check("application/cloudevents+avro", None);
    check("application/cloudevents-batch+protobuf", None);
    check("application/cloudevents+json; charset=utf-16", None);
    assert_eq!(mode(&HeaderMap::new()).unwrap(), Mode::Binary);
}

#[test]
fn every_mode_gives_the_same_event_back() {
    let mut event = CloudEvent::new("a b%\"", "/sourcé", "t").with_extension("traceparent", "00-1-2-01");
    event.subject = Some("日本 €".to_owned());
    for (kind, data) in [
        (Some("application/json"), Some("{\"x\":[1, 2]}")),
        (Some("text/plain"), Some("plain \u{1F600}")),
        (Some("application/octet-stream"), Some("\u{0}\u{1}")),
        (Some("application/json"), Some("not json at all")),
        (None, None),
    ] {
        event.datacontenttype = kind.map(str::to_owned);
        event.data = data.map(Bytes::from);
        for (headers, body) in [encode_binary(&event), encode_structured(&event), encode_batch([&event])] {
            let got = decode(&headers, body).unwrap();
            assert_eq!(got, std::slice::from_ref(&event), "{headers:?}");
        }
    }
    let (headers, _) = encode_binary(&event);
    assert_eq!(headers["ce-subject"], "%E6%97%A5%E6%9C%AC%20%E2%82%AC");
    assert_eq!(headers["traceparent"], "00-1-2-01");
}

#[test]
fn size_is_bounded() {
    let body = Bytes::from(vec![b'x'; BODY_BYTES_MAX + 1]);
    assert_eq!(decode(&headers(&BASE), body).unwrap_err().kind(), Kind::TooLarge);
    let one = structured::encode(&CloudEvent::new("1", "/s", "t"));
    let many = vec![std::str::from_utf8(&one).unwrap(); BATCH_EVENTS_MAX + 1].join(",");
    let got = decode(&content_type(BATCH), Bytes::from(format!("[{many}]")));
    assert_eq!(got.unwrap_err().kind(), Kind::TooLarge);
}
