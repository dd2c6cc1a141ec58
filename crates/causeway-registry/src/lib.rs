//! The registry: who exists and what the rules are, written down once and shown as one immutable picture.
//!
//! In:    [`Command`]s through [`Registry::submit`].      Out: an [`Answer`] once it is durable, and the published `Snapshot`.
//! Owner: one driver task per node, spawned by [`Registry::open`] in the scope it is handed.
//! Invariant: only this crate changes a Snapshot's content; decrees are journalled, observations (heartbeats) are not.
//! Not here: bytes kept (`causeway-store`), documents as people write them (`causeway-spec`), signing (`causeway-identity`),
//! cutting the picture for one client (`causeway-xds`), running checks (they come in as [`Command::Report`]).
//!
//! ```text
//! submit -> queue -> decide (each against the state its batch has reached) -> append once -> publish once -> answer all
//! ```

mod command;
mod conditions;
mod driver;
mod error;
mod guard;
mod handle;
mod instances;
mod invariants;
mod journal;
mod lease;
pub mod limits;
mod machine;
mod metrics;
mod objects;
mod secrets;
mod services;
mod token;
mod view;

pub use command::{
    Answer, Applied, AppliedOutcome, Command, ConnectionId, Granted, Owner, Proposed, Prune, Registration,
    Revoked,
};
pub use error::{Blame, Error, Kind, Retry};
pub use handle::{Options, Registry};
pub use journal::STREAM;
pub use token::{Digest, Issued, Serial, Token, TokenError, TokenId, TokenUse};
