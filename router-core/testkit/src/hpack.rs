//! HPACK (RFC 7541) as far as a test wants it: an encoder that writes every field as it is, so that any byte can be sent,
//! and a decoder for what a peer sends that was told to keep no dynamic table.

/// A header list as one block of literals, never indexed and without Huffman coding. Characters become bytes one to one.
pub(crate) fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for part in [name, value] {
            let bytes: Vec<u8> = part.chars().map(latin1).collect();
            integer(&mut block, 7, bytes.len());
            block.extend_from_slice(&bytes);
        }
    }
    block
}

/// The fields of a block, in order; bytes become characters one to one. Panics on anything that is not HPACK without a
/// dynamic table.
pub(crate) fn decode(block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = block;
    while let Some(&first) = rest.first() {
        if first & 0x80 != 0 {
            let (name, value) = table(take_integer(&mut rest, 7));
            fields.push((name.to_owned(), value.to_owned()));
            continue;
        }
        if first & 0xe0 == 0x20 {
            let size = take_integer(&mut rest, 5);
            assert_eq!(size, 0, "a dynamic table nobody offered");
            continue;
        }
        let index = take_integer(&mut rest, if first & 0x40 != 0 { 6 } else { 4 });
        let name = match index {
            0 => take_string(&mut rest),
            known => table(known).0.to_owned(),
        };
        fields.push((name, take_string(&mut rest)));
    }
    fields
}

fn latin1(char: char) -> u8 {
    u8::try_from(char).unwrap_or_else(|_| panic!("{char:?} is no single byte"))
}

fn integer(block: &mut Vec<u8>, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        block.push(u8::try_from(value).unwrap());
        return;
    }
    block.push(u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 0x80 {
        block.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    block.push(u8::try_from(rest).unwrap());
}

fn take_integer(rest: &mut &[u8], bits: u32) -> usize {
    let most = (1 << bits) - 1;
    let mut value = usize::from(take(rest, 1)[0]) & most;
    if value < most {
        return value;
    }
    for shift in (0..28).step_by(7) {
        let byte = usize::from(take(rest, 1)[0]);
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("an endless integer");
}

fn take_string(rest: &mut &[u8]) -> String {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = take_integer(rest, 7);
    let bytes = take(rest, length);
    if coded {
        huffman(bytes)
    } else {
        bytes.iter().map(|&byte| char::from(byte)).collect()
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at_checked(count).expect("a whole block");
    *rest = left;
    taken
}

fn table(index: usize) -> (&'static str, &'static str) {
    let entry = index.checked_sub(1).and_then(|at| STATIC.get(at));
    *entry.unwrap_or_else(|| panic!("index {index} is not in the static table"))
}

/// The code is canonical (RFC 7541 appendix B): its lengths alone give the codes, shortest first, then by symbol.
fn huffman(bytes: &[u8]) -> String {
    let mut symbols: Vec<u8> = (0..=255).collect();
    symbols.sort_by_key(|&symbol| (LENGTHS[usize::from(symbol)], symbol));
    let mut text = String::new();
    let (mut code, mut length) = (0u32, 0u8);
    for bit in bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        (code, length) = (code << 1 | u32::from(bit), length + 1);
        let mut candidate = 0u32;
        let mut previous = LENGTHS[usize::from(symbols[0])];
        for (at, &symbol) in symbols.iter().enumerate() {
            let long = LENGTHS[usize::from(symbol)];
            if at > 0 {
                candidate = (candidate + 1) << (long - previous);
                previous = long;
            }
            if long > length {
                break;
            }
            if (candidate, long) == (code, length) {
                text.push(char::from(symbol));
                (code, length) = (0, 0);
                break;
            }
        }
    }
    assert!(
        length < 8 && code.count_ones() == u32::from(length),
        "bad padding"
    );
    text
}

const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself_whatever_its_bytes() {
        let long = "x".repeat(100_000);
        let fields = [
            (":method", "GET"),
            ("A\r\nb\0", "\u{ff} \n"),
            ("", ""),
            ("x", &long),
        ];
        let owned = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(decode(&encode(&fields)), owned);
    }

    #[test]
    fn the_examples_of_the_rfc_decode() {
        // RFC 7541, C.6.1 with the indexed forms of C.2: a table size update, static entries, Huffman strings.
        let block = b"\x20\x82\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x04\x03\x61\x62\x63\
                      \x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff";
        let fields = [
            (":method", "GET"),
            (":status", "302"),
            ("cache-control", "private"),
            (":path", "abc"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ];
        assert_eq!(
            decode(block),
            fields.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
