//! Opens what is there: scans the segments, decides what a bad place means, cuts a torn tail off.
//!
//! In:    a locked data directory.     Out: the index, the segment to go on with, a [`Recovery`] to report.
//! Owner: `Disk::open`, before the writer starts.
//! Invariant: a bad place with anything durable after it is `Corrupt` and nothing is touched; only bytes after the last
//!            place that was known to be durable are cut off, and only in the last segment.
//! Not here: reading one segment (`scan.rs`).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_base::{Clock, Seed};
use parking_lot::Mutex;

use crate::error::{Error, Kind};
use crate::frame::Framing;
use crate::limits::STREAMS_MAX;
use crate::options::{Options, Recovery};

use super::index::{Index, Stream};
use super::scan::{self, Scan};
use super::segment::{self, Header, corrupt};

/// Threads that scan at most: beyond four, memory is the limit.
const SCANNERS_MAX: usize = 4;

pub(super) struct Recovered {
    pub(super) framing: Framing,
    pub(super) index: Index,
    pub(super) segments: Vec<Header>,
    pub(super) tail: Tail,
    pub(super) recovery: Recovery,
}

/// The segment that the writer goes on with.
pub(super) struct Tail {
    pub(super) file: File,
    pub(super) header: Header,
    /// Where the log ends: everything before it is durable.
    pub(super) end: u64,
    /// A mark of the end is there already.
    pub(super) is_marked: bool,
}

struct Segment {
    file: File,
    header: Header,
    scan: Scan,
}

pub(super) fn recover(dir: &Path, options: &Options) -> Result<Recovered, Error> {
    let began = Clock::system().instant();
    let numbers = segment::list(dir)?;
    if numbers.is_empty() {
        return begin(dir, options);
    }
    let mut segments = scan_all(dir, &numbers)?;
    let mut recovery = Recovery { segments: segments.len() as u64, ..Recovery::default() };
    judge(dir, &mut segments, &mut recovery)?;
    let index = merge(dir, &mut segments)?;
    recovery.streams = index.len() as u64;
    recovery.records = segments.iter().map(|s| s.scan.records).sum();
    recovery.bytes = segments.iter().map(|s| s.scan.end).sum();
    recovery.took = began.elapsed();
    let headers: Vec<Header> = segments.iter().map(|s| s.header).collect();
    let framing = Framing::new(headers[0].key);
    let Some(last) = segments.pop() else { return begin(dir, options) };
    let end = last.header.lsn(last.scan.end);
    let tail = Tail { end, header: last.header, file: last.file, is_marked: last.scan.is_marked };
    Ok(Recovered { framing, index, segments: headers, tail, recovery })
}

/// A new log.
fn begin(dir: &Path, options: &Options) -> Result<Recovered, Error> {
    let header = Header { key: Seed::from_entropy().u64(), number: 0, base: 0 };
    let file = segment::create(dir, header, options.segment_bytes).map_err(|e| {
        Error::io(Kind::Unusable, format!("cannot make {}", segment::path(dir, 0).display()), e)
    })?;
    Ok(Recovered {
        framing: Framing::new(header.key),
        index: Index::default(),
        segments: vec![header],
        tail: Tail { file, header, end: 0, is_marked: true },
        recovery: Recovery { segments: 1, bytes: segment::HEADER_BYTES, ..Recovery::default() },
    })
}

