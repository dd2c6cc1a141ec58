//! Import circles between the files of a crate: read from the text, tests left out.
//!
//! A file is a module. It imports another when its product code names a path that leads there: `crate::a::b`, `super::c`, `self::d`, or
//! a child module by name. A façade (`lib.rs`, or a file that only declares and re-exports) imports nothing by re-exporting.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

use crate::source;

/// Circles, each as a line that names the files.
pub fn problems() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut crates: Vec<_> =
        std::fs::read_dir(source::root().join("crates"))?.filter_map(|e| Some(e.ok()?.path())).collect();
    crates.sort();
    for dir in crates {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for circle in circles(&graph(&dir.join("src"))?) {
            problems.push(format!(
                "{name}: files import each other in a circle: {}: move what both need into a file of its own",
                circle.join(" -> ")
            ));
        }
    }
    Ok(problems)
}

type Graph = BTreeMap<String, BTreeSet<String>>;

fn graph(src: &Path) -> Result<Graph> {
    let mut texts = BTreeMap::new();
    for path in source::files(src, "rs")? {
        let relative = path.strip_prefix(src)?.with_extension("");
        let mut parts: Vec<String> = relative.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        if matches!(parts.first().map(String::as_str), Some("bin"))
            || parts.last().is_some_and(|p| p == "tests")
        {
            continue;
        }
        if parts.last().is_some_and(|p| p == "mod") || parts == ["lib"] || parts == ["main"] {
            parts.pop();
        }
        texts.insert(parts.join("::"), source::product(&source::read(&path)?));
    }
    let modules: BTreeSet<&str> = texts.keys().map(String::as_str).collect();
    let exports: BTreeMap<&str, BTreeMap<String, String>> =
        texts.iter().map(|(module, text)| (module.as_str(), reexports(module, text, &modules))).collect();
    let mut graph = Graph::new();
    for (module, text) in &texts {
        let mut used = BTreeSet::new();
        for path in paths(module, text) {
            if let Some(target) = resolve(&path, &modules, &exports) {
                used.insert(target);
            }
        }
        used.remove(module);
        graph.insert(module.clone(), if module.is_empty() { BTreeSet::new() } else { used });
    }
    Ok(graph)
}

/// `pub use a::{B, C}` of a module: name -> absolute path.
fn reexports(module: &str, text: &str, modules: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for statement in use_statements(text).filter(|(is_public, _)| *is_public).map(|(_, s)| s) {
        for path in expand(&statement) {
            let absolute = absolute(module, &path, modules);
            if let Some(name) = path.rsplit("::").next() {
                found.insert(name.to_owned(), absolute);
            }
        }
    }
    found
}

/// Every path that the product code of `module` names, as absolute module paths; re-exports are not imports.
fn paths(module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let none = BTreeSet::new();
    for (is_public, statement) in use_statements(text) {
        if !is_public {
            found.extend(expand(&statement).iter().map(|path| absolute(module, path, &none)));
        }
    }
    let body: String = text.split(';').filter(|s| !is_use(s)).collect::<Vec<_>>().join(";");
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in body.match_indices(start) {
            let is_word = at > 0 && body.as_bytes()[at - 1].is_ascii_alphanumeric();
            let is_nested = body[..at].ends_with("super::") || body[..at].ends_with("$");
            if is_word || is_nested {
                continue;
            }
            let path: String =
                body[at..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
            found.push(absolute(module, path.trim_end_matches(':'), &none));
        }
    }
    // A child named directly, as in `child::function(…)`.
    for line in text.lines().map(str::trim) {
        let declared = line
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub ")
            .trim_start_matches("pub(super) ");
        if let Some(child) = declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            let call = format!("{child}::");
            let is_called = body.match_indices(&call).any(|(at, _)| {
                at == 0 || !matches!(body.as_bytes()[at - 1], b':' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
            });
            if is_called {
                found.push(join(module, child));
            }
        }
    }
    found
}

fn is_use(statement: &str) -> bool {
    let first = statement.trim_start().lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("");
    let all = statement.trim_start();
    [all, first]
        .iter()
        .any(|s| s.starts_with("use ") || s.starts_with("pub use ") || s.starts_with("pub(crate) use "))
}

