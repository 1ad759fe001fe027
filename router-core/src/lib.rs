//! An HTTP edge router to embed: it knows which app answers for which hostname, proxies HTTP/1.x and upgraded
//! connections to the app's web dynos, names every failure with an H-code, and is told of routes by a feed that may die
//! without anything happening to what is served.
//!
//! Three ways in:
//! * [`Router`] with a [`server::Server`] is a router with listeners and workers of its own;
//! * [`Router::layer`] puts it in front of any `tower` service: known hosts go to dynos, all others to the service;
//! * [`feed`] keeps the [`RouteTable`] up to date; or apply snapshots to it yourself.
//!
//! [`acme`] orders certificates for it.

pub use router_model as model;

mod balancer;
mod client;
mod clock;
mod dyno;
mod dyno_conn;
mod exchange;
mod observe;
mod outgoing;
mod peer;
mod pool;
mod proxy;
mod queue;
mod relay;
mod respond;
mod router;
mod socket;
mod stall;
mod stream;
mod table;
mod tasks;
mod views;
mod worker;

pub mod acme;
pub mod feed;
pub mod server;
pub mod service;
mod silence;
pub mod tls;

pub use observe::{Event, Observer, TlsFailure};
pub use router::{BuildError, Router, RouterBuilder, Stats};
pub use service::{RouterLayer, RouterService};
pub use table::{Applied, RouteTable};
pub use views::{
    AppView, Candidate, CertificateInUse, DynoView, EffectiveSettings, Excluded, Explanation,
};
