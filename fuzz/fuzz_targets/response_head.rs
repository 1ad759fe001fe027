//! Responses: however the bytes are dripped in, the head is the same; and what a client gets parses again, ends where the dyno's
//! response ends, and has each router field once. The first byte is the size of the drips, the second chooses the request and the client.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use router_model::forward::{ResponseFields, write_interim, write_response};
use router_model::h1::{
    FieldId, Framing, HeadError, HeadLimits, HeadParser, ResponseHead, Version,
};
use router_model::limits::Limits;
use router_model::response::{Judged, head_failure, judge};

fuzz_target!(|input: &[u8]| {
    let [drip, choice, bytes @ ..] = input else {
        return;
    };
    let whole = read(bytes, bytes.len().max(1));
    let dripped = read(bytes, usize::from(*drip).max(1));
    match (&whole, &dripped) {
        (Ok(Some(one)), Ok(Some(other))) => assert_eq!(same(one), same(other)),
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        _ => panic!("whole {whole:?}, dripped {dripped:?}"),
    }
    match whole {
        Ok(Some(head)) if (100..200).contains(&head.status()) && head.status() != 101 => {
            check_interim(&head)
        }
        Ok(Some(head)) => check_final(&head, choice & 1 != 0, choice & 2 != 0, choice & 4 != 0),
        Ok(None) => {}
        Err(error) => {
            head_failure(error);
        }
    }
});

fn read(bytes: &[u8], drip: usize) -> Result<Option<ResponseHead>, HeadError> {
    // Small, so that the fuzzer finds their edges.
    let limits = HeadLimits {
        start_line: 48,
        field_line: 64,
        field_name: 64,
        cookie_line: 32,
        fields: usize::MAX,
        total: 512,
    };
    let (mut parser, mut buffer) = (HeadParser::response(limits), BytesMut::new());
    for piece in bytes.chunks(drip) {
        buffer.extend_from_slice(piece);
        if let Some(head) = parser.take_response(&mut buffer)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn same(head: &ResponseHead) -> (Version, u16, &[u8], Vec<(FieldId, &[u8], &[u8])>) {
    (
        head.version(),
        head.status(),
        head.reason(),
        head.fields().iter().collect(),
    )
}

fn check_interim(head: &ResponseHead) {
    let mut out = BytesMut::new();
    write_interim(head, &mut out);
    let again = reread(&mut out);
    assert_eq!(
        (again.status(), again.reason()),
        (head.status(), head.reason())
    );
}

fn check_final(head: &ResponseHead, to_head: bool, upgrade_requested: bool, to_http10: bool) {
    let Ok(judged) = judge(head, to_head, upgrade_requested) else {
        return;
    };
    let ours = ResponseFields {
        via: "1.1 router",
        server: "router",
        date: "Thu, 01 Jan 2026 00:00:00 GMT",
        keep_alive: judged.framing != Framing::UntilClose,
        to_http10,
        hsts: Some("max-age=1"),
        set_cookie: Some("router-session-affinity=x; Path=/"),
        framing: judged.framing,
        nominates: judged.nominates,
    };
    let mut out = BytesMut::new();
    write_response(head, &ours, &mut out);
    let written = reread(&mut out);
    assert_eq!(written.version(), Version::Http11);
    assert_eq!(
        (written.status(), written.reason()),
        (head.status(), head.reason())
    );

    let again = judge(&written, to_head, upgrade_requested).expect("judged again");
    check_framing(&judged, &again, to_http10);
    let fields = written.fields();
    let count = |id| fields.values(id).count();
    assert_eq!((count(FieldId::Via), count(FieldId::Connection)), (1, 1));
    assert_eq!(
        count(FieldId::Date),
        head.fields().values(FieldId::Date).count().max(1)
    );
    assert_eq!(
        count(FieldId::Server),
        head.fields().values(FieldId::Server).count().max(1)
    );
    assert!(
        count(FieldId::ContentLength) + count(FieldId::TransferEncoding) <= 1,
        "one meaning of where the body ends"
    );
    assert!(
        !to_http10 || count(FieldId::TransferEncoding) == 0,
        "an HTTP/1.0 client knows no transfer coding"
    );
    assert!(
        !again.nominates,
        "the dyno's Connection field is its own affair"
    );
}

/// An HTTP/1.0 client gets a chunked body without its chunks, up to the end of the connection.
fn check_framing(judged: &Judged, again: &Judged, to_http10: bool) {
    let expected = match judged.framing {
        Framing::Chunked if to_http10 => Framing::UntilClose,
        framing => framing,
    };
    assert_eq!(again.framing, expected);
}

fn reread(out: &mut BytesMut) -> ResponseHead {
    let mut parser = HeadParser::response(HeadLimits::response(&Limits::default()));
    let head = parser
        .take_response(out)
        .expect("well formed")
        .expect("complete");
    assert!(out.is_empty(), "something stands behind the head: {out:?}");
    head
}
