//! Which events a subscription (or a redrive) wants: a CEL expression over `event` and `data`, compiled once.
//!
//! In:    the expression's text; then events.     Out: whether each matches, or why that cannot be said.
//! Owner: the subscription's task.
//! Invariant: pure; an expression that fails on an event does not match it, and whoever asked counts that.
//! Not here: when it is asked (`group.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value};

use crate::cloudevent::{CloudEvent, Extension};
use crate::error::{Error, Kind};

/// The longest expression.
pub const FILTER_BYTES_MAX: usize = 4096;

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
        let env = Arc::new(Env::stdlib());
        let program = match env.compile(text) {
            Ok(program) => program,
            Err(error) => return refuse(error.to_string()),
        };
        let (unknown, is_data_read) = {
            let references = program.references();
            let known = |name: &&str| matches!(*name, "event" | "data");
            let unknown = references.variables().into_iter().find(|name| !known(name)).map(str::to_owned);
            (unknown, references.has_variable("data"))
        };
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
    fn a_deep_expression_does_not_bring_the_process_down() {
        for deep in
            [format!("{}true{}", "(".repeat(2000), ")".repeat(2000)), format!("{}true", "!".repeat(4000))]
        {
            let _ = Filter::compile(&deep).map(|filter| filter.matches(&CloudEvent::new("1", "/s", "t")));
        }
    }
}
