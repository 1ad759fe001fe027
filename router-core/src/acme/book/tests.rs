//! What the book says, event by event.

use router_model::backoff::Backoff;
use router_testkit::TestCa;

use super::*;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const WHOLE: u32 = u32::MAX;

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn certificate(names: &[&str], days: std::ops::Range<i64>) -> Arc<Certificate> {
    let made = TestCa::new("ca").certificate_valid(names, days);
    let read = Certificate::from_pem(made.chain_pem().as_bytes(), made.key_pem().as_bytes());
    Arc::new(read.unwrap())
}

fn now() -> u64 {
    unix(crate::clock::wall())
}

/// A book that may order `per_hour`, and wants these.
fn book(per_hour: u32, wanted: &[&str]) -> Book {
    let minutes =
        |first, longest| Backoff::new(Duration::from_mins(first), Duration::from_mins(longest));
    let retries = Retries {
        domain: minutes(10, 360),
        authority: minutes(1, 30),
    };
    let mut book = Book::new("https://ca.test/dir", per_hour, retries);
    want(&mut book, wanted);
    book
}

fn want(book: &mut Book, wanted: &[&str]) {
    let wanted = wanted.iter().map(|text| domain(text));
    book.want(wanted, &Covered::default(), now());
}

/// What would be ordered from `at` on, one after the other, if each order got a certificate for 90 days.
fn orders(book: &mut Book, at: u64) -> Vec<String> {
    let mut ordered = Vec::new();
    while let Some(next) = book.next(at) {
        book.begin(&next, at);
        book.issued(next.clone(), certificate(&[next.as_str()], 0..90), at, 0);
        ordered.push(next.to_string());
    }
    ordered
}

fn states(book: &Book, at: u64) -> Vec<(String, DomainState)> {
    let domains = book.status(at).domains.into_iter();
    domains
        .map(|status| (status.domain, status.state))
        .collect()
}

fn state(book: &Book, domain: &str, at: u64) -> DomainStatus {
    let mut domains = book.status(at).domains.into_iter();
    domains.find(|status| status.domain == domain).unwrap()
}

#[test]
fn what_is_wanted_is_ordered_once() {
    let mut book = book(10, &["b.test", "a.test"]);
    let now = now();
    assert_eq!(
        states(&book, now),
        [
            ("a.test".to_owned(), DomainState::Waiting),
            ("b.test".to_owned(), DomainState::Waiting)
        ]
    );
    let first = book.next(now).unwrap();
    assert_eq!(first.as_str(), "a.test");
    book.begin(&first, now);
    assert_eq!(state(&book, "a.test", now).state, DomainState::Ordering);
    book.issued(first, certificate(&["a.test"], 0..90), now, 0);
    assert_eq!(state(&book, "a.test", now).state, DomainState::Valid);
    assert_eq!(orders(&mut book, now), ["b.test"]);
    let status = book.status(now);
    assert_eq!(
        (
            status.ordered,
            status.issued,
            status.failed,
            status.budget_left
        ),
        (2, 2, 0, 8)
    );
    assert_eq!(status.held_up_by, None);
    want(&mut book, &["a.test", "b.test", "c.test"]);
    assert_eq!(orders(&mut book, now), ["c.test"]);
    assert_eq!(book.certificates().len(), 3);
}

#[test]
fn a_third_before_its_end_a_certificate_is_renewed() {
    let mut book = book(10, &["a.test"]);
    let made = certificate(&["a.test"], 0..90);
    let (from, until) = (unix(made.not_before()), unix(made.not_after()));
    let next = book.next(from).unwrap();
    book.begin(&next, from);
    book.issued(next, made, from, 0);
    let due = until - (until - from) / 3;
    let status = state(&book, "a.test", from);
    assert_eq!(status.next_try, Some(text(due)));
    assert_eq!(status.not_after, Some(text(until)));
    assert_eq!(book.next(due - 1), None);
    assert_eq!(state(&book, "a.test", due).state, DomainState::Renewing);
    assert_eq!(book.next(due), Some(domain("a.test")));
    // It fails, and what there is stays.
    book.begin(&domain("a.test"), due);
    book.failed(&domain("a.test"), "no".to_owned(), None, due, WHOLE);
    let status = state(&book, "a.test", due);
    assert_eq!(status.state, DomainState::Failing);
    assert_eq!(
        (status.failures, status.last_error.as_deref()),
        (1, Some("no"))
    );
    assert_eq!(status.next_try, Some(text(due + 600)));
    assert!(status.not_after.is_some());
    assert_eq!(book.certificates().len(), 1);
    assert_eq!(book.next(due + 599), None);
    assert_eq!(book.next(due + 600), Some(domain("a.test")));
}

