//! What is wrong with a text: where, with which object, why, and how to mend it.
//!
//! In:    nothing; every reader of this crate makes them.     Out: [`Problem`], printed as `path:line:column: … [CW-NNNN]`.
//! Owner: whoever asked for the text to be read.
//! Invariant: each [`Code`] has a page in `docs/errors` (a test says so), and no message shows a secret's value.
//! Not here: problems that need more than one text to see, such as a route to a service that nobody declares (registry).

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Which sort of problem; each has a page (`causeway explain CW-1003`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code of this crate.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// As printed, `CW-1003`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The text is neither YAML nor JSON.
    Syntax = "CW-1001",
    /// The text is larger, deeper or longer than we read.
    TooBig = "CW-1002",
    /// A field that this kind does not have.
    UnknownField = "CW-1003",
    /// The same key twice in one mapping.
    DuplicateKey = "CW-1004",
    /// A value of another type than the field's.
    WrongType = "CW-1005",
    /// A field that must be there is not.
    Missing = "CW-1006",
    /// A number or a list's length out of its bounds.
    OutOfRange = "CW-1007",
    /// None of the values that the field may have.
    NotAllowed = "CW-1008",
    /// Not a name.
    BadName = "CW-1009",
    /// Not a duration.
    BadDuration = "CW-1010",
    /// Not a size in bytes.
    BadBytes = "CW-1011",
    /// A text of the wrong form: path, host name, header, URL, base64…
    BadText = "CW-1012",
    /// A kind that does not exist.
    UnknownKind = "CW-1013",
    /// A kind that exists but that this version does not support.
    KindNotSupported = "CW-1014",
    /// A field or value that upstream has but that this version does not support.
    NotSupported = "CW-1015",
    /// Fields that exclude or demand each other.
    Contradiction = "CW-1016",
    /// Two entries of one list that must differ.
    Repeated = "CW-1017",
    /// The same object twice in one text.
    DeclaredTwice = "CW-1018",
    /// A feature of YAML that we refuse: aliases, merge keys, foreign tags.
    YamlFeature = "CW-1019",
    /// A reference into another namespace that nothing permits.
    CrossNamespace = "CW-1020",
    /// A policy that guards nothing, or a rule that allows nobody or everybody by accident.
    EmptyPolicy = "CW-1021",
    /// Warning: something that is accepted but has no effect.
    NoEffect = "CW-1100",
    /// Warning: a compensation that can never run.
    Unreachable = "CW-1101",
}

impl Code {
    /// Whether the object is accepted in spite of it.
    pub const fn is_warning(self) -> bool {
        matches!(self, Code::NoEffect | Code::Unreachable)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Path of the file as it was given, or `body`.
    pub path: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path, self.line, self.column)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which sort.
    pub code: Code,
    /// Where it is written.
    pub place: Place,
    /// Which object it is about, `HTTPRoute default/echo`, when that is known.
    pub object: Option<String>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Problem {
    /// Whether the object is accepted in spite of it.
    pub const fn is_warning(&self) -> bool {
        self.code.is_warning()
    }

    /// Without place and hint: `HTTPRoute default/echo: unknown field "x" [CW-1003]`.
    pub fn summary(&self) -> String {
        match &self.object {
            Some(object) => format!("{object}: {} [{}]", self.message, self.code),
            None => format!("{} [{}]", self.message, self.code),
        }
    }
}

/// Two lines: place, object, what and code; then the hint.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warning = if self.is_warning() { "warning: " } else { "" };
        write!(f, "{}: {warning}{}", self.place, self.summary())?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}
