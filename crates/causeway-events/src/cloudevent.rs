//! A CloudEvent 1.0: the value, its rules, and its bytes in the journal.
//!
//! In:    attributes and data from `binding` and `structured`, or from a builder's hand.     Out: a checked [`CloudEvent`].
//! Owner: nobody; it is immutable once published.
//! Invariant: [`CloudEvent::check`] holds for every event that lies in a topic; field numbers are never reused.
//! Not here: HTTP (`binding.rs`), JSON (`structured.rs`).

use std::collections::BTreeMap;

use bytes::Bytes;
use causeway_model::Timestamp;
use minicbor::{Decode, Encode};

use crate::error::{Error, Kind};

/// The largest event, attributes and data together: what fits one comfortable write of the log. The specification asks for 64 KiB
/// at least.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Most extensions of an event: keeps headers of a push below what common servers accept (100 lines).
pub const EXTENSIONS_MAX: usize = 48;
/// The longest attribute value: it must fit a header line of common servers (8 KiB) after percent-encoding.
pub const ATTRIBUTE_BYTES_MAX: usize = 4096;

/// An event. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct CloudEvent {
    /// `id`: with `source`, the identity of the event.
    #[n(0)]
    pub id: String,
    /// `source`: URI reference of what it happened in.
    #[n(1)]
    pub source: String,
    /// `type`.
    #[n(2)]
    pub event_type: String,
    /// `subject`.
    #[n(3)]
    pub subject: Option<String>,
    /// `time`: RFC 3339, as it was written.
    #[n(4)]
    pub time: Option<String>,
    /// `datacontenttype`; when absent, data is JSON if it reads as JSON.
    #[n(5)]
    pub datacontenttype: Option<String>,
    /// `dataschema`.
    #[n(6)]
    pub dataschema: Option<String>,
    /// Every other attribute, by its lower-case name.
    #[n(7)]
    pub extensions: BTreeMap<String, Extension>,
    /// `data`: the bytes as they are.
    #[cbor(n(8), with = "data_codec", has_nil)]
    pub data: Option<Bytes>,
}

