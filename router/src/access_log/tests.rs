//! The access log with its thread, against real files and pipes.

use std::io::Read;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

use router_core::model::log_line::Protocol;

use super::*;

fn line(path: &str) -> LogLine<'_> {
    LogLine {
        ended: SystemTime::UNIX_EPOCH,
        app: "shop",
        failure: None,
        method: b"GET",
        path: path.as_bytes(),
        host: b"shop.example.com",
        request_id: "id",
        forwarded_for: b"203.0.113.7",
        dyno: Some("web.1"),
        connect: Some(Duration::ZERO),
        service: Some(Duration::from_millis(18)),
        status: Some(200),
        bytes: 13,
        protocol: Protocol::Http11,
        tls: None,
        agent: None,
    }
}

fn open(file: &Path, format: LogFormat) -> (AccessLog, LogWriter) {
    let config = config::AccessLog {
        target: LogTarget::File(file.to_owned()),
        format,
    };
    AccessLog::open(&config, 2).unwrap().unwrap()
}

/// Waits until `there`, and wakes nobody.
fn until(what: &str, mut there: impl FnMut() -> bool) {
    let mut looks = 0;
    while !there() {
        looks += 1;
        assert!(looks < 10_000, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The same, in the very moment.
fn until_at_once(there: impl Fn() -> bool) {
    while !there() {
        std::hint::spin_loop();
    }
}

fn falls_asleep(log: &AccessLog) {
    until("asleep", || log.shared.asleep.load(Ordering::Relaxed));
}

fn lines_in(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap().lines().count()
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_line_of_every_worker_is_written_by_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writer) = open(&file, LogFormat::Heroku);
    thread::scope(|scope| {
        for worker in 0..3 {
            let log = &log;
            scope.spawn(move || {
                (0..1000).for_each(|n| log.write(worker, &line(&format!("/{worker}/{n}"))))
            });
        }
    });
    let losses = writer.losses();
    writer.finish(PATIENCE);
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!((text.lines().count(), losses.lines()), (3000, 0));
    assert!(
        text.lines()
            .all(|line| line.contains(" heroku[router]: at=info method=GET path=\"/")),
        "{text}"
    );
    assert!(text.contains("path=\"/2/999\""));
}

#[test]
fn json_lines_are_objects() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writer) = open(&file, LogFormat::Json);
    log.write(0, &line("/"));
    writer.finish(PATIENCE);
    let text = std::fs::read_to_string(file).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&value["path"], &value["status"]),
        (&"/".into(), &200.into())
    );
}

#[test]
fn a_reader_that_never_reads_costs_lines_which_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
    // Both ends at once, so that opening the FIFO for writing doesn't wait for a reader.
    let mut reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    let (log, writer) = open(&file, LogFormat::Heroku);
    let losses = writer.losses();
    let long = format!("/{}", "x".repeat(4000));
    let mut lines = 0_u64;
    while losses.lines() == 0 {
        log.write(0, &line(&long));
        lines += 1;
        assert!(lines < 10_000, "nothing was dropped");
    }
    writer.finish(Duration::from_millis(1));
    let mut some = [0; 4096];
    reader.read_exact(&mut some).unwrap();
    assert!(String::from_utf8_lossy(&some).contains("heroku[router]"));
}

#[test]
fn a_renamed_file_is_left_behind_on_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writer) = open(&file, LogFormat::Heroku);
    std::fs::rename(&file, folder.path().join("access.log.1")).unwrap();
    writer.reopen();
    log.write(0, &line("/after"));
    writer.finish(PATIENCE);
    assert!(std::fs::read_to_string(&file).unwrap().contains("/after"));
}

#[test]
fn a_file_is_reopened_while_nothing_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writer) = open(&file, LogFormat::Heroku);
    for round in 0..3 {
        std::fs::rename(&file, folder.path().join("access.log.1")).unwrap();
        falls_asleep(&log);
        writer.reopen();
        until("opened anew", || file.exists());
        log.write(0, &line("/"));
        until("written", || lines_in(&file) == 1);
        assert_eq!(log.shared.dropped.load(Ordering::Relaxed), 0, "{round}");
    }
    writer.finish(PATIENCE);
    assert_eq!(lines_in(&file), 1);
}

#[test]
fn a_line_after_a_silence_is_written_without_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writer) = open(&file, LogFormat::Heroku);
    for written in 1..=5 {
        falls_asleep(&log);
        log.write(written % 2, &line("/"));
        until("written", || lines_in(&file) == written);
    }
    writer.finish(PATIENCE);
}

#[test]
fn no_line_is_left_behind_when_the_writer_falls_asleep() {
    const ROUNDS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writer) = open(&file, LogFormat::Heroku);
    let together = Barrier::new(3);
    thread::scope(|scope| {
        let write = |worker| {
            for round in 1..=ROUNDS {
                if round % 3 != worker {
                    until_at_once(|| log.shared.asleep.load(Ordering::Relaxed));
                }
                log.write(worker, &line("/"));
                together.wait();
                // Nobody writes another one before those of this round are there.
                together.wait();
            }
        };
        scope.spawn(move || write(0));
        scope.spawn(move || write(1));
        for round in 1..=ROUNDS {
            together.wait();
            until("written", || lines_in(&file) == 2 * round);
            together.wait();
        }
    });
    writer.finish(PATIENCE);
    assert_eq!(lines_in(&file), 2 * ROUNDS);
}

#[test]
fn a_writer_that_gathers_is_woken_for_many_lines() {
    let shared = Arc::new(Shared {
        buffers: [Buffer::default(), Buffer::default()].into(),
        ..Shared::default()
    });
    let theirs = Arc::clone(&shared);
    let many = move || {
        theirs
            .buffers
            .iter()
            .any(|b| b.lock().len() >= MANY_BUFFERED)
    };
    let writer = thread::spawn(move || {
        while !many() {
            thread::park();
        }
    });
    let log = AccessLog {
        shared,
        writer: writer.thread().clone(),
        format: LogFormat::Heroku,
    };
    while log.shared.buffers[1].lock().len() < MANY_BUFFERED {
        log.write(1, &line("/"));
    }
    writer.join().unwrap();
}

#[test]
fn a_log_that_is_off_has_no_thread() {
    let config = config::AccessLog {
        target: LogTarget::Off,
        format: LogFormat::Heroku,
    };
    assert!(AccessLog::open(&config, 1).unwrap().is_none());
}
