//! The frame meter of an HTTP/2 connection: however the bytes arrive, the same flood is found or none, and bytes are never a reason to
//! panic. The first byte is the size of the drips, the second how much of the input the router sent beforehand.

#![no_main]

use libfuzzer_sys::fuzz_target;
use router_model::h2::meter::{Flood, Meter};
use router_model::limits::Http2Limits;

fuzz_target!(|input: &[u8]| {
    let [drip, sent, bytes @ ..] = input else {
        return;
    };
    let (sent, received) = bytes.split_at(usize::from(*sent).min(bytes.len()));
    let whole = walk(sent, received, usize::MAX);
    let dripped = walk(sent, received, usize::from(*drip).max(1));
    assert_eq!(whole, dripped);
});

fn walk(sent: &[u8], received: &[u8], drip: usize) -> Result<(), Flood> {
    let limits = Http2Limits {
        resets: 2,
        pings: 2,
        settings: 2,
        empty_frames: 2,
        ..Http2Limits::default()
    };
    let mut meter = Meter::new(&limits, 0);
    for slice in sent.chunks(drip) {
        meter.sent(slice);
    }
    received
        .chunks(drip)
        .try_for_each(|slice| meter.received(slice, 1))
}
