//! One app of the document: JSON values to a checked [`App`], or every reason why not. An absent optional field and
//! `null` are the same; unknown fields are ignored. A feed whose source names an app that it could not read passes it on
//! as `{"name": …, "unreadable": "why"}`: it is rejected for that, and its previous version stays.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::reasons::Reasons;
use super::tls;
use crate::app::{App, Dyno, DynoName, DynoState, LONGEST_NAME, is_name_character};
use crate::hostname::Domain;
use crate::settings::{HashKey, Settings};

/// What came of one entry of `apps`.
pub(crate) struct Parsed {
    /// What to call it in a rejection: its name, or `apps[3]`.
    pub(crate) label: String,
    /// Its name, if it has a usable one.
    pub(crate) name: Option<Arc<str>>,
    /// The app or the reasons against it.
    pub(crate) app: Result<App, Vec<String>>,
}

/// Reads the text of one app; `place` is what to call it if it has no usable name: `apps[3]`.
pub(crate) fn app_text(text: &RawValue, place: impl FnOnce() -> String) -> Parsed {
    match serde_json::from_str(text.get()) {
        Ok(value) => app(&value, place),
        // Well-formed, but nothing that can be held: nested too deeply, a number too large, half a character. That must
        // touch no other app, and if it says its name, its previous version stays.
        Err(error) => {
            let named = serde_json::from_str::<Named<'_>>(text.get());
            let name = named.ok().and_then(|named| usable_name(&named.name));
            Parsed {
                label: name.as_ref().map_or_else(place, |name| name.to_string()),
                name,
                app: Err(vec![format!("it cannot be read: {error}")]),
            }
        }
    }
}

/// The name in an app's text, whatever else is there.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// Reads one app; `place` is what to call it if it has no usable name: `apps[3]`.
pub(crate) fn app(value: &Value, place: impl FnOnce() -> String) -> Parsed {
    let mut reasons = Reasons::default();
    let Value::Object(object) = value else {
        let place = place();
        reasons.add(&place, Some(value), "must be an object");
        return Parsed {
            label: place,
            name: None,
            app: Err(reasons.into_vec()),
        };
    };
    let mut fields = Fields {
        object,
        path: String::new(),
        reasons: &mut reasons,
    };
    let name = name(&mut fields);
    if let Some(why) = fields.text("unreadable") {
        reasons.add_text(why);
        return Parsed {
            label: name.as_ref().map_or_else(place, |name| name.to_string()),
            name,
            app: Err(reasons.into_vec()),
        };
    }
    let domains = domains(&mut fields);
    let dynos = dynos(&mut fields);
    let formation = formation(&mut fields);
    let maintenance = fields.flag("maintenance", false);
    let released = fields.flag("released", true);
    let suspended = fields.text("suspended").map(str::to_owned);
    let degraded = fields.flag("degraded", false);
    let settings = settings(&mut fields);

    let reasons = reasons.into_vec();
    let label = name.as_ref().map_or_else(place, |name| name.to_string());
    let app = match &name {
        Some(name) if reasons.is_empty() => Ok(App {
            name: Arc::clone(name),
            domains,
            formation,
            dynos,
            maintenance,
            released,
            suspended,
            degraded,
            settings,
        }),
        _ => Err(reasons),
    };
    Parsed { label, name, app }
}

fn name(fields: &mut Fields<'_, '_>) -> Option<Arc<str>> {
    let expected = "must be a name of visible ASCII characters without quotes, at most 255";
    let value = fields.object.get("name");
    let name = value.and_then(Value::as_str).and_then(usable_name);
    if name.is_none() {
        fields.wrong("name", value, expected);
    }
    name
}

fn usable_name(name: &str) -> Option<Arc<str>> {
    let usable = (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_name_character);
    usable.then(|| name.into())
}

fn domains(fields: &mut Fields<'_, '_>) -> Vec<Domain> {
    let mut domains = Vec::new();
    let mut seen = HashSet::new();
    for (index, value) in fields
        .list("domains", "must be an array of hostnames")
        .iter()
        .enumerate()
    {
        let key = || format!("domains[{index}]");
        let Some(text) = value.as_str() else {
            fields.wrong(&key(), Some(value), "must be a hostname");
            continue;
        };
        match Domain::parse(text) {
            // The same domain twice means the same as once.
            Ok(domain) if seen.insert(domain.clone()) => domains.push(domain),
            Ok(_) => {}
            Err(error) => fields.wrong(&key(), Some(value), error),
        }
    }
    domains
}

