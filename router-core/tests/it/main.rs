//! The end-to-end suite: a whole router between raw clients and raw dynos, one module per topic. Comments name the
//! conformance scenario of the router specification that a test is. A test ends with `World::finish`, which drains the
//! router and finds every log line read, so that "exactly one line per request" is held by each of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: a surprise ends the test at once, and tests read the clock and own their tasks themselves"
)]

mod acme;
mod admission;
mod affinity;
mod balancing;
mod bodies;
mod certificates;
mod churn;
mod client_address;
mod drain;
mod dyno_conns;
mod dyno_h2;
mod dyno_tls;
mod embedding;
mod error_codes;
mod etcd_server;
mod expect;
mod feed_certificates;
mod feed_crowds;
mod feed_document;
mod feed_etcd;
mod feed_file;
mod feed_http;
mod feed_http_hostile;
mod feed_relay;
mod feed_rules;
mod grpc;
mod h2;
mod h2_bodies;
mod h2_connections;
mod h2_floods;
mod h2_hostile;
mod h2_websockets;
mod headers;
mod hostile;
mod misdirected;
mod pebble;
mod proxy_protocol;
mod quarantine;
mod relay_world;
mod resumption;
mod routed_by_etcd;
mod routing;
mod scripted;
mod states;
mod timeouts;
mod tls;
mod upgrades;
mod world;
