//! The parser of `cel`, which recurses without a bound of its own, on a stack that holds any text it is given.
//!
//! In:    a text.      Out: its program and size, within [`Limits`], or a [`Refusal`].
//! Owner: the caller, who waits for the parser's thread.
//! Invariant: the stack suffices for every text (held by the tests below); a tree too deep is dropped where it was parsed.
//! Not here: the bounds themselves (`limits.rs`, and the rooms), what evaluation costs (the rooms).

use std::sync::{Arc, LazyLock};
use std::thread;

use cel::Env;
use cel::parser::ParseErrors;

use crate::limits::{Limits, Refusal};
use crate::tree::{self, Size};

/// The language's standard library with `base64`, built once: building it costs more than evaluating most expressions.
pub(crate) static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(cel::extensions::encoders).expect("nothing else declares base64");
    Arc::new(env)
});

/// The parser's stack: for every text, for each bracket within brackets, and for each byte (the densest text is a chain of
/// operators, whose tree is as deep as it is long). Reserved, not filled: only what is touched is ever backed by memory, and most
/// texts touch nothing but the first part.
///
/// Measured on x86-64 by the test below: 24 brackets within each other touch 4.1 MiB in a debug build and 0.2 MiB in a release
/// build, a chain of 2047 operators in 4095 bytes 3.1 MiB (`a.a.a`; 2.5 MiB `1+1+1`) and 0.9 MiB, both at once 4.6 MiB and 1.0 MiB,
/// and conditions within each other 1 MiB before the parser's own bound of 96. So a text of 4096 bytes and 24 brackets is given 32
/// MiB (debug) or 11.5 MiB (release). The room to spare is for other targets and compilers.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 4 << 20 } else { 2 << 20 };
const STACK_BYTES_PER_BRACKET: usize = if cfg!(debug_assertions) { 512 << 10 } else { 64 << 10 };
const STACK_BYTES_PER_BYTE: usize = if cfg!(debug_assertions) { 4 << 10 } else { 2 << 10 };

/// Most complaints of the parser that are repeated: each shows the text's line, and a text of noise has one for each byte.
const COMPLAINTS_MAX: usize = 3;

/// Parses on a thread of its own.
pub(crate) fn parse(text: &str, limits: &Limits) -> Result<(cel::Program, Size), Refusal> {
    if text.len() > limits.bytes {
        return Err(Refusal::Long { max: limits.bytes });
    }
    let nesting = nesting(text);
    if nesting > limits.nesting {
        return Err(Refusal::Nested { max: limits.nesting });
    }
    let parser = thread::Builder::new().name("cel-parser".to_owned()).stack_size(stack_bytes(text, nesting));
    thread::scope(|scope| match parser.spawn_scoped(scope, || parse_here(text, limits)) {
        // The parser panicked: no text is known that makes it.
        Ok(thread) => {
            thread.join().unwrap_or_else(|_| Err(Refusal::NotCel("the parser failed on it".to_owned())))
        }
        Err(error) => Err(Refusal::NoThread(error.to_string())),
    })
}

/// Parses on this stack, and gives the program back only when it can be walked on anyone's.
fn parse_here(text: &str, limits: &Limits) -> Result<(cel::Program, Size), Refusal> {
    let program = ENV.compile(text).map_err(|errors| Refusal::NotCel(words(&errors)))?;
    let size = tree::measure(program.expression());
    match () {
        () if size.depth > limits.depth => Err(Refusal::Deep { max: limits.depth }),
        () if size.loops > limits.loops => Err(Refusal::Loops { max: limits.loops }),
        () => Ok((program, size)),
    }
}

fn stack_bytes(text: &str, nesting: usize) -> usize {
    let brackets = nesting.saturating_mul(STACK_BYTES_PER_BRACKET);
    STACK_BYTES.saturating_add(brackets).saturating_add(text.len().saturating_mul(STACK_BYTES_PER_BYTE))
}

