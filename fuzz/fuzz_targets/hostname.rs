//! Hostnames: a domain that was read reads the same again, a request for it finds it under its key, and a wildcard stands for
//! exactly one label. The whole input is the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use router_model::hostname::{Domain, parse_host, wildcard_key};

fuzz_target!(|input: &[u8]| {
    if let Ok(domain) = std::str::from_utf8(input)
        .map_err(drop)
        .and_then(|text| Domain::parse(text).map_err(drop))
    {
        check_domain(&domain);
    }
    let Ok(host) = parse_host(input) else { return };
    assert_eq!(host.name, host.name.to_ascii_lowercase());
    let again = parse_host(host.name.as_bytes()).expect("a normalised name parses");
    assert_eq!((again.name, again.port), (host.name.clone(), None));
    if let Some(key) = wildcard_key(&host.name) {
        assert!(host.name.ends_with(key) && key.starts_with('.'));
    }
});

fn check_domain(domain: &Domain) {
    assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(domain));
    assert!(domain.as_str().is_ascii() && domain.as_str().len() <= "*.".len() + 253);
    if !domain.is_wildcard() {
        let host = parse_host(domain.as_str().as_bytes()).expect("a domain can be asked for");
        assert_eq!(host.name, domain.key());
        return;
    }
    let one_label = format!("a{}", domain.key());
    assert_eq!(wildcard_key(&one_label), Some(domain.key()));
    assert_ne!(
        wildcard_key(&format!("a.{one_label}")),
        Some(domain.key()),
        "two labels"
    );
    assert_ne!(
        wildcard_key(domain.key().trim_start_matches('.')),
        Some(domain.key()),
        "the apex"
    );
}
