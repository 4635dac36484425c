//! `RootContext`: one per worker and configuration.

use super::http_context::HttpContext;
use super::worker::Worker;
use super::{host, process_state};
use crate::config::Config;
use proxy_wasm::traits::{self, Context};
use proxy_wasm::types::ContextType;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Envoy's callbacks for the worker as a whole.
pub(crate) struct RootContext {
    id: u32,
    /// `None` until the filter is configured.
    worker: Option<Rc<RefCell<Worker>>>,
    warned_unconfigured: Cell<bool>,
}

impl RootContext {
    /// Creates a root context without a configuration.
    pub(crate) fn new(id: u32) -> Self {
        Self { id, worker: None, warned_unconfigured: Cell::new(false) }
    }

    fn with_worker<T>(&self, act: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        self.worker.as_ref().and_then(|worker| Some(act(&mut *worker.try_borrow_mut().ok()?)))
    }
}

impl Context for RootContext {
    fn on_http_call_response(
        &mut self,
        token: u32,
        headers: usize,
        _body: usize,
        _trailers: usize,
    ) {
        self.with_worker(|worker| worker.on_callout_response(token, headers > 0));
    }

    /// Envoy asks the root context to finish. Returns true if it can do so at once.
    fn on_done(&mut self) -> bool {
        self.with_worker(Worker::on_done).unwrap_or(true)
    }
}

impl traits::RootContext for RootContext {
    /// Envoy also calls this for a configuration that is only being checked, so it must not have
    /// effects outside of this root context.
    fn on_configure(&mut self, _size: usize) -> bool {
        if let Err(capability) = host::check_capabilities(self.id) {
            log::error!("keen-edge: Envoy's allowed_capabilities lack {capability}");
            return false;
        }
        process_state::create_keys();
        match Config::parse(&host::configuration()) {
            Ok(config) => {
                let sources = config.sources.len();
                log::info!("keen-edge {} serves {sources} source(s)", env!("CARGO_PKG_VERSION"));
                self.worker = Some(Rc::new(RefCell::new(Worker::new(config, self.id))));
                true
            }
            Err(errors) => {
                for error in &errors {
                    log::error!("keen-edge: configuration refused: {error}");
                }
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    /// Returns the context of a request. It is never `None`, since the SDK would panic.
    fn create_http_context(&self, id: u32) -> Option<Box<dyn traits::HttpContext>> {
        if self.worker.is_none() && !self.warned_unconfigured.replace(true) {
            log::error!(
                "keen-edge has no configuration, so all requests pass through: is proxy_on_configure in Envoy's \
                 allowed_capabilities?"
            );
        }
        Some(Box::new(HttpContext::new(id, self.worker.clone())))
    }

    fn on_queue_ready(&mut self, _queue: u32) {
        self.with_worker(Worker::on_wake);
    }

    fn on_tick(&mut self) {
        if self.with_worker(Worker::on_tick) == Some(true) {
            // The tick may have sent responses. Then the effective context is one of their streams.
            host::set_effective_context(self.id);
            host::done();
        }
    }
}
