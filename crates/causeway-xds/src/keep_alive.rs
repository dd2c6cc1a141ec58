//! How a silent partition is noticed: signs of life on an idle connection of the control port, asked for by both sides.

use std::time::Duration;

/// How often an idle connection of the control port is asked for a sign of life, by both sides. Server builders should use
/// this and [`KEEP_ALIVE_TIMEOUT`], so that a silent partition ends a connection lease within five seconds.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the other side may take to give it.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
