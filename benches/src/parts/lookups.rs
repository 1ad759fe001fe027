//! From a request's host to its app: parsing the host, the exact domain, else the wildcard. Hosts come in random order, so
//! that with a million domains the caches of the machine help as little as they do an edge router; instruction counts know
//! nothing of caches, so for those the size of the table hardly matters. What a worker remembers of the hosts it served last
//! shows in the whole path only.

use std::hint::black_box;

use super::Part;
use crate::routes;

pub(super) fn all() -> Vec<Part> {
    let mut parts = Vec::new();
    for (apps, size) in [(1, "1-app"), (100, "100-apps"), (100_000, "100000-apps")] {
        parts.push(lookup(format!("lookup-exact/{size}"), apps, 2, "", true));
        parts.push(lookup(format!("lookup-wildcard/{size}"), apps, 1, "", true));
        // As many unknown hosts as the other kinds have, so that their own memory weighs the same.
        parts.push(lookup(
            format!("lookup-unknown/{size}"),
            apps,
            2,
            ".test",
            false,
        ));
    }
    parts
}

fn lookup(name: String, apps: usize, nth: usize, suffix: &'static str, known: bool) -> Part {
    Part::new(name, move || {
        let dyno = ([127, 0, 0, 1], 5000).into();
        let router = routes::router(&routes::document(1, apps, 0, dyno));
        let mut hosts = routes::shuffled_hosts(apps, nth..nth + 1);
        for host in &mut hosts {
            *host += suffix;
        }
        let mut next = 0;
        move || {
            let host = hosts.get(next).map_or("", String::as_str);
            next = if next + 1 < hosts.len() { next + 1 } else { 0 };
            assert_eq!(router.knows(black_box(host)), known, "{host}");
        }
    })
}
