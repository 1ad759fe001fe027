//! The certificates of a route document: what is good is in the store, what is bad hurts nothing but itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use router_core::Router;
use router_core::feed::{self, FeedHandle, FeedOptions, FileFeed};
use router_core::model::snapshot::Rejection;
use router_testkit::{TestCa, TestCertificate, eventually};
use serde_json::{Value, json};

/// A router that listens nowhere, and its document.
struct Fed {
    router: Router,
    feed: FeedHandle,
    directory: tempfile::TempDir,
}

impl Fed {
    fn start(document: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write(&directory.path().join("routes.json"), &document.to_string());
        let router = Router::builder().build().unwrap();
        let feed = FileFeed::new(directory.path().join("routes.json"));
        let options = FeedOptions {
            cache: Some(directory.path().join("cache.json")),
            ..FeedOptions::default()
        };
        Self {
            feed: feed::start(&router, feed, options),
            router,
            directory,
        }
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.directory.path().join(name), text);
    }

    async fn publish(&self, document: &Value) {
        self.write("routes.json", &document.to_string());
        self.at_revision(document["revision"].as_u64().unwrap())
            .await;
    }

    async fn at_revision(&self, revision: u64) {
        eventually(&format!("revision {revision}"), || {
            (self.feed.status().revision == Some(revision)).then_some(())
        })
        .await;
    }

    /// What answers for a name, by its fingerprint.
    fn answering(&self, name: &str) -> Option<String> {
        let found = self.router.certificates().resolve(name);
        found.map(|certificate| certificate.fingerprint())
    }

    fn check(&self, name: &str, expected: &TestCertificate) {
        assert_eq!(self.answering(name), Some(expected.fingerprint()), "{name}");
    }

    fn rejected(&self) -> Vec<Rejection> {
        let certificates = self.feed.rejected_certificates();
        assert_eq!(self.feed.status().rejected, certificates);
        certificates
    }
}

fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn document(revision: u64, certificates: Value) -> Value {
    let app = json!({"name": "a", "domains": ["a.test"], "dynos": []});
    json!({"format": 1, "revision": revision, "apps": [app], "certificates": certificates})
}

fn inline(certificate: &TestCertificate) -> Value {
    json!({"chain": certificate.chain_pem(), "key": certificate.key_pem()})
}

#[tokio::test]
async fn certificates_come_and_go_with_the_document() {
    let ca = TestCa::new("root");
    let (a, wild, renewed) = (
        ca.certificate(&["a.test"]),
        ca.certificate(&["*.b.test"]),
        ca.certificate(&["a.test"]),
    );
    let fed = Fed::start(&document(1, json!([inline(&a), inline(&wild)])));
    fed.at_revision(1).await;
    fed.check("a.test", &a);
    fed.check("x.b.test", &wild);
    let views = fed.router.certificates().views();
    assert!(views.iter().all(|view| view.origin == "document"));
    // The same texts again are the same certificates.
    let before = fed.router.certificates().resolve("a.test");
    fed.publish(&document(2, json!([inline(&a), inline(&wild)])))
        .await;
    let after = fed.router.certificates().resolve("a.test");
    assert!(std::sync::Arc::ptr_eq(&before.unwrap(), &after.unwrap()));
    fed.publish(&document(3, json!([inline(&renewed)]))).await;
    eventually("the new set", || {
        (fed.router.certificates().len() == 1).then_some(())
    })
    .await;
    fed.check("a.test", &renewed);
    assert_eq!(fed.rejected(), []);
    fed.feed.stop().await;
}

