//! How many origin requests to keep open, and when to stay away altogether.
//!
//! More streams are opened only while more bring more, and as many as brought nothing are closed: the
//! measure is how fast chunks appear anywhere in the swarm for the first time, which neighbours'
//! announcements tell, so a node does not mistake the share it takes from others for a gain.

use std::time::Duration;

use super::Now;

/// Streams open at least, alone: there is nobody to take a share from, so wide, as the best downloaders do.
const STREAMS_ALONE: usize = 8;
/// Streams open at most, alone.
const STREAMS_MAX: usize = 16;
/// Streams that a node may open at least while others take part; where they are few it is as many as
/// make [`STREAMS_MAX`] together.
const STREAMS_MAX_IN_COMPANY: usize = 2;
/// A level is judged over at least this long and this much.
const JUDGE_AFTER: Duration = Duration::from_millis(500);
const JUDGE_BYTES: u64 = 8 << 20;
/// Twice as many streams must bring this much to be kept.
const GAIN: f64 = 1.12;
/// After a step that brought nothing, how long until the next try; doubled each time, up to the second.
const REST: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(80);
/// Of each stream so many chunks are judged, or their lumps would be.
const JUDGED_CHUNKS: u32 = 4;
/// The next try comes no sooner than so many times as long as judging one takes, up to the second: beside a slow
/// origin that is long, and streams in vain make every chunk come later.
const REST_PER_JUDGING: u32 = 8;
const REST_AT_SLOW_MAX: Duration = Duration::from_secs(300);
/// A stream whose chunks follow each other faster than this would wait for its next request: requests
/// take a round trip and the origin's time to first byte.
const FAST: Duration = Duration::from_millis(100);
/// What is supposed of the time between chunks before any came.
const USUAL: Duration = Duration::from_millis(250);
/// How long an origin may take to give its first chunk to anybody, before its readers count as stuck.
const FIRST_CHUNK: Duration = Duration::from_secs(10);

/// Where most readers are slow, one of them is waited for up to so many times as long as elsewhere: it is the origin
/// that is slow. Who is dead is noticed sooner by other means. What is read then must come before a pull gives up.
const SLOW_ORIGIN_TIMES: u32 = 3;

/// An origin that wants more quiet than this is asked again all the same.
const HOLD_MAX: Duration = Duration::from_secs(300);

/// Adapts the number of origin streams, and keeps hold-off times.
#[derive(Debug)]
pub(super) struct OriginPace {
    level: usize,
    /// How many there may be after a step to more.
    most: usize,
    /// How many streams there were before the step that is being judged, and what they brought a second.
    before: Option<(usize, f64)>,
    /// Whether the next step is to fewer streams: alone there were many, whether or not they brought more.
    falls: bool,
    /// When the chunk came that what is being judged began with; it is not judged itself, since what comes first
    /// has waited for the origin to begin.
    since: Option<Now>,
    /// Of the chunks that came after it.
    bytes: u64,
    try_after: Now,
    rest: Duration,
    /// Whether nobody else took part when it was last asked.
    is_alone: bool,
    hold_until: Now,
    failures: u32,
    /// Smoothed time between chunks of one stream; none before the first chunk of any.
    interval: Option<Duration>,
    /// How long this node's own streams have waited for chunks, and for how many.
    own: (Duration, u32),
}

impl OriginPace {
    pub(super) fn new(now: Now) -> Self {
        Self {
            level: 1,
            most: STREAMS_MAX,
            before: None,
            falls: false,
            since: None,
            bytes: 0,
            try_after: now,
            rest: REST,
            is_alone: false,
            hold_until: Duration::ZERO,
            failures: 0,
            interval: None,
            own: (Duration::ZERO, 0),
        }
    }

