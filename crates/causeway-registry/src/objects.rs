//! Configuration objects: written, moved, deleted, each by its one origin, and what is to be said of them.
//!
//! In:    proposed objects with their origins.      Out: decrees, and what became of each proposal.
//! Owner: `machine.rs`, of which this is a part.
//! Invariant: an object has one origin, and another's write is refused with the place; one that says the same costs no
//! record; a refused one leaves its older form in force and its neighbours alone.
//! Not here: whether a document is well formed (`causeway-spec`), the wording of conditions (`conditions.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use causeway_model::{Kind, Name, Object, ObjectKey, Origin, Revision, ServiceKey, Spec, Timestamp, codec};

use crate::command::{Answer, Applied, AppliedOutcome, Proposed, Prune};
use crate::conditions::{World, conditions, names};
use crate::error::Error;
use crate::journal::{Decree, Record};
use crate::limits;
use crate::machine::{Decided, Machine};

/// What is proposed together, for look-ups.
struct Proposal<'a> {
    first: HashMap<&'a ObjectKey, &'a Origin>,
    /// Files given whole, with what they still hold.
    files: HashMap<&'a str, HashSet<&'a ObjectKey>>,
}

impl<'a> Proposal<'a> {
    fn new(objects: &'a [Proposed], prune: &'a [Prune]) -> Self {
        let mut files: HashMap<&str, HashSet<&ObjectKey>> = HashMap::new();
        for Prune { path, keep } in prune {
            files.entry(path).or_default().extend(keep);
        }
        let mut first = HashMap::new();
        for Proposed { key, origin, .. } in objects {
            first.entry(key).or_insert(origin);
            if let Some(held) = file(origin).and_then(|path| files.get_mut(path)) {
                held.insert(key);
            }
        }
        Proposal { first, files }
    }

    /// Whether the file that wrote `key` before is given whole and holds it no more, so that another may take it over.
    fn is_let_go(&self, key: &ObjectKey, by: &Origin) -> bool {
        file(by).and_then(|path| self.files.get(path)).is_some_and(|held| !held.contains(key))
    }
}

fn file(origin: &Origin) -> Option<&str> {
    match origin {
        Origin::File { path, .. } => Some(path),
        _ => None,
    }
}

impl Machine {
    pub(crate) fn write_objects(&self, next: Revision, objects: &[Proposed], prune: &[Prune]) -> Decided {
        if objects.len() > limits::APPLY_OBJECTS_MAX {
            let doing = format!("cannot apply {} objects at once", objects.len());
            return Err(Error::full(doing, "in one command", limits::APPLY_OBJECTS_MAX));
        }
        let proposal = Proposal::new(objects, prune);
        let (mut decrees, mut applied, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let (mut created, mut bytes) = (0, 0);
        for proposed in objects {
            let first = proposal.first.get(&proposed.key).filter(|_| !seen.insert(&proposed.key));
            let written = match first {
                Some(first) => Err(Error::conflict(doing(&proposed.key), first)),
                None => self.write_one(next, proposed, &proposal, created, &mut bytes),
            };
            let (decree, outcome) = written.unwrap_or_else(|error| (None, AppliedOutcome::Refused(error)));
            created += usize::from(outcome == AppliedOutcome::Created);
            decrees.extend(decree);
            applied.push(Applied { key: proposed.key.clone(), outcome, conditions: vec![] });
        }
        for key in self.pruned(prune, &proposal) {
            decrees.push(Decree::Deleted { key: key.clone() });
            applied.push(Applied { key, outcome: AppliedOutcome::Removed, conditions: vec![] });
        }
        Ok((decrees, Answer { objects: applied, ..Answer::default() }))
    }

    /// The same, only said: on a copy of the state, which is thrown away.
    pub(crate) fn rehearse(
        &self,
        now: Timestamp,
        next: Revision,
        objects: &[Proposed],
        prune: &[Prune],
    ) -> Decided {
        let (decrees, mut answer) = self.write_objects(next, objects, prune)?;
        let mut copy = self.clone();
        for decree in decrees {
            copy.apply(&Record { revision: next, at: now, decree });
        }
        copy.complete(&mut answer);
        Ok((vec![], answer))
    }

    fn write_one(
        &self,
        next: Revision,
        proposed: &Proposed,
        proposal: &Proposal<'_>,
        created: usize,
        bytes: &mut usize,
    ) -> Result<(Option<Decree>, AppliedOutcome), Error> {
        let Proposed { key, origin, spec, written } = proposed;
        if spec.kind() != key.kind {
            return Err(Error::invalid(doing(key), format_args!("its content is that of a {}", spec.kind())));
        }
        let before = self.snapshot.object(key);
        let Some(before) = before else {
            if self.object_count() + created >= limits::OBJECTS_MAX {
                return Err(Error::full(doing(key), "objects", limits::OBJECTS_MAX));
            }
            return Ok((Some(decree(next, proposed, bytes)?), AppliedOutcome::Created));
        };
        let is_let_go = proposal.is_let_go(key, &before.origin);
        if !before.origin.admits(origin) && !is_let_go {
            return Err(Error::conflict(doing(key), &before.origin));
        }
        if before.spec != *spec || before.written != *written || is_let_go {
            return Ok((Some(decree(next, proposed, bytes)?), AppliedOutcome::Changed));
        }
        let moved = match origin {
            Origin::File { line, .. } if before.origin != *origin => {
                Some(Decree::Moved { key: key.clone(), line: *line })
            }
            _ => None,
        };
        Ok((moved, AppliedOutcome::Unchanged))
    }

    /// What the files given whole hold no more and nobody else takes over.
    fn pruned(&self, prune: &[Prune], proposal: &Proposal<'_>) -> Vec<ObjectKey> {
        let paths: std::collections::BTreeSet<&str> = prune.iter().map(|prune| prune.path.as_str()).collect();
        let of_file = paths.into_iter().flat_map(|path| self.of_file(path));
        let is_gone = |key: &ObjectKey| !proposal.first.contains_key(key);
        let is_kept = |key: &ObjectKey| proposal.files.values().any(|held| held.contains(key));
        of_file.filter(|key| is_gone(key) && !is_kept(key)).collect()
    }

    fn of_file(&self, path: &str) -> Vec<ObjectKey> {
        let path: Arc<str> = path.into();
        let Ok(least) = Name::new("0") else { return Vec::new() };
        let least = ObjectKey { kind: Kind::ALL[0], namespace: least.clone(), name: least };
        let from = self.files.range((path.clone(), least)..);
        from.take_while(|(of, _)| *of == path).map(|(_, key)| key.clone()).collect()
    }

    fn object_count(&self) -> usize {
        self.snapshot.object_count()
    }

    pub(crate) fn delete(&self, key: &ObjectKey, origin: &Origin) -> Decided {
        let object = self.snapshot.object(key).ok_or_else(|| Error::not_found(key))?;
        match object.origin.admits(origin) {
            true => Ok((vec![Decree::Deleted { key: key.clone() }], Answer::default())),
            false => Err(Error::conflict(format_args!("cannot delete {key}"), &object.origin)),
        }
    }
}

fn doing(key: &ObjectKey) -> String {
    format!("cannot apply {key}")
}

/// The decree that writes the object; counts its bytes towards the command's.
fn decree(next: Revision, proposed: &Proposed, bytes: &mut usize) -> Result<Decree, Error> {
    let Proposed { key, origin, spec, written } = proposed.clone();
    let object = Object { key, origin, revision: next, spec, conditions: vec![], written };
    let size = codec::encode(&object).len();
    if size > limits::OBJECT_BYTES_MAX {
        let why = format!("its {size} bytes are above {}", limits::OBJECT_BYTES_MAX);
        return Err(Error::invalid(doing(&object.key), why));
    }
    *bytes += size;
    match *bytes > limits::COMMAND_BYTES_MAX {
        true => Err(Error::full(doing(&object.key), "bytes in one command", limits::COMMAND_BYTES_MAX)),
        false => Ok(Decree::Written { object: Box::new(object) }),
    }
}

// === applying ===

impl Machine {
    pub(crate) fn apply_written(&mut self, object: &Object, revision: Revision, at: Timestamp) {
        let before = self.snapshot.object(&object.key).cloned();
        if let Some(before) = &before {
            self.unlink(before);
        }
        let mut object = object.clone();
        object.conditions = before.map(|before| before.conditions.clone()).unwrap_or_default();
        self.link(&object);
        let key = object.key.clone();
        if let Spec::Service(_) = object.spec {
            let service = ServiceKey::new(key.namespace.clone(), key.name.clone());
            self.services.declare(&service, true, revision);
        }
        object.conditions = self.conditions_of(&object, at);
        self.snapshot.put_object(Arc::new(object));
        self.reconsider(&key, revision, at);
    }

