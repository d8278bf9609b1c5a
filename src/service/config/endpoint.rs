//! Where metrics are served: a unix socket or a loopback address, as a string of the configuration.
//!
//! Nothing else is taken, so that figures about guests never leave the host by a slip of the pen.

use serde::de::{Deserialize, Deserializer, Error, Unexpected};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A place on this host that can be listened at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The file of a socket.
    Unix(PathBuf),
    /// A loopback address and a port.
    Loopback(SocketAddr),
}

impl Endpoint {
    fn of(text: &str) -> Option<Endpoint> {
        match text.strip_prefix("unix:") {
            Some(path) => Path::new(path).is_absolute().then(|| Endpoint::Unix(path.into())),
            None => {
                let address: SocketAddr = text.parse().ok()?;
                let good = address.ip().is_loopback() && address.port() != 0;
                good.then_some(Endpoint::Loopback(address))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
        const EXPECTED: &str = "\"unix:/PATH\" or a loopback address with a port, like \"127.0.0.1:9477\"";
        let text = String::deserialize(deserializer)?;
        Endpoint::of(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
    }
}
