//! Reads records back: finds the place in the index, reads around it, checks what it returns.
//!
//! In:    a stream and a position.     Out: records whose checksum held, or `Corrupt` with file and offset.
//! Owner: any number of readers at once; none of them waits for the writer.
//! Invariant: nothing past the stream's shown length is looked at; what does not check is an error, never skipped.
//! Not here: the index (`index.rs`).

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::batch::{Limit, Record};
use crate::error::{Error, Kind};
use crate::frame::{Framing, ITEM_HEADER_BYTES, Item, ItemKind};
use crate::name::Position;

use super::index::{SPARSE_BYTES, Stream};
use super::segment::{self, HEADER_BYTES, Header, Window, corrupt};

/// Most files kept open for reading: 64 segments are 4 GiB of log, what lies before is opened again when it is read.
const OPEN_FILES_MAX: usize = 64;

/// Bytes read at a time, at most: beyond this, larger reads are not faster.
const CHUNK_BYTES_MAX: usize = 256 << 10;

pub(super) struct Reader {
    dir: PathBuf,
    framing: Framing,
    segments: RwLock<Vec<Header>>,
    files: Mutex<VecDeque<(u64, Arc<File>)>>,
}

impl Reader {
    pub(super) fn new(dir: &Path, framing: Framing, segments: Vec<Header>) -> Self {
        Reader { dir: dir.to_owned(), framing, segments: RwLock::new(segments), files: Mutex::default() }
    }

    /// The writer made a segment.
    pub(super) fn add(&self, header: Header) {
        self.segments.write().push(header);
    }

    pub(super) fn read(&self, stream: &Stream, from: u64, limit: Limit) -> Result<Vec<Record>, Error> {
        let next = stream.next();
        let mut found = Vec::new();
        let (mut position, mut total) = (from, 0);
        let chunk = limit.bytes.saturating_add(SPARSE_BYTES as usize).min(CHUNK_BYTES_MAX);
        let mut is_done = limit.records == 0;
        while position < next && !is_done {
            let (first, _) = self.extent(stream, position)?;
            let header = self.segment_of(first.lsn)?;
            let file = self.file(header.number)?;
            let mut window = Window::new(&file, chunk);
            // Stays in this segment, from extent to extent.
            while position < next && !is_done {
                let (extent, until) = self.extent(stream, position)?;
                if extent.lsn < header.base || self.segment_of(extent.lsn)?.number != header.number {
                    break;
                }
                let mut at = header.offset(extent.lsn);
                let mut walked = extent.position;
                while walked < until.min(next) {
                    let (item, offset) = self.step(&mut window, &header, stream, walked, &mut at)?;
                    walked += 1;
                    if item.position < position {
                        continue;
                    }
                    if !limit.admits(found.len(), total, item.body) {
                        is_done = true;
                        break;
                    }
                    let bytes = self.checked(&mut window, &header, &item, offset)?;
                    total += item.body;
                    found.push(Record { position: Position::new(item.position), bytes });
                    position += 1;
                }
            }
        }
        Ok(found)
    }

    /// Walks to the stream's record `wanted`, from `at` on, and leaves `at` behind it. Returns it and where it is.
    fn step(
        &self,
        window: &mut Window<'_>,
        header: &Header,
        stream: &Stream,
        wanted: u64,
        at: &mut u64,
    ) -> Result<(Item, u64), Error> {
        loop {
            let offset = *at;
            let item = window
                .get(offset, ITEM_HEADER_BYTES)
                .map_err(|e| self.unreadable(header, offset, e))?
                .and_then(Item::parse)
                .ok_or_else(|| self.corrupt(header, offset, "a record is cut off"))?;
            *at += item.bytes() as u64;
            match item.kind == ItemKind::Record && item.stream == stream.id {
                false => {}
                true if item.position == wanted => return Ok((item, offset)),
                true => {
                    return Err(self.corrupt(header, offset, "another record than the index says is here"));
                }
            }
        }
    }

    fn checked(
        &self,
        window: &mut Window<'_>,
        header: &Header,
        item: &Item,
        offset: u64,
    ) -> Result<Bytes, Error> {
        let bytes = window
            .get(offset, item.bytes())
            .map_err(|e| self.unreadable(header, offset, e))?
            .ok_or_else(|| self.corrupt(header, offset, "a record is cut off"))?;
        match self.framing.holds(bytes) {
            true => Ok(Bytes::copy_from_slice(&bytes[ITEM_HEADER_BYTES..])),
            false => Err(self.corrupt(header, offset, "a record's checksum does not hold")),
        }
    }

    fn extent(&self, stream: &Stream, position: u64) -> Result<(super::index::Extent, u64), Error> {
        stream.find(position).ok_or_else(|| {
            let doing = format!("stream {} begins after position {position}", stream.name);
            Error::new(Kind::Corrupt, doing)
        })
    }

    fn segment_of(&self, lsn: u64) -> Result<Header, Error> {
        let segments = self.segments.read();
        let after = segments.partition_point(|header| header.base <= lsn);
        let found = after.checked_sub(1).and_then(|index| segments.get(index).copied());
        found.ok_or_else(|| Error::new(Kind::Corrupt, format!("no segment of the log holds place {lsn}")))
    }

    fn file(&self, number: u64) -> Result<Arc<File>, Error> {
        if let Some((_, file)) = self.files.lock().iter().find(|(open, _)| *open == number) {
            return Ok(file.clone());
        }
        let (file, _) = segment::open(&self.dir, number, false)?;
        let file = Arc::new(file);
        let mut files = self.files.lock();
        files.push_back((number, file.clone()));
        if files.len() > OPEN_FILES_MAX {
            files.pop_front();
        }
        Ok(file)
    }

    fn corrupt(&self, header: &Header, offset: u64, why: &str) -> Error {
        corrupt(&segment::path(&self.dir, header.number), offset.max(HEADER_BYTES), why)
    }

    fn unreadable(&self, header: &Header, offset: u64, e: std::io::Error) -> Error {
        let path = segment::path(&self.dir, header.number);
        Error::io(Kind::Corrupt, format!("cannot read {} at byte {offset}", path.display()), e)
    }
}