    /// How many streams may be open now, while as many take part, of whom the `others` have so many open; so
    /// many of this node's own are busy.
    pub(super) fn streams(&mut self, now: Now, participants: usize, others: usize, busy: usize) -> usize {
        if self.is_alone {
            // What company brings was not there before, and what many streams bring is not known.
            (self.is_alone, self.falls) = (false, true);
            self.judge_afresh(now);
        }
        self.most = (STREAMS_MAX / participants.max(1)).max(STREAMS_MAX_IN_COMPANY);
        // Who had more alone gives them up as others want them.
        self.level = self.level.min(STREAMS_MAX.saturating_sub(others).max(self.most));
        if busy > self.level {
            // What fewer bring is seen when the others have ended.
            self.measure_afresh();
        }
        if now < self.hold_until { 0 } else { self.level }
    }

    /// How many streams may be open now, while nobody else takes part.
    pub(super) fn streams_alone(&mut self, now: Now) -> usize {
        if !self.is_alone {
            (self.is_alone, self.falls) = (true, false);
            self.judge_afresh(now);
            // What is read first would come later beside more streams, should they bring nothing.
            self.settle(now);
        }
        self.most = STREAMS_MAX;
        self.level = self.level.max(STREAMS_ALONE);
        if now < self.hold_until { 0 } else { self.level }
    }

    fn judge_afresh(&mut self, now: Now) {
        (self.before, self.try_after, self.rest) = (None, now, REST);
        self.measure_afresh();
    }

    /// What came so far says nothing about the streams that are open.
    pub(super) fn measure_afresh(&mut self) {
        (self.since, self.bytes) = (None, 0);
    }

    /// Whether chunks of one stream follow each other so fast that a request takes long beside them.
    pub(super) fn is_fast(&self) -> bool {
        self.interval() < FAST
    }

    /// Whether the origin is to be left alone.
    pub(super) fn is_held(&self, now: Now) -> bool {
        now < self.hold_until
    }

    /// The usual time between chunks of one stream.
    pub(super) fn interval(&self) -> Duration {
        self.interval.unwrap_or(USUAL)
    }

    /// How long this node's own streams have taken for a chunk, of all they have read; none before the first.
    pub(super) fn own_pace(&self) -> Option<Duration> {
        self.own.0.checked_div(self.own.1)
    }

    /// A chunk appeared in the swarm for the first time.
    pub(super) fn first_arrival(&mut self, now: Now, bytes: u32) {
        self.failures = 0;
        let Some(since) = self.since else {
            self.since = Some(now);
            return;
        };
        self.bytes += u64::from(bytes);
        let took = now.saturating_sub(since);
        if took < JUDGE_AFTER.max(self.interval() * JUDGED_CHUNKS) || self.bytes < JUDGE_BYTES {
            return;
        }
        let rate = self.bytes as f64 / took.as_secs_f64();
        if now >= self.try_after {
            self.step(now, rate);
        }
        (self.since, self.bytes) = (Some(now), 0);
    }

    /// Judges the step that was taken last, and takes the next one.
    fn step(&mut self, now: Now, rate: f64) {
        let is_good = |(level, before): (usize, f64)| {
            if self.level > level { rate > before * GAIN } else { rate * GAIN > before }
        };
        if let Some(before) = self.before.take()
            && !is_good(before)
        {
            self.level = before.0;
            self.settle(now);
            return;
        }
        let more = (self.level * 2).min(self.most).max(self.level);
        let next = if self.falls { (self.level / 2).max(1) } else { more };
        if next == self.level {
            self.settle(now);
            return;
        }
        self.before = Some((self.level, rate));
        self.level = next;
    }

    /// Leaves the number of streams as it is for a while.
    fn settle(&mut self, now: Now) {
        self.falls = false;
        let judging = self.interval.unwrap_or_default() * JUDGED_CHUNKS;
        self.try_after = now + self.rest.max((judging * REST_PER_JUDGING).min(REST_AT_SLOW_MAX));
        self.rest = (self.rest * 2).min(REST_MAX);
    }

    /// The origin, or a neighbour on its behalf, asked for quiet.
    pub(super) fn hold(&mut self, until: Now) {
        if until > self.hold_until {
            self.hold_until = until;
            self.measure_afresh();
        }
    }

