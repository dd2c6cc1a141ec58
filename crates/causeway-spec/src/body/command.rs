//! Bodies of what a person asks of a saga: `POST /v1/sagas/{id}/retry|skip|edit|compensate|resolve|cancel`.
//!
//! In:    JSON text.     Out: plain values, or all that is wrong.
//! Owner: the caller.
//! Not here: whether the saga is in a state for it (`causeway-saga`).

use causeway_model::Name;

use crate::problem::Code;
use crate::reader::{At, Reader};

use super::{Body, read};

/// Longest reason or note: it is a line of the saga's timeline.
const NOTE_BYTES_MAX: usize = 4096;
/// Longest path of an edited step.
const PATH_BYTES_MAX: usize = 8192;
/// What a saga can be resolved as.
const ENDS: [(&str, &str); 3] = [("done", "done"), ("undone", "undone"), ("failed", "failed")];

/// `POST …/edit`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// The saga's input as canonical JSON text.
    pub input: Option<String>,
    /// A step's request.
    pub step: Option<StepEdit>,
}

/// A change of one step's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepEdit {
    /// The step.
    pub step: Name,
    /// Its compensation instead of its action.
    pub is_undo: bool,
    /// Path and query.
    pub path: Option<String>,
    /// Body as canonical JSON text.
    pub body: Option<String>,
}

/// `POST …/resolve`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolve {
    /// `done`, `undone` or `failed`.
    pub status: Option<&'static str>,
    /// What was done by hand.
    pub note: String,
}

/// Reads a body that says nothing (`{}`, or nothing at all).
///
/// # Errors
/// All that is wrong with the body.
pub fn nothing(body: &[u8]) -> Body<()> {
    read(body, |r, at| {
        at.fields(r)?.done(r);
        Some(())
    })
}

/// Reads a skip: `{"step": …}`, or nothing for the step that is stuck.
///
/// # Errors
/// All that is wrong with the body.
pub fn skip(body: &[u8]) -> Body<Option<Name>> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let step = f.take("step").and_then(|at| at.name(r));
        f.done(r);
        Some(step)
    })
}

/// Reads the reason of a compensate or a cancel; empty when none is given.
///
/// # Errors
/// All that is wrong with the body.
pub fn reason(body: &[u8]) -> Body<String> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let reason = f.take("reason").and_then(|at| note(r, &at)).unwrap_or_default();
        f.done(r);
        Some(reason)
    })
}

/// Reads a resolve.
///
/// # Errors
/// All that is wrong with the body.
pub fn resolve(body: &[u8]) -> Body<Resolve> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let status = f.take("status").and_then(|at| at.choice(r, &ENDS));
        let note = f.take("note").and_then(|at| note(r, &at)).unwrap_or_default();
        f.done(r);
        Some(Resolve { status, note })
    })
}

/// Reads an edit: `{"input": …}`, `{"step": "charge", "undo": false, "path": …, "body": …}`, or both.
///
/// # Errors
/// All that is wrong with the body.
pub fn edit(body: &[u8]) -> Body<Edit> {
    read(body, |r, at| {
        let mut f = at.fields(r)?;
        let input = f.take("input").map(|at| at.node.to_json());
        let step = f.take("step").map(|at| at.name(r));
        let undo = f.take("undo").and_then(|at| at.boolean(r)).unwrap_or(false);
        let path = f.take("path").and_then(|at| at.text_within(r, PATH_BYTES_MAX).map(str::to_owned));
        let body = f.take("body").map(|at| at.node.to_json());
        f.done(r);
        if step.is_none() && (path.is_some() || body.is_some()) {
            at.report(
                r,
                Code::Contradiction,
                "has a path or a body but no step",
                "write `\"step\": \"charge\"`",
            );
        }
        if input.is_none() && step.is_none() {
            at.report(
                r,
                Code::Missing,
                "changes nothing",
                "write `\"input\"`, or `\"step\"` with `\"path\"` or `\"body\"`",
            );
        }
        let step = match step {
            Some(step) => Some(StepEdit { step: step?, is_undo: undo, path, body }),
            None => None,
        };
        Some(Edit { input, step })
    })
}

fn note(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    at.text_within(r, NOTE_BYTES_MAX).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_strictly() {
        assert_eq!(nothing(b""), Ok(()));
        assert_eq!(skip(br#"{"step": "charge"}"#).unwrap().unwrap().as_str(), "charge");
        assert_eq!(reason(br#"{"reason": "stock is wrong"}"#).unwrap(), "stock is wrong");
        let resolved = resolve(br#"{"status": "undone", "note": "paid back"}"#).unwrap();
        assert_eq!(resolved, Resolve { status: Some("undone"), note: "paid back".into() });
        let edited =
            edit(br#"{"input": {"b": 1, "a": 2}, "step": "pay", "undo": true, "path": "/x"}"#).unwrap();
        assert_eq!(edited.input.as_deref(), Some(r#"{"a":2,"b":1}"#));
        assert!(edited.step.is_some_and(|step| step.is_undo && step.path.as_deref() == Some("/x")));
        for (wrong, code) in [
            (resolve(br#"{"status": "running"}"#).unwrap_err(), Code::NotAllowed),
            (edit(b"{}").unwrap_err(), Code::Missing),
            (edit(br#"{"path": "/x", "input": 1}"#).unwrap_err(), Code::Contradiction),
            (nothing(br#"{"force": true}"#).unwrap_err(), Code::UnknownField),
        ] {
            assert_eq!(wrong[0].code, code);
        }
    }
}
