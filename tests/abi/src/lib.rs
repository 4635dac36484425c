//! A small proxy-wasm 0.2.1 host that runs the built filter without Envoy. A test can make
//! callbacks in any order, let any hostcall fail, and move the clock. The host counts instructions
//! and hostcalls.
//!
//! ```no_run
//! let mut vm = abi::Vm::builder().start().unwrap();
//! let stream = vm.post("/v1/track", br#"{"event": "Purchased", "userId": "u"}"#);
//! vm.turn(); // Envoy's next turn: the root context wakes and calls Keen
//! let events = vm.confirm(); // Keen has them all
//! assert_eq!(events[0].collection, "Purchased");
//! vm.turn();
//! assert_eq!(vm.response(stream).unwrap().status, 200);
//! ```
//!
//! [`Vm::turn`] does what Envoy does between two callbacks: queues wake the root context, and
//! responses pass through the response callbacks.

mod host;
mod state;
mod structure;

pub use state::{Callout, Headers, LocalResponse, Status, Usage};

use serde_json::{Value, json};
use state::{State, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use wasmi::{
    CompilationMode, Config, Engine, Instance, Linker, Module, Store, WasmParams, WasmResults,
};

const ROOT: u32 = 1;
/// Fuel of a VM. No callback uses as much.
const TANK: u64 = 1 << 50;
/// Start of the host's clock: 2026-11-24T00:00:00Z.
const START_NS: u64 = 1_795_478_400_000_000_000;

/// A stream's id.
pub type StreamId = u32;

/// What Envoy does with a stream after a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The stream continues.
    Continue,
    /// The stream is paused.
    Pause,
}

/// The module could not be started, or it trapped.
#[derive(Debug)]
pub struct Trap(String);

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trap {}

/// The module, its configuration and the hostcalls that fail.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    wasm: Option<PathBuf>,
    configuration: Vec<u8>,
    denied: BTreeSet<String>,
    failing: Vec<(String, Status)>,
}

impl Builder {
    /// Sets the module. Default: `target/keen_edge.wasm`.
    pub fn wasm(mut self, path: impl Into<PathBuf>) -> Self {
        self.wasm = Some(path.into());
        self
    }

    /// Sets the filter's configuration. The host passes it in the wire form of a
    /// `google.protobuf.Struct`, as Envoy does. Default: [`harness::default_config`].
    pub fn config(mut self, config: &Value) -> Self {
        self.configuration = structure::encode(config);
        self
    }

    /// Sets the configuration as bytes, such as the JSON of a `StringValue`.
    pub fn raw_config(mut self, config: impl Into<Vec<u8>>) -> Self {
        self.configuration = config.into();
        self
    }

    /// Removes a name from Envoy's `allowed_capabilities`. Such a callback never runs; such a
    /// hostcall always fails with [`Status::InternalFailure`].
    pub fn without(mut self, capability: &str) -> Self {
        self.denied.insert(capability.to_owned());
        self
    }

    /// Makes a hostcall fail from the start: see [`Vm::fail`].
    pub fn fail(mut self, hostcall: &str, status: Status) -> Self {
        self.failing.push((hostcall.to_owned(), status));
        self
    }

