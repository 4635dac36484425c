//! The state that the host keeps for the module.

use std::collections::{BTreeMap, VecDeque};
use wasmi::{Memory, TypedFunc};

/// A list of headers in order. Values are bytes.
pub type Headers = Vec<(String, Vec<u8>)>;

/// A status of proxy-wasm (`proxy_status_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the ABI's own")]
pub enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    ParseFailure = 4,
    BadExpression = 5,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    ResultMismatch = 9,
    InternalFailure = 10,
    BrokenConnection = 11,
    Unimplemented = 12,
}

impl Status {
    /// All statuses except [`Status::Ok`].
    pub const FAILURES: [Self; 12] = [
        Self::NotFound,
        Self::BadArgument,
        Self::SerializationFailure,
        Self::ParseFailure,
        Self::BadExpression,
        Self::InvalidMemoryAccess,
        Self::Empty,
        Self::CasMismatch,
        Self::ResultMismatch,
        Self::InternalFailure,
        Self::BrokenConnection,
        Self::Unimplemented,
    ];
}

/// The response that `proxy_send_local_response` sent on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// HTTP status.
    pub status: u32,
    /// Headers as the module gave them; Envoy adds its own.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl LocalResponse {
    /// A header's value as text, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

/// A callout that `proxy_http_call` has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callout {
    /// Its token.
    pub token: u32,
    /// The Envoy cluster.
    pub cluster: String,
    /// Headers, `:method`, `:path` and `:authority` among them.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// The timeout in milliseconds.
    pub timeout_ms: u32,
}

/// The module's use of resources: see [`crate::Vm::usage`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Fuel as the interpreter counts it: about six per instruction, and more for instructions that
    /// touch much memory.
    pub fuel: u64,
    /// Fuel by callback.
    pub fuel_by_callback: BTreeMap<&'static str, u64>,
    /// Hostcalls by name.
    pub calls: BTreeMap<&'static str, u64>,
    /// Number of entries into the module, by callback.
    pub callbacks: BTreeMap<&'static str, u64>,
}

impl Usage {
    /// Returns the number of hostcalls.
    #[must_use]
    pub fn hostcalls(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Returns the number of entries into the module.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.callbacks.values().sum()
    }
}

#[derive(Default)]
pub(crate) struct Stream {
    /// The stream's own `source.address`, if it differs from that of the other streams.
    pub(crate) address: Option<Vec<u8>>,
    /// `None` after the header callback has returned Continue, as in Envoy.
    pub(crate) request_headers: Option<Headers>,
    pub(crate) trailers: Option<Headers>,
    pub(crate) body: Vec<u8>,
    pub(crate) response_headers: Option<Headers>,
    pub(crate) response_body: Vec<u8>,
    pub(crate) response: Option<LocalResponse>,
    /// Whether the response has passed through the module's response callbacks.
    pub(crate) responded: bool,
    pub(crate) resumed: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    pub(crate) root: u32,
    pub(crate) effective: u32,
    pub(crate) configuration: Vec<u8>,
    pub(crate) now_ns: u64,
    pub(crate) tick_ms: u32,
    pub(crate) streams: BTreeMap<u32, Stream>,
    pub(crate) callouts: BTreeMap<u32, Callout>,
    pub(crate) next_token: u32,
    pub(crate) call_headers: Option<Headers>,
    pub(crate) call_body: Option<Vec<u8>>,
    pub(crate) shared: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    pub(crate) queues: Vec<(Vec<u8>, VecDeque<Vec<u8>>)>,
    /// Queues with items for which the root context has not been called yet.
    pub(crate) wakes: Vec<u32>,
    pub(crate) properties: BTreeMap<String, Vec<u8>>,
    pub(crate) metrics: Vec<(String, u64)>,
    pub(crate) logs: Vec<(u32, String)>,
    pub(crate) done: bool,
    pub(crate) failing: BTreeMap<String, Status>,
    pub(crate) usage: Usage,
}

impl State {
    pub(crate) fn stream(&self) -> Option<&Stream> {
        self.streams.get(&self.effective)
    }

    pub(crate) fn stream_mut(&mut self) -> Option<&mut Stream> {
        self.streams.get_mut(&self.effective)
    }
}
