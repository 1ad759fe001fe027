//! Metrics as a scraper sees them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use router_core::TlsFailure;
use router_core::acme::{DomainState, DomainStatus};
use router_core::model::h2::meter::Flood;
use router_core::model::log_line::Protocol;
use router_core::tls::{Certificate, TlsVersion};
use router_testkit::TestCa;

use router_core::feed::{CacheStatus, PublishStats, Relists};

use super::*;

fn request(metrics: &Metrics, worker: usize, failure: Option<Failure>, status: Option<u16>) {
    let line = LogLine {
        ended: SystemTime::UNIX_EPOCH,
        app: "secret-app",
        failure,
        method: b"GET",
        path: b"/secret-path",
        host: b"secret.example",
        request_id: "id",
        forwarded_for: b"",
        dyno: Some("web.1"),
        connect: Some(Duration::ZERO),
        service: Some(Duration::from_millis(20)),
        status,
        bytes: 100,
        protocol: Protocol::Http11,
        tls: None,
        agent: None,
    };
    metrics.request(worker, &line);
}

fn scrape(metrics: &Metrics) -> String {
    scrape_with(metrics, Certificates::default())
}

fn scrape_with(metrics: &Metrics, certificates: Certificates) -> String {
    let present = Present {
        stats: Stats {
            requests_in_flight: 3,
            h2_connections: 4,
            h2_streams: 5,
            ..Stats::default()
        },
        feed: FeedStatus {
            source: "file".to_owned(),
            revision: Some(42),
            age_seconds: Some(1.5),
            stale: true,
            last_error: None,
            rejected: Vec::new(),
            accepted: 2,
            refused: 1,
            heard_seconds: Some(0.5),
            silent: true,
            gaps: 4,
            relists: Relists {
                silence: 3,
                ..Relists::default()
            },
            cache: Some(CacheStatus {
                revision: Some(41),
                error: Some("no space left on device".to_owned()),
                failures: 2,
            }),
            ..FeedStatus::default()
        },
        relay: Some(PublishStats {
            lowest_revision: Some(40),
            subscribers: 9,
            behind: 1,
            ..PublishStats::default()
        }),
        acme: Some(AcmeStatus {
            per_hour: 50,
            budget_left: 47,
            issued: 2,
            failed: 1,
            domains: vec![DomainStatus {
                domain: "a.test".to_owned(),
                state: DomainState::Failing,
                not_after: None,
                next_try: None,
                failures: 1,
                last_error: None,
            }],
            ..AcmeStatus::default()
        }),
        certificates,
        log_lines_dropped: 7,
    };
    String::from_utf8(metrics.render(&present)).unwrap()
}

