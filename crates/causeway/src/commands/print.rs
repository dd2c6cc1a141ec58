//! Tables for people, JSON and YAML for programs.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::cli::Format;

/// Prints `value` as asked; a table is made by `table`.
pub(crate) fn print(value: &Value, format: Format, table: impl FnOnce(&Value) -> Table) {
    match format {
        Format::Json => println!("{value:#}"),
        Format::Yaml => print!("{}", causeway_spec::emit(value)),
        Format::Table => println!("{}", table(value)),
    }
}

/// A table with these column titles.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|c| c.to_uppercase()));
    table
}

/// A field as a cell: texts bare, nothing as `-`, lists joined.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A time as the API takes it, `1m30s`.
pub(crate) fn millis(duration: Duration) -> String {
    causeway_spec::duration::format(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_reads_the_times_that_we_write() {
        for wanted in [0, 1, 1500, 99_999, 100_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(wanted);
            assert_eq!(causeway_spec::duration::parse(&millis(duration)), Some(duration));
        }
    }
}
