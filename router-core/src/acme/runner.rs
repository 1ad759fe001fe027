//! Runs the ordering: keeps the book up to date with the route table, orders what is due, one at a time, and writes down
//! what must survive. Or, while another router with the same folder orders, serves what that one gets.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use router_model::hostname::Domain;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authority::{Authority, Issued, OrderError};
use super::book::{self, Book, Covered};
use super::folder::{Folder, Following, Lead, Stored, on_disk};
use super::http::AuthorityClient;
use super::settings::{AcmeSettings, AcmeSettingsError};
use super::status::AcmeStatus;
use crate::clock::{self, Instant};
use crate::router::Router;
use crate::tasks;
use crate::tls::{Certificate, Challenges, Origin};

/// The running order desk.
#[derive(Debug)]
pub struct AcmeHandle {
    book: Arc<Mutex<Book>>,
    loaded: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl AcmeHandle {
    /// Waits until the certificates of the folder are in force, or it has turned out that they cannot be had now. Who
    /// opens https listeners after this fails no handshake at a restart.
    pub async fn loaded(&self) {
        self.loaded.cancelled().await;
    }

    /// How it stands, domain by domain.
    pub fn status(&self) -> AcmeStatus {
        lock(&self.book).status(book::unix(clock::wall()))
    }

    /// Stops to order, as the router's drain does, and waits until what was issued is saved. An order in progress has
    /// three seconds to come to an end, and is left alone then.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to order certificates and to renew them, for the router's listeners to serve. Certificates from elsewhere (a
/// folder, the route document) should be in the router's store by then: what they cover is not ordered.
///
/// Must be called on a tokio runtime, on which the orders run; it may not be a worker's.
///
/// # Errors
/// The first of what [`AcmeSettings::check`] finds wrong.
pub fn start(router: &Router, settings: AcmeSettings) -> Result<AcmeHandle, AcmeSettingsError> {
    if let Some(wrong) = settings.check().into_iter().next() {
        return Err(wrong);
    }
    // A router that drains closes its listeners, where challenges would be asked for.
    let stop = router.shared().drain.child_token();
    let (loaded, tasks) = (CancellationToken::new(), TaskTracker::new());
    let client = AuthorityClient::new(settings.roots()?, tasks.clone())
        .map_err(|error| AcmeSettingsError::Tls(error.to_string()))?;
    let book = Book::new(&settings.directory, settings.per_hour, settings.retries);
    let book = Arc::new(Mutex::new(book));
    let runner = Runner {
        router: router.clone(),
        contact: settings.contact()?,
        settings,
        client,
        book: Arc::clone(&book),
        seen: None,
        unsaved: Vec::new(),
        loaded: loaded.clone(),
        stop: stop.clone(),
    };
    let ended = loaded.clone().drop_guard();
    tasks::spawn(&tasks, async move {
        let Stopped = runner.run().await;
        drop(ended);
    });
    tasks.close();
    Ok(AcmeHandle {
        book,
        loaded,
        stop,
        tasks,
    })
}

struct Runner {
    router: Router,
    settings: AcmeSettings,
    contact: Option<String>,
    client: AuthorityClient,
    book: Arc<Mutex<Book>>,
    /// The route table's generation that the book knows, and when it was looked at.
    seen: Option<(u64, Instant)>,
    /// What is served, but could not be saved yet.
    unsaved: Vec<(Domain, Arc<Issued>)>,
    /// Cancelled once the folder has been read, or could not be.
    loaded: CancellationToken,
    stop: CancellationToken,
}

/// The runner was told to stop. It does so where nothing is lost: not between a certificate and its file.
struct Stopped;

/// How an order ended without a certificate.
enum Ended {
    Stopped,
    Failed(OrderError),
}

impl From<OrderError> for Ended {
    fn from(error: OrderError) -> Self {
        Self::Failed(error)
    }
}

/// How often is looked for changes; a new domain is ordered within that time.
const TICK: Duration = Duration::from_secs(1);
/// How often is looked at everything: certificates from elsewhere come and go without telling.
const LOOK_AT_ALL: Duration = Duration::from_secs(30);
/// For an order in progress when the router stops: its certificate may be a moment away.
const LAST_MOMENT: Duration = Duration::from_secs(3);

impl Runner {
    async fn run(mut self) -> Stopped {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        match self.lead(&mut tick).await {
            // Nothing to lead to but an end.
            Ok(never) => match never {},
            Err(stopped) => stopped,
        }
    }

    async fn lead(&mut self, tick: &mut Interval) -> Result<Infallible, Stopped> {
        let folder = self.open(tick).await?;
        let _lead = self.wait_for_the_lead(&folder, tick).await?;
        loop {
            let taken_over = self.take_over(&folder).await;
            self.loaded.cancel();
            if self.usable(taken_over).is_some() {
                break;
            }
            self.wait(tick).await?;
        }
        lock(&self.book).set_orders_here(true);
        let mut authority = self.authority(&folder);
        loop {
            self.look(&folder).await;
            while self.save_issued(&folder).await
                && let Some(domain) = self.next()
            {
                self.order(&folder, &mut authority, domain).await?;
                self.look(&folder).await;
            }
            self.wait(tick).await?;
        }
    }

    async fn wait(&self, tick: &mut Interval) -> Result<(), Stopped> {
        tokio::select! {
            // Cancel-safe, both.
            _ = tick.tick() => Ok(()),
            () = self.stop.cancelled() => Err(Stopped),
        }
    }

    async fn open(&self, tick: &mut Interval) -> Result<Folder, Stopped> {
        loop {
            self.wait(tick).await?;
            let settings = self.settings.clone();
            let opened = on_disk(move || Folder::open(&settings.folder, &settings.directory));
            if let Some(folder) = self.usable(opened.await) {
                return Ok(folder);
            }
            self.loaded.cancel();
        }
    }

    /// Follows the router that orders until it is gone.
    async fn wait_for_the_lead(
        &mut self,
        folder: &Folder,
        tick: &mut Interval,
    ) -> Result<Lead, Stopped> {
        let mut followed = Followed::new(&self.router);
        loop {
            let desk = folder.clone();
            let lead = on_disk(move || desk.try_lead()).await;
            if let Some(Some(lead)) = self.usable(lead) {
                return Ok(lead);
            }
            let done = self.follow(folder, &mut followed).await;
            self.loaded.cancel();
            self.usable(done);
            self.wait(tick).await?;
        }
    }

    fn authority(&self, folder: &Folder) -> Authority {
        Authority::new(
            &self.settings,
            self.contact.clone(),
            self.client.clone(),
            Arc::clone(self.router.challenges()),
            folder.clone(),
        )
    }

    /// Notes whether the folder can be used; a change of that is said.
    fn usable<T>(&self, result: Result<T, String>) -> Option<T> {
        let error = result.as_ref().err().cloned();
        if lock(&self.book).set_folder_error(error.clone())
            && let Some(error) = error
        {
            tracing::error!(%error, "the ACME folder cannot be used; nothing is ordered until it can");
        }
        result.ok()
    }

    /// Reads what the router that ordered before has left.
    async fn take_over(&self, folder: &Folder) -> Result<(), String> {
        let folder_of_task = folder.clone();
        let ledger = on_disk(move || {
            folder_of_task.clear_challenges()?;
            folder_of_task.load_ledger()
        });
        let ledger = ledger.await?;
        self.load(folder).await?;
        lock(&self.book).set_ledger(ledger.unwrap_or_default());
        Ok(())
    }

    /// Puts the folder's certificates in the book and in force.
    async fn load(&self, folder: &Folder) -> Result<(), String> {
        let (folder, router) = (folder.clone(), self.router.clone());
        let book = Arc::clone(&self.book);
        on_disk(move || {
            let found = folder.load_certificates(router.certificates())?;
            let mut book = lock(&book);
            book.forget_held();
            for Stored {
                domain,
                certificate,
            } in found
            {
                match certificate {
                    Ok(certificate) => book.hold(domain, certificate, fastrand::u32(..)),
                    Err(ended) => book.hold_ended(domain, ended),
                }
            }
            router
                .certificates()
                .replace(Origin::Acme, book.certificates());
            Ok(())
        })
        .await
    }

    /// Sees what the router that orders has got, and what it wants answered.
    async fn follow(&mut self, folder: &Folder, followed: &mut Followed) -> Result<(), String> {
        let desk = folder.clone();
        if followed.place.is_none() {
            followed.place = on_disk(move || desk.follow()).await?;
        }
        let desk = folder.clone();
        let (challenges, changed) = on_disk(move || {
            let challenges = desk.challenges()?;
            Ok((challenges, desk.certificates_changed()?))
        })
        .await?;
        followed.show(challenges);
        if followed.certificates_of != Some(changed) {
            self.load(folder).await?;
            followed.certificates_of = Some(changed);
        }
        self.look(folder).await;
        Ok(())
    }

    /// Tells the book who should have a certificate, when that may have changed.
    async fn look(&mut self, folder: &Folder) {
        let (generation, now) = (self.router.table().generation(), clock::now());
        let known = self
            .seen
            .is_some_and(|(seen, at)| seen == generation && now < at + LOOK_AT_ALL);
        if known {
            return;
        }
        self.seen = Some((generation, now));
        let (router, folder, book) = (self.router.clone(), folder.clone(), Arc::clone(&self.book));
        let mut wanted = self.settings.domains.clone();
        let on_demand = self.settings.on_demand;
        let looked = on_disk(move || {
            let now = clock::wall();
            if on_demand {
                wanted.append(&mut router.table().domains());
            }
            let covered = covered(&router, now);
            let mut book = lock(&book);
            book.want(wanted, &covered, book::unix(now));
            // Before there are routes, nobody can say what is not wanted any more.
            let ended = if on_demand && !router.table().is_loaded() {
                Vec::new()
            } else {
                book.forget_ended(book::unix(now))
            };
            if ended.is_empty() {
                return Ok(());
            }
            router
                .certificates()
                .replace(Origin::Acme, book.certificates());
            // Files are the business of the router that orders.
            let ended = if book.orders_here() {
                ended
            } else {
                Vec::new()
            };
            drop(book);
            ended
                .iter()
                .try_for_each(|domain| folder.remove_certificate(domain))
        });
        if let Err(error) = looked.await {
            tracing::warn!(%error, "certificates that ended cannot be removed from the ACME folder");
        }
    }

    fn next(&self) -> Option<Domain> {
        lock(&self.book).next(book::unix(clock::wall()))
    }

    async fn order(
        &mut self,
        folder: &Folder,
        authority: &mut Authority,
        domain: Domain,
    ) -> Result<(), Stopped> {
        match self.order_of(folder, authority, &domain).await {
            Ok(()) => {}
            Err(Ended::Failed(error)) => self.note(&domain, error),
            Err(Ended::Stopped) => return Err(Stopped),
        }
        // What is in memory still holds; only a restart would forget it.
        if let Err(error) = self.save_ledger(folder).await {
            tracing::error!(%error, "the ledger of ACME orders cannot be saved");
        }
        Ok(())
    }

    /// One order. Nothing is asked of the authority before the order is written down: a folder that takes nothing would
    /// make each restart order everything again.
    async fn order_of(
        &mut self,
        folder: &Folder,
        authority: &mut Authority,
        domain: &Domain,
    ) -> Result<(), Ended> {
        let unwritable = |error: String| OrderError {
            reason: format!("the folder cannot be written: {error}"),
            only_this_domain: false,
            asked: None,
        };
        self.save_ledger(folder).await.map_err(unwritable)?;
        self.unless_stopped(authority.ready()).await?;
        lock(&self.book).begin(domain, book::unix(clock::wall()));
        self.save_ledger(folder).await.map_err(unwritable)?;
        tracing::info!(%domain, "ordering a certificate");
        let issued = self.unless_stopped(authority.order(domain)).await?;
        let certificate = self.read(domain, &issued)?;
        tracing::info!(%domain, fingerprint = certificate.fingerprint(), "certificate issued");
        self.unsaved.push((domain.clone(), Arc::new(issued)));
        self.save_issued(folder).await;
        // In force even if it could not be saved.
        let store = self.router.certificates();
        store.insert(Origin::Acme, Arc::clone(&certificate));
        let (now, jitter) = (book::unix(clock::wall()), fastrand::u32(..));
        lock(&self.book).issued(domain.clone(), certificate, now, jitter);
        Ok(())
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, OrderError>>,
    ) -> Result<T, Ended> {
        let given_up = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST_MOMENT).await;
        };
        let done = tokio::select! {
            // What has been got is not thrown away.
            biased;
            done = work => done,
            () = given_up => return Err(Ended::Stopped),
        };
        match done {
            // Nobody is to blame for a challenge that was asked for when the listeners were closed already.
            Err(_) if self.stop.is_cancelled() => Err(Ended::Stopped),
            done => Ok(done?),
        }
    }

