//! TLS as an operator sees it: certificates from files and documents, what is told of them, and how they are renewed.

use std::net::SocketAddr;

use router_testkit::{RawClient, TestCa, TestCertificate, TlsDialer, TlsFacts};
use serde_json::{Value, json};

use crate::dyno::Dyno;
use crate::process::{Place, Running, eventually, get};

/// A folder whose `router.toml` has one https listener with the default pair `default.crt` and `default.key`.
fn place(default: &TestCertificate, more: &str) -> Place {
    let place = Place::with_config(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\ncertificate = \"default.crt\"\n\
         private_key = \"default.key\"\n[admin]\naddress = \"127.0.0.1:0\"\n[feed]\npath = \"routes.json\"\n\
         [workers]\nthreads = 2\n{more}"
    ));
    write(&place, "default", default);
    place
}

/// The key first: until the chain is there too, the pair is at worst a mismatch, and told as such.
fn write(place: &Place, name: &str, certificate: &TestCertificate) {
    place.write(&format!("{name}.key"), certificate.key_pem());
    place.write(&format!("{name}.crt"), certificate.chain_pem());
}

/// A handshake for a name, and the answer to a request for it.
fn exchange(router: SocketAddr, ca: &TestCa, name: &str) -> (TlsFacts, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let dialer = TlsDialer::trusting(ca, name).alpn(&["http/1.1"]);
    runtime.unwrap().block_on(async {
        let mut client = RawClient::connect_tls(router, &dialer).await;
        let facts = client.tls().clone();
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        client.send(&request).await;
        (facts, client.read_response().await.text().to_owned())
    })
}

fn serves(router: &Running, ca: &TestCa, name: &str, expected: &TestCertificate) -> bool {
    let (facts, _) = exchange(router.client, ca, name);
    facts.certificate == expected.der()
}

fn certificates(router: &Running) -> Value {
    get(router.admin, "admin", "/v1/certificates").json()
}

#[test]
fn certificates_of_listener_folder_and_document_answer_and_are_told() {
    let ca = TestCa::new("root");
    let default = ca.certificate(&["shop.example.com"]);
    let (wild, inline) = (
        ca.certificate(&["*.shop.example.com"]),
        ca.certificate_valid(&["www.example.com"], -1..5),
    );
    let place = place(&default, "[tls]\ncertificates = \"certs\"\n");
    std::fs::create_dir(place.path("certs")).unwrap();
    write(&place, "certs/wild", &wild);
    place.write("certs/bad.crt", "no certificate");
    let dyno = Dyno::start();
    let mut document: Value = serde_json::from_str(&dyno.routes(7)).unwrap();
    document["apps"][0]["domains"] =
        json!(["shop.example.com", "*.shop.example.com", "www.example.com"]);
    document["certificates"] = json!([
        {"chain": inline.chain_pem(), "key": inline.key_pem()},
        {"chain": inline.chain_pem(), "key": wild.key_pem()},
    ]);
    place.write("routes.json", &document.to_string());
    let router = place.serve();
    router.wait_for_revision(7);
    for (name, expected) in [
        ("shop.example.com", &default),
        ("a.shop.example.com", &wild),
        ("www.example.com", &inline),
    ] {
        let (address, ca) = (router.client, &ca);
        let (facts, text) = std::thread::scope(|scope| {
            let asked = scope.spawn(move || exchange(address, ca, name));
            dyno.request().answer();
            asked.join().unwrap()
        });
        assert_eq!(text, "hello");
        assert_eq!(facts.certificate, expected.der(), "{name}");
    }

    let told = certificates(&router);
    for (index, origin, certificate, days, apps) in [
        (0, "listener", &default, 88, json!([])),
        (1, "folder", &wild, 88, json!(["shop"])),
        (2, "document", &inline, 4, json!(["shop"])),
    ] {
        let told = &told["certificates"][index];
        assert_eq!(told["origin"], origin, "{told}");
        assert_eq!(told["fingerprint"], certificate.fingerprint());
        assert_eq!(
            (&told["days_left"], &told["apps"]),
            (&json!(days), &apps),
            "{told}"
        );
        assert!(
            told["names"].is_array()
                && told["issuer"].is_string()
                && told["not_before"].is_string()
        );
    }
    assert_eq!(told["certificates"][0]["listener"], "listener[0]");
    let rejected = told["rejected"].as_array().unwrap();
    let places: Vec<_> = rejected
        .iter()
        .map(|one| one["place"].as_str().unwrap())
        .collect();
    assert!(
        places.len() == 2 && places[0].ends_with("certs/bad.crt"),
        "{rejected:?}"
    );
    assert_eq!(places[1], "certificates[1]");
    assert!(
        rejected[1]["reason"]
            .as_str()
            .unwrap()
            .contains("does not belong")
    );
    let metrics = get(router.admin, "admin", "/metrics").body;
    for line in [
        "router_certificates{origin=\"listener\"} 1",
        "router_certificates{origin=\"folder\"} 1",
        "router_certificates{origin=\"document\"} 1",
        "router_certificates{origin=\"acme\"} 0",
        "router_certificates_rejected 2",
        "router_certificates_expiring{within_days=\"3\"} 0",
        "router_certificates_expiring{within_days=\"7\"} 1",
        "router_certificates_expiring{within_days=\"90\"} 3",
        "router_certificate_days_left_min 4",
        "router_certificate_days_left{name=\"www.example.com\",origin=\"document\"} 4",
        "router_tls_handshakes_total{version=\"1.3\",resumed=\"false\",protocol=\"http/1.1\"} 3",
        "router_tls_handshake_seconds_count 3",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "no {line} in\n{metrics}"
        );
    }
    for text in [told.to_string(), metrics] {
        assert!(!text.contains("PRIVATE KEY"));
    }
}

