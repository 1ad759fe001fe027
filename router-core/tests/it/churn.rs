//! Routes that change all the time under load: no request may fail, none may be lost, none may reach a dyno that was not
//! in the routes while it ran.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use router_core::model::snapshot;
use router_testkit::{AppDoc, FakeDyno, RawClient, RouteDoc, ServingDyno};

use crate::world::{World, assert_served, get, ok, post, shop};

const CLIENTS: usize = 8;
const REQUESTS: usize = 250;

async fn dynos(count: usize) -> Vec<ServingDyno> {
    let mut dynos = Vec::new();
    for _ in 0..count {
        dynos.push(
            FakeDyno::respond_with_body(|_, body| ok(&format!("got {}", body.len())).into_bytes())
                .await,
        );
    }
    dynos
}

/// The shop in a shape that differs from round to round, always with at least one dyno up.
fn shape(round: usize, dynos: &[ServingDyno]) -> AppDoc {
    let balancers = ["least_requests", "random", "round_robin", "consistent_hash"];
    let states = ["up", "draining", "up", "starting", "up", "crashed"];
    let app = shop()
        .setting("balancer", balancers[round % 4])
        .setting("session_affinity", round.is_multiple_of(3));
    let app = app.domain(&format!("round-{round}.test"));
    let app = app.setting("dyno_keepalive", !round.is_multiple_of(5));
    let others = dynos.iter().enumerate().skip(1);
    let app = others.fold(app, |app, (index, dyno)| {
        // Every dyno but the first comes, goes and changes its state.
        if (round + index).is_multiple_of(4) {
            return app;
        }
        app.dyno(
            &format!("web.{}", index + 1),
            dyno.address(),
            states[(round + index) % states.len()],
        )
    });
    app.web(1, dynos[0].address())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_routes_change_all_the_time() {
    let world = World::with(|setup| setup.workers = Some(2));
    let dynos = Arc::new(dynos(5).await);
    world.apply(&[shape(0, &dynos)]);

    let stop = Arc::new(AtomicBool::new(false));
    let updating = std::thread::spawn({
        let (router, stop, dynos) = (world.router.clone(), Arc::clone(&stop), Arc::clone(&dynos));
        move || {
            let mut round = 0;
            while !stop.load(Ordering::SeqCst) {
                round += 1;
                let neighbour = AppDoc::new(&format!("app-{}", round % 7))
                    .domain(&format!("app-{}.test", round % 7));
                let document = RouteDoc::new(round as u64 + 1, &[shape(round, &dynos), neighbour])
                    .allow_shrink();
                let snapshot =
                    snapshot::parse(&document.to_bytes()).expect("a document that parses");
                router.table().apply(&snapshot).expect("applied");
            }
            round
        }
    });

    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let address = world.address();
        clients.spawn(async move {
            let mut client = RawClient::connect(address).await;
            for request in 0..REQUESTS {
                let response = match request % 3 {
                    0 => client.exchange(post("/", "the body")).await,
                    _ => client.exchange(get(&format!("/{number}/{request}"))).await,
                };
                let expected = if request % 3 == 0 { "got 8" } else { "got 0" };
                assert_eq!((response.status, response.text().as_str()), (200, expected));
                if !response.open {
                    client = RawClient::connect(address).await;
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every request of every client is served");
    }
    stop.store(true, Ordering::SeqCst);
    let rounds = updating.join().unwrap();
    assert!(rounds > 20, "only {rounds} updates: that was no churn");

    for _ in 0..CLIENTS * REQUESTS {
        let record = world.log.next().await;
        let dyno = record.dyno().expect("a dyno").to_owned();
        assert_served(&record, &dyno, 200);
    }
    let served: usize = dynos.iter().map(ServingDyno::requests).sum();
    assert_eq!(
        served,
        CLIENTS * REQUESTS,
        "each request reached a dyno exactly once"
    );
    world.finish().await;
}
