//! W3C trace context: the identity of a request that crosses services (`traceparent`, level 1).

use http::HeaderValue;
use http::header::HeaderName;

/// `traceparent`.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `x-request-id`.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from outside; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The trace id in a valid `traceparent` (version 00 or one that begins like it).
pub fn trace_id(value: &HeaderValue) -> Option<&str> {
    let bytes = value.as_bytes();
    let is_hex = |range: std::ops::Range<usize>| {
        bytes.get(range).is_some_and(|part| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let has_shape = bytes.len() >= 55
        && (bytes[2], bytes[35], bytes[52]) == (b'-', b'-', b'-')
        && (bytes.len() == 55 || (bytes[55] == b'-' && &bytes[..2] != b"00"));
    let is_valid = has_shape
        && &bytes[..2] != b"ff"
        && is_hex(0..2)
        && is_hex(3..35)
        && is_hex(36..52)
        && is_hex(53..55)
        && bytes[3..35].iter().any(|b| *b != b'0')
        && bytes[36..52].iter().any(|b| *b != b'0');
    if !is_valid {
        return None;
    }
    std::str::from_utf8(&bytes[3..35]).ok()
}

/// Whether a request id from outside may be kept: short and printable, so that it can stand in logs.
pub fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
}

/// A new request id and the `traceparent` of a trace of the same id, from 192 random bits.
pub fn new_trace(random: [u64; 3]) -> (HeaderValue, HeaderValue) {
    let mut text = [0_u8; 55];
    text[..3].copy_from_slice(b"00-");
    write_hex(random[0] | 1, &mut text[3..19]);
    write_hex(random[1], &mut text[19..35]);
    text[35] = b'-';
    write_hex(random[2] | 1, &mut text[36..52]);
    text[52..].copy_from_slice(b"-01");
    let shared = bytes::Bytes::copy_from_slice(&text);
    let id = HeaderValue::from_maybe_shared(shared.slice(3..35)).expect("hexadecimal digits");
    let parent = HeaderValue::from_maybe_shared(shared).expect("hexadecimal digits and dashes");
    (once(id), once(parent))
}

/// Marks a value that no second message will have: HTTP/2 is to send it as it is, and not to remember it. A table of such values
/// drives out those that come again, and is searched in vain with each request.
fn once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

fn write_hex(number: u64, out: &mut [u8]) {
    for (i, digit) in out.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * i) & 15) as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_make_is_valid_and_what_is_not_is_refused() {
        let (id, parent) = new_trace([0, 0xabc, 0]);
        assert_eq!(parent, "00-00000000000000010000000000000abc-0000000000000001-01");
        assert_eq!(trace_id(&parent), id.to_str().ok());
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(trace_id(&HeaderValue::from_static(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn request_ids_from_outside_are_plain() {
        assert!(is_request_id(&HeaderValue::from_static("a-1")));
        for wrong in ["", "a b", "a\"b"] {
            assert!(!is_request_id(&HeaderValue::from_static(wrong)), "{wrong}");
        }
    }
}
