//! A body as it comes in.

use std::ops::Range;

use http::HeaderMap;

use super::fields;
use super::framing::Framing;
use super::limits::Limits;
use super::refusal::Refusal;

/// What [`Decoder::decode`] made of its input. What is within `consumed` must not be given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// All of the input is consumed; give it more, or tell it that there is none ([`Decoder::end_of_input`]).
    NeedMore,
    /// The input up to the end of this range is consumed; the range is content, never empty.
    Data(Range<usize>),
    /// The body has ended with these trailers, mostly none. What follows `consumed` is not of this message.
    End {
        /// How much of the input was still of the body.
        consumed: usize,
        /// Without what only a head may say.
        trailers: HeaderMap,
    },
}

/// Takes the framing off a body, incrementally. Holds a few bytes, and the trailers while they come.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    limits: ChunkLimits,
}

#[derive(Debug, Clone, Copy)]
struct ChunkLimits {
    line_bytes: usize,
    trailer_bytes: usize,
    fields: usize,
    extension_bytes: usize,
    extension_bytes_left: usize,
}

#[derive(Debug)]
enum State {
    /// Content of a body with a length.
    Content(u64),
    UntilClose,
    Chunk(Chunk),
    /// Behind the last chunk: the lines so far.
    Trailers(Vec<u8>),
    Ended,
    Broken(Refusal),
}

/// Where in a chunk.
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the semicolon; `named` once something else than blanks came.
    Extension {
        size: u64,
        line_bytes: usize,
        is_named: bool,
    },
    SizeLf {
        size: u64,
    },
    Content {
        left: u64,
    },
    ContentCr,
    ContentLf,
}

const CHUNK_START: Chunk = Chunk::Size { size: 0, digits: 0 };

/// A `u64` in hexadecimal.
const SIZE_DIGITS_MAX: u8 = 16;

impl Decoder {
    /// A decoder at the beginning of a body that is framed so.
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Content(length),
            Framing::Chunked => State::Chunk(CHUNK_START),
            Framing::UntilClose => State::UntilClose,
        };
        let limits = ChunkLimits {
            line_bytes: limits.chunk_line_bytes,
            trailer_bytes: limits.trailer_bytes,
            fields: limits.fields.min(Limits::FIELDS_MAX),
            extension_bytes: limits.extension_bytes,
            extension_bytes_left: limits.extension_bytes,
        };
        Decoder { state, limits }
    }

    /// Whether the body has come to its end.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// How much content is still to come, where the head said it.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Content(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// Reads on. Call it again with what is behind the consumed part until it needs more or has ended.
    ///
    /// # Errors
    /// [`Refusal`]: the body is broken, and so is all that follows on its connection. It stays so.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, Refusal> {
        self.read(bytes).inspect_err(|refusal| self.state = State::Broken(*refusal))
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Decoded, Refusal> {
        match &mut self.state {
            State::Broken(refusal) => Err(*refusal),
            State::Ended => Ok(Decoded::End { consumed: 0, trailers: HeaderMap::new() }),
            _ if bytes.is_empty() => Ok(Decoded::NeedMore),
            State::UntilClose => Ok(Decoded::Data(0..bytes.len())),
            State::Content(left) => {
                let length = bounded(bytes.len(), *left);
                *left -= length as u64;
                if *left == 0 {
                    self.state = State::Ended;
                }
                Ok(Decoded::Data(0..length))
            }
            State::Chunk(_) => self.decode_chunks(bytes),
            State::Trailers(_) => self.decode_trailers(bytes, 0),
        }
    }

    /// What it means that the connection has ended: the end of a body that goes on until then.
    ///
    /// # Errors
    /// [`Refusal::CutShort`] when the body should have gone on.
    pub fn end_of_input(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Ended | State::UntilClose => {
                self.state = State::Ended;
                Ok(())
            }
            State::Broken(refusal) => Err(refusal),
            _ => Err(Refusal::CutShort),
        }
    }

    fn decode_chunks(&mut self, bytes: &[u8]) -> Result<Decoded, Refusal> {
        let State::Chunk(mut chunk) = self.state else { return Ok(Decoded::NeedMore) };
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Chunk::Content { left } = chunk {
                let length = bounded(bytes.len() - at, left);
                let left = left - length as u64;
                let next = if left == 0 { Chunk::ContentCr } else { Chunk::Content { left } };
                self.state = State::Chunk(next);
                return Ok(Decoded::Data(at..at + length));
            }
            at += 1;
            if let (Chunk::SizeLf { size: 0 }, b'\n') = (chunk, byte) {
                self.state = State::Trailers(Vec::new());
                return self.decode_trailers(bytes, at);
            }
            chunk = step(chunk, byte, &mut self.limits)?;
        }
        self.state = State::Chunk(chunk);
        Ok(Decoded::NeedMore)
    }

    fn decode_trailers(&mut self, bytes: &[u8], start: usize) -> Result<Decoded, Refusal> {
        let State::Trailers(lines) = &mut self.state else { return Ok(Decoded::NeedMore) };
        let rest = &bytes[start..];
        // By far the most frequent: none.
        if lines.is_empty() && rest.starts_with(b"\r\n") {
            self.state = State::Ended;
            return Ok(Decoded::End { consumed: start + 2, trailers: HeaderMap::new() });
        }
        let mut at = 0;
        while let Some(end) = rest[at..].iter().position(|&b| b == b'\n') {
            at = append_line(lines, rest, at, at + end + 1, &self.limits)?;
            if lines.ends_with(b"\r\n\r\n") || lines.as_slice() == b"\r\n" {
                let trailers = trailers_of(lines, self.limits.fields)?;
                self.state = State::Ended;
                return Ok(Decoded::End { consumed: start + at, trailers });
            }
        }
        append_line(lines, rest, at, rest.len(), &self.limits)?;
        Ok(Decoded::NeedMore)
    }
}

