//! What counts depend on beside the code: the compiler, the instructions and the libc that the processor makes it choose,
//! and the tool.

use std::process::Command;

use serde::{Deserialize, Serialize};

/// Where something was counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) compiler: String,
    pub(crate) architecture: String,
    pub(crate) cpu_vendor: String,
    pub(crate) libc: String,
    pub(crate) valgrind: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            compiler: version("rustc").unwrap_or_default(),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu_vendor: cpu_vendor(&cpuinfo).to_owned(),
            libc: version("ldd").unwrap_or_default(),
            valgrind: version("valgrind").unwrap_or_default(),
        }
    }

    /// A sentence for each thing that is another one there.
    pub(crate) fn differences(&self, here: &Self) -> Vec<String> {
        [
            ("compiler", &self.compiler, &here.compiler),
            ("architecture", &self.architecture, &here.architecture),
            ("processor", &self.cpu_vendor, &here.cpu_vendor),
            ("libc", &self.libc, &here.libc),
            ("valgrind", &self.valgrind, &here.valgrind),
        ]
        .into_iter()
        .filter(|(_, there, here)| there != here)
        .map(|(what, there, here)| format!("{what} {there}, here {here}"))
        .collect()
    }
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    version(program).is_some()
}

/// What a program says its version is, if it is there.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(said.lines().next().unwrap_or_default().to_owned())
}

/// x86 names its vendor, ARM an implementer by number.
fn cpu_vendor(cpuinfo: &str) -> &str {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| ["vendor_id", "CPU implementer"].contains(&key.trim()))
        .map_or("unknown", |(_, vendor)| vendor.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_found_whatever_it_is_called() {
        for (cpuinfo, expected) in [
            (
                "processor\t: 0\nvendor_id\t: GenuineIntel\n",
                "GenuineIntel",
            ),
            ("processor\t: 0\nCPU implementer\t: 0x41\n", "0x41"),
            ("", "unknown"),
        ] {
            assert_eq!(cpu_vendor(cpuinfo), expected);
        }
    }

    #[test]
    fn only_what_differs_is_said() {
        let here = Machine {
            compiler: "rustc 2".to_owned(),
            ..Machine::default()
        };
        assert_eq!(
            Machine::default().differences(&here),
            ["compiler , here rustc 2"]
        );
        assert!(here.differences(&here).is_empty());
    }
}
