//! An app and its formation as the route document describes them: immutable values, compared to find out what changed.
//! What a dyno is doing at the moment (requests in flight, quarantine) is not here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use foldhash::HashSet;
use serde::Serialize;

use crate::hostname::Domain;
use crate::settings::{Settings, Verify};

/// One app: its domains, its dynos and the states that stop requests before a dyno is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct App {
    /// Unique within the route table.
    pub name: Arc<str>,
    /// The hostnames bound to the app, without repetitions.
    pub domains: Vec<Domain>,
    /// Process type to quantity, if the control plane said so.
    pub formation: Option<BTreeMap<String, u32>>,
    /// Every dyno of every process type.
    pub dynos: Vec<Dyno>,
    /// Maintenance mode (H80).
    pub maintenance: bool,
    /// Whether the app has ever been released; if not, it is a blank app (H81).
    pub released: bool,
    /// Why the app is suspended, if it is (H82).
    pub suspended: Option<String>,
    /// A planned degradation of service (H83).
    pub degraded: bool,
    /// What the app chose for itself.
    pub settings: Settings,
}

impl App {
    /// How many web dynos the app is meant to have: the formation's word if there is one (a missing `web` is zero),
    /// else the number of web dynos listed.
    pub fn web_quantity(&self) -> u32 {
        match &self.formation {
            Some(formation) => formation.get(WEB).copied().unwrap_or(0),
            None => u32::try_from(self.web_dynos().count()).unwrap_or(u32::MAX),
        }
    }

    /// The app as a route document would have it, secrets of its dynos' authority included: reading it gives the same
    /// app again.
    pub fn to_document(&self) -> serde_json::Value {
        // Nothing in it can fail: every key is a text, and every value is plain.
        let mut document = serde_json::to_value(self).unwrap_or_default();
        let tls = self.settings.dyno_tls.as_ref();
        if let Some(Verify::Pem(pem)) = tls.map(|tls| &tls.verify)
            && let Some(verify) = document.pointer_mut("/settings/dyno_tls/verify")
        {
            *verify = (**pem).into();
        }
        document
    }

    /// Whether the two mean the same, in whatever order they name their domains and dynos.
    pub fn is_same_as(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        // Before anything is copied: nearly every app that is not equal differs in more than an order.
        if self.domains.len() != other.domains.len() || self.dynos.len() != other.dynos.len() {
            return false;
        }
        let ordered = |app: &Self| {
            let mut app = app.clone();
            app.domains.sort_unstable();
            app.dynos
                .sort_unstable_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
            app
        };
        ordered(self) == ordered(other)
    }

    /// The same app, with the texts of an earlier version wherever both say the same: others hold those already, so that
    /// nothing is kept twice.
    #[must_use]
    pub fn sharing_texts(&self, old: &Self) -> Self {
        let mut app = self.clone();
        if app.name == old.name {
            app.name = Arc::clone(&old.name);
        }
        let known: HashSet<&Domain> = old.domains.iter().collect();
        for domain in &mut app.domains {
            if let Some(known) = known.get(domain) {
                domain.clone_from(known);
            }
        }
        let known: HashSet<&DynoName> = old.dynos.iter().map(|dyno| &dyno.name).collect();
        for dyno in &mut app.dynos {
            if let Some(known) = known.get(&dyno.name) {
                dyno.name.clone_from(known);
            }
        }
        app
    }

    /// The dynos of process type `web`, the only ones that ever get a request.
    pub fn web_dynos(&self) -> impl Iterator<Item = &Dyno> {
        self.dynos.iter().filter(|dyno| dyno.name.is_web())
    }
}

/// One dyno of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dyno {
    /// `web.1`, `worker.2`, `run.4711`.
    pub name: DynoName,
    /// Where it listens, if it does.
    pub address: Option<SocketAddr>,
    /// What the control plane last said about it.
    pub state: DynoState,
}

/// `type.N`: process type and instance. Graphic ASCII without quotes, so that it can stand bare in a log line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DynoName(Arc<str>);

impl DynoName {
    /// Reads `type.N`.
    pub fn parse(text: &str) -> Result<Self, DynoNameError> {
        if text.is_empty() {
            return Err(DynoNameError::Empty);
        }
        if text.len() > LONGEST_NAME {
            return Err(DynoNameError::TooLong);
        }
        if let Some(bad) = text.chars().find(|c| !is_name_character(*c)) {
            return Err(DynoNameError::BadCharacter(bad));
        }
        match text.split_once('.') {
            Some((process_type, instance)) if !process_type.is_empty() && !instance.is_empty() => {
                Ok(Self(text.into()))
            }
            _ => Err(DynoNameError::NotTypeAndInstance),
        }
    }

    /// The whole name, `web.1`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first dot, `web`.
    pub fn process_type(&self) -> &str {
        self.0
            .split_once('.')
            .map_or(&self.0, |(process_type, _)| process_type)
    }

    /// Whether the process type is `web`.
    pub fn is_web(&self) -> bool {
        let instance = self.0.strip_prefix(WEB);
        instance.is_some_and(|rest| rest.starts_with('.'))
    }
}

