//! Injected faults. They apply to calls in the order they were added.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A fault, the calls it applies to, and how often.
///
/// Only the first matching fault in the list applies to a call. Refusals are the exception: all of
/// them check the events of every call. A fault with [`Times::Forever`] hides those after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What happens.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Applies only to calls to this project; to all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// How many calls it applies to. Default: one.
    #[serde(default)]
    pub times: Times,
    /// Delay before it happens, in ms.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub after_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The effect of a fault on a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// Answers this status and stores nothing. The body is Keen's own if known.
    Status {
        /// The status.
        status: u16,
        /// Replaces Keen's body, sent as JSON.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
        /// A `Retry-After` header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// A `Location` header; a 30x has one by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        location: Option<String>,
    },
    /// Waits, then processes the call normally. The events are stored even if the caller has
    /// disconnected.
    Delay {
        /// Delay in ms.
        ms: u64,
    },
    /// Closes the connection without a reply and stores nothing.
    CutBefore,
    /// Stores, then closes the connection without a reply.
    CutAfter,
    /// Stores, then sends half of the reply and closes the connection.
    Truncated,
    /// Stores, then answers 200 with a body that is not JSON.
    WrongJson,
    /// Stores, then answers 200 with `{}`: no result for any event.
    MissingResults,
    /// Stores, then answers 200 with one result missing in each collection.
    ShortResults,
    /// Stores, then answers with a reply padded with white space.
    Huge {
        /// Length of the body.
        bytes: u64,
    },
    /// Refuses every event of a collection.
    RefuseCollection {
        /// The collection.
        collection: String,
        /// Error name.
        name: String,
        /// Error text.
        #[serde(default)]
        description: String,
    },
    /// Refuses the events in which a property has this value.
    RefuseProperty {
        /// A property name, or a dotted path into objects.
        property: String,
        /// The value.
        value: Value,
        /// Error name.
        name: String,
        /// Error text.
        #[serde(default)]
        description: String,
    },
    /// Answers this status, and stores nothing, if the call contains an event in which a property
    /// has this value: an event that Keen cannot process, whatever its neighbours are.
    Poison {
        /// A property name, or a dotted path into objects.
        property: String,
        /// The value.
        value: Value,
        /// The status.
        status: u16,
    },
    /// Holds the call until the faults are cleared, then processes it normally.
    Hang,
    /// A random fault from which a client should recover, at this rate.
    Chaos {
        /// The same seed gives the same faults for the same order of calls.
        seed: u64,
        /// Probability per call, 0 to 1.
        rate: f64,
    },
}

/// How many calls a fault applies to. In JSON a number, or `"forever"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// This many calls.
    Count(u64),
    /// Every call, until the faults are cleared.
    Forever,
}

impl Default for Times {
    fn default() -> Self {
        Self::Count(1)
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Forever => serializer.serialize_str("forever"),
        }
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match (value.as_u64(), value.as_str()) {
            (Some(count), _) => Ok(Self::Count(count)),
            (None, Some("forever")) => Ok(Self::Forever),
            _ => Err(serde::de::Error::custom("times must be a number or \"forever\"")),
        }
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        let times = match kind {
            FaultKind::Chaos { .. } => Times::Forever,
            _ => Times::default(),
        };
        Self { kind, project: None, times, after_ms: 0 }
    }
}

impl Fault {
    /// Answers this status.
    pub fn status(status: u16) -> Self {
        FaultKind::Status { status, body: None, retry_after: None, location: None }.into()
    }

    /// Waits, then processes the call.
    pub fn delay(ms: u64) -> Self {
        FaultKind::Delay { ms }.into()
    }

    /// Closes the connection before anything is stored.
    pub fn cut_before() -> Self {
        FaultKind::CutBefore.into()
    }

    /// Stores, then closes the connection.
    pub fn cut_after() -> Self {
        FaultKind::CutAfter.into()
    }

