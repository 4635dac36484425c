//! The minimal wasm filter, written like the SDK's examples: it reads the body and replies. With
//! the name of a cluster as its configuration, it sends each body there first.

#[cfg(target_arch = "wasm32")]
mod filter {
    use proxy_wasm::traits::{Context, HttpContext, RootContext};
    use proxy_wasm::types::{Action, ContextType, LogLevel};
    use std::time::Duration;

    proxy_wasm::main! {{
        proxy_wasm::set_log_level(LogLevel::Info);
        proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root { cluster: String::new() }) });
    }}

    struct Root {
        cluster: String,
    }

    impl Context for Root {}

    impl RootContext for Root {
        fn on_configure(&mut self, _: usize) -> bool {
            self.cluster = String::from_utf8(self.get_plugin_configuration().unwrap_or_default())
                .unwrap_or_default();
            true
        }

        fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
            Some(Box::new(Stream { cluster: self.cluster.clone() }))
        }

        fn get_type(&self) -> Option<ContextType> {
            Some(ContextType::HttpContext)
        }
    }

    struct Stream {
        cluster: String,
    }

    impl Stream {
        fn reply(&self, reply: &[u8]) {
            self.send_http_response(200, vec![("content-type", "application/json")], Some(reply));
        }
    }

    impl Context for Stream {
        fn on_http_call_response(&mut self, _: u32, _: usize, _: usize, _: usize) {
            self.reply(b"{\"success\":true}");
        }
    }

    impl HttpContext for Stream {
        fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
            Action::Pause
        }

        fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
            if !end_of_stream {
                return Action::Pause;
            }
            let body = self.get_http_request_body(0, size).unwrap_or_default();
            if self.cluster.is_empty() {
                self.reply(if body.is_empty() { b"{}" } else { b"{\"success\":true}" });
                return Action::Pause;
            }
            let headers = vec![
                (":method", "POST"),
                (":path", "/"),
                (":authority", "api.keen.io"),
                ("content-type", "application/json"),
            ];
            let called = self.dispatch_http_call(
                &self.cluster,
                headers,
                Some(&body),
                vec![],
                Duration::from_secs(5),
            );
            if called.is_err() {
                self.reply(b"{\"success\":false}");
            }
            Action::Pause
        }
    }
}
