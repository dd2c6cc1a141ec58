//! Reading fields out of a tree: every getter says what is wrong, and reading goes on, so that all problems come at once.
//!
//! In:    nodes.     Out: values, and the [`Problem`]s of one object.
//! Owner: the reader of one text.
//! Invariant: a getter that returns `None` for a value that is there has reported why; a null counts as not written.
//! Not here: which fields a kind has (`kinds`).

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use causeway_model::Name;

use crate::json::Fault;
use crate::problem::{Code, Place, Problem};
use crate::tree::{Entry, Mark, Node, Value, shorten};
use crate::{bytes, duration};

/// Most problems that one text is told: who has more mends these first. Bounds memory for hostile texts.
pub(crate) const PROBLEMS_MAX: usize = 1000;
/// Most entries of any list or mapping of ours; far above every real document, so that one text stays one moment's work.
pub(crate) const ITEMS_MAX: usize = 10_000;

/// Collects the problems of one text.
pub(crate) struct Reader<'t> {
    path: &'t str,
    object: Option<String>,
    /// Values are not shown in messages (secrets).
    pub(crate) is_discreet: bool,
    /// Examples in hints are JSON.
    pub(crate) is_json: bool,
    problems: Vec<Problem>,
    errors: usize,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(path: &'t str) -> Self {
        Reader { path, object: None, is_discreet: false, is_json: false, problems: Vec::new(), errors: 0 }
    }

    /// Says which object the following problems are about.
    pub(crate) fn about(&mut self, object: Option<String>) {
        self.object = object;
    }

    /// How many errors there are so far, those left out included.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// Whether further problems are only counted.
    fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The problems, in the order of their places.
    pub(crate) fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        self.problems
    }

    pub(crate) fn place(&self, mark: Mark) -> Place {
        Place { path: self.path.to_owned(), line: mark.line, column: mark.column }
    }

    pub(crate) fn report(
        &mut self,
        code: Code,
        mark: Mark,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.errors += usize::from(!code.is_warning());
        // Warnings leave room: whoever looks for errors among the problems must find one.
        let most = if code.is_warning() { PROBLEMS_MAX / 2 } else { PROBLEMS_MAX };
        if self.problems.len() < most {
            self.problems.push(Problem {
                code,
                place: self.place(mark),
                object: self.object.clone(),
                message: message.into(),
                hint: Some(hint.into()),
            });
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.report(fault.code, fault.mark, fault.message, fault.hint);
    }
}

/// A value and the way to it, `rules[0].matches[1]`.
#[derive(Clone, Debug)]
pub(crate) struct At<'n> {
    pub(crate) node: &'n Node,
    pub(crate) path: String,
}

impl<'n> At<'n> {
    pub(crate) fn new(node: &'n Node, path: impl Into<String>) -> Self {
        At { node, path: path.into() }
    }

    pub(crate) fn mark(&self) -> Mark {
        self.node.mark
    }

    /// Reports a problem at this value; `message` follows the value's path.
    pub(crate) fn report(
        &self,
        r: &mut Reader<'_>,
        code: Code,
        message: impl Display,
        hint: impl Into<String>,
    ) {
        r.report(code, self.mark(), format!("{} {message}", self.path), hint);
    }

    /// Reports a problem about `member` of this value, at this value's place.
    pub(crate) fn report_as(
        &self,
        member: &str,
        r: &mut Reader<'_>,
        code: Code,
        message: impl Display,
        hint: impl Into<String>,
    ) {
        let mark = self.node.get(member).map_or(self.mark(), |node| node.mark);
        let message = if member.is_empty() { message.to_string() } else { format!("{member} {message}") };
        r.report(code, mark, message, hint);
    }

    /// A plain member, `path.name`.
    fn member(&self, entry: &'n Entry) -> At<'n> {
        let path = match self.path.as_str() {
            "" | "spec" | "the document" | "the body" => entry.key.clone(),
            path => format!("{path}.{}", entry.key),
        };
        At { node: &entry.value, path }
    }

    fn wrong_type<T>(&self, r: &mut Reader<'_>, wanted: &str, hint: impl Into<String>) -> Option<T> {
        let found = match r.is_discreet {
            true => "something else".to_owned(),
            false => self.node.describe(),
        };
        self.report(r, Code::WrongType, format_args!("must be {wanted}, found {found}"), hint);
        None
    }

    pub(crate) fn text(&self, r: &mut Reader<'_>) -> Option<&'n str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Number(_) | Value::Bool(_) if !r.is_discreet => {
                let quoted = self.node.to_json();
                self.wrong_type(r, "a text", format!("put it in quotes: \"{quoted}\""))
            }
            _ => self.wrong_type(r, "a text", "write one text here; quotes make anything a text"),
        }
    }

