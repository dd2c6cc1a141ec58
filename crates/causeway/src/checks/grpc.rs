//! `grpc.health.v1.Health/Check`, the two fields of it: what is asked in bytes, and what an answer says.
//!
//! In:    a service's name; status, headers, trailers and body of an answer.      Out: bytes of a request; an [`Outcome`].
//! Owner: `probe.rs`.
//! Invariant: whatever the bytes are, reading them ends in an outcome.
//! Not here: the connection (`probe.rs`).
//!
//! ```text
//! message  = compressed:u8 (0) length:u32be bytes
//! request  = field 1, string: service        (left out when empty: the whole server is meant)
//! response = field 1, enum: 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING, 3 SERVICE_UNKNOWN
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::schedule::Outcome;

/// Where the question goes.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";
/// Bytes before a message: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 5;
/// `SERVING`.
const SERVING: u64 = 1;
/// Wire types of protobuf.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const COUNTED: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// The request's body.
pub(super) fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        put_varint(&mut message, 1 << 3 | COUNTED);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    body.put_u8(0);
    // A check's text is at most some kilobytes.
    body.put_u32(message.len() as u32);
    body.extend_from_slice(&message);
    body.freeze()
}

/// What an answer says. An answer without a message has `grpc-status` among its headers.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Outcome {
    if status != StatusCode::OK {
        return Outcome::Failed(format!("answered {status}"));
    }
    let said =
        |name: &str| trailers.get(name).or_else(|| headers.get(name)).and_then(|value| value.to_str().ok());
    match said("grpc-status") {
        Some("0") => {}
        Some(code) => {
            let why = said("grpc-message").unwrap_or_default();
            return Outcome::Failed(format!("answered grpc-status {code}: {why}"));
        }
        None => return Outcome::Failed("answered without a grpc-status".to_owned()),
    }
    let Some(message) = message(body) else {
        return Outcome::Failed("the answer holds no plain gRPC message".to_owned());
    };
    match serving_status(message) {
        Some(SERVING) => Outcome::Passed,
        Some(2) => Outcome::Failed("answered NOT_SERVING".to_owned()),
        Some(3) => Outcome::Failed("answered SERVICE_UNKNOWN".to_owned()),
        Some(other) => Outcome::Failed(format!("answered the serving status {other}")),
        None => Outcome::Failed("the answer is not a HealthCheckResponse".to_owned()),
    }
}

/// The one message of a body; none when it is compressed (which we did not ask for) or cut short.
fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = body.split_first_chunk::<PREFIX_BYTES>()?;
    let [0, length @ ..] = prefix else { return None };
    rest.get(..u32::from_be_bytes(*length) as usize)
}

/// Field 1 of a `HealthCheckResponse`; 0 when it is left out. Fields that we do not know are passed over.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match tag & 7 {
            VARINT => {
                let value = take_varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            EIGHT_BYTES => message = message.get(8..)?,
            COUNTED => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            FOUR_BYTES => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(trailers: &[(&'static str, &'static str)], body: &[u8]) -> Outcome {
        let trailers = trailers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        judge(StatusCode::OK, &HeaderMap::new(), &trailers, body)
    }

    fn reason(outcome: Outcome) -> String {
        match outcome {
            Outcome::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_question_is_what_grpc_asks() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("shop")[..], b"\0\0\0\0\x06\x0a\x04shop");
        let long = "s".repeat(200);
        assert_eq!(&question(&long)[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn only_serving_passes() {
        let ok = [("grpc-status", "0")];
        assert_eq!(answer(&ok, &[0, 0, 0, 0, 2, 8, 1]), Outcome::Passed);
        assert_eq!(reason(answer(&ok, &[0, 0, 0, 0, 2, 8, 2])), "answered NOT_SERVING");
        assert_eq!(reason(answer(&ok, &[0, 0, 0, 0, 2, 8, 3])), "answered SERVICE_UNKNOWN");
        assert_eq!(reason(answer(&ok, &[0, 0, 0, 0, 0])), "answered the serving status 0");
        assert_eq!(
            reason(answer(&[("grpc-status", "12"), ("grpc-message", "no such method")], &[])),
            "answered grpc-status 12: no such method"
        );
        assert_eq!(reason(answer(&[], &[0, 0, 0, 0, 2, 8, 1])), "answered without a grpc-status");
    }

    #[test]
    fn unknown_fields_are_passed_over_and_broken_bytes_are_no_answer() {
        let ok = [("grpc-status", "0")];
        // Field 2: bytes, field 3: 4 bytes, field 4: 8 bytes, then the status.
        let fields = [&[0x12, 2, 9, 9, 0x1d, 1, 2, 3, 4, 0x21][..], &[0; 8], &[8, 1]].concat();
        let body = [&[0, 0, 0, 0, fields.len() as u8][..], &fields].concat();
        assert_eq!(answer(&ok, &body), Outcome::Passed);
        for broken in [&[8][..], &[8, 0x80], &[0x12, 200, 1], &[0x0b], &[0xff; 11]] {
            let body = [&[0, 0, 0, 0, broken.len() as u8][..], broken].concat();
            assert_eq!(reason(answer(&ok, &body)), "the answer is not a HealthCheckResponse", "{broken:?}");
        }
        for cut in [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[1, 0, 0, 0, 2, 8, 1]] {
            assert_eq!(reason(answer(&ok, cut)), "the answer holds no plain gRPC message", "{cut:?}");
        }
    }
}
