//! The admin endpoint.

use serde_json::json;

use crate::dyno::Dyno;
use crate::process::{Place, eventually, get, send};

#[test]
fn without_routes_the_router_is_healthy_but_not_ready() {
    let place = Place::new("");
    let router = place.serve();
    assert_eq!(get(router.admin, "admin", "/healthz").status, 200);
    let readiness = get(router.admin, "admin", "/readyz");
    assert_eq!(
        (readiness.status, readiness.body.as_str()),
        (503, "no routes yet\n")
    );
    assert_eq!(get(router.client, "shop.example.com", "/").status, 503);
    assert_eq!(
        get(router.admin, "admin", "/v1/feed").json()["revision"],
        json!(null)
    );
    place.write("routes.json", &Dyno::start().routes(7));
    router.wait_for_revision(7);
    assert_eq!(get(router.admin, "admin", "/readyz").body, "ready\n");
    let feed = get(router.admin, "admin", "/v1/feed").json();
    assert_eq!(
        (&feed["revision"], &feed["stale"], &feed["rejected"]),
        (&json!(7), &json!(false), &json!([]))
    );
    assert!(
        feed["age_seconds"].is_number() && feed["source"].is_string(),
        "{feed}"
    );
}

#[test]
fn a_refused_document_is_told_and_changes_nothing() {
    let place = Place::new("");
    place.write("routes.json", &Dyno::start().routes(7));
    let router = place.serve();
    router.wait_for_revision(7);
    place.write("routes.json", r#"{"format": 1, "revision": 8, "apps": []}"#);
    eventually("the refusal", || {
        !get(router.admin, "admin", "/v1/feed").json()["last_error"].is_null()
    });
    assert_eq!(get(router.admin, "admin", "/v1/apps/shop").status, 200);
    let metrics = get(router.admin, "admin", "/metrics").body;
    assert!(
        metrics.contains("router_feed_documents_total{result=\"refused\"} 1"),
        "{metrics}"
    );
}

#[test]
fn the_api_tells_routes_apps_and_reasons() {
    let dyno = Dyno::start();
    let place = Place::new("");
    place.write("routes.json", &dyno.routes(42));
    let router = place.serve();
    router.wait_for_revision(42);

    let routes = get(router.admin, "admin", "/v1/routes").json();
    assert_eq!(routes["feed"]["revision"], 42);
    assert_eq!(routes["apps"][0]["name"], "shop");
    assert_eq!(routes["apps"][0]["dynos"][0]["name"], "web.1");

    let app = get(router.admin, "admin", "/v1/apps/sh%6fp").json();
    assert_eq!(
        app["domains"],
        json!(["shop.example.com", "*.shop.example.com"])
    );
    assert_eq!(app["dynos"][0]["address"], json!(dyno.address));

    let explained = get(
        router.admin,
        "admin",
        "/v1/explain?host=a.SHOP.example.com&path=%2Fx",
    );
    assert_eq!(explained.status, 200, "{}", explained.body);
    let explained = explained.json();
    assert_eq!(
        (&explained["routed"], &explained["app"], &explained["path"]),
        (&json!(true), &json!("shop"), &json!("/x"))
    );
    assert_eq!(explained["feed"]["revision"], 42);

    let unrouted = get(router.admin, "admin", "/v1/explain?host=nobody.example.com");
    assert_eq!(
        (unrouted.status, &unrouted.json()["routed"]),
        (200, &json!(false))
    );
}

#[test]
fn other_paths_and_methods_are_refused_in_json() {
    let router = Place::new("").serve();
    for (path, status) in [
        ("/nothing", 404),
        ("/v1/apps/nobody", 404),
        ("/v1/apps/", 404),
        ("/v1/explain", 400),
        ("/v1/explain?path=/", 400),
        ("/v1/explain?host=&path=/", 400),
    ] {
        let response = get(router.admin, "admin", path);
        assert_eq!(response.status, status, "{path}");
        assert!(
            response.head.contains("content-type: application/json")
                && response.json()["error"].is_string()
        );
    }
    let post =
        "POST /v1/routes HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let response = send(router.admin, post).finish();
    assert_eq!(response.status, 405);
    assert!(
        response.head.contains("allow: get, head"),
        "{}",
        response.head
    );
    let head = send(
        router.admin,
        "HEAD /healthz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n",
    )
    .finish();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let metrics = get(router.admin, "admin", "/metrics");
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        metrics.head
    );
    for name in [
        "router_build_info",
        "router_requests_in_flight",
        "process_cpu_seconds_total",
    ] {
        assert!(metrics.body.contains(name), "no {name}");
    }
}

#[test]
fn an_operator_can_confirm_what_is_withheld() {
    let place = Place::new("");
    place.write("routes.json", &Dyno::start().routes(7));
    let router = place.serve();
    router.wait_for_revision(7);
    let confirm = |revision: u64, more: &str| {
        let request = format!(
            "POST /v1/feed/confirm?revision={revision} HTTP/1.1\r\nHost: admin\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        send(router.admin, &request).finish().status
    };
    const JSON: &str = "Content-Type: application/json\r\n";
    assert_eq!(confirm(8, JSON), 409, "nothing is withheld");
    place.write("routes.json", r#"{"format": 1, "revision": 8, "apps": []}"#);
    let feed = || get(router.admin, "admin", "/v1/feed").json();
    eventually("it is withheld", || feed()["withheld"]["revision"] == 8);
    assert_eq!(confirm(8, ""), 415, "not from a form in a browser");
    assert_eq!(confirm(7, JSON), 409, "another revision");
    assert_eq!(feed()["revision"], 7);
    assert_eq!(confirm(8, JSON), 200);
    router.wait_for_revision(8);
    assert_eq!(feed()["withheld"], json!(null));
    assert_eq!(get(router.admin, "admin", "/v1/apps/shop").status, 404);
}
