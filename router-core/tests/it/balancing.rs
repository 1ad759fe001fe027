//! How requests are spread over the dynos of an app, by each balancer.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use router_testkit::{AppDoc, FakeDyno, RawClient, ServingDyno, eventually};

use crate::world::{World, assert_served, get, ok, shop};

async fn serving(count: usize) -> Vec<ServingDyno> {
    let mut dynos = Vec::new();
    for _ in 0..count {
        dynos.push(FakeDyno::respond_with(|_| ok("x").into_bytes()).await);
    }
    dynos
}

fn app(dynos: &[ServingDyno], balancer: &str) -> AppDoc {
    let all = dynos.iter().enumerate();
    all.fold(shop(), |app, (index, dyno)| {
        app.web(index + 1, dyno.address())
    })
    .setting("balancer", balancer)
}

/// Makes a request and gives the dyno that served it.
async fn served_by(world: &World, client: &mut RawClient, request: &str) -> String {
    assert_eq!(client.exchange(request).await.status, 200);
    let record = world.log.next().await;
    let dyno = record.dyno().expect("a dyno").to_owned();
    assert_served(&record, &dyno, 200);
    dyno
}

async fn spread(world: &World, requests: usize) -> BTreeMap<String, usize> {
    let mut client = world.client().await;
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts
            .entry(served_by(world, &mut client, &get("/")).await)
            .or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn round_robin_takes_turns() {
    let world = World::start();
    let dynos = serving(3).await;
    world.apply(&[app(&dynos, "round_robin")]);
    let counts = spread(&world, 30).await;
    assert_eq!(
        counts.values().copied().collect::<Vec<usize>>(),
        [10, 10, 10],
        "{counts:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn random_and_least_requests_leave_no_dyno_out() {
    for balancer in ["random", "least_requests"] {
        let world = World::start();
        let dynos = serving(4).await;
        world.apply(&[app(&dynos, balancer)]);
        let counts = spread(&world, 400).await;
        // One hundred each on the average; under forty has a chance of one in a billion.
        assert!(
            counts.len() == 4 && counts.values().all(|count| *count > 40),
            "{balancer}: {counts:?}"
        );
        world.finish().await;
    }
}

#[tokio::test]
async fn least_requests_is_the_default_and_avoids_the_busy_dyno() {
    let world = World::start();
    let busy = FakeDyno::start().await;
    let free = serving(1).await;
    world.apply(&[shop().web(1, busy.address())]);
    // The one dyno there is gets four requests that it does not answer.
    let mut running = Vec::new();
    for _ in 0..4 {
        let mut client = world.client().await;
        client.send(get("/slow")).await;
        let mut conn = busy.accept().await;
        conn.read_head().await;
        running.push((client, conn));
    }
    // Counts survive the update: the new dyno is the less busy of the two every time.
    world.apply(&[shop().web(1, busy.address()).web(2, free[0].address())]);
    assert_eq!(
        spread(&world, 20).await,
        BTreeMap::from([("web.2".to_owned(), 20)])
    );
    for (client, conn) in &mut running {
        conn.write(ok("done")).await;
        assert_eq!(client.read_response().await.status, 200);
        assert_served(&world.log.next().await, "web.1", 200);
    }
    busy.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn consistent_hash_keeps_a_client_address_on_its_dyno() {
    let world = World::start();
    let dynos = serving(4).await;
    world.apply(&[app(&dynos, "consistent_hash")]);
    let mut homes = BTreeMap::new();
    for last in 1..=32 {
        let address = SocketAddr::from(([127, 0, 0, last], 0));
        for _ in 0..2 {
            let mut client = RawClient::connect_from(address, world.address()).await;
            let dyno = served_by(&world, &mut client, &get("/")).await;
            assert_eq!(
                *homes.entry(last).or_insert_with(|| dyno.clone()),
                dyno,
                "127.0.0.{last}"
            );
        }
    }
    let used: std::collections::BTreeSet<&String> = homes.values().collect();
    assert!(used.len() > 1, "{homes:?}");

    // With one dyno less only its own clients move.
    world.apply(&[app(&dynos[..3], "consistent_hash")]);
    for (last, home) in &homes {
        let address = SocketAddr::from(([127, 0, 0, *last], 0));
        let mut client = RawClient::connect_from(address, world.address()).await;
        let dyno = served_by(&world, &mut client, &get("/")).await;
        assert!(
            *home == dyno || home == "web.4",
            "127.0.0.{last} moved from {home} to {dyno}"
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn consistent_hash_can_key_on_a_header_or_a_cookie() {
    let cases = [
        (serde_json::json!({"header": "X-Tenant"}), "x-tenant: KEY"),
        (
            serde_json::json!({"cookie": "sid"}),
            "Cookie: a=b; sid=KEY; c=d",
        ),
    ];
    for (hash_key, line) in cases {
        let world = World::start();
        let dynos = serving(4).await;
        world.apply(&[app(&dynos, "consistent_hash").setting("hash_key", hash_key)]);
        let mut homes = BTreeMap::new();
        let mut client = world.client().await;
        for round in 0..2 {
            for tenant in 0..24 {
                let line = line.replace("KEY", &format!("tenant-{tenant}"));
                let request = format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{line}\r\n\r\n");
                let dyno = served_by(&world, &mut client, &request).await;
                let home = homes.entry(tenant).or_insert_with(|| dyno.clone());
                assert_eq!(*home, dyno, "tenant {tenant} in round {round}");
            }
        }
        let used: std::collections::BTreeSet<&String> = homes.values().collect();
        assert!(used.len() > 1, "{homes:?}");
        // Without the key there is still an answer.
        served_by(&world, &mut client, &get("/")).await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_dyno_that_joins_gets_requests_and_one_that_leaves_gets_none() {
    for balancer in ["least_requests", "random", "round_robin"] {
        let world = World::start();
        let dynos = serving(2).await;
        world.apply(&[app(&dynos[..1], balancer)]);
        assert_eq!(spread(&world, 5).await.len(), 1);
        world.apply(&[app(&dynos, balancer)]);
        assert_eq!(spread(&world, 60).await.len(), 2, "{balancer}");
        world.apply(&[app(&dynos[..1], balancer)]);
        assert_eq!(
            spread(&world, 20).await,
            BTreeMap::from([("web.1".to_owned(), 20)]),
            "{balancer}"
        );
        eventually(
            "the kept connections of the dyno that left are closed",
            || (dynos[1].open_connections() == 0).then_some(()),
        )
        .await;
        world.finish().await;
    }
}

#[tokio::test]
async fn the_balancer_can_change_while_requests_run() {
    let world = World::start();
    let dynos = serving(3).await;
    for balancer in [
        "random",
        "round_robin",
        "consistent_hash",
        "least_requests",
        "random",
    ] {
        world.apply(&[app(&dynos, balancer)]);
        assert_eq!(spread(&world, 9).await.values().sum::<usize>(), 9);
    }
    world.finish().await;
}