#[test]
fn a_new_certificate_that_is_old_is_served_and_not_ordered_again_at_once() {
    let mut book = book(10, &["a.test"]);
    let now = now();
    let next = book.next(now).unwrap();
    book.begin(&next, now);
    book.issued(next, certificate(&["a.test"], -80..10), now, WHOLE);
    assert_eq!(book.certificates().len(), 1);
    assert_eq!(book.next(now), None);
    let status = state(&book, "a.test", now);
    assert_eq!(status.state, DomainState::Failing);
    assert!(status.last_error.unwrap().contains("clock"));
    assert_eq!(orders(&mut book, now + 600), ["a.test"]);
    assert_eq!(state(&book, "a.test", now + 600).failures, 0);
}

#[test]
fn failures_hold_up_their_domain_only_and_wait_longer_each_time() {
    let mut book = book(100, &["bad.test", "good.test"]);
    let mut at = now();
    for wait in [10, 20, 40] {
        let next = book.next(at).unwrap();
        assert_eq!(next.as_str(), "bad.test");
        book.begin(&next, at);
        book.failed(&next, "no answer".to_owned(), None, at, WHOLE);
        if wait == 10 {
            assert_eq!(orders(&mut book, at), ["good.test"]);
        }
        assert_eq!(book.next(at + wait * 60 - 1), None);
        at += wait * 60;
    }
    // Whoever leaves and comes back is still waiting.
    let next = book.next(at).unwrap();
    book.begin(&next, at);
    book.failed(&next, "no answer".to_owned(), None, at, WHOLE);
    book.want([domain("good.test")], &Covered::default(), at);
    book.want([domain("bad.test")], &Covered::default(), at);
    assert_eq!(book.next(at), None);
    // But not for ever.
    book.want([domain("good.test")], &Covered::default(), at + 6 * HOUR);
    book.want([domain("bad.test")], &Covered::default(), at + 6 * HOUR);
    assert_eq!(state(&book, "bad.test", at + 6 * HOUR).failures, 0);
}

#[test]
fn a_used_up_budget_is_said_and_goes_first_to_what_serves_now() {
    let mut book = book(
        2,
        &["a.test", "b.test", "c.test", "ending.test", "old.test"],
    );
    let now = now();
    book.hold(
        domain("ending.test"),
        certificate(&["ending.test"], -80..10),
        0,
    );
    book.hold(domain("old.test"), certificate(&["old.test"], -62..28), 0);
    assert_eq!(orders(&mut book, now), ["ending.test", "a.test"]);
    let status = book.status(now);
    assert_eq!(status.budget_left, 0);
    assert_eq!(
        status.held_up_by,
        Some(format!(
            "the budget of 2 orders an hour is used up; domains waiting: 3; next order at {}",
            text(now + HOUR)
        ))
    );
    assert_eq!(state(&book, "b.test", now).next_try, Some(text(now + HOUR)));
    assert_eq!(book.next(now + HOUR - 1), None);
    // A restart does not make it new.
    let written = serde_json::to_string(book.ledger()).unwrap();
    book.set_ledger(Ledger::default());
    assert!(book.next(now).is_some());
    book.set_ledger(serde_json::from_str(&written).unwrap());
    assert_eq!(book.next(now), None);
    assert_eq!(orders(&mut book, now + HOUR), ["b.test", "c.test"]);
    assert_eq!(orders(&mut book, now + 2 * HOUR), ["old.test"]);
    assert_eq!(book.status(now + 2 * HOUR).held_up_by, None);
}

#[test]
fn trouble_with_the_authority_holds_up_everything_and_blames_no_domain() {
    let mut book = book(10, &["a.test", "b.test"]);
    let now = now();
    let first = book.next(now).unwrap();
    book.held_up("nobody there".to_owned(), None, now, WHOLE);
    assert_eq!(book.next(now + 59), None);
    let status = book.status(now);
    let said = format!("nobody there; next try at {}", text(now + 60));
    assert_eq!(status.held_up_by, Some(said));
    assert_eq!(
        (status.ordered, status.failed, status.budget_left),
        (0, 0, 10)
    );
    assert_eq!(state(&book, "a.test", now).failures, 0);
    assert_eq!(state(&book, "a.test", now).state, DomainState::Waiting);
    assert_eq!(book.next(now + 60), Some(first.clone()));
    // In the middle of an order, and with a wish.
    book.begin(&first, now + 60);
    let asked = Some(Duration::from_hours(1));
    book.held_up("busy".to_owned(), asked, now + 60, WHOLE);
    assert_eq!(book.next(now + 60 + HOUR - 1), None);
    let status = book.status(now + 60);
    assert_eq!(
        (status.ordered, status.failed, status.budget_left),
        (1, 1, 9)
    );
    assert_eq!(orders(&mut book, now + 60 + HOUR), ["a.test", "b.test"]);
    // An answer that says no is an answer.
    book.held_up("gone".to_owned(), None, now, WHOLE);
    book.failed(&domain("a.test"), "no".to_owned(), None, now, WHOLE);
    assert_eq!(book.status(now).held_up_by, None);
}

