//! The PROXY header: however the bytes arrive, it says the same and takes as many of them; none of those behind it. The first byte is the
//! size of the drips.

#![no_main]

use libfuzzer_sys::fuzz_target;
use router_model::proxy_header::{Header, HeaderError, Proxied};

fuzz_target!(|input: &[u8]| {
    let [drip, bytes @ ..] = input else { return };
    let whole = walk(bytes, usize::MAX);
    let dripped = walk(bytes, usize::from(*drip).max(1));
    // What is wrong shows at the first wrong byte; which of two things is wrong may depend on how many came at once.
    assert_eq!(whole.is_err(), dripped.is_err());
    if let (Ok(whole), Ok(dripped)) = (whole, dripped) {
        assert_eq!(whole, dripped);
    }
});

/// What the header says and how long it is; `None` while it is unfinished.
fn walk(bytes: &[u8], drip: usize) -> Result<Option<(Proxied, usize)>, HeaderError> {
    let mut header = Header::default();
    let mut taken = 0;
    while taken < bytes.len() {
        let there = &bytes[taken..bytes.len().min(taken.saturating_add(drip))];
        let own = header.own(there)?;
        assert!((1..=there.len()).contains(&own));
        taken += own;
        assert!(taken <= 16 + 4096);
        if let Some(proxied) = header.push(&there[..own])? {
            return Ok(Some((proxied, taken)));
        }
    }
    Ok(None)
}