    /// A read failed; the next try waits, longer each time.
    pub(super) fn failed(&mut self, now: Now, retry_after: Option<Duration>) {
        self.failures = (self.failures + 1).min(6);
        let wait = retry_after.unwrap_or(Duration::from_millis(125 << self.failures));
        self.hold(now.saturating_add(wait.min(HOLD_MAX)));
    }

    /// Another chunk of a stream took this long. Slowness is believed sooner than haste: what is taken over
    /// too early is read twice.
    pub(super) fn chunk_interval(&mut self, took: Duration) {
        let usual = self.interval();
        let weight = if took > usual { 2 } else { 8 };
        self.interval = Some((usual * (weight - 1) + took) / weight);
    }

    /// Another chunk of a stream of this node's own took this long.
    pub(super) fn own_chunk(&mut self, took: Duration) {
        self.chunk_interval(took);
        self.own = (self.own.0 + took, self.own.1 + 1);
    }

    /// A stream of this node's own was given up after such a wait: its chunks take at least as long.
    pub(super) fn own_wait_ended(&mut self, waited: Duration) {
        self.own.0 += waited;
    }

    /// Without progress for this long, a stream or a neighbour counts as stuck.
    pub(super) fn stuck_after(&self, min: Duration, max: Duration) -> Duration {
        (self.interval() * 8).clamp(min, max)
    }

