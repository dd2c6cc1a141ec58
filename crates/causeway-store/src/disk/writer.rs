//! The one writer: takes whatever waits, commits it with one write and one fdatasync, shows it, answers.
//!
//! In:    [`Job`]s from the queue.     Out: bytes in the log; answers, the index and the followers once they are durable.
//! Owner: the thread `store.writer`; it holds the directory's lock to its end.
//! Invariant: answers are given after fdatasync and never before, refusals of the same commit too; a write that did not
//!            fit leaves nothing behind; after a failed write or fdatasync nothing is written ever again.
//! Not here: the order of arrival (`queue.rs`), framing (`frame.rs`), files (`segment.rs`).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::Clock;
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::batch::{Batch, Committed};
use crate::error::{Error, Kind};
use crate::faults::Write;
use crate::frame::{Framing, ItemKind};
use crate::limits::{COMMIT_BYTES_MAX, STREAMS_MAX};
use crate::name::{Position, StreamName};
use crate::options::Options;

use super::index::{Extent, SPARSE_BYTES, Stream};
use super::lock::Lock;
use super::queue::{Job, Outcome, Woken};
use super::recover::Tail;
use super::segment::{self, HEADER_BYTES, Header};
use super::shared::Shared;

/// When the log has been quiet for this long, an empty commit marks its end as durable, so that damage to the last real
/// commit can be told from a torn tail. Under load the next commit does that.
const MARK_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    shared: Arc<Shared>,
    options: Options,
    framing: Framing,
    file: File,
    header: Header,
    /// The log's end; durable.
    end: u64,
    is_marked: bool,
    lines: Vec<Line>,
    names: HashMap<StreamName, u32>,
    draft: Draft,
    clock: Clock,
    _lock: Lock,
}

/// A stream as the writer knows it: `next` and `last` run ahead of what is durable while a commit is drafted.
struct Line {
    stream: Arc<Stream>,
    next: u64,
    last: Option<Extent>,
    /// The segment that knows this stream's name, plus one; 0: none that is open.
    named_in: u64,
    /// The commit that touched it last, and the batch that did.
    touched_by: u64,
    batch: u64,
}

/// The commit in the making. Its vectors are kept from one commit to the next.
#[derive(Default)]
struct Draft {
    number: u64,
    batch: u64,
    bytes: Vec<u8>,
    items: u32,
    records: u64,
    touched: Vec<u32>,
    extents: Vec<(u32, Extent)>,
    answers: Vec<(oneshot::Sender<Outcome>, Outcome)>,
}

/// Why a commit did not become durable.
enum Trouble {
    /// No space, or no file handle to be had now; nothing of it is left in the log.
    Refused(Kind, io::Error),
    /// The disk cannot be trusted.
    Fatal(&'static str, io::Error),
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Options,
        framing: Framing,
        tail: Tail,
        lock: Lock,
    ) -> Self {
        let mut streams = shared.index.all();
        streams.sort_by_key(|stream| stream.id);
        let mut writer = Writer {
            shared,
            options,
            framing,
            file: tail.file,
            header: tail.header,
            end: tail.end,
            is_marked: tail.is_marked,
            lines: Vec::new(),
            names: HashMap::new(),
            draft: Draft::default(),
            clock: Clock::system(),
            _lock: lock,
        };
        for stream in streams {
            // Ids that a recycled segment took along stay unused: a nameless line keeps their place.
            while writer.lines.len() < stream.id as usize {
                let id = writer.lines.len() as u32;
                writer.lines.push(Line::new(Arc::new(Stream::new(stream.name.clone(), id, 0, Vec::new()))));
            }
            writer.names.insert(stream.name.clone(), stream.id);
            writer.lines.push(Line::new(stream));
        }
        writer
    }

