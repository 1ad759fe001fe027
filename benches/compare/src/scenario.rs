//! The scenarios: what is asked of whom, and what is counted. To add one, add a row to [`ALL`].

use crate::figure::Figure;
use crate::peer::Peer;

/// Something to compare in.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// As on the command line.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What is counted.
    pub(crate) unit: &'static str,
    pub(crate) tls: bool,
    pub(crate) work: Work,
    pub(crate) contenders: Contenders,
    /// What the targets are about; the plot shows it.
    pub(crate) figure: Figure,
}

/// What the load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// wrk on kept connections.
    Requests {
        path: &'static str,
        connections: usize,
    },
    Uploads,
    Handshakes,
    Http2,
    EchoStorm,
    IdleWebSockets,
    IdleKeepAlive,
    /// wrk again, and each request asks for one of all apps.
    AnyApp,
    /// At half of the top rate of a reference, which is measured first.
    HalfRate,
    /// wrk while routes change.
    Churn,
    /// wrk while slow clients are connected.
    SlowClients,
}

/// Who takes part. The first is the one that the others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contenders {
    /// The router and its peers.
    Peers,
    /// The router as it is set up for the scenario, and as it is set up otherwise.
    Variants(&'static [Variant]),
}

/// A way to set up the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) apps: usize,
    /// How many of them are asked for: each needs connections to its dyno.
    pub(crate) asked: usize,
    pub(crate) threads: usize,
    /// Routes come from an HTTP feed, with so many changes a second.
    pub(crate) changes: Option<u64>,
}

impl Variant {
    pub(crate) const PLAIN: Self = Self {
        name: "router",
        apps: 1,
        asked: 1,
        threads: 1,
        changes: None,
    };
}

/// One who takes part: a proxy, in one of its variants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    pub(crate) peer: Peer,
    pub(crate) variant: Variant,
}

impl Contender {
    pub(crate) fn name(&self) -> &'static str {
        match self.peer {
            Peer::Router => self.variant.name,
            _ => self.peer.name(),
        }
    }
}

impl Scenario {
    pub(crate) fn contenders(&self, peers: &[Peer]) -> Vec<Contender> {
        match self.contenders {
            Contenders::Peers => peers
                .iter()
                .map(|&peer| Contender {
                    peer,
                    variant: Variant::PLAIN,
                })
                .collect(),
            Contenders::Variants(variants) => variants
                .iter()
                .map(|&variant| Contender {
                    peer: Peer::Router,
                    variant,
                })
                .collect(),
        }
    }
}

const fn plain(
    name: &'static str,
    title: &'static str,
    path: &'static str,
    connections: usize,
) -> Scenario {
    Scenario {
        name,
        title,
        unit: "request",
        tls: false,
        work: Work::Requests { path, connections },
        contenders: Contenders::Peers,
        figure: Figure::Cpu,
    }
}

pub(crate) const ALL: &[Scenario] = &[
    plain(
        "h1",
        "HTTP/1.1, 64 kept connections, 40 bytes",
        "/small",
        64,
    ),
    plain("h1-1k", "HTTP/1.1, 64 kept connections, 1 KiB", "/1k", 64),
    Scenario {
        unit: "MiB",
        ..plain("download", "Responses of 1 MiB, 16 connections", "/1m", 16)
    },
    Scenario {
        unit: "MiB",
        work: Work::Uploads,
        ..plain("upload", "Uploads of 1 MiB, 16 connections", "/upload", 16)
    },
    Scenario {
        tls: true,
        ..plain(
            "tls",
            "HTTP/1.1 over TLS, 64 kept connections, 40 bytes",
            "/small",
            64,
        )
    },
    Scenario {
        tls: true,
        unit: "handshake",
        work: Work::Handshakes,
        ..plain("handshakes", "TLS handshake and one request", "/small", 0)
    },
    Scenario {
        tls: true,
        work: Work::Http2,
        ..plain(
            "h2",
            "HTTP/2, 16 connections with 16 requests at once each",
            "/small",
            16,
        )
    },
    Scenario {
        unit: "message",
        work: Work::EchoStorm,
        ..plain(
            "websocket",
            "WebSocket echo, 64 connections, 128 bytes",
            "/echo",
            64,
        )
    },
    Scenario {
        unit: "connection",
        work: Work::IdleWebSockets,
        figure: Figure::RssPerConnection,
        ..plain("websocket-idle", "WebSockets that do nothing", "/echo", 0)
    },
    Scenario {
        unit: "connection",
        work: Work::IdleKeepAlive,
        figure: Figure::RssPerConnection,
        ..plain(
            "keep-alive-idle",
            "Kept connections that do nothing",
            "/small",
            0,
        )
    },
    Scenario {
        contenders: Contenders::Variants(&[
            Variant {
                name: "one of 100,000 apps",
                apps: 100_000,
                ..Variant::PLAIN
            },
            Variant {
                name: "one app",
                ..Variant::PLAIN
            },
        ]),
        ..plain(
            "apps",
            "Requests for one of 100,000 apps, against the only one",
            "/small",
            64,
        )
    },
    Scenario {
        work: Work::AnyApp,
        contenders: Contenders::Variants(&[
            Variant {
                name: "100 of 100,000 apps",
                apps: 100_000,
                asked: 100,
                ..Variant::PLAIN
            },
            Variant {
                name: "100 apps",
                apps: 100,
                asked: 100,
                ..Variant::PLAIN
            },
            Variant {
                name: "one app",
                ..Variant::PLAIN
            },
        ]),
        ..plain(
            "many-apps",
            "Requests for 100 of 100,000 apps, against 100 apps and one",
            "/small",
            64,
        )
    },
    Scenario {
        work: Work::HalfRate,
        figure: Figure::P99,
        ..plain(
            "latency",
            "Latency at a fixed rate, half of nginx's top rate",
            "/small",
            64,
        )
    },
    Scenario {
        work: Work::Churn,
        contenders: Contenders::Variants(&[
            Variant {
                name: "1,000 changes a second",
                apps: 1_000,
                changes: Some(1_000),
                ..Variant::PLAIN
            },
            Variant {
                name: "no changes",
                apps: 1_000,
                changes: Some(0),
                ..Variant::PLAIN
            },
        ]),
        ..plain(
            "churn",
            "HTTP/1.1 while routes change, over the HTTP feed",
            "/small",
            64,
        )
    },
    Scenario {
        contenders: Contenders::Variants(&[
            Variant {
                name: "two workers",
                threads: 2,
                ..Variant::PLAIN
            },
            Variant {
                name: "one worker",
                ..Variant::PLAIN
            },
        ]),
        ..plain("workers", "Two workers against one", "/small", 64)
    },
    Scenario {
        work: Work::SlowClients,
        ..plain(
            "slow",
            "HTTP/1.1 while 200 clients send and 20 read slowly",
            "/small",
            64,
        )
    },
];
