//! The `[relay]` table: to whom `router relay` passes on the routes that it reads.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use router_core::feed::{PublishError, PublishSettings, PublishTls};

use super::problem::Problem;
use super::raw::Section;

/// Where routers that read a relay call, if nothing else is said.
pub(super) fn defaults() -> PublishSettings {
    PublishSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 9091)))
}

/// What is wrong with the files that it names, `relay.KEY: …`.
pub(crate) fn check(relay: &PublishSettings) -> Option<String> {
    let error = relay.check().err()?;
    let key = match error {
        PublishError::Tokens(_) => "token_file",
        PublishError::Tls(_) => "certificate",
        PublishError::Path(_) => "path",
        PublishError::Listen { .. } => "address",
    };
    Some(format!("relay.{key}: {error}"))
}

/// Reads the table; `None` without it. Relative paths start from `folder`.
pub(super) fn relay(
    root: &mut Section<'_>,
    admin: SocketAddr,
    folder: &Path,
) -> Option<PublishSettings> {
    let wanted = root.has("relay");
    let mut section = root.section("relay");
    let mut relay = defaults();
    if let Some(address) = section.address("address") {
        relay.address = address;
    }
    if relay.address == admin && admin.port() != 0 {
        let wrong = format!("{admin} is the admin address too");
        section.note(Problem::plain(section.at("address"), wrong));
    }
    if let Some(path) = section.string("path") {
        path.clone_into(&mut relay.path);
        if let Err(error) = relay.check() {
            section.note(Problem::plain(section.at("path"), error.to_string()));
        }
    }
    let token_file = section.path("token_file", "the path of a file with bearer tokens");
    relay.token_file = token_file.map(|path| folder.join(path));
    relay.tls = tls(&mut section, folder);
    for (key, range, value) in [
        ("connections", 10..=1_000_000, &mut relay.connections),
        ("history", 65_536..=1 << 40, &mut relay.history),
    ] {
        let number = section.integer(key, range);
        if let Some(number) = number.and_then(|number| usize::try_from(number).ok()) {
            *value = number;
        }
    }
    section.finish();
    wanted.then_some(relay)
}

fn tls(section: &mut Section<'_>, folder: &Path) -> Option<PublishTls> {
    let files = "the path of a PEM file";
    let [certificate, private_key, client_ca] =
        ["certificate", "private_key", "client_ca"].map(|key| section.path(key, files));
    section.both("certificate", "private_key");
    if section.has("client_ca") && !section.has("certificate") {
        let wrong = format!("is missing, but {} is there", section.at("client_ca"));
        section.note(Problem::plain(section.at("certificate"), wrong));
    }
    Some(PublishTls {
        certificate: folder.join(certificate?),
        private_key: folder.join(private_key?),
        client_ca: client_ca.map(|path| folder.join(path)),
    })
}