#[test]
fn a_renewed_default_is_served_without_a_restart_and_a_bad_one_is_not() {
    let ca = TestCa::new("root");
    let name = "shop.example.com";
    let (first, second) = (ca.certificate(&[name]), ca.certificate(&[name]));
    let place = place(&first, "");
    let router = place.serve();
    assert!(serves(&router, &ca, name, &first));
    place.write("default.crt", "half a certifi");
    router.signal("HUP");
    eventually("the bad pair is told of", || {
        certificates(&router)["rejected"][0]["place"] == "listener[0].certificate"
    });
    assert!(serves(&router, &ca, name, &first));
    write(&place, "default", &second);
    router.signal("HUP");
    eventually("the second pair", || serves(&router, &ca, name, &second));
    eventually("nothing is wrong any more", || {
        certificates(&router)["rejected"] == json!([])
    });
}

#[test]
fn what_cannot_be_read_at_the_start_ends_with_64() {
    let ca = TestCa::new("root");
    let good = ca.certificate(&["shop.example.com"]);
    let other = ca.certificate(&["shop.example.com"]);
    for (change, wanted) in [
        (
            "no key",
            "router.toml: listener[0].certificate: default.key: cannot be read: ",
        ),
        (
            "other key",
            "router.toml: listener[0].certificate: default.crt with default.key: the private key does not belong",
        ),
        (
            "expired",
            "router.toml: listener[0].certificate: default.crt with default.key: the certificate expired on ",
        ),
        (
            "ticket keys",
            "router.toml: tls.ticket_keys: the ticket keys in tickets.key cannot be used: line 1 is neither ",
        ),
    ] {
        let place = place(&good, "[tls]\nticket_keys = \"tickets.key\"\n");
        place.write("tickets.key", &format!("{}\n", "ab".repeat(48)));
        place.write("routes.json", &Dyno::start().routes(1));
        let check = place.run(&["check", "--config", "router.toml"]);
        assert_eq!(
            check.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&check.stderr)
        );
        match change {
            "no key" => std::fs::remove_file(place.path("default.key")).unwrap(),
            "other key" => place.write("default.key", other.key_pem()),
            "expired" => write(
                &place,
                "default",
                &ca.certificate_valid(&["shop.example.com"], -9..-2),
            ),
            _ => place.write("tickets.key", "secret!\n"),
        }
        for command in ["check", "serve"] {
            let output = place.run(&[command, "--config", "router.toml"]);
            let err = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{command}: {err}");
            assert!(
                err.starts_with(wanted) && err.lines().count() == 1,
                "{command}: {err}"
            );
            assert!(!err.contains("secret!"));
        }
    }
}

