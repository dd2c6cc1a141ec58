//! The two nouns that everyone uses: the name of a stream, and a place in it.

use std::fmt;
use std::sync::Arc;

use crate::limits::STREAM_NAME_BYTES_MAX;

/// The name of a stream: 1 to 600 bytes of visible ASCII, such as `registry` or `topic/default/orders`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// The name, if it is one; [`StreamName::new`] says why not.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let is_valid = !name.is_empty()
            && name.len() <= STREAM_NAME_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| StreamName(name.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamName({})", self.0)
    }
}

impl AsRef<str> for StreamName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for StreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A place in one stream: the number of records before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// The first place of every stream.
    pub const START: Position = Position(0);

    /// The place with `number` records before it.
    pub const fn new(number: u64) -> Self {
        Position(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place after this one. (A stream of 2^64 records cannot be written.)
    pub const fn next(self) -> Self {
        Position(self.0 + 1)
    }

    /// The place `count` records further.
    pub const fn plus(self, count: u64) -> Self {
        Position(self.0 + count)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_visible_ascii_of_bounded_length() {
        for good in ["a", "topic/default/orders", "~!", &"x".repeat(600)] {
            assert_eq!(StreamName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ü", "a\n", "\u{7f}", &"x".repeat(601)] {
            assert_eq!(StreamName::parse(bad), None, "{bad:?}");
        }
    }
}