    /// Stores, then sends half a reply.
    pub fn truncated() -> Self {
        FaultKind::Truncated.into()
    }

    /// Stores, then answers with invalid JSON.
    pub fn wrong_json() -> Self {
        FaultKind::WrongJson.into()
    }

    /// Stores, then answers `{}`.
    pub fn missing_results() -> Self {
        FaultKind::MissingResults.into()
    }

    /// Stores, then answers with one result missing in each collection.
    pub fn short_results() -> Self {
        FaultKind::ShortResults.into()
    }

    /// Stores, then sends a reply of this many bytes.
    pub fn huge(bytes: u64) -> Self {
        FaultKind::Huge { bytes }.into()
    }

    /// Refuses the events of a collection with this error name.
    pub fn refuse_collection(collection: &str, name: &str) -> Self {
        FaultKind::RefuseCollection {
            collection: collection.to_owned(),
            name: name.to_owned(),
            description: String::new(),
        }
        .into()
    }

    /// Refuses the events in which a property has this value with this error name.
    pub fn refuse_property(property: &str, value: impl Into<Value>, name: &str) -> Self {
        FaultKind::RefuseProperty {
            property: property.to_owned(),
            value: value.into(),
            name: name.to_owned(),
            description: String::new(),
        }
        .into()
    }

    /// Answers every call that contains an event with this property with a status.
    pub fn poison(property: &str, value: impl Into<Value>, status: u16) -> Self {
        FaultKind::Poison { property: property.to_owned(), value: value.into(), status }.into()
    }

    /// Holds the call until the faults are cleared.
    pub fn hang() -> Self {
        FaultKind::Hang.into()
    }

    /// Random faults until cleared.
    pub fn chaos(seed: u64, rate: f64) -> Self {
        FaultKind::Chaos { seed, rate }.into()
    }

    /// Applies to this many calls.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Times::Count(count);
        self
    }

    /// Applies to every call until the faults are cleared.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.times = Times::Forever;
        self
    }

    /// Applies only to calls to this project.
    #[must_use]
    pub fn project(mut self, id: &str) -> Self {
        self.project = Some(id.to_owned());
        self
    }

    /// Delays the fault.
    #[must_use]
    pub fn after_ms(mut self, ms: u64) -> Self {
        self.after_ms = ms;
        self
    }

    /// Adds a `Retry-After` header to a status fault.
    #[must_use]
    pub fn retry_after(mut self, value: &str) -> Self {
        if let FaultKind::Status { retry_after, .. } = &mut self.kind {
            *retry_after = Some(value.to_owned());
        }
        self
    }

    /// Sets the body of a status fault.
    #[must_use]
    pub fn body(mut self, text: &str) -> Self {
        if let FaultKind::Status { body, .. } = &mut self.kind {
            *body = Some(text.to_owned());
        }
        self
    }

    fn is_refusal(&self) -> bool {
        use FaultKind::{Poison, RefuseCollection, RefuseProperty};
        matches!(self.kind, RefuseCollection { .. } | RefuseProperty { .. } | Poison { .. })
    }

    fn applies_to(&self, project: &str) -> bool {
        self.project.as_deref().is_none_or(|wanted| wanted == project)
    }
}

/// The pending faults in order.
pub(crate) struct Faults {
    queue: Mutex<Vec<Pending>>,
    /// Incremented when the faults are cleared, which releases hanging calls.
    cleared: watch::Sender<u64>,
}

struct Pending {
    fault: Fault,
    left: Times,
    random: u64,
}

impl Pending {
    fn spend(&mut self) {
        if let Times::Count(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
    }
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::new(Vec::new()), cleared: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pending>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, fault: Fault) {
        let random = match fault.kind {
            FaultKind::Chaos { seed, .. } => seed,
            _ => 0,
        };
        let left = fault.times;
        if left != Times::Count(0) {
            self.lock().push(Pending { fault, left, random });
        }
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.cleared.send_modify(|times| *times += 1);
    }

