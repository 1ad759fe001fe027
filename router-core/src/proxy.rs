//! THE HOT PATH: one request from its head to its last byte. Control flow is here and only here; what is decided, and how bytes move, is written in the
//! rooms it calls. Read it from [`handle`] down.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use router_model::admission::{self, Admitted};
use router_model::app::App;
use router_model::backoff::Backoff;
use router_model::failure::Failure;
use router_model::forward::{self, RequestFields};
use router_model::h1::chunked::ChunkLimits;
use router_model::h1::{FieldId, HeadLimits, RequestHead, Version};
use router_model::settings::{Balancer, HashKey};
use router_model::{affinity, retry, verdict};

use crate::client::{Client, Transport};
use crate::clock::{self, Instant};
use crate::dyno_conn::{DynoConn, dial};
use crate::exchange::Exchange;
use crate::observe::Event;
use crate::pool::{Checkout, Lease};
use crate::relay::{Ended, Fault, Plan, Relay, TunnelEnd, Upload, tunnel};
use crate::respond;
use crate::table::AppPermit;
use crate::worker::{Counted, LocalRoute, Worker};

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request may come.
    KeepAlive,
    /// It ends, but the client may still be sending: let it read the answer first.
    Linger,
    /// It ends.
    Close,
    /// It ends with an error, so that a cut response does not look like a whole one.
    Abort,
}

/// Serves one request.
pub(crate) async fn handle<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    head: &RequestHead,
) -> After {
    let admitted = match admission::admit(head) {
        Ok(admitted) => admitted,
        Err(failure) => return refuse(worker, client, failure, head.method() == b"HEAD", false),
    };
    let mut upload = Upload::new(admitted.framing, chunk_limits(worker), clock::now());
    let Some(route) = worker.route(&admitted.host.name) else {
        let failure = if worker.shared.table.is_loaded() {
            Failure::NoSuchApp
        } else {
            Failure::NoRoutes
        };
        let keep_alive = may_go_on(worker, client, &admitted, &mut upload);
        return refuse(
            worker,
            client,
            failure,
            head.method() == b"HEAD",
            keep_alive,
        );
    };
    let mut exchange = Exchange::begin(
        worker,
        head,
        admitted.host_as_sent,
        client.address.map(|address| address.ip()),
        route,
    );
    let served = serve(worker, client, head, &admitted, &mut exchange, &mut upload).await;
    match served {
        Ok(after) => {
            exchange.answered();
            after
        }
        Err(Fallen::BeforeHead(failure)) => {
            let keep_alive = may_go_on(worker, client, &admitted, &mut upload);
            answer_failure(worker, client, head, &mut exchange, failure, keep_alive).await
        }
        Err(Fallen::AfterHead {
            failure,
            until_close,
        }) => {
            exchange.failed(failure);
            cut(worker, client, &mut exchange, failure, until_close).await
        }
    }
}

/// Whether another request can follow one that is answered by the router: the client wants it, and the body is out of the way.
fn may_go_on<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    admitted: &Admitted<'_>,
    upload: &mut Upload,
) -> bool {
    admitted.keep_alive && !worker.is_draining() && upload.discard(&mut client.buffer)
}

fn chunk_limits(worker: &Worker) -> ChunkLimits {
    let limits = &worker.shared.limits;
    ChunkLimits {
        line: limits.request_header_line,
        trailers: limits.request_headers,
    }
}

/// How an exchange failed: with or without a chance to say so to the client.
enum Fallen {
    BeforeHead(Failure),
    AfterHead { failure: Failure, until_close: bool },
}

impl From<Failure> for Fallen {
    fn from(failure: Failure) -> Self {
        Self::BeforeHead(failure)
    }
}

