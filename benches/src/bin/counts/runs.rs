//! A router that works below a tool, twice: what a short and a long run have in common, such as the start, is no part of an
//! operation.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use router_benches::dyno;
use router_benches::load::{Site, Work};
use router_benches::process::{self, RouterProcess};

/// What the tool has written of each run, by the names of its files.
pub(crate) struct Runs {
    pub(crate) short: BTreeMap<String, String>,
    pub(crate) long: BTreeMap<String, String>,
    /// How many more the long run has.
    pub(crate) operations: f64,
}

impl Runs {
    /// The tool's command lacks nothing but the router's path, and it writes files whose names begin with `out`.
    pub(crate) fn below(tool: impl Fn() -> Command, out: &str, router: &Path, work: Work) -> Self {
        let site = Site::new(dyno::start(), true);
        let run = |rounds| {
            let mut command = tool();
            command.arg(router);
            let config = process::config(work.is_tls()) + ONE_WORKER_AND_LOG;
            let process = RouterProcess::launch(command, &config, site.document());
            let mut load = site.open(work, process.address());
            for _ in 0..rounds {
                load.round();
            }
            drop(load);
            process.stop(out)
        };
        let more = work.counted_rounds();
        Self {
            short: run(WARM_UP),
            long: run(WARM_UP + more),
            operations: (more * work.operations()) as f64,
        }
    }
}

/// Rounds after which every buffer has been used.
const WARM_UP: usize = 4;
const ONE_WORKER_AND_LOG: &str = "
[access_log]
target = \"access.log\"
[workers]
threads = 1
";