#[tokio::test]
async fn a_bad_certificate_is_rejected_alone_and_its_previous_version_stays() {
    let ca = TestCa::new("root");
    let (a, b, renewed) = (
        ca.certificate(&["a.test"]),
        ca.certificate(&["b.test"]),
        ca.certificate(&["b.test"]),
    );
    let expired = ca.certificate_valid(&["a.test"], -10..-1);
    let next = ca.certificate(&["a.test"]);
    let mismatch = json!({"chain": next.chain_pem(), "key": a.key_pem()});
    let mut revision = 1;
    let fed = Fed::start(&document(1, json!([inline(&a), inline(&b)])));
    fed.at_revision(1).await;
    for (bad, reason) in [
        (
            mismatch,
            "the private key does not belong to the first certificate of the chain",
        ),
        (inline(&expired), "the certificate expired on "),
        (
            json!({"chain": "x", "key": "y"}),
            "there is no certificate: ",
        ),
        (json!({"key": "y"}), "chain: missing, must be a PEM text"),
        (
            json!({"chain_file": "no.crt", "key_file": "no.key"}),
            "/no.crt cannot be read: ",
        ),
    ] {
        revision += 1;
        fed.publish(&document(revision, json!([bad, inline(&renewed)])))
            .await;
        let [rejection] = &fed.rejected()[..] else {
            panic!("{:?}", fed.rejected());
        };
        assert_eq!(rejection.app, "certificates[0]");
        assert!(rejection.reason.contains(reason), "{}", rejection.reason);
        assert!(!rejection.reason.contains("PRIVATE KEY-----\n"));
        fed.check("a.test", &a);
        fed.check("b.test", &renewed);
    }
    fed.publish(&document(revision + 1, json!([inline(&renewed)])))
        .await;
    assert_eq!(fed.rejected(), []);
    eventually("what nobody wants any more is gone", || {
        fed.answering("a.test").is_none().then_some(())
    })
    .await;
    fed.feed.stop().await;
}

#[tokio::test]
async fn a_bad_certificate_keeps_only_what_it_may_have_been_meant_to_replace() {
    let ca = TestCa::new("root");
    let (a, b, wild, c) = (
        ca.certificate(&["a.test"]),
        ca.certificate(&["b.test"]),
        ca.certificate(&["*.c.test"]),
        ca.certificate(&["x.d.test"]),
    );
    let all = [&a, &b, &wild, &c].map(inline);
    let names = ["a.test", "b.test", "x.c.test", "x.d.test"];
    let expired = |names: &[&str]| inline(&ca.certificate_valid(names, -10..-1));
    let unreadable = json!({"chain": "x", "key": "y"});
    let other = ca.certificate(&["a.test"]);
    for (why, entries, domains, kept) in [
        (
            "it has the same name",
            vec![expired(&["b.test"])],
            &names[..],
            vec!["b.test"],
        ),
        (
            "it has a name more",
            vec![expired(&["b.test", "www.b.test"])],
            &names[..],
            vec!["b.test"],
        ),
        (
            "that one has another name",
            vec![expired(&["e.test"])],
            &names[..],
            vec![],
        ),
        (
            "a good one has its name",
            vec![expired(&["a.test"]), inline(&other)],
            &names[..],
            vec![],
        ),
        (
            "it may be any that is needed",
            vec![unreadable.clone()],
            &["b.test", "y.c.test"][..],
            vec!["b.test", "x.c.test"],
        ),
        (
            "so may one without a chain",
            vec![json!({"key": "y"})],
            &["a.test"][..],
            vec!["a.test"],
        ),
        (
            "under a wildcard",
            vec![unreadable.clone()],
            &["*.d.test"][..],
            vec!["x.d.test"],
        ),
        (
            "a good one is there",
            vec![unreadable, inline(&other)],
            &["a.test", "e.test"][..],
            vec![],
        ),
    ] {
        let with = |revision: u64, certificates: &[Value], domains: &[&str]| {
            let mut document = document(revision, json!(certificates));
            document["apps"][0]["domains"] = json!(domains);
            document["allow_shrink"] = json!(true);
            document
        };
        let fed = Fed::start(&with(1, &all, &names));
        fed.at_revision(1).await;
        // Again and again: it is not the first document only that counts.
        for revision in 2..4 {
            fed.publish(&with(revision, &entries, domains)).await;
            let before: Vec<_> = [&a, &b, &wild, &c].map(|one| one.fingerprint()).into();
            let held = names.into_iter().filter(|name| {
                fed.answering(name)
                    .is_some_and(|answering| before.contains(&answering))
            });
            assert_eq!(held.collect::<Vec<_>>(), kept, "{why}, revision {revision}");
        }
        fed.feed.stop().await;
    }
}

