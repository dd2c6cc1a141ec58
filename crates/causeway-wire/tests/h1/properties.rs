//! What must hold of any bytes at all that the codec is given. The tests beside this file and the fuzz targets (`fuzz/`) share it.
//!
//! In:    bytes.      Out: nothing, or a panic that says which property broke.
//! Invariant: the readers here know nothing of the codec: they split and compare, as a plain server would.

use causeway_wire::h1::*;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri, Version};

/// Small enough that a few hundred bytes reach each bound.
pub(crate) fn tight() -> Limits {
    Limits {
        head_bytes: 512,
        target_bytes: 96,
        fields: 8,
        chunk_line_bytes: 24,
        extension_bytes: 48,
        trailer_bytes: 96,
        ..Limits::default()
    }
}

/// A request's head and whatever follows.
pub(crate) fn request(bytes: &[u8]) {
    for limits in [Limits::default(), tight()] {
        let whole = request_head(bytes, &mut Progress::default(), &limits);
        let read = |bytes: &[u8], progress: &mut Progress| request_head(bytes, progress, &limits);
        check_dripped(bytes, &whole, read, |head| (head.bytes, head.framing, head.headers.clone()));
        if let Ok(Parsed::Done(head)) = whole {
            check_request(bytes, &head);
            check_request_written(&head, &limits);
        }
    }
}

/// A response's head and whatever follows, as an answer to several methods.
pub(crate) fn response(bytes: &[u8]) {
    for limits in [Limits::default(), tight()] {
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            let whole = response_head(bytes, &method, &mut Progress::default(), &limits);
            let read =
                |bytes: &[u8], progress: &mut Progress| response_head(bytes, &method, progress, &limits);
            check_dripped(bytes, &whole, read, |head| (head.bytes, head.framing, head.headers.clone()));
            if let Ok(Parsed::Done(head)) = whole {
                check_response(bytes, &method, &head);
                check_response_written(&method, &head, &limits);
            }
        }
    }
}

/// A body; the first byte says how it is framed, mostly in chunks.
pub(crate) fn body(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let framing = match choice {
        b'n' => Framing::None,
        b'l' => Framing::Length(bytes.len() as u64 / 2),
        b'm' => Framing::Length(bytes.len() as u64 + 1),
        b'u' => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    for limits in [Limits::default(), tight()] {
        let whole = read_body(framing, bytes, &limits, |left| left);
        assert_eq!(read_body(framing, bytes, &limits, |_| 1), whole, "byte for byte");
        let mut dice = Dice::of(bytes);
        assert_eq!(read_body(framing, bytes, &limits, |left| dice.up_to(left)), whole, "in pieces");
        check_body(framing, bytes, &whole);
    }
}

/// Numbers that the input decides, so that a failure repeats.
pub(crate) struct Dice(u64);

impl Dice {
    /// A seed from bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Dice(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// One to `most`.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        1 + (self.0 % most.clamp(1, 40) as u64) as usize
    }
}

// === heads ===

/// The same head comes out, wherever the input is cut; what is refused whole is refused in pieces, at the latest when its line ends.
fn check_dripped<T, K: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    whole: &Result<Parsed<T>, Refusal>,
    read: impl Fn(&[u8], &mut Progress) -> Result<Parsed<T>, Refusal>,
    key: impl Fn(&T) -> K,
) {
    let mut dice = Dice::of(bytes);
    let byte_for_byte = if bytes.len() <= 700 { Some(1) } else { None };
    for most in [byte_for_byte, Some(usize::MAX)].into_iter().flatten() {
        let mut progress = Progress::default();
        let mut length = 0;
        let mut last = Ok(Parsed::Partial);
        while length < bytes.len() && matches!(last, Ok(Parsed::Partial)) {
            length += dice.up_to(most).min(bytes.len() - length);
            last = read(&bytes[..length], &mut progress);
        }
        match (whole, last) {
            (Ok(Parsed::Done(whole)), Ok(Parsed::Done(head))) => assert_eq!(key(whole), key(&head)),
            (Ok(Parsed::Partial), Ok(Parsed::Partial)) => {}
            // Of several faults another one may be seen first.
            (Err(_), Err(_)) => {}
            (Err(whole), Ok(Parsed::Partial)) => {
                let ended = [bytes, b"\r\n"].concat();
                let refusal = read(&ended, &mut progress).err();
                assert!(refusal.is_some(), "{whole:?} when whole, taken in pieces");
            }
            (whole, last) => panic!(
                "whole {:?}, in pieces {:?}",
                whole.as_ref().map(|_| "taken"),
                last.map(|read| if matches!(read, Parsed::Done(_)) { "done" } else { "partial" })
            ),
        }
    }
}

