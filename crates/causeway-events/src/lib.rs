//! The events room: what happened. Topics of CloudEvents, consumer groups, retries, dead letters, replay.
//!
//! In:    CloudEvents from the doors and sagas; topics and subscriptions of the Snapshot.     Out: pushes through the mesh, pulls, tails.
//! Owner: the roof opens one [`Events`] per node.
//! Invariant: an event whose publish was acknowledged is delivered to every matching subscription at least once, or lies
//!            among its dead letters, or was passed over by its topic's retention; never silently lost.
//! Not here: HTTP doors and who may use them (`causeway-api`), bytes kept (`causeway-store`), the roads (`causeway-proxy`).
//!
//! ```text
//! publish -> append -> assign -> attempt -> ack | retry | dead-letter
//!  handle    topic     machine    push      machine
//! ```

pub mod binding;
pub mod cloudevent;
mod directory;
mod driver;
pub mod error;
mod filter;
mod group;
mod handle;
mod invariants;
mod journal;
mod log;
mod machine;
mod metrics;
mod options;
mod push;
mod recover;
mod spans;
pub mod structured;
mod tail;
mod topic;
pub mod view;
mod window;

pub use cloudevent::{CloudEvent, Extension};
pub use error::{Error, Kind};
pub use filter::{FILTER_BYTES_MAX, Filter, Undecided};
pub use handle::{DEAD_LETTERS_PAGE_MAX, DELAY_MAX, Events, PULL_EVENTS_MAX, READ_EVENTS_MAX, TOKENS_MAX};
pub use metrics::Metrics;
pub use options::Options;
pub use tail::Tail;
pub use view::{
    DeadLetter, DeadReason, From, InvalidToken, Leased, Page, Published, Pull, Redrive, Redriven, Settled,
    State, Status, Stored, SubscriptionView, Token, TopicView,
};
pub use window::{DEDUPE, IDENTITIES_MAX};
