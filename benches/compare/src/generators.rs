//! The load generators of others, wrk and h2load: how they are called, and what they say. Whatever they call an error ends the comparison.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::failed::{Context, Result, fail};
use crate::figure::{Figure, Figures};
use crate::http::HOST;

/// Where the load goes.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
    /// For files that a generator needs.
    pub(crate) folder: &'a Path,
}

/// What a load has done.
#[derive(Debug)]
pub(crate) struct Load {
    /// How many of what the scenario counts.
    pub(crate) count: f64,
    pub(crate) figures: Figures,
}

impl Target<'_> {
    fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }
}

/// HTTP/1.1 on kept connections. A script is Lua that makes the requests.
pub(crate) fn wrk(
    target: &Target<'_>,
    path: &str,
    connections: usize,
    seconds: u64,
    script: Option<&str>,
) -> Result<Load> {
    let mut command = Command::new("wrk");
    command
        .args(["-t1", "--latency", "--timeout", "30s"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .args(["-H", &format!("Host: {HOST}")]);
    if let Some(script) = script {
        let file = target.folder.join("wrk.lua");
        fs::write(&file, script)?;
        command.arg("-s").arg(file);
    }
    read_wrk(&output(command.arg(target.url(path)))?)
}

/// HTTP/2 over TLS: so many connections, with so many requests at once on each.
pub(crate) fn http2(
    target: &Target<'_>,
    path: &str,
    connections: usize,
    streams: usize,
    seconds: u64,
) -> Result<Load> {
    let [lasts, connections, streams] = [
        format!("-D{seconds}"),
        format!("-c{connections}"),
        format!("-m{streams}"),
    ];
    read_h2load(&h2load(target, path, &[&lasts, &connections, &streams])?)
}

/// One request over TLS.
pub(crate) fn ask_over_tls(target: &Target<'_>, path: &str) -> Result<()> {
    connections(target, path, 1, &[]).map(drop)
}

/// New connections over TLS at a steady rate that all proxies can keep up with, one request on each. No session is resumed.
pub(crate) fn handshakes(target: &Target<'_>, path: &str, seconds: u64) -> Result<Load> {
    connections(
        target,
        path,
        HANDSHAKES_PER_SECOND * seconds as usize,
        &["-r10", "--rate-period=10ms"],
    )
}

const HANDSHAKES_PER_SECOND: usize = 1000;

fn connections(target: &Target<'_>, path: &str, count: usize, pace: &[&str]) -> Result<Load> {
    let [requests, clients] = [format!("-n{count}"), format!("-c{count}")];
    let said = h2load(
        target,
        path,
        &[&[&requests, &clients, "-m1"], pace].concat(),
    )?;
    let load = read_h2load(&said)?;
    if load.count as usize != count {
        return fail(format!(
            "{} of {count} requests were answered:\n{said}",
            load.count
        ));
    }
    Ok(load)
}

fn h2load(target: &Target<'_>, path: &str, args: &[&str]) -> Result<String> {
    output(
        Command::new("h2load")
            .args(args)
            .args(["-H", &format!(":authority: {HOST}")])
            .arg(target.url(path)),
    )
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return fail(format!(
            "{program} ended with {}:\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(said)
}

fn read_wrk(said: &str) -> Result<Load> {
    for error in ["Socket errors", "Non-2xx"] {
        if said.contains(error) {
            return fail(format!("wrk saw errors:\n{said}"));
        }
    }
    let unreadable = || format!("not what wrk says:\n{said}");
    let line = |what: &str| said.lines().map(str::trim).find(|line| line.contains(what));
    let count = line(" requests in ")
        .and_then(|line| line.split(' ').next()?.parse::<f64>().ok())
        .context(unreadable)?;
    let rate = line("Requests/sec:")
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .context(unreadable)?;
    if count == 0.0 {
        return fail(format!("nothing was answered:\n{said}"));
    }
    let mut figures = Figures::from([(Figure::Rate, rate)]);
    for (figure, start) in [
        (Figure::P50, "50%"),
        (Figure::P90, "90%"),
        (Figure::P99, "99%"),
    ] {
        let found = said
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with(start));
        let value = found.and_then(|line| millis(line.split_whitespace().nth(1)?));
        figures.insert(figure, value.context(unreadable)?);
    }
    Ok(Load { count, figures })
}

fn read_h2load(said: &str) -> Result<Load> {
    let unreadable = || format!("not what h2load says:\n{said}");
    let starts = |what: &str| said.lines().find_map(|line| line.strip_prefix(what));
    let number_before = |text: &str, word: &str| -> Option<f64> {
        let part = text.split(',').find(|part| part.trim().ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    let requests = starts("requests: ").context(unreadable)?;
    let statuses = starts("status codes: ").context(unreadable)?;
    let succeeded = number_before(requests, "succeeded").context(unreadable)?;
    let bad: f64 = [
        (requests, "failed"),
        (requests, "errored"),
        (requests, "timeout"),
        (statuses, "3xx"),
        (statuses, "4xx"),
        (statuses, "5xx"),
    ]
    .into_iter()
    .map(|(text, word)| number_before(text, word))
    .sum::<Option<f64>>()
    .context(unreadable)?;
    if bad > 0.0 || succeeded == 0.0 {
        return fail(format!("h2load saw errors:\n{said}"));
    }
    let rate = starts("finished in ")
        .and_then(|text| number_before(text, "req/s"))
        .context(unreadable)?;
    // "time for request:  min  max  mean  sd  +/- sd"
    let mean = starts("time for request:")
        .and_then(|text| millis(text.split_whitespace().nth(2)?))
        .context(unreadable)?;
    Ok(Load {
        count: succeeded,
        figures: Figures::from([(Figure::Rate, rate), (Figure::Mean, mean)]),
    })
}

/// A duration as both generators write it.
fn millis(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)] {
        if let Some(value) = text
            .strip_suffix(unit)
            .and_then(|value| value.parse::<f64>().ok())
        {
            return Some(value * factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.50ms  100.00us   9.00ms   90.00%
  Latency Distribution
     50%    1.40ms
     75%    1.60ms
     90%    1.80ms
     99%  500.00us
  60000 requests in 2.00s, 10.00MB read
Requests/sec:  30000.00
Transfer/sec:      5.00MB
";
    const H2LOAD: &str = "finished in 2.00s, 12345.50 req/s, 1.20MB/s
requests: 24691 total, 24947 started, 24691 done, 24691 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 24691 2xx, 0 3xx, 0 4xx, 0 5xx
                     min         max         mean         sd        +/- sd
time for request:      500us     40.00ms     20.74ms      3.00ms    80.00%
";

    #[test]
    fn what_wrk_says_is_read() {
        let load = read_wrk(WRK).unwrap();
        assert_eq!(load.count, 60000.0);
        assert_eq!(load.figures[&Figure::Rate], 30000.0);
        assert_eq!(load.figures[&Figure::P50], 1.4);
        assert_eq!(load.figures[&Figure::P99], 0.5);
    }

    #[test]
    fn what_h2load_says_is_read() {
        let load = read_h2load(H2LOAD).unwrap();
        assert_eq!(load.count, 24691.0);
        assert_eq!(load.figures[&Figure::Rate], 12345.5);
        assert_eq!(load.figures[&Figure::Mean], 20.74);
    }

    #[test]
    fn errors_are_no_results() {
        let wrk = format!("{WRK}  Non-2xx or 3xx responses: 1\n");
        assert!(read_wrk(&wrk).is_err());
        assert!(read_h2load(&H2LOAD.replace("0 5xx", "1 5xx")).is_err());
        assert!(read_h2load(&H2LOAD.replace("0 errored", "1 errored")).is_err());
        assert!(read_wrk("").is_err());
        assert!(read_h2load("").is_err());
    }
}
