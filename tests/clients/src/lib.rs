//! Unmodified Segment SDKs, through a real Envoy, to the mock of Keen.
//!
//! A [`TestEnvironment`] is Keen and Envoy; a [`Program`] uses an SDK as an application does, and says how that went in the SDK's
//! own view; a [`Run`] is what each of the three saw. Between sdk_process and Envoy stands a [`TcpProxy`]: it counts, and it
//! makes the trouble that a network makes.

mod certificate;
mod environment;
mod sdk_process;
mod site;
mod tcp_proxy;

pub use environment::{Run, TestEnvironment, Way};
pub use sdk_process::{Program, Report, home};
pub use site::Site;
pub use tcp_proxy::{TcpProxy, Trouble};

use std::io::Write;

/// A line of progress, past the test runner, which keeps what tests print to itself.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "clients: {line}");
}