    /// The thread's whole life.
    pub(super) fn run(self) {
        let ending = Ending { shared: self.shared.clone() };
        let mut writer = self; // Declared after `ending`, so that the lock is free before the end is told.
        let failure = writer.serve().err();
        drop(writer);
        ending.shared.life.end(failure.unwrap_or_else(Error::closed));
    }

    fn serve(&mut self) -> Result<(), Error> {
        let mut waiting: Vec<Job> = Vec::new();
        loop {
            let idle = (!self.is_marked).then_some(MARK_AFTER);
            match self.shared.queue.take(&mut waiting, idle) {
                Woken::Work => self.work(&mut waiting)?,
                Woken::Idle => self.mark()?,
                Woken::Closed => return self.mark(),
            }
        }
    }

    /// Commits all that waits, in commits of bounded size.
    fn work(&mut self, waiting: &mut Vec<Job>) -> Result<(), Error> {
        let mut jobs = std::mem::take(waiting).into_iter().peekable();
        while jobs.peek().is_some() {
            let mut size = 0;
            self.draft.begin(self.framing);
            let mut group = Vec::new();
            while let Some(job) = jobs.next_if(|job| size == 0 || size + job.size <= COMMIT_BYTES_MAX) {
                size += job.size;
                group.push(job);
            }
            if let Err(error) = self.commit(group, size) {
                for job in jobs {
                    let _ = job.answer.send(Err(error.clone()));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// One commit: nobody is answered before it is known whether it is durable.
    fn commit(&mut self, group: Vec<Job>, size: usize) -> Result<(), Error> {
        let rolled = self.roll(size);
        for Job { batch, answer, .. } in group {
            let outcome = self.draft(batch);
            self.draft.answers.push((answer, outcome));
        }
        let written = rolled.and_then(|()| match self.draft.items {
            0 => Ok(()),
            _ => self.put(),
        });
        match written {
            Ok(()) => {
                self.show();
                self.answer(None);
                Ok(())
            }
            Err(Trouble::Refused(kind, e)) => {
                self.shared.metrics.full.inc();
                self.take_back();
                let doing = format!("no room for the log in {}", self.shared.dir.display());
                self.answer(Some(Error::io(kind, doing, e)));
                Ok(())
            }
            Err(Trouble::Fatal(what, e)) => {
                let doing = format!(
                    "{what} of {} failed: the store stops, what is durable is known after a restart",
                    segment::path(&self.shared.dir, self.header.number).display()
                );
                let error = self.shared.life.end(Error::io(Kind::Failed, doing, e));
                tracing::error!(%error, "the store has failed");
                self.answer(Some(error.clone()));
                Err(error)
            }
        }
    }

    /// Checks one batch against the streams' lengths, those of the draft counted, and frames it.
    fn draft(&mut self, batch: Batch) -> Outcome {
        for (stream, expected) in &batch.expected {
            let actual = self.names.get(stream).map_or(0, |id| self.lines[*id as usize].next);
            if actual != expected.get() {
                self.shared.metrics.conflicts.inc();
                return Err(Error::conflict(stream, *expected, Position::new(actual)));
            }
        }
        self.draft.batch += 1;
        let mut committed = Committed::default();
        let mut ids = Vec::with_capacity(batch.records.len());
        for (stream, _) in &batch.records {
            ids.push(self.id(stream)?);
        }
        for ((stream, bytes), id) in batch.records.into_iter().zip(ids) {
            let position = self.record(id, &bytes);
            // Not `committed.first(..)`: that would make a batch of many streams quadratic.
            if std::mem::replace(&mut self.lines[id as usize].batch, self.draft.batch) != self.draft.batch {
                committed.firsts.push((stream, Position::new(position)));
            }
        }
        Ok(committed)
    }

    fn id(&mut self, stream: &StreamName) -> Result<u32, Error> {
        if let Some(id) = self.names.get(stream) {
            return Ok(*id);
        }
        if self.lines.len() >= STREAMS_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the store holds {STREAMS_MAX} streams, its bound"),
            ));
        }
        let id = self.lines.len() as u32;
        self.lines.push(Line::new(Arc::new(Stream::new(stream.clone(), id, 0, Vec::new()))));
        self.names.insert(stream.clone(), id);
        Ok(id)
    }

    fn record(&mut self, id: u32, bytes: &[u8]) -> u64 {
        let (line, draft) = (&mut self.lines[id as usize], &mut self.draft);
        let position = line.next;
        if line.named_in != self.header.number + 1 {
            line.named_in = self.header.number + 1;
            self.framing.push(
                &mut draft.bytes,
                ItemKind::Name,
                id,
                position,
                line.stream.name.as_str().as_bytes(),
            );
            draft.items += 1;
        }
        let lsn = self.end + draft.bytes.len() as u64;
        if line.last.is_none_or(|last| last.lsn < self.header.base || lsn - last.lsn > SPARSE_BYTES) {
            let extent = Extent { position, lsn };
            line.last = Some(extent);
            draft.extents.push((id, extent));
        }
        if line.touched_by != draft.number {
            line.touched_by = draft.number;
            draft.touched.push(id);
        }
        self.framing.push(&mut draft.bytes, ItemKind::Record, id, position, bytes);
        draft.items += 1;
        draft.records += 1;
        line.next += 1;
        position
    }

    /// Goes on in a new segment when this one has no room for `size` more bytes.
    fn roll(&mut self, size: usize) -> Result<(), Trouble> {
        let used = HEADER_BYTES + (self.end - self.header.base);
        if used == HEADER_BYTES || used + size as u64 <= self.options.segment_bytes {
            return Ok(());
        }
        let header = Header { key: self.framing.key(), number: self.header.number + 1, base: self.end };
        if self.options.faults.is_full() {
            return Err(Trouble::of("making a segment", io::ErrorKind::StorageFull.into()));
        }
        let file = segment::create(&self.shared.dir, header, self.options.segment_bytes.max(size as u64))
            .map_err(|e| Trouble::of("making the segment after", e))?;
        self.file = file;
        self.header = header;
        self.shared.reader.add(header);
        self.shared.metrics.segments.inc();
        Ok(())
    }

    /// Writes the draft and makes it durable.
    fn put(&mut self) -> Result<(), Trouble> {
        self.framing.finish(&mut self.draft.bytes, self.end, self.draft.items);
        let offset = self.header.offset(self.end);
        let bytes = &self.draft.bytes;
        let written = match self.options.faults.on_write() {
            Write::Go => self.file.write_all_at(bytes, offset),
            Write::Full(after) => self
                .file
                .write_all_at(&bytes[..after.min(bytes.len())], offset)
                .and(Err(io::ErrorKind::StorageFull.into())),
        };
        if let Err(e) = written {
            let trouble = Trouble::of("a write", e);
            // What got written of it must not stay: a later, shorter commit would not cover it.
            return match (trouble, self.file.set_len(offset)) {
                (Trouble::Refused(..), Err(e)) => {
                    Err(Trouble::Fatal("cutting an unfinished write off the end", e))
                }
                (trouble, _) => Err(trouble),
            };
        }
        let began = self.clock.instant();
        let (is_broken, takes) = self.options.faults.on_sync();
        if takes > Duration::ZERO {
            std::thread::sleep(takes);
        }
        let synced = match is_broken {
            true => Err(io::Error::other("told to fail")),
            false => self.file.sync_data(),
        };
        synced.map_err(|e| Trouble::Fatal("fdatasync", e))?;
        self.shared.metrics.fdatasync_seconds.observe(began.elapsed().as_secs_f64());
        self.end += self.draft.bytes.len() as u64;
        self.is_marked = self.draft.items == 0;
        Ok(())
    }

    /// The draft is durable: readers and followers may see it.
    fn show(&mut self) {
        let (draft, lines, shared) = (&mut self.draft, &mut self.lines, &self.shared);
        if draft.items == 0 {
            return;
        }
        for (id, extent) in draft.extents.drain(..) {
            lines[id as usize].stream.push([extent]);
        }
        for id in &draft.touched {
            let line = &lines[*id as usize];
            let is_new = line.stream.next() == 0;
            line.stream.show(line.next);
            if is_new {
                shared.index.insert(line.stream.clone());
                shared.metrics.streams.inc();
            }
        }
        let lengths = draft.touched.iter().map(|id| &lines[*id as usize]);
        shared.followers.publish(lengths.map(|line| (&line.stream.name, Position::new(line.next))));
        shared.metrics.commits.inc();
        shared.metrics.records.inc_by(draft.records);
        shared.metrics.bytes.inc_by(draft.bytes.len() as u64);
    }

    /// The draft is nowhere: the lines go back to what is durable.
    fn take_back(&mut self) {
        for id in &self.draft.touched {
            let line = &mut self.lines[*id as usize];
            line.next = line.stream.next();
            line.last = line.stream.last();
            line.named_in = 0;
        }
    }

    /// Answers everyone of this commit: as drafted, or all with `error`.
    fn answer(&mut self, error: Option<Error>) {
        let mut batches = 0;
        for (answer, outcome) in self.draft.answers.drain(..) {
            let outcome = error.clone().map_or(outcome, Err);
            batches += u64::from(outcome.is_ok());
            let _ = answer.send(outcome); // An error means that nobody waits for it any more.
        }
        self.shared.metrics.batches.inc_by(batches);
    }

    /// Marks the end as durable. No space for the mark is no harm.
    fn mark(&mut self) -> Result<(), Error> {
        if self.is_marked || self.end == self.header.base {
            self.is_marked = true;
            return Ok(());
        }
        self.draft.begin(self.framing);
        match self.put() {
            Ok(()) => Ok(()),
            Err(Trouble::Refused(..)) => {
                self.is_marked = true;
                Ok(())
            }
            Err(Trouble::Fatal(what, e)) => {
                let error = Error::io(Kind::Failed, format!("{what} of the log's end mark failed"), e);
                Err(self.shared.life.end(error))
            }
        }
    }
}

// === impl Ending, Line, Draft, Trouble ===

/// Tells everyone that the thread is gone, also when it panicked: nobody waits for an answer that cannot come.
struct Ending {
    shared: Arc<Shared>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.life.end(Error::new(Kind::Failed, "the store's writer thread panicked"));
        }
        let ended = self.shared.life.end(Error::closed());
        self.shared.queue.close(ended.clone());
        let mut waiting = Vec::new();
        self.shared.queue.take(&mut waiting, None);
        for job in waiting {
            let _ = job.answer.send(Err(ended.clone())); // An error means that nobody waits for it any more.
        }
        self.shared.followers.close();
        self.shared.has_ended.send_replace(true);
    }
}

impl Line {
    fn new(stream: Arc<Stream>) -> Self {
        Line { next: stream.next(), last: stream.last(), stream, named_in: 0, touched_by: 0, batch: 0 }
    }
}

impl Draft {
    fn begin(&mut self, framing: Framing) {
        self.bytes.shrink_to(2 * COMMIT_BYTES_MAX); // One giant batch must not keep its memory for ever.
        framing.begin(&mut self.bytes);
        self.number += 1;
        (self.items, self.records) = (0, 0);
        self.touched.clear();
        self.extents.clear();
    }
}

impl Trouble {
    fn of(what: &'static str, e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::Refused(Kind::Full, e),
            // The process is out of file handles: the proxy beside us may give some back.
            _ if matches!(Errno::from_io_error(&e), Some(Errno::MFILE | Errno::NFILE)) => {
                Trouble::Refused(Kind::Busy, e)
            }
            _ => Trouble::Fatal(what, e),
        }
    }
}
