//! Counts what a client makes an HTTP/2 connection do, frame by frame, and says when it is too much: a protocol with so
//! many ways to make the other side work needs a bound on each. A walk over both byte streams that looks at frame
//! headers only and skips payloads.
//!
//! Counted here: RST_STREAM (CVE-2023-44487 rapid reset), PING (CVE-2019-9512), SETTINGS (9515), empty frames (9518),
//! and what only keeps house: WINDOW_UPDATE (9511 data dribble), PRIORITY (9513 resource loop), GOAWAY, unknown types.
//!
//! Bounded by h2 0.4.20 itself, and therefore not counted here: CONTINUATION frames of a header block and its size, the
//! overhead of 0-length names included (9516, CVE-2024-27316); resets that the client provokes by breaking rules or by
//! opening too many streams (9514, CVE-2025-8671 "made you reset"), 1024 in a connection's life
//! (`max_local_error_reset_streams`); resets of streams not yet accepted; answers to PING and SETTINGS, of which it
//! holds one each; small DATA frames that wait to be read; empty DATA frames, 100 in a connection's life. Not h2's to
//! bound: resets that the router itself sends, so a bad request is answered and not reset; and a client that does not
//! read (9517), which is a matter of time.
//!
//! Budgets alone would cut good clients, whose housekeeping grows with their traffic: gRPC measures its window with a
//! PING per round trip, simple clients acknowledge each DATA frame, and one in a hundred calls is cancelled. So what the
//! router sends earns the client more of some kinds, up to a bound.

use crate::limits::Http2Limits;

/// The state of one connection. Time is milliseconds since any fixed moment.
#[derive(Debug, Clone)]
pub struct Meter {
    received: Walk,
    sent: Walk,
    resets: Bucket,
    pings: Bucket,
    settings: Bucket,
    empty: Bucket,
    housekeeping: Bucket,
    now: u64,
    flooded: Option<Flood>,
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Flood {
    /// RST_STREAM.
    #[error("too many streams were reset")]
    Resets,
    /// PING.
    #[error("too many PING frames")]
    Pings,
    /// SETTINGS.
    #[error("too many SETTINGS frames")]
    Settings,
    /// DATA, HEADERS and CONTINUATION without content.
    #[error("too many empty frames")]
    EmptyFrames,
    /// WINDOW_UPDATE, PRIORITY, GOAWAY, unknown types.
    #[error("too many WINDOW_UPDATE, PRIORITY and unknown frames")]
    Housekeeping,
}

impl Flood {
    /// Every flood.
    pub const ALL: [Self; 5] = [
        Self::Resets,
        Self::Pings,
        Self::Settings,
        Self::EmptyFrames,
        Self::Housekeeping,
    ];

    /// A label for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Pings => "pings",
            Self::Settings => "settings",
            Self::EmptyFrames => "empty_frames",
            Self::Housekeeping => "housekeeping",
        }
    }
}

impl Meter {
    /// A meter of a connection that begins now, before the client's preface.
    pub fn new(limits: &Http2Limits, now: u64) -> Self {
        Self {
            received: Walk::after(PREFACE),
            sent: Walk::after(0),
            resets: Bucket::new(limits.resets, i64::from(limits.resets)),
            pings: Bucket::new(limits.pings, MOST_EARNED),
            settings: Bucket::new(limits.settings, 0),
            empty: Bucket::new(limits.empty_frames, 0),
            housekeeping: Bucket::new(limits.empty_frames, MOST_EARNED),
            now,
            flooded: None,
        }
    }

