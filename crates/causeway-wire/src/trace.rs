//! W3C trace context: the identity of a request that crosses services (`traceparent`, level 1).

use http::HeaderValue;
use http::header::HeaderName;

/// `traceparent`.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `x-request-id`.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from outside; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// `tracestate`.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// 32 hexadecimal digits.
    pub trace: &'a str,
    /// The span that the request belongs to; never 0.
    pub span: u64,
    /// Whether somebody before us keeps spans of it.
    pub is_sampled: bool,
}

/// Reads a `traceparent` (version 00 or one that begins like it).
pub fn read(value: &HeaderValue) -> Option<Context<'_>> {
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
    let text = |range| std::str::from_utf8(&bytes[range]).ok();
    let number = |range| u64::from_str_radix(text(range)?, 16).ok();
    Some(Context { trace: text(3..35)?, span: number(36..52)?, is_sampled: number(53..55)? & 1 == 1 })
}

/// The trace id in a valid `traceparent`.
pub fn trace_id(value: &HeaderValue) -> Option<&str> {
    read(value).map(|context| context.trace)
}

/// The `traceparent` of a request that belongs to `span` of the trace of `parent`, a valid one, and is sampled.
pub fn child(parent: &HeaderValue, span: u64) -> HeaderValue {
    let mut text = [0_u8; 55];
    text.copy_from_slice(&parent.as_bytes()[..55]);
    // Whatever version it came in, this is what we understand.
    text[..3].copy_from_slice(b"00-");
    write_hex(span, &mut text[36..52]);
    text[52..].copy_from_slice(b"-01");
    once(HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes"))
}

/// Whether a request id from outside may be kept: short and printable, so that it can stand in logs.
pub fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
}

/// A new request id and the `traceparent` of a trace of the same id, from 192 random bits.
pub fn new_trace(random: [u64; 3], is_sampled: bool) -> (HeaderValue, HeaderValue) {
    let mut text = [0_u8; 55];
    text[..3].copy_from_slice(b"00-");
    write_hex(random[0] | 1, &mut text[3..19]);
    write_hex(random[1], &mut text[19..35]);
    text[35] = b'-';
    write_hex(random[2] | 1, &mut text[36..52]);
    text[52..].copy_from_slice(if is_sampled { b"-01" } else { b"-00" });
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
        let (id, parent) = new_trace([0, 0xabc, 0], true);
        assert_eq!(parent, "00-00000000000000010000000000000abc-0000000000000001-01");
        assert_eq!(trace_id(&parent), id.to_str().ok());
        assert_eq!(read(&parent).map(|context| (context.span, context.is_sampled)), Some((1, true)));
        let (_, parent) = new_trace([7, 7, 7], false);
        assert!(parent.as_bytes().ends_with(b"-00") && !read(&parent).unwrap().is_sampled);
        assert_eq!(
            child(
                &HeaderValue::from_static("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-x"),
                0xab
            ),
            "00-0af7651916cd43dd8448eb211c80319c-00000000000000ab-01"
        );
        let context = Context {
            trace: "0af7651916cd43dd8448eb211c80319c",
            span: 0xb7ad_6b71_6920_3331,
            is_sampled: true,
        };
        let value = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03");
        assert_eq!(read(&value), Some(context));
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
