//! How much of a message we take in before it makes sense.

/// Bounds of one message's head and framing. A buffer that holds [`Limits::head_bytes`] is enough to read any head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of a head with its first line, its last empty line, and the empty lines before it.
    pub head_bytes: usize,
    /// Of a request's target.
    pub target_bytes: usize,
    /// Of a head or of trailers, each counted by itself; at most [`Limits::FIELDS_MAX`].
    pub fields: usize,
    /// Before a request's first line.
    pub empty_lines: usize,
    /// Of the line before a chunk, with its extensions.
    pub chunk_line_bytes: usize,
    /// Of a body's chunks' extensions beyond its content: how far they may run ahead of it.
    pub extension_bytes: usize,
    /// Of the trailers with their last empty line.
    pub trailer_bytes: usize,
}

impl Limits {
    /// What Envoy (60 KiB) and Node (16 KiB) take is less; the largest cookies and tokens seen in meshes are below.
    pub const HEAD_BYTES: usize = 64 * 1024;
    /// RFC 9110 section 4.1 asks for 8,000 at least; what `http::Uri` can hold is 65,534.
    pub const TARGET_BYTES: usize = 32 * 1024;
    /// Places for fields lie on the stack while a head is read (32 bytes each).
    pub const FIELDS_MAX: usize = 128;
    /// RFC 9112 section 2.2 asks for one: some clients end a body with a line end that they do not count.
    pub const EMPTY_LINES: usize = 2;
    /// Extensions are hardly ever used and never passed on.
    pub const CHUNK_LINE_BYTES: usize = 256;
    /// A sender of one-byte chunks with long extensions must not make us read 100 bytes for each one that counts. Hyper bounds the sum,
    /// which ends a stream of events some day.
    pub const EXTENSION_BYTES: usize = 16 * 1024;
    /// gRPC's status, message and details fit; what Envoy allows is 60 KiB.
    pub const TRAILER_BYTES: usize = 16 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes: Limits::HEAD_BYTES,
            target_bytes: Limits::TARGET_BYTES,
            fields: Limits::FIELDS_MAX,
            empty_lines: Limits::EMPTY_LINES,
            chunk_line_bytes: Limits::CHUNK_LINE_BYTES,
            extension_bytes: Limits::EXTENSION_BYTES,
            trailer_bytes: Limits::TRAILER_BYTES,
        }
    }
}
