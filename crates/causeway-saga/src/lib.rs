//! The saga room: what must finish or be undone.
//!
//! In:    definitions with an input, commands of people, answers of participants.     Out: calls, events, and each saga's timeline.
//! Owner: the roof opens [`Sagas`] once per node and hands clones to the API and the compatible faces.
//! Invariant: a saga ends done, or with every step that may have happened compensated, or waits for a person. Each transition is
//! durable before the next begins, and survives any crash.
//! Not here: how a service is reached (`causeway-proxy`), how an event is kept (`causeway-events`), how a definition is written
//! (`causeway-spec`).
//!
//! ```text
//! start -> append -> next(history) -> perform -> append ... | compensate in reverse
//! ```
#![doc = include_str!("../README.md")]

mod driver;
mod error;
mod handle;
mod id;
mod invariants;
mod journal;
mod machine;
mod metrics;
mod perform;
mod plan;
mod record;
mod shard;
mod template;
mod view;

pub use driver::DRAIN_MAX;
pub use error::{Blame, Error, ErrorKind, Problem, Retry};
pub use handle::{Counts, INPUT_BYTES_MAX, Options, SUBMIT_WAIT_MAX, Sagas, Start, WAIT_MAX};
pub use id::{InvalidId, SAGA_ID_BYTES_MAX, SagaId};
pub use journal::{CHAIN_MAX, SHARDS};
pub use machine::{NOT_YET_WAIT_MAX, RETRY_AFTER_MAX, UNDO_REFUSALS_MAX};
pub use metrics::{AttemptLabel, Metrics, StatusLabel};
pub use perform::{ANSWER_BYTES_MAX, Doors};
pub use plan::{DEFINITION_BYTES_MAX, STEPS_MAX, validate};
pub use record::{Command, Edit, Status, StepEdit};
pub use shard::{ENDED_MAX, RECENT_MAX, WAITERS_MAX};
pub use template::{EXPRESSION_BYTES_MAX, LOOP_VALUES_MAX, RENDERED_BYTES_MAX};
pub use view::{Filter, LIST_LIMIT, Moment, Started, StepState, StepView, Summary, TIMELINE_MAX, View};
