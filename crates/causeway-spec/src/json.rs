//! JSON text (RFC 8259) to a tree. YAML readers take most of JSON, but not its surrogate pairs, so JSON has its own.
//!
//! In:    text.     Out: one [`Node`] for each value of it, or where it is wrong.
//! Owner: the caller.
//! Invariant: never panics, whatever the text; duplicate keys are reported and the first one counts.
//! Not here: YAML (`yaml.rs`).

use crate::problem::Code;
use crate::tree::{DEPTH_MAX, Entry, Mark, Node, Value};

/// Something wrong with the text itself.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) mark: Mark,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Reads one JSON value, and nothing after it.
pub(crate) fn parse(text: &str) -> (Option<Node>, Vec<Fault>) {
    let mut scanner = Scanner::new(text);
    let node = scanner.value(0).and_then(|node| {
        scanner.blanks();
        match scanner.peek() {
            None => Ok(node),
            Some(_) => Err(scanner.fault("text after the end of the JSON value", "a body is one JSON value")),
        }
    });
    scanner.finish(node)
}

/// Reads JSON values one after the other.
pub(crate) fn parse_stream(text: &str) -> (Vec<Node>, Vec<Fault>) {
    let mut scanner = Scanner::new(text);
    let mut nodes = Vec::new();
    loop {
        scanner.blanks();
        if scanner.peek().is_none() {
            return (nodes, scanner.faults);
        }
        match scanner.value(0) {
            Ok(node) => nodes.push(node),
            Err(fault) => {
                scanner.faults.push(fault);
                return (nodes, scanner.faults);
            }
        }
    }
}

struct Scanner<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    mark: Mark,
    faults: Vec<Fault>,
}

type Read<T> = Result<T, Fault>;

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Scanner { rest: text.chars().peekable(), mark: Mark { line: 1, column: 1 }, faults: Vec::new() }
    }

    fn finish(mut self, node: Read<Node>) -> (Option<Node>, Vec<Fault>) {
        match node {
            Ok(node) => (Some(node), self.faults),
            Err(fault) => {
                self.faults.push(fault);
                (None, self.faults)
            }
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.mark = Mark { line: self.mark.line.saturating_add(1), column: 1 };
        } else {
            self.mark.column = self.mark.column.saturating_add(1);
        }
        Some(c)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\r' | '\n')) {
            self.next();
        }
    }

    fn fault(&self, message: impl Into<String>, hint: &str) -> Fault {
        Fault { code: Code::Syntax, mark: self.mark, message: message.into(), hint: hint.to_owned() }
    }

    fn unexpected(&mut self, wanted: &str) -> Fault {
        let found = match self.peek() {
            Some(c) => format!("{c:?}"),
            None => "the end of the text".to_owned(),
        };
        self.fault(
            format!("this is not valid JSON: found {found} where {wanted} is expected"),
            "JSON wants double quotes around texts and keys, a comma between entries and none after the last",
        )
    }

    fn value(&mut self, depth: usize) -> Read<Node> {
        self.blanks();
        let mark = self.mark;
        if depth >= DEPTH_MAX {
            return Err(Fault {
                code: Code::TooBig,
                mark,
                message: format!("nested deeper than {DEPTH_MAX} levels"),
                hint: "no document needs that; look for brackets that are not closed".to_owned(),
            });
        }
        let value = match self.peek() {
            Some('{') => self.map(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.text()?),
            Some('-' | '0'..='9') => self.number()?,
            Some(c) if c.is_ascii_alphabetic() => self.word()?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Node { mark, value })
    }

    fn map(&mut self, depth: usize) -> Read<Value> {
        self.next();
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::BTreeMap::new();
        self.blanks();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Value::Map(entries));
        }
        loop {
            self.blanks();
            let mark = self.mark;
            if self.peek() != Some('"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let key = self.text()?;
            self.blanks();
            if self.peek() != Some(':') {
                return Err(self.unexpected("':'"));
            }
            self.next();
            let value = self.value(depth + 1)?;
            match seen.get(&key) {
                Some(first) => self.faults.push(duplicate(&key, mark, *first)),
                None => {
                    seen.insert(key.clone(), mark);
                    entries.push(Entry { key, mark, value });
                }
            }
            self.blanks();
            match self.peek() {
                Some(',') => self.next(),
                Some('}') => {
                    self.next();
                    return Ok(Value::Map(entries));
                }
                _ => return Err(self.unexpected("',' or '}'")),
            };
        }
    }

    fn list(&mut self, depth: usize) -> Read<Value> {
        self.next();
        let mut items = Vec::new();
        self.blanks();
        if self.peek() == Some(']') {
            self.next();
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks();
            match self.peek() {
                Some(',') => self.next(),
                Some(']') => {
                    self.next();
                    return Ok(Value::List(items));
                }
                _ => return Err(self.unexpected("',' or ']'")),
            };
        }
    }

    fn word(&mut self) -> Read<Value> {
        let start = self.mark;
        let mut word = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_alphanumeric) {
            word.push(c);
            self.next();
        }
        match word.as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" => Ok(Value::Null),
            _ => Err(Fault {
                mark: start,
                ..self.fault(
                    format!("this is not valid JSON: {:?} is not a value", crate::tree::shorten(&word)),
                    "put texts in double quotes; the only bare words are true, false and null",
                )
            }),
        }
    }

    fn digits(&mut self, out: &mut String) -> Read<()> {
        if !matches!(self.peek(), Some('0'..='9')) {
            return Err(self.unexpected("a digit"));
        }
        while let Some(c @ '0'..='9') = self.peek() {
            out.push(c);
            self.next();
        }
        Ok(())
    }

    fn number(&mut self) -> Read<Value> {
        let start = self.mark;
        let mut out = String::new();
        if self.peek() == Some('-') {
            out.push('-');
            self.next();
        }
        if self.peek() == Some('0') {
            out.push('0');
            self.next();
            if matches!(self.peek(), Some('0'..='9')) {
                return Err(self.unexpected("no digit after a leading 0"));
            }
        } else {
            self.digits(&mut out)?;
        }
        if self.peek() == Some('.') {
            out.push('.');
            self.next();
            self.digits(&mut out)?;
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            out.push('e');
            self.next();
            if let Some(sign @ ('+' | '-')) = self.peek() {
                out.push(sign);
                self.next();
            }
            self.digits(&mut out)?;
        }
        if !crate::tree::is_finite(&out) {
            let fault =
                self.fault("a number beyond 1.7e308", "write a smaller one, or put it in double quotes");
            return Err(Fault { mark: start, ..fault });
        }
        Ok(Value::Number(out))
    }

    fn text(&mut self) -> Read<String> {
        self.next();
        let mut out = String::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.next();
                    return Ok(out);
                }
                Some('\\') => {
                    self.next();
                    out.push(self.escape()?);
                }
                Some(c) if (c as u32) >= 0x20 => {
                    out.push(c);
                    self.next();
                }
                _ => return Err(self.unexpected("the closing '\"' of a text")),
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let c = match self.peek() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                self.next();
                return self.unicode();
            }
            _ => return Err(self.unexpected("one of \" \\ / b f n r t u after a backslash")),
        };
        self.next();
        Ok(c)
    }

    /// After `\u`: four hex digits, and the second half of a surrogate pair where the first wants one.
    fn unicode(&mut self) -> Read<char> {
        let start = self.mark;
        let lone = |scanner: &Scanner<'_>| Fault {
            mark: start,
            ..scanner.fault(
                "this is not valid JSON: half of a surrogate pair stands alone",
                "write the character itself, or both halves as \\uD83D\\uDE00",
            )
        };
        let first = self.hex4()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).ok_or_else(|| lone(self));
        }
        if first >= 0xdc00 || self.peek() != Some('\\') {
            return Err(lone(self));
        }
        self.next();
        if self.peek() != Some('u') {
            return Err(lone(self));
        }
        self.next();
        let second = self.hex4()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(lone(self));
        }
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or_else(|| lone(self))
    }

    fn hex4(&mut self) -> Read<u32> {
        let mut number = 0;
        for _ in 0..4 {
            match self.peek().and_then(|c| c.to_digit(16)) {
                Some(digit) => number = number * 16 + digit,
                None => return Err(self.unexpected("a hexadecimal digit")),
            }
            self.next();
        }
        Ok(number)
    }
}

