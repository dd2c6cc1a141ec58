//! What the handle takes and answers: plain values without behaviour of the room.
//!
//! In:    nothing.     Out: [`Published`], [`Stored`], [`Leased`], [`From`], [`Status`] … for the doors to print.
//! Owner: nobody.
//! Not here: their JSON form (`causeway-api`), the nouns topic and subscription (`causeway-model`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use causeway_model::{Name, Offset, Subscription, Timestamp, Topic};

use crate::cloudevent::CloudEvent;
use crate::error::{Error, Kind};

/// Where to begin in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At this offset.
    Offset(Offset),
    /// At the first event that was taken at or after this time.
    Time(Timestamp),
    /// At the oldest event that is kept.
    Earliest,
    /// After the newest event.
    Latest,
}

impl FromStr for From {
    type Err = String;

    /// `earliest`, `latest`, a number, or RFC 3339.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(From::Earliest),
            "latest" => return Ok(From::Latest),
            _ => {}
        }
        let offset = text.parse().ok().map(|number| From::Offset(Offset::new(number)));
        offset.or_else(|| Timestamp::from_rfc3339(text).map(From::Time)).ok_or_else(|| {
            format!("{text:?} is not a place in a topic: give an offset, RFC 3339, earliest or latest")
        })
    }
}

/// What became of a publish: one offset for each event, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Where each event lies; of a duplicate, where the first of its (source, id) lies.
    pub offsets: Vec<Offset>,
    /// Which of the given events (counted from 0) were duplicates.
    pub duplicates: Vec<usize>,
}

/// An event as it lies in its topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Where.
    pub offset: Offset,
    /// When it was taken; never goes back within a topic.
    pub published: Timestamp,
    /// The event.
    pub event: Arc<CloudEvent>,
}

/// What a read gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<Stored>,
    /// Where the next read goes on.
    pub next: Offset,
}

/// Proof of a lease. Opaque text; a new one for each delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    pub(crate) offset: Offset,
    pub(crate) nonce: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lse1_{:x}_{:016x}", self.offset.get(), self.nonce)
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let parts = text.strip_prefix("lse1_").and_then(|rest| rest.split_once('_'));
        let hex = |digits: &str| {
            let is_hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            is_hex.then(|| u64::from_str_radix(digits, 16).ok())?
        };
        let (offset, nonce) = parts.ok_or(InvalidToken)?;
        let (Some(offset), Some(nonce)) = (hex(offset), hex(nonce)) else { return Err(InvalidToken) };
        Ok(Token { offset: Offset::new(offset), nonce })
    }
}

/// A text is not a token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token that a pull gave")]
pub struct InvalidToken;

/// A pulled event.
#[derive(Clone, Debug, PartialEq)]
pub struct Leased {
    /// The event.
    pub event: Stored,
    /// What ack, nack and extend want.
    pub token: Token,
    /// Which attempt this is, from 1. Starts again from 1 after a restart of the node.
    pub attempt: u32,
    /// Until when the event is the puller's.
    pub deadline: Timestamp,
}

/// What became of ack, nack or extend: the good tokens took effect even when others were stale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// How many took effect.
    pub done: usize,
    /// Those that were refused: their lease ended, or the event was settled or sought away.
    pub stale: Vec<Token>,
}

impl Settled {
    /// For a door that answers all or nothing: an error when any token was stale (the good ones took effect all the same).
    ///
    /// # Errors
    /// [`Kind::StaleToken`].
    pub fn all(self) -> Result<usize, Error> {
        match (self.done, self.stale.len()) {
            (done, 0) => Ok(done),
            (done, stale) => {
                let text = format!("{stale} of {} tokens are stale: their leases have ended", done + stale);
                Err(Error::new(Kind::StaleToken, text))
            }
        }
    }
}

/// Why an event lies among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// Its attempts are spent.
    Attempts,
    /// The receiver said that it will never take it (422).
    Refused,
    /// An earlier event of its key lies here (sequenced mode).
    Behind,
}

impl DeadReason {
    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeadReason::Attempts => "attempts",
            DeadReason::Refused => "refused",
            DeadReason::Behind => "behind",
        }
    }
}

/// An event that was put aside.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Where it lies in its topic.
    pub offset: Offset,
    /// Why it is here.
    pub reason: DeadReason,
    /// The last thing that went wrong.
    pub error: String,
    /// How often delivery was tried.
    pub attempts: u32,
    /// When it was put aside.
    pub at: Timestamp,
    /// Its `partitionkey`.
    pub key: Option<String>,
    /// Whether it is on its way again.
    pub is_redriven: bool,
    /// The event; absent when the topic's retention has passed over it.
    pub event: Option<Stored>,
}

/// Which dead letters to deliver again, and how fast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redrive {
    /// CEL over `event` and `data`; all when absent. In sequenced mode a key's letters follow each other, so that a letter
    /// is taken only when every earlier one of its key is.
    pub filter: Option<String>,
    /// Events per second; at once when absent.
    pub rate: Option<u32>,
    /// Only say which.
    pub is_dry_run: bool,
}

/// Which dead letters were (or, in a dry run, would be) taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Their offsets, oldest first.
    pub offsets: Vec<Offset>,
}

/// How a subscription fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It delivers.
    Active,
    /// Its receiver answered 410 (CW-1709): it waits until the subscription is changed.
    Stopped,
    /// Its filter cannot be compiled (CW-1706): it waits until the subscription is changed; nothing is lost.
    Broken {
        /// Why.
        why: String,
    },
    /// So many dead letters wait that no more are taken (CW-1709): redrive them.
    Full,
}

/// Figures of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Every event before this one is settled.
    pub cursor: Offset,
    /// The end of the topic that these figures know.
    pub end: Offset,
    /// Events of the topic that are not settled yet (those that a filter will leave out are counted until it has seen them).
    pub lag: u64,
    /// Out for delivery now.
    pub in_flight: usize,
    /// Read, and waiting: for their key, their time, or a free place.
    pub waiting: usize,
    /// Dead letters, those on their way again included.
    pub dead_letters: usize,
    /// Keys that are parked (sequenced mode).
    pub parked_keys: usize,
    /// Events that the filter failed on since the start; they count as not matched.
    pub filter_errors: u64,
    /// Events that the topic's retention passed over before they were delivered, since the start.
    pub expired: u64,
    /// How it fares.
    pub state: State,
}

/// A subscription with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionView {
    /// Its group.
    pub group: Name,
    /// As declared.
    pub spec: Arc<Subscription>,
    /// Its figures.
    pub status: Status,
}

/// A topic with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicView {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// As declared.
    pub spec: Arc<Topic>,
    /// The oldest offset that retention shows.
    pub earliest: Offset,
    /// The offset that the next event gets.
    pub next: Offset,
    /// Events between them.
    pub records: u64,
    /// Bytes between them, as kept.
    pub bytes: u64,
    /// Its subscriptions, by group.
    pub subscriptions: Vec<SubscriptionView>,
}

/// Bounds on one pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Most events.
    pub max: usize,
    /// How long to wait for the first one; cut to [`PULL_WAIT_MAX`].
    pub wait: Duration,
}

/// Longest wait of a pull: below the 60 s at which common proxies give a silent request up.
pub const PULL_WAIT_MAX: Duration = Duration::from_secs(55);