    /// Starts the module: `_initialize`, its root context, `proxy_on_vm_start`,
    /// `proxy_on_configure`.
    ///
    /// # Errors
    /// The module is missing, trapped, or refused its configuration. The error contains its log.
    pub fn start(self) -> Result<Vm, Trap> {
        let path = self.wasm.map_or_else(harness::wasm_path, Ok).map_err(Trap)?;
        let trap = |error: wasmi::Error| Trap(format!("{}: {error}", path.display()));
        let (engine, module) = module(&path)?;
        let mut linker = Linker::new(&engine);
        host::define(&mut linker).map_err(trap)?;
        let state = State {
            root: ROOT,
            effective: ROOT,
            configuration: self.configuration,
            now_ns: START_NS,
            properties: [("source.address".to_owned(), b"203.0.113.7:4711".to_vec())].into(),
            failing: self.failing.into_iter().collect(),
            ..State::default()
        };
        let mut store = Store::new(&engine, state);
        store.set_fuel(TANK).map_err(trap)?;
        let instance = linker.instantiate_and_start(&mut store, &module).map_err(trap)?;
        let memory = instance.get_memory(&store, "memory");
        let allocate = instance.get_typed_func::<u32, u32>(&store, "malloc");
        let allocate =
            allocate.or_else(|_| instance.get_typed_func(&store, "proxy_on_memory_allocate")).ok();
        store.data_mut().memory = memory;
        store.data_mut().allocate = allocate;
        for name in self.denied.iter().filter(|name| !name.starts_with("proxy_on_")) {
            store.data_mut().failing.insert(name.clone(), Status::InternalFailure);
        }
        let start_usage = Usage::default();
        let mut vm = Vm { store, instance, denied: self.denied, next_stream: ROOT, start_usage };
        let size = u32::try_from(vm.store.data().configuration.len()).unwrap_or(0);
        vm.enter::<(), ()>(ROOT, "_initialize", ())?;
        vm.enter::<(u32, u32), ()>(ROOT, "proxy_on_context_create", (ROOT, 0))?;
        let started = vm.enter::<(u32, u32), u32>(ROOT, "proxy_on_vm_start", (ROOT, 0))?;
        let configured = vm.enter::<(u32, u32), u32>(ROOT, "proxy_on_configure", (ROOT, size))?;
        if started == Some(0) || configured == Some(0) {
            return Err(Trap(format!("the configuration was refused: {:?}", vm.logs())));
        }
        vm.start_usage = vm.usage().clone();
        vm.reset_usage();
        Ok(vm)
    }
}

/// Reads the module. All tests that run it share one copy.
fn module(path: &Path) -> Result<(Engine, Module), Trap> {
    type Modules = BTreeMap<PathBuf, (Engine, Module)>;
    static READ: Mutex<Modules> = Mutex::new(Modules::new());
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = read.get(path) {
        return Ok(found.clone());
    }
    let mut config = Config::default();
    // Compiles eagerly, because the compilation of a function during a callback would use the
    // callback's fuel.
    config.consume_fuel(true).compilation_mode(CompilationMode::Eager);
    let engine = Engine::new(&config);
    let trap = |error: &dyn fmt::Display| Trap(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| trap(&error))?;
    let module = Module::new(&engine, &bytes).map_err(|error| trap(&error))?;
    read.insert(path.to_owned(), (engine.clone(), module.clone()));
    Ok((engine, module))
}

/// A running module with one root context.
pub struct Vm {
    store: Store<State>,
    instance: Instance,
    denied: BTreeSet<String>,
    next_stream: u32,
    start_usage: Usage,
}

/// An event that the filter sent to Keen.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The Keen project of the call it went with.
    pub project: String,
    /// Its collection.
    pub collection: String,
    /// The event.
    pub event: Value,
}

impl Vm {
    /// Starts the module with the configuration of this repository.
    pub fn builder() -> Builder {
        Builder {
            wasm: None,
            configuration: structure::encode(&harness::default_config()),
            denied: BTreeSet::new(),
            failing: Vec::new(),
        }
    }

    fn enter<P: WasmParams, R: WasmResults>(
        &mut self,
        context: u32,
        name: &'static str,
        params: P,
    ) -> Result<Option<R>, Trap> {
        if self.denied.contains(name) {
            return Ok(None);
        }
        let Ok(callback) = self.instance.get_typed_func::<P, R>(&self.store, name) else {
            return Ok(None);
        };
        let state = self.store.data_mut();
        state.effective = context;
        *state.usage.callbacks.entry(name).or_default() += 1;
        let trap = |error: wasmi::Error| Trap(format!("{name}: {error}"));
        self.store.set_fuel(TANK).map_err(trap)?;
        let result = callback.call(&mut self.store, params);
        let left = self.store.get_fuel().map_err(trap)?;
        let used = TANK.saturating_sub(left);
        let usage = &mut self.store.data_mut().usage;
        usage.fuel += used;
        *usage.fuel_by_callback.entry(name).or_default() += used;
        match result {
            Ok(result) => Ok(Some(result)),
            Err(error) => Err(Trap(format!("{name} trapped: {error}; logged: {:?}", self.logs()))),
        }
    }

    /// Runs a callback that must not trap.
    ///
    /// # Panics
    /// Panics if the callback traps.
    fn must<P: WasmParams, R: WasmResults>(
        &mut self,
        context: u32,
        name: &'static str,
        params: P,
    ) -> Option<R> {
        self.enter(context, name, params).unwrap_or_else(|trap| panic!("{trap}"))
    }

