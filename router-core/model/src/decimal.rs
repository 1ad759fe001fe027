//! Numbers as decimal digits, eight at a time in one register, for what is written with every request.

use crate::runs::eight;

/// A number in decimal, without leading zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal {
    digits: [[u8; 8]; 3],
    from: usize,
}

impl Decimal {
    pub(crate) const fn of(number: u64) -> Self {
        const GROUP: u64 = 100_000_000;
        let (rest, low) = (number / GROUP, group(number % GROUP));
        let (mut high, mut middle) = (0, 0);
        let from = if rest == 0 {
            // Zero has a digit, too.
            let zeros = leading_zeros(low);
            16 + if zeros > 7 { 7 } else { zeros }
        } else if rest < GROUP {
            middle = group(rest);
            8 + leading_zeros(middle)
        } else {
            (high, middle) = (group(rest / GROUP), group(rest % GROUP));
            leading_zeros(high)
        };
        Self {
            digits: [ascii(high), ascii(middle), ascii(low)],
            from,
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.digits
            .as_flattened()
            .get(self.from..)
            .unwrap_or_default()
    }
}

/// The digits of a number below 10⁸, leading zeros included.
pub(crate) const fn eight_digits(number: u32) -> [u8; 8] {
    ascii(group(number as u64))
}

/// One digit in each byte, the first in the lowest. Each step cuts every part in two; the products stay within their
/// parts, and the factors are exact for numbers this small.
const fn group(number: u64) -> u64 {
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((twos * 103) >> 10) & 0x0f_000f_000f_000f;
    tens | ((twos - 10 * tens) << 8)
}

const fn leading_zeros(group: u64) -> usize {
    (group.trailing_zeros() / 8) as usize
}

const fn ascii(group: u64) -> [u8; 8] {
    (group | eight(b'0')).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(number: u64) -> String {
        String::from_utf8(Decimal::of(number).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn every_pair_and_every_length_is_written_right() {
        for number in 0..10_000 {
            assert_eq!(text(number), number.to_string());
            assert_eq!(
                eight_digits(number as u32 * 10_001),
                *format!("{number:04}{number:04}").as_bytes()
            );
        }
        for power in 0..20 {
            for number in [
                10u64.pow(power),
                10u64.pow(power) - 1,
                u64::MAX / 10u64.pow(power),
            ] {
                assert_eq!(text(number), number.to_string());
            }
        }
    }

    proptest! {
        #[test]
        fn any_number_is_written_as_usual(number: u64, bits in 0u32..64) {
            prop_assert_eq!(text(number >> bits), (number >> bits).to_string());
        }
    }
}
