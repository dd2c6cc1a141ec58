//! Heads, chunks and trailers as bytes.

use http::header::{CONTENT_LENGTH, DATE, HeaderMap, TRANSFER_ENCODING};
use http::{Method, StatusCode, Uri};

use super::fields;
use super::framing::Framing;

/// What tells a client to send its body (RFC 9110 section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Behind the content of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Behind the last chunk's [`CHUNK_END`], when there are no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The most that [`write_chunk_header`] writes.
pub const CHUNK_HEADER_BYTES_MAX: usize = 18;

/// Beside the fields' own bytes, what is guessed for a first line and for the fields that we write.
const FIRST_GUESS: usize = 160;

/// Writes a request's head in HTTP/1.1, its target in origin form (for CONNECT the authority). The host must be among `headers`.
///
/// Of `headers` all are written but `content-length` and `transfer-encoding`: these come from `framing`, which must not be
/// [`Framing::UntilClose`] (that is written as chunked, since a request cannot end otherwise). With [`Framing::None`], a method that
/// mostly has a body says that it has none. `connection` is written beside what `headers` say of it: say it at one place.
pub fn write_request_head(
    out: &mut Vec<u8>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    framing: Framing,
    connection: Option<&'static str>,
) {
    out.reserve(guess(headers));
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    write_target(out, method, uri);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(out, headers, |name| *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING);
    let has_mostly_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    match framing {
        Framing::None if has_mostly_body => write_length(out, 0),
        Framing::None => {}
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked | Framing::UntilClose => write_chunked(out),
    }
    finish(out, connection);
}

/// Writes a response's head in HTTP/1.1.
///
/// Of `headers` all are written but `transfer-encoding` and, unless `framing` is [`Framing::None`], `content-length`: these come from
/// `framing`. [`Framing::None`] is for responses that cannot have a body only (to HEAD, 1xx, 204, 304, 2xx to CONNECT); then
/// `content-length` is written as it is, but for 1xx and 204, which have none. [`Framing::UntilClose`] closes, and `connection` must say so.
/// A client of HTTP/1.0 must not be sent [`Framing::Chunked`]. `date` is written where `headers` have none.
pub fn write_response_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
    connection: Option<&'static str>,
    date: Option<&[u8; DATE_BYTES]>,
) {
    out.reserve(guess(headers));
    match status {
        StatusCode::OK => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        status => {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(status.as_str().as_bytes());
            out.push(b' ');
            out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    let keeps_length =
        framing == Framing::None && !status.is_informational() && status != StatusCode::NO_CONTENT;
    let mut date = date.filter(|_| !status.is_informational());
    write_fields(out, headers, |name| {
        if *name == DATE {
            date = None;
        }
        *name == TRANSFER_ENCODING || (*name == CONTENT_LENGTH && !keeps_length)
    });
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked => write_chunked(out),
    }
    if let Some(date) = date {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
    }
    finish(out, connection);
}

/// The length of a date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub const DATE_BYTES: usize = 29;

/// Writes what stands before a chunk's content. A chunk of no bytes would end the body: do not write one.
pub fn write_chunk_header(out: &mut Vec<u8>, length: usize) {
    debug_assert!(length > 0, "a chunk of no bytes ends the body");
    let digits = ((usize::BITS - length.leading_zeros()).div_ceil(4)).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(length >> (digit * 4)) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Ends a chunked body with these trailers, without those that only a head may hold.
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    write_fields(out, trailers, fields::is_head_only);
    out.extend_from_slice(b"\r\n");
}

fn guess(headers: &HeaderMap) -> usize {
    FIRST_GUESS + headers.len() * 48
}

fn write_target(out: &mut Vec<u8>, method: &Method, uri: &Uri) {
    if let (&Method::CONNECT, Some(authority)) = (method, uri.authority()) {
        return out.extend_from_slice(authority.as_str().as_bytes());
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if !target.starts_with(['/', '*']) {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
}

fn write_fields(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    mut is_left_out: impl FnMut(&http::HeaderName) -> bool,
) {
    for (name, value) in headers {
        if is_left_out(name) {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

fn write_chunked(out: &mut Vec<u8>) {
    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
}

fn finish(out: &mut Vec<u8>, connection: Option<&'static str>) {
    if let Some(connection) = connection {
        out.extend_from_slice(b"connection: ");
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
