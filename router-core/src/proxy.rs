//! THE HOT PATH: one request from its head to its last byte. Control flow is here and only here; what is decided, and
//! how bytes move, is written in the rooms it calls. Read it from [`handle`] down.

mod connect;
mod reach;

use std::sync::Arc;
use std::time::Duration;

use router_model::admission::{self, Admitted};
use router_model::app::App;
use router_model::failure::Failure;
use router_model::forward::{self, Believed, RequestFields};
use router_model::h1::chunked::ChunkLimits;
use router_model::h1::{RequestHead, Version};
use router_model::retry;
use router_model::settings::Hsts;

use self::connect::{Search, connect, refresh};
use crate::client::{self, Client};
use crate::clock;
use crate::dyno_conn::DynoConn;
use crate::exchange::Exchange;
use crate::observe::Event;
use crate::peer::Peer;
use crate::pool::Lease;
use crate::relay::{Ended, Fault, Plan, Relay, TunnelEnd, Upload, tunnel};
use crate::respond;
use crate::router::Shared;
use crate::table::AppPermit;
use crate::worker::{Counted, LocalRoute, Worker};

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request may come.
    KeepAlive,
    /// It ends: the client owes nothing and is owed nothing.
    Close,
    /// It ends, but the client may still be sending: let it read the answer first.
    Linger,
    /// It ends at once, whatever is queued.
    Drop,
    /// It ends with an error, so that a cut response does not look like a whole one.
    Abort,
}

/// Serves one request.
pub(crate) async fn handle<C: Client>(
    worker: &Worker,
    client: &mut C,
    head: &RequestHead,
) -> After {
    let admitted = match admission::admit(head) {
        Ok(admitted) => admitted,
        Err(failure) => return refuse(worker, client, failure, head.method() == b"HEAD", false),
    };
    client.begin_body(admitted.framing, chunk_limits(worker));
    let mut upload = Upload::new(clock::now());
    if let Some(key_authorization) = challenge(worker, head) {
        let keep_alive = may_go_on(worker, client, &admitted, &mut upload);
        let to_head = head.method() == b"HEAD";
        respond::challenge(worker, client, &key_authorization, to_head, keep_alive);
        return after(keep_alive, &upload, client);
    }
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
    let peer = Arc::clone(client.peer());
    let mut exchange = Exchange::begin(worker, head, admitted.host_as_sent, &peer, route);
    let served = serve(
        worker,
        client,
        head,
        &peer,
        &admitted,
        &mut exchange,
        &mut upload,
    )
    .await;
    match served {
        Ok(after) => {
            exchange.answered();
            after
        }
        Err(Fallen::BeforeHead(failure)) => {
            answer_failure(
                worker,
                client,
                head,
                &mut exchange,
                failure,
                &mut upload,
                &admitted,
            )
            .await
        }
        Err(Fallen::AfterHead(failure)) => {
            exchange.failed(failure);
            cut(worker, client, &mut exchange, failure).await
        }
    }
}

/// What follows a complete response.
fn after<C: Client>(keep_alive: bool, upload: &Upload, client: &C) -> After {
    if keep_alive {
        After::KeepAlive
    } else if upload.is_read() && !client.has_unread() {
        After::Close
    } else {
        After::Linger
    }
}

/// Whether another request can follow one that is answered by the router: the client wants it, and the body is out of
/// the way.
fn may_go_on<C: Client>(
    worker: &Worker,
    client: &mut C,
    admitted: &Admitted<'_>,
    upload: &mut Upload,
) -> bool {
    admitted.keep_alive && !worker.is_draining() && upload.discard(client)
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
    AfterHead(Failure),
}

impl From<Failure> for Fallen {
    fn from(failure: Failure) -> Self {
        Self::BeforeHead(failure)
    }
}

