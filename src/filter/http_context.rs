//! `HttpContext`: the state machine of one request.

use super::host;
use super::request_head::{RequestHead, RequestHeaders};
use super::request_queue::{QueuedRequest, RequestSeq};
use super::responses::{self, ClientForm};
use super::worker::Worker;
use crate::config::Source;
use crate::segment::http::initial_pageview::SettingsRequest;
use crate::segment::http::{BadRequestReason, CallerSide, Endpoint, Overload, Response};
use crate::segment::http::{cors, pixel, project_settings, write_key};
use crate::segment::message::MessageType;
use proxy_wasm::traits::{self, Context};
use proxy_wasm::types::Action;
use std::cell::RefCell;
use std::mem::{replace, take};
use std::rc::Rc;

/// Bytes that the contexts of a request occupy in the VM, in addition to its stored headers.
const STREAM_BYTES: usize = 1_024;

/// Maximum length of an image's query, in bytes. A longer one has no message. By default Envoy
/// rejects requests whose headers exceed 60 KiB.
const MAX_PIXEL_QUERY: usize = 65_536;

/// Envoy's callbacks for one request.
pub(super) struct HttpContext {
    id: u32,
    /// `None`: the filter is not configured.
    worker: Option<Rc<RefCell<Worker>>>,
    state: State,
    form: ClientForm,
    /// The filter responds to a gRPC request: see [`host::restore_status`].
    restores_status: bool,
    /// Bytes that the worker counts as held for this request.
    held_bytes: usize,
}

enum State {
    /// The request is not for Segment's API, or has been answered.
    PassThrough,
    /// The body is incomplete. The request is answered when it is complete.
    Buffering(RequestKind),
    /// The body is incomplete. When it is complete, the request continues to its route and Keen
    /// gets a copy.
    BufferingMirror(RequestHead),
    /// The request is in the request queue, or its events are in delivery. The root context sends
    /// the response.
    AwaitingDelivery(RequestSeq),
    /// The request is in the request queue, or mapped. Its client does not wait.
    Mirrored(RequestSeq),
}

enum RequestKind {
    /// The body contains messages.
    Ingest(RequestHead),
    /// The path may contain a message.
    Pixel(Option<RequestHead>),
    /// The response is already known.
    RespondWith(Response),
    Settings(SettingsReply),
    Preflight {
        requested_headers: String,
    },
}

/// The settings document for an SDK.
struct SettingsReply {
    headers: [(&'static str, &'static str); 2],
    body: Vec<u8>,
    /// The page event implied by this request (`initialPageview`).
    page_load: Option<RequestHead>,
}

impl HttpContext {
    pub(super) fn new(id: u32, worker: Option<Rc<RefCell<Worker>>>) -> Self {
        Self {
            id,
            worker,
            state: State::PassThrough,
            form: ClientForm::default(),
            restores_status: false,
            held_bytes: 0,
        }
    }

    /// Decides what to do with a request that has these headers. `None`: it is not for Segment's
    /// API.
    fn classify_request(worker: &Worker, mut headers: RequestHeaders) -> Option<RequestKind> {
        // The path is borrowed while the other headers move into the head.
        let (method, path) = (take(&mut headers.method), take(&mut headers.path));
        Some(match Endpoint::parse(&method, &path, worker.config.path_prefix.as_deref())? {
            Endpoint::Ingest { message_type, side } => {
                RequestKind::Ingest(headers.into_head(message_type, side, None))
            }
            Endpoint::Pixel { message_type: Some(message_type), query }
                if query.len() <= MAX_PIXEL_QUERY =>
            {
                let message = Some(pixel::message(query));
                let head = headers.into_head(Some(message_type), CallerSide::Client, message);
                RequestKind::Pixel(Some(head))
            }
            Endpoint::Pixel { .. } => RequestKind::Pixel(None),
            Endpoint::Telemetry => RequestKind::RespondWith(Response::Ok),
            Endpoint::MethodNotAllowed => {
                RequestKind::RespondWith(Response::BadRequest(BadRequestReason::MethodNotAllowed))
            }
            Endpoint::Preflight => {
                let requested = headers.access_control_request_headers;
                let requested_headers = String::from_utf8(requested).unwrap_or_default();
                RequestKind::Preflight { requested_headers }
            }
            Endpoint::ProjectSettings { write_key } => {
                plan_settings_reply(worker, &write_key, &method, headers)
            }
        })
    }

