//! Certificates that the router orders itself, from an ACME authority (RFC 8555), proving each domain by http-01.
//!
//! A domain of the route table is ordered as soon as it appears there (if `on_demand` says so), never because somebody
//! asks for a name in a handshake: a stranger can make up names, but not routes. One order at a time, within a budget per
//! hour; what exists is served until it ends, whatever the authority says or does not say.
//!
//! Account, certificates and the budget's account book are kept in a folder. Routers that share it (a network file system)
//! share all of that: one of them, the holder of a lock, orders; the others answer its challenges and serve what it gets.
//! Where there is no such file system, certificates travel in the route document instead, and no router orders.

mod authority;
mod book;
mod folder;
mod http;
mod runner;
mod settings;
mod status;

pub use runner::{AcmeHandle, start};
pub use settings::{AcmeSettings, AcmeSettingsError, LETS_ENCRYPT, Retries};
pub use status::{AcmeStatus, DomainState, DomainStatus};
