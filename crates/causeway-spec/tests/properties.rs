//! What holds for every text and value.
#![allow(clippy::unwrap_used)]

use causeway_model::Name;
use causeway_spec::{Parsed, body, bytes, duration, emit, parse};
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Texts that look like documents, so that more than the first line of the reader is tried.
fn documentish() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "apiVersion: gateway.networking.k8s.io/v1",
        "apiVersion: causeway.dev/v1",
        "apiVersion: v1",
        "kind: HTTPRoute",
        "kind: Service",
        "kind: Gateway",
        "kind: Saga",
        "kind: Secret",
        "kind: Subscription",
        "kind: AccessPolicy",
        "kind: Topic",
        "kind: List",
        "metadata: {name: a}",
        "metadata:",
        "name: a.b",
        "spec:",
        "spec: {",
        "}",
        "[",
        "]",
        "rules:",
        "- matches:",
        "- path: {type: Exact, value: /}",
        "filters: [{type: URLRewrite}]",
        "backendRefs:",
        "parentRefs: [{name: a}]",
        "steps:",
        "- parallel:",
        "- name: a",
        "call: {service: a, path: \"${a}\"}",
        "pivot: true",
        "push: {service: a}",
        "pull: {}",
        "listeners:",
        "tls:",
        "ports: [{port: 80}]",
        "---",
        "...",
        "\n",
        "\n  ",
        "\n    ",
        "\n- ",
        "\t",
        ": ",
        "? ",
        "| ",
        "> ",
        "|-\n",
        "\"",
        "'",
        "\\",
        "&a ",
        "*a",
        "!!str ",
        "!a ",
        "<<: ",
        "# ",
        "%YAML 1.2\n",
        "%TAG ! !",
        "\r",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
        "é",
        "😀",
        "~",
        ".inf",
        "1e9",
        "0x1F",
        "- - - ",
        "{a: ",
        "[a, ",
        ", ",
        "\0",
        "data: {a: \"***\"}",
        "@",
        "`",
        "null",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

fn check(parsed: &Parsed) {
    for problem in &parsed.problems {
        assert!(problem.place.line >= 1 && problem.place.column >= 1, "{problem}");
        assert!(problem.hint.as_ref().is_some_and(|hint| !hint.is_empty()), "{problem}");
    }
    for document in &parsed.documents {
        serde_json::from_str::<Value>(&document.written).unwrap();
    }
}

fn check_bodies(text: &[u8]) {
    let name = Name::new("a").unwrap();
    let _ = (body::registration(text), body::heartbeat(text), body::token(text), body::pull(text));
    let _ = (body::ack(text), body::nack(text), body::extend(text), body::seek(text), body::redrive(text));
    let _ = (body::topic(&name, &name, text), body::subscription(&name, &name, &name, text));
    let _ = (body::saga(&name, &name, text), body::start(&name, text));
}

fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[ -~]{0,12}",
        prop::sample::select(vec![
            "",
            "null",
            "true",
            "~",
            "yes",
            "1",
            "0x1",
            "1e3",
            ".5",
            "-",
            "- a",
            "a: b",
            "a #b",
            "---",
            "...",
            "<<",
            "*a",
            "&a",
            "!a",
            "%a",
            "@",
            "`",
            "|",
            ">",
            "?",
            "{",
            "[",
            "\t",
            " a",
            "a ",
            "\n",
            "a\n",
            "\r\n",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "\u{7f}",
            "2026-01-01",
            "12:30",
            "=",
            "0o7",
            ".inf",
            "😀",
            "\\",
            "\"",
            "'",
            ":",
            "a:",
        ])
        .prop_map(str::to_owned),
    ];
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        text.clone().prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Emits `value` as the data of a saga's step, where any JSON may stand, and reads the document back.
fn read_back(value: &Value) -> Value {
    let step =
        serde_json::json!({"name": "a", "publish": {"topic": "a", "type": "a", "data": {"value": value}}});
    let document = serde_json::json!({
        "apiVersion": "causeway.dev/v1", "kind": "Saga", "metadata": {"name": "a"}, "spec": {"steps": [step]},
    });
    let text = emit(&document);
    let parsed = parse("t", &text);
    let problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    assert!(!parsed.has_errors(), "{problems:?}\n{text}");
    let document: Value = serde_json::from_str(&parsed.documents[0].written).unwrap();
    document["spec"]["steps"][0]["publish"]["data"]["value"].clone()
}

