//! A journal of JSON lines that several copies of a program share: each change is one line, written under a file lock and
//! synced before it is answered, so that a copy may be killed at any moment and the books still add up.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A state `S` made of entries `E`. See the [module](self).
#[derive(Debug)]
pub struct Journal<S, E> {
    inner: Mutex<Inner<S>>,
    apply: fn(&mut S, E),
}

#[derive(Debug)]
struct Inner<S> {
    file: File,
    read: u64,
    state: S,
}

impl<S: Default, E: Serialize + DeserializeOwned + Clone> Journal<S, E> {
    /// Opens (or makes) `dir/name.jsonl`; `apply` folds an entry into the state.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(dir: &Path, name: &str, apply: fn(&mut S, E)) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{name}.jsonl"));
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        Ok(Journal { inner: Mutex::new(Inner { file, read: 0, state: S::default() }), apply })
    }

    /// One change: `decide` sees the state with every copy's entries in it and says what to add (if anything) and what to
    /// answer. The entry is on disk when this returns. Blocks: call it where blocking is allowed.
    ///
    /// # Errors
    /// Those of the file system; then nothing was decided.
    pub fn change<T>(&self, decide: impl FnOnce(&S) -> (Option<E>, T)) -> io::Result<T> {
        let mut inner = self.inner.lock().expect("a panic while holding the journal is a bug of the shop");
        let inner = &mut *inner;
        flock(&inner.file, FlockOperation::LockExclusive)?;
        let outcome = Self::locked(inner, self.apply, decide);
        flock(&inner.file, FlockOperation::Unlock)?;
        outcome
    }

    /// Looks at the state with every copy's entries in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn look<T>(&self, look: impl FnOnce(&S) -> T) -> io::Result<T> {
        self.change(|state| (None, look(state)))
    }

    fn locked<T>(
        inner: &mut Inner<S>,
        apply: fn(&mut S, E),
        decide: impl FnOnce(&S) -> (Option<E>, T),
    ) -> io::Result<T> {
        inner.catch_up(apply)?;
        let (entry, answer) = decide(&inner.state);
        if let Some(entry) = entry {
            let mut line = serde_json::to_vec(&entry)?;
            line.push(b'\n');
            inner.file.write_all(&line)?;
            inner.file.sync_data()?;
            inner.read += line.len() as u64;
            apply(&mut inner.state, entry);
        }
        Ok(answer)
    }
}

impl<S> Inner<S> {
    /// Reads what other copies wrote. A last line without an end is one that a killed copy did not finish: cut off.
    fn catch_up<E: DeserializeOwned>(&mut self, apply: fn(&mut S, E)) -> io::Result<()> {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(self.read))?;
        self.file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            self.file.set_len(self.read + whole as u64)?;
        }
        for line in text[..whole].lines() {
            apply(&mut self.state, serde_json::from_str(line)?);
        }
        self.read += whole as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_copies_share_one_truth_and_a_torn_line_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Journal::<u64, u64>::open(dir.path(), "sum", |sum, n| *sum += n).unwrap();
        let (one, two) = (open(), open());
        one.change(|_| (Some(5), ())).unwrap();
        two.change(|sum| (Some(*sum), ())).unwrap();
        assert_eq!(one.look(|sum| *sum).unwrap(), 10);
        let path = dir.path().join("sum.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"99").unwrap();
        assert_eq!(two.change(|sum| (Some(1), *sum)).unwrap(), 10);
        assert_eq!(open().look(|sum| *sum).unwrap(), 11);
    }
}