    /// Takes note of bytes that the client sent, its preface included.
    ///
    /// # Errors
    /// [`Flood`] when there is too much of something: the connection has to end, and nothing is well any more.
    pub fn received(&mut self, mut bytes: &[u8], now: u64) -> Result<(), Flood> {
        self.flooded.map_or(Ok(()), Err)?;
        self.pass_time(now);
        while let Some(frame) = self.received.next(&mut bytes) {
            let (bucket, flood) = match frame.kind {
                kind::DATA | kind::HEADERS | kind::CONTINUATION => {
                    if frame.kind == kind::HEADERS {
                        self.housekeeping.earn(4 * FRAME);
                    }
                    if frame.has_content_or_end() {
                        continue;
                    }
                    (&mut self.empty, Flood::EmptyFrames)
                }
                kind::RST_STREAM => (&mut self.resets, Flood::Resets),
                kind::PING => (&mut self.pings, Flood::Pings),
                kind::SETTINGS => (&mut self.settings, Flood::Settings),
                _ => (&mut self.housekeeping, Flood::Housekeeping),
            };
            if !bucket.take() {
                self.flooded = Some(flood);
                return Err(flood);
            }
        }
        Ok(())
    }

    /// Takes note of bytes that went to the client.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            if frame.kind == kind::HEADERS {
                // One in ten streams that are answered may be reset for free.
                self.resets.earn(FRAME / 10);
            }
            if matches!(frame.kind, kind::DATA | kind::HEADERS) {
                self.pings.earn(FRAME);
                self.housekeeping.earn(10 * FRAME);
            }
        }
    }

    fn pass_time(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.now).min(PERIOD);
        self.now = self.now.max(now);
        let buckets = [
            &mut self.resets,
            &mut self.pings,
            &mut self.settings,
            &mut self.empty,
            &mut self.housekeeping,
        ];
        for bucket in buckets {
            bucket.leak(elapsed);
        }
    }
}

/// What a budget is for, in milliseconds.
const PERIOD: u64 = Http2Limits::PERIOD.as_millis() as u64;
/// One frame in a bucket: a frame times the period, so that leaking for a millisecond is exact.
const FRAME: i64 = PERIOD as i64;
/// Frames that a connection can have earned and not yet sent: windows full of small DATA frames may be acknowledged at
/// once.
const MOST_EARNED: i64 = 100_000;
/// `PRI * HTTP/2.0…`, which h2 checks.
const PREFACE: usize = 24;

/// A leaking bucket: as many frames at once as the budget says, and as many again per period.
#[derive(Debug, Clone)]
struct Bucket {
    /// Below zero: earned.
    level: i64,
    budget: i64,
    most_earned: i64,
}

impl Bucket {
    fn new(budget: u32, most_earned: i64) -> Self {
        Self {
            level: 0,
            budget: i64::from(budget),
            most_earned: most_earned * FRAME,
        }
    }

    fn leak(&mut self, elapsed: u64) {
        if self.level > 0 {
            let leaked = i64::try_from(elapsed).unwrap_or(FRAME) * self.budget;
            self.level = (self.level - leaked).max(0);
        }
    }

    /// Whether there is room for one more frame.
    fn take(&mut self) -> bool {
        self.level += FRAME;
        self.level <= self.budget * FRAME
    }

    fn earn(&mut self, amount: i64) {
        self.level = (self.level - amount).max(-self.most_earned);
    }
}

/// What is needed of a frame's header.
#[derive(Debug, Clone, Copy)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Frame {
    fn has_content_or_end(self) -> bool {
        const END_STREAM: u8 = 1;
        let ends = self.kind != kind::CONTINUATION && self.flags & END_STREAM != 0;
        self.length > 0 || ends
    }
}

/// A walk from frame to frame.
#[derive(Debug, Clone)]
struct Walk {
    /// Length, type and flags, as far as they are there.
    head: u64,
    have: u8,
    /// Bytes until the next header.
    skip: usize,
}

impl Walk {
    fn after(skip: usize) -> Self {
        Self {
            head: 0,
            have: 0,
            skip,
        }
    }

