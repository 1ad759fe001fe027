//! The strict reading of one log line: every field in its place, quoted as it must be, present exactly when it must be.
//! Anything else is an error, so a test that parses its line has checked the whole shape of it.

/// One parsed log line. Values are unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    timestamp: String,
    sock: Option<String>,
    at: String,
    code: Option<String>,
    desc: Option<String>,
    cause: Option<String>,
    method: String,
    path: String,
    host: String,
    request_id: String,
    fwd: String,
    dyno: Option<String>,
    connect_ms: Option<u64>,
    service_ms: Option<u64>,
    status: Option<u16>,
    bytes: u64,
    protocol: String,
    tls: bool,
    tls_version: Option<String>,
    agent: Option<String>,
}

impl LogRecord {
    /// Parses one line, without its line end.
    pub fn parse(line: &str) -> Result<Self, String> {
        let (timestamp, message) = line
            .split_once(" heroku[router]: ")
            .ok_or_else(|| format!("no ` heroku[router]: ` in {line:?}"))?;
        check_timestamp(timestamp)?;
        let mut fields = Fields {
            rest: message,
            first: true,
        };
        let record =
            Self::read(timestamp, &mut fields).map_err(|why| format!("{why} in {line:?}"))?;
        if !fields.rest.is_empty() {
            return Err(format!(
                "{:?} after the last field in {line:?}",
                fields.rest
            ));
        }
        record
            .check_agreement()
            .map_err(|why| format!("{why} in {line:?}"))?;
        Ok(record)
    }

    fn read(timestamp: &str, fields: &mut Fields<'_>) -> Result<Self, String> {
        let sock = fields.optional_bare("sock")?;
        let at = fields.bare("at")?;
        let code = fields.optional_bare("code")?;
        let desc = if code.is_some() {
            Some(fields.quoted("desc")?)
        } else {
            None
        };
        let cause = if code.as_deref() == Some("H26") {
            Some(fields.quoted("cause")?)
        } else {
            None
        };
        let method = fields.bare("method")?;
        let path = fields.quoted("path")?;
        let host = fields.bare("host")?;
        let request_id = fields.bare("request_id")?;
        let fwd = fields.quoted("fwd")?;
        let dyno = some_unless_empty(fields.bare("dyno")?);
        let connect_ms = milliseconds(&fields.bare("connect")?)?;
        let service_ms = milliseconds(&fields.bare("service")?)?;
        let status = match fields.bare("status")? {
            empty if empty.is_empty() => None,
            digits if digits.len() == 3 => Some(number(&digits)?.try_into().map_err(|_| "status")?),
            other => return Err(format!("status={other}")),
        };
        let bytes = number(&fields.bare("bytes")?)?;
        let protocol = fields.bare("protocol")?;
        let tls = match fields.bare("tls")?.as_str() {
            "true" => true,
            "false" => false,
            other => return Err(format!("tls={other}")),
        };
        let tls_version = if tls {
            Some(fields.bare("tls_version")?)
        } else {
            None
        };
        let agent = if code.as_deref() == Some("H31") {
            Some(fields.quoted("agent")?)
        } else {
            None
        };
        Ok(Self {
            timestamp: timestamp.to_owned(),
            sock,
            at,
            code,
            desc,
            cause,
            method,
            path,
            host,
            request_id,
            fwd,
            dyno,
            connect_ms,
            service_ms,
            status,
            bytes,
            protocol,
            tls,
            tls_version,
            agent,
        })
    }

