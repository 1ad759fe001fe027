//! Tables of heads, good and bad, and the promise that arrival in pieces changes nothing.

use proptest::prelude::*;

use super::*;

fn limits() -> HeadLimits {
    HeadLimits::request(&Limits::default())
}

fn request(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    HeadParser::request(limits()).take_request(&mut BytesMut::from(bytes))
}

fn response(bytes: &[u8]) -> Result<Option<ResponseHead>, HeadError> {
    HeadParser::response(HeadLimits::response(&Limits::default()))
        .take_response(&mut BytesMut::from(bytes))
}

#[test]
fn a_request_head_keeps_bytes_and_order() {
    let mut buffer = BytesMut::from(
        b"GET /a?b HTTP/1.1\r\nHost: x\r\nA:\t1 \r\nb: 2\r\nA: 3\r\n\r\nrest".as_slice(),
    );
    let head = HeadParser::request(limits())
        .take_request(&mut buffer)
        .unwrap()
        .unwrap();
    assert_eq!(
        (head.method(), head.target(), head.version()),
        (b"GET".as_slice(), b"/a?b".as_slice(), Version::Http11)
    );
    let fields: Vec<_> = head
        .fields()
        .iter()
        .map(|(_, name, value)| (name, value))
        .collect();
    assert_eq!(
        fields,
        [
            (&b"Host"[..], &b"x"[..]),
            (&b"A"[..], &b"1"[..]),
            (&b"b"[..], &b"2"[..]),
            (&b"A"[..], &b"3"[..])
        ]
    );
    assert_eq!(&buffer[..], b"rest");
}

#[test]
fn malformed_request_heads_are_refused_with_the_reason() {
    let long = "x".repeat(9000);
    let name = "n".repeat(1001);
    let many = "a: b\r\n".repeat(1001);
    let table: &[(String, HeadError)] = &[
        ("GET  / HTTP/1.1\r\n".into(), HeadError::StartLine),
        ("GET / HTTP/1.1 \r\n".into(), HeadError::StartLine),
        ("GET /\r\n".into(), HeadError::StartLine),
        ("GET / HTTP/1.2\r\n".into(), HeadError::Version),
        ("GET / HTTP/2.0\r\n".into(), HeadError::Version),
        ("GET / http/1.1\r\n".into(), HeadError::StartLine),
        ("GET /a b HTTP/1.1\r\n".into(), HeadError::StartLine),
        ("G(T / HTTP/1.1\r\n".into(), HeadError::StartLine),
        (
            format!("{} / HTTP/1.1\r\n", "M".repeat(128)),
            HeadError::StartLine,
        ),
        ("GET /\x7f HTTP/1.1\r\n".into(), HeadError::StartLine),
        ("GET / HTTP/1.1\n".into(), HeadError::LineEnding),
        ("GET / HTTP/1.1\r\nHost: x\n".into(), HeadError::LineEnding),
        ("\n".into(), HeadError::LineEnding),
        ("\r\n\r\n\r\n\r\n\r\n\r\n".into(), HeadError::StartLine),
        ("\x16\x03\x01".into(), HeadError::StartLine),
        (
            "GET / HTTP/1.1\r\nHost : x\r\n".into(),
            HeadError::FieldLine,
        ),
        ("GET / HTTP/1.1\r\n: x\r\n".into(), HeadError::FieldLine),
        ("GET / HTTP/1.1\r\nHost\r\n".into(), HeadError::FieldLine),
        (
            "GET / HTTP/1.1\r\nA: 1\r\n folded\r\n".into(),
            HeadError::FieldLine,
        ),
        ("GET / HTTP/1.1\r\nA: 1\0\r\n".into(), HeadError::FieldLine),
        (
            "GET / HTTP/1.1\r\nA: 1\rB: 2\r\n".into(),
            HeadError::FieldLine,
        ),
        (format!("GET /{long}"), HeadError::StartLineTooLong),
        (
            format!("GET /{long} HTTP/1.1\r\n"),
            HeadError::StartLineTooLong,
        ),
        (
            format!("GET / HTTP/1.1\r\nA: {long}"),
            HeadError::FieldTooLong,
        ),
        (
            format!("GET / HTTP/1.1\r\nA: {long}\r\n"),
            HeadError::FieldTooLong,
        ),
        (
            format!("GET / HTTP/1.1\r\n{name}: 1\r\n"),
            HeadError::FieldTooLong,
        ),
        (
            format!("GET / HTTP/1.1\r\n{many}\r\n"),
            HeadError::TooManyFields,
        ),
    ];
    for (bytes, error) in table {
        assert_eq!(
            request(bytes.as_bytes()).unwrap_err(),
            *error,
            "{bytes:.60?}"
        );
    }
}

#[test]
fn limits_are_exact() {
    let line = |length: usize| {
        format!(
            "GET /{} HTTP/1.1\r\n\r\n",
            "x".repeat(length - "GET / HTTP/1.1".len())
        )
    };
    assert!(request(line(8192).as_bytes()).unwrap().is_some());
    assert_eq!(
        request(line(8193).as_bytes()).unwrap_err(),
        HeadError::StartLineTooLong
    );
    let field = |length: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length - 3));
    assert!(request(field(8192).as_bytes()).unwrap().is_some());
    assert_eq!(
        request(field(8193).as_bytes()).unwrap_err(),
        HeadError::FieldTooLong
    );
    let many = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(request(many(1000).as_bytes()).unwrap().is_some());
    assert!(request(many(1001).as_bytes()).is_err());
    let large = |lines: usize| {
        let line = format!("A: {}\r\n", "x".repeat(8000));
        format!("GET / HTTP/1.1\r\n{}", line.repeat(lines))
    };
    assert!(request(large(130).as_bytes()).unwrap().is_none());
    assert_eq!(
        request(large(132).as_bytes()).unwrap_err(),
        HeadError::FieldTooLong
    );
}

