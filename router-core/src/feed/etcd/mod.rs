//! Routes from etcd, by its JSON gateway: everything at one revision, then what happened after it. Endpoints take turns
//! when one fails. What stands in the store cannot hurt more than the app whose key it stands at, and a store that was
//! wiped, or restored from an older backup, is not believed.

mod acks;
mod client;
mod driver;
mod gateway;
mod keys;
mod settings;
mod store;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Ack, Feed, FeedError, Position, Update};
use crate::outgoing::Credentials;
use crate::tasks;
use acks::{Acks, Failure};
use client::{Client, Limits, User};
use driver::{Driver, Told, Want};
use keys::Layout;
use store::Known;

pub use settings::{EtcdFeedSettings, EtcdFeedSettingsError, EtcdUser};

/// A feed of the apps below a prefix in etcd.
pub struct EtcdFeed {
    driver: Option<Driver>,
    tasks: TaskTracker,
    /// Ends the driver when it is dropped.
    _stop: DropGuard,
    stopped: CancellationToken,
    wants: watch::Sender<Want>,
    told: mpsc::Receiver<Told>,
    trouble: watch::Receiver<Option<String>>,
    /// The whole is wanted, was asked for and has not come yet.
    owed: bool,
    /// The revision that the last update led to.
    handed: Option<u64>,
    acks: u64,
    failure: Failure,
}

impl EtcdFeed {
    /// A feed of this store. Nothing is read or asked yet.
    ///
    /// # Errors
    /// [`EtcdFeedSettingsError`] if the endpoints or the prefix cannot be.
    pub fn new(settings: EtcdFeedSettings) -> Result<Self, EtcdFeedSettingsError> {
        let endpoints = settings.checked_endpoints()?;
        let credentials = Credentials::new(settings.ca, settings.client_certificate);
        let user = settings.user.map(|user| User {
            name: user.name,
            password_file: user.password_file,
        });
        let limits = Limits {
            answer: settings.answer,
            silence: settings.silence,
        };
        let stopped = CancellationToken::new();
        let (wants, wanted) = watch::channel(Want::default());
        let (tell, told) = mpsc::channel(1);
        let (fail, trouble) = watch::channel(None);
        let acks = Acks::default();
        let failure = acks.failure.clone();
        let driver = Driver {
            layout: Layout::new(&settings.prefix),
            client: Client::new(endpoints, user, credentials, limits),
            wants: wanted,
            told: tell,
            trouble: fail,
            acks,
            heartbeat: settings.heartbeat,
            known: Known::default(),
            given: None,
            seen: 0,
            served: 0,
            list_again: None,
        };
        Ok(Self {
            driver: Some(driver),
            tasks: TaskTracker::new(),
            _stop: stopped.clone().drop_guard(),
            stopped,
            wants,
            told,
            trouble,
            owed: false,
            handed: None,
            acks: 0,
            failure,
        })
    }

    /// The driver works while the runner does something else, so that a wait that is dropped loses nothing.
    fn start(&mut self) {
        if let Some(driver) = self.driver.take() {
            let stopped = self.stopped.clone();
            tasks::spawn(&self.tasks, async move {
                tokio::select! {
                    () = driver.run() => {}
                    () = stopped.cancelled() => {}
                }
            });
        }
    }

    fn want(&mut self, position: Position) {
        let ask = position.need_whole && !self.owed;
        self.owed = position.need_whole;
        let refused = self.handed.is_some() && self.handed != position.revision;
        self.wants.send_if_modified(|want| {
            let same = want.in_force == position.revision && want.refused == refused && !ask;
            want.in_force = position.revision;
            want.refused = refused;
            want.wholes += u64::from(ask);
            !same
        });
    }
}

impl Feed for EtcdFeed {
    fn source(&self) -> &'static str {
        "etcd"
    }

    fn has_heartbeat(&self) -> bool {
        true
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        self.want(position);
        self.start();
        loop {
            let told = tokio::select! {
                // Cancel-safe, both: what is not received stays. In this order, what was told before trouble came is
                // taken before it.
                biased;
                told = self.told.recv() => told,
                _ = self.trouble.changed() => match self.trouble.borrow_and_update().clone() {
                    Some(why) => return Err(FeedError(why)),
                    None => continue,
                },
            };
            match told.ok_or_else(|| FeedError("the etcd feed has ended".to_owned()))? {
                Told::Wrong(why) => return Err(FeedError(why)),
                Told::Update(update, revision) => {
                    let whole = matches!(update, Update::Snapshot(_));
                    if whole || !position.need_whole {
                        self.owed &= !whole;
                        self.handed = Some(revision);
                        return Ok(update);
                    }
                }
                Told::Alive if self.owed => {}
                Told::Alive => {
                    let revision = self.handed.filter(|_| self.handed == position.revision);
                    return Ok(Update::Alive { revision });
                }
            }
        }
    }

    async fn acknowledge(&mut self, ack: &Ack) -> Result<(), FeedError> {
        self.acks += 1;
        let ack = Some((self.acks, ack.clone()));
        self.wants.send_modify(|want| want.ack = ack);
        // It is put meanwhile; how the one before fared is known by now.
        match self.failure.take() {
            Some(why) => Err(FeedError(format!("etcd takes no acknowledgement: {why}"))),
            None => Ok(()),
        }
    }
}
