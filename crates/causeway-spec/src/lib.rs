//! What people write, made sense of: YAML and JSON texts to the model's nouns, with every problem and its place.
//!
//! In:    texts.     Out: [`Document`]s, bodies of the API, [`Problem`]s; and documents as text again.
//! Owner: nobody; this crate is pure: no IO, no clock, no state.
//! Invariant: no text makes it panic; a bad document never takes its neighbours down; what we do not run is refused, never
//! silently ignored.
//! Not here: reading files (the roof), whether references resolve (registry), the nouns (`causeway-model`).
//!
//! ```text
//! text -> yaml | json -> tree -> reader + kinds -> Document { key, spec, written, place } | Problem
//! ```
//!
//! ```
//! let parsed = causeway_spec::parse("topics.yaml", "
//! apiVersion: causeway.dev/v1
//! kind: Topic
//! metadata: {name: orders}
//! spec: {retension: {age: 7d}}
//! ");
//! assert_eq!(
//!     parsed.problems[0].to_string(),
//!     "topics.yaml:5:8: Topic default/orders: unknown field \"retension\" in spec [CW-1003]\n  \
//!      hint: did you mean \"retention\"?"
//! );
//! ```

pub mod body;
pub mod bytes;
pub mod duration;

mod document;
mod emit;
mod json;
mod kinds;
mod problem;
mod reader;
mod render;
mod text;
mod tree;
mod yaml;

pub use document::{DOCUMENTS_MAX, Document, ORIGIN_ANNOTATION, Parsed, TEXT_BYTES_MAX, parse};
pub use emit::emit;
pub use problem::{Code, Place, Problem};
pub use render::render;
