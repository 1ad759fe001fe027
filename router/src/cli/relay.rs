//! `router relay`: reads a feed and passes it on to other routers.

use std::process::ExitCode;

use super::{FAILURE, Life, USAGE, complain};
use crate::{config, run, trace};

#[derive(Debug, clap::Args)]
pub(super) struct Relay {
    #[command(flatten)]
    life: Life,
}

impl Relay {
    pub(super) fn run(self) -> ExitCode {
        let mut loaded = config::load(&self.life.config.config);
        let mut problems = loaded.problems();
        let wrong = match &loaded.config.relay {
            // Where the file cannot be read at all, that has been said.
            None if problems.is_empty() => {
                Some("relay: is missing; allowed: a table [relay], which may be empty".to_owned())
            }
            None => None,
            Some(relay) => config::check_relay(relay),
        };
        problems.extend(loaded.in_file(wrong.into_iter().collect()));
        let diagnostics = trace::start(self.life.log_level.as_deref());
        problems.extend(diagnostics.as_ref().err().cloned());
        let relay = loaded.config.relay.take();
        let (Some(relay), true) = (relay, problems.is_empty()) else {
            complain(problems);
            return ExitCode::from(USAGE);
        };
        if let Some(admin) = self.life.admin {
            loaded.config.admin = admin;
        }
        let ended = run::relay(&loaded.config, relay);
        drop(diagnostics);
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain([format!("router: {error}")]);
                FAILURE
            }
        }
    }
}
