//! YAML 1.2 text to trees, one for each document, each with its places; a broken document leaves its neighbours whole.
//!
//! In:    text.     Out: [`Chunk`]s in the order written: what could be read of each, and what is wrong with it.
//! Owner: the caller.
//! Invariant: never panics, whatever the text; only the core schema's types; no alias is ever expanded.
//! Not here: JSON (`json.rs`), writing YAML (`emit.rs`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use crate::json::{Fault, duplicate};
use crate::problem::Code;
use crate::tree::{DEPTH_MAX, Entry, Mark, Node, Value, is_finite};

/// One document of a text (several only where a lone carriage return ends lines).
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) nodes: Vec<Node>,
    pub(crate) faults: Vec<Fault>,
}

/// Reads every document of `text`, at most `documents_max`. In YAML a line that begins with `---` ends the document before
/// it even within quotes or a block, so the text is cut there first, and each piece fails or succeeds alone.
pub(crate) fn parse(text: &str, documents_max: usize) -> Vec<Chunk> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    for (first_line, piece) in split(text) {
        if chunks.len() == documents_max {
            let fault = Fault {
                code: Code::TooBig,
                mark: Mark { line: first_line, column: 1 },
                message: format!("more than {documents_max} documents in one text"),
                hint: "spread them over several files".to_owned(),
            };
            chunks.push(Chunk { nodes: Vec::new(), faults: vec![fault] });
            break;
        }
        chunks.push(Builder::new(first_line).build(piece));
    }
    chunks
}

/// Pieces of `text` that hold one document each, with the line they begin at.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut pieces = Vec::new();
    let mut piece = Piece { start: 0, line: 1, has_content: false, has_directive: false };
    let mut line_number: u32 = 1;
    for (start, line) in lines(text) {
        let end = start + line.len();
        if is_marker(line, "---") {
            if piece.has_content || !piece.has_directive {
                piece.cut(text, start, line_number, &mut pieces);
            }
            piece.has_content = true;
        } else if is_marker(line, "...") {
            piece.cut(text, end, line_number.saturating_add(1), &mut pieces);
        } else if line.starts_with('%') && !piece.has_content {
            piece.has_directive = true;
        } else if !matches!(
            line.trim_start_matches([' ', '\t']).chars().next(),
            None | Some('#' | '\n' | '\r')
        ) {
            piece.has_content = true;
        }
        line_number = line_number.saturating_add(1);
    }
    piece.cut(text, text.len(), line_number, &mut pieces);
    pieces
}

struct Piece {
    start: usize,
    line: u32,
    has_content: bool,
    has_directive: bool,
}

impl Piece {
    fn cut<'t>(&mut self, text: &'t str, end: usize, next_line: u32, pieces: &mut Vec<(u32, &'t str)>) {
        if self.has_content || self.has_directive {
            pieces.push((self.line, &text[self.start..end]));
        }
        *self = Piece { start: end, line: next_line, has_content: false, has_directive: false };
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

/// Lines with their ends, at `\n`, `\r\n` and lone `\r`.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let length = match rest.find(['\n', '\r']) {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None => rest.len(),
        };
        let line = (start, &rest[..length]);
        start += length;
        Some(line)
    })
}

/// What a [`Builder`] is in the middle of.
enum Frame {
    List { mark: Mark, items: Vec<Node> },
    Map { mark: Mark, entries: Vec<Entry>, seen: BTreeMap<String, Mark>, key: Option<(String, Mark)> },
}

struct Builder {
    /// Lines before the piece.
    lines_before: u32,
    stack: Vec<Frame>,
    chunk: Chunk,
}

/// The rest of the piece is not worth reading.
struct Stop;

impl Builder {
    fn new(first_line: u32) -> Self {
        Builder { lines_before: first_line - 1, stack: Vec::new(), chunk: Chunk::default() }
    }

