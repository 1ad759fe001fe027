//! The rules of the house, as a test: which package may know which, which module may use which, where clocks are read and tasks
//! are started, and how a file has to look. A rule that nobody can give a reason for belongs deleted, not worked around.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines in which a file of the product, and one of tests, can still be held in one's head.
const LONGEST_FILE: usize = 700;
const LONGEST_TEST: usize = 800;

/// The modules of router-core from the edge inwards. A module may use those of its own row and of later rows, never the reverse.
const LAYERS: &[&[&str]] = &[
    &["server", "service"],
    &["feed", "acme", "views"],
    &["proxy"],
    &["relay", "respond"],
    &["exchange", "client"],
    &["router", "worker"],
    &["table", "dyno_conn"],
    &["stream"],
    &["queue"],
    &["pool"],
    &["balancer"],
    &["dyno"],
    &["peer"],
    &["outgoing"],
    &["tls"],
    &["observe", "tasks", "clock", "silence", "socket", "stall"],
];

#[test]
fn packages_know_each_other_in_one_direction() {
    for (package, known) in [
        ("router-core/model", &[][..]),
        ("router-core", &["router-model"]),
        ("router", &["router-core"]),
        ("router-core/testkit", &[]),
    ] {
        let dependencies = dependencies(&root().join(package).join("Cargo.toml"));
        let of_ours: Vec<_> = dependencies
            .iter()
            .filter(|name| name.starts_with("router"))
            .collect();
        assert_eq!(
            of_ours, known,
            "{package} may depend on these packages of the workspace only"
        );
    }
}

#[test]
fn the_model_is_pure() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut reached = BTreeSet::new();
    let mut to_visit: Vec<String> = dependencies(&root().join("router-core/model/Cargo.toml"))
        .into_iter()
        .collect();
    while let Some(name) = to_visit.pop() {
        if reached.insert(name.clone()) {
            to_visit.extend(locked_dependencies(&lock, &name));
        }
    }
    assert!(
        reached.contains("serde_json") && reached.contains("itoa"),
        "the lock file was not understood: {reached:?}"
    );
    let impure = |name: &&String| {
        ["tokio", "hyper", "pingora", "mio", "socket2", "async-"]
            .iter()
            .any(|bad| name.starts_with(bad))
    };
    assert_eq!(
        reached.iter().find(impure),
        None,
        "router-model must not depend on it, however indirectly"
    );
    for file in sources("router-core/model/src") {
        forbid(
            &file,
            &[
                "std::net::Tcp",
                "std::thread",
                "std::fs",
                "std::env",
                "static mut",
                "thread_local!",
            ],
            "the model is pure",
        );
    }
}

#[test]
fn only_the_balancer_knows_pingora() {
    for file in sources("router-core/src")
        .iter()
        .filter(|file| file.name != "balancer.rs")
    {
        forbid(file, &["pingora"], "pingora stays behind balancer.rs");
    }
    for file in sources("router/src")
        .iter()
        .chain(&sources("router-core/model/src"))
    {
        forbid(file, &["pingora"], "pingora stays behind balancer.rs");
    }
}

#[test]
fn only_the_clock_reads_clocks() {
    for file in sources("router-core/src")
        .iter()
        .chain(&sources("router-core/model/src"))
    {
        if file.name != "clock.rs" {
            forbid(
                file,
                &["Instant::now", "SystemTime::now", ".elapsed()"],
                "`now` is an argument; only clock.rs reads a clock",
            );
        }
    }
}

#[test]
fn only_tasks_starts_tasks() {
    for file in sources("router-core/src") {
        if file.name != "tasks.rs" {
            let tasks = [
                "tokio::spawn",
                "task::spawn",
                "spawn_local",
                "spawn_blocking",
                "JoinSet",
            ];
            forbid(
                &file,
                &tasks,
                "only tasks.rs starts a task, so that each has an owner",
            );
        }
        if file.name != "server/workers.rs" {
            forbid(
                &file,
                &["thread::spawn", "thread::Builder"],
                "the workers are the only threads",
            );
        }
    }
}

