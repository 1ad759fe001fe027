//! Which bytes may stand where in a head (RFC 9110 §5.5, §5.6.2). Every byte of every head comes by here, so long runs
//! are looked at eight bytes at a time, in one register.

use crate::runs::{HIGH, eight, first_of, is_block_free_of};

/// The highest bit of each byte that is below `floor` or DEL, and of no other. Bytes outside ASCII are never marked.
const fn below_or_del(word: u64, floor: u8) -> u64 {
    // 1 to 0x80, the latter for DEL; no sum carries into the next byte.
    let next = (word & !HIGH) + eight(1);
    let reaches_floor = next + eight(0x7f - floor);
    (!reaches_floor | next) & !word & HIGH
}

/// How many bytes from the first on may stand in a field value. Behind a good line that is where its CRLF is.
pub(crate) fn value_length(bytes: &[u8]) -> usize {
    let (blocks, rest) = bytes.as_chunks::<16>();
    let mut at = 0;
    for block in blocks {
        if !is_block_free_of(block, |byte| (byte < b' ') | (byte == 0x7f))
            && let Some(bad) = first_bad(block)
        {
            return at + bad;
        }
        at += block.len();
    }
    // The last block overlaps with those before it, in which there is nothing bad.
    if let Some(last) = bytes.last_chunk()
        && !rest.is_empty()
    {
        return first_bad(last).map_or(bytes.len(), |bad| bytes.len() - last.len() + bad);
    }
    rest.iter().take_while(|byte| is_value_byte(**byte)).count() + at
}

fn first_bad(block: &[u8; 16]) -> Option<usize> {
    let (words, _) = block.as_chunks::<8>();
    let mut marks = words
        .iter()
        .map(|word| below_or_del(u64::from_le_bytes(*word), b' '));
    let first = match (marks.next(), marks.next()) {
        (Some(0), Some(0)) => return None,
        (Some(0), Some(second)) => 8 + first_of(second),
        (first, _) => first_of(first.unwrap_or_default()),
    };
    if block.get(first) == Some(&b'\t') {
        return first_bad_byte(block);
    }
    Some(first)
}

#[cold]
fn first_bad_byte(block: &[u8]) -> Option<usize> {
    block.iter().position(|byte| !is_value_byte(*byte))
}

/// Whether all bytes are visible, and whether all are ASCII.
pub(crate) fn visible(bytes: &[u8]) -> (bool, bool) {
    let (words, rest) = bytes.as_chunks::<8>();
    let (mut bad, mut seen) = (0, 0);
    for word in words {
        let word = u64::from_le_bytes(*word);
        bad |= below_or_del(word, b'!');
        seen |= word;
    }
    let mut padded = [b'a'; 8];
    for (to, from) in padded.iter_mut().zip(rest) {
        *to = *from;
    }
    let last = u64::from_le_bytes(padded);
    bad |= below_or_del(last, b'!');
    seen |= last;
    (bad == 0, seen & HIGH == 0)
}

/// Whether bytes are a token (RFC 9110 §5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    let good = bytes
        .iter()
        .fold(true, |good, byte| good & is_token_byte(*byte));
    good && !bytes.is_empty()
}

/// Whether a byte may stand in a token.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or_default()
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    #[expect(clippy::indexing_slicing, reason = "at compile time")]
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
            | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// Whether a byte may stand in a field value: visible, blank, tab or obs-text (RFC 9110 §5.5).
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every byte, in every place of a word and behind the last one, before and after others that are near a border.
    #[test]
    fn each_byte_is_judged_as_if_it_were_alone() {
        for byte in 0..=u8::MAX {
            for around in [b'a', b' ', b'\t', 0x80, 0xff, b'~'] {
                for at in 0..20 {
                    let mut bytes = [around; 20];
                    bytes[at] = byte;
                    let expected = if is_value_byte(byte) { 20 } else { at };
                    assert_eq!(
                        value_length(&bytes),
                        expected,
                        "{byte:#x} in {around:#x} at {at}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn runs_are_judged_as_their_bytes_are(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0x1f..=0x22u8, 0x7d..=0x81u8, Just(b'\t'), b'a'..=b'z'], 0..40),
        ) {
            let good = bytes.iter().take_while(|byte| is_value_byte(**byte)).count();
            prop_assert_eq!(value_length(&bytes), good);
            let all_visible = bytes.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
            prop_assert_eq!(visible(&bytes), (all_visible, bytes.is_ascii()));
        }

        #[test]
        fn a_token_is_made_of_token_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..20), token in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}") {
            prop_assert!(is_token(token.as_bytes()));
            prop_assert_eq!(is_token(&bytes), !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte)));
        }
    }
}