fn dynos(fields: &mut Fields<'_, '_>) -> Vec<Dyno> {
    let values = fields.list("dynos", "must be an array of dynos");
    let mut dynos: Vec<Dyno> = Vec::with_capacity(values.len());
    let mut names = HashSet::with_capacity(values.len());
    let mut addresses: HashMap<SocketAddr, DynoName> = HashMap::with_capacity(values.len());
    let mut web_dynos = 0_usize;
    for (index, value) in values.iter().enumerate() {
        let path = format!("dynos[{index}]");
        let Value::Object(object) = value else {
            fields.wrong(
                &path,
                Some(value),
                "must be an object with a name, a state and, if it listens, an address",
            );
            continue;
        };
        let mut fields = Fields {
            object,
            path: format!("{path}."),
            reasons: fields.reasons,
        };
        let Some(dyno) = dyno(&mut fields) else {
            continue;
        };
        // During a deploy two generations share names, and an address may pass from a dead dyno to a new one; only
        // among those that are up must each be its own.
        let up = dyno.state == DynoState::Up;
        if up && !names.insert(dyno.name.clone()) {
            fields.wrong(
                "name",
                object.get("name"),
                "is the name of an earlier dyno of this app that is up too",
            );
        }
        if dyno.name.is_web() {
            web_dynos += 1;
            if up
                && let Some(address) = dyno.address
                && let Some(earlier) = addresses.insert(address, dyno.name.clone())
            {
                fields.wrong(
                    "address",
                    object.get("address"),
                    format_args!("is the address of {earlier} too"),
                );
            }
        }
        dynos.push(dyno);
    }
    if web_dynos > MOST_WEB_DYNOS {
        let value = Value::from(web_dynos);
        fields.wrong(
            "dynos",
            Some(&value),
            format_args!("web dynos are more than the {MOST_WEB_DYNOS} allowed"),
        );
    }
    dynos
}

/// One dyno; every field is looked at before giving up.
fn dyno(fields: &mut Fields<'_, '_>) -> Option<Dyno> {
    let object = fields.object;
    let name = match object
        .get("name")
        .and_then(Value::as_str)
        .map(DynoName::parse)
    {
        Some(Ok(name)) => Some(name),
        Some(Err(error)) => fields.refuse("name", error),
        None => fields.refuse(
            "name",
            "must be a process type and an instance, such as web.1",
        ),
    };
    let state = match object
        .get("state")
        .and_then(Value::as_str)
        .map(str::parse::<DynoState>)
    {
        Some(Ok(state)) => Some(state),
        Some(Err(error)) => fields.refuse("state", error),
        None => fields.refuse("state", crate::app::UnknownState),
    };
    let expected = "must be an IP address and a port, such as 10.0.0.7:5001 or [fd00::7]:5001";
    let address = match fields.present("address") {
        None => None,
        Some(value) => match value.as_str().map(str::parse::<SocketAddr>) {
            Some(Ok(address)) if address.port() != 0 => Some(address),
            _ => return fields.refuse("address", expected),
        },
    };
    let (name, state) = (name?, state?);
    if address.is_none() && name.is_web() && state.needs_address() {
        return fields.refuse(
            "address",
            format_args!("a web dyno that is {} needs one", state.as_str()),
        );
    }
    Some(Dyno {
        name,
        address,
        state,
    })
}

fn formation(fields: &mut Fields<'_, '_>) -> Option<BTreeMap<String, u32>> {
    let object = fields.object_at(
        "formation",
        "must be an object of process types and quantities",
    )?;
    let mut formation = BTreeMap::new();
    for (process_type, value) in object {
        match value
            .as_u64()
            .and_then(|quantity| u32::try_from(quantity).ok())
        {
            Some(quantity) => {
                formation.insert(process_type.clone(), quantity);
            }
            None => {
                let key = Value::from(process_type.as_str());
                let key = format!("formation[{}]", super::reasons::describe(Some(&key)));
                fields.wrong(
                    &key,
                    Some(value),
                    "must be a whole number from 0 to 4294967295",
                );
            }
        }
    }
    Some(formation)
}

fn settings(fields: &mut Fields<'_, '_>) -> Settings {
    let mut settings = Settings::default();
    // Those that concern TLS and HTTP/2 may also stand beside the app's name; among its settings they win.
    tls::settings(fields, &mut settings);
    if let Some(object) = fields.object_at("settings", "must be an object") {
        let mut fields = Fields {
            object,
            path: "settings.".to_owned(),
            reasons: fields.reasons,
        };
        tls::settings(&mut fields, &mut settings);
        own_settings(&mut fields, &mut settings);
    }
    tls::check(fields, &settings);
    settings
}

