//! Where an object came from: shown in every answer, and what refuses a second writer.

use std::fmt;

use minicbor::{Decode, Encode};

/// Who wrote an object. Another origin's write to the same object is refused with 409 and names this one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Origin {
    /// A document in a file.
    #[n(0)]
    File {
        /// Path as it was given to `--config`.
        #[n(0)]
        path: String,
        /// Line where the document begins, from 1.
        #[n(1)]
        line: u32,
    },
    /// A caller of the API.
    #[n(1)]
    Api {
        /// Name of the caller's token, or `local` for a caller on loopback without one.
        #[n(0)]
        caller: String,
    },
    /// The data plane itself (a sidecar registers its app).
    #[n(2)]
    Mesh {
        /// The identity that registered, in SPIFFE form.
        #[n(0)]
        identity: String,
    },
    /// Built in.
    #[n(3)]
    Builtin,
}

impl Origin {
    /// Whether a write by `other` may replace what this origin wrote: same file (whatever the line), any API caller for an
    /// API caller's, the same identity.
    pub fn admits(&self, other: &Origin) -> bool {
        match (self, other) {
            (Origin::File { path: mine, .. }, Origin::File { path: theirs, .. }) => mine == theirs,
            (Origin::Api { .. }, Origin::Api { .. }) => true,
            (mine, theirs) => mine == theirs,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Api { caller } => write!(f, "api ({caller})"),
            Origin::Mesh { identity } => write!(f, "mesh ({identity})"),
            Origin::Builtin => f.write_str("built in"),
        }
    }
}
