//! The proxy room.
