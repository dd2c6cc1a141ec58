//! A span of a trace: what one proxy did for one request, or for one attempt of it (OpenTelemetry's meaning).

use std::fmt;

use minicbor::{Decode, Encode};

use crate::names::ServiceKey;

/// A span.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Span {
    /// The trace that it belongs to.
    #[n(0)]
    pub trace: TraceId,
    /// Its id, never 0.
    #[n(1)]
    pub id: u64,
    /// The span above it; 0 when it is the first.
    #[n(2)]
    pub parent: u64,
    /// Which side of a call it describes.
    #[n(3)]
    pub kind: SpanKind,
    /// Low in variety: the method, and the route where there is one.
    #[n(4)]
    pub name: String,
    /// When it began, in microseconds since 1970.
    #[n(5)]
    pub begun: u64,
    /// How long it took, in microseconds.
    #[n(6)]
    pub micros: u64,
    /// Whose proxy made it.
    #[n(7)]
    pub service: ServiceKey,
    /// The instance whose proxy made it; empty when it has none.
    #[n(8)]
    pub instance: String,
    /// Whether what it describes went wrong.
    #[n(9)]
    pub is_error: bool,
    /// What went wrong, for people; empty when nothing did.
    #[n(10)]
    pub message: String,
    /// What else is known, by the names of OpenTelemetry's semantic conventions.
    #[n(11)]
    pub attributes: Vec<(String, Attribute)>,
    /// `tracestate` as it came; empty when none did.
    #[n(12)]
    pub state: String,
}

/// Which side of a call a span describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SpanKind {
    /// A request that came in.
    #[n(0)]
    Server,
    /// A request that went out.
    #[n(1)]
    Client,
    /// What several requests belong to that went out.
    #[n(2)]
    Internal,
}

impl SpanKind {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            SpanKind::Internal => "internal",
        }
    }
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Attribute {
    /// Text.
    #[n(0)]
    Text(#[n(0)] String),
    /// A whole number.
    #[n(1)]
    Number(#[n(0)] i64),
}

/// Id of a trace: 128 bits, not all of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TraceId {
    #[n(0)]
    high: u64,
    #[n(1)]
    low: u64,
}

impl TraceId {
    /// From its 32 hexadecimal digits, in either case.
    pub fn parse(text: &str) -> Option<TraceId> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let half = |range| u64::from_str_radix(text.get(range)?, 16).ok();
        let id = TraceId { high: half(0..16).filter(|_| is_hex)?, low: half(16..32)? };
        (id.high != 0 || id.low != 0).then_some(id)
    }

    /// Its 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.high, self.low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_32_digits_and_not_zero() {
        let text = "0af7651916cd43dd8448eb211c80319c";
        let id = TraceId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.to_bytes()[..2], [0x0a, 0xf7]);
        assert_eq!(TraceId::parse(&text.to_uppercase()), Some(id));
        let (short, sign) = (&text[1..], format!("+{}", &text[1..]));
        for wrong in ["", short, &sign, &"0".repeat(32), &"é".repeat(16)] {
            assert_eq!(TraceId::parse(wrong), None, "{wrong}");
        }
    }
}
