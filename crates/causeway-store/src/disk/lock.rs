//! One writer per data directory: an advisory lock on `lock`, which holds the owner's process id.
//!
//! In:    the directory.     Out: a guard; the kernel releases the lock when the guard is dropped or the process dies.
//! Owner: the writer thread, to its end.
//! Invariant: two stores never write one log, also not two of one process.
//! Not here: anything about the log.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::error::{Error, Kind};

use super::segment::FILE_MODE;

/// How often and how long to try: the previous process may be in its last moments (a supervisor that restarts at once).
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Lock, Error> {
        let path = dir.join("lock");
        let unusable = |e| Error::io(Kind::Unusable, format!("cannot use lock file {}", path.display()), e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(unusable)?;
        for _ in 0..TRIES {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let pid = std::process::id().to_string();
                    file.set_len(0).and_then(|()| file.rewind()).map_err(unusable)?;
                    file.write_all(pid.as_bytes()).map_err(unusable)?;
                    return Ok(Lock { _file: file });
                }
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
                Err(errno) => return Err(unusable(errno.into())),
            }
        }
        let mut owner = String::new();
        let _ = file.read_to_string(&mut owner); // Only for the text: the lock itself is what counts.
        let owner = if owner.trim().is_empty() { "another process" } else { owner.trim() };
        Err(Error::new(
            Kind::Locked,
            format!(
                "data directory {} is in use by process {owner} (it holds {})",
                dir.display(),
                path.display()
            ),
        ))
    }
}