    /// Handles a received part of a request with a copy for Keen. A request too large for a copy
    /// continues to its route now. Otherwise Envoy would reject it when it exceeds the buffer
    /// limit.
    fn check_mirror_size(&mut self, worker: &mut Worker, size: usize) -> Action {
        if size <= worker.config.max_body_bytes {
            return Action::Pause;
        }
        worker.count_mirror_dropped();
        self.release(worker);
        self.state = State::PassThrough;
        Action::Continue
    }

    /// Handles a complete request with a copy for Keen.
    fn finish_mirror(&mut self, worker: &mut Worker, body: Vec<u8>) -> Action {
        if let State::BufferingMirror(head) = replace(&mut self.state, State::PassThrough) {
            self.state = enqueue_mirror(worker, self.id, head, body);
        }
        Action::Continue
    }

    /// Handles a complete request that the filter answers.
    fn on_request_complete(&mut self, worker: &mut Worker, body: Vec<u8>) -> Action {
        let State::Buffering(kind) = replace(&mut self.state, State::PassThrough) else {
            return Action::Continue;
        };
        let form = &self.form;
        let allow_origins = &worker.config.allow_origins;
        match kind {
            RequestKind::Ingest(head) => {
                worker.set_form(self.id, take(&mut self.form));
                self.state = State::AwaitingDelivery(worker.enqueue_request(QueuedRequest {
                    stream_id: self.id,
                    head,
                    body,
                    mirrored: false,
                }));
            }
            RequestKind::RespondWith(response) => worker.respond(response, form),
            RequestKind::Preflight { requested_headers } => {
                let headers =
                    cors::preflight(form.origin.as_deref(), &requested_headers, allow_origins);
                responses::send_as_is(200, headers, b"", form);
            }
            RequestKind::Settings(SettingsReply { headers, body: reply, page_load }) => {
                responses::send_with_cors(200, headers, &reply, form, allow_origins);
                // The page event is never retried by the client, so the filter keeps it until Keen
                // has it.
                if let Some(head) = page_load {
                    self.state = enqueue_mirror(worker, self.id, head, body);
                }
            }
            RequestKind::Pixel(head) => {
                responses::send_with_cors(
                    200,
                    pixel::HEADERS,
                    pixel::TRANSPARENT_GIF,
                    form,
                    allow_origins,
                );
                // A page does not reload an image, so the filter keeps its event until Keen has it.
                if let Some(head) = head {
                    self.state = enqueue_mirror(worker, self.id, head, body);
                }
            }
        }
        Action::Pause
    }

    /// Returns the bytes of the VM's memory that the request occupies.
    fn heap_bytes(&self) -> usize {
        let head = match &self.state {
            State::Buffering(RequestKind::Ingest(head) | RequestKind::Pixel(Some(head)))
            | State::BufferingMirror(head) => head.heap_bytes(),
            State::Buffering(RequestKind::Settings(reply)) => {
                let page_load = reply.page_load.as_ref().map_or(0, RequestHead::heap_bytes);
                reply.body.len().saturating_add(page_load)
            }
            _ => 0,
        };
        let origin = self.form.origin.as_ref().map_or(0, String::len);
        STREAM_BYTES.saturating_add(head).saturating_add(origin)
    }

