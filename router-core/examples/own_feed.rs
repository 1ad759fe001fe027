//! A feed of one's own: a folder with a file for each app, looked at twice a second. Run it with
//! `cargo run -p router-core --example own_feed -- 127.0.0.1:8080 apps/`, and put `apps/shop.json` there:
//! `{"name": "shop", "domains": ["shop.test"], "dynos": [{"name": "web.1", "address": "127.0.0.1:5001", "state": "up"}]}`.
//!
//! All else is the runner's: a bad app keeps its previous version and holds up no other, a folder that is suddenly empty
//! is not believed, and what is in force is kept in `routes.last-good.json` for the next start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use router_core::Router;
use router_core::feed::{self, Feed, FeedError, FeedOptions, Position, Update};
use router_core::server::{ListenerSettings, Server};

/// The files of a folder, as one route document.
struct Folder {
    path: PathBuf,
    /// What was last given.
    given: Vec<String>,
}

impl Folder {
    fn read(&self) -> std::io::Result<Vec<String>> {
        let mut files: Vec<_> = std::fs::read_dir(&self.path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.retain(|file| {
            file.extension()
                .is_some_and(|extension| extension == "json")
        });
        files.sort();
        files.into_iter().map(std::fs::read_to_string).collect()
    }
}

impl Feed for Folder {
    fn source(&self) -> &'static str {
        "folder"
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        loop {
            let apps = self.read().map_err(|error| {
                FeedError(format!("{} cannot be read: {error}", self.path.display()))
            })?;
            if apps != self.given || position.need_whole {
                // Any number that only ever grows will do; after a restart, this one goes on from the cache's.
                let revision = position.revision.map_or(1, |revision| revision + 1);
                let list = apps.join(",");
                self.given = apps;
                let document =
                    format!("{{\"format\": 1, \"revision\": {revision}, \"apps\": [{list}]}}");
                return Ok(Update::Snapshot(document.into()));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(path)) = (arguments.next(), arguments.next()) else {
        return Err("usage: own_feed ADDRESS FOLDER".into());
    };
    let router = Router::builder().build()?;
    let folder = Folder {
        path: path.into(),
        given: Vec::new(),
    };
    let options = FeedOptions {
        cache: Some("routes.last-good.json".into()),
        ..FeedOptions::default()
    };
    let feed = feed::start(&router, folder, options);
    let listener = ListenerSettings::http(address.parse::<SocketAddr>()?);
    let server = Server::builder(router).listener(listener).start()?;
    eprintln!("listening on {:?}", server.addresses());

    tokio::signal::ctrl_c().await?;
    eprintln!("{:#?}", feed.status());
    server.drain(Duration::from_secs(10)).await;
    feed.stop().await;
    Ok(())
}
