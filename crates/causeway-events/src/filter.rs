//! Which events a subscription (or a redrive) wants: a CEL expression over `event` and `data`, compiled once.
//!
//! In:    the expression's text; then events.     Out: whether each matches, or why that cannot be said.
//! Owner: the subscription's task.
//! Invariant: pure; an expression that fails on an event does not match it, and whoever asked counts that.
//! Not here: when it is asked (`group.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use causeway_expression::{Key, Limits, Map, Program, Refusal, Value, compile, context, value_of};

use crate::cloudevent::{CloudEvent, Extension};
use crate::error::{Error, Kind};

/// The longest expression.
pub const FILTER_BYTES_MAX: usize = 4096;

/// An event costs what its filters cost: two loops within each other are the square of a list in it, three would be its cube.
pub(crate) const LIMITS: Limits = Limits { bytes: FILTER_BYTES_MAX, nesting: 24, depth: 32, loops: 2 };

/// What a filter sees.
const NAMES: [&str; 2] = ["event", "data"];

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    is_data_read: bool,
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
        let program = match compile(text, &LIMITS) {
            Ok(program) => program,
            Err(Refusal::Long { max }) => {
                return Err(Error::new(Kind::InvalidFilter, format!("filter is longer than {max} bytes")));
            }
            Err(refusal) => return refuse(refusal.to_string()),
        };
        let names = program.names();
        if let Some(name) = names.iter().find(|name| !NAMES.contains(name)) {
            return refuse(format!("{name:?} is not known: there are event and data"));
        }
        let is_data_read = names.contains(&"data");
        Ok(Filter { program, is_data_read })
    }

    /// Whether the event is wanted.
    ///
    /// # Errors
    /// [`Undecided`] when the expression fails on this event or is not a truth value: not matched.
    pub fn matches(&self, event: &CloudEvent) -> Result<bool, Undecided> {
        let mut context = context();
        context.add_variable_from_value("event", attributes(event));
        if self.is_data_read {
            context.add_variable_from_value("data", event.json().map_or(Value::Null, |json| value_of(&json)));
        }
        match self.program.evaluate(&context) {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(other) => Err(Undecided(format!("the result is not a truth value but {:?}", other.type_of()))),
            Err(error) => Err(Undecided(error.to_string())),
        }
    }
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
        check("data.items.filter(i, true).filter(i, true).filter(i, i.sku == 'a').size() == 1", Ok(true));
        check("base64.encode(b'hello') == 'aGVsbG8='", Ok(true));
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
