//! Faults that a test orders. Calls meet them in the order they were given.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A fault, the calls it is for, and how many of them it meets.
///
/// A call meets the first fault in the list that matches it, and only that one; refusals apart,
/// which all look at the events of every call. A fault that is never used up stays in front of
/// those after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What happens.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Only calls to this project; calls to any, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// How many calls meet it: one, unless told otherwise.
    #[serde(default)]
    pub times: Times,
    /// Wait this long before it happens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub after_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a fault does to a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// Answers this status and stores nothing. The body is Keen's own where it is known.
    Status {
        /// The status.
        status: u16,
        /// A body in place of Keen's, sent as JSON.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
        /// A `Retry-After` header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// A `Location` header; a 30x has one anyway.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        location: Option<String>,
    },
    /// Waits, then goes on as if nothing had been. The events are stored even if the caller
    /// has gone meanwhile.
    Delay {
        /// How long.
        ms: u64,
    },
    /// Closes the connection without a reply; nothing is stored.
    CutBefore,
    /// Stores, then closes the connection without a reply.
    CutAfter,
    /// Stores, then sends half of the reply and closes the connection.
    Truncated,
    /// Stores, then answers 200 with a body that is not JSON.
    WrongJson,
    /// Stores, then answers 200 with `{}`: no result for any event.
    MissingResults,
    /// Stores, then answers 200 with one result too few in each collection.
    ShortResults,
    /// Stores, then sends the reply padded to this many bytes.
    Huge {
        /// The body's length.
        bytes: u64,
    },
    /// Refuses the events of a collection.
    RefuseCollection {
        /// The collection.
        collection: String,
        /// The error's name.
        name: String,
        /// Its text.
        #[serde(default)]
        description: String,
    },
    /// Refuses the events in which a property has this value.
    RefuseProperty {
        /// A property name; a dotted path leads into objects.
        property: String,
        /// The value.
        value: Value,
        /// The error's name.
        name: String,
        /// Its text.
        #[serde(default)]
        description: String,
    },
    /// Holds the call without a reply until the faults are cleared; then it goes on as if
    /// nothing had been.
    Hang,
    /// With this chance, one of the other faults that a client should recover from.
    Chaos {
        /// Equal seeds give equal faults for an equal order of calls.
        seed: u64,
        /// The chance, 0 to 1.
        rate: f64,
    },
}

/// How many calls meet a fault. In JSON a number, or `"forever"`.
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
            _ => Err(serde::de::Error::custom("times is a number or \"forever\"")),
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

    /// Waits, then goes on.
    pub fn delay(ms: u64) -> Self {
        FaultKind::Delay { ms }.into()
    }

    /// Cuts the connection before anything is stored.
    pub fn cut_before() -> Self {
        FaultKind::CutBefore.into()
    }

    /// Stores, then cuts the connection.
    pub fn cut_after() -> Self {
        FaultKind::CutAfter.into()
    }

    /// Stores, then sends half a reply.
    pub fn truncated() -> Self {
        FaultKind::Truncated.into()
    }

    /// Stores, then answers with no JSON.
    pub fn wrong_json() -> Self {
        FaultKind::WrongJson.into()
    }

    /// Stores, then answers `{}`.
    pub fn missing_results() -> Self {
        FaultKind::MissingResults.into()
    }

    /// Stores, then leaves one result of each collection out.
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

    /// Holds the call until the faults are cleared.
    pub fn hang() -> Self {
        FaultKind::Hang.into()
    }

    /// Random faults, for ever.
    pub fn chaos(seed: u64, rate: f64) -> Self {
        FaultKind::Chaos { seed, rate }.into()
    }

    /// Meets this many calls.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Times::Count(count);
        self
    }

    /// Meets every call until the faults are cleared.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.times = Times::Forever;
        self
    }

    /// Meets only calls to this project.
    #[must_use]
    pub fn project(mut self, id: &str) -> Self {
        self.project = Some(id.to_owned());
        self
    }

    /// Waits this long before it happens.
    #[must_use]
    pub fn after_ms(mut self, ms: u64) -> Self {
        self.after_ms = ms;
        self
    }

    /// Adds a `Retry-After` header to a status.
    #[must_use]
    pub fn retry_after(mut self, value: &str) -> Self {
        if let FaultKind::Status { retry_after, .. } = &mut self.kind {
            *retry_after = Some(value.to_owned());
        }
        self
    }

    /// Gives a status this body.
    #[must_use]
    pub fn body(mut self, text: &str) -> Self {
        if let FaultKind::Status { body, .. } = &mut self.kind {
            *body = Some(text.to_owned());
        }
        self
    }

    fn is_refusal(&self) -> bool {
        use FaultKind::{RefuseCollection, RefuseProperty};
        matches!(self.kind, RefuseCollection { .. } | RefuseProperty { .. })
    }

    fn is_for(&self, project: &str) -> bool {
        self.project.as_deref().is_none_or(|wanted| wanted == project)
    }
}

