//! Unmodified Segment SDKs, through a real Envoy, to the mock of Keen.
//!
//! A [`Fleet`] is Keen and Envoy; a [`Program`] uses an SDK as an application does, and says how that went in the SDK's
//! own view; a [`Run`] is what each of the three saw. Between program and Envoy stands a [`Tap`]: it counts, and it
//! makes the trouble that a network makes.

mod certificate;
mod fleet;
mod program;
mod site;
mod tap;

pub use fleet::{Fleet, Run, Way};
pub use program::{Program, Report, home};
pub use site::Site;
pub use tap::{Tap, Trouble};

use std::io::Write;

/// A line of progress, past the test runner, which keeps what tests print to itself.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "clients: {line}");
}
