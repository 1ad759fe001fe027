//! The access log with its thread, against real files and pipes.

use std::io::Read;
use std::path::Path;
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

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_line_of_every_worker_is_written_by_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writer) = open(&file, LogFormat::Heroku);
    std::thread::scope(|scope| {
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
fn a_log_that_is_off_has_no_thread() {
    let config = config::AccessLog {
        target: LogTarget::Off,
        format: LogFormat::Heroku,
    };
    assert!(AccessLog::open(&config, 1).unwrap().is_none());
}