/// From a known app to the last byte.
async fn serve<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    head: &RequestHead,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
    upload: &mut Upload,
) -> Result<After, Fallen> {
    if let Some(violation) = admitted.violation {
        return Err(violation.into());
    }
    check_app(&exchange.route.app)?;
    if worker.shared.client_connections() > worker.shared.limits.client_connections as u64 {
        return Err(Failure::ConnectionLimit.into());
    }
    let _permit = AppPermit::acquire(
        &exchange.route.state,
        concurrency_limit(worker, &exchange.route),
    )
    .ok_or(Failure::BacklogTooDeep)?;

    let plan = plan(worker, head, admitted, &exchange.route.app);
    let mut search = Search::new(
        worker,
        head,
        client.address.map(|address| address.ip()),
        &exchange.route.app,
    );
    let (lease, mut conn) = connect(worker, client, head, admitted, exchange, &mut search).await?;
    if admitted.expects_continue && !plan.pass_continue {
        respond::continue_now(client);
    }
    write_head(worker, client, head, admitted, exchange, &plan, &mut conn);
    let ended = match Relay::new(worker, exchange, client, &mut conn, plan, upload)
        .run()
        .await
    {
        Err(fault) if may_resend(head, &fault) => {
            conn = redial(worker, client, exchange, &lease, conn, upload).await?;
            upload.restart();
            if conn.out.is_empty() {
                write_head(worker, client, head, admitted, exchange, &plan, &mut conn);
            }
            Relay::new(worker, exchange, client, &mut conn, plan, upload)
                .run()
                .await
        }
        ended => ended,
    };
    match ended {
        Ok(Ended::Response {
            reusable,
            keep_alive,
        }) => {
            if let Some(dyno_limit) = reusable {
                keep(worker, &exchange.route.app, &lease, conn, dyno_limit);
            }
            Ok(if keep_alive {
                After::KeepAlive
            } else {
                After::Linger
            })
        }
        Ok(Ended::Switched) => {
            run_tunnel(worker, client, exchange, &lease, &mut conn, plan.idle).await
        }
        Err(Fault {
            failure,
            head_sent: false,
            ..
        }) => Err(failure.into()),
        Err(Fault {
            failure,
            until_close,
            ..
        }) => Err(Fallen::AfterHead {
            failure,
            until_close,
        }),
    }
}

/// App states that stop a request before a dyno is chosen, in the order of spec §6.3 rows 4 to 8.
pub(crate) fn check_app(app: &App) -> Result<(), Failure> {
    if app.suspended.is_some() {
        Err(Failure::Suspended)
    } else if app.degraded {
        Err(Failure::Degraded)
    } else if app.maintenance {
        Err(Failure::Maintenance)
    } else if !app.released {
        Err(Failure::BlankApp)
    } else if app.web_quantity() == 0 {
        Err(Failure::NoWebProcesses)
    } else {
        Ok(())
    }
}

/// 200 × running web dynos, at least one while they start (spec §1.4, §10-33).
fn concurrency_limit(worker: &Worker, route: &LocalRoute) -> u32 {
    let per_dyno = route
        .app
        .settings
        .concurrent_requests_per_dyno
        .unwrap_or(worker.shared.limits.concurrent_requests_per_dyno);
    per_dyno.saturating_mul(u32::try_from(route.pool.running().max(1)).unwrap_or(u32::MAX))
}

fn plan(worker: &Worker, head: &RequestHead, admitted: &Admitted<'_>, app: &App) -> Plan {
    let timeouts = &worker.shared.timeouts;
    Plan {
        framing: admitted.framing,
        is_head: head.method() == b"HEAD",
        upgrade: admitted.upgrade,
        http10: head.version() == Version::Http10,
        keep_alive: admitted.keep_alive,
        pass_continue: app.settings.end_to_end_continue,
        expects_continue: admitted.expects_continue,
        first_byte: app
            .settings
            .first_byte_timeout
            .unwrap_or(timeouts.first_byte),
        idle: app.settings.idle_timeout.unwrap_or(timeouts.idle),
    }
}

/// The search for a dyno that takes the connection (spec §1.5).
struct Search {
    deadline: Instant,
    tried: Vec<u64>,
    last_failure: Option<Failure>,
    backoff: Backoff,
    /// The dyno that the client's cookie names.
    preferred: Option<String>,
    /// What `consistent_hash` goes by.
    key: Vec<u8>,
}

impl Search {
    fn new(worker: &Worker, head: &RequestHead, client: Option<IpAddr>, app: &App) -> Self {
        let key = match app.settings.balancer {
            Balancer::ConsistentHash => hash_key(head, client, &app.settings.hash_key),
            Balancer::LeastRequests | Balancer::Random | Balancer::RoundRobin => Vec::new(),
        };
        let preferred = if app.settings.session_affinity {
            preferred_dyno(worker, head)
        } else {
            None
        };
        Self {
            deadline: clock::now() + worker.shared.timeouts.connect_total,
            tried: Vec::new(),
            last_failure: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            preferred,
            key,
        }
    }