/// Numbers compare by value: what JSON writes as 1e2 and 100.0 is one number. The last bit is `serde_json`'s, which reads
/// floats fast rather than exactly; ours are carried as text.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= a.abs() * 1e-15
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn has_template(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(has_template),
        Value::Object(map) => map.values().any(has_template),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        check(&parse("t", &text));
        check_bodies(text.as_bytes());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&parse("t", &String::from_utf8_lossy(&bytes)));
        check_bodies(&bytes);
    }

    #[test]
    fn no_text_that_looks_like_documents_makes_it_panic(text in documentish()) {
        check(&parse("t", &text));
        check_bodies(text.as_bytes());
    }

    #[test]
    fn no_printable_ascii_makes_it_panic(text in "[ -~\n\t]{0,120}") {
        check(&parse("t", &text));
    }

    #[test]
    fn what_is_emitted_reads_back(value in json()) {
        prop_assume!(!has_template(&value));
        let back = read_back(&value);
        prop_assert!(same(&back, &value), "{back}\n{value}");
    }

    #[test]
    fn json_reads_as_itself(value in json()) {
        let name = Name::new("a").unwrap();
        let text = serde_json::json!({"definition": "a", "input": value}).to_string();
        let start = body::start(&name, text.as_bytes()).unwrap();
        let back: Value = serde_json::from_str(&start.input).unwrap();
        prop_assert!(same(&back, &value), "{}", start.input);
    }

    #[test]
    fn a_broken_document_leaves_its_neighbours(broken in "[ -~\n]{0,60}") {
        // What ends the stream's documents would make more of them, not fewer; both neighbours stand all the same.
        let text = format!(
            "apiVersion: causeway.dev/v1\nkind: Topic\nmetadata: {{name: first}}\n---\n{broken}\n---\napiVersion: \
             causeway.dev/v1\nkind: Topic\nmetadata: {{name: last}}\n"
        );
        let names: Vec<String> = parse("t", &text).documents.iter().map(|d| d.key.name.to_string()).collect();
        prop_assert_eq!(names, ["first", "last"]);
    }

    #[test]
    fn durations_and_sizes_read_back(millis in 0..9_000_000_000_000u64, size in any::<u64>()) {
        let duration = std::time::Duration::from_millis(millis);
        let text = duration::format(duration);
        if millis < 359_999_999_000 {
            prop_assert_eq!(duration::parse(&text), Some(duration));
        } else if millis < 8_639_999_000_000 {
            prop_assert_eq!(duration::parse_long(&text), Some(duration), "{}", text);
        }
        prop_assert_eq!(bytes::parse(&bytes::format(size)), Some(size));
    }
}

#[test]
fn huge_texts_are_refused_or_read_in_a_moment() {
    let start = "apiVersion: causeway.dev/v1\nkind: Topic\nmetadata: {name: a}\nspec:\n";
    let fields: String = (0..200_000).map(|n| format!("  field{n}: 1\n")).collect();
    let parsed = parse("t", &format!("{start}{fields}"));
    assert!(parsed.documents.is_empty() && parsed.problems.len() <= 1000);
    for part in ["[", "{a: ", "- ", "? ", "\"", "a: &a ", "---\n", "- *a\n", "'", "| ", "%", "&a ", "!a "] {
        let text = part.repeat((2 << 20) / part.len());
        let parsed = parse("t", &text);
        assert!(parsed.documents.is_empty());
        check(&parsed);
    }
    let text = " ".repeat(causeway_spec::TEXT_BYTES_MAX + 1);
    assert_eq!(parse("t", &text).problems[0].code.as_str(), "CW-1002");
    let name = Name::new("a").unwrap();
    assert_eq!(body::topic(&name, &name, text.as_bytes()).unwrap_err()[0].code.as_str(), "CW-1002");
}