/// Scans every segment, several at a time.
fn scan_all(dir: &Path, numbers: &[u64]) -> Result<Vec<Segment>, Error> {
    let mut opened = Vec::with_capacity(numbers.len());
    for number in numbers {
        opened.push(segment::open(dir, *number, Some(number) == numbers.last())?);
    }
    let framing = Framing::new(opened[0].1.key);
    let scans: Vec<Mutex<Option<io::Result<Scan>>>> = opened.iter().map(|_| Mutex::new(None)).collect();
    let turn = AtomicUsize::new(0);
    let scanners = std::thread::available_parallelism().map_or(1, usize::from).min(SCANNERS_MAX);
    std::thread::scope(|threads| {
        for _ in 0..scanners.min(opened.len()) {
            threads.spawn(|| {
                while let Some((file, header)) = opened.get(turn.fetch_add(1, Ordering::Relaxed)) {
                    let at = (header.number - opened[0].1.number) as usize;
                    *scans[at].lock() = Some(scan::scan(file, *header, framing));
                }
            });
        }
    });
    let mut segments = Vec::with_capacity(opened.len());
    for ((file, header), scan) in opened.into_iter().zip(scans) {
        let scan = scan.into_inner().unwrap_or_else(|| Err(io::Error::other("the scanner ended early")));
        let scan = scan.map_err(|e| {
            let path = segment::path(dir, header.number);
            Error::io(Kind::Unusable, format!("cannot read {}", path.display()), e)
        })?;
        segments.push(Segment { file, header, scan });
    }
    Ok(segments)
}

/// Decides about every bad place, and cuts the torn tail.
fn judge(dir: &Path, segments: &mut [Segment], recovery: &mut Recovery) -> Result<(), Error> {
    let key = segments[0].header.key;
    for at in 0..segments.len() {
        let next = segments.get(at + 1).map(|next| next.header);
        let Segment { file, header, scan } = &mut segments[at];
        let path = segment::path(dir, header.number);
        if header.key != key {
            return Err(corrupt(&path, 0, "it belongs to another log"));
        }
        if let Some(bad) = &scan.bad {
            let later = match next {
                Some(_) => Some(scan.size),
                None => scan::has_later_commit(file, *header, Framing::new(key), scan.end)
                    .map_err(|e| Error::io(Kind::Unusable, format!("cannot read {}", path.display()), e))?,
            };
            if let Some(later) = later {
                let why = format!("{} (everything up to byte {later} was durable)", bad.why);
                return Err(corrupt(&path, bad.offset, &why));
            }
            if bad.is_nonsense {
                return Err(corrupt(&path, bad.offset, bad.why));
            }
            recovery.torn_bytes = scan.size - scan.end;
            recovery.torn_records = bad.records;
        }
        match next {
            Some(next) if header.lsn(scan.end) != next.base => {
                let why = format!(
                    "the next segment begins at place {} of the log, this one ends before it or after it",
                    next.base
                );
                return Err(corrupt(&path, scan.end, &why));
            }
            Some(_) => {}
            None if recovery.torn_bytes > 0 => cut(file, scan.end).map_err(|e| {
                Error::io(Kind::Unusable, format!("cannot cut the torn tail off {}", path.display()), e)
            })?,
            None => {}
        }
    }
    Ok(())
}

fn cut(file: &File, end: u64) -> io::Result<()> {
    file.set_len(end)?;
    file.sync_all()
}

/// Joins what the segments know about each stream.
fn merge(dir: &Path, segments: &mut [Segment]) -> Result<Index, Error> {
    let index = Index::default();
    let mut by_id: Vec<Option<Arc<Stream>>> = Vec::new();
    for segment in segments {
        let path = segment::path(dir, segment.header.number);
        for (id, found) in segment.scan.streams.drain() {
            let id_at = id as usize;
            if id_at >= STREAMS_MAX {
                return Err(corrupt(
                    &path,
                    segment::HEADER_BYTES,
                    "it names more streams than a log may have",
                ));
            }
            if by_id.len() <= id_at {
                by_id.resize(id_at + 1, None);
            }
            match &by_id[id_at] {
                Some(known) if known.name == found.name && known.next() == found.first => {
                    known.push(found.extents);
                    known.show(found.next);
                }
                None if found.next == 0 => {}
                None if index.get(&found.name).is_none()
                    && (found.first == 0 || segment.header.number > 0) =>
                {
                    let stream = Arc::new(Stream::new(found.name, id, found.next, found.extents));
                    by_id[id_at] = Some(stream.clone());
                    index.insert(stream);
                }
                _ => {
                    let why = format!("stream {} does not go on where the segment before ended", found.name);
                    return Err(corrupt(&path, segment::HEADER_BYTES, &why));
                }
            }
        }
    }
    Ok(index)
}