#[test]
fn up_to_five_empty_lines_may_come_before_a_request() {
    assert!(
        request(b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n")
            .unwrap()
            .is_some()
    );
}

#[test]
fn response_heads() {
    let head = response(b"HTTP/1.1 200\r\n\r\n").unwrap().unwrap();
    assert_eq!((head.status(), head.reason()), (200, b"".as_slice()));
    let head = response(b"HTTP/1.0 666 Of the Beast\r\nA : b\r\n\r\n")
        .unwrap()
        .unwrap();
    assert_eq!(
        (head.status(), head.reason(), head.version()),
        (666, b"Of the Beast".as_slice(), Version::Http10)
    );
    assert_eq!(head.fields().named(b"a"), Some(b"b".as_slice()));
    assert!(response(b"HTTP/1.").unwrap().is_none());
    let cookie = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\n\r\n",
            "x".repeat(length - 12)
        )
    };
    assert!(response(cookie(8192).as_bytes()).unwrap().is_some());
    let long_header =
        |length: usize| format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(length - 3));
    assert!(response(long_header(524_288).as_bytes()).unwrap().is_some());
    let status = |length: usize| format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(length - 13));
    assert!(response(status(8192).as_bytes()).unwrap().is_some());
    for (bytes, error) in [
        ("garbage".to_owned(), HeadError::StartLine),
        ("\r\nHTTP/1.1 200 OK\r\n".into(), HeadError::StartLine),
        ("HTTP/1.2 200 OK\r\n".into(), HeadError::StartLine),
        ("HTTP/1.1 20 OK\r\n".into(), HeadError::StartLine),
        ("HTTP/1.1  200 OK\r\n".into(), HeadError::StartLine),
        ("HTTP/1.1 2000\r\n".into(), HeadError::StartLine),
        ("HTTP/1.1 099 No\r\n".into(), HeadError::StartLine),
        ("HTTP/1.1 200 OK\nA: b\r\n".into(), HeadError::LineEnding),
        (
            "HTTP/1.1 200 OK\r\nno colon\r\n".into(),
            HeadError::FieldLine,
        ),
        (cookie(8193), HeadError::CookieTooLong),
        (long_header(524_289), HeadError::FieldTooLong),
        (status(8193), HeadError::StartLineTooLong),
        (
            format!("HTTP/1.1 200 {}", "x".repeat(8193)),
            HeadError::StartLineTooLong,
        ),
        (
            format!(
                "HTTP/1.1 200 OK\r\n{}",
                format!("A: {}\r\n", "x".repeat(200)).repeat(6_000)
            ),
            HeadError::FieldTooLong,
        ),
    ] {
        assert_eq!(
            response(bytes.as_bytes()).unwrap_err(),
            error,
            "{bytes:.60?}"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(request(&bytes));
        drop(response(&bytes));
    }

    /// A head that is dripped in gives what it gives at once.
    #[test]
    fn pieces_change_nothing(
        head in r"(GET|POST) /[ -~]{0,10} HTTP/1.[012](\r\n|\n)([A-Za-z-]{1,8}:[ -~]{0,12}\r\n){0,4}\r\n",
        cuts in proptest::collection::vec(1usize..8, 1..60),
    ) {
        let whole = request(head.as_bytes()).map(|head| head.map(|head| (head.target().to_vec(), head.fields().len())));
        let mut parser = HeadParser::request(limits());
        let mut buffer = BytesMut::new();
        let mut rest = head.as_bytes();
        let mut cuts = cuts.into_iter().cycle();
        let mut dripped = Ok(None);
        while !rest.is_empty() && matches!(dripped, Ok(None)) {
            let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            buffer.extend_from_slice(piece);
            rest = after;
            dripped = parser.take_request(&mut buffer).map(|head| head.map(|head| (head.target().to_vec(), head.fields().len())));
        }
        prop_assert_eq!(whole, dripped);
    }

    /// Whatever we accept, httparse reads the same way: nobody behind us sees another request than we did.
    #[test]
    fn what_we_accept_httparse_reads_alike(
        bytes in r"[A-Z]{1,4}[ ]{1,2}/[ -~]{0,6}[ ]{0,2}HTTP/1.[01]\r?\n([A-Za-z-]{0,5}[ ]?:[ -~\t]{0,6}\r?\n){0,3}\r?\n",
    ) {
        if let Ok(Some(ours)) = request(bytes.as_bytes()) {
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut theirs = httparse::Request::new(&mut fields);
            prop_assert!(theirs.parse(bytes.as_bytes()).unwrap().is_complete());
            prop_assert_eq!(theirs.method.unwrap().as_bytes(), ours.method());
            prop_assert_eq!(theirs.path.unwrap().as_bytes(), ours.target());
            let theirs: Vec<_> = theirs.headers.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec())).collect();
            let ours: Vec<_> = ours.fields().iter().map(|(_, name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(theirs, ours);
        }
    }
}
