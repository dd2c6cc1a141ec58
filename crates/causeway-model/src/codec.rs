//! The one binary form: CBOR with numbered fields, as the native stream and the journals carry it.

use minicbor::{Decode, Encode};

/// Why bytes could not be read as a noun.
#[derive(Debug, thiserror::Error)]
#[error("not a valid {noun}: {why}")]
pub struct DecodeError {
    noun: &'static str,
    why: String,
}

/// The bytes of `value`. Cannot fail: the sink is memory.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into memory cannot fail")
}

/// The value that `bytes` hold; unknown fields are skipped.
///
/// # Errors
/// [`DecodeError`] when the bytes are cut short, of another shape, or hold a name that is not one.
pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, DecodeError> {
    minicbor::decode(bytes)
        .map_err(|error| DecodeError { noun: std::any::type_name::<T>(), why: error.to_string() })
}
