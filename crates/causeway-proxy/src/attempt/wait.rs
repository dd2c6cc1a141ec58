//! How long an attempt waits for its answer's head. Pure.
//!
//! In:    the limits, how the upload fares.      Out: until when, and then what it was that took too long.
//! Owner: one attempt.
//! Invariant: an upload that moves is never given up for the time it takes; one end that has stopped is.
//! Not here: the time after the head (`patience`).

use std::time::Duration;

use tokio::time::Instant;

/// Limits of one attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// The request's end.
    pub deadline: Option<Instant>,
    /// This try's.
    pub per_try: Option<Instant>,
    /// Nothing moves.
    pub silence: Option<Duration>,
    /// When the attempt began to send.
    pub since: Instant,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    Deadline,
    PerTry,
    Silence,
}

impl Wait {
    /// Until when, as things stand, and what is late then. `moved` is when a byte of a streamed upload went out last.
    pub(super) fn due(&self, moved: Option<Instant>) -> Option<(Instant, Late)> {
        let silent_since = moved.map_or(self.since, |moved| moved.max(self.since));
        let limits = [
            (self.deadline, Late::Deadline),
            (self.per_try, Late::PerTry),
            (self.silence.map(|silence| silent_since + silence), Late::Silence),
        ];
        limits.into_iter().filter_map(|(at, late)| Some((at?, late))).min_by_key(|(at, _)| *at)
    }

    /// Until when a connection must have been made.
    pub(super) fn connected(&self) -> Option<Instant> {
        match (self.deadline, self.per_try) {
            (Some(deadline), Some(per_try)) => Some(deadline.min(per_try)),
            (deadline, per_try) => deadline.or(per_try),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_earliest_limit_counts_and_silence_from_the_last_byte() {
        let since = Instant::now();
        let at = |seconds| Some(since + Duration::from_secs(seconds));
        let check = |deadline, per_try, silence: Option<u64>, moved, expected: Option<(u64, Late)>| {
            let silence = silence.map(Duration::from_secs);
            let wait = Wait { deadline, per_try, silence, since };
            let expected = expected.map(|(seconds, late)| (since + Duration::from_secs(seconds), late));
            assert_eq!(wait.due(moved), expected);
        };
        check(None, None, None, at(7), None);
        check(at(9), at(5), Some(60), None, Some((5, Late::PerTry)));
        check(at(4), at(5), Some(60), None, Some((4, Late::Deadline)));
        check(None, None, Some(60), None, Some((60, Late::Silence)));
        check(None, None, Some(60), at(300), Some((360, Late::Silence)));
        check(at(320), None, Some(60), at(300), Some((320, Late::Deadline)));
    }
}
