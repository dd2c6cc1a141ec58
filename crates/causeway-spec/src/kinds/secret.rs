//! Kind Secret, as Kubernetes has it: bytes by key, in base64 (`data`) or as they are (`stringData`).
//!
//! In:    the document's fields.     Out: [`Secret`].
//! Owner: the reader of one text.
//! Invariant: no value of a secret stands in any message, nor in the document as it is kept.
//! Not here: reading certificates (identity).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_model::Secret;

use crate::problem::Code;
use crate::reader::{Fields, Reader};

/// Most bytes of a secret (Kubernetes' bound).
const SECRET_BYTES_MAX: usize = 1 << 20;
/// What stands for a value that is not shown.
pub(crate) const HIDDEN: &str = "***";

pub(crate) fn read(r: &mut Reader<'_>, f: &mut Fields<'_>) -> Option<Secret> {
    let mut entries: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let data_at = f.take("data");
    for (entry, at) in data_at.as_ref().and_then(|at| at.free_map(r)).unwrap_or_default() {
        let Some(text) = at.text(r) else { continue };
        check_key(r, &entry.key, entry.mark);
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        match STANDARD.decode(compact) {
            Ok(bytes) => {
                entries.insert(entry.key.clone(), bytes);
            }
            Err(_) if text == HIDDEN => {
                let hint = "a secret's value is never shown: write the value itself, in base64";
                at.report(r, Code::BadText, "is the mark of a hidden value, not a value", hint);
            }
            Err(_) => {
                let hint = "encode it (`base64 -w0 FILE`), or write it as it is under `stringData`";
                at.report(r, Code::BadText, "is not base64", hint);
            }
        }
    }
    let plain_at = f.take("stringData");
    for (entry, at) in plain_at.as_ref().and_then(|at| at.free_map(r)).unwrap_or_default() {
        let Some(text) = at.text(r) else { continue };
        check_key(r, &entry.key, entry.mark);
        if text == HIDDEN {
            let hint = "a secret's value is never shown: write the value itself";
            at.report(r, Code::BadText, "is the mark of a hidden value, not a value", hint);
        }
        entries.insert(entry.key.clone(), text.as_bytes().to_vec());
    }
    let kind = f.take("type").and_then(|at| at.text(r));
    f.take("immutable").and_then(|at| at.boolean(r));
    if entries.values().map(Vec::len).sum::<usize>() > SECRET_BYTES_MAX {
        let message = format!("a secret holds at most {SECRET_BYTES_MAX} bytes");
        r.report(Code::OutOfRange, f.at.mark(), message, "split it into several");
    }
    if kind == Some("kubernetes.io/tls") {
        for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !has_key(&data_at, &plain_at, key)) {
            let message = format!("a secret of type kubernetes.io/tls has no {key:?}");
            r.report(Code::Missing, f.at.mark(), message, format!("write {key:?} under `data`, in base64"));
        }
    }
    let entries = entries.into_iter().map(|(key, bytes)| (key, bytes.into())).collect();
    Some(Secret { entries })
}

fn has_key(data: &Option<crate::reader::At<'_>>, plain: &Option<crate::reader::At<'_>>, key: &str) -> bool {
    [data, plain].into_iter().flatten().any(|at| at.node.get(key).is_some())
}

fn check_key(r: &mut Reader<'_>, key: &str, mark: crate::tree::Mark) {
    let is_valid = !key.is_empty()
        && key.len() <= 253
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !is_valid {
        let message = format!("{:?} is not a key of a secret", crate::tree::shorten(key));
        r.report(Code::BadText, mark, message, "letters, digits, '-', '_' and '.' only, such as \"tls.crt\"");
    }
}
