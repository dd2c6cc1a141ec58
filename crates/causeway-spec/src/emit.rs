//! JSON values as YAML text, for `-o yaml`.
//!
//! In:    a JSON value.     Out: block-style YAML that reads back as the same value.
//! Owner: nobody; one pure function.
//! Invariant: `parse(emit(v)) == v` (a property test says so): whatever could be read as something else stands in quotes.
//! Not here: reading YAML (`yaml.rs`).

use serde_json::Value;

use crate::tree::write_json_text;
use crate::yaml::is_plain_text;

/// `value` as YAML, one document without `---`, ending in a line break.
pub fn emit(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_list(items, 0, &mut out),
        scalar => {
            write_scalar(scalar, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Lines of a mapping; the cursor stands where the first key begins.
fn write_map(map: &serde_json::Map<String, Value>, depth: usize, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            indent(depth, out);
        }
        write_text(key, out);
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                indent(depth + 1, out);
                write_map(map, depth + 1, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                indent(depth, out);
                write_list(items, depth, out);
            }
            scalar => {
                out.push(' ');
                write_scalar(scalar, out);
                out.push('\n');
            }
        }
    }
}

/// Lines of a list; the cursor stands where the first dash is.
fn write_list(items: &[Value], depth: usize, out: &mut String) {
    for (index, value) in items.iter().enumerate() {
        if index > 0 {
            indent(depth, out);
        }
        out.push_str("- ");
        match value {
            Value::Object(map) if !map.is_empty() => write_map(map, depth + 1, out),
            Value::Array(items) if !items.is_empty() => write_list(items, depth + 1, out),
            scalar => {
                write_scalar(scalar, out);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => write_text(text, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        other => out.push_str(&other.to_string()),
    }
}

/// A plain text where nothing can mistake it, else a JSON string, which YAML reads as well.
fn write_text(text: &str, out: &mut String) {
    let is_safe = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        && is_plain_text(text)
        && !is_yaml_1_1_bool(text);
    if is_safe {
        out.push_str(text);
    } else {
        write_json_text(text, out);
    }
}

/// Readers of the older YAML take these for booleans; ours does not, but others will read what we print.
fn is_yaml_1_1_bool(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off")
}
