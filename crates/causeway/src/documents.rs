//! Documents in files: found, read, applied, and applied again when they change.
//!
//! In:    `--config` paths.      Out: `Apply` commands to the registry; what is wrong, for the status and the log.
//! Owner: `node` starts one watcher.
//! Invariant: a bad document never takes its neighbours down: the good ones of its file are applied, and a file with problems removes
//! nothing. What a file says is in force at once; what it no longer says goes once it has been silent for [`SETTLE`], in one command with
//! what other files say, so that no way of saving or moving a document makes a gap.
//! Not here: what a document may say (`causeway-spec`), last-good per object (the registry keeps what it has).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_api::sound::sound;
use causeway_base::scope::Failure;
use causeway_base::{Clock, OnFailure, Scope};
use causeway_model::{ObjectKey, Origin};
use causeway_registry::{Answer, AppliedOutcome, Command, Proposed, Prune, Registry};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Endings of files that hold documents.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// Files that `--config` may name, altogether.
const FILES_MAX: usize = 100_000;
/// Change notices that may wait; when more come, one look at everything replaces them.
const NOTICES_MAX: usize = 1024;
/// How often everything is looked at anyway, for file systems that tell nothing.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
/// How long a file must be without a document before it is removed: while it is saved, a file may be empty, half there or absent (an
/// editor moves the old one away first), and a document that moves is for a moment in two files or none.
const SETTLE: Duration = Duration::from_millis(500);
/// Wait before what the registry could not write down is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Objects in one command; the registry takes 10,000.
const OBJECTS_AT_ONCE: usize = 5_000;
/// Bytes of documents in one command; the registry takes 16 MiB of what they become.
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

/// The files with documents at `path`: itself, or those below it, in order.
///
/// # Errors
/// When it is not there or cannot be read.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let kind =
        std::fs::metadata(path).with_context(|| format!("cannot read {} [CW-2001]", path.display()))?;
    if kind.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let (mut found, mut open) = (Vec::new(), vec![path.to_path_buf()]);
    while let Some(dir) = open.pop() {
        let entries =
            std::fs::read_dir(&dir).with_context(|| format!("cannot read {} [CW-2001]", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() && !is_hidden {
                open.push(path);
            } else if !is_hidden && path.extension().is_some_and(|e| ENDINGS.iter().any(|known| e == *known))
            {
                found.push(path);
            }
        }
        if found.len() > FILES_MAX {
            bail!("{} holds more than {FILES_MAX} files with documents [CW-2001]", path.display());
        }
    }
    found.sort();
    Ok(found)
}

/// Reads every document of `paths` into the registry, then watches them. The first reading is done when this returns.
///
/// # Errors
/// A path that is not there. Problems inside documents are no error: they are in the receiver and in the log.
pub(crate) async fn follow(
    paths: Vec<PathBuf>,
    registry: Registry,
    clock: Clock,
    scope: &Scope,
) -> Result<watch::Receiver<Vec<String>>> {
    let (changed, mut notices) = mpsc::channel(NOTICES_MAX);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_a_change(&event.kind)) {
            // Full: a look at everything is due already.
            let _ = changed.try_send(());
        }
    })
    .context("cannot watch files")?;
    for path in &paths {
        // A file is watched through its directory: editors replace files rather than write to them.
        let (target, mode) = match path.is_dir() {
            true => (path.as_path(), RecursiveMode::Recursive),
            false => (
                path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
                RecursiveMode::NonRecursive,
            ),
        };
        watcher.watch(target, mode).with_context(|| format!("cannot watch {}", target.display()))?;
    }
    for path in &paths {
        files(path)?;
    }
    let mut reader = Reader::new(paths, registry, clock);
    let mut next = reader.look().await;
    let (say, problems) = watch::channel(reader.said());
    let stop = scope.cancelled();
    scope.spawn("documents", OnFailure::StopNode, async move {
        let _watcher = watcher;
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok::<(), Failure>(()),
                notice = notices.recv() => if notice.is_none() { return Ok(()) },
                () = tokio::time::sleep(next) => {}
            }
            while notices.try_recv().is_ok() {}
            next = reader.look().await;
            let said = reader.said();
            say.send_if_modified(|old| std::mem::replace(old, said.clone()) != said);
        }
    });
    Ok(problems)
}

