//! A house in memory for tests: a picture that can be changed, a network without ports, apps that behave as told, identities.
//!
//! In:    calls of a test.      Out: what a room needs to be tested whole: `watch<Arc<Snapshot>>`, [`Net`], `Credentials`.
//! Owner: the test.
//! Invariant: nothing here opens a socket or asks the machine for the time.
//! Not here: the rooms themselves: a test starts them with what the house gives.
//!
//! [`Net`]: causeway_base::net::Net

mod app;
mod client;
mod house;

pub use app::{App, Seen};
pub use client::{Answer, Client};
pub use house::{House, Placing};
