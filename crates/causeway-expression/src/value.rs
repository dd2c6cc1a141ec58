//! JSON as expressions see it.
//!
//! In:    JSON.     Out: a [`Value`].
//! Owner: nobody; a pure function.
//! Invariant: a whole number is an `int` wherever one holds it, since `amount / 2` is what people mean, and CEL has no `uint / int`.
//! Not here: the way back (`Value::json`).

use std::sync::Arc;

use cel::Value;
use cel::objects::{Key, Map};
use serde_json::Value as Json;

/// JSON as a value: whole numbers are `int` (above 2^63 `uint`), others `double`.
pub fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(large)) => Value::UInt(large),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(items) => Value::List(Arc::new(items.iter().map(value_of).collect())),
        Json::Object(members) => {
            let members = members.iter().map(|(name, value)| (Key::from(name.as_str()), value_of(value)));
            Value::Map(Map { map: Arc::new(members.collect()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_comes_from_json_goes_back_to_it() {
        let json = json!({"a": [1, -1, 1.5, u64::MAX, i64::MIN, null, true, "t"], "b": {"c": {}}});
        let value = value_of(&json);
        assert_eq!(value.json().unwrap(), json);
        for (json, kind) in [
            (json!(0), Value::Int(0)),
            (json!(i64::MAX), Value::Int(i64::MAX)),
            (json!(u64::MAX), Value::UInt(u64::MAX)),
            (json!(1.0), Value::Float(1.0)),
        ] {
            assert_eq!(discriminant(&value_of(&json)), discriminant(&kind), "{json}");
        }
    }
}
