//! The root context: one a worker and configuration.

use super::host;
use super::http_context::Stream;
use super::worker::Engine;
use crate::config::Config;
use std::cell::RefCell;
use std::rc::Rc;

/// Envoy's callbacks for the worker as a whole.
pub(super) struct Root {
    id: u32,
    engine: Option<Rc<RefCell<Engine>>>,
    complained: bool,
}

impl Root {
    /// A root context that waits for its configuration.
    pub(super) fn new(id: u32) -> Self {
        Self { id, engine: None, complained: false }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        self.engine
            .as_ref()
            .and_then(|engine| engine.try_borrow_mut().ok().map(|mut engine| act(&mut engine)))
    }
}

/// Envoy's callbacks.
impl Root {
    pub(super) fn on_configure(&mut self) -> bool {
        match Config::parse(&host::configuration()) {
            Ok(config) => {
                let sources = config.sources.len();
                log::info!("keen-edge {} serves {sources} source(s)", env!("CARGO_PKG_VERSION"));
                self.engine = Some(Rc::new(RefCell::new(Engine::new(config, self.id))));
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

    /// The context of a request; none without a configuration.
    pub(super) fn stream(&mut self, id: u32) -> Option<Stream> {
        if self.engine.is_none() && !std::mem::replace(&mut self.complained, true) {
            log::error!(
                "keen-edge has no configuration, and lets every request pass: is proxy_on_configure among Envoy's \
                 allowed_capabilities?"
            );
        }
        Some(Stream::new(id, Rc::clone(self.engine.as_ref()?)))
    }

    pub(super) fn on_http_call_response(&mut self, token: u32, has_headers: bool) {
        self.with(|engine| engine.called(token, has_headers));
    }

    pub(super) fn on_queue_ready(&mut self) {
        self.with(Engine::woken);
    }

    /// True where this was the last: Envoy had asked for the end, and now it has come.
    pub(super) fn on_tick(&mut self) -> bool {
        let ended = self.with(Engine::tick) == Some(true);
        if ended {
            // It may have given the last answers, in the name of their streams.
            host::act_for(self.id);
            host::done();
        }
        ended
    }

    /// True where it may end at once.
    pub(super) fn on_done(&mut self) -> bool {
        self.with(Engine::end).unwrap_or(true)
    }
}