/// The faults in the order they are met.
pub(crate) struct Faults {
    queue: Mutex<Vec<Ordered>>,
    /// Counts how often the faults were cleared, which sets held calls free.
    cleared: watch::Sender<u64>,
}

struct Ordered {
    fault: Fault,
    left: Times,
    random: u64,
}

impl Ordered {
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

    fn lock(&self) -> MutexGuard<'_, Vec<Ordered>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, fault: Fault) {
        let random = match fault.kind {
            FaultKind::Chaos { seed, .. } => seed,
            _ => 0,
        };
        let left = fault.times;
        if left != Times::Count(0) {
            self.lock().push(Ordered { fault, left, random });
        }
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.cleared.send_modify(|times| *times += 1);
    }

    /// The faults not yet used up, with what is left of them.
    pub(crate) fn list(&self) -> Vec<Fault> {
        let queue = self.lock();
        let left =
            queue.iter().map(|ordered| Fault { times: ordered.left, ..ordered.fault.clone() });
        left.collect()
    }

    /// Wakes when the faults are cleared.
    pub(crate) fn cleared(&self) -> watch::Receiver<u64> {
        self.cleared.subscribe()
    }

    /// The fault that a call to this project meets, used up by one.
    pub(crate) fn meet(&self, project: &str) -> Option<Fault> {
        let mut queue = self.lock();
        let place = queue
            .iter()
            .position(|ordered| ordered.fault.is_for(project) && !ordered.fault.is_refusal())?;
        let ordered = &mut queue[place];
        ordered.spend();
        let mut fault = ordered.fault.clone();
        if let FaultKind::Chaos { rate, .. } = fault.kind {
            let picked = chaos(&mut ordered.random, rate);
            if let Some(kind) = picked.clone() {
                fault.kind = kind;
            }
            if ordered.left == Times::Count(0) {
                queue.remove(place);
            }
            return picked.map(|_| fault);
        }
        if ordered.left == Times::Count(0) {
            queue.remove(place);
        }
        Some(fault)
    }

    /// The refusals ordered for a call to this project, with their places.
    pub(crate) fn refusals(&self, project: &str) -> Vec<FaultKind> {
        let queue = self.lock();
        let ours = queue
            .iter()
            .filter(|ordered| ordered.fault.is_refusal() && ordered.fault.is_for(project));
        ours.map(|ordered| ordered.fault.kind.clone()).collect()
    }

    /// Notes that a call met this refusal.
    pub(crate) fn spend(&self, kind: &FaultKind) {
        let mut queue = self.lock();
        if let Some(place) = queue.iter().position(|ordered| ordered.fault.kind == *kind) {
            queue[place].spend();
            if queue[place].left == Times::Count(0) {
                queue.remove(place);
            }
        }
    }
}

/// A fault that a client should recover from without loss, or none.
fn chaos(random: &mut u64, rate: f64) -> Option<FaultKind> {
    #[expect(clippy::cast_precision_loss, reason = "a chance needs no more precision")]
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

/// SplitMix64: small, and the same on every machine.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The name and text of the refusal, where this event meets it.
pub(crate) fn refuses(
    kind: &FaultKind,
    collection: &str,
    event: &Value,
) -> Option<crate::rules::Refusal> {
    let (meets, name, description) = match kind {
        FaultKind::RefuseCollection { collection: refused, name, description } => {
            (refused == collection, name, description)
        }
        FaultKind::RefuseProperty { property, value, name, description } => {
            let found = property.split('.').try_fold(event, |value, name| value.get(name));
            (found == Some(value), name, description)
        }
        _ => return None,
    };
    let description = match description.as_str() {
        "" => "Refused as ordered.",
        given => given,
    };
    meets.then(|| crate::rules::Refusal::new(name, description))
}
