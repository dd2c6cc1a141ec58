//! Reads one segment from its first byte to its last and says what it holds. Segments are scanned side by side.
//!
//! In:    an open segment.     Out: a [`Scan`]: its streams, where they are, and the first thing that is not right.
//! Owner: `recover.rs`.
//! Invariant: every byte of a commit is checked before anything of it is counted; a commit counts whole or not at all.
//! Not here: what a bad place means (`recover.rs` knows whether anything durable comes after it).

use std::collections::HashMap;
use std::fs::File;
use std::io;

use crate::frame::{COMMIT_BYTES, Framing, ITEM_HEADER_BYTES, Item, ItemKind, u32_at, u64_at};
use crate::limits::STREAMS_MAX;
use crate::name::StreamName;

use super::index::{Extent, SPARSE_BYTES};
use super::segment::{HEADER_BYTES, Header, Window};

/// Bytes read at a time: large enough that system calls do not show, small enough to stay in the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;

/// What a segment holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// File offset after the last whole commit.
    pub(crate) end: u64,
    /// File size.
    pub(crate) size: u64,
    pub(crate) records: u64,
    pub(crate) streams: HashMap<u32, ScannedStream>,
    pub(crate) bad: Option<Bad>,
    /// The last whole commit is an empty one, which only marks the end.
    pub(crate) is_marked: bool,
}

/// A stream as one segment knows it.
#[derive(Debug)]
pub(crate) struct ScannedStream {
    pub(crate) name: StreamName,
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) extents: Vec<Extent>,
}

/// The first place that is not right.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) offset: u64,
    pub(crate) why: &'static str,
    /// Records of the bad commit whose checksums hold.
    pub(crate) records: u64,
    /// The checksum holds and the content makes no sense: never a torn tail.
    pub(crate) is_nonsense: bool,
}

struct Staged {
    item: Item,
    offset: u64,
    name: Option<StreamName>,
}

pub(crate) fn scan(file: &File, header: Header, framing: Framing) -> io::Result<Scan> {
    let mut scan = Scan { end: HEADER_BYTES, size: file.metadata()?.len(), ..Scan::default() };
    let mut window = Window::new(file, CHUNK_BYTES);
    let mut staged = Vec::new();
    while scan.end < scan.size {
        staged.clear();
        let read = stage(&mut window, header, framing, scan.end, &mut staged)?;
        match read.and_then(|end| scan.apply(header, &mut staged).map(|()| end)) {
            Ok(end) => (scan.end, scan.is_marked) = (end, staged.is_empty()),
            Err(bad) => {
                scan.bad = Some(bad);
                break;
            }
        }
    }
    Ok(scan)
}

/// Reads and checks the commit at `start`; its items go to `staged`. Returns where it ends.
fn stage(
    window: &mut Window<'_>,
    header: Header,
    framing: Framing,
    start: u64,
    staged: &mut Vec<Staged>,
) -> io::Result<Result<u64, Bad>> {
    let bad = |offset, why, staged: &[Staged]| {
        let records = staged.iter().filter(|s| s.item.kind == ItemKind::Record).count() as u64;
        Ok(Err(Bad { offset, why, records, is_nonsense: false }))
    };
    let Some(commit) = window.get(start, COMMIT_BYTES)?.and_then(|bytes| framing.commit(bytes)) else {
        return bad(start, "no commit begins here", staged);
    };
    if commit.lsn != header.lsn(start) {
        return bad(start, "the commit here belongs elsewhere", staged);
    }
    let mut at = start + COMMIT_BYTES as u64;
    let end = at + commit.bytes as u64;
    for _ in 0..commit.items {
        let Some(item) = window.get(at, ITEM_HEADER_BYTES)?.and_then(Item::parse) else {
            return bad(at, "a record is cut off", staged);
        };
        if item.kind == ItemKind::Commit || at + item.bytes() as u64 > end {
            return bad(at, "a record's length or kind is damaged", staged);
        }
        let Some(bytes) = window.get(at, item.bytes())? else {
            return bad(at, "a record is cut off", staged);
        };
        if !framing.holds(bytes) {
            return bad(at, "a record's checksum does not hold", staged);
        }
        let name = (item.kind == ItemKind::Name)
            .then(|| {
                std::str::from_utf8(&bytes[ITEM_HEADER_BYTES..]).ok().and_then(|n| StreamName::new(n).ok())
            })
            .flatten();
        staged.push(Staged { item, offset: at, name });
        at += item.bytes() as u64;
    }
    match at == end {
        true => Ok(Ok(end)),
        false => bad(at, "a commit is longer than its records", staged),
    }
}

impl Scan {
    fn apply(&mut self, header: Header, staged: &mut [Staged]) -> Result<(), Bad> {
        for Staged { item, offset, name } in staged {
            let nonsense = |why| Bad { offset: *offset, why, records: 0, is_nonsense: true };
            let known = self.streams.get_mut(&item.stream);
            match (item.kind, known, name.take()) {
                (ItemKind::Name, None, Some(name)) if (item.stream as usize) < STREAMS_MAX => {
                    let (first, next) = (item.position, item.position);
                    self.streams
                        .insert(item.stream, ScannedStream { name, first, next, extents: Vec::new() });
                }
                (ItemKind::Name, Some(known), Some(name))
                    if known.name == name && known.next == item.position => {}
                (ItemKind::Record, Some(known), _) if known.next == item.position => {
                    let lsn = header.lsn(*offset);
                    if known.extents.last().is_none_or(|last| lsn - last.lsn > SPARSE_BYTES) {
                        known.extents.push(Extent { position: item.position, lsn });
                    }
                    known.next += 1;
                    self.records += 1;
                }
                (ItemKind::Record, Some(_), _) => {
                    return Err(nonsense("a stream's positions do not follow on"));
                }
                _ => return Err(nonsense("a stream is named wrongly or not at all")),
            }
        }
        Ok(())
    }
}

/// Whether a whole commit begins anywhere after `start`: then everything before it, `start` too, was durable.
pub(crate) fn has_later_commit(
    file: &File,
    header: Header,
    framing: Framing,
    start: u64,
) -> io::Result<Option<u64>> {
    let mut window = Window::new(file, CHUNK_BYTES);
    let size = file.metadata()?.len();
    let mut at = start + 1;
    while at + COMMIT_BYTES as u64 <= size {
        let len = (CHUNK_BYTES as u64).min(size - at) as usize;
        let Some(bytes) = window.get(at, len)? else { break };
        for i in 0..=len - COMMIT_BYTES {
            let lsn = header.lsn(at + i as u64);
            let may_be =
                u64_at(bytes, i + 12) == Some(lsn) && u32_at(bytes, i + 8).is_some_and(|tag| tag >> 30 == 2);
            if may_be && framing.commit(&bytes[i..]).is_some() {
                return Ok(Some(at + i as u64));
            }
        }
        at += (len - COMMIT_BYTES) as u64 + 1;
    }
    Ok(None)
}
