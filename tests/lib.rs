//! End-to-end tests start the real binary.
