//! Where an instance's app listens.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Where an instance's app listens. Two instances of one node that live at the same time never share an endpoint.
///
/// Only the runtime can connect to it (`Runtime::connect`): all sealed instances have the same address inside their
/// network namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// An address of this host that any process on it may connect to.
    Direct(SocketAddr),
    /// 127.0.0.1 in a network namespace that this server keeps open.
    Sealed {
        /// The server's number for the namespace, unique in the lifetime of the server process.
        namespace: u32,
        /// The port in that namespace.
        port: u16,
    },
    /// `::1` in a network namespace that this server keeps open.
    SealedIpv6 {
        /// The server's number for the namespace, unique in the lifetime of the server process.
        namespace: u32,
        /// The port in that namespace.
        port: u16,
    },
}

impl Endpoint {
    /// Returns the port on which the app listens.
    pub fn port(self) -> u16 {
        match self {
            Endpoint::Direct(address) => address.port(),
            Endpoint::Sealed { port, .. } | Endpoint::SealedIpv6 { port, .. } => port,
        }
    }

    /// Returns the endpoint with another port.
    pub fn with_port(self, port: u16) -> Self {
        match self {
            Endpoint::Direct(address) => Endpoint::Direct((address.ip(), port).into()),
            Endpoint::Sealed { namespace, .. } => Endpoint::Sealed { namespace, port },
            Endpoint::SealedIpv6 { namespace, .. } => Endpoint::SealedIpv6 { namespace, port },
        }
    }

    /// Returns the endpoint at `::1` in place of 127.0.0.1; `None` for every other address.
    pub fn on_ipv6_loopback(self) -> Option<Self> {
        match self {
            Endpoint::Direct(address) if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) => {
                Some(Endpoint::Direct((Ipv6Addr::LOCALHOST, address.port()).into()))
            }
            Endpoint::Sealed { namespace, port } => Some(Endpoint::SealedIpv6 { namespace, port }),
            Endpoint::Direct(_) | Endpoint::SealedIpv6 { .. } => None,
        }
    }
}

impl<A: Into<SocketAddr>> From<A> for Endpoint {
    fn from(address: A) -> Self {
        Endpoint::Direct(address.into())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Direct(address) => write!(f, "{address}"),
            Endpoint::Sealed { namespace, port } => write!(f, "port {port} in network namespace {namespace}"),
            Endpoint::SealedIpv6 { namespace, port } => {
                write!(f, "[::1]:{port} in network namespace {namespace}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_displays_its_address_and_reads_back_from_json_unchanged() {
        let direct = Endpoint::from(SocketAddr::from(([127, 0, 0, 1], 8080)));
        let sealed = Endpoint::Sealed { namespace: 7, port: 80 };
        let ipv6 = sealed.on_ipv6_loopback().unwrap();
        assert_eq!(sealed.with_port(81), Endpoint::Sealed { namespace: 7, port: 81 });
        assert_eq!(direct.with_port(81), Endpoint::from(SocketAddr::from(([127, 0, 0, 1], 81))));
        for (endpoint, text) in [
            (direct, "127.0.0.1:8080"),
            (direct.on_ipv6_loopback().unwrap(), "[::1]:8080"),
            (sealed, "port 80 in network namespace 7"),
            (ipv6, "[::1]:80 in network namespace 7"),
        ] {
            assert_eq!(endpoint.to_string(), text);
            let json = serde_json::to_string(&endpoint).unwrap();
            assert_eq!(serde_json::from_str::<Endpoint>(&json).unwrap(), endpoint);
        }
    }
}
