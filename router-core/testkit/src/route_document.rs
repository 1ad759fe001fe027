//! Route documents in the words of a test. Builds plain JSON, so that what a feed would deliver is what gets parsed.

use std::fmt::Display;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::test_ca::TestCertificate;

/// One app of a route document.
#[derive(Debug, Clone)]
pub struct AppDoc {
    fields: Map<String, Value>,
    domains: Vec<Value>,
    dynos: Vec<Value>,
    settings: Map<String, Value>,
}

impl AppDoc {
    /// An app without domains and dynos.
    pub fn new(name: &str) -> Self {
        let fields = Map::from_iter([("name".to_owned(), json!(name))]);
        Self {
            fields,
            domains: Vec::new(),
            dynos: Vec::new(),
            settings: Map::new(),
        }
    }

    /// Adds a domain.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        self.domains.push(json!(domain));
        self
    }

    /// Adds a dyno with an address.
    #[must_use]
    pub fn dyno(mut self, name: &str, address: SocketAddr, state: &str) -> Self {
        self.dynos
            .push(json!({"name": name, "address": address.to_string(), "state": state}));
        self
    }

    /// Adds a web dyno that is up.
    #[must_use]
    pub fn web(self, number: usize, address: SocketAddr) -> Self {
        self.dyno(&format!("web.{number}"), address, "up")
    }

    /// Adds a dyno without an address.
    #[must_use]
    pub fn homeless_dyno(mut self, name: &str, state: &str) -> Self {
        self.dynos.push(json!({"name": name, "state": state}));
        self
    }

    /// Sets a key of `settings`.
    #[must_use]
    pub fn setting(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a key of the app itself, such as `maintenance`, `released`, `suspended` or `formation`.
    #[must_use]
    pub fn field(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(key.to_owned(), value.into());
        self
    }

    /// The app as JSON.
    pub fn to_json(&self) -> Value {
        let mut app = self.fields.clone();
        app.insert("domains".to_owned(), Value::Array(self.domains.clone()));
        app.insert("dynos".to_owned(), Value::Array(self.dynos.clone()));
        if !self.settings.is_empty() {
            app.insert("settings".to_owned(), Value::Object(self.settings.clone()));
        }
        Value::Object(app)
    }
}

/// A whole route document.
#[derive(Debug, Clone)]
pub struct RouteDoc(Value);

impl RouteDoc {
    /// A document of format 1. Shrinking is not allowed unless asked for.
    pub fn new(revision: u64, apps: &[AppDoc]) -> Self {
        let apps: Vec<Value> = apps.iter().map(AppDoc::to_json).collect();
        Self(json!({"format": 1, "revision": revision, "apps": apps}))
    }

    /// Adds a certificate, inline.
    #[must_use]
    pub fn certificate(mut self, certificate: &TestCertificate) -> Self {
        let entry = json!({"chain": certificate.chain_pem(), "key": certificate.key_pem()});
        match self.0.get_mut("certificates").and_then(Value::as_array_mut) {
            Some(entries) => entries.push(entry),
            None => self.0["certificates"] = json!([entry]),
        }
        self
    }

    /// Lets the document remove as many domains as it likes.
    #[must_use]
    pub fn allow_shrink(mut self) -> Self {
        self.0["allow_shrink"] = json!(true);
        self
    }

    /// The document's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl Display for RouteDoc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
