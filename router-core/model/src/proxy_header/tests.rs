//! Every form of a PROXY header that is understood, and every way to get one wrong that a load balancer, or somebody who
//! pretends to be one, may find.

use super::*;

/// What a header says, fed in pieces of this size with a TLS record behind it.
fn fed(header: &[u8], piece: usize) -> Result<(Proxied, usize), &'static str> {
    let after = b"\x16\x03\x01\x02\x00\x01PROXY TCP4\r\n\n";
    let all = [header, after].concat();
    let mut reader = Header::default();
    let mut taken = 0;
    while taken < all.len() {
        let there = &all[taken..all.len().min(taken + piece)];
        let own = reader.own(there).map_err(name)?;
        assert!((1..=there.len()).contains(&own));
        taken += own;
        if let Some(proxied) = reader.push(&there[..own]).map_err(name)? {
            return Ok((proxied, taken));
        }
    }
    Err("unfinished")
}

fn name(error: HeaderError) -> &'static str {
    match error {
        HeaderError::Missing => "missing",
        HeaderError::Malformed => "malformed",
        HeaderError::TooLong => "too long",
    }
}

fn check(header: &[u8], expected: Result<Option<(&str, &str)>, &str>) {
    for piece in [1, 2, 7, 16, 256, 10_000] {
        let expected = expected.map(|ends| {
            let end = |text: &str| text.parse::<SocketAddr>().unwrap();
            let proxied = ends.map(|(source, destination)| Addresses {
                source: end(source),
                destination: end(destination),
            });
            (proxied, header.len())
        });
        let text = String::from_utf8_lossy(header);
        assert_eq!(
            fed(header, piece),
            expected,
            "{text:?} in pieces of {piece}"
        );
    }
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE_V2, &[command, family], &length, rest].concat()
}

const V4: &[u8] = &[203, 0, 113, 7, 192, 0, 2, 1, 0xd4, 0x31, 0x01, 0xbb];

fn v6(source: &str, destination: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let ports = [0xd4, 0x31, 0x01, 0xbb];
    [&octets(source)[..], &octets(destination), &ports].concat()
}

#[test]
fn version_1() {
    for (header, expected) in [
        (
            "PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
            Some(("203.0.113.7:54321", "192.0.2.1:443")),
        ),
        (
            "PROXY TCP6 2001:db8::7 2001:DB8::1 54321 443\r\n",
            Some(("[2001:db8::7]:54321", "[2001:db8::1]:443")),
        ),
        (
            "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 54321 443\r\n",
            Some(("203.0.113.7:54321", "192.0.2.1:443")),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Some((
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            )),
        ),
        (
            "PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
            Some(("0.0.0.0:0", "255.255.255.255:65535")),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN 2001:db8::7 whatever \r 1 2\r\n", None),
    ] {
        check(header.as_bytes(), Ok(expected));
    }
    // The longest line there may be, exactly.
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_V1 - 16));
    assert_eq!(longest.len(), LONGEST_V1);
    check(longest.as_bytes(), Ok(None));
}

#[test]
fn malformed_version_1() {
    for (header, expected) in [
        ("GET / HTTP/1.1\r\n", "missing"),
        ("P\r\n", "missing"),
        ("POST / HTTP/1.1\r\n", "missing"),
        ("proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n", "missing"),
        ("PROXYX TCP4 203.0.113.7 192.0.2.1 1 2\r\n", "missing"),
        ("PROXY\tTCP4 203.0.113.7 192.0.2.1 1 2\r\n", "missing"),
        (" PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n", "missing"),
        ("PROXY \r\n", "malformed"),
        ("PROXY TCP4\r\n", "malformed"),
        ("PROXY TCP5 203.0.113.7 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY  TCP4 203.0.113.7 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY TCP4  203.0.113.7 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2 3\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2 \r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 +1 2\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 01 2\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 -1 2\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 65536 2\r\n", "malformed"),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 \r\n", "malformed"),
        ("PROXY TCP4 203.0.113.07 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY TCP4 203.0.113 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", "malformed"),
        ("PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n", "malformed"),
        ("PROXY TCP4 host.example 192.0.2.1 1 2\r\n", "malformed"),
        ("PROXY UNKNOWNS\r\n", "malformed"),
        ("PROXY UNKNOWN\n", "malformed"),
    ] {
        check(header.as_bytes(), Err(expected));
    }
    check(b"PROXY UNKNOWN \xff\xfe\r\n", Err("malformed"));
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_V1 - 15));
    check(too_long.as_bytes(), Err("too long"));
    check("PROXY UNKNOWN ".repeat(100).as_bytes(), Err("too long"));
}

