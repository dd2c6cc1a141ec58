//! A compiled expression.
//!
//! In:    a text and its [`Limits`]; a [`Context`].      Out: a [`Program`] or a [`Refusal`]; a value.
//! Owner: whoever compiled it.
//! Invariant: there is no other way to a [`Program`] than through the limits.
//! Not here: how a text is parsed (`parse.rs`), the walk over the tree (`tree.rs`).

use cel::common::ast::IdedExpr;
use cel::{Context, ExecutionError, Value};

use crate::limits::{Limits, Refusal};
use crate::{parse, tree};

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    program: cel::Program,
    has_loop: bool,
}

/// Compiles a text. The caller waits: 50 µs for a usual one, 40 ms for the worst known of 4 KiB (release build).
///
/// # Errors
/// [`Refusal`]: it is not CEL, or more than the limits allow.
pub fn compile(text: &str, limits: &Limits) -> Result<Program, Refusal> {
    let (program, size) = parse::parse(text, limits)?;
    Ok(Program { program, has_loop: size.loops > 0 })
}

/// A scope of values with the standard library below it.
pub fn context() -> Context<'static, 'static> {
    Context::with_env(parse::ENV.clone())
}

impl Program {
    /// The value it has in a scope.
    ///
    /// # Errors
    /// Whatever CEL refuses: a name or a field that is not there, an operation that these types do not have.
    pub fn evaluate(&self, context: &Context<'_, '_>) -> Result<Value, ExecutionError> {
        self.program.execute(context)
    }

    /// Whether it goes over a list.
    pub fn has_loop(&self) -> bool {
        self.has_loop
    }

    /// Its tree.
    pub fn tree(&self) -> &IdedExpr {
        self.program.expression()
    }

    /// The names that it takes from its scope, each once, in the order in which they are met: neither its loops' own nor the
    /// language's.
    pub fn names(&self) -> Vec<&str> {
        tree::names(self.tree())
    }

    /// Visits its nodes, parents first, each with the names that the loops around it bind. `visit` says whether to go on below
    /// the node.
    pub fn walk<'t>(&'t self, visit: &mut impl FnMut(&'t IdedExpr, &[&'t str]) -> bool) {
        tree::walk(self.tree(), &mut Vec::new(), visit);
    }
}
