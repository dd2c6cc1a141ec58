//! A request's query: what a path knows, and nothing else.
//!
//! In:    the text after `?`.      Out: [`Query`], whose values are read by type.
//! Owner: the request. Which names a path knows stands in its entry of the table, checked before its handler.
//! Invariant: an unknown or repeated name is an error; a flag is on when it stands there (`?passing`, `?passing=true`).
//! Not here: the path (`params.rs`).

use std::time::Duration;

use axum::extract::FromRequestParts;
use causeway_model::{Name, Revision};
use causeway_spec::duration;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// Names and values of a query, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::read(parts.uri.query().unwrap_or_default())
    }
}

impl Query {
    /// Reads the text after `?`.
    pub(super) fn read(text: &str) -> Result<Self, Problem> {
        let decode = |text: &str| {
            // A `+` stays one (this is no form): the offset of an RFC 3339 time has it.
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| Problem::parameter("the query is not UTF-8"))
        };
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::parameter(format!("query parameter {name:?} stands twice")));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    /// Refuses names that are not among `known`.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), Problem> {
        let Some((name, _)) = self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) else {
            return Ok(());
        };
        let hint = match known {
            [] => "this path takes none".to_owned(),
            known => format!("this path takes {}", known.join(", ")),
        };
        Err(Problem::parameter(format!("unknown query parameter {name:?}: {hint}")))
    }

    /// The value of `name`; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    /// Whether `name` stands there, and does not say `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(bad(name, other, "true or false")),
        }
    }

    /// A value that `read` understands.
    pub(super) fn get<T>(
        &self,
        name: &str,
        form: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| bad(name, text, form))
    }

    pub(super) fn name(&self, name: &str) -> Result<Option<Name>, Problem> {
        self.get(name, "a name such as orders", |text| Name::new(text).ok())
    }

    pub(super) fn revision(&self, name: &str) -> Result<Option<Revision>, Problem> {
        self.get(name, "a revision such as 41", |text| text.parse().ok().map(Revision::new))
    }

    /// A duration of at most `most`; longer ones are an error.
    pub(super) fn duration(&self, name: &str, most: Duration) -> Result<Option<Duration>, Problem> {
        let form = format!("at most {}, in {}", duration::format(most), duration::FORM);
        self.get(name, &form, |text| duration::parse(text).filter(|d| *d <= most))
    }

    /// A number of at most `most`.
    pub(super) fn count(&self, name: &str, most: usize) -> Result<Option<usize>, Problem> {
        let form = format!("a number from 1 to {most}");
        self.get(name, &form, |text| text.parse().ok().filter(|n| (1..=most).contains(n)))
    }
}

fn bad(name: &str, value: &str, form: &str) -> Problem {
    let value: String = value.chars().take(100).collect();
    Problem::parameter(format!("query parameter {name} is {value:?}; it must be {form}"))
}