fn use_statements(text: &str) -> impl Iterator<Item = (bool, String)> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let at = rest.find("use ")?;
            let before = rest[..at].lines().next_back().unwrap_or("").trim();
            let after = &rest[at + 4..];
            let end = after.find(';')?;
            rest = &after[end + 1..];
            let is_public = ["pub", "pub(crate)", "pub(super)"].contains(&before);
            // Only what can be a statement of imports: a path, perhaps with balanced braces at its end.
            let statement: String = after[..end].split_whitespace().collect();
            let opened = statement.matches('{').count();
            let is_path = statement
                .starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '{'))
                && opened == statement.matches('}').count()
                && (opened == 0 || statement.ends_with('}'));
            if (before.is_empty() || is_public) && is_path {
                return Some((is_public, statement));
            }
        }
    })
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`; ` as x` is dropped.
fn expand(statement: &str) -> Vec<String> {
    let Some(open) = statement.find('{') else {
        let path =
            statement.split("as").next().filter(|p| p.ends_with("::") || !p.is_empty()).unwrap_or(statement);
        let path = if statement.contains("::") && path.len() < statement.len() && !path.ends_with("::") {
            path
        } else {
            statement
        };
        return vec![path.trim_end_matches("::self").to_owned()];
    };
    let (prefix, inner) =
        (&statement[..open], &statement[open + 1..statement.rfind('}').unwrap_or(statement.len())]);
    let (mut depth, mut start, mut parts) = (0i32, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    parts.into_iter().filter(|p| !p.is_empty()).flat_map(|part| expand(&format!("{prefix}{part}"))).collect()
}

fn join(module: &str, rest: &str) -> String {
    if module.is_empty() { rest.to_owned() } else { format!("{module}::{rest}") }
}

fn absolute(module: &str, path: &str, modules: &BTreeSet<&str>) -> String {
    if let Some(rest) = path.strip_prefix("crate::") {
        return rest.to_owned();
    }
    if let Some(rest) = path.strip_prefix("self::") {
        return join(module, rest);
    }
    let (mut at, mut rest) = (module.to_owned(), path);
    let mut is_relative = false;
    while let Some(next) = rest.strip_prefix("super::") {
        at = at.rsplit_once("::").map_or(String::new(), |(parent, _)| parent.to_owned());
        rest = next;
        is_relative = true;
    }
    let first = rest.split("::").next().unwrap_or("");
    if is_relative || modules.contains(join(&at, first).as_str()) {
        return join(&at, rest);
    }
    format!("::{path}")
}

/// The module that a path leads to: the longest one that is a file, re-exports followed.
fn resolve(
    path: &str,
    modules: &BTreeSet<&str>,
    exports: &BTreeMap<&str, BTreeMap<String, String>>,
) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..4 {
        if path.starts_with("::") {
            return None;
        }
        let mut module = path.as_str();
        while !modules.contains(module) {
            module = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        }
        let rest = path[module.len()..].trim_start_matches("::").to_owned();
        let name = rest.split("::").next().unwrap_or("");
        match exports.get(module).and_then(|e| e.get(name)) {
            Some(next) if *next != path => path = next.clone(),
            _ => return Some(module.to_owned()),
        }
    }
    None
}

/// Strongly connected parts with more than one file, each walked once around.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reach = |from: &str| -> BTreeSet<String> {
        let (mut open, mut seen) = (vec![from.to_owned()], BTreeSet::new());
        while let Some(node) = open.pop() {
            for next in graph.get(&node).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reaches: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|node| (node, reach(node))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (node, reached) in &reaches {
        if reached.contains(*node) {
            let part: Vec<String> = reached
                .iter()
                .filter(|other| reaches.get(other).is_some_and(|r| r.contains(*node)))
                .cloned()
                .collect();
            found.insert(part);
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expect: &[&[&str]]) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(circles(&graph(dir.path()).unwrap()), expect);
    }

    #[test]
    fn a_circle_is_found_through_a_facade() {
        check(
            &[
                ("lib.rs", "mod a; mod b;\npub use a::A;\n"),
                ("a.rs", "use crate::b::{self, B};\npub struct A(B);"),
                ("b.rs", "pub struct B; fn f(a: crate::A) {}"),
            ],
            &[&["a", "b"]],
        );
    }

    #[test]
    fn parent_and_child_that_use_each_other_are_a_circle_and_tests_are_not() {
        check(
            &[("lib.rs", "pub mod p;"), ("p.rs", "mod c;\nfn f() { c::g() }"), ("p/c.rs", "use super::X;")],
            &[&["p", "p::c"]],
        );
        check(
            &[("lib.rs", "pub mod p;"), ("p.rs", "mod c;\npub use c::C;"), ("p/c.rs", "use super::X;")],
            &[],
        );
        check(
            &[
                ("lib.rs", "mod a; mod b;"),
                ("a.rs", "use crate::b::B;"),
                ("b.rs", "#[cfg(test)]\nuse crate::a::A;"),
            ],
            &[],
        );
    }
}
