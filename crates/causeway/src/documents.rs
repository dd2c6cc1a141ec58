//! Documents in files: found, read, applied, and applied again when they change.
//!
//! In:    `--config` paths.      Out: `Apply` commands to the registry; what is wrong, for the status and the log.
//! Owner: `node` starts one watcher.
//! Invariant: a bad document never takes its neighbours down: the good ones of its file are applied, and a file with problems removes nothing.
//! Not here: what a document may say (`causeway-spec`), last-good per object (the registry keeps what it has).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_base::scope::Failure;
use causeway_base::{OnFailure, Scope};
use causeway_model::Origin;
use causeway_registry::{AppliedOutcome, Command, Proposed, Prune, Registry};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

/// Endings of files that hold documents.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// Files that `--config` may name, altogether.
const FILES_MAX: usize = 100_000;
/// Change notices that may wait; when more come, one look at everything replaces them.
const NOTICES_MAX: usize = 1024;
/// How often everything is looked at anyway, for file systems that tell nothing.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

/// The files with documents at `path`: itself, or those below it, in order.
///
/// # Errors
/// When it is not there or cannot be read.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let kind = std::fs::metadata(path).with_context(|| format!("cannot read {} [CW-2001]", path.display()))?;
    if kind.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let (mut found, mut open) = (Vec::new(), vec![path.to_path_buf()]);
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {} [CW-2001]", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() && !is_hidden {
                open.push(path);
            } else if !is_hidden && path.extension().is_some_and(|e| ENDINGS.iter().any(|known| e == *known)) {
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
pub(crate) async fn follow(paths: Vec<PathBuf>, registry: Registry, scope: &Scope) -> Result<watch::Receiver<Vec<String>>> {
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
            false => (path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")), RecursiveMode::NonRecursive),
        };
        watcher.watch(target, mode).with_context(|| format!("cannot watch {}", target.display()))?;
    }
    let mut reader = Reader { paths, registry, seen: BTreeMap::new(), problems: BTreeMap::new() };
    reader.look().await?;
    let (say, problems) = watch::channel(reader.said());
    let stop = scope.cancelled();
    scope.spawn("documents", OnFailure::StopNode, async move {
        let _watcher = watcher;
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok::<(), Failure>(()),
                notice = notices.recv() => if notice.is_none() { return Ok(()) },
                () = tokio::time::sleep(LOOK_ANYWAY) => {}
            }
            while notices.try_recv().is_ok() {}
            if let Err(error) = reader.look().await {
                tracing::warn!(error = format!("{error:#}"), "cannot look at the configuration's files; what was read stays");
            }
            let said = reader.said();
            say.send_if_modified(|old| std::mem::replace(old, said.clone()) != said);
        }
    });
    Ok(problems)
}

/// Whether a notice means that a file may say something new. A write that goes on is not one: its end is.
fn is_a_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) | EventKind::Create(_) => true,
        EventKind::Modify(kind) => matches!(kind, ModifyKind::Name(_)),
        _ => false,
    }
}

struct Reader {
    paths: Vec<PathBuf>,
    registry: Registry,
    /// What each file said when it was last applied.
    seen: BTreeMap<PathBuf, String>,
    problems: BTreeMap<PathBuf, Vec<String>>,
}

impl Reader {
    /// Applies every file whose text is new, and removes what came from files that are gone.
    async fn look(&mut self) -> Result<()> {
        let mut found = BTreeMap::new();
        for path in self.paths.clone() {
            for file in files(&path)? {
                match std::fs::read_to_string(&file) {
                    Ok(text) => drop(found.insert(file, text)),
                    // Gone between the listing and the reading: the next look sees it.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
                }
            }
        }
        let gone: Vec<PathBuf> = self.seen.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        for path in gone {
            self.seen.remove(&path);
            self.problems.remove(&path);
            self.apply(&path, "").await;
        }
        for (path, text) in found {
            if self.seen.get(&path) != Some(&text) {
                self.apply(&path, &text).await;
                self.seen.insert(path, text);
            }
        }
        Ok(())
    }

    async fn apply(&mut self, path: &Path, text: &str) {
        let name = path.display().to_string();
        let parsed = causeway_spec::parse(&name, text);
        let has_errors = parsed.has_errors();
        let mut problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
        let objects = parsed.documents.into_iter().map(|document| Proposed {
            key: document.key,
            origin: Origin::File { path: name.clone(), line: document.place.line },
            spec: document.spec,
            written: document.written,
        });
        let prune = if has_errors { vec![] } else { vec![Prune { path: name.clone(), keep: vec![] }] };
        let command = Command::Apply { objects: objects.collect(), is_dry_run: false, prune };
        match self.registry.submit(command).await {
            Ok(answer) => problems.extend(answer.objects.iter().filter_map(|applied| match &applied.outcome {
                AppliedOutcome::Refused(error) => Some(format!("{name}: {error}")),
                _ => None,
            })),
            Err(error) => problems.push(format!("{name}: {error}")),
        }
        for problem in &problems {
            tracing::error!(problem, "a document is not used as written");
        }
        self.problems.insert(path.to_path_buf(), problems);
    }

    fn said(&self) -> Vec<String> {
        self.problems.values().flatten().cloned().collect()
    }
}