/// Value of an extension. Other types of the specification (binary, URI, timestamp) travel as their text.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Extension {
    /// A text.
    #[n(0)]
    Text(#[n(0)] String),
    /// An integer.
    #[n(1)]
    Integer(#[n(0)] i32),
    /// A truth value.
    #[n(2)]
    Boolean(#[n(0)] bool),
}

impl Extension {
    /// The canonical text of the value, as a header carries it.
    pub fn to_text(&self) -> String {
        match self {
            Extension::Text(text) => text.clone(),
            Extension::Integer(number) => number.to_string(),
            Extension::Boolean(truth) => truth.to_string(),
        }
    }
}

impl CloudEvent {
    /// An event of the required attributes; check it before use.
    pub fn new(id: impl Into<String>, source: impl Into<String>, event_type: impl Into<String>) -> Self {
        CloudEvent {
            id: id.into(),
            source: source.into(),
            event_type: event_type.into(),
            ..CloudEvent::default()
        }
    }

    /// The event with JSON data.
    #[must_use]
    pub fn with_json(mut self, json: &serde_json::Value) -> Self {
        self.datacontenttype = Some("application/json".to_owned());
        self.data = Some(Bytes::from(json.to_string()));
        self
    }

    /// The event with a text extension.
    #[must_use]
    pub fn with_extension(mut self, name: &str, value: &str) -> Self {
        self.extensions.insert(name.to_owned(), Extension::Text(value.to_owned()));
        self
    }

    /// An extension's text.
    pub fn extension(&self, name: &str) -> Option<String> {
        self.extensions.get(name).map(Extension::to_text)
    }

    /// `partitionkey`: events of one key are delivered one after the other.
    pub fn partition_key(&self) -> Option<String> {
        self.extension("partitionkey")
    }

    /// `deliverat`: not delivered before this time.
    pub fn deliver_at(&self) -> Option<Timestamp> {
        Timestamp::from_rfc3339(&self.extension("deliverat")?)
    }

    /// The data as JSON, when it is JSON by its content type, or by its look when it has none.
    pub fn json(&self) -> Option<serde_json::Value> {
        let data = self.data.as_ref()?;
        match &self.datacontenttype {
            Some(kind) if !is_json(kind) => None,
            _ => serde_json::from_slice(data).ok(),
        }
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let extensions: usize = self.extensions.iter().map(|(n, v)| n.len() + v.to_text().len() + 8).sum();
        self.id.len()
            + self.source.len()
            + self.event_type.len()
            + optional(&self.subject)
            + optional(&self.time)
            + optional(&self.datacontenttype)
            + optional(&self.dataschema)
            + extensions
            + self.data.as_ref().map_or(0, Bytes::len)
    }

    /// Whether the event keeps the specification's rules and our bounds.
    ///
    /// # Errors
    /// [`Kind::InvalidEvent`] names the attribute and the rule; [`Kind::TooLarge`] the bound.
    pub fn check(&self) -> Result<(), Error> {
        required("id", &self.id)?;
        required("source", &self.source)?;
        required("type", &self.event_type)?;
        uri("source", &self.source)?;
        optional("subject", self.subject.as_deref())?;
        optional("datacontenttype", self.datacontenttype.as_deref())?;
        optional("dataschema", self.dataschema.as_deref())?;
        optional("time", self.time.as_deref())?;
        if let Some(kind) = &self.datacontenttype
            && !is_media_type(kind)
        {
            return invalid(format!("attribute datacontenttype {kind:?} is not a media type"));
        }
        if let Some(schema) = &self.dataschema {
            uri("dataschema", schema)?;
            if !has_scheme(schema) {
                return invalid(format!("attribute dataschema {schema:?} is not an absolute URI"));
            }
        }
        if let Some(time) = &self.time
            && !is_rfc3339(time)
        {
            return invalid(format!("attribute time {time:?} is not RFC 3339"));
        }
        self.check_extensions()?;
        match self.size() {
            size if size > EVENT_BYTES_MAX => Err(Error::new(
                Kind::TooLarge,
                format!("event {:?} of {size} bytes is larger than {EVENT_BYTES_MAX}", shorten(&self.id)),
            )),
            _ => Ok(()),
        }
    }

    fn check_extensions(&self) -> Result<(), Error> {
        if self.extensions.len() > EXTENSIONS_MAX {
            let count = self.extensions.len();
            return invalid(format!("event has {count} extensions, more than {EXTENSIONS_MAX}"));
        }
        for (name, value) in &self.extensions {
            check_name(name)?;
            if is_core(name) || name == "data" {
                return invalid(format!("{name:?} cannot be the name of an extension"));
            }
            if let Extension::Text(text) = value {
                characters(name, text)?;
            }
        }
        if self.extensions.get("partitionkey").is_some_and(|key| key.to_text().is_empty()) {
            return invalid("extension partitionkey is empty: leave it out for an event without a key");
        }
        if let Some(text) = self.extension("deliverat")
            && Timestamp::from_rfc3339(&text).is_none()
        {
            return invalid(format!("extension deliverat {text:?} is not RFC 3339"));
        }
        Ok(())
    }
}

/// Whether `name` is an attribute of the specification itself.
pub(crate) fn is_core(name: &str) -> bool {
    matches!(
        name,
        "id" | "source"
            | "type"
            | "specversion"
            | "subject"
            | "time"
            | "datacontenttype"
            | "dataschema"
            | "data_base64"
    )
}

/// Whether an attribute's name is one: lower-case letters and digits.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match is_name {
        true => Ok(()),
        false => invalid(format!("attribute name {:?} is not lower-case letters and digits", shorten(name))),
    }
}

/// Whether a media type is JSON (`application/json`, `text/json`, `…+json`), whatever its parameters and case.
pub(crate) fn is_json(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// A media type without parameters, in lower case.
pub(crate) fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn invalid<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(Kind::InvalidEvent, text))
}

fn required(name: &str, value: &str) -> Result<(), Error> {
    match value.is_empty() {
        true => invalid(format!("required attribute {name} is missing or empty")),
        false => characters(name, value),
    }
}

fn optional(name: &str, value: Option<&str>) -> Result<(), Error> {
    match value {
        Some("") => invalid(format!("attribute {name} is empty: leave it out instead")),
        Some(value) => characters(name, value),
        None => Ok(()),
    }
}

/// The specification's String type: no control characters, no noncharacters (surrogates cannot be in a `str`).
fn characters(name: &str, value: &str) -> Result<(), Error> {
    if value.len() > ATTRIBUTE_BYTES_MAX {
        let text = format!("attribute {name} of {} bytes is larger than {ATTRIBUTE_BYTES_MAX}", value.len());
        return Err(Error::new(Kind::TooLarge, text));
    }
    let is_bad = |c: char| {
        let code = u32::from(c);
        c.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
    };
    match value.chars().find(|c| is_bad(*c)) {
        Some(c) => invalid(format!("attribute {name} holds the character U+{:04X}", u32::from(c))),
        None => Ok(()),
    }
}

