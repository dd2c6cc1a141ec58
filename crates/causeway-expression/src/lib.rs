//! Expressions within bounds: CEL as others write it, parsed so that no text brings the process down.
//!
//! In:    a text and the [`Limits`] of whoever asks; later a [`Context`] of values.     Out: a [`Program`], and what it gives.
//! Owner: whoever compiled it; nothing is kept here but the language's standard library.
//! Invariant: a text never ends the process, however it is nested; a [`Program`] can be walked, run and dropped on a stack of 2 MiB.
//! Not here: which names an expression may use, what it reads and what its result must be (`events/filter.rs`, `saga/template.rs`).
//!
//! ```
//! use causeway_expression::{Limits, Value, compile, context, value_of};
//!
//! let limits = Limits { bytes: 4096, nesting: 24, depth: 32, loops: 2 };
//! let program = compile("order.amount / 2 > 50", &limits).expect("it is CEL, and small");
//! assert_eq!(program.names(), ["order"]);
//! let mut context = context();
//! context.add_variable_from_value("order", value_of(&serde_json::json!({"amount": 120})));
//! assert_eq!(program.evaluate(&context), Ok(Value::Bool(true)));
//! assert!(compile(&"(".repeat(1000), &limits).is_err());
//! ```

mod limits;
mod parse;
mod program;
mod tree;
mod value;

// Rooms see these types of `cel`, and not its parser: whoever needs a program comes through `compile`.
pub use cel::common::ast;
pub use cel::objects::{Key, Map};
pub use cel::{Context, ExecutionError, Value};

pub use limits::{Limits, Refusal};
pub use program::{Program, compile, context};
pub use value::value_of;