    /// Without progress for this long, another reader of the origin counts as stuck. What an origin does to all
    /// is no reason to take over, nor that this node gets more of it than others do. `waiting`: how long this
    /// node's own streams have waited for their next chunk, the one that waits longest; `others`: how long
    /// a reader takes for one usually.
    pub(super) fn takeover_after(
        &self,
        min: Duration,
        max: Duration,
        waiting: Duration,
        others: Option<Duration>,
    ) -> Duration {
        let usual = match (self.own_pace(), self.interval) {
            (Some(own), _) => own.max(others.unwrap_or_default()) * 8,
            // Who got nothing from an origin that gives to others leaves it to them to take over.
            (None, Some(interval)) => (interval * 8).max(min) * 2,
            (None, None) => FIRST_CHUNK,
        };
        let are_most_slow = others.is_some_and(|pace| pace * 8 > max);
        let max = if are_most_slow { max * SLOW_ORIGIN_TIMES } else { max };
        usual.max(waiting * 2).clamp(min, max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(pace: &mut OriginPace, from_ms: u64, to_ms: u64, bytes_per_ms: u32) {
        for ms in from_ms..to_ms {
            pace.first_arrival(Duration::from_millis(ms), bytes_per_ms);
        }
    }

    #[test]
    fn streams_grow_while_they_bring_more_and_no_longer() {
        let mut pace = OriginPace::new(Duration::ZERO);
        feed(&mut pace, 0, 1001, 20_000);
        let first = pace.streams(Duration::from_secs(1), 8, 0, 0);
        assert!(first >= 2, "no second stream was tried: {first}");
        feed(&mut pace, 1001, 5900, 20_000);
        assert_eq!(
            pace.streams(Duration::from_secs(6), 8, 0, 0),
            1,
            "a stream that brought nothing was kept"
        );
    }

    #[test]
    fn what_comes_first_has_waited_for_the_origin_and_makes_no_stream_look_slow() {
        let mut pace = OriginPace::new(Duration::ZERO);
        // Seven seconds without anything, then as much as the origin has.
        feed(&mut pace, 7_000, 8_001, 20_000);
        assert_eq!(pace.streams(Duration::from_secs(8), 16, 0, 0), 2, "more are tried");
        feed(&mut pace, 8_001, 10_000, 20_000);
        assert_eq!(pace.streams(Duration::from_secs(10), 16, 0, 0), 1, "they brought nothing");
    }

    #[test]
    fn a_reader_is_waited_for_longer_where_most_are_slow_but_not_for_ever() {
        let seconds = Duration::from_secs;
        let after = |own: u64, others: Option<u64>, waiting: u64| {
            let mut pace = OriginPace::new(Duration::ZERO);
            pace.own_chunk(seconds(own));
            pace.takeover_after(seconds(3), seconds(30), seconds(waiting), others.map(seconds)).as_secs()
        };
        assert_eq!(after(1, Some(1), 0), 8);
        assert_eq!(after(1, Some(5), 0), 40, "most take five seconds for a chunk");
        assert_eq!(after(1, Some(500), 0), 90);
        assert_eq!(after(20, Some(1), 0), 30, "only this node is slow");
        assert_eq!(after(1, Some(1), 500), 30, "only this node waits");
    }

    #[test]
    fn beside_a_slow_origin_more_streams_are_tried_seldom() {
        let mut pace = OriginPace::new(Duration::ZERO);
        // A chunk in three seconds for each of sixteen readers: a step is judged over twelve.
        let tried = (0..600).filter(|chunk| {
            let now = Duration::from_millis(200) * *chunk;
            pace.first_arrival(now, 1 << 20);
            pace.chunk_interval(Duration::from_secs(3));
            pace.streams(now, 16, 0, 0) > 1
        });
        let tried = tried.count();
        assert!((1..600 / 4).contains(&tried), "{tried} of 600");
    }

    /// An origin that gives so much to each stream, and no more in all than `most`, in bytes a millisecond;
    /// `others` read with one stream each. What this node has open in the end.
    fn after(pace: &mut OriginPace, from_ms: u64, to_ms: u64, each: u32, most: u32, others: u32) -> usize {
        let mut open = pace.level;
        for ms in from_ms..to_ms {
            let now = Duration::from_millis(ms);
            let may_be_open = match others {
                0 => pace.streams_alone(now),
                _ => pace.streams(now, 1 + others as usize, others as usize, open),
            };
            // Streams end when their spans do.
            if may_be_open > open || ms % 4_000 == 0 {
                open = may_be_open;
            }
            pace.first_arrival(now, ((open as u32 + others) * each).min(most));
        }
        pace.level
    }

    #[test]
    fn who_gets_company_keeps_the_streams_that_bring_more_and_no_others() {
        let mut pace = OriginPace::new(Duration::ZERO);
        assert_eq!(after(&mut pace, 0, 10_000, 2_000, u32::MAX, 0), 16, "each brings as much");
        assert_eq!(after(&mut pace, 10_000, 24_000, 2_000, u32::MAX, 1), 15, "all that the other one leaves");
        let mut pace = OriginPace::new(Duration::ZERO);
        assert_eq!(after(&mut pace, 0, 4_900, 20_000, 20_000, 0), 8, "no more than one brings");
        assert_eq!(after(&mut pace, 5_000, 19_900, 20_000, 20_000, 1), 1, "one brings all");
    }

    #[test]
    fn nothing_is_read_while_the_origin_wants_quiet() {
        let mut pace = OriginPace::new(Duration::ZERO);
        pace.failed(Duration::ZERO, Some(Duration::from_secs(9)));
        assert_eq!(pace.streams_alone(Duration::from_millis(8_999)), 0);
        assert!(pace.streams_alone(Duration::from_secs(9)) > 0);
    }

    #[test]
    fn an_absurd_wait_neither_overflows_nor_lasts() {
        let mut pace = OriginPace::new(Duration::ZERO);
        pace.failed(Duration::from_secs(1), Some(Duration::MAX));
        assert!(pace.streams_alone(Duration::from_secs(1) + HOLD_MAX) > 0);
    }

    #[test]
    fn waits_after_failures_grow_and_end_with_success() {
        let mut pace = OriginPace::new(Duration::ZERO);
        let now = Duration::from_secs(100);
        pace.failed(now, None);
        let first = pace.hold_until - now;
        pace.failed(now, None);
        assert!(pace.hold_until - now > first);
        pace.first_arrival(now, 1);
        assert_eq!(pace.failures, 0);
    }
}
