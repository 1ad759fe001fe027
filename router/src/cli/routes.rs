//! `router routes`: the route table of a running router, one row per dyno.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::ask::{Answer, RunningRouter};
use super::explain::{feed, shown};
use super::table::lay_out;
use super::{FAILURE, complain, print};

#[derive(Debug, clap::Args)]
pub(super) struct Routes {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// Wait until this revision or a newer one is in force, and show how the feed stands
    #[arg(long, value_name = "REVISION")]
    wait: Option<u64>,
    /// Exit with 3 if anything of this app was rejected: then it is not there as that revision has it
    #[arg(long, value_name = "NAME", requires = "wait")]
    app: Option<String>,
    /// How long to wait, such as 500ms or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    router: RunningRouter,
}

impl Routes {
    pub(super) fn run(self) -> ExitCode {
        if let Some(revision) = self.wait {
            return self.wait_for(revision);
        }
        let answer = match self.router.ask("/v1/routes") {
            Ok(answer) => answer,
            Err(error) => {
                complain([error.to_string()]);
                return error.exit_code();
            }
        };
        if answer.status != 200 {
            complain([answer.text]);
            return FAILURE;
        }
        print(&if self.json {
            answer.text
        } else {
            readable(&answer.json)
        });
        ExitCode::SUCCESS
    }

    fn wait_for(&self, revision: u64) -> ExitCode {
        let has_it = |answer: &Answer| {
            let newest = answer.json.get("revision").and_then(Value::as_u64);
            answer.status == 200 && newest.is_some_and(|newest| newest >= revision)
        };
        let answer = match self.router.ask_until("/v1/feed", has_it, self.timeout) {
            Ok(answer) => answer,
            Err(error) => {
                complain([error.to_string()]);
                return error.exit_code();
            }
        };
        if self.json {
            print(&answer.text);
        } else {
            print(&feed(&answer.json));
        }
        // Whoever deploys one of these waits for what will not come.
        let rejected = answer.json.get("rejected").and_then(Value::as_array);
        let rejected = rejected.map_or([].as_slice(), Vec::as_slice);
        let part = |rejection: &Value, key| rejection.get(key).map(shown).unwrap_or_default();
        complain(rejected.iter().map(|rejection| {
            format!(
                "rejected: {}: {}",
                part(rejection, "app"),
                part(rejection, "reason")
            )
        }));
        if has_it(&answer) {
            let app = self.app.as_ref();
            let is_it = |app: &String| rejected.iter().any(|bad| part(bad, "app") == *app);
            return if app.is_some_and(is_it) {
                ExitCode::from(REJECTED)
            } else {
                ExitCode::SUCCESS
            };
        }
        let timeout = self.timeout;
        complain([format!(
            "revision {revision} is not in force after {timeout:?}"
        )]);
        if let Some(error) = answer.json.get("last_error").and_then(Value::as_str) {
            complain([format!("the feed: {error}")]);
        }
        ExitCode::from(NOT_IN_TIME)
    }
}

/// The router has the revision, but not the app as it is in there.
const REJECTED: u8 = 3;
/// The router does not have the revision that was waited for.
const NOT_IN_TIME: u8 = 2;

fn readable(answer: &Value) -> String {
    let heading = [
        "APP",
        "DOMAINS",
        "DYNO",
        "ADDRESS",
        "STATE",
        "IN-FLIGHT",
        "IDLE-CONNECTIONS",
        "NOTE",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for app in answer["apps"].as_array().into_iter().flatten() {
        let domains: Vec<_> = app["domains"]
            .as_array()
            .into_iter()
            .flatten()
            .map(shown)
            .collect();
        let mut about_app = vec![shown(&app["name"]), domains.join(","), app_note(app)];
        let dynos = app["dynos"].as_array().map_or([].as_slice(), Vec::as_slice);
        for dyno in dynos {
            let note = [about_app.pop().unwrap_or_default(), dyno_note(dyno)];
            let note: Vec<_> = note.into_iter().filter(|part| !part.is_empty()).collect();
            let mut row = std::mem::take(&mut about_app);
            row.resize(2, String::new());
            row.extend(
                ["name", "address", "state", "in_flight", "idle_connections"]
                    .map(|key| shown(&dyno[key])),
            );
            row.push(note.join(", "));
            rows.push(row);
        }
        if dynos.is_empty() {
            let note = about_app.pop().unwrap_or_default();
            about_app.resize(heading.len() - 1, String::new());
            about_app.push(note);
            rows.push(about_app);
        }
    }
    format!("{}{}", lay_out(&rows), feed(&answer["feed"]))
}

fn app_note(app: &Value) -> String {
    if app["maintenance"] == true {
        "maintenance".to_owned()
    } else if app["released"] == false {
        "no release".to_owned()
    } else if let Some(reason) = app["suspended"].as_str() {
        format!("suspended: {reason}")
    } else {
        String::new()
    }
}

fn dyno_note(dyno: &Value) -> String {
    dyno["quarantined_for_ms"]
        .as_u64()
        .map_or_else(String::new, |ms| format!("quarantined for {ms} ms"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_a_table_with_a_row_for_each_dyno() {
        let answer = json!({
            "apps": [
                {"name": "blank", "domains": [], "released": false, "dynos": []},
                {"name": "shop", "domains": ["a.example", "b.example"], "maintenance": true, "dynos": [
                    {"name": "web.1", "address": "127.0.0.1:5001", "state": "up", "in_flight": 3, "idle_connections": 1,
                     "quarantined_for_ms": 4000},
                    {"name": "run.1", "address": null, "state": "up", "in_flight": 0, "idle_connections": 0},
                ]},
            ],
            "feed": {"revision": 7, "age_seconds": 1.0, "stale": true},
        });
        let wanted = "\
APP    DOMAINS              DYNO   ADDRESS         STATE  IN-FLIGHT  IDLE-CONNECTIONS  NOTE
blank                                                                                  no release
shop   a.example,b.example  web.1  127.0.0.1:5001  up     3          1                 maintenance, quarantined for 4000 ms
                            run.1                  up     0          0
feed: revision 7, 1 s old, stale (from the cache)
";
        assert_eq!(readable(&answer), wanted);
    }
}
