//! A response's head.

use http::{HeaderMap, Method, StatusCode, Version};

use super::fields::{self, Fields, Progress};
use super::framing::{Framing, Parsed};
use super::limits::Limits;
use super::refusal::Refusal;

/// A response's head. Its reason phrase is dropped: it means nothing, and HTTP/2 has none.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: StatusCode,
    /// 1.0 or 1.1.
    pub version: Version,
    /// As they were sent, also those of the connection; `content-length` without zeros in front.
    pub headers: HeaderMap,
    /// Where the body ends; [`Framing::None`] for HEAD, CONNECT with 2xx, 1xx, 204 and 304, whatever the fields say.
    pub framing: Framing,
    /// Whether another request may follow on this connection.
    pub is_persistent: bool,
    /// The head's length. The body begins there.
    pub bytes: usize,
}

/// Reads a response's head at the beginning of `bytes`. After an interim one (1xx but 101) another head follows.
///
/// # Errors
/// [`Refusal`]: the upstream is broken; close the connection and answer 502.
pub fn response_head(
    bytes: &[u8],
    request_method: &Method,
    progress: &mut Progress,
    limits: &Limits,
) -> Result<Parsed<ResponseHead>, Refusal> {
    if !progress.is_worth_reading(bytes) && bytes.len() < limits.head_bytes {
        return Ok(Parsed::Partial);
    }
    let bytes = &bytes[..bytes.len().min(limits.head_bytes)];
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(Refusal::BadStatusLine);
    }
    let mut places = fields::places();
    let mut found = httparse::Response::new(&mut []);
    let places = &mut places[..limits.fields.min(Limits::FIELDS_MAX)];
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut found, bytes, places) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= limits.head_bytes => {
            return Err(Refusal::HeadTooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(fields::refusal_of(error, Refusal::BadStatusLine)),
    };
    let head = &bytes[..length];
    fields::check_line_ends(head, found.headers)?;
    let (Some(code), Some(version)) = (found.code, found.version) else {
        return Err(Refusal::BadStatusLine);
    };
    let status = StatusCode::from_u16(code).map_err(|_| Refusal::BadStatusLine)?;
    let fields = Fields::read(found.headers)?;
    *progress = Progress::default();
    finish(status, request_method, version, fields, length).map(Parsed::Done)
}

fn finish(
    status: StatusCode,
    request_method: &Method,
    version: u8,
    fields: Fields,
    bytes: usize,
) -> Result<ResponseHead, Refusal> {
    let is_old = version == 0;
    let is_tunnel = *request_method == Method::CONNECT && status.is_success();
    if fields.is_chunked && is_old {
        return Err(Refusal::CodingInOldVersion);
    }
    let says_body = fields.is_chunked || fields.length.is_some_and(|length| length > 0);
    let has_no_body = status.is_informational() || status == StatusCode::NO_CONTENT;
    // What such a sender puts behind its head, if anything, would be read as the answer to the next request.
    let is_doubtful = has_no_body && says_body;
    if is_doubtful && status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::UnexpectedBody);
    }
    let framing = match (fields.is_chunked, fields.length) {
        _ if has_no_body || is_tunnel => Framing::None,
        _ if *request_method == Method::HEAD || status == StatusCode::NOT_MODIFIED => Framing::None,
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    let is_kept = !fields.says_close && (!is_old || fields.says_keep_alive);
    Ok(ResponseHead {
        status,
        version: if is_old { Version::HTTP_10 } else { Version::HTTP_11 },
        headers: fields.headers,
        framing,
        is_persistent: is_kept && !is_doubtful && framing != Framing::UntilClose,
        bytes,
    })
}