/// The fault of a key that is there twice.
pub(crate) fn duplicate(key: &str, mark: Mark, first: Mark) -> Fault {
    Fault {
        code: Code::DuplicateKey,
        mark,
        message: format!("the key {:?} is written twice in one mapping", crate::tree::shorten(key)),
        hint: format!(
            "the first one is at line {}, column {}; remove one, or put both into a list if you meant two entries",
            first.line, first.column
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_json_s_own() {
        let text =
            r#"{"a\/b":"\ud83d\ude00 \u00e9 \b\f\n\r\t\"\\","n":-1.50E+3,"big":12345678901234567890123}"#;
        let (node, faults) = parse(text);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(
            node.unwrap().to_json(),
            r#"{"a/b":"😀 é \u0008\u000c\n\r\t\"\\","big":12345678901234567890123,"n":-1.50e+3}"#
        );
    }

    #[test]
    fn what_is_not_json_is_said_with_its_place() {
        for (text, line, column) in [
            ("{", 1, 2),
            ("{\"a\":1,}", 1, 8),
            ("[1 2]", 1, 4),
            ("{a:1}", 1, 2),
            ("\n 01", 2, 3),
            ("tru", 1, 1),
            ("\"\\ud800\"", 1, 4),
            ("\"\\x\"", 1, 3),
            ("1 2", 1, 3),
            ("[1e999]", 1, 2),
            ("", 1, 1),
            ("\"a\nb\"", 1, 3),
        ] {
            let (node, faults) = parse(text);
            assert!(node.is_none(), "{text:?}");
            let mark = faults[0].mark;
            assert_eq!((mark.line, mark.column), (line, column), "{text:?}: {}", faults[0].message);
        }
        let (node, faults) = parse(r#"{"a":1,"a":2}"#);
        assert_eq!(node.unwrap().to_json(), r#"{"a":1}"#);
        assert_eq!(faults[0].code, Code::DuplicateKey);
        assert_eq!(parse(&"[".repeat(100_000)).1[0].code, Code::TooBig);
    }
}
