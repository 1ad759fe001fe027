//! Certificates that the router orders itself, from a real ACME server (see [`crate::pebble`]).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use router_core::acme::{self, AcmeHandle, AcmeSettings, DomainState, DomainStatus};
use router_core::model::hostname::Domain;
use router_core::tls::{CertificateView, Origin};
use router_testkit::{
    AppDoc, FakeDyno, RawClient, TestCa, TestCertificate, TlsDialer, eventually, refused_address,
};
use tempfile::TempDir;

use crate::pebble::{Config, Pebble};
use crate::world::{World, assert_served, certificate, get, ok, shop};

/// A router with an https listener that has no certificate of its own, an authority that looks for challenges at the
/// router's http listener, and a folder.
struct Edge {
    world: World,
    pebble: Pebble,
    folder: TempDir,
}

impl Edge {
    async fn start() -> Self {
        let world = world();
        let pebble = Pebble::start(world.address().port()).await;
        Self {
            world,
            pebble,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn settings(&self) -> AcmeSettings {
        self.pebble.settings(&self.folder)
    }

    fn order(&self) -> AcmeHandle {
        acme::start(&self.world.router, self.settings()).expect("good settings")
    }

    /// The same with another router in the place of the first, as after a restart. No challenge reaches this one.
    async fn restart(self, acme: AcmeHandle) -> Self {
        acme.stop().await;
        self.world.finish().await;
        Self {
            world: world(),
            ..self
        }
    }

    /// Where this authority's files are.
    fn files(&self) -> PathBuf {
        let settings = self.settings();
        let directory = settings.directory.trim_start_matches("https://");
        settings.folder.join(directory.replace([':', '/'], "-"))
    }

    fn file_of(&self, domain: &str) -> PathBuf {
        self.files()
            .join("certificates")
            .join(format!("{domain}.pem"))
    }

    /// Puts a certificate into the folder, as if it had been ordered.
    fn put(&self, domain: &str, certificate: &TestCertificate) {
        let path = self.file_of(domain);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = [certificate.key_pem(), certificate.chain_pem()].concat();
        std::fs::write(path, text).unwrap();
    }

    async fn finish(self, acme: AcmeHandle) {
        acme.stop().await;
        let challenges = std::fs::read_dir(self.files().join("challenges")).unwrap();
        assert_eq!(challenges.count(), 0, "challenges were left behind");
        self.world.finish().await;
    }
}

fn world() -> World {
    World::with(|setup| setup.https().default = None)
}

/// An app of that domain, without dynos.
fn app(domain: &str) -> AppDoc {
    AppDoc::new(domain.trim_end_matches(".test")).domain(domain)
}

fn of(acme: &AcmeHandle, domain: &str) -> Option<DomainStatus> {
    let mut domains = acme.status().domains.into_iter();
    domains.find(|status| status.domain == domain)
}

async fn in_state(acme: &AcmeHandle, domain: &str, state: DomainState) -> DomainStatus {
    eventually(&format!("{domain} is {state:?}"), || {
        of(acme, domain).filter(|status| status.state == state)
    })
    .await
}

async fn held_up_by(acme: &AcmeHandle, words: &str) -> String {
    eventually(&format!("it is said that {words:?}"), || {
        let said = acme.status().held_up_by?;
        said.contains(words).then_some(said)
    })
    .await
}

/// What the router has for a name.
fn held(world: &World, domain: &str) -> CertificateView {
    let held = world.router.certificates().resolve(domain);
    held.expect("a certificate").view("")
}

/// The fingerprint of what clients are served under a name.
async fn served(world: &World, domain: &str) -> String {
    let dialer = TlsDialer::trusting_anyone(domain);
    served_to(world, &dialer).await
}

async fn served_to(world: &World, dialer: &TlsDialer) -> String {
    let client = RawClient::connect_tls(world.https_address(), dialer).await;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &client.tls().certificate);
    client.close().await;
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn domains_get_certificates_whatever_state_their_app_is_in() {
    let edge = Edge::start().await;
    let dyno = refused_address();
    let maintained = app("maintained.test").field("maintenance", true);
    edge.world.apply(&[
        maintained.web(1, dyno),
        app("suspended.test").field("suspended", "unpaid"),
        app("unreleased.test").field("released", false),
        app("redirected.test").setting("redirect_to_https", true),
        AppDoc::new("two")
            .domain("one.two.test")
            .domain("*.two.test"),
        app("under_score.test"),
    ]);
    let settings = AcmeSettings {
        domains: vec![Domain::parse("fixed.test").unwrap()],
        email: Some("certificates@shop.test".to_owned()),
        ..edge.settings()
    };
    let acme = acme::start(&edge.world.router, settings).unwrap();
    let issuer = edge.pebble.issuer().await;
    let domains = [
        "fixed.test",
        "maintained.test",
        "one.two.test",
        "redirected.test",
        "suspended.test",
        "unreleased.test",
    ];
    for domain in domains {
        let status = in_state(&acme, domain, DomainState::Valid).await;
        assert!(status.not_after.is_some() && status.next_try.is_some());
        let dialer = TlsDialer::trusting_root(&issuer, domain);
        let fingerprint = served_to(&edge.world, &dialer).await;
        assert_eq!(fingerprint, held(&edge.world, domain).fingerprint);
    }
    let status = acme.status();
    let (possible, impossible): (Vec<_>, Vec<_>) = status
        .domains
        .iter()
        .partition(|of| of.state != DomainState::Impossible);
    let possible: Vec<_> = possible.iter().map(|of| &*of.domain).collect();
    assert_eq!(possible, domains);
    let impossible = impossible
        .iter()
        .map(|of| (&*of.domain, of.last_error.as_deref()));
    assert_eq!(
        impossible.collect::<Vec<_>>(),
        [
            (
                "*.two.test",
                Some("it is a wildcard, which http-01 cannot prove")
            ),
            (
                "under_score.test",
                Some("it has an underscore, which no authority certifies")
            ),
        ]
    );
    assert_eq!((status.ordered, status.issued, status.failed), (6, 6, 0));
    assert_eq!((status.orders_here, status.held_up_by), (true, None));
    assert_eq!(edge.pebble.said("accounts in memory"), 1);
    // A domain that comes later is noticed when it comes.
    edge.world.apply(&[app("later.test")]);
    in_state(&acme, "later.test", DomainState::Valid).await;
    let files = edge.files();
    for folder in [&*files, files.parent().unwrap()] {
        assert_eq!(mode(folder), 0o700);
    }
    for file in [files.join("account.json"), edge.file_of("later.test")] {
        assert_eq!(mode(&file), 0o600);
    }
    edge.finish(acme).await;
}

#[tokio::test]
async fn a_token_that_nobody_expects_is_the_apps_own_business() {
    let world = World::start();
    let router = &world.router;
    let dyno = FakeDyno::respond_with(|_| ok("the app's").into()).await;
    world.apply(&[shop().web(1, dyno.address())]);
    router.challenges().expect("known", "known.thumb");
    let mut client = world.client().await;
    let path = |token: &str| get(&format!("/.well-known/acme-challenge/{token}"));
    assert_eq!(client.exchange(path("known")).await.text(), "known.thumb");
    for token in ["unknown", "", "known/x", "Known", "known?x"] {
        let response = client.exchange(path(token)).await;
        assert_eq!(response.text(), "the app's", "{token:?}");
        assert_served(&world.log.next().await, "web.1", 200);
    }
    // The authority only asks.
    let post = "POST /.well-known/acme-challenge/known HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(client.exchange(post).await.text(), "the app's");
    assert_served(&world.log.next().await, "web.1", 200);
    router.challenges().forget("known");
    assert_eq!(client.exchange(path("known")).await.text(), "the app's");
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_restart_orders_nothing_and_needs_nobody() {
    let mut edge = Edge::start().await;
    edge.world.apply(&[app("a.test"), app("b.test")]);
    let acme = edge.order();
    for domain in ["a.test", "b.test"] {
        in_state(&acme, domain, DomainState::Valid).await;
    }
    let before = ["a.test", "b.test"].map(|domain| held(&edge.world, domain));
    let account = std::fs::read(edge.files().join("account.json")).unwrap();
    edge.pebble.shut();
    edge = edge.restart(acme).await;
    // Without routes too: what is in the folder is served at once.
    let acme = edge.order();
    acme.loaded().await;
    for (domain, before) in ["a.test", "b.test"].into_iter().zip(before) {
        let retired = of(&acme, domain).unwrap();
        assert_eq!(retired.state, DomainState::Retired);
        assert!(retired.not_after.is_some());
        assert_eq!(served(&edge.world, domain).await, before.fingerprint);
    }
    edge.world.apply(&[app("a.test"), app("b.test")]);
    for domain in ["a.test", "b.test"] {
        in_state(&acme, domain, DomainState::Valid).await;
    }
    assert_eq!(acme.status().ordered, 0);
    // The account is still there for a domain that comes now. Its challenge is asked for at the first router's port.
    edge.pebble.open();
    edge.world.apply(&[app("c.test")]);
    in_state(&acme, "c.test", DomainState::Failing).await;
    assert_eq!(edge.pebble.said("accounts in memory"), 1);
    assert_eq!(
        std::fs::read(edge.files().join("account.json")).unwrap(),
        account
    );
    edge.finish(acme).await;
}

#[tokio::test]
async fn an_old_certificate_is_renewed_and_no_handshake_fails() {
    let edge = Edge::start().await;
    let old = TestCa::new("former").certificate_valid(&["a.test"], -70..20);
    let young = TestCa::new("former").certificate_valid(&["b.test"], -50..40);
    edge.put("a.test", &old);
    edge.put("b.test", &young);
    edge.world.apply(&[app("a.test"), app("b.test")]);
    edge.pebble.shut();
    let acme = edge.order();
    held_up_by(&acme, "cannot be reached").await;
    let status = of(&acme, "a.test").unwrap();
    assert_eq!(status.state, DomainState::Renewing);
    assert!(status.not_after.is_some() && status.next_try.is_some());
    assert_eq!(status.failures, 0, "it is not the domain's failure");
    assert_eq!(served(&edge.world, "a.test").await, old.fingerprint());
    edge.pebble.open();
    let mut handshakes = 0;
    while served(&edge.world, "a.test").await == old.fingerprint() {
        handshakes += 1;
    }
    assert!(handshakes > 0);
    let status = in_state(&acme, "a.test", DomainState::Valid).await;
    assert_eq!(status.last_error, None);
    assert_eq!(acme.status().held_up_by, None);
    assert!(held(&edge.world, "a.test").issuer.contains("Pebble"));
    assert_eq!(served(&edge.world, "b.test").await, young.fingerprint());
    assert_eq!(acme.status().issued, 1, "the other one is young enough");
    let store = edge.world.router.certificates();
    assert_eq!(store.of(Origin::Acme).len(), 2, "the old one is gone");
    edge.finish(acme).await;
}

#[tokio::test]
async fn short_lived_certificates_are_renewed_in_time() {
    let world = world();
    let pebble = Pebble::with(Config {
        http_port: world.address().port(),
        lifetime: Duration::from_secs(9),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    world.apply(&[app("a.test")]);
    let acme = acme::start(&world.router, pebble.settings(&folder)).unwrap();
    in_state(&acme, "a.test", DomainState::Valid).await;
    let first = held(&world, "a.test").fingerprint;
    eventually("it is renewed", || {
        (held(&world, "a.test").fingerprint != first).then_some(())
    })
    .await;
    assert_eq!(acme.status().failed, 0);
    acme.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn a_domain_that_leads_elsewhere_waits_longer_each_time_and_holds_up_nobody() {
    let edge = Edge::start().await;
    let old = TestCa::new("former").certificate_valid(&["had.test"], -70..20);
    edge.put("had.test", &old);
    for domain in ["bad.test", "had.test"] {
        edge.pebble.mislead(domain);
    }
    edge.world
        .apply(&[app("bad.test"), app("good.test"), app("had.test")]);
    let acme = edge.order();
    for domain in ["bad.test", "had.test"] {
        eventually("it failed twice", || {
            of(&acme, domain).filter(|status| status.failures >= 2)
        })
        .await;
        let status = in_state(&acme, domain, DomainState::Failing).await;
        let reason = status.last_error.unwrap();
        assert!(reason.contains("the challenge failed"), "{reason}");
        assert!(reason.contains(domain), "{reason}");
        assert!(status.next_try.is_some());
    }
    in_state(&acme, "good.test", DomainState::Valid).await;
    assert_eq!(of(&acme, "good.test").unwrap().failures, 0);
    assert_eq!(acme.status().held_up_by, None);
    assert_eq!(served(&edge.world, "had.test").await, old.fingerprint());
    edge.pebble.lead_right();
    for domain in ["bad.test", "had.test"] {
        let status = in_state(&acme, domain, DomainState::Valid).await;
        assert_eq!((status.failures, status.last_error), (0, None));
        assert!(held(&edge.world, domain).issuer.contains("Pebble"));
    }
    edge.finish(acme).await;
}

#[tokio::test]
async fn the_budget_of_an_hour_is_kept_and_survives_a_restart() {
    let mut edge = Edge::start().await;
    let apps = [app("a.test"), app("b.test"), app("c.test")];
    edge.world.apply(&apps);
    let order = |edge: &Edge| {
        let settings = AcmeSettings {
            per_hour: 2,
            ..edge.settings()
        };
        acme::start(&edge.world.router, settings).unwrap()
    };
    let acme = order(&edge);
    let said = held_up_by(&acme, "the budget of 2 orders an hour is used up").await;
    assert!(said.contains("domains waiting: 1"), "{said}");
    eventually("two are there", || {
        (acme.status().issued == 2).then_some(())
    })
    .await;
    assert_eq!(acme.status().budget_left, 0);
    let waiting = in_state(&acme, "c.test", DomainState::Waiting).await;
    assert!(waiting.next_try.is_some());
    edge = edge.restart(acme).await;
    edge.world.apply(&apps);
    let acme = order(&edge);
    held_up_by(&acme, "domains waiting: 1").await;
    assert_eq!(acme.status().ordered, 0);
    assert_eq!(edge.pebble.said("Added order"), 2);
    edge.finish(acme).await;
}

#[tokio::test]
async fn what_others_cover_is_not_ordered_and_what_left_is_served_to_its_end() {
    let edge = Edge::start().await;
    let ca = TestCa::new("elsewhere");
    let bought = ca.certificate(&["*.shop.test", "shop.test"]);
    let expired = ca.certificate_valid(&["gone.test"], -90..-1);
    edge.put("gone.test", &expired);
    let store = edge.world.router.certificates();
    store.insert(Origin::Folder, Arc::new(certificate(&bought)));
    let domains = ["shop.test", "a.shop.test", "b.a.shop.test", "other.test"];
    let apps = domains.map(|domain| AppDoc::new(domain).domain(domain));
    edge.world.apply(&apps);
    let acme = edge.order();
    for (domain, state) in domains.into_iter().zip([
        DomainState::Covered,
        DomainState::Covered,
        DomainState::Valid,
        DomainState::Valid,
    ]) {
        in_state(&acme, domain, state).await;
    }
    assert_eq!(edge.pebble.said("Added order"), 2);
    assert_eq!(
        served(&edge.world, "a.shop.test").await,
        bought.fingerprint()
    );
    let before = served(&edge.world, "other.test").await;
    edge.world.apply(&apps[..3]);
    let status = in_state(&acme, "other.test", DomainState::Retired).await;
    assert_eq!(status.next_try, None);
    assert_eq!(served(&edge.world, "other.test").await, before);
    assert!(edge.file_of("other.test").exists());
    assert!(!edge.file_of("gone.test").exists(), "ended, and not wanted");
    assert_eq!(of(&acme, "gone.test"), None);
    edge.finish(acme).await;
}

#[tokio::test]
async fn torn_files_are_set_aside_and_made_anew() {
    let mut edge = Edge::start().await;
    edge.world.apply(&[app("a.test"), app("b.test")]);
    let acme = edge.order();
    for domain in ["a.test", "b.test"] {
        in_state(&acme, domain, DomainState::Valid).await;
    }
    acme.stop().await;
    let kept = held(&edge.world, "b.test").fingerprint;
    let account = edge.files().join("account.json");
    let ledger = edge.files().join("ledger.json");
    for torn in [&edge.file_of("a.test"), &account, &ledger] {
        let text = std::fs::read(torn).unwrap();
        std::fs::write(torn, &text[..text.len() / 2]).unwrap();
    }
    // The store of a router that starts is empty.
    edge.world
        .router
        .certificates()
        .replace(Origin::Acme, Vec::new());
    let acme = edge.order();
    for domain in ["a.test", "b.test"] {
        in_state(&acme, domain, DomainState::Valid).await;
    }
    assert_eq!(held(&edge.world, "b.test").fingerprint, kept);
    assert_eq!(acme.status().ordered, 1);
    assert_eq!(edge.pebble.said("accounts in memory"), 2);
    for torn in [edge.file_of("a.test"), account, ledger] {
        let mut aside = torn.clone().into_os_string();
        aside.push(".broken");
        assert!(torn.exists() && Path::new(&aside).exists(), "{torn:?}");
    }
    // An authority that has lost its memory knows no account either.
    edge.pebble.forget_everything().await;
    edge.world.apply(&[app("c.test")]);
    in_state(&acme, "c.test", DomainState::Valid).await;
    assert_eq!(edge.pebble.said("accounts in memory"), 1);
    edge.finish(acme).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_costs_no_order() {
    let edge = Edge::start().await;
    let settings = edge.settings();
    // A file where the folder should be: this holds for root too.
    std::fs::write(&settings.folder, "in the way").unwrap();
    edge.world.apply(&[app("a.test")]);
    let acme = edge.order();
    acme.loaded().await;
    let said = held_up_by(&acme, "the folder cannot be used").await;
    assert!(said.contains("acme"), "it is named: {said}");
    assert_eq!(edge.pebble.said("Added order"), 0);
    std::fs::remove_file(&settings.folder).unwrap();
    in_state(&acme, "a.test", DomainState::Valid).await;
    assert_eq!(acme.status().held_up_by, None);
    edge.finish(acme).await;
}

#[tokio::test]
async fn routers_that_share_a_folder_order_once_and_answer_for_each_other() {
    let edge = Edge::start().await;
    let other = world();
    for world in [&edge.world, &other] {
        world.apply(&[app("a.test")]);
    }
    // The one that orders is not the one that is asked for the challenge.
    let orders = acme::start(&other.router, edge.settings()).unwrap();
    eventually("the first one orders", || {
        orders.status().orders_here.then_some(())
    })
    .await;
    let follows = edge.order();
    in_state(&orders, "a.test", DomainState::Valid).await;
    in_state(&follows, "a.test", DomainState::Valid).await;
    assert!(!follows.status().orders_here);
    assert_eq!(
        served(&edge.world, "a.test").await,
        served(&other, "a.test").await
    );
    // When it drains, the other one takes its place, with the same account.
    other.finish().await;
    eventually("the second one orders", || {
        follows.status().orders_here.then_some(())
    })
    .await;
    edge.world.apply(&[app("a.test"), app("b.test")]);
    in_state(&follows, "b.test", DomainState::Valid).await;
    assert_eq!(edge.pebble.said("Added order"), 2 + failures(&follows));
    assert_eq!(edge.pebble.said("accounts in memory"), 1);
    orders.stop().await;
    edge.finish(follows).await;
}

fn failures(acme: &AcmeHandle) -> usize {
    usize::try_from(acme.status().failed).unwrap()
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_a_reason() {
    let world = World::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = AcmeSettings::new(folder.path());
    let refused = acme::start(&world.router, settings).expect_err("no terms accepted");
    assert!(
        refused.to_string().contains("terms of service"),
        "{refused}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    world.finish().await;
}