/// The lines of a head that was taken: each ends with CR LF, the last is empty and no other.
fn lines(head: &[u8]) -> Vec<&[u8]> {
    assert!(!head.contains(&0), "a NUL");
    let text = head.strip_suffix(b"\r\n\r\n").expect("a head ends with an empty line");
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    for line in &lines {
        assert!(!line.is_empty(), "an empty line within a head");
        assert!(!line.contains(&b'\r') && !line.contains(&b'\n'), "a line end that is not CR LF");
    }
    lines
}

/// Names in small letters and values, as a plain server splits them.
fn plain_fields(lines: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
    let field = |line: &&[u8]| {
        let at = line.iter().position(|&b| b == b':').expect("a field without a colon");
        let name = std::str::from_utf8(&line[..at]).expect("a name that is not ASCII").to_ascii_lowercase();
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        assert!(!name.is_empty() && name.bytes().all(is_token), "a name that is not a token: {name:?}");
        let is_value = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
        assert!(line.iter().all(is_value), "a control character in {name}");
        (name, line[at + 1..].trim_ascii().to_vec())
    };
    lines.iter().map(field).collect()
}

fn sorted(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), plain_value(name.as_str(), value.as_bytes())))
        .collect();
    // Values of one name keep their order in the map; names may not.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// A length without the zeros in front, which the codec takes away.
fn plain_value(name: &str, value: &[u8]) -> Vec<u8> {
    match name {
        "content-length" => {
            let zeros = value.iter().take_while(|&&b| b == b'0').count();
            value[zeros.min(value.len().saturating_sub(1))..].to_vec()
        }
        _ => value.to_vec(),
    }
}

fn check_fields(headers: &HeaderMap, plain: &[(String, Vec<u8>)]) {
    let mut plain: Vec<_> =
        plain.iter().map(|(name, value)| (name.clone(), plain_value(name, value))).collect();
    plain.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(sorted(headers), plain, "fields differ from what stands there");
}

/// What the fields say about the body when they say it in one way only; a panic otherwise.
fn said_framing(plain: &[(String, Vec<u8>)]) -> Option<Framing> {
    let values = |wanted: &str| {
        plain.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    match (values("content-length").as_slice(), values("transfer-encoding").as_slice()) {
        ([], []) => None,
        ([length], []) => {
            assert!(!length.is_empty() && length.iter().all(u8::is_ascii_digit), "a length {length:?}");
            let text = std::str::from_utf8(length).expect("digits are text");
            Some(Framing::Length(text.parse().expect("a length of 64 bits")))
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"), "a coding {coding:?}");
            Some(Framing::Chunked)
        }
        (lengths, codings) => panic!("taken with {lengths:?} and {codings:?}"),
    }
}

fn check_request(bytes: &[u8], head: &RequestHead) {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
    }
    assert!(start <= 2 * Limits::EMPTY_LINES, "too many empty lines");
    let lines = lines(&bytes[start..head.bytes]);
    let words: Vec<&[u8]> = lines[0].split(|&b| b == b' ').collect();
    let [method, target, version] = words[..] else { panic!("a request line of {} words", words.len()) };
    assert_eq!(method, head.method.as_str().as_bytes());
    assert!(target.iter().all(|b| b.is_ascii_graphic() && *b != b'#'), "a target with {target:?}");
    check_target(head, std::str::from_utf8(target).expect("ASCII"));
    assert_eq!(version, if head.version == Version::HTTP_11 { b"HTTP/1.1" } else { b"HTTP/1.0" });
    let plain = plain_fields(&lines[1..]);
    check_fields(&head.headers, &plain);
    assert_eq!(head.framing, said_framing(&plain).unwrap_or(Framing::None), "the body ends elsewhere");
    assert!(!head.upgrade || head.framing.is_empty(), "another protocol behind a body");
    if head.version == Version::HTTP_10 {
        assert!(head.framing != Framing::Chunked && !head.upgrade && !head.expects_continue);
    }
}