    /// A text of 1 to `bytes_max` bytes.
    pub(crate) fn text_within(&self, r: &mut Reader<'_>, bytes_max: usize) -> Option<&'n str> {
        let text = self.text(r)?;
        if text.is_empty() {
            self.report(r, Code::BadText, "must not be empty", "write a value, or leave the field out");
            return None;
        }
        if text.len() > bytes_max {
            let message = format!("must not be longer than {bytes_max} bytes, found {}", text.len());
            self.report(r, Code::OutOfRange, message, "shorten it");
            return None;
        }
        Some(text)
    }

    pub(crate) fn boolean(&self, r: &mut Reader<'_>) -> Option<bool> {
        match &self.node.value {
            Value::Bool(is_true) => Some(*is_true),
            Value::Text(text) if matches!(text.to_ascii_lowercase().as_str(), "yes" | "on" | "true") => {
                self.wrong_type(r, "true or false", "write true, without quotes")
            }
            Value::Text(text) if matches!(text.to_ascii_lowercase().as_str(), "no" | "off" | "false") => {
                self.wrong_type(r, "true or false", "write false, without quotes")
            }
            _ => self.wrong_type(r, "true or false", "write true or false"),
        }
    }

    pub(crate) fn number(&self, r: &mut Reader<'_>, range: RangeInclusive<u64>) -> Option<u64> {
        let (least, most) = (*range.start(), *range.end());
        let bounds = match most {
            u64::MAX => format!("a whole number of at least {least}"),
            _ => format!("a whole number from {least} to {most}"),
        };
        let Value::Number(number) = &self.node.value else {
            let hint = match self.node.as_text().map(str::parse::<u64>) {
                Some(Ok(number)) => format!("write it without quotes: {number}"),
                _ => format!("write {bounds}"),
            };
            return self.wrong_type(r, &bounds, hint);
        };
        match number.parse::<u64>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let message = format!("must be {bounds}, found {}", shorten(number));
                self.report(r, Code::OutOfRange, message, format!("write {bounds}"));
                None
            }
        }
    }

    pub(crate) fn u32(&self, r: &mut Reader<'_>, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.number(r, u64::from(*range.start())..=u64::from(*range.end()))?;
        u32::try_from(number).ok()
    }

    pub(crate) fn port(&self, r: &mut Reader<'_>) -> Option<u16> {
        self.number(r, 1..=65535).and_then(|port| u16::try_from(port).ok())
    }

    pub(crate) fn name(&self, r: &mut Reader<'_>) -> Option<Name> {
        let text = self.text(r)?;
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(why) => {
                let mended = mend_name(text);
                let hint = match Name::new(&mended) {
                    Ok(name) => format!("write {name:?}"),
                    Err(_) => "names look like \"orders\" or \"orders-v2\"".to_owned(),
                };
                self.report(r, Code::BadName, format_args!("is not valid: {why}"), hint);
                None
            }
        }
    }

    pub(crate) fn duration(&self, r: &mut Reader<'_>) -> Option<Duration> {
        self.read_duration(r, duration::parse, duration::FORM)
    }

    /// A duration where days are allowed.
    pub(crate) fn long_duration(&self, r: &mut Reader<'_>) -> Option<Duration> {
        let form = "numbers with the units d, h, m, s and ms, such as \"7d\" or \"12h\"";
        self.read_duration(r, duration::parse_long, form)
    }

    fn read_duration(
        &self,
        r: &mut Reader<'_>,
        parse: fn(&str) -> Option<Duration>,
        form: &str,
    ) -> Option<Duration> {
        let text = match &self.node.value {
            Value::Number(number) => {
                let hint =
                    format!("say the unit: \"{number}s\" for seconds, \"{number}ms\" for milliseconds");
                return self.wrong_type(r, "a duration with its unit", hint);
            }
            _ => self.text(r)?,
        };
        let parsed = parse(text);
        if parsed.is_none() {
            let message = format!("is not a duration: {:?}", shorten(text));
            self.report(r, Code::BadDuration, message, format!("write {form}"));
        }
        parsed
    }

    /// A duration that is not zero.
    pub(crate) fn wait(&self, r: &mut Reader<'_>) -> Option<Duration> {
        let duration = self.duration(r)?;
        if duration.is_zero() {
            self.report(r, Code::OutOfRange, "must be longer than zero", "write at least \"1ms\"");
            return None;
        }
        Some(duration)
    }

    pub(crate) fn bytes(&self, r: &mut Reader<'_>) -> Option<u64> {
        let text = match &self.node.value {
            Value::Number(number) => number,
            _ => self.text(r)?,
        };
        let parsed = bytes::parse(text);
        if parsed.is_none() {
            let message = format!("is not a size in bytes: {:?}", shorten(text));
            self.report(r, Code::BadBytes, message, format!("write {}", bytes::FORM));
        }
        parsed
    }

    /// One of a fixed set of texts.
    pub(crate) fn choice<T: Copy>(&self, r: &mut Reader<'_>, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(r)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let one_of = if names.len() == 1 { "" } else { "one of " };
            self.report(
                r,
                Code::NotAllowed,
                format_args!("must be {one_of}{}, found {:?}", names.join(", "), shorten(text)),
                suggest(text, &names, "write"),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// A value that upstream knows and we do not run.
    pub(crate) fn not_supported(&self, r: &mut Reader<'_>, what: &str, hint: &str) {
        let message = format!(
            "{}: {what} is known but not supported by this version, so the object is refused",
            self.path
        );
        r.report(Code::NotSupported, self.mark(), message, hint);
    }

    /// The entries of a list, at most `most`.
    pub(crate) fn list(&self, r: &mut Reader<'_>, most: usize) -> Option<Vec<At<'n>>> {
        let Value::List(items) = &self.node.value else {
            return self.wrong_type(r, "a list", "write a list: `- …` for each entry, or [ … ]");
        };
        if items.len() > most {
            let message = format!("has {} entries, at most {most} are allowed", items.len());
            self.report(r, Code::OutOfRange, message, "spread them over several objects");
            return None;
        }
        let entry = |(index, node)| At { node, path: format!("{}[{index}]", self.path) };
        Some(items.iter().enumerate().map(entry).collect())
    }

    /// A list of which each entry is read; entries that fail have been reported.
    pub(crate) fn each<T>(
        &self,
        r: &mut Reader<'_>,
        most: usize,
        mut read: impl FnMut(&mut Reader<'_>, &At<'n>) -> Option<T>,
    ) -> Option<Vec<T>> {
        Some(self.list(r, most)?.iter().filter_map(|at| read(r, at)).collect())
    }

    /// A mapping whose keys are free.
    pub(crate) fn free_map(&self, r: &mut Reader<'_>) -> Option<Vec<(&'n Entry, At<'n>)>> {
        let Value::Map(entries) = &self.node.value else {
            return self.wrong_type(r, "a mapping", "write `key: value` lines, or { … }");
        };
        if entries.len() > ITEMS_MAX {
            let message = format!("has {} entries, at most {ITEMS_MAX} are allowed", entries.len());
            self.report(r, Code::OutOfRange, message, "spread them over several objects");
            return None;
        }
        Some(entries.iter().map(|entry| (entry, self.member(entry))).collect())
    }

    /// A mapping of texts to texts.
    pub(crate) fn text_map(&self, r: &mut Reader<'_>) -> Option<BTreeMap<String, String>> {
        let entries = self.free_map(r)?;
        let read = |(entry, at): (&Entry, At<'_>)| Some((entry.key.clone(), at.text(r)?.to_owned()));
        Some(entries.into_iter().filter_map(read).collect())
    }

    /// A mapping whose fields are known.
    pub(crate) fn fields(&self, r: &mut Reader<'_>) -> Option<Fields<'n>> {
        let Value::Map(entries) = &self.node.value else {
            return self.wrong_type(r, "a mapping", "write `key: value` lines, or { … }");
        };
        Some(Fields { at: self.clone(), entries, known: Vec::new(), refused: Vec::new() })
    }
}

/// The fields of a mapping while they are read; [`Fields::done`] reports the ones that nobody asked for.
pub(crate) struct Fields<'n> {
    pub(crate) at: At<'n>,
    entries: &'n [Entry],
    known: Vec<&'static str>,
    /// Upstream's fields that we do not run: reported when they were met, and never suggested.
    refused: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// A field that may be there.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<At<'n>> {
        self.known.push(name);
        let entry = self.entries.iter().find(|entry| entry.key == name && !entry.value.is_null())?;
        Some(self.at.member(entry))
    }

    /// A field that must be there.
    pub(crate) fn need(&mut self, r: &mut Reader<'_>, name: &'static str, example: &str) -> Option<At<'n>> {
        let hint = match r.is_json {
            true => format!("write `\"{name}\": {}`", json_example(example)),
            false => format!("write `{name}: {example}`"),
        };
        self.need_or(r, name, &hint)
    }

    /// The same with a hint of its own.
    pub(crate) fn need_or(&mut self, r: &mut Reader<'_>, name: &'static str, hint: &str) -> Option<At<'n>> {
        let found = self.take(name);
        if found.is_none() {
            let mark = self.entries.iter().find(|entry| entry.key == name).map_or(self.at.mark(), |e| e.mark);
            let message = format!("missing field {name:?} in {}", self.place());
            r.report(Code::Missing, mark, message, hint);
        }
        found
    }

    /// A field of upstream's that we do not run: refused when it is there.
    pub(crate) fn refuse(&mut self, r: &mut Reader<'_>, name: &'static str, hint: &str) {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        if let Some(entry) = entry.filter(|entry| !entry.value.is_null()) {
            let message = format!(
                "field {name:?} in {} is known but not supported by this version, so the object is refused",
                self.place()
            );
            r.report(Code::NotSupported, entry.mark, message, hint);
        }
        self.refused.push(name);
    }

    fn place(&self) -> &str {
        if self.at.path.is_empty() { "the document" } else { &self.at.path }
    }

    /// Reports every field that was not asked for.
    pub(crate) fn done(self, r: &mut Reader<'_>) {
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) || self.refused.contains(&key) {
                continue;
            }
            if r.is_full() {
                r.errors += 1;
                return;
            }
            let message = format!("unknown field {:?} in {}", shorten(&entry.key), self.place());
            r.report(Code::UnknownField, entry.mark, message, suggest(&entry.key, &self.known, ""));
        }
    }
}

