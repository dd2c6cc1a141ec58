//! Tasks with a parent and a name, and the shutdown tree that ends them.
//!
//! In:    futures, each with a name and what its failure means.    Out: cancellation that flows down, an end that is awaited.
//! Owner: `node` in the roof owns the root scope; each room gets a child.
//! Invariant: cancelling a scope cancels its children; `shutdown` returns when every task has ended or the deadline passed.
//! Not here: the order in which rooms are shut down (the roof's `node.rs` writes it once).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// What the end of a task by an error or a panic means for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The node cannot be trusted without it: stop the whole process (exit code 1).
    StopNode,
    /// Log it; others go on (a connection, a probe).
    Log,
}

/// A node of the shutdown tree. Cheap to clone (clones are the same node).
#[derive(Clone)]
pub struct Scope {
    name: Arc<str>,
    token: CancellationToken,
    tracker: TaskTracker,
    shared: Arc<Shared>,
}

struct Shared {
    next: AtomicU64,
    census: Mutex<BTreeMap<u64, Arc<str>>>,
    fatal: CancellationToken,
    cause: Mutex<Option<String>>,
}

impl Scope {
    /// The root of a tree; the process has one, a test may have many.
    pub fn root(name: &str) -> Self {
        let shared = Shared {
            next: AtomicU64::new(0),
            census: Mutex::default(),
            fatal: CancellationToken::new(),
            cause: Mutex::new(None),
        };
        Scope {
            name: name.into(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            shared: Arc::new(shared),
        }
    }

    /// A child: cancelled with its parent, or alone. Its tasks are awaited by its own [`Scope::shutdown`].
    pub fn child(&self, name: &str) -> Self {
        Scope {
            name: format!("{}.{name}", self.name).into(),
            token: self.token.child_token(),
            tracker: TaskTracker::new(),
            shared: self.shared.clone(),
        }
    }

    /// Runs `task` to its end. It is not aborted by cancellation: it watches [`Scope::cancelled`] and finishes its step.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, name: &str, on_failure: OnFailure, task: F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let name: Arc<str> = format!("{}.{name}", self.name).into();
        self.shared.census.lock().insert(id, name.clone());
        let shared = self.shared.clone();
        tokio::spawn(self.tracker.track_future(async move {
            let ended = std::panic::AssertUnwindSafe(task).catch_unwind().await;
            shared.census.lock().remove(&id);
            let why = match ended {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => failure.0,
                Err(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
            };
            tracing::error!(task = %name, %why, "a task failed");
            if on_failure == OnFailure::StopNode {
                shared.cause.lock().get_or_insert(format!("{name}: {why}"));
                shared.fatal.cancel();
            }
        }));
    }

    /// Resolves when this scope or one above it is cancelled. Owned, so that it can be held across a loop.
    pub fn cancelled(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// How many of this scope's own tasks run.
    pub fn tasks(&self) -> usize {
        self.tracker.len()
    }

    /// Whether this scope was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Asks every task below to end; does not wait.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Asks every task of this scope to end and waits for them, at most `deadline`. Returns whether all ended.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the scope cancelled; calling it again goes on waiting.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }

    /// Resolves when a task with [`OnFailure::StopNode`] failed anywhere in the tree; gives the cause.
    pub async fn failed(&self) -> String {
        self.shared.fatal.cancelled().await;
        self.shared.cause.lock().clone().unwrap_or_default()
    }

    /// Names of the tasks that are running now, the whole tree's, oldest first.
    pub fn census(&self) -> Vec<String> {
        self.shared.census.lock().values().map(|name| name.to_string()).collect()
    }
}

/// Why a task ended: the text an operator reads.
#[derive(Debug)]
pub struct Failure(pub String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Failure(text)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("name", &self.name).finish_non_exhaustive()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shutdown_waits_for_tasks_and_reaches_children() {
        let root = Scope::root("t");
        let child = root.child("c");
        let seen = child.cancelled();
        child.spawn("loop", OnFailure::StopNode, async move {
            seen.await;
            Ok(())
        });
        assert_eq!(root.census(), ["t.c.loop"]);
        root.cancel();
        assert!(child.shutdown(Duration::from_secs(5)).await);
        assert!(root.census().is_empty());
    }

    #[tokio::test]
    async fn a_panic_in_a_vital_task_stops_the_node_and_says_why() {
        let root = Scope::root("t");
        root.spawn("bad", OnFailure::StopNode, async { panic!("no such luck") });
        assert_eq!(root.failed().await, "t.bad: panicked: no such luck");
    }
}