#[tokio::test]
async fn a_refused_document_changes_no_certificate() {
    let ca = TestCa::new("root");
    let (a, other) = (ca.certificate(&["a.test"]), ca.certificate(&["a.test"]));
    let fed = Fed::start(&document(5, json!([inline(&a)])));
    fed.at_revision(5).await;
    let mut empty = document(6, json!([inline(&other)]));
    empty["apps"] = json!([]);
    let older = document(4, json!([inline(&other)]));
    let no_list = document(7, json!({"0": inline(&other)}));
    for refused in [empty, older, no_list] {
        let before = fed.feed.status().refused;
        fed.write("routes.json", &refused.to_string());
        eventually("it is refused", || {
            (fed.feed.status().refused > before).then_some(())
        })
        .await;
        fed.check("a.test", &a);
        assert_eq!(fed.router.certificates().len(), 1);
    }
    fed.feed.stop().await;
}

#[tokio::test]
async fn files_are_named_from_the_document_and_read_again_when_they_change() {
    let ca = TestCa::new("root");
    let (first, second) = (ca.certificate(&["a.test"]), ca.certificate(&["a.test"]));
    let files = json!([{"chain_file": "a.crt", "key_file": "a.key"}]);
    let fed = Fed::start(&document(1, files));
    eventually("the missing file is told of", || {
        fed.rejected().first().cloned()
    })
    .await;
    fed.write("a.crt", first.chain_pem());
    fed.write("a.key", first.key_pem());
    fed.feed.look_at_files();
    eventually("the files are read", || fed.answering("a.test")).await;
    fed.check("a.test", &first);
    assert_eq!(fed.rejected(), []);

    // Half a renewal is none.
    fed.write("a.crt", second.chain_pem());
    fed.feed.look_at_files();
    let rejection = eventually("the mismatch is told of", || {
        fed.rejected().first().cloned()
    })
    .await;
    assert!(
        rejection
            .reason
            .contains("a.key: the private key does not belong"),
        "{}",
        rejection.reason
    );
    fed.check("a.test", &first);
    fed.write("a.key", second.key_pem());
    fed.feed.look_at_files();
    eventually("the pair is whole again", || {
        fed.rejected().is_empty().then_some(())
    })
    .await;
    fed.check("a.test", &second);
    fed.feed.stop().await;
}

#[tokio::test]
async fn the_cache_is_for_its_owner_only_and_brings_the_certificates_back() {
    let ca = TestCa::new("root");
    let a = ca.certificate(&["a.test"]);
    let fed = Fed::start(&document(1, json!([inline(&a)])));
    let cache = fed.directory.path().join("cache.json");
    eventually("the cache is written", || cache.exists().then_some(())).await;
    let mode = std::fs::metadata(&cache).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    // What a crash left, readable to all, is not written into.
    std::fs::write(fed.directory.path().join("cache.json.new"), "").unwrap();
    fed.publish(&document(2, json!([inline(&a)]))).await;
    eventually("the cache is written again", || {
        let text = std::fs::read_to_string(&cache).ok()?;
        text.contains("\"revision\":2").then_some(())
    })
    .await;
    let mode = std::fs::metadata(&cache).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    fed.feed.stop().await;

    let router = Router::builder().build().unwrap();
    let gone = FileFeed::new(fed.directory.path().join("gone.json"));
    let feed = feed::start(
        &router,
        gone,
        FeedOptions {
            cache: Some(cache),
            ..FeedOptions::default()
        },
    );
    eventually("the cache is served from", || {
        feed.status().stale.then_some(())
    })
    .await;
    let served = router.certificates().resolve("a.test").unwrap();
    assert_eq!(served.fingerprint(), a.fingerprint());
    feed.stop().await;
}
