//! When the root context runs next: its wake queue and its tick.
//!
//! Callouts belong to the root context, so a stream that has work for it wakes it: Envoy calls
//! `on_queue_ready` in the next turn of the worker's event loop, 0.1 ms later. The tick is for
//! deadlines, backoffs and metrics.

use super::host;

/// Period of the tick while there are deadlines, backoffs or counters to process.
pub(super) const TICK_MS: u32 = 50;
/// Period of the tick while a batch lingers.
pub(super) const FAST_TICK_MS: u32 = 1;

/// Period of the tick of an idle worker, while another worker may have failed.
pub(super) const SLOW_TICK_MS: u32 = 1_000;

/// Wakes the root context.
#[derive(Debug, Default)]
pub(super) struct Waker {
    queue: Option<u32>,
    /// An item is in the queue, and Envoy has not called back for it yet.
    wake_pending: bool,
    /// Current period of the tick. 0: stopped.
    tick_period_ms: u32,
}

impl Waker {
    /// Registers the wake queue. `id` is unique in the process, and so is the queue's name.
    pub(super) fn register(&mut self, id: u64) {
        self.queue = host::register_wake_queue(&format!("keen_edge.wake.{id}"));
    }

    /// Asks Envoy to call `on_queue_ready` soon. Further wakes before the callback are merged.
    pub(super) fn wake(&mut self) {
        if let (false, Some(queue)) = (self.wake_pending, self.queue) {
            self.wake_pending = host::enqueue_wake(queue);
        }
    }

    /// Handles `on_queue_ready`.
    pub(super) fn on_wake(&mut self) {
        if let Some(queue) = self.queue {
            host::drain_wake_queue(queue);
        }
        self.wake_pending = false;
    }

    /// Handles `on_tick`. If a wake was lost, the next one is sent again.
    pub(super) fn on_tick(&mut self) {
        self.wake_pending = false;
    }

    /// Starts the tick if it is stopped.
    pub(super) fn ensure_ticking(&mut self) {
        if self.tick_period_ms == 0 {
            self.set_tick_period(TICK_MS);
        }
    }

    /// Sets the tick's period. 0 stops it.
    pub(super) fn set_tick_period(&mut self, ms: u32) {
        if self.tick_period_ms != ms {
            self.tick_period_ms = ms;
            host::set_tick_period(ms);
        }
    }

    /// Returns the tick's period. 0: stopped.
    pub(super) fn tick_period_ms(&self) -> u32 {
        self.tick_period_ms
    }
}
