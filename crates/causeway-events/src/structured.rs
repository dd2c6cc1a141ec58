//! CloudEvents' JSON format (1.0.2): one event as an object, a batch as an array.
//!
//! In:    bytes of JSON.     Out: checked [`CloudEvent`]s; and the way back.
//! Owner: nobody; pure.
//! Invariant: data keeps its bytes: JSON data is embedded as it was written, anything that is not text travels as base64.
//! Not here: which media type says what (`binding.rs`).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::cloudevent::{CloudEvent, Extension, check_name, essence, invalid, is_json};
use crate::error::Error;

/// Reads one event.
///
/// # Errors
/// [`Kind::InvalidEvent`](crate::error::Kind::InvalidEvent) says which member is wrong;
/// [`Kind::TooLarge`](crate::error::Kind::TooLarge) which bound.
pub fn decode(body: &[u8]) -> Result<CloudEvent, Error> {
    match serde_json::from_slice::<Members>(body) {
        Ok(members) => event_of(members),
        Err(error) => invalid(format!("the body is not a CloudEvent in JSON: {error}")),
    }
}

/// Reads a batch; an empty one is fine.
///
/// # Errors
/// As [`decode`], naming the event by its place from 0.
pub fn decode_batch(body: &[u8]) -> Result<Vec<CloudEvent>, Error> {
    let batch: Vec<Members> = match serde_json::from_slice(body) {
        Ok(batch) => batch,
        Err(error) => return invalid(format!("the body is not a batch of CloudEvents in JSON: {error}")),
    };
    let place = |(at, members)| {
        event_of(members)
            .map_err(|e: Error| Error::new(e.kind(), format!("event {at} of the batch: {}", e.text())))
    };
    batch.into_iter().enumerate().map(place).collect()
}

/// The event as a JSON object.
pub fn encode(event: &CloudEvent) -> Bytes {
    let mut out = Vec::with_capacity(256 + event.data.as_ref().map_or(0, Bytes::len));
    write_event(&mut out, event);
    out.into()
}

/// The events as a JSON array.
pub fn encode_batch<'e>(events: impl IntoIterator<Item = &'e CloudEvent>) -> Bytes {
    let mut out = vec![b'['];
    for (at, event) in events.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_event(&mut out, event);
    }
    out.push(b']');
    out.into()
}

// === reading ===

/// Members of an object in raw form; a member that comes twice is an error, not a choice.
struct Members(BTreeMap<String, Box<RawValue>>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if members.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format_args!("member {name:?} comes twice")));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn event_of(Members(mut members): Members) -> Result<CloudEvent, Error> {
    // An unset attribute may be written as null (JSON format, section 2.2).
    members.retain(|_, value| value.get() != "null");
    match text(&mut members, "specversion")?.as_deref() {
        Some("1.0") => {}
        Some(other) => {
            return invalid(format!("specversion {other:?} is not 1.0, the only one that is taken"));
        }
        None => return invalid("required attribute specversion is missing"),
    }
    let mut event = CloudEvent {
        id: text(&mut members, "id")?.unwrap_or_default(),
        source: text(&mut members, "source")?.unwrap_or_default(),
        event_type: text(&mut members, "type")?.unwrap_or_default(),
        subject: text(&mut members, "subject")?,
        time: text(&mut members, "time")?,
        datacontenttype: text(&mut members, "datacontenttype")?,
        dataschema: text(&mut members, "dataschema")?,
        ..CloudEvent::default()
    };
    event.data = data(&mut members, event.datacontenttype.as_deref())?;
    for (name, value) in members {
        check_name(&name)?;
        let value = extension(&name, &value)?;
        event.extensions.insert(name, value);
    }
    event.check()?;
    Ok(event)
}

fn text(members: &mut BTreeMap<String, Box<RawValue>>, name: &str) -> Result<Option<String>, Error> {
    let Some(value) = members.remove(name) else { return Ok(None) };
    match serde_json::from_str(value.get()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => invalid(format!("attribute {name} is not a string")),
    }
}

fn data(
    members: &mut BTreeMap<String, Box<RawValue>>,
    datacontenttype: Option<&str>,
) -> Result<Option<Bytes>, Error> {
    let (plain, base64) = (members.remove("data"), text(members, "data_base64")?);
    match (plain, base64) {
        (Some(_), Some(_)) => invalid("data and data_base64 are both there"),
        (None, None) => Ok(None),
        (None, Some(base64)) => match BASE64_STANDARD.decode(base64) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => invalid(format!("data_base64 is not base64: {error}")),
        },
        (Some(raw), None) if datacontenttype.is_none_or(is_json) => Ok(Some(raw.get().to_owned().into())),
        // Text of another type is a JSON string; its content is the data.
        (Some(raw), None) => match serde_json::from_str::<String>(raw.get()) {
            Ok(text) => Ok(Some(text.into())),
            Err(_) => Ok(Some(raw.get().to_owned().into())),
        },
    }
}

