//! Segment files: their names, their header, how one is made, and a window through which one is read.
//!
//! In:    a directory and a [`Header`].     Out: an open file whose header is durable, or a list of what is there.
//! Owner: `writer.rs` makes them, `recover.rs` lists them, everyone else reads.
//! Invariant: a file that bears a segment's name has a whole header, because it gets the name only after its fsync; the
//!            directory is synced before a commit is written to it.
//! Not here: commits (`frame.rs`). Recycling the oldest segments after a checkpoint will be added here: segments declare
//! their streams' names and lengths themselves, so a log may begin with any number.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Error, Kind};
use crate::frame::{u32_at, u64_at};

/// Bytes before the first commit of a segment.
pub(crate) const HEADER_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"CWSTORE\n";
const VERSION: u32 = 1;

/// The log holds everyone's messages: its owner reads it, nobody else.
pub(crate) const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Random, one per log: tells files of two logs apart and salts the checksums.
    pub(crate) key: u64,
    /// Segments are numbered without gaps.
    pub(crate) number: u64,
    /// The place in the log (its bytes counted over all segments, headers left out) where this one begins.
    pub(crate) base: u64,
}

impl Header {
    /// Where in the file the byte at `lsn` is.
    pub(crate) fn offset(&self, lsn: u64) -> u64 {
        HEADER_BYTES + (lsn - self.base)
    }

    /// Which byte of the log is at `offset` of the file.
    pub(crate) fn lsn(&self, offset: u64) -> u64 {
        self.base + (offset - HEADER_BYTES)
    }

    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut out = [0; HEADER_BYTES as usize];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.to_le_bytes());
        out[24..32].copy_from_slice(&self.number.to_le_bytes());
        out[32..40].copy_from_slice(&self.base.to_le_bytes());
        let crc = checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Header, Error> {
        let bad = |why: &str| corrupt(path, 0, why);
        if bytes.get(..8) != Some(&MAGIC[..]) {
            return Err(bad("it does not begin as a segment of the log does"));
        }
        match u32_at(bytes, 8) {
            Some(VERSION) => {}
            Some(version) if u32_at(bytes, 12) == Some(checksum(bytes)) => {
                let doing =
                    format!("{} is of log format {version}, this program knows {VERSION}", path.display());
                return Err(Error::new(Kind::Newer, doing));
            }
            _ => return Err(bad("its header's version is damaged")),
        }
        if u32_at(bytes, 12) != Some(checksum(bytes)) {
            return Err(bad("its header's checksum does not hold"));
        }
        match (u64_at(bytes, 16), u64_at(bytes, 24), u64_at(bytes, 32)) {
            (Some(key), Some(number), Some(base)) => Ok(Header { key, number, base }),
            _ => Err(bad("its header is too short")),
        }
    }
}

fn checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[8..12]), &header[16..])
}

/// The file of segment `number`.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.log"))
}

/// Makes a segment whose header and name are durable, and sets `reserve` bytes aside for it where the file system can.
pub(crate) fn create(dir: &Path, header: Header, reserve: u64) -> io::Result<File> {
    let fresh = dir.join("segment.new");
    let made = || -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&fresh)?;
        // Only a file system that has no room may refuse: one that cannot reserve goes without.
        let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, reserve.max(1));
        if let Err(errno @ (Errno::NOSPC | Errno::DQUOT)) = reserved {
            return Err(errno.into());
        }
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path(dir, header.number))?;
        Ok(file)
    };
    let file = made().inspect_err(|_| {
        let _ = std::fs::remove_file(&fresh); // Holds nothing; the next opening removes it as well.
    })?;
    sync_dir(dir)?;
    Ok(file)
}

/// Makes `dir` and what is missing above it, durably: a directory that vanishes with the power takes its log along.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    for made in missing.into_iter().rev() {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty());
        sync_dir(above.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Makes names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Opens segment `number`, checking that its header is the one its name promises.
pub(crate) fn open(dir: &Path, number: u64, writable: bool) -> Result<(File, Header), Error> {
    let path = path(dir, number);
    let cannot = |e| Error::io(Kind::Unusable, format!("cannot open segment {}", path.display()), e);
    let file = OpenOptions::new().read(true).write(writable).open(&path).map_err(cannot)?;
    let mut bytes = [0; HEADER_BYTES as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(corrupt(&path, 0, "it is shorter than a segment's header"));
        }
        Err(e) => return Err(cannot(e)),
    }
    let header = Header::decode(&bytes, &path)?;
    match header.number == number {
        true => Ok((file, header)),
        false => Err(corrupt(&path, 0, &format!("its header says that it is segment {}", header.number))),
    }
}

/// The numbers of the segments in `dir`, in order; a gap is an error. Removes a segment that never got its name.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>, Error> {
    let cannot = |e| Error::io(Kind::Unusable, format!("cannot list data directory {}", dir.display()), e);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        if name == "segment.new" {
            std::fs::remove_file(dir.join(&name)).map_err(cannot)?;
        } else if let Some(number) = number.filter(|n| n.len() == 20).and_then(|n| n.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        None => Ok(numbers),
        Some(pair) => Err(corrupt(&path(dir, pair[0] + 1), 0, "the file is missing between two others")),
    }
}

/// The error of a place that does not hold what was written there.
pub(crate) fn corrupt(path: &Path, offset: u64, why: &str) -> Error {
    let doing = format!(
        "{} is damaged at byte {offset}: {why}; restore the data directory from a backup, or from a copy of the disk",
        path.display()
    );
    Error::new(Kind::Corrupt, doing)
}

// === Window ===

/// The first read: what the index may make one walk, and a record.
const CHUNK_BYTES_MIN: usize = 20 << 10;

/// A moving part of a file in memory.
pub(crate) struct Window<'a> {
    file: &'a File,
    chunk: usize,
    chunk_max: usize,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl<'a> Window<'a> {
    /// Reads a little at first and twice as much each time, up to `chunk_max`: most reads want one record.
    pub(crate) fn new(file: &'a File, chunk_max: usize) -> Self {
        let chunk = CHUNK_BYTES_MIN.min(chunk_max);
        Window { file, chunk, chunk_max, buffer: Vec::new(), start: 0, filled: 0 }
    }

    /// The `len` bytes at `offset`; `None` when the file ends before them.
    pub(crate) fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if offset < self.start || offset + len as u64 > self.start + self.filled as u64 {
            self.fill(offset, len)?;
        }
        let at = (offset - self.start) as usize;
        Ok(self.buffer[..self.filled].get(at..at + len))
    }

    fn fill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let want = len.max(self.chunk);
        self.chunk = (self.chunk * 2).min(self.chunk_max);
        if self.buffer.len() < want {
            self.buffer.resize(want, 0);
        }
        (self.start, self.filled) = (offset, 0);
        while self.filled < len.max(1) {
            match self.file.read_at(&mut self.buffer[self.filled..want], offset + self.filled as u64) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
