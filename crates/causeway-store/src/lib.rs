//! The store: bytes kept. One append-only commit log per node that carries many streams.
//!
//! In:    [`Batch`]es, each touching one or more streams.     Out: [`Committed`] positions (durable), [`Record`]s read back.
//! Owner: the roof opens one [`Store`] per data directory and hands clones to registry, events and saga.
//! Invariant: a batch is acknowledged only when it is durable, and is whole or absent after any crash; bytes are never
//!            returned without their checksum holding; data is never dropped because a cache or an index is missing.
//! Not here: what the bytes mean (each room's `journal.rs`), retention of topics (`causeway-events`).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), causeway_store::Error> {
//! use causeway_store::{Batch, Faults, Limit, Position, Store, StreamName};
//! let store = Store::memory(Faults::default());
//! let stream = StreamName::new("topic/default/orders")?;
//! let done = store.append(Batch::new().expect(&stream, Position::START).append(&stream, "first".into())).await?;
//! assert_eq!(done.first(&stream), Some(Position::START));
//! assert_eq!(&store.read(&stream, Position::START, Limit::default())?[0].bytes[..], b"first");
//! # Ok(()) }
//! ```

mod batch;
mod disk;
mod error;
mod faults;
mod follow;
mod frame;
mod handle;
mod image;
mod life;
pub mod limits;
mod memory;
mod metrics;
mod name;
mod options;

pub use batch::{Batch, Committed, Limit, Record};
pub use error::{Error, Kind};
pub use faults::Faults;
pub use handle::Store;
pub use metrics::Metrics;
pub use name::{Position, StreamName};
pub use options::{Options, Recovery};
