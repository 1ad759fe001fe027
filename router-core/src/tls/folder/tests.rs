//! Directories as operators and their tools leave them.

use std::fs;

use router_testkit::{TestCa, TestCertificate, eventually};
use tempfile::TempDir;

use super::*;

struct Scene {
    ca: TestCa,
    directory: TempDir,
    store: CertificateStore,
    folder: Folder,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self {
            ca: TestCa::new("root"),
            folder: Folder::new(directory.path().to_owned()),
            store: CertificateStore::new(),
            now: clock::now(),
            directory,
        }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.directory.path().join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.directory.path().join(file)).unwrap();
    }

    fn put(&self, name: &str, host: &str) -> TestCertificate {
        let pair = self.ca.certificate(&[host]);
        self.write(&format!("{name}.crt"), pair.chain_pem());
        self.write(&format!("{name}.key"), pair.key_pem());
        pair
    }

    /// Reads the directory; gives the fingerprints in force and what is rejected as `file: reason`.
    fn read(&mut self) -> (Vec<String>, Vec<String>) {
        if self.folder.read(&self.store, self.now) {
            self.store
                .replace(Origin::Folder, self.folder.certificates());
        }
        let held = self.store.of(Origin::Folder);
        let rejected = self.folder.status().rejected;
        let text = |one: FileRejection| format!("{}: {}", one.file, one.reason);
        (
            held.iter().map(|held| held.fingerprint()).collect(),
            rejected.into_iter().map(text).collect(),
        )
    }
}

#[test]
fn pairs_come_change_and_go() {
    let mut scene = Scene::new();
    assert_eq!(scene.read(), (vec![], vec![]));
    let (a, b) = (scene.put("a", "a.test"), scene.put("b.c", "b.test"));
    scene.write("README.txt", "no certificate");
    scene.write(".hidden.crt", "half");
    let both = vec![a.fingerprint(), b.fingerprint()];
    assert_eq!(scene.read(), (both.clone(), vec![]));
    assert!(
        !scene.folder.read(&scene.store, scene.now),
        "nothing has changed"
    );
    let newer = scene.put("a", "a.test");
    assert_eq!(scene.read().0, [newer.fingerprint(), b.fingerprint()]);
    // Gone for a moment is not gone.
    let both = vec![newer.fingerprint(), b.fingerprint()];
    scene.remove("a.crt");
    scene.remove("a.key");
    assert_eq!(scene.read(), (both.clone(), vec![]));
    assert!(scene.folder.is_going());
    scene.write("a.key", newer.key_pem());
    scene.write("a.crt", newer.chain_pem());
    assert_eq!(scene.read(), (both.clone(), vec![]));
    assert!(!scene.folder.is_going());
    scene.now += GONE;
    scene.remove("a.crt");
    scene.remove("a.key");
    assert_eq!(scene.read(), (both, vec![]));
    scene.now += GONE;
    assert_eq!(scene.read(), (vec![b.fingerprint()], vec![]));
    assert!(!scene.folder.is_going());
}

#[test]
fn a_pair_that_cannot_be_used_leaves_the_old_one_and_says_why() {
    let mut scene = Scene::new();
    let old = scene.put("a", "a.test");
    scene.read();
    let next = scene.ca.certificate(&["a.test"]);
    let expired = scene.ca.certificate_valid(&["a.test"], -9..-1);
    let half = &next.chain_pem()[..300];
    for (chain, key, reason) in [
        (
            next.chain_pem(),
            old.key_pem(),
            "a.crt: the private key does not belong",
        ),
        (
            half,
            next.key_pem(),
            "a.crt: the certificate chain is not PEM",
        ),
        ("", next.key_pem(), "a.crt: there is no certificate"),
        (next.chain_pem(), "", "a.crt: there is no private key"),
        (
            expired.chain_pem(),
            expired.key_pem(),
            "a.crt: the certificate expired",
        ),
    ] {
        scene.write("a.crt", chain);
        scene.write("a.key", key);
        let (held, rejected) = scene.read();
        assert_eq!(held, [old.fingerprint()]);
        assert!(
            rejected.len() == 1 && rejected[0].starts_with(reason),
            "{rejected:?}"
        );
    }
    scene.remove("a.key");
    let (held, rejected) = scene.read();
    assert_eq!(held, [old.fingerprint()]);
    assert_eq!(rejected, ["a.crt: there is no a.key with its key"]);
    scene.write("a.crt", next.chain_pem());
    scene.write("a.key", next.key_pem());
    assert_eq!(scene.read(), (vec![next.fingerprint()], vec![]));
    scene.remove("a.crt");
    let alone = "a.key: there is no a.crt with its certificate".to_owned();
    assert_eq!(
        scene.read(),
        (vec![next.fingerprint()], vec![alone.clone()])
    );
    scene.now += GONE;
    assert_eq!(scene.read(), (vec![], vec![alone]));
    scene.remove("a.key");
    assert_eq!(scene.read(), (vec![], vec![]));
}

#[test]
fn a_directory_that_is_gone_takes_nothing_away() {
    let mut scene = Scene::new();
    let pair = scene.put("a", "a.test");
    scene.read();
    let elsewhere = scene.directory.path().with_extension("moved");
    fs::rename(scene.directory.path(), &elsewhere).unwrap();
    assert_eq!(scene.read().0, [pair.fingerprint()]);
    let error = scene.folder.status().last_error.unwrap();
    assert!(error.starts_with("cannot read the directory /"), "{error}");
    fs::rename(&elsewhere, scene.directory.path()).unwrap();
    assert_eq!(scene.read().0, [pair.fingerprint()]);
    assert_eq!(scene.folder.status().last_error, None);
}

#[test]
fn an_unreadable_file_is_named() {
    let mut scene = Scene::new();
    // A directory cannot be read as a file, not even by root.
    fs::create_dir(scene.directory.path().join("a.key")).unwrap();
    scene.write("a.crt", scene.ca.certificate(&["a.test"]).chain_pem());
    let (_, rejected) = scene.read();
    assert!(
        rejected[0].starts_with("a.key: cannot be read: "),
        "{rejected:?}"
    );
    assert_eq!(check(scene.directory.path()), scene.folder.status());
}

#[tokio::test]
async fn the_store_follows_the_directory_until_the_handle_is_dropped() {
    let scene = Scene::new();
    let store = Arc::new(CertificateStore::new());
    let pair = scene.put("a", "a.test");
    let handle = start(&store, scene.directory.path()).await;
    assert_eq!((store.len(), handle.status().certificates), (1, 1));
    let (newer, found) = (scene.put("a", "a.test"), || store.resolve("a.test"));
    assert_ne!(pair.fingerprint(), newer.fingerprint());
    let is_newer = || found().is_some_and(|found| found.fingerprint() == newer.fingerprint());
    eventually("the newer pair", || is_newer().then_some(())).await;
    scene.write("b.crt", "rubbish");
    eventually("a rejection", || handle.status().rejected.pop()).await;
    assert!(is_newer());
    handle.stop().await;
}