    /// What fields say about each other.
    fn check_agreement(&self) -> Result<(), String> {
        let severity = match self.code.as_deref() {
            None | Some("H80" | "H81" | "H82") => "info",
            Some("H27" | "H28") => "warning",
            Some(_) => "error",
        };
        let sock = match self.code.as_deref() {
            Some("H18") => Some("backend"),
            Some("H27") => Some("client"),
            _ => None,
        };
        let code_is_well_formed = self.code.as_deref().is_none_or(|code| {
            code.len() == 3
                && code.starts_with('H')
                && code[1..].bytes().all(|byte| byte.is_ascii_digit())
        });
        let id_is_well_formed = (20..=200).contains(&self.request_id.len())
            && self
                .request_id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=-".contains(&byte));
        let checks = [
            (
                self.at == severity || self.code.as_deref() == Some("H83"),
                "at= does not go with code=",
            ),
            (self.sock.as_deref() == sock, "sock= does not go with code="),
            (code_is_well_formed, "bad code="),
            (
                self.status.is_none() == (self.code.as_deref() == Some("H24")),
                "status= is empty on H24 and only there",
            ),
            (!self.method.is_empty(), "empty method="),
            (!self.host.is_empty(), "empty host="),
            (id_is_well_formed, "bad request_id="),
            (
                self.dyno.is_some() || self.connect_ms.is_none(),
                "connect= without dyno=",
            ),
            (
                self.connect_ms.is_some() || self.service_ms.is_none(),
                "service= without connect=",
            ),
            (
                ["http1.0", "http1.1", "http2.0"].contains(&self.protocol.as_str()),
                "bad protocol=",
            ),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err((*why).to_owned()),
            None => Ok(()),
        }
    }

    /// The time prefix, `2026-01-01T00:00:00.000000+00:00`.
    pub fn timestamp(&self) -> &str {
        &self.timestamp
    }

    /// `client` or `backend`.
    pub fn sock(&self) -> Option<&str> {
        self.sock.as_deref()
    }

    /// `info`, `warning` or `error`.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// The error code, `H12`.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What the error code means.
    pub fn desc(&self) -> Option<&str> {
        self.desc.as_deref()
    }

    /// Why the request was refused, H26 only.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The method as received.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Path and query as received.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The Host value as received.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The request id that the dyno got.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The X-Forwarded-For that the dyno got.
    pub fn fwd(&self) -> &str {
        &self.fwd
    }

    /// The dyno, when one was involved.
    pub fn dyno(&self) -> Option<&str> {
        self.dyno.as_deref()
    }

    /// Milliseconds to open the dyno connection.
    pub fn connect_ms(&self) -> Option<u64> {
        self.connect_ms
    }

    /// Milliseconds between dyno and client.
    pub fn service_ms(&self) -> Option<u64> {
        self.service_ms
    }

    /// The status sent to the client.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Body bytes sent to the client.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `http1.0`, `http1.1` or `http2.0`.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// Whether the client's connection was encrypted.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// `tls1.2`, `tls1.3` or `unknown`.
    pub fn tls_version(&self) -> Option<&str> {
        self.tls_version.as_deref()
    }

    /// The User-Agent, H31 only.
    pub fn agent(&self) -> Option<&str> {
        self.agent.as_deref()
    }
}

/// The unread fields of a line.
struct Fields<'a> {
    rest: &'a str,
    first: bool,
}

impl Fields<'_> {
    fn optional_bare(&mut self, name: &str) -> Result<Option<String>, String> {
        let next = if self.first {
            self.rest
        } else {
            self.rest.strip_prefix(' ').unwrap_or("")
        };
        let there = next
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('='));
        if there {
            self.bare(name).map(Some)
        } else {
            Ok(None)
        }
    }

    fn bare(&mut self, name: &str) -> Result<String, String> {
        self.name(name)?;
        let end = self.rest.find(' ').unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        // A request id may end in `=`, as base64 does; its alphabet is checked as a whole.
        if value.contains(['"', '=']) && name != "request_id" {
            return Err(format!("quote or equals sign in bare {name}={value}"));
        }
        unescape(value).map_err(|why| format!("{why} in {name}="))
    }

    fn quoted(&mut self, name: &str) -> Result<String, String> {
        self.name(name)?;
        let inner = self
            .rest
            .strip_prefix('"')
            .ok_or_else(|| format!("{name}= is not quoted"))?;
        let mut escaped = false;
        let end = inner.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let end = end.ok_or_else(|| format!("{name}= has no closing quote"))?;
        self.rest = &inner[end + 1..];
        unescape(&inner[..end]).map_err(|why| format!("{why} in {name}="))
    }

    fn name(&mut self, name: &str) -> Result<(), String> {
        let rest = if self.first {
            Some(self.rest)
        } else {
            self.rest.strip_prefix(' ')
        };
        self.first = false;
        let rest = rest
            .and_then(|rest| rest.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix('='));
        self.rest = rest.ok_or_else(|| format!("expected {name}= at {:?}", self.rest))?;
        Ok(())
    }
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        if char.is_control() {
            return Err(format!("control character {char:?}"));
        }
        if char != '\\' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some(same @ ('"' | '\\')) => out.push(same),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                let byte =
                    u8::from_str_radix(&digits, 16).map_err(|_| format!("escape \\x{digits}"))?;
                out.push(char::from(byte));
            }
            other => return Err(format!("escape \\{other:?}")),
        }
    }
    Ok(out)
}