    /// Notes a failed attempt; the failure of the request if it was the last one allowed.
    fn failed(
        &mut self,
        worker: &Worker,
        route: &LocalRoute,
        lease: &Lease,
        failure: Failure,
    ) -> Result<(), Failure> {
        worker.event(Event::ConnectFailed(failure));
        if verdict::of(failure).quarantine {
            lease
                .dyno()
                .quarantine(clock::now() + worker.shared.limits.quarantine);
            worker.event(Event::Quarantined);
        }
        self.tried.push(lease.dyno().id());
        self.last_failure = Some(failure);
        let allowed = retry::attempts_allowed(&worker.shared.limits, route.pool.running());
        let more = verdict::of(failure).try_another_dyno
            && self.tried.len() < allowed as usize
            && clock::now() < self.deadline;
        if more { Ok(()) } else { Err(failure) }
    }
}

fn hash_key(head: &RequestHead, client: Option<IpAddr>, by: &HashKey) -> Vec<u8> {
    match by {
        HashKey::ClientAddress => {
            client.map(|client| client.to_canonical().to_string().into_bytes())
        }
        HashKey::Header(name) => head.fields().named(name.as_bytes()).map(<[u8]>::to_vec),
        HashKey::Cookie(name) => cookie(head, name).map(|value| value.as_bytes().to_vec()),
    }
    .unwrap_or_default()
}

fn cookie<'h>(head: &'h RequestHead, name: &str) -> Option<&'h str> {
    head.fields()
        .values(FieldId::Cookie)
        .find_map(|value| affinity::find_cookie(value, name))
}

fn preferred_dyno(worker: &Worker, head: &RequestHead) -> Option<String> {
    let value = cookie(head, &worker.shared.affinity_cookie)?;
    worker
        .shared
        .affinity
        .open(value, clock::unix_millis(clock::wall()) / 1000)
}

/// Finds a dyno and a connection to it: a kept one, or a new one; another dyno when that fails.
async fn connect<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    head: &RequestHead,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
    search: &mut Search,
) -> Result<(Lease, DynoConn), Failure> {
    loop {
        let lease = checkout(worker, client, admitted, exchange, search).await?;
        exchange.dyno = Some(Arc::clone(lease.dyno()));
        let kept = take_kept(worker, &exchange.route.app, head, admitted, &lease);
        let opened = match kept {
            Some(conn) => {
                exchange.connect = Some(Duration::ZERO);
                Ok(conn)
            }
            None => open(worker, client, exchange, &lease, search.deadline).await,
        };
        match opened {
            Ok(conn) => {
                exchange.connected_at = Some(clock::now());
                set_affinity(worker, exchange, &lease, search);
                return Ok((lease, conn));
            }
            Err(Failure::ClientInterrupted) => return Err(Failure::ClientInterrupted),
            Err(failure) => search.failed(worker, &exchange.route, &lease, failure)?,
        }
    }
}

/// Checks a dyno out; waits for one that starts, or whose quarantine ends, as long as the budget lasts. Meanwhile route updates are followed and the client is
/// watched; its body is not read.
async fn checkout<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
    search: &mut Search,
) -> Result<Lease, Failure> {
    loop {
        let route = Arc::clone(&exchange.route);
        let changed = route.state.changed.notified();
        tokio::pin!(changed);
        let mut listening = false;
        let (wait_until, at_deadline) = loop {
            let waiting = match route.pool.checkout(
                &search.tried,
                search.preferred.as_deref(),
                &search.key,
                clock::now(),
            ) {
                Checkout::Found(index) => match route.pool.dyno(index) {
                    Some(dyno) => return Ok(Lease::new(Arc::clone(dyno))),
                    None => return Err(Failure::Platform),
                },
                Checkout::Never(failure) => return Err(failure),
                Checkout::NotUp => (search.deadline, Failure::BootTimeout),
                Checkout::Quarantined => match search.last_failure {
                    Some(failure)
                        if route
                            .pool
                            .all()
                            .all(|dyno| search.tried.contains(&dyno.id())) =>
                    {
                        return Err(failure);
                    }
                    _ => (
                        search
                            .deadline
                            .min(clock::now() + search.backoff.next(fastrand::u32(..))),
                        Failure::AllQuarantined,
                    ),
                },
            };
            // Listen first, then look once more: an update between the look and the wait must not be missed.
            if listening {
                break waiting;
            }
            changed.as_mut().enable();
            listening = true;
            if refresh(worker, admitted, exchange)? {
                break (clock::now(), Failure::Platform);
            }
        };
        tokio::select! {
            // Cancel-safe: what the client sends meanwhile stays in its buffer.
            () = &mut changed => {}
            () = tokio::time::sleep_until(wait_until) => {
                if clock::now() >= search.deadline {
                    return Err(at_deadline);
                }
            }
            () = client.gone(worker.shared.limits.request_buffer) => return Err(Failure::ClientInterrupted),
        }
        refresh(worker, admitted, exchange)?;
    }
}

