//! How `router serve` ends.

use crate::dyno::Dyno;
use crate::process::{Pending, Place, Running, get, send};

/// A router with one request that its dyno has not answered.
fn with_a_request_in_flight(dyno: &Dyno, place: &Place) -> (Running, Pending) {
    place.write("routes.json", &dyno.routes(1));
    let router = place.serve();
    router.wait_for_revision(1);
    let pending = send(
        router.client,
        "GET /slow HTTP/1.1\r\nHost: shop.example.com\r\n\r\n",
    );
    (router, pending)
}

#[test]
fn requests_in_flight_finish_and_the_end_is_clean() {
    let (dyno, place) = (Dyno::start(), Place::new("[timeouts]\ndrain = \"60s\"\n"));
    let (router, pending) = with_a_request_in_flight(&dyno, &place);
    let held = dyno.request();
    let idle = send(router.client, "");
    router.signal("TERM");
    router.wait_until("/readyz", 503);
    assert_eq!(get(router.admin, "admin", "/readyz").body, "draining\n");
    assert_eq!(get(router.admin, "admin", "/healthz").status, 200);
    held.answer();
    let response = pending.finish();
    assert_eq!((response.status, response.body.as_str()), (200, "hello"));
    let (code, out) = router.end();
    assert_eq!(code, Some(0));
    assert!(
        out.lines().count() == 1 && out.contains("path=\"/slow\"") && out.contains("status=200"),
        "{out}"
    );
    drop(idle);
}

#[test]
fn what_is_not_finished_in_time_is_cut_and_logged() {
    let (dyno, place) = (Dyno::start(), Place::new("[timeouts]\ndrain = \"100ms\"\n"));
    let (router, pending) = with_a_request_in_flight(&dyno, &place);
    let held = dyno.request();
    router.signal("TERM");
    let (code, out) = router.end();
    assert_eq!(code, Some(3));
    assert!(
        out.lines().count() == 1 && out.contains("code=H24") && out.contains("path=\"/slow\""),
        "{out}"
    );
    drop((held, pending));
}

#[test]
fn a_second_signal_ends_at_once() {
    let (dyno, place) = (Dyno::start(), Place::new("[timeouts]\ndrain = \"10m\"\n"));
    let (router, pending) = with_a_request_in_flight(&dyno, &place);
    let held = dyno.request();
    router.signal("TERM");
    router.wait_until("/readyz", 503);
    router.signal("INT");
    let (code, out) = router.end();
    assert_eq!(code, Some(3));
    assert!(out.contains("code=H24"), "what is cut is logged: {out}");
    drop((held, pending));
}

#[test]
fn an_idle_router_ends_at_once() {
    let router = Place::new("[timeouts]\ndrain = \"10m\"\n").serve();
    router.signal("INT");
    assert_eq!(router.end(), (Some(0), String::new()));
}