    /// Rejects a request with messages with 429 before its body arrives. A mirrored request
    /// continues without a copy. Other requests are small and are served, an image or a page load
    /// without its event. Returns whether the request needs no further processing.
    fn reject_overload(&mut self, worker: &mut Worker) -> bool {
        match replace(&mut self.state, State::PassThrough) {
            State::Buffering(RequestKind::Ingest(_)) => {
                worker.respond(Response::TooManyRequests(Overload::HeldBytes), &self.form);
            }
            State::BufferingMirror(_) => worker.count_mirror_dropped(),
            State::Buffering(RequestKind::Pixel(Some(_))) => {
                worker.count_mirror_dropped();
                self.state = State::Buffering(RequestKind::Pixel(None));
            }
            State::Buffering(RequestKind::Settings(
                reply @ SettingsReply { page_load: Some(_), .. },
            )) => {
                worker.count_mirror_dropped();
                let reply = SettingsReply { page_load: None, ..reply };
                self.state = State::Buffering(RequestKind::Settings(reply));
            }
            state => self.state = state,
        }
        self.hold(worker, 0);
        matches!(self.state, State::PassThrough)
    }

    /// Counts the bytes that are held for this request.
    fn hold(&mut self, worker: &mut Worker, bytes: usize) {
        worker.held_bytes = worker.held_bytes.saturating_sub(self.held_bytes).saturating_add(bytes);
        self.held_bytes = bytes;
    }

    fn release(&mut self, worker: &mut Worker) {
        self.hold(worker, 0);
    }

    /// Runs `act` with the worker. Returns `Continue` if there is none.
    fn with_worker(&mut self, act: impl FnOnce(&mut Self, &mut Worker) -> Action) -> Action {
        let Some(worker) = self.worker.clone() else { return Action::Continue };
        let Ok(mut worker) = worker.try_borrow_mut() else { return Action::Continue };
        act(self, &mut worker)
    }
}

/// Prepares the settings document for the source with write key `key`, and the page event that the
/// request implies.
fn plan_settings_reply(
    worker: &Worker,
    key: &str,
    method: &[u8],
    headers: RequestHeaders,
) -> RequestKind {
    if !write_key::is_well_formed(key) {
        return RequestKind::RespondWith(Response::BadRequest(BadRequestReason::InvalidWriteKey));
    }
    let config = &worker.config;
    let source: Option<&Source> =
        config.source_index(key).and_then(|index| config.sources.get(index));
    let message = source.filter(|source| source.initial_pageview).and_then(|_| {
        let request = SettingsRequest {
            method,
            referer: &headers.referer,
            origin: headers.origin.as_deref().unwrap_or_default().as_bytes(),
            sec_purpose: &[headers.sec_purpose.as_slice(), &headers.purpose].concat(),
        };
        request.page_message(key)
    });
    RequestKind::Settings(SettingsReply {
        headers: project_settings::response_headers(source),
        body: project_settings::response_body(key, source, config.sdk_api_host.as_deref()),
        page_load: message.map(|message| {
            headers.into_head(Some(MessageType::Page), CallerSide::Client, Some(message))
        }),
    })
}

/// Queues a request whose client does not wait.
fn enqueue_mirror(worker: &mut Worker, stream_id: u32, head: RequestHead, body: Vec<u8>) -> State {
    let request = QueuedRequest { stream_id, head, body, mirrored: true };
    State::Mirrored(worker.enqueue_request(request))
}

impl Context for HttpContext {
    /// Envoy ends the stream: it has been answered, or its client has disconnected. The client's
    /// address is available only until then, so a request that is still queued is mapped now.
    fn on_done(&mut self) -> bool {
        self.with_worker(|this, worker| {
            if let State::AwaitingDelivery(seq) | State::Mirrored(seq) = this.state {
                worker.process_before_destroy(this.id, seq);
                worker.on_client_disconnect(this.id);
            }
            this.state = State::PassThrough;
            this.release(worker);
            Action::Continue
        });
        true
    }
}

