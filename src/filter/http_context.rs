//! One request.

use super::headers::{Headers, Name};
use super::host;
use super::hostcalls::Pairs;
use super::request_head::Head;
use super::request_queue::{Arrival, Number};
use super::worker::Engine;
use crate::segment::http::initial_pageview::SettingsRequest;
use crate::segment::http::{BadRequestReason, CallerSide, Endpoint, Response};
use crate::segment::http::{cors, pixel, project_settings, write_key};
use crate::segment::message::MessageType;
use std::cell::RefCell;
use std::rc::Rc;

/// What becomes of the request, or the answer, that a callback was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Continue = 0,
    Pause = 1,
}

/// Envoy's callbacks for one request.
pub(super) struct Stream {
    id: u32,
    engine: Rc<RefCell<Engine>>,
    state: State,
    origin: Option<String>,
}

enum State {
    /// Not Segment's, or answered.
    Passing,
    /// The body is still coming; what to do at its end.
    Reading(Plan),
    /// The same, of a call that then goes on to the route as it came.
    Copying(Head),
    /// It has come whole, as the request of that number; the answer follows.
    Waiting(Number),
    /// The same, of a call that needs no answer any more.
    Copied(Number),
}

enum Plan {
    /// Messages in the body.
    Track(Head),
    /// A message in the path, or none.
    Pixel(Option<Head>),
    Say(Response),
    Settings(Settings),
    Preflight(String),
}

/// The settings for whoever asks.
struct Settings {
    headers: [(&'static str, &'static str); 2],
    json: Vec<u8>,
    /// The page call that their asking stands for.
    page_load: Option<Head>,
}

impl Stream {
    pub(super) fn new(id: u32, engine: Rc<RefCell<Engine>>) -> Self {
        Self { id, engine, state: State::Passing, origin: None }
    }

    /// Decides what the request is, from its headers alone.
    fn plan(&mut self) -> Option<Plan> {
        let headers = host::request_headers();
        let found = Endpoint::parse(headers.get(Name::Method), headers.get(Name::Path), None)?;
        self.origin =
            headers.text(Name::Origin).filter(|origin| !origin.is_empty()).map(str::to_owned);
        let (kind, side, message) = match found {
            Endpoint::Ingest { message_type, side } => (message_type, side, None),
            Endpoint::Pixel { message_type: Some(kind), query } => {
                (Some(kind), CallerSide::Client, Some(pixel::message(query)))
            }
            Endpoint::Pixel { message_type: None, .. } => return Some(Plan::Pixel(None)),
            Endpoint::Telemetry => return Some(Plan::Say(Response::Ok)),
            Endpoint::MethodNotAllowed => {
                let reason = BadRequestReason::MethodNotAllowed;
                return Some(Plan::Say(Response::BadRequest(reason)));
            }
            Endpoint::Preflight => {
                let asked = std::str::from_utf8(headers.rare("access-control-request-headers"));
                return Some(Plan::Preflight(asked.unwrap_or_default().to_owned()));
            }
            Endpoint::ProjectSettings { write_key } => {
                let key = write_key.into_owned();
                return self.settings(&key, headers);
            }
        };
        let is_pixel = message.is_some();
        let head = Head { kind, side, message, headers };
        Some(if is_pixel { Plan::Pixel(Some(head)) } else { Plan::Track(head) })
    }

    /// What an SDK gets that asks for the settings, and the page load that its asking may stand for.
    fn settings(&self, key: &str, headers: Headers) -> Option<Plan> {
        if !write_key::is_well_formed(key) {
            return Some(Plan::Say(Response::BadRequest(BadRequestReason::InvalidWriteKey)));
        }
        let engine = self.engine.try_borrow().ok()?;
        let source =
            engine.config.source_index(key).and_then(|place| engine.config.sources.get(place));
        let asked = SettingsRequest {
            method: headers.get(Name::Method),
            referer: headers.get(Name::Referer),
            origin: headers.get(Name::Origin),
            sec_purpose: &[headers.rare("sec-purpose"), headers.rare("purpose")].concat(),
        };
        let counts = source.is_some_and(|source| source.initial_pageview);
        let message = if counts { asked.page_message(key) } else { None };
        Some(Plan::Settings(Settings {
            headers: project_settings::response_headers(source),
            json: project_settings::response_body(
                key,
                source,
                engine.config.sdk_api_host.as_deref(),
            ),
            page_load: message.map(|message| Head {
                kind: Some(MessageType::Page),
                side: CallerSide::Client,
                message: Some(message),
                headers,
            }),
        }))
    }

