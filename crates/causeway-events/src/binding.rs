//! CloudEvents' HTTP binding (1.0.2), pure over headers and bytes: binary, structured and batch mode, in and out.
//!
//! In:    a request's headers and body.     Out: checked [`CloudEvent`]s; and the way back.
//! Owner: nobody; pure.
//! Invariant: what [`encode_binary`] writes, [`decode`] reads as the same event.
//! Not here: JSON of an event (`structured.rs`), bounds on reading a body from a socket (the doors).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::cloudevent::{CloudEvent, Extension, check_name, essence, invalid, is_core};
use crate::error::{Error, Kind};
use crate::structured;

/// Media type of one event in structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";
/// Media type of a batch.
pub const BATCH: &str = "application/cloudevents-batch+json; charset=utf-8";
/// The largest body of a publish: several of the largest event, one comfortable write of the log.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most events of one publish.
pub const BATCH_EVENTS_MAX: usize = 4096;

/// How events lie in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Attributes in `ce-` headers, data is the body.
    Binary,
    /// The body is the event.
    Structured,
    /// The body is an array of events.
    Batch,
}

/// Which mode the `Content-Type` says (section 3 of the binding).
///
/// # Errors
/// [`Kind::InvalidEvent`] for an event format other than JSON, or a charset other than UTF-8.
pub fn mode(headers: &HeaderMap) -> Result<Mode, Error> {
    let Some(content_type) = one(headers, CONTENT_TYPE.as_str())? else { return Ok(Mode::Binary) };
    let essence = essence(&content_type);
    let (mode, format) = match essence.strip_prefix("application/cloudevents-batch") {
        Some(format) => (Mode::Batch, format),
        None => match essence.strip_prefix("application/cloudevents") {
            Some(format) => (Mode::Structured, format),
            None => return Ok(Mode::Binary),
        },
    };
    if format != "+json" {
        return invalid(format!("event format {essence} is not known: use the JSON format"));
    }
    let charset = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    match charset.as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(mode),
        Some(other) => invalid(format!("charset {other} is not UTF-8")),
    }
}

/// Reads the events of a message in whichever mode it is.
///
/// # Errors
/// [`Kind::InvalidEvent`] names the attribute and the rule, [`Kind::TooLarge`] the bound.
pub fn decode(headers: &HeaderMap, body: Bytes) -> Result<Vec<CloudEvent>, Error> {
    if body.len() > BODY_BYTES_MAX {
        let text = format!("the body of {} bytes is larger than {BODY_BYTES_MAX}", body.len());
        return Err(Error::new(Kind::TooLarge, text));
    }
    let events = match mode(headers)? {
        Mode::Binary => vec![decode_binary(headers, body)?],
        Mode::Structured => vec![structured::decode(&body)?],
        Mode::Batch => structured::decode_batch(&body)?,
    };
    match events.len() {
        count if count > BATCH_EVENTS_MAX => {
            let text = format!("a batch of {count} events is larger than {BATCH_EVENTS_MAX}");
            Err(Error::new(Kind::TooLarge, text))
        }
        _ => Ok(events),
    }
}

fn decode_binary(headers: &HeaderMap, body: Bytes) -> Result<CloudEvent, Error> {
    let mut event = CloudEvent {
        datacontenttype: one(headers, CONTENT_TYPE.as_str())?,
        data: (!body.is_empty()).then_some(body),
        ..CloudEvent::default()
    };
    let mut specversion = None;
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
        check_name(attribute)?;
        let value = one(headers, name.as_str())?.unwrap_or_default();
        match attribute {
            "specversion" => specversion = Some(value),
            "id" => event.id = value,
            "source" => event.source = value,
            "type" => event.event_type = value,
            "subject" => event.subject = Some(value),
            "time" => event.time = Some(value),
            "dataschema" => event.dataschema = Some(value),
            "datacontenttype" => {
                return invalid("header ce-datacontenttype must not be there: use Content-Type");
            }
            _ if is_core(attribute) || attribute == "data" => {
                return invalid(format!("header ce-{attribute} is not an attribute"));
            }
            _ => drop(event.extensions.insert(attribute.to_owned(), Extension::Text(value))),
        }
    }
    match specversion.as_deref() {
        Some("1.0") => {}
        Some(other) => {
            return invalid(format!("specversion {other:?} is not 1.0, the only one that is taken"));
        }
        None => {
            let hint = "not a CloudEvent: header ce-specversion is missing (binary mode), \
                        and Content-Type is not application/cloudevents+json";
            return invalid(hint);
        }
    }
    // A call's own trace context, where the publisher set none in the event (distributed tracing extension).
    if !event.extensions.contains_key("traceparent")
        && let Some(parent) = one(headers, "traceparent")?
    {
        event.extensions.insert("traceparent".to_owned(), Extension::Text(parent));
    }
    event.check()?;
    Ok(event)
}