#[test]
fn what_others_cover_is_not_ordered_until_they_end() {
    let names = ["a.test", "x.b.test", "b.test", "x.y.b.test", "c.test"];
    let mut book = book(10, &[]);
    let elsewhere = [
        certificate(&["a.test", "*.b.test"], -1..10),
        // Ends within the hour, when it is looked at first.
        certificate(&["c.test"], -10..1),
    ];
    let wall = crate::clock::wall();
    let covered = Covered::by(elsewhere.clone(), wall + Duration::from_mins(23 * 60 + 30));
    book.want(names.map(domain), &covered, now());
    assert_eq!(orders(&mut book, now()), ["b.test", "c.test", "x.y.b.test"]);
    assert_eq!(state(&book, "a.test", now()).state, DomainState::Covered);
    assert_eq!(state(&book, "x.b.test", now()).state, DomainState::Covered);
    let covered = Covered::by(elsewhere, wall + Duration::from_hours(10 * 24 - 1));
    book.want(names.map(domain), &covered, now());
    assert_eq!(orders(&mut book, now()), ["a.test", "x.b.test"]);
}

#[test]
fn what_cannot_be_ordered_is_listed_unless_somebody_covers_it() {
    let mut book = book(10, &["*.a.test", "b_c.test", "*.d.test", "e_f.d.test"]);
    assert_eq!(book.next(now()), None);
    let listed = |book: &Book| -> Vec<String> {
        let domains = book.status(now()).domains.into_iter();
        let impossible = domains.filter(|status| status.state == DomainState::Impossible);
        impossible.map(|status| status.domain).collect()
    };
    assert_eq!(
        listed(&book),
        ["*.a.test", "*.d.test", "b_c.test", "e_f.d.test"]
    );
    let elsewhere = [certificate(&["*.d.test", "a.test"], -1..10)];
    let covered = Covered::by(elsewhere, crate::clock::wall());
    let names = ["*.a.test", "b_c.test", "*.d.test", "e_f.d.test", "*.test"];
    book.want(names.map(domain), &covered, now());
    assert_eq!(listed(&book), ["*.a.test", "*.test", "b_c.test"]);
}

#[test]
fn what_nobody_wants_any_more_is_served_to_its_end() {
    let mut book = book(10, &["gone.test", "kept.test"]);
    let now = now();
    book.hold(domain("gone.test"), certificate(&["gone.test"], -80..10), 0);
    book.hold_ended(domain("long.test"), UNIX_EPOCH);
    want(&mut book, &["kept.test"]);
    assert_eq!(
        states(&book, now),
        [
            ("gone.test".to_owned(), DomainState::Retired),
            ("kept.test".to_owned(), DomainState::Waiting),
            ("long.test".to_owned(), DomainState::Retired)
        ]
    );
    assert_eq!(orders(&mut book, now), ["kept.test"]);
    assert_eq!(book.forget_ended(now), [domain("long.test")]);
    assert_eq!(book.certificates().len(), 2);
    assert_eq!(book.forget_ended(now + 11 * DAY), [domain("gone.test")]);
    assert_eq!(book.certificates().len(), 1);
    // One that is wanted is kept, however old, until there is a better one.
    assert!(book.forget_ended(now + 1000 * DAY).is_empty());
    assert_eq!(book.next(now + 1000 * DAY), Some(domain("kept.test")));
}

#[test]
fn a_folder_that_cannot_be_used_is_said_once() {
    let mut book = book(10, &["a.test"]);
    assert!(book.set_folder_error(Some("no space".to_owned())));
    assert!(!book.set_folder_error(Some("no space".to_owned())));
    let said = book.status(now()).held_up_by.unwrap();
    assert_eq!(said, "the folder cannot be used: no space");
    assert!(book.set_folder_error(None));
    assert_eq!(book.status(now()).held_up_by, None);
}

#[test]
fn times_that_cannot_be_written() {
    assert_eq!(text(0), "1970-01-01T00:00:00Z");
    assert_eq!(text(u64::MAX), "9999-12-31T23:59:59Z");
}
