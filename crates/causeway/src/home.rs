//! A node's data directory: the log, the authorities' keys, and what its revisions count in.
//!
//! In:    `--data-dir`.      Out: paths, the CA (made at the first start), the lineage.
//! Owner: one node; the log's lock file keeps others out.
//! Invariant: keys are mode 0600 in a directory of mode 0700; nothing is ever made anew where something unreadable lies.
//! Not here: the log (`causeway-store`), signing (`causeway-identity`).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use causeway_base::{Clock, Seed};
use causeway_identity::{Authorities, CertAuthority};
use causeway_model::TrustDomain;

/// See the [module](self).
pub(crate) struct Home {
    dir: PathBuf,
}

impl Home {
    /// Opens (or makes) the directory.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        for dir in [dir.to_path_buf(), dir.join("ca")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.with_context(|| format!("cannot make the data directory {} [CW-2010]", dir.display()))?;
        }
        Ok(Home { dir: dir.to_path_buf() })
    }

    /// Where the log lies.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// What revisions count in: made once, the same for the life of the directory.
    pub(crate) fn lineage(&self) -> Result<String> {
        let path = self.dir.join("lineage");
        if let Ok(text) = std::fs::read_to_string(&path) {
            return Ok(text.trim().to_owned());
        }
        let lineage = format!("{:016x}", Seed::from_entropy().u64());
        self.keep("lineage", &lineage)?;
        Ok(lineage)
    }

    /// The authorities; a first one is made when there is none.
    pub(crate) fn authorities(&self, trust_domain: &TrustDomain, clock: &Clock) -> Result<Authorities> {
        let now = clock.now().into();
        let mut all = Vec::new();
        for entry in
            std::fs::read_dir(self.dir.join("ca")).context("cannot read the CA's directory [CW-2010]")?
        {
            let certificate = entry?.path();
            if certificate.extension().is_some_and(|e| e == "crt") {
                let read = |path: &Path| {
                    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
                };
                all.push(CertAuthority::from_pem(
                    &read(&certificate)?,
                    &read(&certificate.with_extension("key"))?,
                )?);
            }
        }
        if all.is_empty() {
            let first = CertAuthority::generate(trust_domain, now);
            self.keep_authority(&first)?;
            all.push(first);
        }
        let mut authorities = Authorities::new(all)?;
        if authorities.all()[0].trust_domain() != trust_domain {
            let (has, wanted) = (authorities.all()[0].trust_domain().as_str(), trust_domain.as_str());
            bail!(
                "{} is for trust domain {has:?}, not {wanted:?}: a data directory keeps its own [CW-2011]",
                self.dir.display()
            );
        }
        if authorities.wants_successor(now) {
            let successor = CertAuthority::generate(trust_domain, now);
            self.keep_authority(&successor)?;
            authorities.add(successor, now)?;
        }
        Ok(authorities)
    }

    fn keep_authority(&self, authority: &CertAuthority) -> Result<()> {
        let (certificate, key) = authority.to_pem();
        let name: String = authority.root_sha256()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        // The key first: a certificate without its key would stop the next start.
        self.keep(&format!("ca/{name}.key"), &key)?;
        self.keep(&format!("ca/{name}.crt"), &certificate)
    }

    fn keep(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let beside = path.with_extension("new");
        let write = || {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().with_context(|| format!("cannot write {} [CW-2010]", path.display()))
    }
}
