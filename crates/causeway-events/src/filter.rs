//! Which events a subscription (or a redrive) wants: a CEL expression over `event` and `data`, compiled once.
//!
//! In:    the expression's text; then events.     Out: whether each matches, or why that cannot be said.
//! Owner: the subscription's task.
//! Invariant: pure; an expression that fails on an event does not match it, and whoever asked counts that.
//! Not here: when it is asked (`group.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value};

use crate::cloudevent::{CloudEvent, Extension};
use crate::error::{Error, Kind};

/// The longest expression.
pub const FILTER_BYTES_MAX: usize = 4096;

/// Deepest nesting of brackets: keeps the parser's work small before it begins.
pub(crate) const NESTING_MAX: usize = 24;
/// Deepest expression tree. It is walked by recursion at each event, on a worker's stack of 2 MiB; a debug build takes some
/// 16 KiB for each level.
pub(crate) const DEPTH_MAX: usize = 32;
/// Loops within loops (`all`, `exists`, `map`, `filter`): each multiplies the work by the length of a list in the event.
pub(crate) const LOOPS_MAX: usize = 2;
/// Stack for the parser: a debug build takes more than 100 KiB for each nested bracket, and a chain of operators as long as the
/// text allows must be parsed before its depth is known. Only what is touched is ever backed by memory.
const PARSER_STACK_BYTES: usize = 512 * 1024 * 1024;

/// A compiled filter.
pub struct Filter {
    program: Program,
    env: Arc<Env>,
    is_data_read: bool,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Why a filter could not say yes or no of an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undecided(String);

impl Filter {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`Kind::InvalidFilter`] with the parser's words, or the name that is neither `event` nor `data`.
    pub fn compile(text: &str) -> Result<Filter, Error> {
        let refuse = |why: String| Err(Error::new(Kind::InvalidFilter, format!("filter {text:?}: {why}")));
        if text.len() > FILTER_BYTES_MAX {
            return Err(Error::new(
                Kind::InvalidFilter,
                format!("filter is longer than {FILTER_BYTES_MAX} bytes"),
            ));
        }
        if nesting(text) > NESTING_MAX {
            return refuse(format!("brackets are nested deeper than {NESTING_MAX}"));
        }
        let env = Arc::new(Env::stdlib());
        let program = match parse(&env, text) {
            Ok(program) => program,
            Err(why) => return refuse(why),
        };
        let is_data_read = program.references().has_variable("data");
        let unknown = unknown_name(program.expression(), &mut Vec::new());
        match unknown {
            Some(name) => refuse(format!("{name:?} is not known: there are event and data")),
            None => Ok(Filter { program, env, is_data_read }),
        }
    }

    /// Whether the event is wanted.
    ///
    /// # Errors
    /// [`Undecided`] when the expression fails on this event or is not a truth value: not matched.
    pub fn matches(&self, event: &CloudEvent) -> Result<bool, Undecided> {
        let mut context = Context::with_env(self.env.clone());
        context.add_variable_from_value("event", attributes(event));
        if self.is_data_read {
            context.add_variable_from_value("data", event.json().map_or(Value::Null, value_of));
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(other) => Err(Undecided(format!("the result is not a truth value but {:?}", other.type_of()))),
            Err(error) => Err(Undecided(error.to_string())),
        }
    }
}

/// Parses on a stack of its own, and gives the program back only when it can be walked on anyone's.
fn parse(env: &Env, text: &str) -> Result<Program, String> {
    let parse = || {
        let program = env.compile(text).map_err(|error| error.to_string())?;
        let (depth, loops) = measure(program.expression());
        match () {
            () if depth > DEPTH_MAX => Err(format!("it is nested deeper than {DEPTH_MAX} operations")),
            () if loops > LOOPS_MAX => Err(format!("more than {LOOPS_MAX} loops lie within each other")),
            () => Ok(program),
        }
    };
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().name("cel-parser".to_owned()).stack_size(PARSER_STACK_BYTES);
        match parser.spawn_scoped(scope, parse) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err("the parser failed on it".to_owned())),
            Err(error) => Err(format!("no thread to parse it: {error}")),
        }
    })
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

/// How deep the tree is, and how many loops lie within each other.
fn measure(tree: &IdedExpr) -> (usize, usize) {
    let deepest = |(depth, loops): (usize, usize), (d, l): (usize, usize)| (depth.max(d), loops.max(l));
    let (depth, loops) = children(tree).into_iter().map(measure).fold((0, 0), deepest);
    (depth + 1, loops + usize::from(matches!(tree.expr, Expr::Comprehension(_))))
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

/// The first name that is neither ours, nor a loop's, nor the language's.
fn unknown_name<'t>(tree: &'t IdedExpr, bound: &mut Vec<&'t str>) -> Option<String> {
    match &tree.expr {
        Expr::Ident(name) => {
            let is_known = KNOWN.contains(&name.as_str()) || bound.contains(&name.as_str());
            (!is_known).then(|| name.clone())
        }
        Expr::Comprehension(part) => {
            if let Some(unknown) = unknown_name(&part.iter_range, bound) {
                return Some(unknown);
            }
            let outer = bound.len();
            bound.extend([part.iter_var.as_str(), part.accu_var.as_str()]);
            bound.extend(part.iter_var2.as_deref());
            let inner = [&part.accu_init, &part.loop_cond, &part.loop_step, &part.result];
            let unknown = inner.into_iter().find_map(|part| unknown_name(part, bound));
            bound.truncate(outer);
            unknown
        }
        _ => children(tree).into_iter().find_map(|child| unknown_name(child, bound)),
    }
}