    /// The next frame whose length, type and flags are in `bytes`, which is moved on.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            let (byte, rest) = bytes.get(skipped..)?.split_first().unzip();
            *bytes = rest.unwrap_or_default();
            self.head = self.head << 8 | u64::from(*byte?);
            self.have += 1;
            if self.have == 5 {
                let [.., l2, l1, l0, kind, flags] = self.head.to_be_bytes();
                let length = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
                // The stream's number stands between here and the payload.
                *self = Self::after(4 + length);
                return Some(Frame {
                    length,
                    kind,
                    flags,
                });
            }
        }
    }
}

/// Frame types (RFC 9113 §6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const CONTINUATION: u8 = 9;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Http2Limits = Http2Limits {
        streams: 1,
        header_list: 1,
        stream_window: 1,
        connection_window: 1,
        resets: 3,
        pings: 4,
        settings: 5,
        empty_frames: 6,
    };
    const GOAWAY: u8 = 7;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![
            0,
            (length >> 8) as u8,
            length as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        // A payload that would look like RST_STREAM frames.
        frame.resize(9 + length, 3);
        frame
    }

    fn begun(limits: &Http2Limits) -> Meter {
        let mut meter = Meter::new(limits, 0);
        meter
            .received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0)
            .unwrap();
        meter
    }

    /// How many of these frames would be let through at one moment, at most 1000.
    fn allowed(meter: &Meter, frame: &[u8], now: u64) -> (usize, Option<Flood>) {
        let mut meter = meter.clone();
        for count in 0..1000 {
            if let Err(flood) = meter.received(frame, now) {
                return (count, Some(flood));
            }
        }
        (1000, None)
    }

    #[test]
    fn each_kind_has_its_budget() {
        for (kind, flags, length, expected) in [
            (kind::RST_STREAM, 0, 4, (3, Some(Flood::Resets))),
            (kind::PING, 0, 8, (4, Some(Flood::Pings))),
            (kind::PING, 1, 8, (4, Some(Flood::Pings))),
            (kind::SETTINGS, 0, 0, (5, Some(Flood::Settings))),
            (kind::SETTINGS, 1, 0, (5, Some(Flood::Settings))),
            (kind::DATA, 0, 0, (6, Some(Flood::EmptyFrames))),
            (kind::DATA, 1, 0, (1000, None)),
            (kind::DATA, 0, 1, (1000, None)),
            (kind::HEADERS, 4, 0, (6, Some(Flood::EmptyFrames))),
            (kind::HEADERS, 4, 300, (1000, None)),
            (kind::CONTINUATION, 0, 0, (6, Some(Flood::EmptyFrames))),
            // What ends a stream elsewhere means nothing here.
            (kind::CONTINUATION, 1, 0, (6, Some(Flood::EmptyFrames))),
            (kind::CONTINUATION, 4, 9, (1000, None)),
            (WINDOW_UPDATE, 0, 4, (6, Some(Flood::Housekeeping))),
            (2, 0, 5, (6, Some(Flood::Housekeeping))),
            (GOAWAY, 0, 8, (6, Some(Flood::Housekeeping))),
            (16, 0, 9, (6, Some(Flood::Housekeeping))),
            (255, 0, 0, (6, Some(Flood::Housekeeping))),
        ] {
            let meter = begun(&LIMITS);
            let found = allowed(&meter, &frame(kind, flags, length), 0);
            assert_eq!(found, expected, "{kind} {flags} {length}");
        }
    }

    #[test]
    fn a_budget_comes_back_in_its_period_and_never_more_of_it() {
        let ping = frame(kind::PING, 0, 8);
        let mut meter = begun(&LIMITS);
        for (now, expected) in [
            (0, 4),
            (2499, 0),
            (2500, 1),
            (5000, 1),
            (10_000, 2),
            (3_600_000, 4),
            // A clock that goes back gives nothing.
            (0, 0),
            (3_600_000, 0),
        ] {
            assert_eq!(allowed(&meter, &ping, now).0, expected, "at {now}");
            for _ in 0..expected {
                assert_eq!(meter.received(&ping, now), Ok(()));
            }
        }
    }

    #[test]
    fn traffic_earns_housekeeping_pings_and_a_few_resets_but_nothing_else() {
        for (kind, length, data, heads) in [
            (kind::PING, 8, 4 + 50, 4 + 50),
            (WINDOW_UPDATE, 4, 6 + 500, 6 + 500),
            // A tenth, and no more than the budget again.
            (kind::RST_STREAM, 4, 3, 3 + 3),
            (kind::SETTINGS, 0, 5, 5),
            (kind::CONTINUATION, 0, 6, 6),
        ] {
            for (sent, expected) in [
                (kind::DATA, data),
                (kind::HEADERS, heads),
                (
                    kind::PING,
                    allowed(&begun(&LIMITS), &frame(kind, 0, length), 0).0,
                ),
            ] {
                let mut meter = begun(&LIMITS);
                for _ in 0..50 {
                    meter.sent(&frame(sent, 0, 70));
                }
                let found = allowed(&meter, &frame(kind, 0, length), 0).0;
                assert_eq!(found, expected, "{kind} after sending {sent}");
            }
        }
    }

    #[test]
    fn a_browser_may_open_every_stream_and_tune_each_before_it_is_answered() {
        let mut meter = begun(&Http2Limits::default());
        let mut bytes = frame(kind::SETTINGS, 0, 30);
        bytes.extend(frame(WINDOW_UPDATE, 0, 4));
        for _ in 0..128 {
            bytes.extend(frame(kind::HEADERS, 5, 90));
            bytes.extend(frame(WINDOW_UPDATE, 0, 4));
            bytes.extend(frame(16, 0, 12));
        }
        assert_eq!(meter.received(&bytes, 1), Ok(()));
    }

    #[test]
    fn a_client_may_acknowledge_every_small_frame_twice() {
        let mut meter = begun(&Http2Limits::default());
        for now in 0..20_000 {
            meter.sent(&frame(kind::DATA, 0, 60));
            let mut bytes = frame(WINDOW_UPDATE, 0, 4).repeat(2);
            bytes.extend(frame(kind::PING, 0, 8));
            assert_eq!(meter.received(&bytes, now / 10), Ok(()));
        }
    }

    #[test]
    fn after_a_flood_nothing_is_well() {
        let mut meter = begun(&LIMITS);
        let flood = meter.received(&frame(kind::PING, 0, 8).repeat(5), 0);
        assert_eq!(flood, Err(Flood::Pings));
        assert_eq!(meter.received(&frame(kind::DATA, 0, 8), 60_000), flood);
    }

    #[test]
    fn labels_differ() {
        let labels: std::collections::HashSet<_> = Flood::ALL.map(Flood::as_str).into();
        assert_eq!(labels.len(), Flood::ALL.len());
    }

    fn some_frames() -> impl Strategy<Value = Vec<(u8, u8, usize)>> {
        let length = prop_oneof![Just(0usize), 0usize..40, Just(16_384)];
        proptest::collection::vec((0u8..12, 0u8..6, length), 0..40)
    }

    proptest! {
        #[test]
        fn slicing_does_not_matter(frames in some_frames(), size in 1usize..30) {
            let bytes: Vec<u8> = frames.iter().flat_map(|&(kind, flags, length)| frame(kind, flags, length)).collect();
            let (mut whole, mut sliced) = (begun(&LIMITS), begun(&LIMITS));
            whole.sent(&bytes);
            for slice in bytes.chunks(size) {
                sliced.sent(slice);
            }
            let expected = whole.received(&bytes, 7);
            let found = bytes.chunks(size).try_for_each(|slice| sliced.received(slice, 7));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn arbitrary_bytes_are_walked_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), now in any::<u64>()) {
            let mut meter = Meter::new(&Http2Limits::default(), now);
            prop_assert!(meter.received(&bytes, now).is_ok());
            meter.sent(&bytes);
            prop_assert!(meter.received(&bytes, now.wrapping_add(1)).is_ok());
        }
    }
}