#[test]
fn version_2() {
    let unix = [0; 216];
    let v4_and_more = [V4, &[1, 0, 2, b'h', b'2', 4, 0, 0]].concat();
    let longest = [V4, &[4, 0x0f, 0xf1], &[0; 0xff1]].concat();
    assert_eq!(longest.len(), LONGEST_REST_V2);
    let v4 = Some(("203.0.113.7:54321", "192.0.2.1:443"));
    for (header, expected) in [
        (v2(0x21, 0x11, V4), v4),
        (v2(0x21, 0x11, &v4_and_more), v4),
        (v2(0x21, 0x11, &longest), v4),
        (
            v2(0x21, 0x21, &v6("2001:db8::7", "2001:db8::1")),
            Some(("[2001:db8::7]:54321", "[2001:db8::1]:443")),
        ),
        (
            v2(0x21, 0x21, &v6("::ffff:203.0.113.7", "::ffff:192.0.2.1")),
            v4,
        ),
        (v2(0x21, 0x31, &unix), None),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x00, &[1, 2, 3]), None),
        (v2(0x20, 0x00, &[]), None),
        // What a LOCAL says of addresses is ignored, even if it makes no sense.
        (v2(0x20, 0x11, V4), None),
        (v2(0x20, 0x11, &[1]), None),
        (v2(0x20, 0xff, &[]), None),
    ] {
        check(&header, Ok(expected));
    }
}

#[test]
fn malformed_version_2() {
    let with = |bytes: &[u8]| [V4, bytes].concat();
    for (header, expected) in [
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "missing"),
        (b"\r\nGET / HTTP/1.1\r\n".to_vec(), "missing"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "missing"),
        (v2(0x11, 0x11, V4), "malformed"),
        (v2(0x22, 0x11, V4), "malformed"),
        (v2(0x31, 0x11, V4), "malformed"),
        (v2(0x01, 0x11, V4), "malformed"),
        (v2(0x21, 0x12, V4), "malformed"),
        (v2(0x21, 0x22, &v6("::1", "::2")), "malformed"),
        (v2(0x21, 0x32, &[0; 216]), "malformed"),
        (v2(0x21, 0x10, V4), "malformed"),
        (v2(0x21, 0x41, V4), "malformed"),
        (v2(0x21, 0x11, &V4[..11]), "malformed"),
        (v2(0x21, 0x21, &v6("::1", "::2")[..35]), "malformed"),
        (v2(0x21, 0x31, &[0; 215]), "malformed"),
        (v2(0x21, 0x11, &with(&[4])), "malformed"),
        (v2(0x21, 0x11, &with(&[4, 0])), "malformed"),
        (v2(0x21, 0x11, &with(&[4, 0, 1])), "malformed"),
        (v2(0x21, 0x11, &with(&[4, 0, 1, 0, 9])), "malformed"),
        (v2(0x21, 0x11, &[0; LONGEST_REST_V2 + 1]), "too long"),
        (v2(0x21, 0x11, &[0; 65535]), "too long"),
    ] {
        check(&header, Err(expected));
    }
}

#[test]
fn a_header_cut_short_anywhere_waits_for_the_rest() {
    for header in [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x21, 0x11, V4),
        v2(0x21, 0x21, &v6("2001:db8::7", "2001:db8::1")),
        v2(0x20, 0x00, &[]),
    ] {
        for length in 1..header.len() {
            let mut reader = Header::default();
            let own = reader.own(&header[..length]).unwrap();
            assert_eq!(
                own,
                length.min(if header[0] == b'\r' { 16 } else { length })
            );
            assert!(reader.push(&header[..own]).unwrap().is_none(), "{length}");
        }
    }
}
