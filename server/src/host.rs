//! Where a server listens: an address, or a name that has one.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use anyhow::Context;

/// What `--host` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address, in brackets or without if it is of IPv6.
    Address(IpAddr),
    /// A name, to be looked up when it is needed.
    Name(String),
}

impl Host {
    /// One address of it with this port: the first of IPv4, as that is what most clients try, or else the first.
    ///
    /// # Errors
    /// It is a name that stands for no address.
    pub fn address(&self, port: u16) -> anyhow::Result<SocketAddr> {
        let name = match self {
            Self::Address(address) => return Ok(SocketAddr::new(*address, port)),
            Self::Name(name) => name,
        };
        let no_address = || format!("--host {name}: the name stands for no address");
        let found = (name.as_str(), port).to_socket_addrs();
        let found: Vec<SocketAddr> = found.with_context(no_address)?.collect();
        let first = found.iter().find(|address| address.is_ipv4());
        first.or(found.first()).copied().with_context(no_address)
    }
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse() {
            return Ok(Self::Address(address));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        // What looks like an address and is none would be looked up as a name.
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        match text {
            _ if text.contains(':') => {
                Err("expected an address or a name without a port, which --port sets")
            }
            "" => Err("expected an address or a name"),
            _ if !text.chars().all(is_name) || text.chars().all(is_number) => {
                Err("expected an address or a name")
            }
            _ => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::", "[::]"),
            ("[::1]", "[::1]"),
        ] {
            let host: Host = text.parse().unwrap();
            assert!(matches!(host, Host::Address(_)), "{text}");
            assert_eq!(host.to_string(), shown);
        }
        for name in [
            "localhost",
            "my-host",
            "a_b.example.com",
            "host.docker.internal",
        ] {
            assert_eq!(name.parse(), Ok(Host::Name(name.into())));
        }
        for text in [
            "",
            "localhost:8080",
            "http://localhost",
            "a b",
            "256.0.0.1",
            "1.2.3",
            "*",
            "[x]",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine_has_its_name() {
        let host: Host = "localhost".parse().unwrap();
        let address = host.address(8080).unwrap();
        assert!(address.ip().is_loopback());
        assert_eq!(address.port(), 8080);
        // A label of a name has 63 letters at the most, so nobody needs to be asked.
        let nobody = "a".repeat(64);
        let error = Host::Name(nobody.clone()).address(1).unwrap_err();
        assert!(error.to_string().contains(&nobody), "{error:#}");
    }
}
