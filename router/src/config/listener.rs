//! The listeners of a configuration: where clients call, what is spoken there, and who in front of it is believed.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use router_core::tls::TlsVersion;

use super::problem::Problem;
use super::raw::{ADDRESSES, Section};

/// Where clients call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Address and port.
    pub(crate) address: SocketAddr,
    /// What is spoken.
    pub(crate) protocol: Protocol,
    /// Every connection begins with a PROXY header.
    pub(crate) proxy_protocol: bool,
    /// Whose word on the client is taken.
    pub(crate) trusted_proxies: Vec<IpNet>,
}

/// What a listener speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP without TLS.
    Http {
        /// A client may begin with HTTP/2.
        http2_prior_knowledge: bool,
    },
    /// HTTP over TLS.
    Https(Https),
}

/// What an https listener needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Https {
    /// What answers when no other certificate has the name that a client asks for.
    pub(crate) default: Option<Pair>,
    /// The oldest version spoken.
    pub(crate) min_version: TlsVersion,
    /// Whether HTTP/2 is offered.
    pub(crate) http2: bool,
}

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Where the configuration names it, `listener[0]`.
    pub(crate) place: String,
    /// The chain.
    pub(crate) certificate: PathBuf,
    /// The key.
    pub(crate) private_key: PathBuf,
}

impl Listener {
    /// HTTP, and nobody in front.
    pub(crate) fn http(address: SocketAddr) -> Self {
        Self {
            address,
            protocol: Protocol::Http {
                http2_prior_knowledge: false,
            },
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
        }
    }

    /// What there is to know of TLS, if it is an https listener.
    pub(crate) fn https(&self) -> Option<&Https> {
        match &self.protocol {
            Protocol::Http { .. } => None,
            Protocol::Https(https) => Some(https),
        }
    }
}

/// Reads all `[[listener]]`. Relative paths start from `folder`.
pub(super) fn listeners(root: &mut Section<'_>, admin: SocketAddr, folder: &Path) -> Vec<Listener> {
    let absent = !root.has("listener");
    let sections = root.sections("listener");
    let empty = sections.as_ref().is_some_and(Vec::is_empty);
    // A relay serves no clients.
    if (absent && !root.has("relay")) || empty {
        root.note(Problem::new(
            "listener",
            "is missing",
            "at least one [[listener]] with an address",
        ));
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for mut section in sections.into_iter().flatten() {
        let key = section.at("address");
        if let Some(listener) = listener(&mut section, folder) {
            let address = listener.address;
            let taken = listeners.iter().any(|other| other.address == address);
            if address.port() != 0 && taken {
                section.note(Problem::plain(
                    key,
                    format!("{address} is the address of another listener too"),
                ));
            } else if address.port() != 0 && address == admin {
                section.note(Problem::plain(
                    key,
                    format!("{address} is the admin address too"),
                ));
            }
            listeners.push(listener);
        }
        section.finish();
    }
    listeners
}

fn listener(section: &mut Section<'_>, folder: &Path) -> Option<Listener> {
    if !section.has("address") {
        section.note(Problem::new(section.at("address"), "is missing", ADDRESSES));
    }
    let address = section.address("address");
    let is_https = section.choice("protocol", &[("http", false), ("https", true)]);
    // Keys of the other protocol are not called wrong where the protocol itself is.
    let unclear = is_https.is_none() && section.has("protocol");
    let https = https(section, folder);
    let http2_prior_knowledge = section.boolean("http2_prior_knowledge").unwrap_or(false);
    let protocol = if is_https == Some(true) {
        refuse(section, unclear, &["http2_prior_knowledge"], "http", "");
        Protocol::Https(https)
    } else {
        refuse(section, unclear, &HTTPS_KEYS, "https", "");
        let hint = "; HTTP/2 without TLS is http2_prior_knowledge";
        refuse(section, unclear, &["http2"], "https", hint);
        Protocol::Http {
            http2_prior_knowledge,
        }
    };
    let listener = Listener {
        protocol,
        proxy_protocol: section.boolean("proxy_protocol").unwrap_or(false),
        trusted_proxies: trusted_proxies(section),
        ..Listener::http(address?)
    };
    Some(listener)
}

const HTTPS_KEYS: [&str; 3] = ["certificate", "private_key", "min_tls_version"];

fn refuse(section: &Section<'_>, unclear: bool, keys: &[&str], protocol: &str, hint: &str) {
    for key in keys.iter().filter(|key| !unclear && section.has(key)) {
        let wrong = format!("is for listeners with protocol = \"{protocol}\" only{hint}");
        section.note(Problem::plain(section.at(key), wrong));
    }
}

fn https(section: &mut Section<'_>, folder: &Path) -> Https {
    let files = "the path of a PEM file";
    let certificate = section.path("certificate", files);
    let private_key = section.path("private_key", files);
    for (key, other) in [
        ("certificate", "private_key"),
        ("private_key", "certificate"),
    ] {
        if section.has(key) && !section.has(other) {
            let wrong = format!("is missing, but there is {}", section.at(key));
            section.note(Problem::new(
                section.at(other),
                wrong,
                "certificate and private_key, or none of them",
            ));
        }
    }
    let place = section.at("").trim_end_matches('.').to_owned();
    let pair = |(certificate, private_key): (&str, &str)| Pair {
        place,
        certificate: folder.join(certificate),
        private_key: folder.join(private_key),
    };
    Https {
        default: certificate.zip(private_key).map(pair),
        min_version: section
            .choice(
                "min_tls_version",
                &TlsVersion::ALL.map(|version| (version.as_str(), version)),
            )
            .unwrap_or_default(),
        http2: section.boolean("http2").unwrap_or(true),
    }
}

fn trusted_proxies(section: &mut Section<'_>) -> Vec<IpNet> {
    let key = "trusted_proxies";
    let mut networks = Vec::new();
    for (index, entry) in section.list(key).into_iter().flatten().enumerate() {
        let wrong = match entry.as_str().and_then(network) {
            Some(network) => match unmapped(network) {
                None => {
                    networks.push(network);
                    continue;
                }
                Some(plain) => format!("{entry} never matches: write \"{plain}\""),
            },
            None => format!("{entry} is not a network"),
        };
        section.note(Problem::new(
            format!("{}[{index}]", section.at(key)),
            wrong,
            "CIDRs such as \"10.0.0.0/8\" or \"fd00::/8\", and IP addresses",
        ));
    }
    networks
}

/// A CIDR, or an address that stands for itself alone.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().map(|network| network.trunc());
    network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What somebody meant who wrote IPv4 as IPv6: addresses are compared in their plain form.
fn unmapped(network: IpNet) -> Option<IpNet> {
    const MAPPED: u8 = 96;
    let IpNet::V6(network) = network else {
        return None;
    };
    let address = network.addr().to_ipv4_mapped()?;
    let length = network.prefix_len().checked_sub(MAPPED)?;
    IpNet::new(address.into(), length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("fd00::/8", Some("fd00::/8")),
            ("::1", Some("::1/128")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.0.0.0/33", None),
            ("10.0.0", None),
            ("localhost", None),
            ("", None),
        ] {
            let read = network(text).map(|network| network.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }
}