    fn build(mut self, piece: &str) -> Chunk {
        let mut parser = Parser::new(StrInput::new(piece));
        while let Some(event) = parser.next_event() {
            let step = match event {
                Ok((event, span)) => self.event(event, span),
                Err(error) => {
                    let fault = self.syntax(&error, piece);
                    self.chunk.faults.push(fault);
                    Err(Stop)
                }
            };
            if step.is_err() {
                break;
            }
        }
        self.chunk
    }

    fn mark(&self, line: usize, column: usize) -> Mark {
        let line = u32::try_from(line).unwrap_or(u32::MAX).max(1);
        Mark {
            line: self.lines_before.saturating_add(line),
            column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let mark = self.mark(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, _, tag) => self.scalar(mark, text, style, tag.as_deref()),
            Event::SequenceStart(_, tag) => {
                self.open(mark, tag.as_deref(), "seq", Frame::List { mark, items: Vec::new() })
            }
            Event::MappingStart(_, tag) => {
                let frame = Frame::Map { mark, entries: Vec::new(), seen: BTreeMap::new(), key: None };
                self.open(mark, tag.as_deref(), "map", frame)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { mark, items }) => self.put(Node { mark, value: Value::List(items) }),
                Some(Frame::Map { mark, entries, .. }) => self.put(Node { mark, value: Value::Map(entries) }),
                None => Err(Stop),
            },
            Event::Alias(_) => {
                self.chunk.faults.push(alias(mark));
                Err(Stop)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn refuse(&mut self, mark: Mark, message: &str, hint: &str) -> Result<(), Stop> {
        self.chunk.faults.push(Fault {
            code: Code::YamlFeature,
            mark,
            message: message.to_owned(),
            hint: hint.to_owned(),
        });
        Err(Stop)
    }

    fn open(&mut self, mark: Mark, tag: Option<&Tag>, own: &str, frame: Frame) -> Result<(), Stop> {
        if self.wants_key() {
            return self.refuse(
                mark,
                "a key that is a list or a mapping is not accepted",
                "keys are texts; a value that begins with { or [ and is meant as text needs quotes",
            );
        }
        if tag.is_some_and(|tag| !(tag.is_yaml_core_schema() && tag.suffix == own)) {
            return self.foreign_tag(mark);
        }
        if self.stack.len() >= DEPTH_MAX {
            self.chunk.faults.push(Fault {
                code: Code::TooBig,
                mark,
                message: format!("nested deeper than {DEPTH_MAX} levels"),
                hint: "no document needs that; look for brackets that are not closed".to_owned(),
            });
            return Err(Stop);
        }
        self.stack.push(frame);
        Ok(())
    }

    fn foreign_tag(&mut self, mark: Mark) -> Result<(), Stop> {
        self.refuse(
            mark,
            "a tag (!name) of a foreign type is not accepted",
            "leave it out, or put the value in quotes if it is a text that begins with '!'",
        )
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::Map { key: None, .. }))
    }

    fn scalar(
        &mut self,
        mark: Mark,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
    ) -> Result<(), Stop> {
        if let Some(Frame::Map { key: key @ None, .. }) = self.stack.last_mut() {
            if style == ScalarStyle::Plain && text == "<<" {
                return self.refuse(
                    mark,
                    "a merge key (<<) is not accepted",
                    "write the fields out: merge keys are not part of YAML 1.2",
                );
            }
            if style == ScalarStyle::Plain && text.is_empty() {
                self.chunk.faults.push(Fault {
                    code: Code::Syntax,
                    mark,
                    message: "a key is empty".to_owned(),
                    hint: "write `key: value`; a value that begins with ':' needs quotes".to_owned(),
                });
                return Err(Stop);
            }
            *key = Some((text.into_owned(), mark));
            return Ok(());
        }
        let value = match tag {
            None if style == ScalarStyle::Plain => resolve(&text),
            None => Some(Value::Text(text.into_owned())),
            Some(tag) if tag.is_yaml_core_schema() => match (tag.suffix.as_str(), resolve(&text)) {
                ("str", _) => Some(Value::Text(text.into_owned())),
                ("int" | "float", value @ Some(Value::Number(_)))
                | ("bool", value @ Some(Value::Bool(_)))
                | ("null", value @ Some(Value::Null)) => value,
                _ => return self.foreign_tag(mark),
            },
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Some(Value::Text(text.into_owned())),
            Some(_) => return self.foreign_tag(mark),
        };
        match value {
            Some(value) => self.put(Node { mark, value }),
            None => self.refuse(
                mark,
                "infinity, not-a-number and numbers beyond 1.7e308 are not accepted",
                "JSON has no such numbers; put it in quotes if it is meant as text",
            ),
        }
    }

