//! What an expression may be at most, and why a text is not one.
//!
//! In:    nothing.      Out: [`Limits`], [`Refusal`].
//! Owner: each room that compiles has its own limits, as a constant.
//! Invariant: every bound has its own refusal, which names it.
//! Not here: who holds a text against them (`parse.rs`), the rooms' words and codes for a refusal.

/// What an expression may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of its text. The parser's stack grows with it.
    pub bytes: usize,
    /// Brackets within brackets: counted before the parser sees the text, and in its strings too.
    pub nesting: usize,
    /// Operations within operations. The tree is walked by recursion whenever it is evaluated, on the caller's stack: a level of
    /// `1 + 1` takes 37 KiB in a debug build and 1.5 KiB in a release build.
    pub depth: usize,
    /// Loops within loops (`all`, `exists`, `map`, `filter`): each multiplies the work by the length of a list. A loop over what
    /// another loop gave is not within it.
    pub loops: usize,
}

/// Why a text is not a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Above [`Limits::bytes`].
    #[error("it is longer than {max} bytes")]
    Long {
        /// The bound.
        max: usize,
    },
    /// Above [`Limits::nesting`].
    #[error("brackets are nested deeper than {max}")]
    Nested {
        /// The bound.
        max: usize,
    },
    /// Above [`Limits::depth`].
    #[error("it is nested deeper than {max} operations")]
    Deep {
        /// The bound.
        max: usize,
    },
    /// Above [`Limits::loops`].
    #[error("more than {max} loops lie within each other")]
    Loops {
        /// The bound.
        max: usize,
    },
    /// The parser's words.
    #[error("{0}")]
    NotCel(String),
    /// The parser could not be run: memory or threads are short here. The text may be good.
    #[error("no thread to parse it: {0}")]
    NoThread(String),
}
