//! Our own doors: the HTTP API and the console on 7070, the control port for proxies on 7071.
//!
//! In:    requests of people, programs and proxies.     Out: commands to the rooms, and what they answer, as JSON, events or gRPC.
//! Owner: the roof opens the doors with handles of the rooms; this crate keeps nothing but what proxies saw
//! lately (`observed`).
//! Invariant: a door decides nothing: it reads, asks a room and shows the answer. An answer that says done is durable.
//! Not here: reading documents and bodies (`causeway-spec`), deciding (`causeway-registry`, `causeway-events`, `causeway-saga`), neighbours'
//! protocols (`causeway-interop`).

pub mod control;
pub mod http;
pub mod observed;
pub mod presence;
pub mod signer;
pub mod sound;
pub mod traffic;

pub use control::Control;
pub use observed::Observed;
pub use presence::Doorkeeper;
pub use signer::Desk;
pub use traffic::Traffic;