/// How deep brackets lie within each other (those in strings counted too: a string of brackets is rare).
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// What the parser says of a text.
fn words(errors: &ParseErrors) -> String {
    let said: Vec<String> = errors.errors.iter().take(COMPLAINTS_MAX).map(ToString::to_string).collect();
    match errors.errors.len().saturating_sub(COMPLAINTS_MAX) {
        0 => said.join("\n"),
        more => format!("{}\nand {more} more", said.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of this thread's stack that were ever touched.
    #[cfg(target_os = "linux")]
    fn touched() -> usize {
        let here = 0u8;
        let address = std::ptr::from_ref(&here) as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_ours = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((from, to)) = range
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                is_ours = (from..to).contains(&address);
            } else if is_ours && let Some(size) = line.strip_prefix("Rss:") {
                return size.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
            }
        }
        panic!("no mapping holds this stack");
    }

    /// What the parser takes for each shape of text, twice over, is less than it is given. `--nocapture` shows the figures behind the
    /// constants.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_stack_suffices_twice() {
        let limits = Limits { bytes: 4096, nesting: 24, depth: 32, loops: 2 };
        let shapes = [
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("{1:", "1", "}"),
            ("int(", "1", ")"),
            ("a.b(", "1", ")"),
            ("a[", "1", "]"),
            ("A{a:", "1", "}"),
            ("1?1:(", "1", ")"),
            ("[1].all(x,", "true", ")"),
            ("(", "1", ""),
            ("", "1", ")"),
            ("1+", "1", ""),
            ("1==", "1", ""),
            ("a||", "a", ""),
            ("!", "true", ""),
            ("-", "1", ""),
            ("", "a", ".a"),
            ("", "a", "[0]"),
            ("", "a", ".a()"),
            ("", "a", ".all(x,x)"),
            ("true?true:", "true", ""),
            ("1,", "1", ""),
            ("'", "1", ""),
            ("\u{1F600}", "1", ""),
        ];
        let mut texts = Vec::new();
        for (open, middle, close) in shapes {
            let of = |n: usize| format!("{}{middle}{}", open.repeat(n), close.repeat(n));
            let fits = |text: &String| text.len() <= limits.bytes && nesting(text) <= limits.nesting;
            let (most, _) = (0..).map(of).enumerate().take_while(|(_, text)| fits(text)).last().unwrap();
            texts.extend([0, 1, most / 2, most].map(of));
        }
        let long = format!("{}a{}", "1?1:".repeat(60), ".a".repeat(1900));
        texts.push(format!("{}{long}{}", "[".repeat(24), "]".repeat(24)));
        for text in texts {
            let name = format!("{} bytes {:.20}", text.len(), text);
            let given = stack_bytes(&text, nesting(&text));
            let run = move || {
                let before = touched();
                drop(parse_here(&text, &limits));
                (before, touched())
            };
            // Far more than it is given outside this test: what is too little must show here as a number.
            let parser = thread::Builder::new().stack_size(512 << 20).spawn(run).unwrap();
            let (before, after) = parser.join().unwrap();
            println!("{} of {} KiB: {name}", (after - before) >> 10, given >> 10);
            assert!(2 * after <= given, "{after} of {given}: {name}");
        }
    }

    /// A worker of the runtime has 2 MiB, of which others need some.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_given_back_runs_on_three_quarters_of_a_workers_stack() {
        let limits = Limits { bytes: 4096, nesting: 24, depth: 32, loops: 2 };
        for (open, middle, close) in [
            ("1+", "1", ""),
            ("1==", "1", ""),
            ("true?(", "true", "):false"),
            ("false?true:", "true", ""),
            ("[", "1", "]"),
            ("{1:", "1", "}"),
            ("[", "1", "][0]"),
            ("int(", "1", ")"),
            ("", "{'a':1}", ".a"),
            ("", "'a'", ".startsWith('a')"),
            ("", "[1]", ".map(x,x)"),
            ("[1].all(x,[2].map(y,", "true", ")[0])"),
            ("!(true && ", "true", ")"),
        ] {
            let of = |n: usize| format!("{}{middle}{}", open.repeat(n), close.repeat(n));
            let program = |n: usize| parse(&of(n), &limits);
            let most = (0..40).rfind(|n| program(*n).is_ok()).unwrap();
            let (program, size) = program(most).unwrap();
            let run = move || {
                let _ = program.execute(&crate::context());
                drop(program);
                touched()
            };
            let used = thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap().join().unwrap();
            println!("{} KiB, depth {}: {:.40}", used >> 10, size.depth, of(most));
            assert!(used <= 3 << 19, "{used}: {:.40}", of(most));
        }
    }

    #[test]
    fn brackets_are_counted() {
        for (text, deep) in [("", 0), ("()[]{}", 1), ("([{}])", 3), (")))(", 1), ("'(('", 2)] {
            assert_eq!(nesting(text), deep, "{text}");
        }
    }
}