    /// More of a call that goes on to the route has come. One too large for us is not held until Envoy refuses it.
    fn copy_or_let_go(&mut self, size: usize) -> Action {
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return Action::Continue };
        if size <= engine.config.max_body_bytes {
            return Action::Pause;
        }
        engine.count_not_copied();
        self.state = State::Passing;
        Action::Continue
    }

    /// A call that goes on to the route has come to its end.
    fn copy(&mut self, body: Vec<u8>) -> Action {
        if let State::Copying(head) = std::mem::replace(&mut self.state, State::Passing)
            && let Ok(mut engine) = self.engine.try_borrow_mut()
        {
            self.state = copy(&mut engine, self.id, head, body);
        }
        Action::Continue
    }

    /// The request has come to its end.
    fn complete(&mut self, body: Vec<u8>) -> Action {
        let State::Reading(plan) = std::mem::replace(&mut self.state, State::Passing) else {
            return Action::Continue;
        };
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return Action::Continue };
        let origin = self.origin.as_deref();
        match plan {
            Plan::Say(answer) => engine.respond(answer, origin),
            Plan::Settings(settings) => {
                // Nobody asks again for a page that has loaded: its event is kept here until Keen has it.
                if let Some(head) = settings.page_load {
                    self.state = copy(&mut engine, self.id, head, body);
                }
                let mut headers = settings.headers.to_vec();
                headers.extend(cors::headers(origin, &engine.config.allow_origins));
                host::respond(200, &Pairs::new(&headers), &settings.json);
            }
            Plan::Preflight(asked) => {
                let headers = cors::preflight(origin, &asked, &engine.config.allow_origins);
                host::respond(200, &Pairs::new(&headers), b"");
            }
            Plan::Pixel(head) => {
                // Nobody sends an image's call again: it is kept here until Keen has it.
                if let Some(head) = head {
                    self.state = copy(&mut engine, self.id, head, body);
                }
                let mut headers = pixel::HEADERS.to_vec();
                headers.extend(cors::headers(origin, &engine.config.allow_origins));
                host::respond(200, &Pairs::new(&headers), pixel::TRANSPARENT_GIF);
            }
            Plan::Track(head) => {
                if let Some(origin) = self.origin.take() {
                    engine.remember_origin(self.id, origin);
                }
                self.state = State::Waiting(engine.arrive(Arrival {
                    stream: self.id,
                    head,
                    body,
                    copied: false,
                }));
            }
        }
        Action::Pause
    }
}

/// Hands on a copy of a request, whose caller does not hear of it.
fn copy(engine: &mut Engine, stream: u32, head: Head, body: Vec<u8>) -> State {
    State::Copied(engine.arrive(Arrival { stream, head, body, copied: true }))
}

/// Ends the VM where a test asks for it. In a build of its own, and never in the one that is released.
#[cfg(feature = "panic-switch")]
#[allow(clippy::panic, reason = "it is what this is for")]
fn panic_switch() {
    if !host::request_headers().rare("x-keen-edge-panic").is_empty() {
        panic!("the panic switch was thrown");
    }
}

/// Envoy's callbacks.
impl Stream {
    pub(super) fn on_request_headers(&mut self, end_of_stream: bool) -> Action {
        #[cfg(feature = "panic-switch")]
        panic_switch();
        let Some(plan) = self.plan() else { return Action::Continue };
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return Action::Continue };
        let forward = engine.config.mirror;
        self.state = match plan {
            // Not held at all: Envoy would refuse it over its own bound, should much of it come at once.
            Plan::Track(head) if forward && head.length() > engine.config.max_body_bytes => {
                engine.count_request();
                engine.count_not_copied();
                return Action::Continue;
            }
            Plan::Track(head) | Plan::Pixel(Some(head)) if forward => State::Copying(head),
            Plan::Settings(Settings { page_load: Some(head), .. }) if forward => {
                State::Copying(head)
            }
            // The route answers them.
            _ if forward => return Action::Continue,
            plan => State::Reading(plan),
        };
        engine.count_request();
        drop(engine);
        if end_of_stream {
            return if forward { self.copy(Vec::new()) } else { self.complete(Vec::new()) };
        }
        // The body is read to its end even where the answer is known: Envoy closes a connection answered early.
        Action::Pause
    }

    pub(super) fn on_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        match (&self.state, end_of_stream) {
            (State::Passing | State::Copied(_), _) => Action::Continue,
            (State::Reading(_), true) => self.complete(host::request_body()),
            (State::Copying(_), true) => self.copy(host::request_body()),
            (State::Copying(_), false) => self.copy_or_let_go(size),
            _ => Action::Pause,
        }
    }

    pub(super) fn on_request_trailers(&mut self) -> Action {
        match self.state {
            State::Passing | State::Copied(_) => Action::Continue,
            State::Reading(_) => self.complete(host::request_body()),
            State::Copying(_) => self.copy(host::request_body()),
            State::Waiting(_) => Action::Pause,
        }
    }

    pub(super) fn on_response_headers(&mut self) -> Action {
        // The root context answers those who wait, and does not tell the stream: its answers pass by as they are. Any
        // other answer while the request is read or waits is Envoy's own, and ours takes its place.
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return Action::Continue };
        match self.state {
            State::Reading(_) => {}
            State::Waiting(number) if engine.owes(self.id, number) => {
                self.origin = engine.origin(self.id);
                engine.gone(self.id);
            }
            _ => return Action::Continue,
        }
        self.state = State::Passing;
        engine.respond(
            Response::replacing_local_reply(host::response_status()),
            self.origin.as_deref(),
        );
        Action::Continue
    }

    /// Envoy ends the stream: it has been answered, or its caller has left.
    pub(super) fn end(self) {
        if let State::Waiting(number) | State::Copied(number) = self.state
            && let Ok(mut engine) = self.engine.try_borrow_mut()
        {
            engine.map_before_end(self.id, number);
            engine.gone(self.id);
        }
    }
}