/// Whether a notice means that a file may say something new. A write that goes on is not one: its end is.
fn is_a_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Create(_) => true,
        EventKind::Modify(kind) => matches!(kind, ModifyKind::Name(_)),
        _ => false,
    }
}

struct Reader {
    paths: Vec<PathBuf>,
    registry: Registry,
    clock: Clock,
    files: BTreeMap<PathBuf, File>,
    /// Whether nothing was read yet.
    is_new: bool,
    /// What could not be looked at the last time; what was read there stays.
    unread: Vec<String>,
}

/// One file, as it was read last.
#[derive(Default)]
struct File {
    /// Empty when it is gone.
    text: String,
    /// Since when it says that.
    since: Option<Instant>,
    objects: Vec<Proposed>,
    /// What is wrong in the text itself; while there is anything, the file removes nothing.
    flaws: Vec<String>,
    /// What the registry refused.
    refused: Vec<String>,
    /// Whether the registry knows what the file says.
    is_applied: bool,
    /// Whether the registry knows what the file no longer says.
    is_settled: bool,
}

impl File {
    fn read(path: &Path, text: String, now: Instant) -> Self {
        let name = path.display().to_string();
        let parsed = causeway_spec::parse(&name, &text);
        let warnings = parsed.problems.iter().filter(|problem| problem.is_warning());
        warnings.for_each(|warning| tracing::warn!(%warning, "a document says something without effect"));
        let errors = parsed.problems.iter().filter(|problem| !problem.is_warning());
        let mut flaws: Vec<String> = errors.map(ToString::to_string).collect();
        let (documents, unsound) = sound(parsed.documents);
        flaws.extend(unsound);
        let objects = documents.into_iter().map(|document| Proposed {
            key: document.key,
            origin: Origin::File { path: name.clone(), line: document.place.line },
            spec: document.spec,
            written: document.written,
        });
        let objects = objects.collect();
        File { text, since: Some(now), objects, flaws, ..File::default() }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.is_settled && self.since.is_none_or(|since| now >= since + SETTLE)
    }
}

impl Reader {
    fn new(paths: Vec<PathBuf>, registry: Registry, clock: Clock) -> Self {
        // Files of an earlier run that are gone now, or are called otherwise, say nothing any more.
        let of_files = registry.snapshot();
        let of_files = of_files.objects().filter_map(|object| match &object.origin {
            Origin::File { path, .. } => Some((PathBuf::from(path), File::default())),
            _ => None,
        });
        let files = of_files.collect();
        Reader { paths, registry, clock, files, is_new: true, unread: Vec::new() }
    }

    /// Reads what is new and applies what is due; gives the wait until something else is.
    async fn look(&mut self) -> Duration {
        let now = self.clock.instant();
        self.read(now);
        let is_news = self.files.values().any(|file| !file.is_applied || file.is_due(now));
        let is_known = !is_news || self.apply(now).await;
        self.files.retain(|_, file| !(file.is_settled && file.text.is_empty()));
        let settles =
            self.files.values().filter(|file| !file.is_settled).filter_map(|file| Some(file.since? + SETTLE));
        let wait = settles.min().map_or(LOOK_ANYWAY, |at| at.saturating_duration_since(now));
        if is_known { wait } else { TRY_AGAIN }
    }

