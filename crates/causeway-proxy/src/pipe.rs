//! A pipe through which the kernel leads bytes from one socket to another.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Room of a pipe. The kernel's own 64 KiB would cost a system call for each.
const PIPE_BYTES: usize = 256 * 1024;

/// A pipe: where bytes go in and where they come out.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub inlet: OwnedFd,
    pub outlet: OwnedFd,
}

impl Pipe {
    pub(crate) fn new() -> io::Result<Self> {
        let (outlet, inlet) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Where users may have few pages in pipes it stays small and works as well.
        let _ = fcntl_setpipe_size(&inlet, PIPE_BYTES);
        Ok(Pipe { inlet, outlet })
    }
}
