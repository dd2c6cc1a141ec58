//! What each reason means and what to look at: `docs/reasons.md`, compiled in.

const PAGE: &str = include_str!("../../../../docs/reasons.md");

/// What is known of a reason.
pub(crate) struct Reason {
    /// What happened.
    pub(crate) what: &'static str,
    /// What to look at.
    pub(crate) look: &'static str,
}

/// The reason of this word.
pub(crate) fn find(word: &str) -> Option<Reason> {
    PAGE.lines().find_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [first, .., what, look] = cells.as_slice() else { return None };
        let is_it = first.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) == Some(word);
        is_it.then_some(Reason { what, look })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_are_read() {
        assert!(find("connection_refused").is_some_and(|reason| reason.what.starts_with("nobody listens")));
        assert!(find("client_left").is_some_and(|reason| reason.look.contains("time limit")));
        assert!(find("reason").is_none() && find("").is_none());
    }
}