    pub(crate) fn apply_deleted(&mut self, key: &ObjectKey, revision: Revision, at: Timestamp) {
        let Some(object) = self.snapshot.object(key).cloned() else { return };
        self.unlink(&object);
        self.snapshot.remove_object(key, revision);
        if let Spec::Service(_) = object.spec {
            let service = ServiceKey::new(key.namespace.clone(), key.name.clone());
            self.services.declare(&service, false, revision);
        }
        self.reconsider(key, revision, at);
    }

    pub(crate) fn apply_moved(&mut self, key: &ObjectKey, line: u32, revision: Revision) {
        let Some(path) = self.snapshot.object(key).and_then(|object| file(&object.origin)) else { return };
        let origin = Origin::File { path: path.to_owned(), line };
        self.snapshot.move_object(key, origin, revision);
    }

    /// Computes the conditions of those again that name `key`, which came, changed or went. Only those; and what they say
    /// of themselves changes nobody else's.
    pub(crate) fn reconsider(&mut self, key: &ObjectKey, revision: Revision, at: Timestamp) {
        for referrer in self.referrers_of(key) {
            let Some(object) = self.snapshot.object(&referrer).cloned() else { continue };
            let now = self.conditions_of(&object, at);
            if now != object.conditions {
                let object = Object { conditions: now, revision, ..Object::clone(&object) };
                self.snapshot.put_object(Arc::new(object));
            }
        }
    }

    fn referrers_of(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        let Ok(least) = Name::new("0") else { return Vec::new() };
        let least = ObjectKey { kind: Kind::ALL[0], namespace: least.clone(), name: least };
        let from = self.referrers.range((key.clone(), least)..);
        from.take_while(|(of, _)| of == key).map(|(_, by)| by.clone()).collect()
    }

    fn conditions_of(&self, object: &Object, at: Timestamp) -> Vec<causeway_model::Condition> {
        conditions(World { snapshot: &self.snapshot, services: &self.services }, object, at)
    }

    fn link(&mut self, object: &Object) {
        for named in names(&object.key, &object.spec) {
            self.referrers.insert((named, object.key.clone()));
        }
        if let Some(path) = file(&object.origin) {
            self.files.insert((path.into(), object.key.clone()));
        }
    }

    fn unlink(&mut self, object: &Object) {
        for named in names(&object.key, &object.spec) {
            self.referrers.remove(&(named, object.key.clone()));
        }
        if let Some(path) = file(&object.origin) {
            self.files.remove(&(path.into(), object.key.clone()));
        }
    }
}