/// From a known app to the last byte.
async fn serve<C: Client>(
    worker: &Worker,
    client: &mut C,
    head: &RequestHead,
    peer: &Peer,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
    upload: &mut Upload,
) -> Result<After, Fallen> {
    check_door(worker, peer, head, &admitted.host.name, &exchange.route)?;
    if let Some(violation) = admitted.violation {
        return Err(violation.into());
    }
    let believed = if peer.is_trusted() {
        Believed::of(head.fields())
    } else {
        Believed::default()
    };
    let proto = believed.proto.unwrap_or_else(|| peer.proto());
    if exchange.route.app.settings.redirect_to_https && proto == "http" {
        return redirect(worker, client, head, admitted, exchange, upload).await;
    }
    check_app(&worker.shared, &exchange.route.app)?;
    let speaks_h2 = exchange.route.app.settings.dyno_protocol.is_http2() && !admitted.upgrade;
    if speaks_h2 && !forward::fits_h2(head, admitted) {
        return Err(Failure::BadHeader.into());
    }
    if peer.above_limit {
        return Err(Failure::ConnectionLimit.into());
    }
    let _permit = AppPermit::acquire(
        &exchange.route.state,
        concurrency_limit(worker, &exchange.route),
    )
    .ok_or(Failure::BacklogTooDeep)?;

    // The app's own count is shared by all workers.
    let route = Arc::clone(&exchange.route);
    let app = &route.app;
    let plan = plan(worker, head, admitted, app, proto);
    let address = forward::client_address(head.fields(), peer.ip(), |hop| peer.trusts(hop));
    let mut search = Search::new(worker, head, address, app);
    let (mut lease, mut conn) =
        connect(worker, client, head, admitted, exchange, &mut search).await?;
    if admitted.expects_continue && !plan.pass_continue {
        client.put_continue();
    }
    let line = Line {
        worker,
        peer,
        believed,
        plan: &plan,
    };
    line.put_head(head, admitted, exchange, &mut conn);
    let mut ended = Relay::new(worker, exchange, client, &mut conn, plan, upload)
        .run()
        .await;
    if let Err(fault) = ended
        && may_resend(head, &fault)
    {
        worker.event(Event::Retry);
        // What the dead connection took nothing of goes out as it is; else the request has no body, and its head is
        // written anew.
        let untouched = if upload.written() {
            None
        } else {
            conn.take_unsent()
        };
        search.died_on = Some(lease.dyno().id());
        drop((lease, conn));
        exchange.connected_at = None;
        // What died may have left the formation by now.
        refresh(worker, admitted, exchange)?;
        (lease, conn) = connect(worker, client, head, admitted, exchange, &mut search).await?;
        upload.restart();
        let sent_as_it_is = untouched.is_some_and(|out| conn.put_unsent(out));
        if !sent_as_it_is {
            // What has been read of a body is gone with the connection that it was queued on.
            if admitted.framing.has_body() {
                return Err(fault.failure.into());
            }
            line.put_head(head, admitted, exchange, &mut conn);
        }
        ended = Relay::new(worker, exchange, client, &mut conn, plan, upload)
            .run()
            .await;
    }
    match ended {
        Ok(Ended::Response {
            reusable,
            keep_alive,
        }) => {
            if let Some(dyno_limit) = reusable {
                keep(worker, &exchange.route.app, &lease, conn, dyno_limit);
            }
            Ok(after(keep_alive, upload, client))
        }
        Ok(Ended::Switched) => {
            run_tunnel(worker, client, exchange, &lease, &mut conn, plan.idle).await
        }
        Err(Fault {
            failure,
            head_sent: false,
            ..
        }) => Err(failure.into()),
        Err(Fault { failure, .. }) => Err(Fallen::AfterHead(failure)),
    }
}

/// A connection is for the names that its client asked for in the handshake or that its certificate stands for; a
/// request for another app has come through the wrong door (spec §10-28). Without SNI the Host decides. An app that asks
/// for a newer TLS version, or for no HTTP/2, gets it in the handshake that names it; who came in without that name is
/// sent away.
fn check_door(
    worker: &Worker,
    peer: &Peer,
    head: &RequestHead,
    host: &str,
    route: &LocalRoute,
) -> Result<(), Failure> {
    let wrong_door = if head.version() == Version::Http2 {
        Failure::Misdirected
    } else {
        Failure::CertificateMismatch
    };
    let Some(tls) = &peer.tls else {
        return Ok(());
    };
    let settings = &route.app.settings;
    let declined = head.version() == Version::Http2 && !settings.http2;
    if declined || Some(tls.version) < settings.min_tls_version {
        return Err(wrong_door);
    }
    let Some(sni) = tls.sni.as_deref() else {
        return Ok(());
    };
    let covered = || tls.certificate.covers(host);
    let same_app = || {
        worker
            .route(sni)
            .is_some_and(|of_sni| Arc::ptr_eq(&of_sni.state, &route.state))
    };
    if sni == host || covered() || same_app() {
        Ok(())
    } else {
        Err(wrong_door)
    }
}

/// The answer to an ACME challenge that is known here; all others are the app's own business (spec §5.3).
fn challenge(worker: &Worker, head: &RequestHead) -> Option<Arc<str>> {
    if !matches!(head.method(), b"GET" | b"HEAD") {
        return None;
    }
    const PATH: &[u8] = b"/.well-known/acme-challenge/";
    let token = head.target().strip_prefix(PATH)?;
    worker
        .shared
        .challenges
        .answer(std::str::from_utf8(token).ok()?)
}

/// Sends the client to the https address.
async fn redirect<C: Client>(
    worker: &Worker,
    client: &mut C,
    head: &RequestHead,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
    upload: &mut Upload,
) -> Result<After, Fallen> {
    let keep_alive = may_go_on(worker, client, admitted, upload);
    let to_head = head.method() == b"HEAD";
    let host = &admitted.host.name;
    let answer =
        respond::redirect_to_https(worker, client, host, head.target(), to_head, keep_alive);
    exchange.status = Some(answer.status);
    client::flush(client, worker.shared.timeouts.idle)
        .await
        .map_err(Fallen::AfterHead)?;
    Ok(after(keep_alive, upload, client))
}