/// Takes the newest version of the app; whether it is another one. The app's state may stop the request by now.
fn refresh(
    worker: &Worker,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
) -> Result<bool, Failure> {
    let route = worker
        .route(&admitted.host.name)
        .ok_or(Failure::NoSuchApp)?;
    let same = Arc::ptr_eq(&route.app, &exchange.route.app);
    if !same {
        // A domain that moved to another app takes no waiting requests along: they were admitted and counted for the first.
        if route.app.name != exchange.route.app.name {
            return Err(Failure::NoSuchApp);
        }
        check_app(&route.app)?;
        exchange.route = route;
    }
    Ok(!same)
}

/// A kept connection, if the app allows it. A request that cannot be sent again gets a young one only.
fn take_kept(
    worker: &Worker,
    app: &App,
    head: &RequestHead,
    admitted: &Admitted<'_>,
    lease: &Lease,
) -> Option<DynoConn> {
    if !app.settings.dyno_keepalive {
        return None;
    }
    let resendable =
        retry::is_safe(head.method()) && !admitted.framing.has_body() && !admitted.upgrade;
    let max_idle = if resendable {
        None
    } else {
        Some(retry::UNSAFE_REUSE_IDLE)
    };
    worker.idle().take(lease.dyno(), max_idle, clock::now())
}

async fn open<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    exchange: &mut Exchange<'_>,
    lease: &Lease,
    deadline: Instant,
) -> Result<DynoConn, Failure> {
    let started = clock::now();
    let limit = worker
        .shared
        .timeouts
        .connect
        .min(deadline.saturating_duration_since(started));
    worker.event(Event::ConnectAttempt);
    let dialled = tokio::select! {
        biased;
        dialled = dial(lease.dyno().address(), limit) => dialled,
        () = client.gone(worker.shared.limits.request_buffer) => return Err(Failure::ClientInterrupted),
    };
    let now = clock::now();
    let took = now.saturating_duration_since(started);
    exchange.connect = Some(took);
    let stream = dialled?;
    worker.event(Event::Connected(took));
    Ok(DynoConn::new(
        stream,
        HeadLimits::response(&worker.shared.limits),
        now,
    ))
}

/// Sends the client a cookie when the dyno is not the one its cookie names (spec §4.3).
fn set_affinity(worker: &Worker, exchange: &mut Exchange<'_>, lease: &Lease, search: &Search) {
    let name = lease.dyno().name().as_str();
    if !exchange.route.app.settings.session_affinity || search.preferred.as_deref() == Some(name) {
        return;
    }
    let expires = clock::unix_millis(clock::wall()) / 1000 + affinity::LIFETIME_SECONDS;
    let value = worker.shared.affinity.seal(name, expires);
    exchange.set_cookie = Some(affinity::set_cookie(&worker.shared.affinity_cookie, &value));
}

fn write_head<IO: Transport>(
    worker: &Worker,
    client: &Client<IO>,
    head: &RequestHead,
    admitted: &Admitted<'_>,
    exchange: &Exchange<'_>,
    plan: &Plan,
    conn: &mut DynoConn,
) {
    let ours = RequestFields {
        forwarded_for: &exchange.forwarded_for,
        proto: "http",
        port: client.port,
        request_start: exchange.request_start,
        request_id: exchange.request_id.as_str(),
        via: &worker.shared.via,
        keep_alive: exchange.route.app.settings.dyno_keepalive,
        pass_expect: plan.pass_continue,
    };
    let mut out = BytesMut::new();
    forward::write_request(head, admitted, &ours, &mut out);
    conn.out.push(out.freeze());
}

fn may_resend(head: &RequestHead, fault: &Fault) -> bool {
    let dyno_died = matches!(
        fault.failure,
        Failure::ClosedWithoutResponse | Failure::DynoInterrupted
    );
    dyno_died && !fault.head_sent && retry::may_resend(head.method(), fault.sent)
}

