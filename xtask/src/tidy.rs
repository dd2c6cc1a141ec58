//! The rules of the house that a machine can see, each problem with how to mend it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::{floors, imports, source};

/// Every problem of the tree; empty when it is tidy.
pub fn problems() -> Result<Vec<String>> {
    let mut problems = floors::problems()?;
    problems.extend(imports::problems()?);
    problems.extend(error_pages()?);
    problems.extend(pure_machines()?);
    problems.extend(code_map()?);
    Ok(problems)
}

/// Prints them and fails when there are any.
pub fn run() -> Result<()> {
    let problems = problems()?;
    if problems.is_empty() {
        println!("tidy");
        return Ok(());
    }
    bail!("{} problems:\n  {}", problems.len(), problems.join("\n  "))
}

/// Each code in the sources has a page, each page a use.
fn error_pages() -> Result<Vec<String>> {
    let root = source::root();
    let mut used = BTreeSet::new();
    let is_test = |path: &std::path::Path| {
        path.components().any(|part| ["tests", "tests.rs"].iter().any(|t| part.as_os_str() == *t))
    };
    for path in source::files(&root.join("crates"), "rs")?.into_iter().filter(|path| !is_test(path)) {
        used.extend(codes(&source::product(&source::read(&path)?)));
    }
    let mut pages = BTreeSet::new();
    let mut problems = Vec::new();
    for path in source::files(&root.join("docs/errors"), "md")? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !source::read(&path)?.starts_with(&format!("# {name}: ")) {
            problems.push(format!("docs/errors/{name}.md must begin with \"# {name}: title\""));
        }
        pages.insert(name);
    }
    for code in used.difference(&pages) {
        problems.push(format!("{code} is used but has no page: write docs/errors/{code}.md"));
    }
    for code in pages.difference(&used) {
        problems.push(format!(
            "docs/errors/{code}.md is a page that no code leads to: use the code or delete the page"
        ));
    }
    Ok(problems)
}

fn codes(text: &str) -> impl Iterator<Item = String> + '_ {
    text.match_indices("CW-").filter_map(|(at, _)| {
        let code = text.get(at..at + 7)?;
        let is_longer = text.as_bytes().get(at + 7).is_some_and(u8::is_ascii_digit);
        (code[3..].bytes().all(|b| b.is_ascii_digit()) && !is_longer).then(|| code.to_owned())
    })
}

/// A `machine.rs` says yes or no and never does.
fn pure_machines() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for path in source::files(&source::root().join("crates"), "rs")? {
        let is_machine = path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part == "machine.rs" || part == "machine"
        });
        if !is_machine {
            continue;
        }
        let text = source::product(&source::read(&path)?);
        for banned in ["tokio::", ".await", "std::fs", "std::net", "Instant::now", "SystemTime"] {
            if text.contains(banned) {
                problems.push(format!(
                    "{}: a machine is pure, but it says {banned:?}: do it in driver.rs",
                    path.display()
                ));
            }
        }
    }
    Ok(problems)
}

/// ARCHITECTURE.md names every crate.
fn code_map() -> Result<Vec<String>> {
    let root = source::root();
    let map = source::read(&root.join("ARCHITECTURE.md"))?;
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !map.contains(&format!("`{name}`")) {
            problems.push(format!("ARCHITECTURE.md does not name `{name}`: add it to the code map"));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        let problems = super::problems().unwrap();
        assert!(problems.is_empty(), "{} problems:\n  {}", problems.len(), problems.join("\n  "));
    }

    #[test]
    fn codes_are_found_whole() {
        let found: Vec<_> = super::codes("[CW-1003] CW-12 CW-10045 \"CW-2000\"").collect();
        assert_eq!(found, ["CW-1003", "CW-2000"]);
    }
}
