//! Where an export is ("NBD URIs", the NBD project's `doc/uri.md`).

use std::{fmt, path::PathBuf, str::FromStr};

/// The port of NBD servers.
const PORT: u16 = 10809;

/// An export of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where the server listens.
    pub address: Address,
    /// The export's name; empty: the server's default.
    pub export: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket: an absolute path.
    Unix(PathBuf),
    /// A host's name or address, and a port.
    Tcp(String, u16),
}

impl Uri {
    /// Whether `text` is meant to be such a URI, be it right or not.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            let scheme = scheme.to_ascii_lowercase();
            scheme == "nbd"
                || scheme == "nbds"
                || scheme.starts_with("nbd+")
                || scheme.starts_with("nbds+")
        })
    }
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("'{text}': {why}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            wrong("no NBD URI; nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH")
        })?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = place.split_once('/').unwrap_or((place, ""));
        let export = decode(export).ok_or_else(|| wrong("the export's name is not readable"))?;
        let address = match scheme.to_ascii_lowercase().as_str() {
            "nbd" if !query.is_empty() => {
                return Err(wrong("after the export there is nothing to say"));
            }
            "nbd" => tcp(authority).ok_or_else(|| wrong("no host; nbd://HOST:PORT/EXPORT"))?,
            "nbd+unix" if !authority.is_empty() => {
                return Err(wrong(
                    "a unix socket has no host; nbd+unix:///EXPORT?socket=PATH",
                ));
            }
            "nbd+unix" => {
                let path = query.strip_prefix("socket=").and_then(decode);
                match path.map(PathBuf::from).filter(|path| path.is_absolute()) {
                    Some(path) => Address::Unix(path),
                    None => {
                        return Err(wrong(
                            "the socket's absolute path is missing; nbd+unix:///EXPORT?socket=PATH",
                        ));
                    }
                }
            }
            "nbds" | "nbds+unix" => {
                return Err(wrong(
                    "NBD with TLS is not spoken here; forward the port through ssh and use nbd://localhost",
                ));
            }
            _ => return Err(wrong("use nbd:// or nbd+unix://")),
        };
        Ok(Uri { address, export })
    }
}

fn tcp(authority: &str) -> Option<Address> {
    let (host, port) = match authority.strip_prefix('[') {
        // An IPv6 address.
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (
                host,
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':')?)
                },
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    let host = decode(host).filter(|host| !host.is_empty() && !host.contains('@'))?;
    Some(Address::Tcp(host, port))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = &self.export;
        match &self.address {
            Address::Unix(path) => write!(f, "nbd+unix:///{export}?socket={}", path.display()),
            Address::Tcp(host, port) if host.contains(':') => {
                write!(f, "nbd://[{host}]:{port}/{export}")
            }
            Address::Tcp(host, port) => write!(f, "nbd://{host}:{port}/{export}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, address, export) in [
            ("nbd://host", tcp("host", 10809), ""),
            ("nbd://host/", tcp("host", 10809), ""),
            ("nbd://host:1234/a%20b/c", tcp("host", 1234), "a b/c"),
            ("NBD://[::1]/x", tcp("::1", 10809), "x"),
            ("nbd://[fe80::1]:99/x", tcp("fe80::1", 99), "x"),
            (
                "nbd+unix:///v@s?socket=/run/a%2Cb",
                Address::Unix("/run/a,b".into()),
                "v@s",
            ),
            ("nbd+unix://?socket=/s", Address::Unix("/s".into()), ""),
        ] {
            let uri = Uri {
                address,
                export: export.to_owned(),
            };
            assert_eq!(text.parse(), Ok(uri.clone()), "{text}");
            assert!(Uri::is_meant_by(text));
            if !export.contains(' ') && !text.contains('%') {
                assert_eq!(uri.to_string().parse(), Ok(uri), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_uri_is_refused_with_what_would_be() {
        for (text, why) in [
            ("nbd://", "no host"),
            ("nbd://:1/x", "no host"),
            ("nbd://h:port/x", "no host"),
            ("nbd://user@h/x", "no host"),
            ("nbd://[::1/x", "no host"),
            ("nbd://h/x?socket=/s", "nothing to say"),
            ("nbd://h/%zz", "not readable"),
            ("nbd://h/%00", "not readable"),
            ("nbd+unix:///x", "socket=PATH"),
            ("nbd+unix:///x?socket=s", "absolute"),
            ("nbd+unix://h/x?socket=/s", "no host"),
            ("nbds://h/x", "TLS"),
            ("nbd+vsock://1/x", "use nbd://"),
        ] {
            let error = text.parse::<Uri>().unwrap_err();
            assert!(error.contains(why) && error.contains(text), "{error}");
            assert!(Uri::is_meant_by(text));
        }
        for file in ["/srv/nbd", "nbd", "a/nbd://x", "http://x"] {
            assert!(!Uri::is_meant_by(file), "{file}");
        }
    }
}
