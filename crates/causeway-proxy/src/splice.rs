//! Bytes from one TCP socket to another without a look at them: `splice(2)` through a pipe, so that they never leave the kernel.
//!
//! In:    two sockets.      Out: the bytes of the one on the other, counted.
//! Owner: a direction of a connection that is plaintext on both sides (`pump`).
//! Invariant: a direction holds a pipe only while bytes are in it; a pipe goes back only when it is empty.
//! Not here: what cannot be spliced (TLS, a network in memory): `pump` copies it.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::pipe::Pipe;
use crate::spare::Spare;

/// Asked for at a time; the kernel gives what the pipe has room for.
const CHUNK_BYTES: usize = 1 << 20;
/// What one direction has in the pipe.
#[derive(Debug, Default)]
pub(crate) struct Splicer {
    pipe: Option<Pipe>,
    held: usize,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Moved(usize),
    /// The source has ended, and everything of it is through.
    Ended,
}

/// Which socket an error came from.
pub(crate) enum Fault {
    Source(io::Error),
    Sink(io::Error),
    /// No pipe can be had.
    Pipe(io::Error),
}

impl Splicer {
    /// Moves what is there from `source` to `sink`, once.
    pub(crate) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        spare: &Spare,
    ) -> Poll<Result<Step, Fault>> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while self.held == 0 {
            ready!(source.poll_read_ready(cx)).map_err(Fault::Source)?;
            let pipe = match self.pipe.take() {
                Some(pipe) => pipe,
                None => spare.take_pipe().map_err(Fault::Pipe)?,
            };
            let spliced = source.try_io(Interest::READABLE, || {
                splice(source, None, &pipe.inlet, None, CHUNK_BYTES, flags).map_err(io::Error::from)
            });
            match spliced {
                Ok(0) => {
                    spare.give_pipe(pipe);
                    return Poll::Ready(Ok(Step::Ended));
                }
                Ok(count) => (self.held, self.pipe) = (count, Some(pipe)),
                // The pipe was empty, so it is the socket that has nothing: the next look at it registers the waker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => spare.give_pipe(pipe),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.pipe = Some(pipe),
                Err(error) => return Poll::Ready(Err(Fault::Source(error))),
            }
        }
        loop {
            ready!(sink.poll_write_ready(cx)).map_err(Fault::Sink)?;
            let Some(pipe) = &self.pipe else { unreachable!("bytes are held in a pipe") };
            let spliced = sink.try_io(Interest::WRITABLE, || {
                splice(&pipe.outlet, None, sink, None, self.held, flags).map_err(io::Error::from)
            });
            match spliced {
                Ok(count) => {
                    self.held -= count;
                    if self.held == 0 {
                        self.pipe.take().into_iter().for_each(|pipe| spare.give_pipe(pipe));
                    }
                    return Poll::Ready(Ok(Step::Moved(count)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(Fault::Sink(error))),
            }
        }
    }
}
