//! What is in force on this router, put into the store for as long as the router lives: with a lease that goes out a
//! minute after the last word. An acknowledgement that cannot be put is put with the next one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, Fault, GRANT, KEEP_ALIVE, PUT};
use super::gateway::{Base64, LeaseAnswer, LeaseGrant, LeaseKeepAlive, PutRequest, Streamed};
use super::keys::Layout;
use crate::clock::{self, Instant};
use crate::feed::Ack;
use crate::outgoing;

/// Where acknowledgements stand.
#[derive(Default)]
pub(super) struct Acks {
    lease: Option<i64>,
    /// What stands in the store with that lease.
    put: Option<Vec<u8>>,
    /// The number of the last one that was told, and when it must be told again to keep the lease alive.
    told: Option<(u64, Instant)>,
    pub(super) failure: Failure,
}

/// Why the last acknowledgement could not be put, if that is so. The lock is never held across an `.await`.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<String> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acks {
    /// Puts an acknowledgement, unless it was put just now, and keeps its lease alive. Called with every heartbeat.
    pub(super) async fn tell(&mut self, client: &Client, layout: &Layout, number: u64, ack: &Ack) {
        let now = clock::now();
        if self
            .told
            .is_some_and(|(told, again)| told == number && now < again)
        {
            return;
        }
        let told = self.put(client, layout, ack).await;
        self.told = told.is_ok().then_some((number, now + AGAIN));
        *self.failure.lock() = told.err().map(|fault| outgoing::causes(&fault));
    }

    async fn put(&mut self, client: &Client, layout: &Layout, ack: &Ack) -> Result<(), Fault> {
        let lease = self.live_lease(client).await?;
        let value = serde_json::to_vec(ack).map_err(|error| Fault::Strange {
            path: PUT,
            why: error.to_string(),
        })?;
        let key = layout.ack(&ack.router);
        // Each put is a revision of the whole store; a look is none. Somebody may have tidied up.
        if self.put.as_ref() == Some(&value) && client.holds(&key).await? {
            return Ok(());
        }
        let request = PutRequest {
            key: Base64(&key),
            value: Base64(&value),
            lease,
        };
        client.ask::<Value>(PUT, &request).await?;
        self.put = Some(value);
        Ok(())
    }

    async fn live_lease(&mut self, client: &Client) -> Result<i64, Fault> {
        if let Some(id) = self.lease {
            let request = LeaseKeepAlive { id };
            let kept: Streamed<LeaseAnswer> = client.ask(KEEP_ALIVE, &request).await?;
            if kept.result.is_some_and(|lease| lease.ttl > 0) {
                return Ok(id);
            }
        }
        // Whatever stood there went with its lease.
        (self.lease, self.put) = (None, None);
        let request = LeaseGrant { ttl: LASTS };
        let granted: LeaseAnswer = client.ask(GRANT, &request).await?;
        self.lease = Some(granted.id);
        Ok(granted.id)
    }
}

/// Seconds without a word.
const LASTS: u64 = 60;
const AGAIN: Duration = Duration::from_secs(20);