impl ChunkLimits {
    /// Content pays for extensions, so that a stream which has them may go on for ever.
    fn earn(&mut self, content: u64) {
        let content = usize::try_from(content).unwrap_or(usize::MAX);
        self.extension_bytes_left =
            self.extension_bytes_left.saturating_add(content).min(self.extension_bytes);
    }
}

fn bounded(length: usize, left: u64) -> usize {
    usize::try_from(left).map_or(length, |left| left.min(length))
}

/// One byte further in the lines between chunks.
fn step(chunk: Chunk, byte: u8, limits: &mut ChunkLimits) -> Result<Chunk, Refusal> {
    match (chunk, byte) {
        (Chunk::Size { size, digits }, b'\r') if digits > 0 => Ok(Chunk::SizeLf { size }),
        (Chunk::Size { size, digits }, b';') if digits > 0 => {
            Ok(Chunk::Extension { size, line_bytes: usize::from(digits) + 1, is_named: false })
        }
        (Chunk::Size { size, digits }, digit) => {
            let value = char::from(digit).to_digit(16).ok_or(Refusal::BadChunkSize)?;
            match digits < SIZE_DIGITS_MAX {
                true => Ok(Chunk::Size { size: size << 4 | u64::from(value), digits: digits + 1 }),
                false => Err(Refusal::BadChunkSize),
            }
        }
        (Chunk::Extension { size, is_named: true, .. }, b'\r') => Ok(Chunk::SizeLf { size }),
        (Chunk::Extension { size, line_bytes, is_named }, byte) => {
            let is_blank = matches!(byte, b' ' | b'\t');
            if byte == 0x7f || (byte < b' ' && !is_blank) {
                return Err(Refusal::BadExtension);
            }
            if line_bytes >= limits.line_bytes || limits.extension_bytes_left == 0 {
                return Err(Refusal::ExtensionTooLong);
            }
            limits.extension_bytes_left -= 1;
            Ok(Chunk::Extension { size, line_bytes: line_bytes + 1, is_named: is_named || !is_blank })
        }
        (Chunk::SizeLf { size }, b'\n') => {
            limits.earn(size);
            Ok(Chunk::Content { left: size })
        }
        (Chunk::SizeLf { .. }, _) => Err(Refusal::BadChunkSize),
        (Chunk::ContentCr, b'\r') => Ok(Chunk::ContentLf),
        (Chunk::ContentLf, b'\n') => Ok(CHUNK_START),
        (Chunk::ContentCr | Chunk::ContentLf | Chunk::Content { .. }, _) => Err(Refusal::BadChunkEnd),
    }
}

fn append_line(
    lines: &mut Vec<u8>,
    rest: &[u8],
    from: usize,
    to: usize,
    limits: &ChunkLimits,
) -> Result<usize, Refusal> {
    if lines.len() + (to - from) > limits.trailer_bytes {
        return Err(Refusal::TrailersTooLarge);
    }
    lines.extend_from_slice(&rest[from..to]);
    if lines.ends_with(b"\n") && !lines.ends_with(b"\r\n") {
        return Err(Refusal::BadLineEnd);
    }
    Ok(to)
}

fn trailers_of(lines: &[u8], fields_max: usize) -> Result<HeaderMap, Refusal> {
    if lines == b"\r\n" {
        return Ok(HeaderMap::new());
    }
    let mut places = [httparse::EMPTY_HEADER; Limits::FIELDS_MAX];
    let found = match httparse::parse_headers(lines, &mut places[..fields_max]) {
        Ok(httparse::Status::Complete((length, found))) if length == lines.len() => found,
        Ok(_) => return Err(Refusal::BadName),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TrailersTooLarge),
        Err(error) => return Err(fields::refusal_of(error, Refusal::BadName)),
    };
    fields::check_line_ends(lines, found)?;
    fields::trailers(found)
}
