//! Signals of the operating system, as what they mean here: SIGTERM and SIGINT end the router, SIGHUP reopens its log.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the router listens to, from the moment this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over; from now on none of them ends the process by itself.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the router is told to end; `on_hangup` runs at each SIGHUP until then. Gives the signal's name.
    pub(crate) async fn end(&mut self, on_hangup: impl Fn()) -> &'static str {
        loop {
            // Each arm is cancel-safe: a signal that was not taken yet stays pending.
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => on_hangup(),
            }
        }
    }
}
