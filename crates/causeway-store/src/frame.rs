//! Sizes of the log's framing.
pub(crate) const ITEM_HEADER_BYTES: usize = 20;
pub(crate) const COMMIT_BYTES: usize = 32;
