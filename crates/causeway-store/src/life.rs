//! Whether the store still works: open, closed, or failed for good; the first end wins.
//!
//! In:    the engine's end.     Out: the error that every later call gets; a future that resolves on failure.
//! Owner: the engine; both have one.
//! Invariant: once ended it stays ended, with the same error.
//! Not here: releasing anything.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::error::{Error, Kind};

#[derive(Debug)]
pub(crate) struct Life {
    has_ended: AtomicBool,
    end: watch::Sender<Option<Error>>,
}

impl Life {
    pub(crate) fn new() -> Self {
        Life { has_ended: AtomicBool::new(false), end: watch::channel(None).0 }
    }

    /// The error to answer with when it is over.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.has_ended.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(self.end.borrow().clone().unwrap_or_else(Error::closed)),
        }
    }

    /// Ends it with `error`, unless it has ended already; returns the error that stands.
    pub(crate) fn end(&self, error: Error) -> Error {
        self.end.send_if_modified(|end| {
            let is_first = end.is_none();
            end.get_or_insert(error);
            is_first
        });
        self.has_ended.store(true, Ordering::Release);
        self.end.borrow().clone().unwrap_or_else(Error::closed)
    }

    /// Resolves when it has ended by a failure; never when it was closed.
    pub(crate) async fn failed(&self) -> Error {
        let mut end = self.end.subscribe();
        let failed = end.wait_for(|end| matches!(end, Some(e) if e.kind == Kind::Failed)).await;
        failed.ok().and_then(|end| end.clone()).unwrap_or_else(Error::closed)
    }
}