fn uri(name: &str, value: &str) -> Result<(), Error> {
    match value
        .chars()
        .find(|c| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '`' | '\\' | '^' | '{' | '|' | '}'))
    {
        Some(c) => invalid(format!("attribute {name} {:?} is not a URI: it holds {c:?}", shorten(value))),
        None => Ok(()),
    }
}

fn has_scheme(uri: &str) -> bool {
    let Some((scheme, _)) = uri.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    essence(text).split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub))
}

/// RFC 3339 of any year ([`Timestamp`] knows only those since 1970, an event may be older).
fn is_rfc3339(text: &str) -> bool {
    let since_1970 = || text.get(..4).is_some_and(|year| year >= "1970");
    match text.is_ascii() && text.len() >= 20 {
        false => false,
        // The same text in a leap year after 1970 has the same shape.
        true if !since_1970() => {
            Timestamp::from_rfc3339(&format!("2000{}", &text[4..])).is_some()
                && text[..4].bytes().all(|b| b.is_ascii_digit())
        }
        true => Timestamp::from_rfc3339(text).is_some(),
    }
}

/// A value for an error text: not longer than a line.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// `Option<Bytes>` as a CBOR byte string.
mod data_codec {
    use bytes::Bytes;
    use minicbor::decode::{Decoder, Error as DecodeError};
    use minicbor::encode::{Encoder, Error as EncodeError, Write};

    pub(super) fn encode<C, W: Write>(
        data: &Option<Bytes>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        match data {
            Some(data) => e.bytes(data)?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Option<Bytes>, DecodeError> {
        match d.datatype()? {
            minicbor::data::Type::Null => d.null().map(|()| None),
            _ => d.bytes().map(|data| Some(Bytes::copy_from_slice(data))),
        }
    }

    pub(super) fn nil() -> Option<Option<Bytes>> {
        Some(None)
    }

    pub(super) fn is_nil(data: &Option<Bytes>) -> bool {
        data.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_specification() {
        let good = CloudEvent::new("1", "/shop", "order.placed");
        let check = |change: fn(&mut CloudEvent)| {
            let mut event = good.clone();
            change(&mut event);
            event.check().map_err(|error| error.kind())
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|e| e.time = Some("1969-07-20T20:17:40Z".into())), Ok(()));
        assert_eq!(check(|e| e.dataschema = Some("urn:x".into())), Ok(()));
        let wrong: [fn(&mut CloudEvent); 13] = [
            |e| e.id = String::new(),
            |e| e.source = "a b".into(),
            |e| e.event_type = "a\nb".into(),
            |e| e.subject = Some(String::new()),
            |e| e.time = Some("yesterday".into()),
            |e| e.time = Some("0000-99-01T00:00:00Z".into()),
            |e| e.datacontenttype = Some("json".into()),
            |e| e.dataschema = Some("/relative".into()),
            |e| e.subject = Some("\u{FFFE}".into()),
            |e| drop(e.extensions.insert("Upper".into(), Extension::Boolean(true))),
            |e| drop(e.extensions.insert("source".into(), Extension::Boolean(true))),
            |e| drop(e.extensions.insert("deliverat".into(), Extension::Text("soon".into()))),
            |e| drop(e.extensions.insert("partitionkey".into(), Extension::Text(String::new()))),
        ];
        for (number, change) in wrong.into_iter().enumerate() {
            assert_eq!(check(change), Err(Kind::InvalidEvent), "case {number}");
        }
        assert_eq!(check(|e| e.data = Some(vec![0; EVENT_BYTES_MAX + 1].into())), Err(Kind::TooLarge));
        assert_eq!(check(|e| e.subject = Some("s".repeat(5000))), Err(Kind::TooLarge));
    }

    #[test]
    fn the_journal_gives_back_what_it_took() {
        let mut event =
            CloudEvent::new("1", "/shop", "order.placed").with_extension("traceparent", "00-1-2-3");
        event.extensions.insert("count".into(), Extension::Integer(-7));
        for data in [None, Some(Bytes::new()), Some(Bytes::from_static(b"\0\xff"))] {
            event.data = data;
            let bytes = causeway_model::codec::encode(&event);
            assert_eq!(causeway_model::codec::decode::<CloudEvent>(&bytes).unwrap(), event);
        }
    }
}
