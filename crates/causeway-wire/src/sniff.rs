//! Says what a connection speaks from the first bytes that its client sent: TLS (and to whom), HTTP/2, HTTP/1, or something else.
//!
//! In:    every byte that came so far, from the first on.      Out: an answer, or that more bytes are needed for one.
//! Owner: nobody; pure, so the caller keeps the bytes and hands them on unchanged.
//! Invariant: an answer never changes when more bytes come, however they are cut; at [`BYTES_MAX`] there always is one.
//! Not here: how long to wait for bytes (`causeway-proxy::detect`), reading HTTP for real (the codecs are stricter).

use std::borrow::Cow;

/// Bytes after which there always is an answer: the longest TLS record. A ClientHello with post-quantum keys has under 2 KiB.
pub const BYTES_MAX: usize = 16 * 1024;
/// Longest method that is looked for: the registered ones have at most 17 letters.
const METHOD_MAX: usize = 24;
/// What a client that speaks HTTP/2 with prior knowledge begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// The bytes so far fit several answers.
    NeedMore,
    /// TLS. A hello that cannot be read is an empty one: whoever opens the connection will refuse it.
    Tls(Hello),
    /// The preface of HTTP/2 in plaintext.
    Http2,
    /// A request line of HTTP/1.0 or HTTP/1.1.
    Http1,
    /// None of these.
    Unknown,
}

/// What a TLS client says of where it wants to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The host it names (SNI), lower case.
    pub server_name: Option<String>,
    /// The protocols it offers (ALPN), most wanted first.
    pub alpn: Vec<Vec<u8>>,
}

/// See the [module](self).
pub fn sniff(bytes: &[u8]) -> Sniffed {
    let is_whole = bytes.len() >= BYTES_MAX;
    let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
    let said = match bytes.first() {
        None => Sniffed::NeedMore,
        Some(&HANDSHAKE) => tls(bytes),
        Some(_) => http(bytes),
    };
    match said {
        // What is certainly TLS by its first bytes stays TLS, though its hello has no end.
        Sniffed::NeedMore if is_whole && bytes[0] == HANDSHAKE => Sniffed::Tls(Hello::default()),
        Sniffed::NeedMore if is_whole => Sniffed::Unknown,
        said => said,
    }
}

// === HTTP ===

fn http(bytes: &[u8]) -> Sniffed {
    if PREFACE.starts_with(bytes) && bytes.len() < PREFACE.len() {
        return Sniffed::NeedMore;
    }
    if bytes.starts_with(PREFACE) {
        return Sniffed::Http2;
    }
    // One empty line before a request is tolerated (RFC 9112 section 2.2).
    match bytes.strip_prefix(b"\r\n") {
        Some(rest) => request_line(rest),
        None if bytes == b"\r" => Sniffed::NeedMore,
        None => request_line(bytes),
    }
}

/// `METHOD SP target SP HTTP/1.x CRLF`. The whole line is looked at, because other protocols begin with a word, too.
fn request_line(bytes: &[u8]) -> Sniffed {
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    match bytes.get(method) {
        _ if method > METHOD_MAX => return Sniffed::Unknown,
        None => return Sniffed::NeedMore,
        Some(b' ') if method > 0 => {}
        Some(_) => return Sniffed::Unknown,
    }
    let rest = &bytes[method + 1..];
    let target = rest.iter().take_while(|byte| matches!(byte, 0x21..=0x7e | 0x80..)).count();
    match rest.get(target) {
        None => return Sniffed::NeedMore,
        Some(b' ') if target > 0 => {}
        Some(_) => return Sniffed::Unknown,
    }
    let version = &rest[target + 1..];
    let is_one = |wanted: &[u8]| version.starts_with(wanted);
    let may_become = |wanted: &[u8]| wanted.starts_with(version);
    let wanted: [&[u8]; 2] = [b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"];
    if wanted.into_iter().any(is_one) {
        return Sniffed::Http1;
    }
    if wanted.into_iter().any(may_become) { Sniffed::NeedMore } else { Sniffed::Unknown }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What an HTTP/1 request says of its host, before anything checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// The head is not whole yet.
    NeedMore,
    /// Its host, with a port if it has one.
    Named(&'a str),
    /// It names none.
    None,
}

/// The host of the request that [`sniff`] called HTTP/1: of its target in absolute form, else its first `Host` field.
pub fn host(bytes: &[u8]) -> Host<'_> {
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let line = lines.next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if let Some(rest) = strip_ascii(target, b"http://") {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        return named(&rest[..end]);
    }
    for line in lines {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let line = line.trim_ascii();
        if line.is_empty() {
            return Host::None;
        }
        if let Some(value) = strip_ascii(line, b"host:") {
            return named(value.trim_ascii());
        }
    }
    if bytes.len() >= BYTES_MAX { Host::None } else { Host::NeedMore }
}

fn named(bytes: &[u8]) -> Host<'_> {
    std::str::from_utf8(bytes).ok().filter(|host| !host.is_empty()).map_or(Host::None, Host::Named)
}

