//! Where a server is and with what a client introduces itself. Text in, text out; nothing connects here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// A Unix socket: `/path` or `unix:/path`.
    Unix(PathBuf),
    /// `host:port`, in the clear.
    Tcp { host_port: String },
    /// `tls://host:port`. The server's certificate must be valid for the host.
    Tls { host_port: String },
}

/// Why a text is not a [`ServerAddress`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a server address: give /path/to/socket, host:port or tls://host:port")]
pub struct InvalidAddress(String);

/// Splits `host:port` (an IPv6 host stands in brackets) and checks both.
pub(crate) fn split_host_port(host_port: &str) -> Option<(&str, u16)> {
    let (host, port) = host_port.rsplit_once(':')?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = bracketed.unwrap_or(host);
    let fits = !host.is_empty() && !host.contains(['/', '[', ']', ' ']) && (bracketed.is_some() || !host.contains(':'));
    if fits { Some((host, port.parse().ok()?)) } else { None }
}

impl FromStr for ServerAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(invalid()) } else { Ok(ServerAddress::Unix(PathBuf::from(path))) };
        }
        if text.starts_with(['/', '.']) {
            return Ok(ServerAddress::Unix(PathBuf::from(text)));
        }
        let (host_port, tls) = match text.strip_prefix("tls://") {
            Some(rest) => (rest, true),
            None => (text.strip_prefix("tcp://").unwrap_or(text), false),
        };
        split_host_port(host_port).ok_or_else(invalid)?;
        let host_port = host_port.to_owned();
        Ok(if tls { ServerAddress::Tls { host_port } } else { ServerAddress::Tcp { host_port } })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Unix(path) => write!(formatter, "unix:{}", path.display()),
            ServerAddress::Tcp { host_port } => formatter.write_str(host_port),
            ServerAddress::Tls { host_port } => write!(formatter, "tls://{host_port}"),
        }
    }
}

/// How to reach a server.
#[derive(Clone)]
pub struct ConnectOptions {
    pub address: ServerAddress,
    /// Needed on TCP; the Unix socket is guarded by its owner.
    pub key: Option<String>,
    /// Certificates (PEM) that the server's must descend from; the system's if not given.
    pub tls_ca: Option<PathBuf>,
    /// Longest time for one attempt: connecting, TLS and the handshake together.
    pub connect_timeout: Duration,
}

impl ConnectOptions {
    /// Without a key, with the system's certificates and ten seconds for an attempt.
    pub fn new(address: ServerAddress) -> Self {
        ConnectOptions { address, key: None, tls_ca: None, connect_timeout: Duration::from_secs(10) }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        formatter
            .debug_struct("ConnectOptions")
            .field("address", &self.address)
            .field("has_key", &self.key.is_some())
            .field("tls_ca", &self.tls_ca)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown_so_that_it_is_read_again() {
        let unix = ServerAddress::Unix(PathBuf::from("/run/cairn.sock"));
        let tcp = ServerAddress::Tcp { host_port: "storage:7420".into() };
        let tls = ServerAddress::Tls { host_port: "[::1]:7420".into() };
        for (text, address) in [
            ("/run/cairn.sock", &unix),
            ("unix:/run/cairn.sock", &unix),
            ("storage:7420", &tcp),
            ("tcp://storage:7420", &tcp),
            ("tls://[::1]:7420", &tls),
        ] {
            assert_eq!(&text.parse::<ServerAddress>().expect(text), address);
            assert_eq!(&address.to_string().parse::<ServerAddress>().expect("shown"), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_forms_that_are() {
        for text in ["", "storage", "storage:", "storage:99999", ":7420", "unix:", "tls://storage", "::1:80", "a/b:1"] {
            let error = text.parse::<ServerAddress>().expect_err(text).to_string();
            assert!(error.contains("host:port"), "{error}");
        }
    }

    #[test]
    fn a_key_does_not_show_in_logs() {
        let mut options = ConnectOptions::new("/s".parse().expect("address"));
        options.key = Some("hunter2".into());
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