    fn put(&mut self, node: Node) -> Result<(), Stop> {
        match self.stack.last_mut() {
            None => self.chunk.nodes.push(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, seen, key, .. }) => {
                // A collection as a key was refused when it opened, so there is a key.
                let Some((key, mark)) = key.take() else { return Err(Stop) };
                match seen.get(&key) {
                    Some(first) => self.chunk.faults.push(duplicate(&key, mark, *first)),
                    None => {
                        seen.insert(key.clone(), mark);
                        entries.push(Entry { key, mark, value: node });
                    }
                }
            }
        }
        Ok(())
    }

    fn syntax(&self, error: &ScanError, piece: &str) -> Fault {
        let mark = self.mark(error.marker().line(), error.marker().col());
        if error.info().contains("unknown anchor") {
            return alias(mark);
        }
        let line = lines(piece).nth(error.marker().line().saturating_sub(1)).map_or("", |(_, line)| line);
        Fault {
            code: Code::Syntax,
            mark,
            message: format!("this is not valid YAML: {}", shorten_info(error.info())),
            hint: syntax_hint(error.info(), line).to_owned(),
        }
    }
}

fn alias(mark: Mark) -> Fault {
    Fault {
        code: Code::YamlFeature,
        mark,
        message: "an alias (*name) is not accepted".to_owned(),
        hint: "write the value out where it is used (aliases can make a small text huge), or put it in quotes if it is a text"
            .to_owned(),
    }
}

/// The reader's own words, which may quote the text.
fn shorten_info(info: &str) -> String {
    info.chars().take(120).collect()
}

/// The likely mistake behind what the reader says.
fn syntax_hint(info: &str, line: &str) -> &'static str {
    let has_tab = line.starts_with([' ', '\t']) && line.trim_start_matches(' ').starts_with('\t');
    if has_tab || info.contains("tab") {
        "YAML is indented with blanks only: replace the tab"
    } else if info.contains("mapping values are not allowed") {
        "a text that holds \": \" needs quotes; or this line is indented further than the ones before it"
    } else if info.contains("end of stream")
        || info.contains("EOF")
        || info.contains("eof")
        || info.contains("unclosed")
    {
        "a quote or bracket that was opened is never closed"
    } else if info.contains("flow") || info.contains("',' or") || info.contains("bracket") {
        "look at the brackets: entries in { } and [ ] stand between commas, and each bracket is closed"
    } else if info.contains("escape") || info.contains("quoted") {
        "in double quotes a backslash begins an escape: write \\\\ for one, or use single quotes"
    } else {
        "look at the indentation of this line and of the one before it: entries of one mapping or list begin in the same column"
    }
}

/// The core schema's type of a plain scalar; `None` for a number that JSON cannot say.
fn resolve(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return None,
        _ => match number(text) {
            Some(number) if is_finite(&number) => Value::Number(number),
            Some(_) => return None,
            None => Value::Text(text.to_owned()),
        },
    })
}

