//! Route documents of any size. Their domains look like those of a platform: one of the platform's own for each app, one wildcard, and the customer's.

use std::fmt::Write as _;
use std::net::SocketAddr;

use router_core::Router;
use router_core::model::snapshot;

/// The host of documents with a single app.
pub const HOST: &str = "shop.example.com";

/// Domains of each app.
pub const DOMAINS_PER_APP: usize = 10;

/// The domain number `nth` of an app.
pub fn domain(app: usize, nth: usize) -> String {
    match nth {
        0 => format!("app-{app:06}.apps.example.com"),
        1 => format!("*.preview-{app:06}.apps.example.com"),
        _ => format!("www{nth}.customer-{app:06}.example"),
    }
}

/// A host that this domain, and no other, answers for.
pub fn host(app: usize, nth: usize) -> String {
    domain(app, nth).replace('*', "branch")
}

/// A route document of so many apps with one web dyno each; `changed` of them are in maintenance.
pub fn document(revision: u64, apps: usize, changed: usize, dyno: SocketAddr) -> Vec<u8> {
    let mut text = format!("{{\"format\":1,\"revision\":{revision},\"apps\":[");
    for app in 0..apps {
        let comma = if app == 0 { "" } else { "," };
        let maintenance = app < changed;
        write!(
            text,
            "{comma}{{\"name\":\"app-{app:06}\",\"maintenance\":{maintenance},\"domains\":["
        )
        .unwrap();
        for nth in 0..DOMAINS_PER_APP {
            let comma = if nth == 0 { "" } else { "," };
            write!(text, "{comma}\"{}\"", domain(app, nth)).unwrap();
        }
        write!(
            text,
            "],\"dynos\":[{{\"name\":\"web.1\",\"address\":\"{dyno}\",\"state\":\"up\"}}]}}"
        )
        .unwrap();
    }
    text.push_str("]}");
    text.into_bytes()
}

/// A router with one worker that has these routes.
pub fn router(document: &[u8]) -> Router {
    let router = Router::builder().workers(1).build().unwrap();
    let snapshot = snapshot::parse(document).unwrap();
    assert!(
        snapshot.rejected.is_empty(),
        "{:?}",
        snapshot.rejected.first()
    );
    router.table().apply(&snapshot).unwrap();
    router
}

/// One host for each domain of `which`, in random order; made in that order too, so that reading them does not add to what is measured.
pub fn shuffled_hosts(apps: usize, which: std::ops::Range<usize>) -> Vec<String> {
    let mut places: Vec<(usize, usize)> = (0..apps)
        .flat_map(|app| which.clone().map(move |nth| (app, nth)))
        .collect();
    fastrand::Rng::with_seed(1).shuffle(&mut places);
    places.iter().map(|&(app, nth)| host(app, nth)).collect()
}