fn check_timestamp(text: &str) -> Result<(), String> {
    let shape: String = text
        .chars()
        .map(|char| if char.is_ascii_digit() { '0' } else { char })
        .collect();
    if shape == "0000-00-00T00:00:00.000000+00:00" {
        Ok(())
    } else {
        Err(format!("timestamp {text:?}"))
    }
}

fn milliseconds(value: &str) -> Result<Option<u64>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let digits = value
        .strip_suffix("ms")
        .ok_or_else(|| format!("no ms unit on {value:?}"))?;
    number(digits).map(Some)
}

fn number(digits: &str) -> Result<u64, String> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{digits:?} is not a number"));
    }
    digits
        .parse()
        .map_err(|_| format!("{digits:?} is too large"))
}

fn some_unless_empty(value: String) -> Option<String> {
    if value.is_empty() { None } else { Some(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "2026-01-01T00:00:00.000000+00:00 heroku[router]: ";
    const ID: &str = "8601b555-6a83-4c12-8269-97c8e32cdb22";

    fn line(start: &str, middle: &str, end: &str) -> String {
        format!(
            "{PREFIX}{start} method=GET {middle} host=shop.test request_id={ID} fwd=\"127.0.0.1\" {end}"
        )
    }

    const GOOD_END: &str =
        "dyno=web.1 connect=1ms service=18ms status=200 bytes=13 protocol=http1.1 tls=false";

    #[test]
    fn a_normal_line_gives_its_fields() {
        let record =
            LogRecord::parse(&line("at=info", r#"path="/x?y=\"1\"\\\n\xff""#, GOOD_END)).unwrap();
        assert_eq!(record.path(), "/x?y=\"1\"\\\n\u{ff}");
        assert_eq!(
            (record.dyno(), record.connect_ms(), record.service_ms()),
            (Some("web.1"), Some(1), Some(18))
        );
        assert_eq!(
            (
                record.status(),
                record.bytes(),
                record.code(),
                record.sock()
            ),
            (Some(200), 13, None, None)
        );
    }

    #[test]
    fn error_lines_give_theirs() {
        let end = "dyno= connect= service= status=417 bytes=0 protocol=http1.0 tls=false";
        let start = "at=error code=H26 desc=\"Request Error\" cause=\"bad header\"";
        let record = LogRecord::parse(&line(start, "path=\"/\"", end)).unwrap();
        assert_eq!(
            (record.cause(), record.dyno(), record.service_ms()),
            (Some("bad header"), None, None)
        );
        let start = "sock=backend at=error code=H18 desc=\"Server Request Interrupted\"";
        assert_eq!(
            LogRecord::parse(&line(start, "path=\"/\"", GOOD_END))
                .unwrap()
                .sock(),
            Some("backend")
        );
    }

    #[test]
    fn anything_out_of_shape_is_refused() {
        let good = line("at=info", "path=\"/\"", GOOD_END);
        assert!(LogRecord::parse(&good).is_ok());
        let bad = [
            good.replace(".000000+00:00", "Z"),
            good.replace("at=info", "at=error"),
            good.replace("at=info", "sock=client at=info"),
            good.replace("at=info", "at=info code=H12"),
            good.replace("method=GET", "method="),
            good.replace("path=\"/\"", "path=/"),
            good.replace("path=\"/\"", "path=\"/\" extra=1"),
            good.replace("path=\"/\"", "path=\"/\n\""),
            good.replace("connect=1ms", "connect=1"),
            good.replace("status=200", "status="),
            good.replace("bytes=13", "bytes="),
            good.replace("protocol=http1.1", "protocol=http"),
            good.replace(" tls=false", ""),
            good.replace("tls=false", "tls=true"),
            good.replace("dyno=web.1", "dyno="),
            good.replace("dyno=web.1 connect=1ms", "connect=1ms dyno=web.1"),
            format!("{good} "),
            format!("{good} x=1"),
        ];
        for bad in bad {
            assert!(LogRecord::parse(&bad).is_err(), "{bad}");
        }
    }
}