    fn read(&mut self, now: Instant) {
        let (mut found, mut unread, mut unreadable) = (BTreeMap::new(), Vec::new(), Vec::new());
        for path in &self.paths {
            match files(path) {
                Ok(files) => found.extend(files.into_iter().map(|file| (file, ()))),
                Err(error) => {
                    unread.push(format!("{error:#}"));
                    unreadable.push(path.clone());
                }
            }
        }
        let is_first = std::mem::take(&mut self.is_new);
        let mut texts = BTreeMap::new();
        for (path, ()) in found {
            match std::fs::read_to_string(&path) {
                Ok(text) => drop(texts.insert(path, text)),
                // Gone between the listing and the reading.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    unread.push(format!("cannot read {}: {error} [CW-2001]", path.display()));
                    unreadable.push(path);
                }
            }
        }
        for (path, file) in &mut self.files {
            if unreadable.iter().any(|below| path.starts_with(below)) {
                // What it said in an earlier run stays, as what it said in this one does.
                file.is_applied |= is_first;
                file.is_settled |= is_first;
            } else if !texts.contains_key(path) && !file.text.is_empty() {
                *file = File { since: Some(now), ..File::default() };
            }
        }
        for (path, text) in texts {
            let known = self.files.get(&path).filter(|file| file.since.is_some());
            if known.is_none_or(|file| file.text != text) {
                let mut file = File::read(&path, text, now);
                for flaw in &file.flaws {
                    tracing::error!(problem = flaw, "a document is not used as written");
                }
                // At the start nothing is being saved under our eyes, and what moved meanwhile moves at once.
                if is_first {
                    file.since = now.checked_sub(SETTLE);
                }
                self.files.insert(path, file);
            }
        }
        for problem in unread.iter().filter(|problem| !self.unread.contains(problem)) {
            tracing::error!(problem, "a file cannot be looked at; what was read stays");
        }
        self.unread = unread;
    }

    /// Says to the registry what is new, and what is gone from files that are due; whether the registry took it.
    async fn apply(&mut self, now: Instant) -> bool {
        let due: Vec<PathBuf> =
            self.files.iter().filter(|(_, file)| file.is_due(now)).map(|(path, _)| path.clone()).collect();
        let prune = |path: &PathBuf, file: &File| Prune {
            path: path.display().to_string(),
            keep: file.objects.iter().map(|object| object.key.clone()).collect(),
        };
        let prune: Vec<Prune> = due
            .iter()
            .filter_map(|path| Some(prune(path, self.files.get(path).filter(|file| file.flaws.is_empty())?)))
            .collect();
        // A document that was refused may be taken now that its other place lets it go.
        let said = self.files.iter().filter(|(_, file)| !file.is_settled || !file.refused.is_empty());
        let said: Vec<PathBuf> = said.map(|(path, _)| path.clone()).collect();
        let all: Vec<Proposed> = said.iter().flat_map(|path| &self.files[path].objects).cloned().collect();

        let mut refused: BTreeMap<ObjectKey, Vec<(String, String)>> = BTreeMap::new();
        for part in parts(all) {
            let asked: Vec<Origin> = part.iter().map(|object| object.origin.clone()).collect();
            let command = Command::Apply { objects: part, is_dry_run: false, prune: prune.clone() };
            match self.registry.submit(command).await {
                Ok(answer) => note(&answer, asked, &mut refused),
                Err(error) => {
                    let problem =
                        format!("what files say could not be written down; it is tried again: {error}");
                    tracing::error!(problem, "a change of the configuration is not in force");
                    self.unread.push(problem);
                    return false;
                }
            }
        }
        for path in said {
            let name = path.display().to_string();
            let Some(file) = self.files.get_mut(&path) else { continue };
            let of_file = refused.values().flatten().filter(|(by, _)| *by == name);
            let refused: Vec<String> = of_file.map(|(_, problem)| problem.clone()).collect();
            file.is_applied = true;
            file.is_settled |= file.is_due(now);
            // Until then its other place may only not have been saved yet.
            if file.is_settled {
                for problem in refused.iter().filter(|problem| !file.refused.contains(problem)) {
                    tracing::error!(problem, "a document is not used as written");
                }
            }
            file.refused = refused;
        }
        true
    }

    fn said(&self) -> Vec<String> {
        let of_file = |file: &File| match file.is_settled {
            true => [file.flaws.as_slice(), &file.refused].concat(),
            false => file.flaws.clone(),
        };
        self.unread.iter().cloned().chain(self.files.values().flat_map(of_file)).collect()
    }
}

/// Commands' worth of objects; one empty one when there is none.
fn parts(all: Vec<Proposed>) -> Vec<Vec<Proposed>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for object in all {
        bytes += object.written.len();
        let last = parts.last_mut().filter(|part| part.len() < OBJECTS_AT_ONCE && bytes <= BYTES_AT_ONCE);
        match last {
            Some(part) => part.push(object),
            None => {
                bytes = object.written.len();
                parts.push(vec![object]);
            }
        }
    }
    parts
}

fn note(answer: &Answer, asked: Vec<Origin>, refused: &mut BTreeMap<ObjectKey, Vec<(String, String)>>) {
    for (applied, origin) in answer.objects.iter().zip(asked) {
        if let (AppliedOutcome::Refused(error), Origin::File { path, .. }) = (&applied.outcome, origin) {
            let problem = format!("{path}: {error}");
            refused.entry(applied.key.clone()).or_default().push((path, problem));
        }
    }
}

#[cfg(test)]
mod tests;