    fn action(result: Option<u32>) -> Action {
        if result.unwrap_or(0) == 0 { Action::Continue } else { Action::Pause }
    }

    /// Opens a stream.
    pub fn open(&mut self) -> StreamId {
        self.next_stream += 1;
        let id = self.next_stream;
        self.store.data_mut().streams.insert(id, Stream::default());
        self.must::<(u32, u32), ()>(id, "proxy_on_context_create", (id, ROOT));
        id
    }

    /// Sends the request's headers. After [`Action::Continue`] they no longer exist, as in Envoy.
    pub fn headers(
        &mut self,
        id: StreamId,
        headers: &[(&str, &[u8])],
        end_of_stream: bool,
    ) -> Action {
        let headers: Headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        let count = u32::try_from(headers.len()).unwrap_or(0);
        self.stream(id).request_headers = Some(headers);
        let action = Self::action(self.must(
            id,
            "proxy_on_request_headers",
            (id, count, u32::from(end_of_stream)),
        ));
        if action == Action::Continue {
            self.stream(id).request_headers = None;
        }
        action
    }

    /// Sends a part of the request's body. Parts that were held come before it.
    pub fn body(&mut self, id: StreamId, piece: &[u8], end_of_stream: bool) -> Action {
        let stream = self.stream(id);
        stream.body.extend_from_slice(piece);
        let size = u32::try_from(stream.body.len()).unwrap_or(0);
        let action = Self::action(self.must(
            id,
            "proxy_on_request_body",
            (id, size, u32::from(end_of_stream)),
        ));
        if action == Action::Continue {
            self.stream(id).body.clear();
        }
        action
    }

    /// Sends the request's trailers, which end the request.
    pub fn trailers(&mut self, id: StreamId, trailers: &[(&str, &[u8])]) -> Action {
        let trailers: Headers =
            trailers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        let count = u32::try_from(trailers.len()).unwrap_or(0);
        self.stream(id).trailers = Some(trailers);
        Self::action(self.must(id, "proxy_on_request_trailers", (id, count)))
    }

    /// Sends a complete POST with the write key of `envoy.yaml` as Envoy does: headers, body, an
    /// empty end.
    pub fn post(&mut self, path: &str, body: &[u8]) -> StreamId {
        self.post_with(path, body, &[("authorization", b"Basic d3JpdGVLZXk6")])
    }

    /// Like [`Vm::post`], with additional headers.
    pub fn post_with(&mut self, path: &str, body: &[u8], headers: &[(&str, &[u8])]) -> StreamId {
        let id = self.open();
        let length = body.len().to_string();
        let mut all: Vec<(&str, &[u8])> = vec![
            (":authority", b"edge.example.com"),
            (":path", path.as_bytes()),
            (":method", b"POST"),
            (":scheme", b"http"),
            ("content-type", b"application/json"),
            ("content-length", length.as_bytes()),
            ("x-forwarded-proto", b"http"),
            ("x-request-id", b"3f2b7a4e-5c1d-4f0a-9b8e-2d6c1a7f0e35"),
        ];
        all.extend(headers);
        self.headers(id, &all, false);
        self.body(id, body, false);
        self.body(id, b"", true);
        id
    }

    /// Sends a local reply of Envoy's (413 over its buffer limit, 408 after a timeout). Returns
    /// what the client gets.
    pub fn local_reply(&mut self, id: StreamId, status: u32, body: &[u8]) -> LocalResponse {
        let own = LocalResponse {
            status,
            headers: vec![("content-type".to_owned(), b"text/plain".to_vec())],
            body: body.to_vec(),
        };
        self.pass_through(id, own)
    }

