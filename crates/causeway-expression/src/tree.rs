//! Walks over an expression's tree.
//!
//! In:    a tree as `cel` parsed it.      Out: its size, its free names, its nodes one by one.
//! Owner: nobody; pure functions.
//! Invariant: the recursion is as deep as the tree: `measure` is asked first, on the parser's stack.
//! Not here: what rooms read from a tree (`saga/template.rs`).

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};

/// Names of the language: its types, and the namespaces of its functions.
const LANGUAGE: [&str; 15] = [
    "base64",
    "bool",
    "bytes",
    "double",
    "dyn",
    "google",
    "int",
    "list",
    "map",
    "null_type",
    "optional",
    "optional_type",
    "string",
    "type",
    "uint",
];

/// How large a tree is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) depth: usize,
    /// Loops within each other. What a loop goes over is evaluated once, before it.
    pub(crate) loops: usize,
}

impl Size {
    fn or(self, other: Size) -> Size {
        Size { depth: self.depth.max(other.depth), loops: self.loops.max(other.loops) }
    }
}

pub(crate) fn measure(tree: &IdedExpr) -> Size {
    let largest = |parts: Vec<&IdedExpr>| parts.into_iter().map(measure).fold(Size::default(), Size::or);
    let below = match &tree.expr {
        Expr::Comprehension(part) => {
            let inner = largest(vec![&part.accu_init, &part.loop_cond, &part.loop_step, &part.result]);
            measure(&part.iter_range).or(Size { loops: inner.loops + 1, ..inner })
        }
        _ => largest(children(tree)),
    };
    Size { depth: below.depth + 1, ..below }
}

/// The free names, each once; those of the language left out.
pub(crate) fn names(tree: &IdedExpr) -> Vec<&str> {
    let mut names = Vec::new();
    walk(tree, &mut Vec::new(), &mut |node, bound| {
        if let Expr::Ident(name) = &node.expr
            && !LANGUAGE.contains(&name.as_str())
            && !bound.contains(&name.as_str())
            && !names.contains(&name.as_str())
        {
            names.push(name.as_str());
        }
        true
    });
    names
}

pub(crate) fn walk<'t>(
    tree: &'t IdedExpr,
    bound: &mut Vec<&'t str>,
    visit: &mut impl FnMut(&'t IdedExpr, &[&'t str]) -> bool,
) {
    if !visit(tree, bound) {
        return;
    }
    match &tree.expr {
        Expr::Comprehension(part) => {
            walk(&part.iter_range, bound, visit);
            let outer = bound.len();
            bound.extend([part.iter_var.as_str(), part.accu_var.as_str()]);
            bound.extend(part.iter_var2.as_deref());
            for part in [&part.accu_init, &part.loop_cond, &part.loop_step, &part.result] {
                walk(part, bound, visit);
            }
            bound.truncate(outer);
        }
        _ => children(tree).into_iter().for_each(|child| walk(child, bound, visit)),
    }
}

fn children(tree: &IdedExpr) -> Vec<&IdedExpr> {
    match &tree.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(part) => {
            vec![&part.iter_range, &part.accu_init, &part.loop_cond, &part.loop_step, &part.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(object) => entries(&object.entries),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entries(entries: &[IdedEntryExpr]) -> Vec<&IdedExpr> {
    entries
        .iter()
        .flat_map(|entry| match &entry.expr {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::ENV;

    #[test]
    fn loops_lie_within_each_other_only_where_one_runs_inside_the_other() {
        for (text, loops) in [
            ("[1] + [2]", 0),
            ("[1].map(i, i)", 1),
            ("[1].filter(i, i > 0).map(i, i)", 1),
            ("[1].map(i, i) + [2].map(i, i)", 1),
            ("[1].all(i, [i].all(j, j > 0))", 2),
            ("[[1].map(i, i)].all(i, i.all(j, j > 0))", 2),
            ("[1].map(a, [1].map(b, [1].map(c, a)))", 3),
        ] {
            let program = ENV.compile(text).unwrap();
            assert_eq!(measure(program.expression()).loops, loops, "{text}");
        }
    }

    #[test]
    fn names_are_those_that_the_scope_must_have() {
        for (text, expected) in [
            ("1 + 1", &[] as &[&str]),
            ("b.a + a['b'] + b", &["b", "a"]),
            ("a.all(a, a.b == b)", &["a", "b"]),
            ("a.all(i, i == j)", &["a", "j"]),
            ("{k: [v]}", &["k", "v"]),
            ("type(a) == int || dyn(b) == uint(1)", &["a", "b"]),
            ("base64.encode(b'a') + optional.of('x').value()", &[]),
            ("[google.protobuf.Timestamp, optional_type, null_type]", &[]),
            ("has(a.b) ? a.?b : c", &["a", "c"]),
        ] {
            let program = ENV.compile(text).unwrap();
            assert_eq!(names(program.expression()), expected, "{text}");
        }
    }

    #[test]
    fn every_name_of_the_language_is_one() {
        for name in LANGUAGE {
            let text = match name {
                "base64" => "base64.decode('aGVsbG8=')",
                "dyn" => "dyn(1)",
                "google" => "google.protobuf.Timestamp",
                "optional" => "optional.of(1)",
                name => name,
            };
            let got = ENV.compile(text).unwrap().execute(&crate::context());
            assert!(got.is_ok(), "{name}: {got:?}");
        }
    }
}