#[test]
fn modules_use_each_other_in_one_direction() {
    let row = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut wrong = Vec::new();
    for file in sources("router-core/src")
        .iter()
        .filter(|file| file.name != "lib.rs")
    {
        let from = row(&file.module)
            .unwrap_or_else(|| panic!("{}: give this module its row in LAYERS", file.name));
        for path in used_paths(&file.production()) {
            let module = path.split("::").next().unwrap();
            let to = row(module)
                .unwrap_or_else(|| panic!("{}: crate::{module} has no row in LAYERS", file.name));
            let strangers = file.module == "feed" && module == "proxy";
            if from > to || strangers {
                wrong.push(format!(
                    "{} uses crate::{path}, which stands nearer to the edge",
                    file.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_owns_and_stays_short() {
    for file in every_source() {
        assert!(
            file.text.starts_with("//! "),
            "{}: a file opens with `//!` and what it owns",
            file.name
        );
        let lines = file.text.lines().count();
        let most = if file.is_test() {
            LONGEST_TEST
        } else {
            LONGEST_FILE
        };
        assert!(
            lines <= most,
            "{}: {lines} lines; which concept has no name yet?",
            file.name
        );
    }
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file does not find itself.
    let unfinished = ["todo!", "unimplemented!"].map(|name| format!("{name}("));
    let ignored = format!("#[{}", "ignore");
    for file in every_source() {
        let words = [&*unfinished[0], &*unfinished[1], &*ignored];
        let found = file
            .text
            .lines()
            .find(|line| words.iter().any(|word| line.contains(word)));
        assert_eq!(found, None, "{}: is left unfinished", file.name);
    }
}

/// One Rust file.
struct Source {
    /// Its path below the folder that was asked for.
    name: String,
    /// The first part of that path without `.rs`: the module at the top.
    module: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.name.ends_with("tests.rs") || self.name.contains("tests/")
    }

    /// What is compiled into the product: no comments, no unit tests.
    fn production(&self) -> String {
        let code = self
            .text
            .split("#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default();
        code.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn forbid(file: &Source, words: &[&str], why: &str) {
    let production = file.production();
    for word in words {
        let line = production.lines().find(|line| line.contains(word));
        assert_eq!(line, None, "{}: `{word}`: {why}", file.name);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The Rust files below a folder of the project, without the unit tests that have files of their own.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = files(folder);
    found.retain(|file| !file.is_test());
    assert!(!found.is_empty(), "no Rust file below {folder}");
    found
}

/// Every Rust file of the project.
fn every_source() -> Vec<Source> {
    ["router", "router-core", "benches", "fuzz"]
        .into_iter()
        .flat_map(files)
        .collect()
}

fn files(folder: &str) -> Vec<Source> {
    let top = root().join(folder);
    let (mut folders, mut found) = (vec![top.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if entry.is_dir() && !entry.ends_with("target") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let name = entry
                    .strip_prefix(&top)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .replace('\\', "/");
                let module = name.split(['/', '.']).next().unwrap().to_owned();
                found.push(Source {
                    name,
                    module,
                    text: fs::read_to_string(&entry).unwrap(),
                });
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// The paths that the code names as `crate::module` or `crate::module::Item`, those in braces included.
fn used_paths(code: &str) -> Vec<String> {
    let path_of = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || "_:".contains(*c))
            .collect::<String>()
    };
    let mut used = Vec::new();
    for text in code.split("crate::").skip(1) {
        match text.strip_prefix('{') {
            Some(list) => used.extend(
                list.split('}')
                    .next()
                    .unwrap_or_default()
                    .split(',')
                    .map(|item| path_of(item.trim())),
            ),
            None => used.push(path_of(text).trim_end_matches("::").to_owned()),
        }
    }
    // What lib.rs re-exports begins with a capital letter and names no module.
    used.retain(|path| {
        path.starts_with(|c: char| c.is_ascii_lowercase()) && !path.starts_with("model")
    });
    used
}

/// The names in the `[dependencies]` of a manifest.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The names in the `dependencies` of every version of a package in the lock file.
fn locked_dependencies(lock: &str, package: &str) -> Vec<String> {
    let name = format!("name = \"{package}\"\n");
    let entries = lock
        .split("[[package]]\n")
        .filter(|entry| entry.starts_with(&name));
    let lists =
        entries.filter_map(|entry| entry.split("dependencies = [").nth(1)?.split(']').next());
    lists
        .flat_map(|list| list.split('"').skip(1).step_by(2))
        .filter_map(|item| item.split(' ').next())
        .map(str::to_owned)
        .collect()
}