/// The kept connection was dead: a new one to the same dyno, with the bytes that the dead one did not take.
async fn redial<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    exchange: &mut Exchange<'_>,
    lease: &Lease,
    dead: DynoConn,
    upload: &Upload,
) -> Result<DynoConn, Failure> {
    worker.event(Event::Retry);
    let deadline = clock::now() + worker.shared.timeouts.connect;
    let mut conn = match open(worker, client, exchange, lease, deadline).await {
        Ok(conn) => conn,
        Err(failure) => {
            exchange.connected_at = None;
            if verdict::of(failure).quarantine {
                worker.event(Event::ConnectFailed(failure));
                lease
                    .dyno()
                    .quarantine(clock::now() + worker.shared.limits.quarantine);
                worker.event(Event::Quarantined);
            }
            return Err(failure);
        }
    };
    exchange.connected_at = Some(clock::now());
    if !upload.written() {
        conn.out = dead.out;
    }
    Ok(conn)
}

fn keep(worker: &Worker, app: &App, lease: &Lease, conn: DynoConn, dyno_limit: Option<Duration>) {
    if !app.settings.dyno_keepalive || worker.is_draining() {
        return;
    }
    // A dyno that says when it will close gets a second of grace, so that its close and our next request do not cross.
    let dyno_limit = dyno_limit.map(|limit| limit.saturating_sub(Duration::from_secs(1)));
    let keep_for = dyno_limit
        .unwrap_or(Duration::MAX)
        .min(worker.shared.timeouts.dyno_idle);
    if !keep_for.is_zero() {
        worker.idle().put(
            lease.dyno(),
            conn,
            keep_for,
            worker.shared.limits.idle_connections_per_dyno,
            clock::now(),
        );
    }
}

async fn run_tunnel<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    exchange: &mut Exchange<'_>,
    lease: &Lease,
    conn: &mut DynoConn,
    idle: Duration,
) -> Result<After, Fallen> {
    let _counted = Counted::new(&worker.gauges.tunnels);
    worker.event(Event::TunnelOpened);
    let end = tunnel(worker, client, conn, exchange, lease.dyno(), idle).await;
    worker.event(Event::TunnelClosed);
    match end {
        TunnelEnd::Closed => Ok(After::Close),
        TunnelEnd::Failed(failure) => Err(Fallen::AfterHead {
            failure,
            until_close: false,
        }),
    }
}

/// Refuses a request whose app is not known: no log line.
pub(crate) fn refuse<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    failure: Failure,
    to_head: bool,
    keep_alive: bool,
) -> After {
    worker.event(Event::Refused(failure));
    respond::failure(worker, client, failure, None, to_head, keep_alive);
    if keep_alive {
        After::KeepAlive
    } else {
        After::Linger
    }
}

/// Answers a failure of a known app while the client can still be told.
async fn answer_failure<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    head: &RequestHead,
    exchange: &mut Exchange<'_>,
    failure: Failure,
    reusable: bool,
) -> After {
    exchange.failed(failure);
    let malformed = matches!(failure, Failure::BadHeader | Failure::BadChunk);
    let keep_alive = reusable && !malformed && failure != Failure::ConnectionLimit;
    let to_head = head.method() == b"HEAD";
    let Some(answer) = respond::failure(
        worker,
        client,
        failure,
        Some(&exchange.route.app),
        to_head,
        keep_alive,
    ) else {
        return if failure == Failure::ClientIdle {
            After::Close
        } else {
            After::Abort
        };
    };
    exchange.status = Some(answer.status);
    exchange.bytes = answer.bytes;
    // The line says what the client got, so it waits for the last byte.
    match client.flush(worker.shared.timeouts.idle).await {
        Ok(()) if keep_alive => After::KeepAlive,
        Ok(()) => After::Linger,
        Err(_) => After::Close,
    }
}

/// Ends a connection whose response cannot be completed: what there is of it is delivered, and the end is made visible.
async fn cut<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    exchange: &mut Exchange<'_>,
    failure: Failure,
    until_close: bool,
) -> After {
    let client_left = matches!(failure, Failure::ClientInterrupted | Failure::ClientIdle);
    if client_left || client.flush(worker.shared.timeouts.idle).await.is_err() {
        exchange.bytes = exchange.bytes.saturating_sub(client.out.len() as u64);
        return After::Abort;
    }
    if until_close {
        After::Abort
    } else {
        After::Close
    }
}
