//! What the guard lets pass, at once and over time.

use std::time::{Duration, Instant};

use super::*;

#[expect(clippy::disallowed_methods, reason = "a test")]
fn now() -> Instant {
    Instant::now()
}

fn apps(count: usize) -> Vec<Arc<App>> {
    let name = |n| (format!("app{n}"), format!("app{n}.example"));
    let named = (0..count).map(name);
    named
        .map(|(name, domain)| app(&name, &[&domain], 1))
        .collect()
}

fn judge(table: &NaiveTable, next: &Snapshot) -> Result<(), Refusal> {
    Guard::default().judge(&plan(table, next), next.allow_shrink, now())
}

/// A plan that takes away so many of so many domains.
fn taking(whole: bool, domains_removed: usize, domains_before: usize) -> Plan {
    Plan {
        whole,
        domains_removed,
        domains_before,
        ..Plan::default()
    }
}

fn shrink(removed: usize, before: usize, allowed: usize) -> Result<(), Refusal> {
    Err(Refusal::Shrink {
        removed,
        before,
        allowed,
    })
}

#[test]
fn empty_documents_and_losses_of_more_than_a_quarter_are_refused() {
    let apps = apps(8);
    let table = NaiveTable::applied(&snapshot(&apps, &[]));
    for (next, expected) in [
        (snapshot(&[], &[]), Err(Refusal::Empty)),
        (snapshot(&apps, &[]), Ok(())),
        (snapshot(&apps[2..], &[]), Ok(())),
        (snapshot(&apps[3..], &[]), shrink(3, 8, 2)),
        (snapshot(&apps[3..], &["app0"]), Ok(())),
        (snapshot(&[], &["app0"]), shrink(7, 8, 2)),
    ] {
        assert_eq!(judge(&table, &next), expected);
        let meant = Snapshot {
            allow_shrink: true,
            ..next
        };
        assert_eq!(judge(&table, &meant), Ok(()));
    }
    // Nobody is left by a document of strangers that are no good.
    assert_eq!(judge(&table, &snapshot(&[], &["new"])), Err(Refusal::Empty));
    let nothing = NaiveTable::default();
    assert_eq!(judge(&nothing, &snapshot(&apps, &[])), Ok(()));
    assert_eq!(judge(&nothing, &snapshot(&[], &["app0"])), Ok(()));
    let seven = NaiveTable::applied(&snapshot(&apps[1..], &[]));
    assert_eq!(judge(&seven, &snapshot(&apps[3..], &[])), shrink(2, 7, 1));
}

#[test]
fn the_share_is_a_setting() {
    let start = now();
    for (share, removed, before, allowed) in [
        (0.0, 1, 1000, 0),
        (0.1, 10, 100, 10),
        (0.1, 11, 100, 10),
        (0.5, 4, 8, 4),
        (1.0, 8, 8, 8),
        (7.0, 8, 8, 8),
        (-1.0, 1, 8, 0),
    ] {
        let judged = Guard::new(share, None).judge(&taking(true, removed, before), false, start);
        let expected = if removed > allowed {
            shrink(removed, before, allowed)
        } else {
            Ok(())
        };
        assert_eq!(judged, expected, "{share}");
    }
}

#[test]
fn what_persists_is_believed_if_that_is_set_but_never_the_empty_set() {
    let start = now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut guard = Guard::new(0.25, Some(Duration::from_secs(60)));
    let shrinks = taking(true, 5, 10);
    assert!(guard.judge(&shrinks, false, after(0)).is_err());
    assert_eq!(guard.again_at(), Some(after(60)));
    assert!(guard.judge(&shrinks, false, after(59)).is_err());
    // A good one in between: the source did not keep to it.
    assert!(guard.judge(&taking(true, 0, 10), false, after(59)).is_ok());
    assert_eq!(guard.again_at(), None);
    assert!(guard.judge(&shrinks, false, after(60)).is_err());
    assert!(guard.judge(&shrinks, false, after(119)).is_err());
    assert!(guard.judge(&shrinks, false, after(120)).is_ok());
    assert_eq!(guard.again_at(), None);

    let empty = Plan {
        empties: true,
        ..taking(true, 10, 10)
    };
    for seconds in [130, 500, 100_000] {
        assert_eq!(
            guard.judge(&empty, false, after(seconds)),
            Err(Refusal::Empty)
        );
    }
    let mut never = Guard::default();
    assert!(never.judge(&shrinks, false, after(0)).is_err());
    assert!(never.judge(&shrinks, false, after(1_000_000)).is_err());
}

#[test]
fn changes_take_away_no_more_in_a_minute_than_one_document_may() {
    let start = now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut guard = Guard::default();
    let mut domains = 100;
    for second in 0..25 {
        assert_eq!(
            guard.judge(&taking(false, 1, domains), false, after(second)),
            Ok(())
        );
        domains -= 1;
    }
    let one_more = guard.judge(&taking(false, 1, domains), false, after(26));
    assert_eq!(one_more, shrink(26, 100, 25));
    assert_eq!(guard.again_at(), Some(after(60)));
    // Nor may the whole document bring it, as little as it is compared with what is left.
    let whole = guard.judge(&taking(true, 2, domains), false, after(27));
    assert_eq!(whole, shrink(27, 100, 25));
    assert!(
        guard
            .judge(&taking(true, 0, domains), false, after(28))
            .is_ok()
    );
    assert!(
        guard
            .judge(&taking(true, 2, domains), false, after(60))
            .is_ok()
    );
    assert!(guard.judge(&taking(false, 1, 73), false, after(61)).is_ok());
}

#[test]
fn documents_are_measured_one_by_one() {
    let start = now();
    let mut guard = Guard::default();
    for (removed, before) in [(25, 100), (18, 75), (14, 57)] {
        assert!(
            guard
                .judge(&taking(true, removed, before), false, start)
                .is_ok()
        );
    }
}