impl fmt::Display for DynoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not the name of a dyno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DynoNameError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// More than 255 bytes.
    #[error("must not be longer than {LONGEST_NAME} bytes")]
    TooLong,
    /// A space, control character, quote, backslash, equals sign or anything outside ASCII.
    #[error("the character {0:?} is not allowed in a name")]
    BadCharacter(char),
    /// No dot, or nothing on one side of it.
    #[error("must be a process type and an instance, such as web.1")]
    NotTypeAndInstance,
}

/// What the control plane says about a dyno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DynoState {
    /// Booting: requests wait for it.
    Starting,
    /// Takes requests.
    Up,
    /// Finishes what it has, gets nothing new.
    Draining,
    /// Asleep: requests wait for it to wake.
    Idle,
    /// Its process ended by itself.
    Crashed,
    /// Stopped on purpose.
    Down,
}

impl DynoState {
    /// Every state, in the order in which they are documented.
    pub const ALL: [Self; 6] = [
        Self::Starting,
        Self::Up,
        Self::Draining,
        Self::Idle,
        Self::Crashed,
        Self::Down,
    ];

    /// The spelling in the route document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Idle => "idle",
            Self::Crashed => "crashed",
            Self::Down => "down",
        }
    }

    /// Whether a dyno in this state must have said where it listens.
    pub fn needs_address(self) -> bool {
        match self {
            Self::Up | Self::Draining => true,
            Self::Starting | Self::Idle | Self::Crashed | Self::Down => false,
        }
    }
}

impl FromStr for DynoState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(UnknownState)
    }
}

/// The text names no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of starting, up, draining, idle, crashed, down")]
pub struct UnknownState;

/// Whether a character may stand in the name of an app or a dyno, which log lines show unquoted.
pub(crate) fn is_name_character(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '`' | '\\' | '=')
}

/// The longest name of an app or a dyno, in bytes.
pub(crate) const LONGEST_NAME: usize = 255;

const WEB: &str = "web";

#[cfg(test)]
mod tests {
    use super::*;

    fn app(formation: Option<&[(&str, u32)]>, dynos: &[&str]) -> App {
        App {
            name: "shop".into(),
            domains: vec![Domain::parse("shop.example.com").unwrap()],
            formation: formation
                .map(|entries| entries.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()),
            dynos: dynos
                .iter()
                .map(|name| Dyno {
                    name: DynoName::parse(name).unwrap(),
                    address: None,
                    state: DynoState::Starting,
                })
                .collect(),
            maintenance: false,
            released: true,
            suspended: None,
            degraded: false,
            settings: Settings::default(),
        }
    }

    #[test]
    fn web_quantity_is_the_formation_or_the_dynos_listed() {
        let dynos = ["web.1", "web.2", "worker.1", "webby.1"];
        for (formation, expected) in [
            (None, 2),
            (Some(&[("web", 5)][..]), 5),
            (Some(&[("web", 0)][..]), 0),
            (Some(&[("worker", 1)][..]), 0),
            (Some(&[][..]), 0),
        ] {
            assert_eq!(
                app(formation, &dynos).web_quantity(),
                expected,
                "{formation:?}"
            );
        }
    }

    #[test]
    fn only_web_dynos_are_web_dynos() {
        let app = app(
            None,
            &["web.1", "worker.1", "web-api.1", "run.4711", "web.2"],
        );
        let names: Vec<_> = app.web_dynos().map(|dyno| dyno.name.as_str()).collect();
        assert_eq!(names, ["web.1", "web.2"]);
    }

    #[test]
    fn dyno_names() {
        for (text, expected) in [
            ("web.1", Ok("web")),
            ("run.4711", Ok("run")),
            ("web.1.blue", Ok("web")),
            ("", Err(DynoNameError::Empty)),
            ("web", Err(DynoNameError::NotTypeAndInstance)),
            (".1", Err(DynoNameError::NotTypeAndInstance)),
            ("web.", Err(DynoNameError::NotTypeAndInstance)),
            ("web .1", Err(DynoNameError::BadCharacter(' '))),
            ("web.1\n", Err(DynoNameError::BadCharacter('\n'))),
            ("web.\"1", Err(DynoNameError::BadCharacter('"'))),
            ("web.1=2", Err(DynoNameError::BadCharacter('='))),
            ("wéb.1", Err(DynoNameError::BadCharacter('é'))),
        ] {
            let parsed = DynoName::parse(text);
            assert_eq!(
                parsed.as_ref().map(DynoName::process_type),
                expected.as_ref().map(|t| *t),
                "{text:?}"
            );
        }
        assert_eq!(
            DynoName::parse(&format!("web.{}", "1".repeat(252))),
            Err(DynoNameError::TooLong)
        );
    }

    #[test]
    fn every_state_reads_back_and_the_refusal_lists_them_all() {
        for state in DynoState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert!(UnknownState.to_string().contains(state.as_str()));
        }
        assert_eq!("Up".parse::<DynoState>(), Err(UnknownState));
    }

    #[test]
    fn an_app_prints_as_the_document_spells_it() {
        let value = serde_json::to_value(app(Some(&[("web", 1)]), &["web.1"])).unwrap();
        assert_eq!(value["name"], "shop");
        assert_eq!(value["domains"], serde_json::json!(["shop.example.com"]));
        assert_eq!(value["formation"], serde_json::json!({"web": 1}));
        assert_eq!(
            value["dynos"],
            serde_json::json!([{"name": "web.1", "address": null, "state": "starting"}])
        );
    }
}