/// The JSON text of a core-schema number (`inf` for infinity, which is then refused); `None` when it is none.
fn number(text: &str) -> Option<String> {
    let radix = |digits: &str, radix| u128::from_str_radix(digits, radix).ok().map(|n| n.to_string());
    if let Some(digits) = text.strip_prefix("0x") {
        return digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| radix(digits, 16))?;
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return digits.bytes().all(|b| b.is_ascii_digit()).then(|| radix(digits, 8))?;
    }
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Some("inf".to_owned());
    }
    let whole_length = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = unsigned.split_at(whole_length);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let exponent = match rest.strip_prefix(['e', 'E']) {
        Some(exponent) => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            format!("e{exponent}")
        }
        None if rest.is_empty() => String::new(),
        None => return None,
    };
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        trimmed => trimmed,
    };
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
    let sign = if whole == "0" && fraction.is_empty() && exponent.is_empty() { "" } else { sign };
    Some(format!("{sign}{whole}{fraction}{exponent}"))
}

/// Whether `text`, unquoted, would be read as something else than that text.
pub(crate) fn is_plain_text(text: &str) -> bool {
    matches!(resolve(text), Some(Value::Text(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let chunks = parse(text, 100);
        chunks
            .iter()
            .map(|chunk| {
                let nodes: Vec<String> = chunk.nodes.iter().map(Node::to_json).collect();
                let faults: Vec<String> = chunk
                    .faults
                    .iter()
                    .map(|fault| format!("{}@{}:{}", fault.code, fault.mark.line, fault.mark.column))
                    .collect();
                [nodes, faults].concat().join(" ")
            })
            .collect::<Vec<_>>()
            .join(" | ")
    }

    #[test]
    fn core_schema() {
        for (text, wanted) in [
            ("a: 1", r#"{"a":1}"#),
            ("[0x1F, 0o17, +5, 007, -0, .5, 1., -1.5e3, 1e2]", "[31,15,5,7,0,0.5,1,-1.5e3,1e2]"),
            ("[~, null, Null, , yes, on, True, FALSE]", ""),
            ("[~, null, Null, yes, on, True, FALSE]", r#"[null,null,null,"yes","on",true,false]"#),
            ("['1', \"true\", !!str 5, !!int 5]", r#"["1","true","5",5]"#),
            ("8080: x", r#"{"8080":"x"}"#),
            ("a: |\n  x\n  y\nb: >-\n  p\n  q\n", r#"{"a":"x\ny\n","b":"p q"}"#),
            ("1.2.3", r#""1.2.3""#),
            ("10s", r#""10s""#),
            ("12e", r#""12e""#),
        ] {
            if !wanted.is_empty() {
                assert_eq!(json(text), wanted, "{text}");
            }
        }
    }

    #[test]
    fn what_is_refused_and_where() {
        for (text, wanted) in [
            ("a: &x 1\nb: *x", "CW-1019@2:4"),
            ("a: !foo 1", "CW-1019@1:4"),
            ("<<: {a: 1}", "CW-1019@1:1"),
            ("{a: 1}: 2", "CW-1019@1:1"),
            ("a: .inf", "CW-1019@1:4"),
            ("a: 1e999", "CW-1019@1:4"),
            ("a: 1\na: 2", "{\"a\":1} CW-1004@2:1"),
        ] {
            assert_eq!(json(text), wanted, "{text}");
        }
        let deep = "- ".repeat(2000);
        assert!(json(&deep).starts_with("CW-1002"), "{}", json(&deep));
    }

    #[test]
    fn each_document_fails_alone_and_lines_count_on() {
        let text = "# head\n---\na: 1\n---\nb: [1\n---\n# only a comment\n---\nc: 'x\n---\n%YAML 1.2\n---\nd: 4\n...\ne: 5\n";
        assert_eq!(json(text).split(" | ").count(), 7, "{}", json(text));
        assert!(json(text).starts_with(r#"{"a":1} | CW-1001@"#), "{}", json(text));
        assert!(json(text).ends_with(r#"{"d":4} | {"e":5}"#), "{}", json(text));
        let crlf = parse("a: 1\r\n---\r\nb:\r\n  c: 1\r\n", 9);
        assert_eq!(crlf[1].nodes[0].mark, Mark { line: 3, column: 1 });
    }
}