fn check_target(head: &RequestHead, target: &str) {
    let uri = &head.uri;
    match target {
        "*" => assert_eq!(head.method, Method::OPTIONS),
        target if head.method == Method::CONNECT => {
            assert_eq!(uri.authority().map(|a| a.as_str()), Some(target));
        }
        target if target.starts_with('/') => {
            assert_eq!(uri.path_and_query().map(|p| p.as_str()), Some(target));
            assert!(uri.authority().is_none());
        }
        target => {
            let (scheme, rest) = target.split_once("://").expect("an absolute form has a scheme");
            assert_eq!(uri.scheme_str(), Some(scheme.to_ascii_lowercase().as_str()));
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            assert_eq!(uri.authority().map(|a| a.as_str()), Some(&rest[..end]));
            assert!(end > 0, "a target without a host");
            let path = rest[end..].split('?').next().unwrap_or_default();
            assert_eq!(uri.path(), if path.is_empty() { "/" } else { path });
        }
    }
}

/// What is written of a head that was taken is taken again, and is the same.
fn check_request_written(head: &RequestHead, limits: &Limits) {
    let mut out = Vec::new();
    write_request_head(&mut out, &head.method, &head.uri, &head.headers, head.framing, None);
    // What we add may not find room in limits as tight as the head just fitted.
    let roomy = Limits { head_bytes: limits.head_bytes * 2, fields: 128, ..limits.clone() };
    let again = request_head(&out, &mut Progress::default(), &roomy);
    // A head that is full has no room for the length that we add; whoever reads with the same bound must say so, and does.
    let says_length = head.headers.contains_key(CONTENT_LENGTH);
    let may_add = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let is_over = may_add && !says_length && head.framing == Framing::None;
    if is_over && head.headers.len() == Limits::FIELDS_MAX {
        assert_eq!(again.err(), Some(Refusal::TooManyFields));
        return;
    }
    let Ok(Parsed::Done(again)) = again else {
        panic!("{again:?} of our own {:?}", String::from_utf8_lossy(&out))
    };
    assert_eq!(again.bytes, out.len());
    assert_eq!(again.method, head.method);
    assert_eq!(origin(&again.uri), origin(&head.uri));
    let adds_length = head.framing == Framing::None && again.framing == Framing::Length(0);
    assert!(again.framing == head.framing || adds_length);
    assert_eq!(without_framing(&again.headers), without_framing(&head.headers));
}

fn origin(uri: &Uri) -> String {
    match uri.path_and_query() {
        None => uri.authority().map(|a| a.to_string()).unwrap_or_default(),
        Some(_) => format!("{}?{}", uri.path(), uri.query().unwrap_or_default()),
    }
}

fn without_framing(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut headers = headers.clone();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    sorted(&headers)
}

fn check_response(bytes: &[u8], method: &Method, head: &ResponseHead) {
    let lines = lines(&bytes[..head.bytes]);
    let version: &[u8] = if head.version == Version::HTTP_11 { b"HTTP/1.1 " } else { b"HTTP/1.0 " };
    let rest = lines[0].strip_prefix(version).expect("the version that stands there");
    assert!(rest.starts_with(head.status.as_str().as_bytes()));
    assert!(matches!(rest.get(3), None | Some(b' ')));
    let plain = plain_fields(&lines[1..]);
    check_fields(&head.headers, &plain);
    let said = said_framing(&plain);
    let status = head.status.as_u16();
    let has_no_body = status < 200
        || matches!(status, 204 | 304)
        || *method == Method::HEAD
        || (*method == Method::CONNECT && head.status.is_success());
    let expected = match said {
        _ if has_no_body => Framing::None,
        None => Framing::UntilClose,
        Some(said) => said,
    };
    assert_eq!(head.framing, expected, "the body ends elsewhere");
    if head.framing == Framing::UntilClose {
        assert!(!head.is_persistent, "another request behind a body without an end");
    }
}

fn check_response_written(method: &Method, head: &ResponseHead, limits: &Limits) {
    let mut out = Vec::new();
    write_response_head(&mut out, head.status, &head.headers, head.framing, None, None);
    let roomy = Limits { head_bytes: limits.head_bytes * 2, fields: 128, ..limits.clone() };
    let again = response_head(&out, method, &mut Progress::default(), &roomy);
    let Ok(Parsed::Done(again)) = again else {
        panic!("{again:?} of our own {:?}", String::from_utf8_lossy(&out))
    };
    assert_eq!((again.bytes, again.status, again.framing), (out.len(), head.status, head.framing));
    assert_eq!(without_framing(&again.headers), without_framing(&head.headers));
}

// === bodies ===

/// How the reading of a body ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// With so many bytes of the input, and these trailers.
    Ended(usize, HeaderMap),
    /// It would have gone on.
    Unfinished,
    /// It was broken.
    Refused(Refusal),
}

