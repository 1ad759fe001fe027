//! `router serve`: reads the configuration and runs the router.

use std::process::ExitCode;

use super::{FAILURE, Life, USAGE, complain};
use crate::certificates::Defaults;
use crate::run::{self, Ending};
use crate::{config, trace};

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    #[command(flatten)]
    life: Life,
}

impl Serve {
    pub(super) fn run(self) -> ExitCode {
        let mut loaded = config::load(&self.life.config.config);
        let mut problems = loaded.problems();
        let defaults =
            Defaults::load(&loaded.config).map_err(|wrong| problems.extend(loaded.in_file(wrong)));
        // Such a file is good for a relay.
        if problems.is_empty() && loaded.config.listeners.is_empty() {
            let wrong = "listener: is missing; allowed: at least one [[listener]] with an address";
            problems.extend(loaded.in_file(vec![wrong.to_owned()]));
        }
        let diagnostics = trace::start(self.life.log_level.as_deref());
        problems.extend(diagnostics.as_ref().err().cloned());
        let (Ok(defaults), true) = (defaults, problems.is_empty()) else {
            complain(problems);
            return ExitCode::from(USAGE);
        };
        if let Some(admin) = self.life.admin {
            loaded.config.admin = admin;
        }
        let ending = run::serve(loaded.config, defaults);
        drop(diagnostics);
        match ending {
            Ok(Ending::Clean) => ExitCode::SUCCESS,
            Ok(Ending::Cut) => ExitCode::from(CUT),
            Err(error) => {
                complain([format!("router: {error}")]);
                FAILURE
            }
        }
    }
}

/// Requests had to be cut at the end of the drain.
const CUT: u8 = 3;