/// App states that stop a request before a dyno is chosen, in the order of spec §6.3 rows 4 to 8; and routes that the app
/// calls too old.
pub(crate) fn check_app(shared: &Shared, app: &App) -> Result<(), Failure> {
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
    } else if shared.silence.expires(app) {
        Err(Failure::Platform)
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

fn plan<'p>(
    worker: &Worker,
    head: &'p RequestHead,
    admitted: &Admitted<'_>,
    app: &'p App,
    proto: &str,
) -> Plan<'p> {
    let timeouts = &worker.shared.timeouts;
    let bridged = admitted.upgrade && head.version() == Version::Http2;
    let key = head
        .fields()
        .named(b"sec-websocket-key")
        .filter(|_| bridged);
    let hsts = app.settings.hsts.as_ref().filter(|_| proto == "https");
    Plan {
        framing: admitted.framing,
        is_head: head.method() == b"HEAD",
        upgrade: admitted.upgrade,
        websocket_key: key.and_then(|key| std::str::from_utf8(key).ok()),
        version: head.version(),
        keep_alive: admitted.keep_alive,
        pass_continue: app.settings.end_to_end_continue,
        expects_continue: admitted.expects_continue,
        first_byte: app
            .settings
            .first_byte_timeout
            .unwrap_or(timeouts.first_byte),
        idle: app.settings.idle_timeout.unwrap_or(timeouts.idle),
        hsts: hsts.map(Hsts::as_str),
    }
}

/// What the head of a request says besides what its client wrote, the same on every connection it is sent on.
struct Line<'l> {
    worker: &'l Worker,
    peer: &'l Peer,
    believed: Believed<'l>,
    plan: &'l Plan<'l>,
}

impl Line<'_> {
    fn put_head(
        &self,
        head: &RequestHead,
        admitted: &Admitted<'_>,
        exchange: &Exchange<'_>,
        conn: &mut DynoConn,
    ) {
        let ours = RequestFields {
            forwarded_for: exchange.forwarded_for.as_bytes(),
            proto: self.peer.proto(),
            port: self.peer.port,
            request_start: exchange.request_start,
            request_id: exchange.request_id.as_str(),
            via: self.worker.shared.via(head.version()),
            keep_alive: exchange.route.app.settings.dyno_keepalive,
            pass_expect: self.plan.pass_continue,
            believed: self.believed,
        };
        conn.put_head(head, admitted, &ours);
    }
}

fn may_resend(head: &RequestHead, fault: &Fault) -> bool {
    let dyno_died = fault.sent.refused
        || matches!(
            fault.failure,
            Failure::ClosedWithoutResponse | Failure::DynoInterrupted
        );
    dyno_died && !fault.head_sent && retry::may_resend(head.method(), fault.sent)
}

fn keep(worker: &Worker, app: &App, lease: &Lease, conn: DynoConn, dyno_limit: Option<Duration>) {
    if !app.settings.dyno_keepalive || worker.is_draining() {
        return;
    }
    let Some(conn) = conn.into_kept() else {
        return;
    };
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

async fn run_tunnel<C: Client>(
    worker: &Worker,
    client: &mut C,
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
        TunnelEnd::Closed => {
            client.sink().end();
            Ok(After::Close)
        }
        TunnelEnd::Broken => Ok(After::Close),
        TunnelEnd::Failed(failure) => Err(Fallen::AfterHead(failure)),
    }
}

/// Refuses a request whose app is not known: no log line.
pub(crate) fn refuse<C: Client>(
    worker: &Worker,
    client: &mut C,
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
async fn answer_failure<C: Client>(
    worker: &Worker,
    client: &mut C,
    head: &RequestHead,
    exchange: &mut Exchange<'_>,
    failure: Failure,
    upload: &mut Upload,
    admitted: &Admitted<'_>,
) -> After {
    exchange.failed(failure);
    let reusable = may_go_on(worker, client, admitted, upload);
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
        return After::Drop;
    };
    exchange.status = Some(answer.status);
    exchange.bytes = answer.bytes;
    // The line says what the client got, so it waits for the last byte.
    match client::flush(client, worker.shared.timeouts.idle).await {
        Ok(()) => after(keep_alive, upload, client),
        Err(_) => {
            exchange.bytes = exchange
                .bytes
                .saturating_sub(client.unsent_content() as u64);
            After::Drop
        }
    }
}

/// Ends a connection whose response cannot be completed: what there is of it is delivered, and the end is made visible.
async fn cut<C: Client>(
    worker: &Worker,
    client: &mut C,
    exchange: &mut Exchange<'_>,
    failure: Failure,
) -> After {
    let client_left = matches!(
        failure,
        Failure::ClientInterrupted | Failure::ClientIdle | Failure::StreamBroken
    );
    if client_left
        || client::flush(client, worker.shared.timeouts.idle)
            .await
            .is_err()
    {
        exchange.bytes = exchange
            .bytes
            .saturating_sub(client.unsent_content() as u64);
        return After::Abort;
    }
    After::Close
}
