//! What a proxy keeps on disk so that it can restart while the control plane is away: certificate, last picture, its own name and ports.
//!
//! In:    values to keep.      Out: the same after a restart, or nothing when there is none or it is damaged (said in the log).
//! Owner: one `run` or `proxy` process, held by a lock.
//! Invariant: files are mode 0600 in a directory of mode 0700, replaced whole (written beside, synced, renamed).
//! Not here: a node's own data (`causeway-store`).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: PathBuf,
    /// Held as long as the process lives.
    _lock: File,
}

/// What a proxy calls itself and where it listens: the same after a restart, so that others' pictures of it stay true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Self_ {
    /// Instance id.
    pub(crate) instance: String,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

impl StateDir {
    /// Opens (or makes) the directory.
    ///
    /// # Errors
    /// When another process uses it, or it cannot be made.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        // One that was there before may be open to others; what is kept in it is not for them.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot make {} private", dir.display()))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another proxy uses {}; give this one its own --state-dir [CW-2004]", dir.display());
        }
        Ok(StateDir { dir: dir.to_path_buf(), _lock: lock })
    }

    /// Reads a file; `None` when there is none.
    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        match std::fs::read(self.dir.join(name)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = name, %error, "a kept file cannot be read; going on without it");
                None
            }
        }
    }

    /// Replaces a file whole. A failure is said in the log: the proxy works without, but will not survive a restart alone.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        if let Err(error) = self.replace(name, bytes) {
            tracing::warn!(file = name, %error, "a file could not be kept");
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let (path, beside) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&beside, &path)
    }

    pub(crate) fn me(&self) -> Option<Self_> {
        serde_json::from_slice(&self.read("proxy.json")?).ok()
    }

    pub(crate) fn keep_me(&self, me: &Self_) {
        match serde_json::to_vec_pretty(me) {
            Ok(bytes) => self.write("proxy.json", &bytes),
            Err(error) => tracing::warn!(%error, "the proxy's own name could not be kept"),
        }
    }
}

/// Where a proxy keeps its state when nothing is said: `$XDG_STATE_HOME/causeway/…`, `~/.local/state/causeway/…`.
pub(crate) fn default_dir(namespace: &str, what: &str) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    base.unwrap_or_else(std::env::temp_dir).join("causeway").join(format!("{namespace}.{what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_user_and_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("a")).unwrap();
        assert!(StateDir::open(&dir.path().join("a")).unwrap_err().to_string().contains("CW-2004"));
        state.write("x", b"secret");
        assert_eq!(state.read("x").unwrap(), b"secret");
        let mode = std::fs::metadata(dir.path().join("a/x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(state.read("y"), None);
    }
}
