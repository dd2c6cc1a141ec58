//! The verbs that talk to a node, one file each.

pub(crate) mod apply;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod print;
pub(crate) mod reasons;
pub(crate) mod saga;
pub(crate) mod stream;
pub(crate) mod tap;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod wait;
pub(crate) mod why;
