//! Runs of bytes, looked at many at a time.

/// A byte in each of eight places.
pub(crate) const fn eight(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The highest bit of each byte.
pub(crate) const HIGH: u64 = eight(0x80);

/// The highest bit of each byte that is `byte`; bytes behind the first one may be marked by mistake.
const fn equal(word: u64, byte: u8) -> u64 {
    let same_is_zero = word ^ eight(byte);
    same_is_zero.wrapping_sub(eight(1)) & !same_is_zero & HIGH
}

/// Which byte is the first whose highest bit is set.
pub(crate) const fn first_of(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// Where a byte stands first. In short runs, calling memchr would take longer than looking.
pub(crate) fn position(bytes: &[u8], byte: u8) -> Option<usize> {
    const LONG: usize = 256;
    if bytes.len() > LONG {
        return memchr::memchr(byte, bytes);
    }
    let (words, rest) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let marks = equal(u64::from_le_bytes(*word), byte);
        if marks != 0 {
            return Some(at + first_of(marks));
        }
        at += 8;
    }
    let in_rest = rest.iter().position(|candidate| *candidate == byte)?;
    Some(at + in_rest)
}

/// Whether a value has no special byte. Looks at many bytes at once; the last of them overlap with those before.
pub(crate) fn is_free_of(value: &[u8], special: impl Fn(u8) -> bool + Copy) -> bool {
    if let Some(last) = value.last_chunk::<16>() {
        let (blocks, _) = value.as_chunks();
        return blocks
            .iter()
            .all(|block| is_block_free_of::<16>(block, special))
            && is_block_free_of(last, special);
    }
    if let (Some(first), Some(last)) = (value.first_chunk::<8>(), value.last_chunk()) {
        return is_block_free_of(first, special) && is_block_free_of::<8>(last, special);
    }
    if let (Some(first), Some(last)) = (value.first_chunk::<4>(), value.last_chunk()) {
        return is_block_free_of(first, special) && is_block_free_of::<4>(last, special);
    }
    value.iter().all(|&byte| !special(byte))
}

/// Without an early exit, so that it compiles to a few vector instructions.
pub(crate) fn is_block_free_of<const N: usize>(
    block: &[u8; N],
    special: impl Fn(u8) -> bool,
) -> bool {
    !block
        .iter()
        .fold(false, |found, &byte| found | special(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_byte_is_found_wherever_it_stands() {
        for length in 0..300 {
            for at in 0..length {
                let mut run = vec![b'a'; length];
                run[at] = b'b';
                assert_eq!(position(&run, b'b'), Some(at));
                assert!(!is_free_of(&run, |byte| byte == b'b'), "{at} of {length}");
            }
            let run = vec![b'a'; length];
            assert_eq!(position(&run, b'b'), None);
            assert!(is_free_of(&run, |byte| byte == b'b'));
        }
    }

    proptest! {
        #[test]
        fn the_first_of_several_is_found(
            run in proptest::collection::vec(prop_oneof![any::<u8>(), 0x7f..=0x81u8], 0..40),
            wanted in prop_oneof![any::<u8>(), 0x7f..=0x81u8],
        ) {
            prop_assert_eq!(position(&run, wanted), run.iter().position(|byte| *byte == wanted));
            prop_assert_eq!(is_free_of(&run, |byte| byte == wanted), !run.contains(&wanted));
        }
    }
}
