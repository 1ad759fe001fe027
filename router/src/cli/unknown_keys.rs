//! Keys of a route document that the router does not know. It ignores them, so that an older router can read a newer
//! control plane's document; a person who misspelt one wants to hear of it all the same.

use serde_json::{Map, Value};

use crate::config::nearest;

/// One warning for each unknown key; none if this is no document at all, which others say.
pub(super) fn warnings(document: &[u8]) -> Vec<String> {
    let mut warnings = Vec::new();
    let Ok(Value::Object(document)) = serde_json::from_slice(document) else {
        return warnings;
    };
    look(&mut warnings, "", &document, &[DOCUMENT]);
    for (index, certificate) in objects(&document, "certificates") {
        let place = format!("certificates[{index}].");
        look(&mut warnings, &place, certificate, &[CERTIFICATE]);
    }
    for (index, app) in objects(&document, "apps") {
        let name = app.get("name").and_then(Value::as_str).unwrap_or_default();
        let place = if name.is_empty() {
            format!("app apps[{index}]: ")
        } else {
            format!("app {}: ", name.escape_debug())
        };
        look(&mut warnings, &place, app, &[APP, TLS]);
        dyno_tls(&mut warnings, &place, app);
        for (index, dyno) in objects(app, "dynos") {
            look(
                &mut warnings,
                &format!("{place}dynos[{index}]."),
                dyno,
                &[DYNO],
            );
        }
        if let Some(Value::Object(settings)) = app.get("settings") {
            let place = format!("{place}settings.");
            look(&mut warnings, &place, settings, &[SETTINGS, TLS]);
            dyno_tls(&mut warnings, &place, settings);
        }
    }
    warnings
}

fn dyno_tls(warnings: &mut Vec<String>, place: &str, object: &Map<String, Value>) {
    if let Some(Value::Object(tls)) = object.get("dyno_tls") {
        look(warnings, &format!("{place}dyno_tls."), tls, &[DYNO_TLS]);
    }
}

/// The objects in a list, with their places in it.
fn objects<'v>(
    object: &'v Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = (usize, &'v Map<String, Value>)> {
    let list = object.get(key).and_then(Value::as_array);
    let entries = list.into_iter().flatten().enumerate();
    entries.filter_map(|(index, entry)| Some((index, entry.as_object()?)))
}

fn look(
    warnings: &mut Vec<String>,
    place: &str,
    object: &Map<String, Value>,
    known: &[&[&'static str]],
) {
    let known = known.concat();
    for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
        let hint = nearest(key, &known).map_or_else(String::new, |near| {
            format!(", the nearest known one is \"{near}\"")
        });
        let key = key.escape_debug();
        warnings.push(format!("{place}{key}: unknown key{hint}; it is ignored"));
    }
}

const DOCUMENT: &[&str] = &["format", "revision", "allow_shrink", "certificates", "apps"];
const CERTIFICATE: &[&str] = &["chain", "key", "chain_file", "key_file"];
const APP: &[&str] = &[
    "name",
    "domains",
    "formation",
    "dynos",
    "maintenance",
    "released",
    "suspended",
    "degraded",
    "settings",
];
const DYNO: &[&str] = &["name", "address", "state"];
const SETTINGS: &[&str] = &[
    "error_page_url",
    "maintenance_page_url",
    "balancer",
    "hash_key",
    "session_affinity",
    "dyno_keepalive",
    "end_to_end_continue",
    "http2",
    "first_byte_timeout",
    "idle_timeout",
    "expire_after",
    "concurrent_requests_per_dyno",
];
/// What may stand among an app's settings or beside its name.
const TLS: &[&str] = &[
    "redirect_to_https",
    "hsts",
    "min_tls_version",
    "dyno_protocol",
    "dyno_tls",
];
const DYNO_TLS: &[&str] = &["verify", "identity"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_keys_are_told_with_their_place_and_the_nearest_known_one() {
        let document = json!({
            "format": 1, "revision": 1, "alow_shrink": true, "certificates": [{"key": "", "chian": ""}, 7],
            "apps": [
                {"name": "shop", "domain": [], "dynos": [{"name": "web.1", "adress": "127.0.0.1:1"}, "web.2"],
                 "settings": {"idle_timout": "5s", "xyz": {"balancer": 1}, "dyno_tls": {"verfy": ""}}},
                {"released": null, "2\n": 1},
                "no app",
            ],
        });
        let mut warnings = warnings(document.to_string().as_bytes());
        warnings.sort_unstable();
        assert_eq!(
            warnings,
            [
                "alow_shrink: unknown key, the nearest known one is \"allow_shrink\"; it is ignored",
                "app apps[1]: 2\\n: unknown key; it is ignored",
                "app shop: domain: unknown key, the nearest known one is \"domains\"; it is ignored",
                "app shop: dynos[0].adress: unknown key, the nearest known one is \"address\"; it is ignored",
                "app shop: settings.dyno_tls.verfy: unknown key, the nearest known one is \"verify\"; it is ignored",
                "app shop: settings.idle_timout: unknown key, the nearest known one is \"idle_timeout\"; it is ignored",
                "app shop: settings.xyz: unknown key; it is ignored",
                "certificates[0].chian: unknown key, the nearest known one is \"chain\"; it is ignored",
            ]
        );
    }

    #[test]
    fn every_key_that_a_document_may_have_is_known() {
        let example = include_bytes!("../../../config/routes.example.json");
        assert_eq!(warnings(example), [""; 0]);
        let document = json!({
            "format": 1, "revision": 1, "allow_shrink": false,
            "certificates": [{"chain": "", "key": ""}, {"chain_file": "", "key_file": ""}],
            "apps": [{
                "name": "shop", "domains": [], "dynos": [], "suspended": "", "degraded": true, "dyno_tls": {"verify": "ca.pem"},
                "settings": {"http2": true, "dyno_protocol": "h2c", "redirect_to_https": true, "hsts": true},
            }],
        });
        assert_eq!(warnings(document.to_string().as_bytes()), [""; 0]);
        for no_document in ["", "{", "[]", "7"] {
            assert_eq!(warnings(no_document.as_bytes()), [""; 0]);
        }
    }

    /// A key that the router reads and this file does not name would be called unknown.
    #[test]
    fn every_setting_that_the_router_has_is_known() {
        let settings = serde_json::to_value(router_core::model::settings::Settings::default());
        for key in settings.unwrap().as_object().unwrap().keys() {
            assert!([SETTINGS, TLS].concat().contains(&key.as_str()), "{key}");
        }
    }
}
