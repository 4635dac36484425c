//! The mock Keen at the address of `envoy.yaml`, for a test that runs it in a network namespace.

use mock_keen::{MockKeen, Options};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

#[tokio::main]
async fn main() -> io::Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8089));
    let _keen = MockKeen::start(Options { addr, ..Options::default() }).await?;
    std::future::pending().await
}
