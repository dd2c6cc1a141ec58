//! Why bytes are not a message that we take.

use http::StatusCode;

/// Why a message is refused. Its connection must be closed always: nobody knows where the next message would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not `method target version` with one blank between each two; also HTTP/0.9.
    #[error("the request line is not a method, a target and a version")]
    BadRequestLine,
    /// Not `version status reason`.
    #[error("the status line is not a version, a status and a reason")]
    BadStatusLine,
    /// Well-formed, but neither 1.0 nor 1.1; also the preface of HTTP/2.
    #[error("the version of HTTP is neither 1.0 nor 1.1")]
    BadVersion,
    /// Not a form that the method may have, or with `#`, or with characters that no target holds.
    #[error("the request target has not a form that its method may have")]
    BadTarget,
    /// Longer than the limit.
    #[error("the request target is too long")]
    TargetTooLong,
    /// LF alone, or CR with something else behind it.
    #[error("a line does not end with CR LF")]
    BadLineEnd,
    /// Not a token, nothing, a blank before the colon, or a line that continues the one before.
    #[error("a field's name is not a token with a colon right behind it")]
    BadName,
    /// Control characters, NUL, a CR without LF within it.
    #[error("a field's value holds a control character")]
    BadValue,
    /// More bytes than a head may have.
    #[error("the head is too large")]
    HeadTooLarge,
    /// More fields than a head may have.
    #[error("there are too many fields")]
    TooManyFields,
    /// A sign, blanks, a list, nothing, or more than 64 bits.
    #[error("the content length is not a number")]
    BadLength,
    /// Two fields, even with the same number.
    #[error("the content length is said more than once")]
    TwoLengths,
    /// Request smuggling, or a broken sender.
    #[error("both a content length and a transfer coding are said")]
    LengthAndCoding,
    /// Not `chunked`, once, at the end; or more than one field.
    #[error("the transfer coding does not end with one chunked")]
    BadCoding,
    /// One that ends with `chunked`, but something is below it.
    #[error("the transfer coding is not supported")]
    UnknownCoding,
    /// HTTP/1.0 has none: one reader would take it, another not.
    #[error("a transfer coding in HTTP/1.0")]
    CodingInOldVersion,
    /// A body where the message cannot have one (CONNECT, an interim response).
    #[error("the message says that it has a body and cannot have one")]
    UnexpectedBody,
    /// Not hexadecimal digits, more than 16 of them, blanks, or a line end that is not CR LF.
    #[error("a chunk's size is not a hexadecimal number")]
    BadChunkSize,
    /// Control characters, or nothing behind the semicolon.
    #[error("a chunk's extension is malformed")]
    BadExtension,
    /// The line before a chunk, or all extensions of a body together.
    #[error("the chunks' extensions are too long")]
    ExtensionTooLong,
    /// A chunk is longer than it said.
    #[error("a chunk does not end where it said")]
    BadChunkEnd,
    /// More bytes or fields than trailers may have.
    #[error("the trailers are too large")]
    TrailersTooLarge,
    /// The connection ended within the message.
    #[error("the connection ended before the message did")]
    CutShort,
}

impl Refusal {
    /// What a client is answered, with `Connection: close`. What an upstream sends is refused with 502 whatever this says.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::TargetTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadTooLarge | Refusal::TooManyFields | Refusal::TrailersTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Refusal::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Refusal::BadVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
