//! `explain CW-NNNN`: the page of an error code, compiled in; `explain REASON`: what a failed request's reason means.

use anyhow::{Result, bail};

use super::{reasons, why};

#[derive(rust_embed::RustEmbed)]
#[folder = "../../docs/errors"]
struct Pages;

/// Prints the page of `code`.
pub(crate) fn explain(code: &str) -> Result<()> {
    if reasons::find(code).is_some() {
        return why::explain(code);
    }
    let wanted = code.to_ascii_uppercase();
    let wanted = wanted.strip_prefix("CW-").unwrap_or(&wanted);
    match Pages::get(&format!("CW-{wanted}.md")) {
        Some(page) => {
            println!("{}", String::from_utf8_lossy(&page.data).trim_end());
            Ok(())
        }
        None => bail!("there is no code CW-{wanted}; codes have the form CW-1003 [CW-2012]"),
    }
}
