//! A proxy's processes: started on cores of their own, read through /proc, and ended with the value that stands for them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failed::{Context, Result, fail};

/// How long a proxy may take to end by itself; what it has to write is on disk by then.
const END: Duration = Duration::from_secs(10);

/// A process and those that it started.
pub(crate) struct Processes {
    child: Child,
    name: String,
    folder: PathBuf,
}

impl Processes {
    /// Runs a command on some cores; its output goes to files in the folder.
    pub(crate) fn start(
        name: &str,
        cores: &str,
        command: &[String],
        folder: &Path,
    ) -> Result<Self> {
        let file = |stream: &str| File::create(folder.join(format!("{name}.{stream}")));
        let child = Command::new("taskset")
            .args(["-c", cores])
            .args(command)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file("stdout")?)
            .stderr(file("stderr")?)
            .spawn()
            .context(|| format!("cannot start {}", command.join(" ")))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// Says so if the process has ended, which it never should by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let said = ["stdout", "stderr"].map(|stream| {
                    let file = self.folder.join(format!("{}.{stream}", self.name));
                    let said = fs::read_to_string(file).unwrap_or_default();
                    let lines: Vec<&str> = said.lines().rev().take(5).collect();
                    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
                });
                fail(format!(
                    "{} ended, {status}: {}",
                    self.name,
                    said.join("\n")
                ))
            }
        }
    }

    /// CPU microseconds that all of them have used until now: in user space, and altogether.
    pub(crate) fn cpu_micros(&self) -> Result<[f64; 2]> {
        let mut ticks = [0, 0];
        for pid in self.pids()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let [user, system] = fields(&stat, [14, 15])?;
            ticks = [ticks[0] + user, ticks[1] + user + system];
        }
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(ticks.map(|ticks| ticks as f64 * 1e6 / per_second as f64))
    }

    /// Bytes of memory that all of them have in use.
    pub(crate) fn rss(&self) -> Result<f64> {
        let mut kib = 0;
        for pid in self.pids()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            kib += status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))
                .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(kib as f64 * 1024.0)
    }

    /// Lets the proxy end, so that its log is complete.
    pub(crate) fn end(mut self, signal: Signal) -> Result<()> {
        self.check()?;
        self.signal(signal);
        let since = Instant::now();
        while since.elapsed() < END {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        fail(format!("{} does not end", self.name))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            kill_process(pid, signal).unwrap_or_default();
        }
    }

    /// The process and all below it.
    fn pids(&self) -> Result<Vec<u32>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            // It may have ended since.
            if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
                let [parent] = fields(&stat, [4])?;
                parents.push((pid, parent));
            }
        }
        let mut found = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = found.get(at).copied() {
            found.extend(
                parents
                    .iter()
                    .filter(|(_, parent)| *parent == u64::from(pid))
                    .map(|(child, _)| *child),
            );
            at += 1;
        }
        Ok(found)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let workers = self.pids().unwrap_or_default();
        // SIGTERM first: a master that is killed leaves its workers behind.
        self.signal(Signal::TERM);
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(1) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            for pid in workers {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    kill_process(pid, Signal::KILL).unwrap_or_default();
                }
            }
            drop(self.child.wait());
        }
    }
}

/// CPU microseconds that a core has spent on anything; nothing, if `cores` is more than one.
pub(crate) fn core_micros(cores: &str) -> Result<Option<f64>> {
    let stat = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{cores} ");
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix(&name)) else {
        return Ok(None);
    };
    // user nice system idle iowait irq softirq; steal is no work of this machine's.
    let ticks: u64 = line
        .split_whitespace()
        .take(7)
        .enumerate()
        .filter(|(nth, _)| !matches!(nth, 3 | 4))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Some(ticks as f64 * 1e6 / per_second as f64))
}

/// Fields of /proc/PID/stat, counted from 1; the second is a name that may contain spaces.
fn fields<const N: usize>(stat: &str, wanted: [usize; N]) -> Result<[u64; N]> {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let all: Vec<&str> = after_name.split_whitespace().collect();
    let mut values = [0; N];
    for (value, field) in values.iter_mut().zip(wanted) {
        *value = all
            .get(field - 3)
            .and_then(|text| text.parse().ok())
            .context(|| format!("no field {field} in {stat}"))?;
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_name() {
        let stat = "42 (a) b) S 7 42 42 0 -1 4194304 100 0 0 0 11 13 0 0 20 0 1 0 5 0 0";
        assert_eq!(fields(stat, [4, 14, 15]).unwrap(), [7, 11, 13]);
        assert!(fields(stat, [60]).is_err());
    }
}
