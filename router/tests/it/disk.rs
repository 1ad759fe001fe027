//! A disk that takes nothing more: routes go on changing, operators are told, and a restart finds what was saved last.

use std::fs;

use crate::dyno::Dyno;
use crate::process::{Place, Running, eventually, get};

const CONFIG: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
                      [feed]\npath = \"routes.json\"\ncache = \"good.json\"\n";

fn saved(router: &Running) -> serde_json::Value {
    get(router.admin, "admin", "/v1/feed").json()["cache"].clone()
}

/// Revision 2 comes while nothing can be saved.
fn goes_on_without_saving(place: &Place, dyno: &Dyno, router: Running, second: &str) {
    place.write("routes.json", second);
    router.wait_for_revision(2);
    eventually("the alarm", || {
        let metrics = get(router.admin, "admin", "/metrics").body;
        metrics
            .lines()
            .any(|line| line == "router_feed_cache_broken 1")
    });
    let cache = saved(&router);
    assert!(
        cache["revision"] == 1 && cache["error"].is_string(),
        "{cache}"
    );
    let request = "GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n";
    let pending = crate::process::send(router.client, request);
    dyno.request().answer();
    assert_eq!(pending.finish().body, "hello");
    router.signal("TERM");
    assert_eq!(router.end().0, Some(0));

    fs::remove_file(place.path("routes.json")).unwrap();
    let router = place.serve();
    router.wait_for_revision(1);
    assert_eq!(get(router.admin, "admin", "/v1/feed").json()["stale"], true);
}

#[test]
fn a_folder_that_cannot_be_written_leaves_the_old_cache() {
    let (place, dyno) = (Place::with_config(CONFIG), Dyno::start());
    place.write("routes.json", &dyno.routes(1));
    let router = place.serve();
    router.wait_for_revision(1);
    eventually("it is saved", || saved(&router)["revision"] == 1);
    // A folder in the way stops everybody, the superuser too.
    fs::create_dir(place.path("good.json.new")).unwrap();
    goes_on_without_saving(&place, &dyno, router, &dyno.routes(2));
}

#[test]
fn a_full_disk_leaves_the_old_cache() {
    let (place, dyno) = (Place::with_config(CONFIG), Dyno::start());
    place.write("routes.json", &dyno.routes(1));
    // No file of the router's may be longer than this many kilobytes, as on a disk with so much left.
    let router = place.serve_with_files_up_to(64);
    router.wait_for_revision(1);
    eventually("it is saved", || saved(&router)["revision"] == 1);
    let long = "x".repeat(100_000);
    let second = dyno
        .routes(2)
        .replacen('{', &format!("{{\"comment\":\"{long}\","), 1);
    goes_on_without_saving(&place, &dyno, router, &second);
}