fn own_settings(fields: &mut Fields<'_, '_>, settings: &mut Settings) {
    settings.error_page_url = page_url(fields, "error_page_url");
    settings.maintenance_page_url = page_url(fields, "maintenance_page_url");
    if let Some(value) = fields.present("balancer") {
        match value.as_str().unwrap_or_default().parse() {
            Ok(balancer) => settings.balancer = balancer,
            Err(error) => fields.wrong("balancer", Some(value), error),
        }
    }
    if let Some(value) = fields.present("hash_key") {
        match hash_key(value) {
            Some(hash_key) => settings.hash_key = hash_key,
            None => fields.wrong(
                "hash_key",
                Some(value),
                "must be \"client_address\", {\"header\": \"a header's name\"} or {\"cookie\": \"a cookie's name\"}",
            ),
        }
    }
    settings.session_affinity = fields.flag("session_affinity", settings.session_affinity);
    settings.dyno_keepalive = fields.flag("dyno_keepalive", settings.dyno_keepalive);
    settings.end_to_end_continue = fields.flag("end_to_end_continue", settings.end_to_end_continue);
    settings.http2 = fields.flag("http2", settings.http2);
    settings.first_byte_timeout = duration(fields, "first_byte_timeout");
    settings.idle_timeout = duration(fields, "idle_timeout");
    settings.expire_after = duration(fields, "expire_after");
    settings.concurrent_requests_per_dyno = request_limit(fields, "concurrent_requests_per_dyno");
}

fn page_url(fields: &mut Fields<'_, '_>, key: &str) -> Option<String> {
    let value = fields.present(key)?;
    if let Some(url) = value.as_str()
        && is_page_url(url)
    {
        return Some(url.to_owned());
    }
    fields.refuse(
        key,
        "must be an address that begins with https://, http:// or //, without spaces",
    )
}

fn is_page_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("//") else {
        return false;
    };
    let known = ["", "http:", "https:"]
        .iter()
        .any(|allowed| scheme.eq_ignore_ascii_case(allowed));
    let has_host = !rest.is_empty() && !rest.starts_with('/');
    known && has_host && !rest.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn hash_key(value: &Value) -> Option<HashKey> {
    if value.as_str() == Some("client_address") {
        return Some(HashKey::ClientAddress);
    }
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    // A cookie's name is a token like a header's (RFC 6265 §4.1.1), only that its case counts.
    let is_token = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).is_ok();
    if let Some(name) = text("header").filter(|name| is_token(name)) {
        return Some(HashKey::Header(name.to_ascii_lowercase()));
    }
    text("cookie")
        .filter(|name| is_token(name))
        .map(|name| HashKey::Cookie(name.to_owned()))
}

fn duration(fields: &mut Fields<'_, '_>, key: &str) -> Option<Duration> {
    let value = fields.present(key)?;
    match value.as_str().map(humantime::parse_duration) {
        Some(Ok(duration)) if !duration.is_zero() && duration <= LONGEST_DURATION => Some(duration),
        _ => fields.refuse(
            key,
            "must be a duration such as \"30s\" or \"1500ms\", more than zero and at most a year",
        ),
    }
}

fn request_limit(fields: &mut Fields<'_, '_>, key: &str) -> Option<u32> {
    let value = fields.present(key)?;
    match value.as_u64().and_then(|limit| u32::try_from(limit).ok()) {
        Some(limit) if limit > 0 => Some(limit),
        _ => fields.refuse(key, "must be a whole number from 1 to 4294967295"),
    }
}

/// An object of the document, where it stands, and where to say what is wrong with it.
pub(super) struct Fields<'v, 'r> {
    pub(super) object: &'v Map<String, Value>,
    /// What to put before a key, `settings.` for instance.
    pub(super) path: String,
    pub(super) reasons: &'r mut Reasons,
}

impl<'v> Fields<'v, '_> {
    pub(super) fn wrong(
        &mut self,
        key: &str,
        value: Option<&Value>,
        expected: impl std::fmt::Display,
    ) {
        self.reasons
            .add(&format!("{}{key}", self.path), value, expected);
    }

    /// Says what is wrong with the value of a key, and gives nothing in its place.
    pub(super) fn refuse<T>(&mut self, key: &str, expected: impl std::fmt::Display) -> Option<T> {
        self.wrong(key, self.object.get(key), expected);
        None
    }

    /// The value of a key that may be left out.
    pub(super) fn present(&self, key: &str) -> Option<&'v Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.present(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => self.refuse(key, "must be true or false").unwrap_or(default),
        }
    }

    pub(super) fn text(&mut self, key: &str) -> Option<&'v str> {
        match self.present(key)? {
            Value::String(text) => Some(text),
            _ => self.refuse(key, "must be a text"),
        }
    }

    pub(super) fn object_at(
        &mut self,
        key: &str,
        expected: &str,
    ) -> Option<&'v Map<String, Value>> {
        match self.present(key)? {
            Value::Object(object) => Some(object),
            _ => self.refuse(key, expected),
        }
    }

    /// An array that must be there; empty if it is not, which is said.
    fn list(&mut self, key: &str, expected: &str) -> &'v [Value] {
        match self.object.get(key) {
            Some(Value::Array(values)) => values,
            _ => self.refuse(key, expected).unwrap_or_default(),
        }
    }
}

/// pingora's weighted selection asserts that there are no more.
const MOST_WEB_DYNOS: usize = 65_535;

/// Far beyond use, but added to any clock reading it cannot overflow.
const LONGEST_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);