    /// Passes a response through the module's response callbacks. Returns what the client gets.
    fn pass_through(&mut self, id: StreamId, response: LocalResponse) -> LocalResponse {
        let status = (":status".to_owned(), response.status.to_string().into_bytes());
        let stream = self.stream(id);
        stream.response_headers =
            Some(std::iter::once(status).chain(response.headers.clone()).collect());
        stream.response_body.clone_from(&response.body);
        stream.responded = true;
        let before = stream.response.clone();
        let (count, empty) =
            (stream.response_headers.as_ref().map_or(0, Vec::len), response.body.is_empty());
        let count = u32::try_from(count).unwrap_or(0);
        let action =
            Self::action(self.must(id, "proxy_on_response_headers", (id, count, u32::from(empty))));
        if self.stream(id).response != before {
            // A response sent from a response callback replaces this one. It passes through no
            // callback itself.
            return self.stream(id).response.clone().unwrap_or(response);
        }
        if !empty && (action == Action::Continue || self.stream(id).response_headers.is_some()) {
            let size = u32::try_from(self.stream(id).response_body.len()).unwrap_or(0);
            self.must::<_, u32>(id, "proxy_on_response_body", (id, size, 1_u32));
        }
        let stream = self.stream(id);
        let mut headers = stream.response_headers.take().unwrap_or_default();
        let status =
            headers.iter().position(|(name, _)| name == ":status").map(|at| headers.remove(at).1);
        let status =
            status.and_then(|text| String::from_utf8(text).ok()?.parse().ok()).unwrap_or(0);
        LocalResponse { status, headers, body: std::mem::take(&mut stream.response_body) }
    }

    /// Does what Envoy does after a callback: passes responses through their callbacks and wakes
    /// the root context for its queues. Repeats until there is nothing to do.
    pub fn turn(&mut self) {
        loop {
            let responded = self.store.data().streams.iter();
            let responded: Vec<StreamId> = responded
                .filter(|(_, s)| s.response.is_some() && !s.responded)
                .map(|(id, _)| *id)
                .collect();
            for id in &responded {
                if let Some(response) = self.stream(*id).response.clone() {
                    self.pass_through(*id, response);
                }
            }
            let wakes = std::mem::take(&mut self.store.data_mut().wakes);
            if wakes.is_empty() && responded.is_empty() {
                return;
            }
            for queue in wakes {
                self.must::<_, ()>(ROOT, "proxy_on_queue_ready", (ROOT, queue));
            }
        }
    }

    /// Advances the clock and runs the root context's tick once.
    pub fn tick(&mut self, ms: u64) {
        self.advance(ms);
        if self.store.data().tick_ms > 0 {
            self.must::<_, ()>(ROOT, "proxy_on_tick", ROOT);
        }
    }

    /// Advances the clock.
    pub fn advance(&mut self, ms: u64) {
        self.store.data_mut().now_ns += ms * 1_000_000;
    }

    /// Returns the period of the tick in milliseconds; 0 if it is stopped.
    #[must_use]
    pub fn tick_period(&self) -> u32 {
        self.store.data().tick_ms
    }

    /// Returns the callouts in flight, oldest first.
    #[must_use]
    pub fn callouts(&self) -> Vec<Callout> {
        self.store.data().callouts.values().cloned().collect()
    }

    /// Ends a callout with a reply.
    pub fn reply(&mut self, token: u32, status: u16, body: &[u8]) {
        let headers = vec![
            (":status".to_owned(), status.to_string().into_bytes()),
            ("x-envoy-upstream-service-time".to_owned(), b"1".to_vec()),
        ];
        self.end_call(token, headers, body);
    }

    /// Ends a callout without a reply, as when the connection breaks.
    pub fn reset_callout(&mut self, token: u32) {
        self.end_call(token, Headers::new(), b"");
    }

    fn end_call(&mut self, token: u32, headers: Headers, body: &[u8]) {
        let state = self.store.data_mut();
        state.callouts.remove(&token);
        let (count, size) =
            (u32::try_from(headers.len()).unwrap_or(0), u32::try_from(body.len()).unwrap_or(0));
        state.call_headers = Some(headers);
        state.call_body = Some(body.to_vec());
        self.must::<_, ()>(ROOT, "proxy_on_http_call_response", (ROOT, token, count, size, 0_u32));
        let state = self.store.data_mut();
        state.call_headers = None;
        state.call_body = None;
    }

    /// Lets Keen confirm each event of every callout in flight. Returns the events.
    pub fn confirm(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for callout in self.callouts() {
            let (found, reply) = recorded(&callout);
            events.extend(found);
            self.reply(callout.token, 200, reply.to_string().as_bytes());
        }
        events
    }