impl traits::HttpContext for HttpContext {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.with_worker(|this, worker| {
            let headers = RequestHeaders::new(host::request_headers());
            #[cfg(feature = "panic-switch")]
            panic_for_test(&headers);
            let content_length = headers.content_length;
            let form = ClientForm { origin: headers.origin.clone(), is_grpc: headers.is_grpc };
            let Some(kind) = Self::classify_request(worker, headers) else {
                return Action::Continue;
            };
            let mirror = worker.config.mirror;
            let state = match kind {
                // It would be held until Envoy rejects it for exceeding the buffer limit.
                RequestKind::Ingest(_)
                    if mirror && content_length > worker.config.max_body_bytes =>
                {
                    worker.count_request();
                    worker.count_mirror_dropped();
                    return Action::Continue;
                }
                RequestKind::Ingest(head)
                | RequestKind::Pixel(Some(head))
                | RequestKind::Settings(SettingsReply { page_load: Some(head), .. })
                    if mirror =>
                {
                    State::BufferingMirror(head)
                }
                // The route answers it.
                _ if mirror => return Action::Continue,
                kind => State::Buffering(kind),
            };
            this.state = state;
            this.restores_status = form.is_grpc && !mirror;
            this.form = form;
            worker.count_request();
            this.hold(worker, this.heap_bytes());
            if worker.is_overloaded() && this.reject_overload(worker) {
                return if mirror { Action::Continue } else { Action::Pause };
            }
            if end_of_stream {
                return match mirror {
                    true => this.finish_mirror(worker, Vec::new()),
                    false => this.on_request_complete(worker, Vec::new()),
                };
            }
            // The body is read to its end even if the response is known, because Envoy closes a
            // connection that is answered earlier.
            if worker.config.pause_at_headers { Action::Pause } else { Action::Continue }
        })
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.with_worker(|this, worker| {
            if !matches!(this.state, State::PassThrough) {
                this.hold(worker, this.heap_bytes().saturating_add(size));
            }
            match (&this.state, end_of_stream) {
                (State::PassThrough | State::Mirrored(_), _) => Action::Continue,
                (State::Buffering(_), true) => {
                    this.on_request_complete(worker, host::request_body())
                }
                (State::BufferingMirror(_), true) => {
                    this.finish_mirror(worker, host::request_body())
                }
                (State::BufferingMirror(_), false) => this.check_mirror_size(worker, size),
                (State::Buffering(_) | State::AwaitingDelivery(_), _) => Action::Pause,
            }
        })
    }

    /// The end of a body with trailers, such as a decompressed one. The body callback does not
    /// report it.
    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        self.with_worker(|this, worker| match this.state {
            State::PassThrough | State::Mirrored(_) => Action::Continue,
            State::Buffering(_) => this.on_request_complete(worker, host::request_body()),
            State::BufferingMirror(_) => this.finish_mirror(worker, host::request_body()),
            State::AwaitingDelivery(_) => Action::Pause,
        })
    }

    /// Handles a response on its way to the client. The root context responds to waiting requests
    /// without notifying their contexts, so this may be its response. It must not be replaced,
    /// since Envoy crashes on a second local response. Any other response while the request is read
    /// or waits is Envoy's own, such as a 413, and is replaced.
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.with_worker(|this, worker| {
            worker.check_response_capability();
            if matches!(this.state, State::Buffering(_) | State::BufferingMirror(_)) {
                worker.check_buffer_limit(this.held_bytes.saturating_sub(this.heap_bytes()));
            }
            match this.state {
                State::Buffering(_) => {}
                State::AwaitingDelivery(seq) if worker.is_response_pending(this.id, seq) => {
                    this.form = worker.take_form(this.id);
                    worker.on_client_disconnect(this.id);
                }
                _ => {
                    if this.restores_status {
                        host::restore_status(200);
                    }
                    return Action::Continue;
                }
            }
            this.state = State::PassThrough;
            worker.replace_response(&this.form);
            Action::Continue
        })
    }
}

/// Panics if a test requests it. Compiled only into a separate test build, never into a release.
#[cfg(feature = "panic-switch")]
#[allow(clippy::panic, reason = "the feature is for this")]
fn panic_for_test(headers: &RequestHeaders) {
    if headers.panics {
        panic!("the panic switch was thrown");
    }
}
