//! The settings of an app that concern TLS and HTTP/2: JSON values to checked ones. They are looked for in two places, so
//! that each is set only where it is there.

use serde_json::Value;

use super::raw::Fields;
use crate::settings::{DynoProtocol, DynoTls, Hsts, Identity, Settings, Verify};

/// Reads the settings that are there into `settings`.
pub(super) fn settings(fields: &mut Fields<'_, '_>, settings: &mut Settings) {
    settings.redirect_to_https = fields.flag("redirect_to_https", settings.redirect_to_https);
    match fields.present("hsts") {
        None => {}
        Some(Value::Bool(false)) => settings.hsts = None,
        Some(Value::Bool(true)) => settings.hsts = Some(Hsts::a_year()),
        Some(Value::String(text)) => match Hsts::parse(text) {
            Ok(hsts) => settings.hsts = Some(hsts),
            Err(error) => fields.wrong("hsts", fields.object.get("hsts"), error),
        },
        Some(other) => fields.wrong(
            "hsts",
            Some(other),
            "must be true, false or a value such as \"max-age=31536000; includeSubDomains\"",
        ),
    }
    if let Some(value) = fields.present("min_tls_version") {
        match value.as_str().unwrap_or_default().parse() {
            Ok(version) => settings.min_tls_version = Some(version),
            Err(error) => fields.wrong("min_tls_version", Some(value), error),
        }
    }
    if let Some(value) = fields.present("dyno_protocol") {
        match value.as_str().unwrap_or_default().parse() {
            Ok(protocol) => settings.dyno_protocol = protocol,
            Err(error) => fields.wrong("dyno_protocol", Some(value), error),
        }
    }
    if fields.present("dyno_tls").is_some() {
        settings.dyno_tls = dyno_tls(fields);
    }
}

/// Says what is wrong with the settings together; `fields` are the app's.
pub(super) fn check(fields: &mut Fields<'_, '_>, settings: &Settings) {
    let among_settings = |key: &str| {
        let value = fields
            .present("settings")
            .and_then(|settings| settings.get(key));
        value.is_some_and(|value| !value.is_null())
    };
    // One that is wrong by itself has been told so already, and must not be called missing too.
    let named = among_settings("dyno_tls") || fields.present("dyno_tls").is_some();
    let tls_is_wrong = named && settings.dyno_tls.is_none();
    let key = if among_settings("dyno_protocol") {
        "settings.dyno_protocol"
    } else {
        "dyno_protocol"
    };
    let wrong = match (settings.dyno_protocol, &settings.dyno_tls) {
        (DynoProtocol::H2, None) if !tls_is_wrong => {
            "needs dyno_tls; without TLS HTTP/2 to dynos is \"h2c\""
        }
        (DynoProtocol::H2c, Some(_)) => {
            "is without TLS; with dyno_tls it must be \"h2\" or \"http1\""
        }
        (DynoProtocol::H2, _) | (DynoProtocol::H2c, None) | (DynoProtocol::Http1, _) => return,
    };
    let protocol = Value::from(settings.dyno_protocol.as_str());
    fields.wrong(key, Some(&protocol), wrong);
}

