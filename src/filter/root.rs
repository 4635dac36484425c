//! The root context: one a worker and configuration.

use super::engine::Engine;
use super::host;
use super::stream::Stream;
use crate::config::Config;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use std::cell::RefCell;
use std::rc::Rc;

/// Envoy's callbacks for the worker as a whole.
pub(crate) struct Root {
    id: u32,
    engine: Option<Rc<RefCell<Engine>>>,
}

impl Root {
    /// A root context that waits for its configuration.
    pub(crate) fn new(id: u32) -> Self {
        Self { id, engine: None }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        self.engine.as_ref().and_then(|engine| engine.try_borrow_mut().ok().map(|mut engine| act(&mut engine)))
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, _body: usize, _trailers: usize) {
        self.with(|engine| engine.called(token, headers > 0));
    }

    fn on_done(&mut self) -> bool {
        self.with(Engine::end).unwrap_or(true)
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match Config::read(&host::configuration()) {
            Ok(config) => {
                let sources = config.sources.len();
                log::info!("keen-edge {} serves {sources} source(s)", env!("CARGO_PKG_VERSION"));
                self.engine = Some(Rc::new(RefCell::new(Engine::new(config, self.id))));
                true
            }
            Err(error) => {
                log::error!("keen-edge: configuration refused: {error}");
                false
            }
        }
    }

    fn on_queue_ready(&mut self, _queue: u32) {
        self.with(Engine::woken);
    }

    fn on_tick(&mut self) {
        if self.with(Engine::tick) == Some(true) {
            host::done();
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let engine = self.engine.as_ref()?;
        Some(Box::new(Stream::new(id, Rc::clone(engine))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