/// The rest of `bytes` behind `start`, in any case.
fn strip_ascii<'a>(bytes: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

// === TLS ===

/// The record that a handshake is in (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;
const RECORD_HEAD: usize = 5;
/// Longest content of a plaintext record.
const RECORD_MAX: usize = 1 << 14;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

fn tls(bytes: &[u8]) -> Sniffed {
    let is_wrong =
        |at: usize, is_good: &dyn Fn(u8) -> bool| bytes.get(at).is_some_and(|byte| !is_good(*byte));
    if is_wrong(1, &|major| major == 3)
        || is_wrong(2, &|minor| minor <= 4)
        || is_wrong(RECORD_HEAD, &|kind| kind == CLIENT_HELLO)
    {
        return Sniffed::Unknown;
    }
    let Some(head) = bytes.get(..RECORD_HEAD) else { return Sniffed::NeedMore };
    if !(1..=RECORD_MAX).contains(&length(&head[3..5])) {
        return Sniffed::Unknown;
    }
    if bytes.len() == RECORD_HEAD {
        return Sniffed::NeedMore;
    }
    match handshake(bytes) {
        Part::NeedMore => Sniffed::NeedMore,
        Part::Broken => Sniffed::Tls(Hello::default()),
        Part::Whole(message) => Sniffed::Tls(hello(&message).unwrap_or_default()),
    }
}

enum Part<'a> {
    NeedMore,
    Broken,
    Whole(Cow<'a, [u8]>),
}

/// The first handshake message without its head, put together from as many records as it is cut into.
fn handshake(bytes: &[u8]) -> Part<'_> {
    let mut rest = bytes;
    let mut gathered: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let wanted = gathered.get(1..4).map(|size| 4 + length(size));
        match wanted {
            Some(wanted) if wanted > BYTES_MAX => return Part::Broken,
            Some(wanted) if gathered.len() >= wanted => {
                return Part::Whole(match gathered {
                    Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[4..wanted]),
                    Cow::Owned(bytes) => Cow::Owned(bytes[4..wanted].to_vec()),
                });
            }
            _ => {}
        }
        let Some((head, content)) = rest.split_at_checked(RECORD_HEAD) else {
            // The head of a further record says early when it is none.
            let is_wrong = rest.first().is_some_and(|kind| *kind != HANDSHAKE);
            return if is_wrong { Part::Broken } else { Part::NeedMore };
        };
        let size = length(&head[3..5]);
        if head[0] != HANDSHAKE || !(1..=RECORD_MAX).contains(&size) {
            return Part::Broken;
        }
        let (content, next) = content.split_at(size.min(content.len()));
        match &mut gathered {
            Cow::Borrowed([]) => gathered = Cow::Borrowed(content),
            gathered => gathered.to_mut().extend_from_slice(content),
        }
        rest = next;
        let is_cut = content.len() < size;
        if is_cut && gathered.get(1..4).is_none_or(|wanted| gathered.len() < 4 + length(wanted)) {
            let is_endless = gathered.get(1..4).is_some_and(|wanted| 4 + length(wanted) > BYTES_MAX);
            return if is_endless { Part::Broken } else { Part::NeedMore };
        }
    }
}

/// A ClientHello (RFC 8446 section 4.1.2); `None` when it is not one.
fn hello(message: &[u8]) -> Option<Hello> {
    let mut rest = message;
    take(&mut rest, 2 + 32)?;
    vector(&mut rest, 1)?;
    vector(&mut rest, 2)?;
    vector(&mut rest, 1)?;
    let mut hello = Hello::default();
    if rest.is_empty() {
        return Some(hello);
    }
    let mut extensions = vector(&mut rest, 2)?;
    while !extensions.is_empty() {
        let kind = length(take(&mut extensions, 2)?) as u16;
        let mut body = vector(&mut extensions, 2)?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(&mut body)?,
            ALPN => hello.alpn = alpn(&mut body)?,
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066 section 3: a list of names, of which only host names are defined.
fn server_name(body: &mut &[u8]) -> Option<Option<String>> {
    let mut names = vector(body, 2)?;
    while !names.is_empty() {
        let kind = take(&mut names, 1)?[0];
        let name = vector(&mut names, 2)?;
        if kind == 0 {
            let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
            let name = std::str::from_utf8(name).ok().filter(|name| name.bytes().all(|b| is_host(&b)))?;
            let name = name.trim_end_matches('.');
            return Some((!name.is_empty()).then(|| name.to_ascii_lowercase()));
        }
    }
    Some(None)
}

/// RFC 7301 section 3.1.
fn alpn(body: &mut &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = vector(body, 2)?;
    let mut names = Vec::new();
    while !list.is_empty() {
        names.push(vector(&mut list, 1)?.to_vec());
    }
    Some(names)
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(size)?;
    *rest = left;
    Some(taken)
}

/// Bytes behind their length, which has `width` bytes.
fn vector<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let size = length(take(rest, width)?);
    take(rest, size)
}

fn length(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests;
