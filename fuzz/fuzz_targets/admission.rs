//! Requests: however the bytes are dripped in, the head is the same; and what is forwarded is a request that we would admit
//! again, with the same meaning and each router field exactly once. The first byte is the size of the drips, the rest the request.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use router_model::admission::{Admitted, admit, head_failure};
use router_model::forward::{Believed, ForwardedFor, RequestFields, path_of, write_request};
use router_model::h1::{
    FieldId, Fields, Framing, HeadError, HeadLimits, HeadParser, RequestHead, Version,
};
use router_model::limits::Limits;

fuzz_target!(|input: &[u8]| {
    let Some((drip, bytes)) = input.split_first() else {
        return;
    };
    let whole = read(bytes, bytes.len().max(1), limits());
    let dripped = read(bytes, usize::from(*drip).max(1), limits());
    match (&whole, &dripped) {
        (Ok(Some(one)), Ok(Some(other))) => assert_eq!(same(one), same(other)),
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        _ => panic!("whole {whole:?}, dripped {dripped:?}"),
    }
    let head = match whole {
        Ok(Some(head)) => head,
        Ok(None) => return,
        Err(error) => {
            head_failure(error);
            return;
        }
    };
    match admit(&head) {
        Ok(admitted) if admitted.violation.is_none() => check_forwarded(&head, &admitted),
        Ok(_) | Err(_) => {}
    }
});

/// Small, so that the fuzzer finds their edges.
fn limits() -> HeadLimits {
    HeadLimits {
        start_line: 64,
        field_line: 64,
        field_name: 24,
        cookie_line: 64,
        fields: 12,
        total: usize::MAX,
    }
}

fn read(bytes: &[u8], drip: usize, limits: HeadLimits) -> Result<Option<RequestHead>, HeadError> {
    let (mut parser, mut buffer) = (HeadParser::request(limits), BytesMut::new());
    for piece in bytes.chunks(drip) {
        buffer.extend_from_slice(piece);
        if let Some(head) = parser.take_request(&mut buffer)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn same(head: &RequestHead) -> (Version, &[u8], &[u8], Vec<(FieldId, &[u8], &[u8])>) {
    (
        head.version(),
        head.method(),
        head.target(),
        head.fields().iter().collect(),
    )
}

fn check_forwarded(head: &RequestHead, admitted: &Admitted<'_>) {
    let addresses = ForwardedFor::of(head.fields(), Some([203, 0, 113, 7].into()));
    let ours = RequestFields {
        forwarded_for: addresses.as_bytes(),
        proto: "http",
        port: 80,
        request_start: 1_767_225_600_000,
        request_id: "3f336f1a-9be3-4791-afe3-596a1f2a481f",
        via: "1.1 router",
        keep_alive: true,
        pass_expect: true,
        believed: Believed::default(),
    };
    let mut out = BytesMut::new();
    write_request(head, admitted, &ours, &mut out);
    let mut parser = HeadParser::request(HeadLimits::request(&Limits::default()));
    let forwarded = parser
        .take_request(&mut out)
        .expect("well formed")
        .expect("complete");
    assert!(out.is_empty(), "something stands behind the head: {out:?}");
    let again = admit(&forwarded).expect("admitted again");

    assert_eq!(forwarded.version(), Version::Http11);
    assert_eq!(
        (forwarded.method(), forwarded.target()),
        (head.method(), path_of(head.target()))
    );
    assert_eq!(
        (again.host_as_sent, &again.host),
        (admitted.host_as_sent, &admitted.host)
    );
    assert_eq!(
        (again.violation, again.keep_alive, again.nominates),
        (None, true, false)
    );
    assert_eq!(
        (again.upgrade, again.expects_continue),
        (admitted.upgrade, admitted.expects_continue)
    );
    match (admitted.framing, again.framing) {
        // A body of no bytes may be said or left unsaid.
        (Framing::None, Framing::Length(0)) => {}
        (one, other) => assert_eq!(one, other),
    }
    check_fields(forwarded.fields(), &ours);
}

fn check_fields(fields: &Fields, ours: &RequestFields<'_>) {
    for (id, value) in [
        (FieldId::XForwardedFor, ours.forwarded_for),
        (FieldId::XForwardedProto, b"http"),
        (FieldId::XForwardedPort, b"80"),
        (FieldId::XRequestStart, b"1767225600000"),
        (FieldId::XRequestId, ours.request_id.as_bytes()),
    ] {
        assert_eq!(fields.values(id).collect::<Vec<_>>(), [value], "{id:?}");
    }
    assert_eq!(fields.values(FieldId::Via).count(), 1);
    assert_eq!(fields.values(FieldId::Connection).count(), 1);
    for id in [
        FieldId::KeepAlive,
        FieldId::ProxyAuthorization,
        FieldId::ProxyConnection,
        FieldId::Te,
        FieldId::Alias,
    ] {
        assert_eq!(fields.values(id).count(), 0, "{id:?} must not reach a dyno");
    }
    let framed_by = fields.values(FieldId::ContentLength).count()
        + fields.values(FieldId::TransferEncoding).count();
    assert!(framed_by <= 1, "one meaning of where the body ends");
}
