//! What was counted once and is compared with: a file that is committed.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::count::Counted;
use crate::machine::Machine;

/// Counts by name, for one operation each, and where they were counted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    pub(crate) machine: Machine,
    pub(crate) counts: BTreeMap<String, f64>,
}

impl Baseline {
    /// The one that is there, if there is one.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, String> {
        let said = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| said(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(said(&error)),
        }
    }

    /// A new one to add to: empty if everything is counted anew, else the old one, which must have been counted in the same
    /// place.
    pub(crate) fn begin(old: Option<&Self>, here: Machine, all: bool) -> Result<Self, String> {
        let kept = old.filter(|_| !all);
        match kept.and_then(|old| old.machine.differences(&here).into_iter().next()) {
            Some(difference) => Err(format!(
                "some counts can be replaced only where the others were counted: {difference}"
            )),
            None => Ok(Self {
                machine: here,
                counts: kept.map(|old| old.counts.clone()).unwrap_or_default(),
            }),
        }
    }

    pub(crate) fn add(&mut self, counted: &[Counted]) {
        let rounded = counted
            .iter()
            .map(|one| (one.name.clone(), round(one.value)));
        self.counts.extend(rounded);
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())? + "\n";
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Two digits behind the point say as much as there is to say.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline<const N: usize>(counts: [(&str, f64); N]) -> Baseline {
        Baseline {
            machine: Machine::default(),
            counts: counts.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    fn counted(name: &str, value: f64) -> Counted {
        Counted {
            name: name.to_owned(),
            value,
            note: String::new(),
        }
    }

    #[test]
    fn storing_some_keeps_the_others_and_storing_all_does_not() {
        let old = baseline([("a", 1.0), ("b", 2.0)]);
        for (old, all, expected) in [
            (
                Some(&old),
                false,
                baseline([("a", 1.0), ("b", 3.46), ("c", 4.0)]),
            ),
            (Some(&old), true, baseline([("b", 3.46), ("c", 4.0)])),
            (None, false, baseline([("b", 3.46), ("c", 4.0)])),
        ] {
            let mut new = Baseline::begin(old, Machine::default(), all).unwrap();
            new.add(&[counted("b", 3.456), counted("c", 4.0)]);
            assert_eq!(new, expected);
        }
    }

    #[test]
    fn a_part_is_not_mixed_with_counts_from_elsewhere() {
        let old = baseline([("a", 1.0)]);
        let elsewhere = || Machine {
            cpu_vendor: "other".to_owned(),
            ..Machine::default()
        };
        let mixed = Baseline::begin(Some(&old), elsewhere(), false);
        assert!(mixed.unwrap_err().contains("processor"));
        let anew = Baseline::begin(Some(&old), elsewhere(), true);
        assert_eq!(anew.unwrap().machine, elsewhere());
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("baseline.json");
        assert_eq!(Baseline::read(&path), Ok(None));
        let baseline = baseline([("a/b", 1234.5)]);
        baseline.write(&path).unwrap();
        assert_eq!(Baseline::read(&path), Ok(Some(baseline)));
        fs::write(&path, "{}").unwrap();
        assert!(Baseline::read(&path).unwrap_err().contains("machine"));
    }
}