    /// Returns the response that was sent on the stream.
    #[must_use]
    pub fn response(&self, id: StreamId) -> Option<&LocalResponse> {
        self.store.data().streams.get(&id).and_then(|stream| stream.response.as_ref())
    }

    /// Whether `proxy_continue_stream` has resumed the stream.
    #[must_use]
    pub fn resumed(&self, id: StreamId) -> bool {
        self.store.data().streams.get(&id).is_some_and(|stream| stream.resumed)
    }

    /// Ends the stream after its response, or because its client has disconnected.
    pub fn close(&mut self, id: StreamId) {
        self.must::<_, ()>(id, "proxy_on_log", id);
        self.must::<_, u32>(id, "proxy_on_done", id);
        self.must::<_, ()>(id, "proxy_on_delete", id);
        self.store.data_mut().streams.remove(&id);
    }

    /// Asks the root context to finish. Returns true if it finishes at once; otherwise see
    /// [`Vm::ended`].
    pub fn end(&mut self) -> bool {
        let ended = self.must::<_, u32>(ROOT, "proxy_on_done", ROOT) != Some(0);
        if ended {
            self.must::<_, ()>(ROOT, "proxy_on_delete", ROOT);
        }
        ended
    }

    /// Whether the root context has called `proxy_done`.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.store.data().done
    }

    /// Makes a hostcall fail with `status` until [`Vm::succeed`].
    pub fn fail(&mut self, hostcall: &str, status: Status) {
        self.store.data_mut().failing.insert(hostcall.to_owned(), status);
    }

    /// Makes all hostcalls succeed again.
    pub fn succeed(&mut self) {
        self.store.data_mut().failing.clear();
    }

    /// Sets the `source.address` of one stream.
    pub fn set_address(&mut self, id: StreamId, address: &str) {
        self.stream(id).address = Some(address.as_bytes().to_vec());
    }

    /// Sets a property (`source.address`, `request.id`), or removes it.
    pub fn property(&mut self, path: &str, value: Option<&[u8]>) {
        let properties = &mut self.store.data_mut().properties;
        match value {
            Some(value) => drop(properties.insert(path.to_owned(), value.to_vec())),
            None => drop(properties.remove(path)),
        }
    }

    /// Returns a metric's value, summed over its labels.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        self.store
            .data()
            .metrics
            .iter()
            .filter(|(metric, _)| {
                metric
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// Returns the module's log: level and line.
    #[must_use]
    pub fn logs(&self) -> &[(u32, String)] {
        &self.store.data().logs
    }

    /// Returns what the start of the VM and its configuration took.
    #[must_use]
    pub fn start_usage(&self) -> &Usage {
        &self.start_usage
    }

    /// Returns fuel, hostcalls and entries since the last [`Vm::reset_usage`].
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.store.data().usage
    }

    /// Sets the usage to 0.
    pub fn reset_usage(&mut self) {
        self.store.data_mut().usage = Usage::default();
    }

    /// Returns the bytes of the module's memory, which never shrinks.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    fn stream(&mut self, id: StreamId) -> &mut Stream {
        self.store.data_mut().streams.get_mut(&id).unwrap_or_else(|| panic!("no stream {id}"))
    }
}

/// Returns the events of a callout, and a reply of Keen that confirms them.
///
/// # Panics
/// Panics if the callout's body is not a bulk request.
#[must_use]
pub fn recorded(callout: &Callout) -> (Vec<Event>, Value) {
    let body: Value = serde_json::from_slice(&callout.body)
        .unwrap_or_else(|error| panic!("{error}: {callout:?}"));
    let path =
        callout.headers.iter().find(|(name, _)| name == ":path").map(|(_, value)| value.as_slice());
    let path = String::from_utf8_lossy(path.unwrap_or_default()).into_owned();
    let project = path.split('/').nth(3).unwrap_or_default().to_owned();
    let mut events = Vec::new();
    let mut reply = json!({});
    for (collection, list) in body.as_object().into_iter().flatten() {
        for event in list.as_array().into_iter().flatten() {
            events.push(Event {
                project: project.clone(),
                collection: collection.clone(),
                event: event.clone(),
            });
        }
        let count = list.as_array().map_or(0, Vec::len);
        reply[collection] = vec![json!({"success": true}); count].into();
    }
    (events, reply)
}
