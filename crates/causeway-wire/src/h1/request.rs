//! A request's head.

use http::{HeaderMap, Method, Uri, Version};

use super::fields::{self, Fields, Progress};
use super::framing::{Framing, Parsed};
use super::limits::Limits;
use super::refusal::Refusal;

/// A request's head. It holds nothing of the buffer that it was read into.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// As it was sent: methods tell capitals from small letters.
    pub method: Method,
    /// In the form it was sent in: a path, a whole URI, an authority (CONNECT only) or `*` (OPTIONS only).
    pub uri: Uri,
    /// 1.0 or 1.1.
    pub version: Version,
    /// As they were sent, also those of the connection; `content-length` without zeros in front.
    pub headers: HeaderMap,
    /// Never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the client would send another request on this connection.
    pub is_persistent: bool,
    /// Whether the client waits for [`super::CONTINUE`] before it sends the body. There is a body then.
    pub expects_continue: bool,
    /// Whether a change of protocol is asked for, in both fields that this takes, by a request without a body: with one, readers could
    /// differ on where the other protocol begins, so the wish is passed over (RFC 9110 section 7.8 lets anybody do that).
    pub upgrade: bool,
    /// The head's length, with the empty lines before it. The body begins there.
    pub bytes: usize,
}

/// Reads a request's head at the beginning of `bytes`: all that the connection has and nobody has read yet.
///
/// # Errors
/// [`Refusal`]: answer with its status and close.
pub fn request_head(
    bytes: &[u8],
    progress: &mut Progress,
    limits: &Limits,
) -> Result<Parsed<RequestHead>, Refusal> {
    if !progress.is_worth_reading(bytes) && bytes.len() < limits.head_bytes {
        return Ok(Parsed::Partial);
    }
    let bytes = &bytes[..bytes.len().min(limits.head_bytes)];
    let Some(skipped) = empty_lines(bytes, limits)? else { return Ok(Parsed::Partial) };
    let rest = &bytes[skipped..];
    let mut places = fields::places();
    let mut found = httparse::Request::new(&mut []);
    let places = &mut places[..limits.fields.min(Limits::FIELDS_MAX)];
    let length = match found.parse_with_uninit_headers(rest, places) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            check_sizes(rest, limits)?;
            let is_full = bytes.len() >= limits.head_bytes;
            return if is_full { Err(Refusal::HeadTooLarge) } else { Ok(Parsed::Partial) };
        }
        Err(error) => {
            check_sizes(rest, limits)?;
            return Err(refusal_of(error, rest));
        }
    };
    let head = &rest[..length];
    let (Some(method), Some(target), Some(version)) = (found.method, found.path, found.version) else {
        return Err(Refusal::BadRequestLine);
    };
    check_line(method.len(), target.len(), limits)?;
    fields::check_line_ends(head, found.headers)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::BadRequestLine)?;
    let fields = Fields::read(found.headers)?;
    let uri = target_of(&method, target.as_bytes())?;
    *progress = Progress::default();
    finish(method, uri, version, fields, skipped + length).map(Parsed::Done)
}

fn finish(
    method: Method,
    uri: Uri,
    version: u8,
    fields: Fields,
    bytes: usize,
) -> Result<RequestHead, Refusal> {
    let is_old = version == 0;
    let framing = match (fields.is_chunked, fields.length) {
        (true, _) if is_old => return Err(Refusal::CodingInOldVersion),
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::None,
    };
    if method == Method::CONNECT && !framing.is_empty() {
        return Err(Refusal::UnexpectedBody);
    }
    Ok(RequestHead {
        method,
        uri,
        version: if is_old { Version::HTTP_10 } else { Version::HTTP_11 },
        framing,
        is_persistent: !fields.says_close && (!is_old || fields.says_keep_alive),
        expects_continue: fields.expects_continue && !is_old && !framing.is_empty(),
        upgrade: fields.asks_upgrade() && !is_old && framing.is_empty(),
        headers: fields.headers,
        bytes,
    })
}

/// The length of the empty lines before a request; nothing while they go on.
fn empty_lines(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
    let mut at = 0;
    for _ in 0..=limits.empty_lines {
        match (bytes.get(at), bytes.get(at + 1)) {
            (None, _) | (Some(b'\r'), None) => return Ok(None),
            (Some(b'\r'), Some(b'\n')) => at += 2,
            (Some(b'\n'), _) => return Err(Refusal::BadLineEnd),
            _ => return Ok(Some(at)),
        }
    }
    Err(Refusal::BadRequestLine)
}

/// The longest that IANA knows is UPDATEREDIRECTREF with 17.
const METHOD_BYTES_MAX: usize = 32;

fn check_line(method_bytes: usize, target_bytes: usize, limits: &Limits) -> Result<(), Refusal> {
    match target_bytes > limits.target_bytes {
        _ if method_bytes > METHOD_BYTES_MAX => Err(Refusal::BadRequestLine),
        true => Err(Refusal::TargetTooLong),
        false => Ok(()),
    }
}

/// The same of a first line that is broken or has not come whole.
fn check_sizes(bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ').map(<[u8]>::len);
    check_line(words.next().unwrap_or_default(), words.next().unwrap_or_default(), limits)
}

fn refusal_of(error: httparse::Error, bytes: &[u8]) -> Refusal {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    match fields::refusal_of(error, Refusal::BadRequestLine) {
        Refusal::BadVersion if !has_version(line.trim_ascii_end()) => Refusal::BadRequestLine,
        refusal => refusal,
    }
}

/// Whether the third and last word of a line is what RFC 9112 section 2.3 calls a version.
fn has_version(line: &[u8]) -> bool {
    let mut words = line.split(|&b| b == b' ').skip(2);
    let (version, more) = (words.next().unwrap_or_default(), words.next());
    more.is_none() && matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// The target in one of the four forms of RFC 9112 section 3.2. What its host may be is `authority`'s to say.
fn target_of(method: &Method, target: &[u8]) -> Result<Uri, Refusal> {
    // `#` begins what a client keeps to itself, and readers cut it off or do not; bytes that are not ASCII they escape or do not.
    if target.iter().any(|&b| b == b'#' || !b.is_ascii_graphic()) {
        return Err(Refusal::BadTarget);
    }
    let is_path = target[0] == b'/';
    let is_star = target == b"*";
    let uri = Uri::try_from(target).map_err(|_| Refusal::BadTarget)?;
    let is_good = match *method {
        Method::CONNECT => is_authority(&uri),
        Method::OPTIONS if is_star => true,
        _ if is_star => false,
        _ => is_path || uri.scheme().is_some_and(is_http),
    };
    if is_good { Ok(uri) } else { Err(Refusal::BadTarget) }
}

/// `host:port` and nothing else.
fn is_authority(uri: &Uri) -> bool {
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    uri.scheme().is_none() && uri.path_and_query().is_none() && uri.port().is_some() && !has_user
}

fn is_http(scheme: &http::uri::Scheme) -> bool {
    *scheme == http::uri::Scheme::HTTP || *scheme == http::uri::Scheme::HTTPS
}
