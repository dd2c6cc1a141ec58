//! Whatever is written, the process lives on and the answer comes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::mpsc;
use std::time::Duration;

use causeway_expression::{Limits, Refusal, compile, context, value_of};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const LIMITS: Limits = Limits { bytes: 4096, nesting: 24, depth: 32, loops: 2 };
/// A text takes milliseconds; this is for a debug build on a machine with a hundred other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Stack of those who evaluate: a worker of the runtime.
const WORKER_STACK_BYTES: usize = 2 << 20;

/// What an expression is made of, and what breaks one.
const TOKENS: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    ":",
    "?",
    "?.",
    ".?",
    "[?",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "&&",
    "||",
    " in ",
    "a",
    "b",
    "items",
    ".all(",
    ".exists(i, ",
    ".map(i, ",
    ".filter(i, ",
    ".exists_one(i, ",
    "has(",
    "int(",
    "size(",
    "type(",
    "duration(",
    "timestamp(",
    ".matches(",
    "i",
    "1",
    "9223372036854775807",
    "-9223372036854775808",
    "2u",
    "1.5",
    "1e999",
    "''",
    "'x'",
    "\"y\"",
    "b'z'",
    "r'\\'",
    "'''",
    "'\\u",
    "null",
    "true",
    "false",
    "//",
    "\n",
    "`",
    "$",
    "é",
    "\u{0}",
    "A{",
    "a:",
    ".",
    "..",
    "@",
];

fn text() -> impl Strategy<Value = String> {
    let noise = vec(any::<char>(), 0..1024).prop_map(String::from_iter);
    let soup = |most| vec(select(TOKENS), 0..most).prop_map(|tokens: Vec<&str>| tokens.concat());
    let pair = select(
        &[
            ("(", ")"),
            ("[", "]"),
            ("{1:", "}"),
            ("int(", ")"),
            ("a[", "]"),
            ("a.b(", ")"),
            ("A{a:", "}"),
            ("items.map(i, ", ")"),
            ("1?1:(", ")"),
            ("!", ""),
            ("-", ""),
            ("1+", ""),
            ("a==", ""),
            ("a||", ""),
            ("a?a:", ""),
            ("", ".a"),
            ("", "[0]"),
            ("", ".a()"),
            ("", "+1"),
            ("'", "'"),
        ][..],
    );
    let nested = (vec((pair, 0usize..1500), 1..4), soup(6)).prop_map(|(layers, middle)| {
        layers.into_iter().fold(middle, |inner, ((open, close), count)| {
            let count = if open.contains(['(', '[', '{']) || close == ")" { count % 26 } else { count };
            let text = format!("{}{inner}{}", open.repeat(count), close.repeat(count));
            if text.len() <= LIMITS.bytes { text } else { inner }
        })
    });
    prop_oneof![1 => noise, 2 => soup(12), 2 => soup(1500), 4 => nested]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_ends_the_process(text in text()) {
        let (done, waiting) = mpsc::channel();
        let worker = std::thread::Builder::new().stack_size(WORKER_STACK_BYTES);
        let worker = worker.spawn({
            let text = text.clone();
            move || {
                if let Ok(program) = compile(&text, &LIMITS) {
                    let json = serde_json::json!({"a": 1, "b": {"c": 2.5}, "items": [1, "two", [3], null]});
                    let mut context = context();
                    for name in ["a", "b", "items"] {
                        context.add_variable_from_value(name, value_of(&json[name]));
                    }
                    let mut nodes = 0;
                    program.walk(&mut |_, _| {
                        nodes += 1;
                        true
                    });
                    assert!(program.names().len() <= nodes);
                    let _ = program.evaluate(&context).map(|value| value.json().is_ok());
                }
                let _ = done.send(());
            }
        });
        let answer = waiting.recv_timeout(PATIENCE);
        prop_assert!(answer != Err(mpsc::RecvTimeoutError::Timeout), "no answer for {text:?}");
        prop_assert!(worker.unwrap().join().is_ok(), "a panic for {text:?}");
    }
}

fn check(text: &str, expect: Result<(), Refusal>) {
    assert_eq!(compile(text, &LIMITS).map(drop), expect, "{text:.80}");
}

#[test]
fn each_limit_is_held() {
    let brackets = |n| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    check(&brackets(24), Ok(()));
    check(&brackets(25), Err(Refusal::Nested { max: 24 }));
    check(&brackets(2000), Err(Refusal::Nested { max: 24 }));
    check(&vec!["1"; 32].join("+"), Ok(()));
    check(&vec!["1"; 33].join("+"), Err(Refusal::Deep { max: 32 }));
    check(&vec!["1"; 1001].join("+"), Err(Refusal::Deep { max: 32 }));
    check(&vec!["1"; 2049].join("+"), Err(Refusal::Long { max: 4096 }));
    check("[1].all(a, [1].all(b, true))", Ok(()));
    check("[1].all(a, [1].all(b, [1].all(c, true)))", Err(Refusal::Loops { max: 2 }));
    check(&vec!["a"; 1000].join("||"), Ok(()));
}

#[test]
fn the_parser_is_quoted_briefly() {
    let Err(Refusal::NotCel(words)) = compile("a +", &LIMITS) else { panic!("it is not CEL") };
    assert!(words.contains("<input>:1:") && words.contains("| a +"), "{words}");
    let Err(Refusal::NotCel(words)) = compile(&"#".repeat(4096), &LIMITS) else { panic!("it is not CEL") };
    assert!(words.len() < 10 * LIMITS.bytes && words.ends_with(" more"), "{} bytes", words.len());
}

/// In a process of its own, whose memory has an end: the text is so long that its stack does not fit.
#[cfg(target_os = "linux")]
#[test]
fn where_there_is_no_room_for_the_parser_it_is_said() {
    const CHILD: &str = "CAUSEWAY_EXPRESSION_CHILD";
    let limits = Limits { bytes: 64 << 20, ..LIMITS };
    if std::env::var_os(CHILD).is_some() {
        let refused = compile(&"a".repeat(limits.bytes), &limits).map(drop);
        assert!(matches!(&refused, Err(Refusal::NoThread(_))), "{refused:?}");
        assert_eq!(compile("a", &limits).map(drop), Ok(()));
        return;
    }
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "ulimit -v 4194304 && exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    child.args(["--exact", "where_there_is_no_room_for_the_parser_it_is_said", "--nocapture"]);
    let output = child.env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}