    /// Whether all that was issued is on disk. Until then nothing more is ordered.
    async fn save_issued(&mut self, folder: &Folder) -> bool {
        while let Some((domain, issued)) = self.unsaved.last().cloned() {
            let desk = folder.clone();
            let saved =
                on_disk(move || desk.save_certificate(&domain, &issued.key, &issued.chain)).await;
            if self.usable(saved).is_none() {
                return false;
            }
            self.unsaved.pop();
        }
        true
    }

    fn read(&self, domain: &Domain, issued: &Issued) -> Result<Arc<Certificate>, OrderError> {
        let store = self.router.certificates();
        let read = store.read_pem(issued.chain.as_bytes(), issued.key.as_bytes());
        let reason = match read {
            Ok(certificate) if certificate.covers(domain.as_str()) => return Ok(certificate),
            Ok(_) => "it is for other names".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(OrderError {
            reason: format!("what the authority issued cannot be served: {reason}"),
            only_this_domain: true,
            asked: None,
        })
    }

    fn note(&self, domain: &Domain, error: OrderError) {
        let OrderError { reason, asked, .. } = error;
        let (now, jitter) = (book::unix(clock::wall()), fastrand::u32(..));
        if error.only_this_domain {
            tracing::warn!(%domain, %reason, "no certificate; trying again later");
            lock(&self.book).failed(domain, reason, asked, now, jitter);
        } else {
            tracing::error!(%reason, "certificates cannot be ordered; trying again later");
            lock(&self.book).held_up(reason, asked, now, jitter);
        }
    }

    async fn save_ledger(&self, folder: &Folder) -> Result<(), String> {
        let (folder, ledger) = (folder.clone(), lock(&self.book).ledger().clone());
        on_disk(move || folder.save_ledger(&ledger)).await
    }
}

/// What a router does that follows another one.
struct Followed {
    place: Option<Following>,
    challenges: Arc<Challenges>,
    /// The tokens that are answered because the other router wants it.
    tokens: Vec<String>,
    certificates_of: Option<SystemTime>,
}

impl Followed {
    fn new(router: &Router) -> Self {
        Self {
            place: None,
            challenges: Arc::clone(router.challenges()),
            tokens: Vec::new(),
            certificates_of: None,
        }
    }

    fn show(&mut self, wanted: Vec<(String, String)>) {
        let is_wanted = |token: &String| wanted.iter().any(|(wanted, _)| wanted == token);
        for gone in self.tokens.iter().filter(|token| !is_wanted(token)) {
            self.challenges.forget(gone);
        }
        for (token, answer) in &wanted {
            self.challenges.expect(token, answer);
        }
        self.tokens = wanted.into_iter().map(|(token, _)| token).collect();
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.show(Vec::new());
    }
}

/// What certificates from elsewhere stand for.
fn covered(router: &Router, now: SystemTime) -> Covered {
    let store = router.certificates();
    let others = [Origin::Folder, Origin::Document].map(|origin| store.of(origin));
    Covered::by(others.into_iter().flatten(), now)
}