/// A YAML example as JSON.
fn json_example(example: &str) -> String {
    let chunks = crate::yaml::parse(example, 1);
    let node = chunks.first().and_then(|chunk| chunk.nodes.first()).filter(|_| !example.contains('…'));
    node.map_or_else(|| example.to_owned(), Node::to_json)
}

/// "did you mean …?" for the nearest of `names`, otherwise the list of them.
pub(crate) fn suggest(text: &str, names: &[&str], verb: &str) -> String {
    let lower = shorten(text).to_lowercase();
    let nearest = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance);
    // `Prefix` for `PathPrefix`, `keyed` for `key`; of two letters or less anything is a part.
    let part = |name: &&&str| {
        let name = name.to_lowercase();
        name.len().min(lower.len()) > 2 && (name.contains(&lower) || lower.contains(&name))
    };
    let nearest = nearest.or_else(|| names.iter().find(part).map(|name| (0, *name)));
    match nearest {
        Some((_, name)) => format!("did you mean {name:?}?"),
        None if names.is_empty() => "nothing may stand here; leave it out".to_owned(),
        None if names.len() == 1 && !verb.is_empty() => format!("{verb} {:?}", names[0]),
        None if verb.is_empty() => format!("fields here: {}", names.join(", ")),
        None => format!("{verb} one of: {}", names.join(", ")),
    }
}

/// What a person who wrote `text` as a name may have meant.
fn mend_name(text: &str) -> String {
    let lower = text.trim().to_lowercase();
    let mended: String = lower
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .take(causeway_model::names::NAME_BYTES_MAX)
        .collect();
    mended.trim_matches(['.', '_', '-']).to_owned()
}
