//! Whole documents: the good ones are read, survive being printed, and each broken one says what, where and how to mend.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use causeway_model::{Kind, Object, Origin, Revision, Spec};
use causeway_spec::{Code, Document, Problem, emit, parse, render};

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext != "expected"))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> (String, String) {
    (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
}

fn object(document: &Document) -> Object {
    Object {
        key: document.key.clone(),
        origin: Origin::File { path: document.place.path.clone(), line: document.place.line },
        revision: Revision::new(7),
        spec: document.spec.clone(),
        conditions: Vec::new(),
        written: document.written.clone(),
    }
}

/// Problems, but for the one warning that good documents may get: probes of static endpoints are for a later version.
fn unexpected(problems: &[Problem]) -> Vec<String> {
    let is_probe =
        |problem: &Problem| problem.code == Code::NoEffect && problem.message.starts_with("health ");
    problems.iter().filter(|problem| !is_probe(problem)).map(ToString::to_string).collect()
}

#[test]
fn valid_documents_are_read_and_can_be_printed_and_applied_again() {
    let mut kinds = std::collections::BTreeSet::new();
    for path in fixtures("valid") {
        let (name, text) = read(&path);
        let parsed = parse(&name, &text);
        let problems: Vec<String> = unexpected(&parsed.problems);
        assert_eq!(problems, Vec::<String>::new(), "{name}");
        assert!(!parsed.documents.is_empty(), "{name}");
        for document in &parsed.documents {
            kinds.insert(document.key.kind);
            let printed = emit(&render(&object(document)));
            let again = parse("printed", &printed);
            if document.key.kind == Kind::Secret {
                assert!(again.has_errors() && !printed.contains("private"), "{printed}");
                continue;
            }
            assert_eq!(unexpected(&again.problems), Vec::<String>::new(), "{printed}");
            assert_eq!(again.documents[0].spec, document.spec, "{printed}");
            assert_eq!(again.documents[0].written, document.written, "{printed}");
        }
    }
    assert_eq!(kinds.len(), Kind::ALL.len(), "each kind has a fixture");
}

/// `UPDATE_EXPECTED=1 cargo test -p causeway-spec` writes what is found; read it before you commit it.
#[test]
fn broken_documents_say_what_where_and_how_to_mend() {
    let files = fixtures("invalid");
    assert!(files.len() >= 20);
    let mut codes = std::collections::BTreeSet::new();
    for path in files {
        let (name, text) = read(&path);
        let parsed = parse(&name, &text);
        let mut found = String::new();
        for problem in &parsed.problems {
            assert!(problem.hint.as_ref().is_some_and(|hint| hint.len() > 10), "no hint: {problem}");
            codes.insert(problem.code);
            writeln!(found, "{problem}").unwrap();
        }
        assert!(!parsed.problems.is_empty(), "{name} has no problem");
        let kept: Vec<String> = parsed.documents.iter().map(|document| document.key.to_string()).collect();
        writeln!(found, "\nkept: {}", if kept.is_empty() { "nothing".to_owned() } else { kept.join(", ") })
            .unwrap();
        let expected_path = path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected_path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        assert_eq!(found, expected, "{name}: see UPDATE_EXPECTED");
    }
    let missing: Vec<&Code> = Code::ALL.iter().filter(|code| !codes.contains(code)).collect();
    assert_eq!(missing, [&Code::TooBig], "each code but that of huge texts has a fixture");
}

#[test]
fn no_secret_is_ever_shown() {
    for path in fixtures("invalid").into_iter().chain(fixtures("valid")) {
        let (name, text) = read(&path);
        let parsed = parse(&name, &text);
        for problem in &parsed.problems {
            let shown = problem.to_string();
            assert!(!shown.contains("hunter2") && !shown.contains("31337"), "{shown}");
        }
        for document in &parsed.documents {
            if let Spec::Secret(secret) = &document.spec {
                assert!(!secret.entries.is_empty());
                assert!(!document.written.contains("private") && document.written.contains("***"));
                assert!(!format!("{document:?}").contains("private"));
            }
        }
    }
}

#[test]
fn each_code_has_its_page_and_each_page_its_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    for code in Code::ALL {
        let page = std::fs::read_to_string(folder.join(format!("{code}.md"))).unwrap_or_default();
        assert!(page.starts_with(&format!("# {code}: ")), "docs/errors/{code}.md");
        let lines = page.lines().count();
        assert!((8..=30).contains(&lines), "docs/errors/{code}.md has {lines} lines");
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("CW-10") || name.starts_with("CW-11") {
            assert!(Code::ALL.iter().any(|code| name == format!("{code}.md")), "{name} has no code");
        }
    }
}
