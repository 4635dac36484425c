//! Reads the body and replies, and does nothing with it: what entering and leaving a filter costs, written as the SDK's
//! own examples are.

#[cfg(target_arch = "wasm32")]
mod filter {
    use proxy_wasm::traits::{Context, HttpContext, RootContext};
    use proxy_wasm::types::{Action, ContextType, LogLevel};

    proxy_wasm::main! {{
        proxy_wasm::set_log_level(LogLevel::Info);
        proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root) });
    }}

    struct Root;

    impl Context for Root {}

    impl RootContext for Root {
        fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
            Some(Box::new(Stream))
        }

        fn get_type(&self) -> Option<ContextType> {
            Some(ContextType::HttpContext)
        }
    }

    struct Stream;

    impl Context for Stream {}

    impl HttpContext for Stream {
        fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
            Action::Pause
        }

        fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
            if end_of_stream {
                let body = self.get_http_request_body(0, size).unwrap_or_default();
                let reply: &[u8] = if body.is_empty() { b"{}" } else { b"{\"success\":true}" };
                self.send_http_response(200, vec![("content-type", "application/json")], Some(reply));
            }
            Action::Pause
        }
    }
}
