//! HTTP/1.1 as bytes: heads and bodies read strictly, written plainly. Whoever owns the socket feeds it; nothing here waits.
//!
//! In:    what a connection has read so far; heads to send.      Out: heads, pieces of bodies, bytes; or a [`Refusal`].
//! Owner: the connection (`causeway-proxy::h1`) has one [`Progress`] and one [`Decoder`] for the message that it reads.
//! Invariant: what two readers could frame in two ways is refused, and what we write is framed from [`Framing`] alone, never from the
//! fields that somebody sent. A refusal ends its connection.
//! Not here: whom a request is for (`authority`), which fields travel on (`hop`), waiting, time and sockets (`causeway-proxy::h1`).

mod body;
mod fields;
mod framing;
mod limits;
mod refusal;
mod request;
mod response;
mod write;

pub use body::{Decoded, Decoder};
pub use fields::Progress;
pub use framing::{Framing, Parsed};
pub use limits::Limits;
pub use refusal::Refusal;
pub use request::{RequestHead, request_head};
pub use response::{ResponseHead, response_head};
pub use write::{
    CHUNK_END, CHUNK_HEADER_BYTES_MAX, CONTINUE, DATE_BYTES, LAST_CHUNK, write_chunk_header,
    write_request_head, write_response_head, write_trailers,
};

#[cfg(test)]
mod tests;
