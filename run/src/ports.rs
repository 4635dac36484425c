//! The three ports, from the environment.

use crate::Result;
use std::{
    env, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

/// The ports of Envoy, the mock Keen and Envoy's admin interface.
pub(crate) struct Ports {
    envoy: u16,
    keen: u16,
    admin: u16,
}

impl Ports {
    /// `PORT`, `KEEN_PORT` and `ADMIN_PORT`, or their defaults.
    pub(crate) fn from_environment() -> Result<Self> {
        Ok(Self {
            envoy: port("PORT", 8080)?,
            keen: port("KEEN_PORT", 8089)?,
            admin: port("ADMIN_PORT", 9901)?,
        })
    }

    pub(crate) fn envoy(&self) -> SocketAddr {
        local(self.envoy)
    }

    pub(crate) fn keen(&self) -> SocketAddr {
        local(self.keen)
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        local(self.admin)
    }

    /// Binds all three at once. Envoy would share a port with another Envoy without an error.
    pub(crate) fn check(&self) -> Result<()> {
        let ports = [("PORT", self.envoy), ("KEEN_PORT", self.keen), ("ADMIN_PORT", self.admin)];
        let mut listeners = Vec::new();
        for (name, port) in ports {
            let listener = TcpListener::bind(local(port)).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!("port {port} is in use; choose another: make run {name}=<port>")
                }
                _ => format!("port {port}: {error}; choose another: make run {name}=<port>"),
            })?;
            listeners.push(listener);
        }
        Ok(())
    }
}

fn port(name: &str, default: u16) -> Result<u16> {
    match env::var(name) {
        Ok(text) => {
            text.parse().map_err(|_| format!("{name} must be a port number, not {text:?}").into())
        }
        Err(_) => Ok(default),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
