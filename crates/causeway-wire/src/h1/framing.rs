//! Where a message's body ends.

/// Whether there was enough to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// Good so far: ask again when more has come, with the same bytes before it.
    Partial,
    /// Read to its end.
    Done(T),
}

/// Where a message's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, whatever the fields say.
    None,
    /// After so many bytes; zero where `content-length: 0` is said.
    Length(u64),
    /// After the chunk of size zero and the trailers.
    Chunked,
    /// With the connection. Only responses are framed so.
    UntilClose,
}

impl Framing {
    /// Whether not a byte of a body follows the head.
    pub fn is_empty(self) -> bool {
        matches!(self, Framing::None | Framing::Length(0))
    }
}
