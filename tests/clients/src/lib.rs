//! Unmodified Segment SDKs, through a real Envoy, to the mock of Keen.
//!
//! A [`TestEnvironment`] runs the mock of Keen and Envoy. An [`SdkProcess`] uses an SDK as an
//! application does and reports the SDK's own view of its calls. A [`Run`] is what the SDK, Envoy
//! and Keen saw. A [`TcpProxy`] between the process and Envoy counts requests and injects network
//! faults.

mod certificate;
mod environment;
mod sdk_process;
mod site;
mod tcp_proxy;

pub use environment::{ClientPath, Run, TestEnvironment};
pub use sdk_process::{Report, SdkProcess, install};
pub use site::Site;
pub use tcp_proxy::{NetworkFault, TcpProxy};

use std::io::Write;

/// Prints a progress line to stderr. The test runner does not capture it.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "clients: {line}");
}
