//! Certificates for peers: one authority, one P-256 certificate for both ends, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// PEM files.
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The certificate that it signed, for `app.bench`.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Certificate and key in one, as HAProxy wants them.
    pub both: PathBuf,
}

impl Certificates {
    /// Makes them in `dir`.
    pub fn make(dir: &Path) -> Result<Certificates> {
        let path = |name: &str| dir.join(name);
        let made = Certificates {
            authority: path("ca.pem"),
            certificate: path("app.pem"),
            key: path("app.key"),
            both: path("app-both.pem"),
        };
        let script = "openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -new -key ca.key -sha256 -days 2 -subj /CN=bench-ca -out ca.pem
            openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out app.key
            openssl req -new -key app.key -subj /CN=app.bench -out app.csr
            printf 'subjectAltName=DNS:app.bench\\nextendedKeyUsage=serverAuth,clientAuth' > app.ext
            openssl x509 -req -in app.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -sha256 -extfile app.ext -out app.pem
            cat app.pem app.key > app-both.pem";
        let output =
            Command::new("sh").args(["-ec", script]).current_dir(dir).output().context("running openssl")?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(made)
    }
}
