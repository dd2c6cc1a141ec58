//! A body as frames, read of a connection.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use causeway_wire::h1::{Decoded, Decoder, Refusal};
use http_body::Frame;

use super::rest::Rest;
use crate::socket::Socket;
use crate::trouble::BodyError;

/// The next frame; none at the body's end. `keeps` says that whoever gets it may hold it for long.
pub(super) fn poll_frame(
    socket: &mut Socket,
    rest: &mut Rest,
    decoder: &mut Decoder,
    keeps: bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    while !decoder.is_ended() {
        match decoder.decode(rest.as_slice()) {
            Ok(Decoded::Data(range)) => {
                rest.advance(range.start);
                let length = range.len();
                let data = if keeps { rest.take_copy(length) } else { rest.take(length) };
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Ok(Decoded::End { consumed, trailers }) => {
                rest.advance(consumed);
                let frame = (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)));
                return Poll::Ready(frame);
            }
            Ok(Decoded::NeedMore) => rest.advance(rest.as_slice().len()),
            Err(refusal) => return broken(refusal),
        }
        match ready!(rest.poll_fill(socket, cx)) {
            Ok(0) => {
                if let Err(refusal) = decoder.end_of_input() {
                    return broken(refusal);
                }
            }
            Ok(_) => {}
            Err(error) => return Poll::Ready(Some(Err(BodyError::broken(error)))),
        }
    }
    Poll::Ready(None)
}

fn broken(refusal: Refusal) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    Poll::Ready(Some(Err(BodyError::broken(refusal))))
}