/// The names of an expression: our two, and the language's types and namespaces.
const KNOWN: [&str; 14] = [
    "event",
    "data",
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "base64",
    "google",
];

fn entries(entries: &[IdedEntryExpr]) -> Vec<&IdedExpr> {
    entries
        .iter()
        .flat_map(|entry| match &entry.expr {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        })
        .collect()
}

fn attributes(event: &CloudEvent) -> Value {
    let text = |text: &str| Value::String(Arc::new(text.to_owned()));
    let mut map: HashMap<Key, Value> = HashMap::with_capacity(8 + event.extensions.len());
    let required =
        [("specversion", "1.0"), ("id", &event.id), ("source", &event.source), ("type", &event.event_type)];
    for (name, value) in required {
        map.insert(name.into(), text(value));
    }
    let optional = [
        ("subject", &event.subject),
        ("time", &event.time),
        ("datacontenttype", &event.datacontenttype),
        ("dataschema", &event.dataschema),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            map.insert(name.into(), text(value));
        }
    }
    for (name, value) in &event.extensions {
        let value = match value {
            Extension::Text(value) => text(value),
            Extension::Integer(number) => Value::Int(i64::from(*number)),
            Extension::Boolean(truth) => Value::Bool(*truth),
        };
        map.insert(name.as_str().into(), value);
    }
    Value::Map(Map { map: Arc::new(map) })
}

/// JSON as CEL sees it here: whole numbers are `int` (`data.amount / 2` is what people mean), others `double`.
fn value_of(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(truth),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text)),
        serde_json::Value::Array(items) => Value::List(Arc::new(items.into_iter().map(value_of).collect())),
        serde_json::Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| (Key::from(name), value_of(value)));
            Value::Map(Map { map: Arc::new(members.collect()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(filter: &str, expect: Result<bool, &str>) {
        let mut event = CloudEvent::new("7", "/shop", "order.placed")
            .with_json(&json!({"amount": 120, "price": 1.5, "items": [{"sku": "a"}], "by": {"vip": true}}))
            .with_extension("region", "eu");
        event.extensions.insert("count".into(), Extension::Integer(3));
        let got = Filter::compile(filter)
            .map_err(|error| error.to_string())
            .and_then(|filter| filter.matches(&event).map_err(|error| error.to_string()));
        match (got, expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{filter}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{filter}: {error}"),
            (got, expect) => panic!("{filter}: {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn filters_see_attributes_and_data() {
        check("event.type == 'order.placed'", Ok(true));
        check("event.type.startsWith('order.') && data.amount > 100", Ok(true));
        check("data.amount > 100.5", Ok(true));
        check("data.amount / 50 == 2", Ok(true));
        check("data.price == 1.5 && data.by.vip", Ok(true));
        check("data.items.exists(i, i.sku == 'b')", Ok(false));
        check("event.region == 'eu' && event.count == 3", Ok(true));
        check("has(event.subject)", Ok(false));
        check("event['type'].matches('^order')", Ok(true));
        check("has(data.nothing) && data.nothing > 3", Ok(false));
        check("data.nothing > 3", Err("nothing"));
        check("event.type", Err("not a truth value"));
        check("type(data.amount) == int", Ok(true));
        check("data.items.all(i, i.sku == sku)", Err("\"sku\" is not known"));
        check("evnt.type == 'x'", Err("\"evnt\" is not known"));
        check("event.type ==", Err("CW-1706"));
        check(&"(".repeat(5000), Err("longer"));
    }

    #[test]
    fn data_that_is_not_json_is_null() {
        let filter = Filter::compile("data == null").unwrap();
        let mut event = CloudEvent::new("1", "/s", "t");
        assert_eq!(filter.matches(&event), Ok(true));
        event.datacontenttype = Some("text/plain".to_owned());
        event.data = Some("{}".into());
        assert_eq!(filter.matches(&event), Ok(true));
    }

    #[test]
    fn no_expression_brings_the_process_down() {
        let event = CloudEvent::new("1", "/s", "t");
        for count in [4, 12, 20, 24, 28, 40, 100, 400, 1300, 2040, 4000] {
            for (open, middle, close) in [
                ("(", "true", ")"),
                ("!", "true", ""),
                ("1+", "1 == 1", ""),
                ("", "data == 1", ".a"),
                ("", "data == 1", "[0]"),
                ("true?true:", "true", ""),
                ("[", "1", "]"),
                ("{1:", "1", "}"),
                ("int(", "1", ")"),
                ("true==", "true", ""),
                ("[1].all(x,", "true", ")"),
                ("false||", "true", ""),
            ] {
                let text = format!("{}{middle}{}", open.repeat(count), close.repeat(count));
                if let Ok(filter) = Filter::compile(&text) {
                    let _ = filter.matches(&event);
                }
            }
        }
        check("[1].all(a, [1].all(b, true))", Ok(true));
        check("[1].all(a, [1].all(b, [1].all(c, true)))", Err("more than 2 loops"));
        check(&format!("{}1 == 1", "1+".repeat(100)), Err("deeper than 32"));
        check(&"(".repeat(100), Err("deeper than 24"));
        let types: Vec<String> = (0..100).map(|n| format!("event.type == 'type.{n}'")).collect();
        check(&types.join(" || "), Ok(false));
    }
}