fn dyno_tls(fields: &mut Fields<'_, '_>) -> Option<DynoTls> {
    let object = fields.object_at("dyno_tls", "must be an object with verify and identity")?;
    let mut fields = Fields {
        object,
        path: format!("{}dyno_tls.", fields.path),
        reasons: fields.reasons,
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let Some(verify) = text("verify").and_then(Verify::parse) else {
        return fields.refuse(
            "verify",
            "must be the file of a certificate authority, its PEM text, \"system\" or \"none\"",
        );
    };
    let identity = match fields.present("identity") {
        None => Identity::default(),
        Some(_) => match text("identity").and_then(Identity::parse) {
            Some(identity) => identity,
            None => {
                return fields.refuse("identity", "must be \"dyno-name\", a DNS name or \"none\"");
            }
        },
    };
    // Whoever leaves dynos unverified says so twice, and nobody believes that a name is looked at which anybody can
    // write into a certificate.
    if verify == Verify::Anybody && identity != Identity::AnyName {
        return fields.refuse("identity", "must be \"none\" where verify is \"none\"");
    }
    Some(DynoTls { verify, identity })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Rejection, parse};
    use super::*;
    use crate::tls_version::TlsVersion;

    fn read(more: &Value, settings: &Value) -> Result<Settings, Vec<Rejection>> {
        let mut app = json!({"name": "a", "domains": [], "dynos": [], "settings": settings});
        app.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let document = json!({"format": 1, "revision": 1, "apps": [app]}).to_string();
        let snapshot = parse(document.as_bytes()).unwrap();
        match snapshot.apps.first() {
            Some(app) => Ok(app.settings.clone()),
            None => Err(snapshot.rejected),
        }
    }

    #[test]
    fn settings_stand_among_the_others_or_beside_the_name() {
        let settings = json!({
            "redirect_to_https": true, "hsts": "max-age=5", "min_tls_version": "1.3", "dyno_protocol": "h2",
            "dyno_tls": {"verify": "ca.pem", "identity": "dynos.internal"},
        });
        let wanted = Settings {
            redirect_to_https: true,
            hsts: Some(Hsts::parse("max-age=5").unwrap()),
            min_tls_version: Some(TlsVersion::V1_3),
            dyno_protocol: DynoProtocol::H2,
            dyno_tls: Some(DynoTls {
                verify: Verify::File("ca.pem".into()),
                identity: Identity::Name("dynos.internal".into()),
            }),
            ..Settings::default()
        };
        assert_eq!(read(&json!({}), &settings), Ok(wanted.clone()));
        assert_eq!(read(&settings, &json!({})), Ok(wanted.clone()));
        let other = json!({"hsts": false, "redirect_to_https": false, "dyno_protocol": "http1", "dyno_tls": {"verify": "system"}});
        let both = read(&settings, &other).unwrap();
        assert_eq!((both.hsts, both.redirect_to_https), (None, false));
        assert_eq!(
            (both.dyno_protocol, both.min_tls_version),
            (DynoProtocol::Http1, Some(TlsVersion::V1_3))
        );
        let nulls = json!({"hsts": null, "redirect_to_https": null, "dyno_protocol": null, "dyno_tls": null, "min_tls_version": null});
        assert_eq!(read(&settings, &nulls), Ok(wanted));
        assert_eq!(read(&nulls, &nulls), Ok(Settings::default()));
        assert_eq!(
            read(&json!({}), &json!({"hsts": true}))
                .unwrap()
                .hsts
                .unwrap()
                .as_str(),
            "max-age=31536000"
        );
    }

    #[test]
    fn combinations_of_protocol_and_tls() {
        let tls = json!({"verify": "none", "identity": "none"});
        for (settings, good) in [
            (json!({"dyno_protocol": "http1"}), true),
            (json!({"dyno_protocol": "http1", "dyno_tls": tls}), true),
            (json!({"dyno_protocol": "h2c"}), true),
            (json!({"dyno_protocol": "h2", "dyno_tls": tls}), true),
            (json!({"dyno_protocol": "h2"}), false),
            (json!({"dyno_protocol": "h2c", "dyno_tls": tls}), false),
        ] {
            assert_eq!(read(&json!({}), &settings).is_ok(), good, "{settings}");
            assert_eq!(read(&settings, &json!({})).is_ok(), good, "{settings}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        let verify =
            "must be the file of a certificate authority, its PEM text, \"system\" or \"none\"";
        for (settings, expected) in [
            (json!({"redirect_to_https": 308}), "settings.redirect_to_https: 308, must be true or false".to_owned()),
            (
                json!({"hsts": 1}),
                "settings.hsts: 1, must be true, false or a value such as \"max-age=31536000; includeSubDomains\"".to_owned(),
            ),
            (
                json!({"hsts": "includeSubDomains"}),
                "settings.hsts: \"includeSubDomains\", must have max-age with a number of seconds, such as \"max-age=31536000; \
                 includeSubDomains\"".to_owned(),
            ),
            (json!({"min_tls_version": 1.2}), "settings.min_tls_version: 1.2, must be \"1.2\" or \"1.3\"".to_owned()),
            (json!({"dyno_protocol": "h3"}), "settings.dyno_protocol: \"h3\", must be one of http1, h2c, h2".to_owned()),
            (
                json!({"dyno_protocol": "h2"}),
                "settings.dyno_protocol: \"h2\", needs dyno_tls; without TLS HTTP/2 to dynos is \"h2c\"".to_owned(),
            ),
            (
                json!({"dyno_protocol": "h2c", "dyno_tls": {"verify": "ca.pem"}}),
                "settings.dyno_protocol: \"h2c\", is without TLS; with dyno_tls it must be \"h2\" or \"http1\"".to_owned(),
            ),
            (json!({"dyno_protocol": "h2", "dyno_tls": true}), "settings.dyno_tls: true, must be an object with verify and identity".to_owned()),
            (json!({"dyno_tls": {}}), format!("settings.dyno_tls.verify: missing, {verify}")),
            (json!({"dyno_tls": {"verify": ""}}), format!("settings.dyno_tls.verify: \"\", {verify}")),
            (
                json!({"dyno_tls": {"verify": "ca.pem", "identity": "*.a.test"}}),
                "settings.dyno_tls.identity: \"*.a.test\", must be \"dyno-name\", a DNS name or \"none\"".to_owned(),
            ),
            (
                json!({"dyno_tls": {"verify": "none"}}),
                "settings.dyno_tls.identity: missing, must be \"none\" where verify is \"none\"".to_owned(),
            ),
            (
                json!({"dyno_tls": {"verify": "none", "identity": "dyno-name"}}),
                "settings.dyno_tls.identity: \"dyno-name\", must be \"none\" where verify is \"none\"".to_owned(),
            ),
        ] {
            let rejected = read(&json!({}), &settings).unwrap_err();
            assert_eq!(rejected[0].reason, expected);
            let beside = read(&settings, &json!({})).unwrap_err();
            assert_eq!(beside[0].reason, expected.replacen("settings.", "", 1));
        }
    }
}
