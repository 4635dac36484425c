//! The overflow queue, in builds with the feature `overflow`.
//!
//! It adds 45 KB to the module, so it is a separate build: `scripts/build.sh overflow`. In the
//! other build [`Overflow`] has no values, and the compiler removes all code that would use one.

use crate::config::Config;

#[cfg(feature = "overflow")]
use super::process_state;

#[cfg(feature = "overflow")]
pub(super) use crate::overflow::Overflow;

/// Returns the queue of the configuration, if it has one.
#[cfg(feature = "overflow")]
pub(super) fn start(config: &Config) -> Option<Overflow> {
    let settings = config.overflow.as_ref()?;
    process_state::create_drain_lease(&settings.queue_url);
    let projects = config.destinations.iter().map(|d| d.project_id.clone()).collect();
    Some(Overflow::new(settings, projects, config.timeout_ms))
}

/// Returns no queue, since this build has none.
#[cfg(not(feature = "overflow"))]
pub(super) fn start(_: &Config) -> Option<Overflow> {
    None
}

/// Returns why this build rejects a configuration, or `None` if it accepts it.
pub(super) fn unsupported(config: &Config) -> Option<&'static str> {
    let is_unsupported = config.overflow.is_some() && cfg!(not(feature = "overflow"));
    is_unsupported.then_some(
        "/overflow: this build of the filter has no overflow queue; use keen_edge_overflow.wasm",
    )
}

#[cfg(not(feature = "overflow"))]
pub(super) use without::Overflow;

#[cfg(not(feature = "overflow"))]
mod without {
    use crate::delivery::{CalloutResponse, Delivery, OverflowPolicy};
    use crate::overflow::{Call, CallId, OverflowReport};

    /// No overflow queue.
    #[derive(Debug)]
    pub(in crate::filter) enum Overflow {}

    impl Overflow {
        pub(in crate::filter) fn policy(&self) -> OverflowPolicy {
            match *self {}
        }

        pub(in crate::filter) fn is_lease_due(&mut self, _: u64) -> bool {
            match *self {}
        }

        pub(in crate::filter) fn on_lease(&mut self, _: bool, _: u64) {
            match *self {}
        }

        pub(in crate::filter) fn next_call(&mut self, _: &mut Delivery, _: u64) -> Option<Call> {
            match *self {}
        }

        pub(in crate::filter) fn on_dispatch_failed(
            &mut self,
            _: CallId,
            _: &mut Delivery,
            _: u64,
        ) -> OverflowReport {
            match *self {}
        }

        pub(in crate::filter) fn on_response(
            &mut self,
            _: CallId,
            _: CalloutResponse<'_>,
            _: &mut Delivery,
            _: u64,
        ) -> OverflowReport {
            match *self {}
        }

        pub(in crate::filter) fn begin_drain(&mut self) {
            match *self {}
        }

        pub(in crate::filter) fn is_idle(&self) -> bool {
            match *self {}
        }

        pub(in crate::filter) fn needs_timer(&self) -> bool {
            match *self {}
        }
    }
}
