//! What the rooms say of documents of good form before they are written: expressions that do not compile, definitions that cannot run.
//!
//! In:    documents as `causeway-spec` read them.      Out: those that can be run, and what is wrong with the others.
//! Owner: whoever takes documents: the API, the roof's files, `causeway check`.
//! Invariant: a document that passes is one that its room will run.
//! Not here: the form (`causeway-spec`), references between documents (`causeway-registry` says them as conditions).

use causeway_events::Filter;
use causeway_model::Spec;
use causeway_spec::Document;

/// Those documents that can be run, and what is wrong with the others beyond their form.
pub fn sound(documents: Vec<Document>) -> (Vec<Document>, Vec<String>) {
    let mut problems = Vec::new();
    let documents = documents.into_iter().filter(|document| match unsound(document) {
        None => true,
        Some(flaws) => {
            let say =
                |text: &String| format!("{}: {}: {text} [{}]", document.place, document.key, flaws.code);
            problems.extend(flaws.texts.iter().map(say));
            false
        }
    });
    (documents.collect(), problems)
}

/// Why a document of good form cannot be run.
pub struct Flaws {
    /// The code of the room that says so.
    pub code: &'static str,
    /// Each flaw in words.
    pub texts: Vec<String>,
}

/// What the room that is to run a document says of it.
pub fn unsound(document: &Document) -> Option<Flaws> {
    let flaws = match &document.spec {
        Spec::Saga(definition) => {
            let texts = causeway_saga::validate(definition).iter().map(ToString::to_string).collect();
            Flaws { code: "CW-1801", texts }
        }
        Spec::Subscription(subscription) => {
            let error = subscription.filter.as_deref().and_then(|text| Filter::compile(text).err())?;
            Flaws { code: error.code(), texts: vec![error.text().to_owned()] }
        }
        _ => return None,
    };
    (!flaws.texts.is_empty()).then_some(flaws)
}
