//! What the router knows of one dyno at one address: in-flight count and quarantine. The value survives route updates
//! as long as the dyno keeps its name and address; whoever holds a lease holds it too.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use router_model::app::DynoName;
use tokio_util::sync::CancellationToken;

use crate::clock::Instant;

/// One web dyno with an address.
#[derive(Debug)]
pub(crate) struct Dyno {
    in_flight: AtomicU32,
    /// Milliseconds after `epoch`; 0 when not quarantined.
    quarantined_until: AtomicU64,
    epoch: Instant,
    id: u64,
    name: DynoName,
    address: SocketAddr,
    retired: CancellationToken,
    /// Set before the token is cancelled; tunnels ask at every turn.
    is_retired: AtomicBool,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Dyno {
    pub(crate) fn new(name: DynoName, address: SocketAddr, epoch: Instant) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            quarantined_until: AtomicU64::new(0),
            epoch,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            address,
            retired: CancellationToken::new(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Unique in this process; a dyno that moves to another address is another one.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn name(&self) -> &DynoName {
        &self.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Keeps new requests away until `until` (spec §1.5: five seconds after a failed connect).
    pub(crate) fn quarantine(&self, until: Instant) {
        let until = until
            .saturating_duration_since(self.epoch)
            .as_millis()
            .max(1);
        self.quarantined_until
            .store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How much of the quarantine is left.
    pub(crate) fn quarantined_for(&self, now: Instant) -> Option<Duration> {
        let until = self.quarantined_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let until = self.epoch + Duration::from_millis(until);
        until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    /// The dyno gets no new requests any more: it is draining or has left the formation.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        self.retired.cancel();
    }

    /// Whether that has been said.
    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Tells those who wait for it.
    pub(crate) fn retired(&self) -> &CancellationToken {
        &self.retired
    }
}