#[test]
fn check_says_every_certificate_that_is_bad() {
    let ca = TestCa::new("root");
    let good = ca.certificate(&["shop.example.com"]);
    let place = place(&good, "[tls]\ncertificates = \"certs\"\n");
    std::fs::create_dir(place.path("certs")).unwrap();
    write(
        &place,
        "certs/old",
        &ca.certificate_valid(&["a.test"], -9..-2),
    );
    place.write("certs/alone.crt", good.chain_pem());
    write(&place, "certs/good", &good);
    let mut document: Value = serde_json::from_str(&Dyno::start().routes(1)).unwrap();
    document["certificates"] = json!([
        {"chain": good.chain_pem(), "key": good.key_pem()},
        {"chain_file": "certs/good.crt", "key_file": "certs/gone.key"},
        {"chain_file": "certs/good.crt", "key_file": "certs/good.key"},
        {"chain": "x"},
    ]);
    place.write("routes.json", &document.to_string());
    let output = place.run(&["check", "--config", "router.toml"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    for wanted in [
        "certs/alone.",
        "certs/old.crt: the certificate expired on ",
        "routes.json: certificates[1]: certs/gone.key cannot be read: ",
        "routes.json: certificates[3]: key: missing, must be a PEM text",
    ] {
        assert!(
            err.lines().any(|line| line.starts_with(wanted)),
            "no {wanted:?} in\n{err}"
        );
    }
    assert_eq!(err.lines().count(), 4, "{err}");
}

#[test]
fn check_looks_at_the_authorities_of_dynos() {
    let place = Place::new("");
    let mut document: Value = serde_json::from_str(&Dyno::start().routes(1)).unwrap();
    document["apps"][0]["dyno_tls"] = json!({"verify": "ca.pem"});
    place.write("routes.json", &document.to_string());
    let output = place.run(&["check", "--config", "router.toml"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        err.starts_with("routes.json: app shop: dyno_tls.verify: ") && err.contains("ca.pem"),
        "{err}"
    );
    place.write("ca.pem", &TestCa::new("dynos").pem());
    let output = place.run(&["check", "--config", "router.toml"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn an_https_listener_needs_a_certificate_from_somewhere() {
    let place = Place::with_config(
        "[[listener]]\naddress = \"127.0.0.1:8443\"\nprotocol = \"https\"\n[feed]\npath = \"routes.json\"\n",
    );
    place.write("routes.json", &Dyno::start().routes(1));
    let output = place.run(&["check", "--config", "router.toml"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        err.starts_with("router.toml: listener: an https listener has nothing to serve: "),
        "{err}"
    );
    let good = TestCa::new("root").certificate(&["shop.example.com"]);
    let mut document: Value = serde_json::from_str(&Dyno::start().routes(1)).unwrap();
    document["certificates"] = json!([{"chain": good.chain_pem(), "key": good.key_pem()}]);
    place.write("routes.json", &document.to_string());
    let output = place.run(&["check", "--config", "router.toml"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 certificates"));
}

#[test]
fn ordering_of_certificates_is_told() {
    let ca = TestCa::new("root");
    let good = ca.certificate(&["shop.example.com"]);
    let acme = "[[listener]]\naddress = \"127.0.0.1:0\"\n[acme]\ndirectory = \"https://127.0.0.1:1/dir\"\n\
                domains = [\"www.example.com\", \"shop.example.com\"]\nroot = \"ca.pem\"\naccept_terms = true\n";
    let place = place(&good, acme);
    let mut document: Value = serde_json::from_str(&Dyno::start().routes(1)).unwrap();
    document["certificates"] = json!([{"chain": good.chain_pem(), "key": good.key_pem()}]);
    place.write("routes.json", &document.to_string());
    place.write("ca.pem", "no certificate");
    for command in ["check", "serve"] {
        let output = place.run(&[command, "--config", "router.toml"]);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{command}: {err}");
        assert!(
            err.starts_with("router.toml: acme.root: the root file ca.pem cannot be used: "),
            "{err}"
        );
    }
    place.write("ca.pem", &ca.pem());
    let router = place.serve();
    router.wait_for_revision(1);
    eventually("the authority cannot be reached", || {
        let acme = &certificates(&router)["acme"];
        let states = acme["domains"].as_array().unwrap();
        let states: Vec<_> = states
            .iter()
            .map(|one| (&one["domain"], &one["state"]))
            .collect();
        acme["held_up_by"].is_string()
            && states
                == [
                    (&json!("shop.example.com"), &json!("covered")),
                    (&json!("www.example.com"), &json!("waiting")),
                ]
    });
    let metrics = get(router.admin, "admin", "/metrics").body;
    assert!(metrics.contains("router_acme_held_up 1"), "{metrics}");
}