    /// The pending faults, with their remaining counts.
    pub(crate) fn list(&self) -> Vec<Fault> {
        let queue = self.lock();
        let left =
            queue.iter().map(|pending| Fault { times: pending.left, ..pending.fault.clone() });
        left.collect()
    }

    /// Changes when the faults are cleared.
    pub(crate) fn cleared(&self) -> watch::Receiver<u64> {
        self.cleared.subscribe()
    }

    /// Takes the fault that applies to a call to this project.
    pub(crate) fn take_for(&self, project: &str) -> Option<Fault> {
        let mut queue = self.lock();
        let index = queue
            .iter()
            .position(|pending| pending.fault.applies_to(project) && !pending.fault.is_refusal())?;
        let pending = &mut queue[index];
        pending.spend();
        let mut fault = pending.fault.clone();
        if let FaultKind::Chaos { rate, .. } = fault.kind {
            let picked = chaos(&mut pending.random, rate);
            if let Some(kind) = picked.clone() {
                fault.kind = kind;
            }
            if pending.left == Times::Count(0) {
                queue.remove(index);
            }
            return picked.map(|_| fault);
        }
        if pending.left == Times::Count(0) {
            queue.remove(index);
        }
        Some(fault)
    }

    /// The refusal faults that apply to this project.
    pub(crate) fn refusals(&self, project: &str) -> Vec<FaultKind> {
        let queue = self.lock();
        let refusals = queue
            .iter()
            .filter(|pending| pending.fault.is_refusal() && pending.fault.applies_to(project));
        refusals.map(|pending| pending.fault.kind.clone()).collect()
    }

    /// Records that a call contained an event that this fault refused.
    pub(crate) fn spend(&self, kind: &FaultKind) {
        let mut queue = self.lock();
        if let Some(index) = queue.iter().position(|pending| pending.fault.kind == *kind) {
            queue[index].spend();
            if queue[index].left == Times::Count(0) {
                queue.remove(index);
            }
        }
    }
}

/// Returns a fault from which a client should recover without loss, or none.
fn chaos(random: &mut u64, rate: f64) -> Option<FaultKind> {
    let chance = (next(random) >> 11) as f64 / (1_u64 << 53) as f64;
    if chance >= rate {
        return None;
    }
    let status = |status| Fault::status(status).kind;
    Some(match next(random) % 12 {
        0 => status(500),
        1 => status(502),
        2 => status(503),
        3 => status(504),
        4 => status(429),
        5 => FaultKind::CutBefore,
        6 => FaultKind::CutAfter,
        7 => FaultKind::Truncated,
        8 => FaultKind::WrongJson,
        9 => FaultKind::MissingResults,
        10 => FaultKind::ShortResults,
        _ => FaultKind::Delay { ms: next(random) % 100 },
    })
}

/// SplitMix64. It is small and gives the same numbers on every machine.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the status of a poison fault, if the fault applies to this event.
pub(crate) fn poison_status(kind: &FaultKind, event: &Value) -> Option<u16> {
    let FaultKind::Poison { property, value, status } = kind else { return None };
    (property_at(event, property) == Some(value)).then_some(*status)
}

fn property_at<'a>(event: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(event, |value, name| value.get(name))
}

/// Returns the refusal, if this fault applies to this event.
pub(crate) fn refuses(
    kind: &FaultKind,
    collection: &str,
    event: &Value,
) -> Option<crate::rules::Refusal> {
    let (applies, name, description) = match kind {
        FaultKind::RefuseCollection { collection: refused, name, description } => {
            (refused == collection, name, description)
        }
        FaultKind::RefuseProperty { property, value, name, description } => {
            (property_at(event, property) == Some(value), name, description)
        }
        _ => return None,
    };
    let description = match description.as_str() {
        "" => "Refused by a test fault.",
        text => text,
    };
    applies.then(|| crate::rules::Refusal::new(name, description))
}