/// The event in binary mode. `traceparent` and `tracestate` go out as headers of their own too, so that the receiver's
/// tracing sees them.
pub fn encode_binary(event: &CloudEvent) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", HeaderValue::from_static("1.0"));
    put(&mut headers, "ce-id", &event.id);
    put(&mut headers, "ce-source", &event.source);
    put(&mut headers, "ce-type", &event.event_type);
    let optional =
        [("ce-subject", &event.subject), ("ce-time", &event.time), ("ce-dataschema", &event.dataschema)];
    for (name, value) in optional {
        if let Some(value) = value {
            put(&mut headers, name, value);
        }
    }
    for (name, value) in &event.extensions {
        let value = value.to_text();
        put(&mut headers, &format!("ce-{name}"), &value);
        if matches!(name.as_str(), "traceparent" | "tracestate") {
            put(&mut headers, name, &value);
        }
    }
    match (&event.datacontenttype, &event.data) {
        (Some(kind), _) => put_raw(&mut headers, CONTENT_TYPE.as_str(), kind),
        (None, Some(_)) if event.json().is_some() => {
            put_raw(&mut headers, CONTENT_TYPE.as_str(), "application/json")
        }
        (None, _) => {}
    }
    (headers, event.data.clone().unwrap_or_default())
}

/// The event in structured mode.
pub fn encode_structured(event: &CloudEvent) -> (HeaderMap, Bytes) {
    (content_type(STRUCTURED), structured::encode(event))
}

/// The events as a batch.
pub fn encode_batch<'e>(events: impl IntoIterator<Item = &'e CloudEvent>) -> (HeaderMap, Bytes) {
    (content_type(BATCH), structured::encode_batch(events))
}

fn content_type(text: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))])
}

fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    put_raw(headers, name, &percent_encode(value));
}

fn put_raw(headers: &mut HeaderMap, name: &str, value: &str) {
    let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) else {
        debug_assert!(false, "a checked event has no attribute that cannot be a header: {name}");
        return;
    };
    headers.insert(name, value);
}

/// The one value of a header, decoded; `None` when it is not there.
fn one(headers: &HeaderMap, name: &str) -> Result<Option<String>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return invalid(format!("header {name} comes twice"));
    }
    // Content-Type is not an attribute of the binding: its quotes and percents are its own.
    let text = match name.starts_with("ce-") {
        true => percent_decode(&unquote(value.as_bytes())),
        false => raw_text(value.as_bytes().to_vec()),
    };
    match text {
        Some(text) => Ok(Some(text)),
        None => invalid(format!("header {name} is not UTF-8 after percent-decoding")),
    }
}

/// Section 3.1.3.2: everything but visible ASCII is encoded, and so are the space, `"` and `%`.
fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => out.push_str(&format!("%{byte:02X}")),
            0x21..=0x7E => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A value in double quotes is an HTTP quoted-string: the quotes go, and a backslash lets the next character stand.
fn unquote(value: &[u8]) -> Vec<u8> {
    let Some(inner) = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return value.to_vec();
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    out
}

/// One pass; a `%` without two hex digits stands for itself. Raw bytes that are not UTF-8 are read as Latin-1, which is what
/// the JavaScript SDK sends; bytes that were percent-encoded must be UTF-8.
fn percent_decode(value: &[u8]) -> Option<String> {
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let (mut out, mut is_encoded, mut at) = (Vec::with_capacity(value.len()), false, 0);
    while at < value.len() {
        match (value[at], hex(value.get(at + 1)), hex(value.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                is_encoded = true;
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    match is_encoded {
        true => String::from_utf8(out).ok(),
        false => raw_text(out),
    }
}

fn raw_text(bytes: Vec<u8>) -> Option<String> {
    let latin1 = |bytes: Vec<u8>| bytes.into_iter().map(char::from).collect();
    Some(String::from_utf8(bytes).unwrap_or_else(|error| latin1(error.into_bytes())))
}

#[cfg(test)]
#[path = "binding/tests.rs"]
mod tests;