fn extension(name: &str, value: &RawValue) -> Result<Extension, Error> {
    let wrong =
        || invalid(format!("extension {name} is not a string, a truth value or an integer of 32 bits"));
    match serde_json::from_str(value.get()) {
        Ok(serde_json::Value::String(text)) => Ok(Extension::Text(text)),
        Ok(serde_json::Value::Bool(truth)) => Ok(Extension::Boolean(truth)),
        Ok(serde_json::Value::Number(number)) => {
            match number.as_i64().and_then(|number| i32::try_from(number).ok()) {
                Some(number) => Ok(Extension::Integer(number)),
                None => wrong(),
            }
        }
        _ => wrong(),
    }
}

// === writing ===

fn write_event(out: &mut Vec<u8>, event: &CloudEvent) {
    out.extend_from_slice(b"{\"specversion\":\"1.0\"");
    member(out, "id", &event.id);
    member(out, "source", &event.source);
    member(out, "type", &event.event_type);
    let optional = [
        ("subject", &event.subject),
        ("time", &event.time),
        ("datacontenttype", &event.datacontenttype),
        ("dataschema", &event.dataschema),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            member(out, name, value);
        }
    }
    for (name, value) in &event.extensions {
        match value {
            Extension::Text(text) => member(out, name, text),
            Extension::Integer(_) | Extension::Boolean(_) => {
                out.extend_from_slice(format!(",\"{name}\":{}", value.to_text()).as_bytes());
            }
        }
    }
    if let Some(data) = &event.data {
        write_data(out, data, event.datacontenttype.as_deref());
    }
    out.push(b'}');
}

fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b',');
    write_text(out, name);
    out.push(b':');
    write_text(out, value);
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is written into memory");
}

fn write_data(out: &mut Vec<u8>, data: &[u8], datacontenttype: Option<&str>) {
    let is_embedded =
        datacontenttype.is_none_or(is_json) && serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    if is_embedded {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data);
        return;
    }
    match std::str::from_utf8(data) {
        Ok(text) if datacontenttype.is_some_and(is_text) => member(out, "data", text),
        _ => member(out, "data_base64", &BASE64_STANDARD.encode(data)),
    }
}

/// Whether a media type is text that a JSON string can hold.
fn is_text(media_type: &str) -> bool {
    let essence = essence(media_type);
    !is_json(&essence)
        && (essence.starts_with("text/") || essence.ends_with("/xml") || essence.ends_with("+xml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(members: &str, expect: Result<(Option<&str>, &str), &str>) {
        let body = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{members}}}"#);
        match (decode(body.as_bytes()), expect) {
            (Ok(event), Ok((data, out))) => {
                let got = event.data.as_ref().map(|data| String::from_utf8_lossy(data).into_owned());
                assert_eq!(got.as_deref(), data, "{members}");
                let encoded = String::from_utf8(encode(&event).to_vec()).unwrap();
                assert_eq!(encoded, body.replace(members, out), "{members}");
                assert_eq!(decode(encoded.as_bytes()).unwrap(), event);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{members}: {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn data_keeps_its_bytes() {
        check(
            r#","data":{"b":1,  "a":[1.0]}"#,
            Ok((Some(r#"{"b":1,  "a":[1.0]}"#), r#","data":{"b":1,  "a":[1.0]}"#)),
        );
        check(
            r#","datacontenttype":"text/plain","data":"hé\n""#,
            Ok((Some("hé\n"), r#","datacontenttype":"text/plain","data":"hé\n""#)),
        );
        check(
            r#","datacontenttype":"application/json","data":"a string""#,
            Ok((Some(r#""a string""#), r#","datacontenttype":"application/json","data":"a string""#)),
        );
        check(r#","data_base64":"/w==""#, Ok((Some("\u{fffd}"), r#","data_base64":"/w==""#)));
        check(r#","subject":null,"data":null"#, Ok((None, "")));
        check(r#","ext":true,"n":-3"#, Ok((None, r#","ext":true,"n":-3"#)));
    }

    #[test]
    fn wrong_members_are_named() {
        check(r#","data":1,"data_base64":"AA==""#, Err("both"));
        check(r#","data_base64":"%%""#, Err("not base64"));
        check(r#","subject":7"#, Err("subject is not a string"));
        check(r#","Ext":"x""#, Err("\"Ext\" is not lower-case"));
        check(r#","ext":1.5"#, Err("extension ext"));
        check(r#","ext":3000000000"#, Err("extension ext"));
        check(r#","ext":{}"#, Err("extension ext"));
        check(r#","id":"2""#, Err("\"id\" comes twice"));
        let newer = decode(br#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#).unwrap_err();
        assert!(newer.to_string().contains("0.3"));
        assert!(decode(b"[]").is_err() && decode(b"{}").is_err() && decode(b"{\"specversion\":").is_err());
    }

    #[test]
    fn a_batch_names_the_wrong_one() {
        assert_eq!(decode_batch(b"[]").unwrap(), []);
        let body = r#"[{"specversion":"1.0","id":"1","source":"/s","type":"t"},{"specversion":"1.0","id":"2","type":"t"}]"#;
        let error = decode_batch(body.as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "event 1 of the batch: required attribute source is missing or empty [CW-1702]"
        );
        let events = [CloudEvent::new("1", "/s", "t"), CloudEvent::new("2", "/s", "t")];
        assert_eq!(decode_batch(&encode_batch(&events)).unwrap(), events);
    }
}