#[test]
fn workers_are_added_up() {
    let metrics = Metrics::new(2);
    for worker in 0..3 {
        request(&metrics, worker, None, Some(200));
    }
    request(&metrics, 1, Some(Failure::RequestTimeout), Some(503));
    request(&metrics, 1, Some(Failure::ForcedClose), None);
    request(&metrics, 0, None, Some(101));
    for event in [
        Event::Connected(Duration::from_micros(700)),
        Event::ConnectFailed(Failure::ConnectRefused),
        Event::Retry,
        Event::Quarantined,
        Event::Refused(Failure::NoSuchApp),
        Event::TunnelOpened,
        Event::TunnelClosed,
    ] {
        metrics.event(1, event);
    }
    let text = scrape(&metrics);
    for line in [
        "router_requests_total{code=\"none\",status=\"2xx\"} 3",
        "router_requests_total{code=\"none\",status=\"1xx\"} 1",
        "router_requests_total{code=\"H12\",status=\"5xx\"} 1",
        "router_requests_total{code=\"H24\",status=\"none\"} 1",
        "router_requests_total{code=\"H99\",status=\"5xx\"} 0",
        "router_requests_refused_total{reason=\"no_such_app\"} 1",
        "router_requests_refused_total{reason=\"host_missing\"} 0",
        "router_service_seconds_bucket{le=\"0.01\"} 0",
        "router_service_seconds_bucket{le=\"0.025\"} 5",
        "router_service_seconds_bucket{le=\"+Inf\"} 5",
        "router_service_seconds_sum 0.1",
        "router_service_seconds_count 5",
        "router_connect_seconds_bucket{le=\"0.0005\"} 0",
        "router_connect_seconds_bucket{le=\"0.001\"} 1",
        "router_connect_failures_total{code=\"H21\"} 1",
        "router_retries_total 1",
        "router_quarantines_total 1",
        "router_tunnels_total 1",
        "router_response_bytes_total 600",
        "router_requests_in_flight 3",
        "router_acme_orders_total{result=\"issued\"} 2",
        "router_acme_orders_total{result=\"failed\"} 1",
        "router_acme_orders_left 47",
        "router_acme_held_up 0",
        "router_acme_domains{state=\"failing\"} 1",
        "router_acme_domains{state=\"valid\"} 0",
        "router_acme_domains{state=\"impossible\"} 0",
        "router_feed_revision 42",
        "router_feed_age_seconds 1.5",
        "router_feed_stale 1",
        "router_feed_documents_total{result=\"accepted\"} 2",
        "router_feed_documents_total{result=\"refused\"} 1",
        "router_feed_heard_seconds 0.5",
        "router_feed_silent 1",
        "router_relay_lowest_revision 40",
        "router_relay_subscribers 9",
        "router_relay_behind_total 1",
        "router_feed_withheld 0",
        "router_feed_stuck 0",
        "router_feed_gaps_total 4",
        "router_feed_relists_total{reason=\"silence\"} 3",
        "router_feed_relists_total{reason=\"feedback\"} 0",
        "router_feed_cache_revision 41",
        "router_feed_cache_broken 1",
        "router_feed_cache_failures_total 2",
        "router_log_lines_dropped_total 7",
        "# TYPE router_service_seconds histogram",
        "# TYPE router_requests_total counter",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    assert!(
        text.contains("router_build_info{version=\"")
            && text.contains("process_resident_memory_bytes ")
    );
}

#[test]
fn handshakes_headers_and_floods_are_counted() {
    let metrics = Metrics::new(2);
    let handshake = |version, resumed, http2| Event::TlsHandshake {
        version,
        resumed,
        http2,
        took: Duration::from_millis(3),
    };
    for (worker, event) in [
        (0, handshake(TlsVersion::V1_3, true, true)),
        (1, handshake(TlsVersion::V1_3, true, true)),
        (0, handshake(TlsVersion::V1_2, false, false)),
        (1, Event::TlsFailed(TlsFailure::NoCertificate)),
        (0, Event::TlsRefused),
        (1, Event::ProxyHeaderRefused),
        (0, Event::Http2Flood(Flood::Resets)),
    ] {
        metrics.event(worker, event);
    }
    let text = scrape(&metrics);
    for line in [
        "router_tls_handshakes_total{version=\"1.3\",resumed=\"true\",protocol=\"h2\"} 2",
        "router_tls_handshakes_total{version=\"1.2\",resumed=\"false\",protocol=\"http/1.1\"} 1",
        "router_tls_handshakes_total{version=\"1.2\",resumed=\"true\",protocol=\"h2\"} 0",
        "router_tls_handshake_failures_total{reason=\"no_certificate\"} 1",
        "router_tls_handshake_failures_total{reason=\"timeout\"} 0",
        "router_tls_handshake_seconds_bucket{le=\"0.0025\"} 0",
        "router_tls_handshake_seconds_bucket{le=\"0.005\"} 3",
        "router_tls_handshakes_refused_total 1",
        "router_proxy_headers_refused_total 1",
        "router_h2_floods_total{kind=\"resets\"} 1",
        "router_h2_floods_total{kind=\"pings\"} 0",
        "router_h2_connections 4",
        "router_h2_streams 5",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(series("router_tls_handshakes_total{"), 8);
    assert_eq!(series("router_tls_handshake_failures_total{"), 8);
}

#[test]
fn only_the_certificates_that_expire_first_have_a_series() {
    let ca = TestCa::new("root");
    let certificate = |days: i64| {
        let made = ca.certificate_valid(&[&format!("d{days}.test")], -1..days);
        let read = Certificate::from_pem(made.chain_pem().as_bytes(), made.key_pem().as_bytes());
        Arc::new(read.unwrap())
    };
    let held = |days: i64, origin, superseded| Held {
        origin,
        certificate: certificate(days),
        superseded,
    };
    let mut all: Vec<_> = (2..=111)
        .rev()
        .map(|days| held(days, "folder", false))
        .collect();
    // One beside another of the same name, and one that was renewed.
    all.push(held(2, "folder", false));
    all.push(held(1, "document", true));
    let certificates = Certificates {
        held: all,
        rejected: 2,
    };
    let text = scrape_with(&Metrics::new(1), certificates);
    for line in [
        "router_certificates{origin=\"folder\"} 111",
        "router_certificates{origin=\"document\"} 1",
        "router_certificates_rejected 2",
        "router_certificates_expiring{within_days=\"0\"} 0",
        "router_certificates_expiring{within_days=\"7\"} 7",
        "router_certificates_expiring{within_days=\"90\"} 90",
        "router_certificate_days_left_min 1",
        "router_certificate_days_left{name=\"d100.test\",origin=\"folder\"} 99",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    let series = text.matches("router_certificate_days_left{").count();
    assert_eq!(series, certificates::MOST_SERIES);
    assert!(!scrape(&Metrics::new(1)).contains("router_certificate_days_left"));
}

#[test]
fn no_label_comes_from_a_request() {
    let metrics = Metrics::new(1);
    request(&metrics, 0, None, Some(999));
    assert!(!scrape(&metrics).contains("secret"));
}

#[test]
fn every_refusal_has_a_label_and_a_counter_of_its_own() {
    let labels: std::collections::HashSet<_> = refusals().map(reason).collect();
    assert_eq!(labels.len(), refusals().count());
    assert!(labels.len() <= shard::MOST_REFUSALS);
    assert!(labels.iter().all(|label| {
        label
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter == '_')
    }));
}

#[test]
fn codes_are_numbers_below_a_hundred() {
    for &failure in Failure::ALL {
        let code = verdict::of(failure).code;
        assert_eq!(code.unwrap_or("none"), code_label(code_number(failure)));
    }
}