/// Content and outcome of a body that comes in pieces as long as `cut` says of what is left.
pub(crate) fn read_body(
    framing: Framing,
    bytes: &[u8],
    limits: &Limits,
    mut cut: impl FnMut(usize) -> usize,
) -> (Vec<u8>, Outcome) {
    let mut decoder = Decoder::new(framing, limits);
    let mut content = Vec::new();
    let mut at = 0;
    // An empty piece once at the end too: a body may have ended without a byte.
    loop {
        let end = if at < bytes.len() { at + cut(bytes.len() - at).min(bytes.len() - at) } else { at };
        while at <= end {
            match decoder.decode(&bytes[at..end]) {
                Ok(Decoded::NeedMore) => {
                    at = end;
                    break;
                }
                Ok(Decoded::Data(range)) => {
                    assert!(!range.is_empty() && at + range.end <= end);
                    content.extend_from_slice(&bytes[at..end][range.clone()]);
                    at += range.end;
                }
                Ok(Decoded::End { consumed, trailers }) => {
                    assert!(decoder.is_ended() && at + consumed <= end);
                    return (content, Outcome::Ended(at + consumed, trailers));
                }
                Err(refusal) => return (content, Outcome::Refused(refusal)),
            }
        }
        if at == bytes.len() {
            let at_close = decoder.end_of_input();
            assert_eq!(at_close.is_ok(), framing == Framing::UntilClose);
            return (content, Outcome::Unfinished);
        }
    }
}

fn check_body(framing: Framing, bytes: &[u8], (content, outcome): &(Vec<u8>, Outcome)) {
    match (framing, outcome) {
        (Framing::None, outcome) => assert_eq!(*outcome, Outcome::Ended(0, HeaderMap::new())),
        (Framing::Length(length), Outcome::Ended(end, _)) => {
            assert_eq!((*end as u64, content.as_slice()), (length, &bytes[..*end]));
        }
        (Framing::Length(length), _) => assert!(length > bytes.len() as u64),
        (Framing::UntilClose, _) => assert_eq!(content, bytes),
        (Framing::Chunked, Outcome::Ended(end, trailers)) => {
            let (plain, plain_end) = plain_chunks(bytes);
            assert_eq!((content.as_slice(), *end), (plain.as_slice(), plain_end), "a plain reader differs");
            check_body_written(content, trailers);
        }
        (Framing::Chunked, _) => {}
    }
}

/// Content and length of a chunked body, read without any guard but what it takes not to loop; a panic if there is no sense in it.
fn plain_chunks(bytes: &[u8]) -> (Vec<u8>, usize) {
    let line_end = |from: usize| {
        let at = bytes[from..].iter().position(|&b| b == b'\n').expect("a line goes on for ever") + from;
        assert!(at > from && bytes[at - 1] == b'\r', "a line that ends with LF alone");
        at + 1
    };
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let end = line_end(at);
        let line = std::str::from_utf8(&bytes[at..end - 2]).unwrap_or_else(|error| {
            std::str::from_utf8(&bytes[at..at + error.valid_up_to()]).expect("it is valid up to there")
        });
        let digits = line.split(';').next().unwrap_or_default();
        assert!((1..=16).contains(&digits.len()), "{} digits", digits.len());
        assert!(digits.bytes().all(|b| b.is_ascii_hexdigit()), "a size {digits:?}");
        let size = usize::try_from(u64::from_str_radix(digits, 16).expect("16 digits")).expect("64 bits");
        at = end;
        if size == 0 {
            break;
        }
        content.extend_from_slice(&bytes[at..at + size]);
        at += size;
        assert_eq!(&bytes[at..at + 2], b"\r\n");
        at += 2;
    }
    loop {
        let end = line_end(at);
        let is_last = end == at + 2;
        at = end;
        if is_last {
            return (content, at);
        }
    }
}

fn check_body_written(content: &[u8], trailers: &HeaderMap) {
    for name in ["content-length", "transfer-encoding", "host", "authorization", "connection"] {
        assert!(!trailers.contains_key(name), "{name} among the trailers");
    }
    let mut out = Vec::new();
    for piece in content.chunks(11) {
        write_chunk_header(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(CHUNK_END);
    }
    write_trailers(&mut out, trailers);
    let again = read_body(Framing::Chunked, &out, &Limits::default(), |left| left);
    assert_eq!(again, (content.to_vec(), Outcome::Ended(out.len(), trailers.clone())));
}
