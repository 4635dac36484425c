//! In-memory storage of events, uniqueness tokens, refusals and calls. Everything is bounded: the
//! oldest entries are removed first.

use crate::rules;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Bounds of the mock's storage.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum number of events.
    pub events: usize,
    /// Maximum bytes of events.
    pub event_bytes: usize,
    /// Maximum number of call records, and of refusals.
    pub calls: usize,
    /// Maximum number of uniqueness tokens. Keen keeps them for 31 days.
    pub tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 200_000, event_bytes: 512 << 20, calls: 10_000, tokens: 1_000_000 }
    }
}

/// An accepted event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredEvent {
    /// The project's id.
    pub project: String,
    /// The collection, decoded.
    pub collection: String,
    /// The event as received, including `keen.addons` and `keen.uniqueness_token`.
    pub event: Value,
    /// When it was stored.
    #[serde(serialize_with = "as_millis")]
    pub received_at: SystemTime,
}

/// A call to the write API.
#[derive(Clone, Debug, Serialize)]
pub struct CallRecord {
    /// The project id in the path; empty if there is none.
    pub project: String,
    /// The HTTP method.
    pub method: String,
    /// The path with its query, as received.
    pub path: String,
    /// The headers; names are in lower case.
    pub headers: Vec<(String, String)>,
    /// Number of events in the body; 0 if it could not be parsed.
    pub events: usize,
    /// Length of the body in bytes.
    pub bytes: usize,
    /// The status of the reply; `None` before the reply, or if the connection was cut.
    pub status: Option<u16>,
    /// When the whole call was received.
    #[serde(serialize_with = "as_millis")]
    pub received_at: SystemTime,
}

impl CallRecord {
    /// The value of a header; `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }
}

/// A refused event, or a refused call.
#[derive(Clone, Debug, Serialize)]
pub struct RefusalRecord {
    /// The project's id.
    pub project: String,
    /// The collection; empty if the whole call was refused.
    pub collection: String,
    /// The status of the reply; 200 for a single event of a bulk call.
    pub status: u16,
    /// Keen's error name.
    pub name: String,
    /// Keen's error text.
    pub description: String,
    /// The start of the event or of the body.
    pub event: String,
    /// When it was refused.
    #[serde(serialize_with = "as_millis")]
    pub received_at: SystemTime,
}

/// Numbers of events by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Accepted.
    pub stored: u64,
    /// Refused.
    pub refused: u64,
    /// Dropped because their uniqueness token was already known.
    pub duplicates: u64,
}

fn as_millis<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(millis(*time))
}

pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Result of [`Store::store_event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreResult {
    Stored,
    Duplicate,
}

/// One row of the page.
#[derive(Clone)]
pub(crate) struct PageItem {
    pub(crate) seq: u64,
    pub(crate) kind: Kind,
    pub(crate) project: Arc<str>,
    pub(crate) collection: Arc<str>,
    pub(crate) text: Arc<str>,
    pub(crate) at: SystemTime,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Stored,
    Duplicate,
    Refused { status: u16, why: rules::Refusal },
    Fault { what: String },
}

/// A stored event as text, which needs much less memory than a parsed one.
#[derive(Clone)]
pub(crate) struct EventText {
    pub(crate) project: Arc<str>,
    pub(crate) collection: Arc<str>,
    pub(crate) text: Arc<str>,
    pub(crate) at: SystemTime,
}

/// A list that drops its oldest items. `first` is the number of the item at its front.
struct Ring<T> {
    items: VecDeque<T>,
    capacity: usize,
    first: u64,
}

impl<T> Ring<T> {
    fn new(capacity: usize) -> Self {
        Self { items: VecDeque::new(), capacity, first: 0 }
    }

    /// Adds an item. Returns its number and the item that it displaced.
    fn push(&mut self, item: T) -> (u64, Option<T>) {
        let removed = if self.items.len() >= self.capacity { self.pop() } else { None };
        self.items.push_back(item);
        (self.first + self.items.len() as u64 - 1, removed)
    }

    fn pop(&mut self) -> Option<T> {
        let removed = self.items.pop_front();
        self.first += u64::from(removed.is_some());
        removed
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.items.get_mut(index)
    }
}

/// Maximum number of rows that are kept for pages that connect later or reconnect.
const RECENT: usize = 500;
/// Maximum number of collections with their own counts. All others share one entry.
const COUNTED_COLLECTIONS: usize = 1_000;
/// Maximum bytes that are kept of a refused event.
const REFUSED_TEXT: usize = 16 << 10;

struct Inner {
    epoch: u64,
    seq: u64,
    totals: Counts,
    faults: u64,
    events: Ring<EventText>,
    event_bytes: usize,
    tokens: HashSet<Arc<str>>,
    token_order: VecDeque<Arc<str>>,
    refusals: Ring<RefusalRecord>,
    calls: Ring<CallRecord>,
    recent: Ring<PageItem>,
    counts: BTreeMap<(Arc<str>, Arc<str>), (Counts, u64)>,
}

impl Inner {
    fn new(limits: &Limits) -> Self {
        Self {
            // Distinguishes this store from the one after a reset, also across restarts.
            epoch: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0)),
            seq: 0,
            totals: Counts::default(),
            faults: 0,
            events: Ring::new(limits.events),
            event_bytes: 0,
            tokens: HashSet::new(),
            token_order: VecDeque::new(),
            refusals: Ring::new(limits.calls),
            calls: Ring::new(limits.calls),
            recent: Ring::new(RECENT),
            counts: BTreeMap::new(),
        }
    }
}

/// The changes since the page's last update.
pub(crate) struct Update {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) fresh: bool,
    pub(crate) items: Vec<PageItem>,
    pub(crate) totals: Counts,
    pub(crate) faults: u64,
    pub(crate) collections: Vec<(Arc<str>, Arc<str>, Counts)>,
}

/// The mock's storage. It survives a stop and restart.
pub(crate) struct Store {
    limits: Limits,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { inner: Mutex::new(Inner::new(&limits)), limits, changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // After a panic in another thread at most one event is counted by half, which a test would
        // notice.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every update.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Stores an accepted event unless its token is already known in this project and collection.
    pub(crate) fn store_event(
        &self,
        project: &str,
        collection: &str,
        text: &str,
        token: Option<&str>,
    ) -> StoreResult {
        let mut inner = self.lock();
        let result = if token
            .is_some_and(|token| self.is_known_token(&mut inner, project, collection, token))
        {
            StoreResult::Duplicate
        } else {
            StoreResult::Stored
        };
        let (project, collection) = self.intern(&mut inner, project, collection);
        let text: Arc<str> = text.into();
        let at = SystemTime::now();
        let kind = match result {
            StoreResult::Duplicate => Kind::Duplicate,
            StoreResult::Stored => {
                self.push_event(&mut inner, &project, &collection, &text, at);
                Kind::Stored
            }
        };
        push_item(&mut inner, kind, project, collection, text, at);
        drop(inner);
        self.changed.send_replace(());
        result
    }

    fn is_known_token(
        &self,
        inner: &mut Inner,
        project: &str,
        collection: &str,
        token: &str,
    ) -> bool {
        let key: Arc<str> = format!("{project}\n{collection}\n{token}").into();
        if !inner.tokens.insert(key.clone()) {
            return true;
        }
        inner.token_order.push_back(key);
        if inner.token_order.len() > self.limits.tokens
            && let Some(oldest) = inner.token_order.pop_front()
        {
            inner.tokens.remove(&oldest);
        }
        false
    }

    fn intern(&self, inner: &mut Inner, project: &str, collection: &str) -> (Arc<str>, Arc<str>) {
        let key = (Arc::from(project), Arc::from(collection));
        match inner.counts.get_key_value(&key) {
            Some((known, _)) => known.clone(),
            None => key,
        }
    }

    fn push_event(
        &self,
        inner: &mut Inner,
        project: &Arc<str>,
        collection: &Arc<str>,
        text: &Arc<str>,
        at: SystemTime,
    ) {
        inner.event_bytes += text.len();
        let (_, removed) = inner.events.push(EventText {
            project: project.clone(),
            collection: collection.clone(),
            text: text.clone(),
            at,
        });
        inner.event_bytes -= removed.map_or(0, |event| event.text.len());
        while inner.event_bytes > self.limits.event_bytes {
            let Some(event) = inner.events.pop() else { break };
            inner.event_bytes -= event.text.len();
        }
    }

    /// Records a refused event or call.
    pub(crate) fn record_refusal(
        &self,
        project: &str,
        collection: &str,
        status: u16,
        why: &rules::Refusal,
        text: &str,
    ) {
        let text = &text[..text.floor_char_boundary(REFUSED_TEXT)];
        let at = SystemTime::now();
        let mut inner = self.lock();
        inner.refusals.push(RefusalRecord {
            project: project.to_owned(),
            collection: collection.to_owned(),
            status,
            name: why.name.clone(),
            description: why.description.clone(),
            event: text.to_owned(),
            received_at: at,
        });
        let (project, collection) = self.intern(&mut inner, project, collection);
        let why = why.clone();
        push_item(&mut inner, Kind::Refused { status, why }, project, collection, text.into(), at);
        drop(inner);
        self.changed.send_replace(());
    }

    /// Records that a fault was applied to a call.
    pub(crate) fn record_fault(&self, project: &str, what: String) {
        let mut inner = self.lock();
        push_item(
            &mut inner,
            Kind::Fault { what },
            project.into(),
            "".into(),
            "".into(),
            SystemTime::now(),
        );
        drop(inner);
        self.changed.send_replace(());
    }

    /// Records a call. Returns its number for [`Store::record_reply`].
    pub(crate) fn record_call(&self, call: CallRecord) -> u64 {
        self.lock().calls.push(call).0
    }

    /// Records the number of events in a call.
    pub(crate) fn record_events(&self, call: u64, events: usize) {
        if let Some(call) = self.lock().calls.get_mut(call) {
            call.events = events;
        }
    }

    /// Records the status of the reply.
    pub(crate) fn record_reply(&self, call: u64, status: u16) {
        if let Some(call) = self.lock().calls.get_mut(call) {
            call.status = Some(status);
        }
    }

    /// The stored events that `wanted` selects by project and collection, oldest first.
    pub(crate) fn events(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<StoredEvent> {
        let event = self.texts(wanted).into_iter();
        event
            .map(|event| StoredEvent {
                project: event.project.to_string(),
                collection: event.collection.to_string(),
                event: rules::parse(&event.text).unwrap_or_default(),
                received_at: event.at,
            })
            .collect()
    }

    /// Returns the same events as text, which is cheap enough under load.
    pub(crate) fn texts(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<EventText> {
        let inner = self.lock();
        let wanted =
            inner.events.items.iter().filter(|event| wanted(&event.project, &event.collection));
        wanted.cloned().collect()
    }

    pub(crate) fn calls(&self) -> Vec<CallRecord> {
        self.lock().calls.items.iter().cloned().collect()
    }

    pub(crate) fn refusals(&self) -> Vec<RefusalRecord> {
        self.lock().refusals.items.iter().cloned().collect()
    }

    pub(crate) fn totals(&self) -> Counts {
        self.lock().totals.clone()
    }

    pub(crate) fn collections(&self) -> Vec<(Arc<str>, Arc<str>, Counts)> {
        let inner = self.lock();
        let counts = inner.counts.iter();
        counts
            .map(|((project, collection), (counts, _))| {
                (project.clone(), collection.clone(), counts.clone())
            })
            .collect()
    }

    /// Returns the changes after `seq`. If `epoch` is not the current one, returns everything that
    /// is still kept.
    pub(crate) fn update_since(&self, epoch: u64, seq: u64) -> Update {
        let inner = self.lock();
        let fresh = epoch != inner.epoch;
        let seq = if fresh { 0 } else { seq };
        let items = inner.recent.items.iter().filter(|h| h.seq > seq).cloned().collect();
        let changed = inner.counts.iter().filter(|(_, (_, changed))| *changed > seq);
        Update {
            epoch: inner.epoch,
            seq: inner.seq,
            fresh,
            items,
            totals: inner.totals.clone(),
            faults: inner.faults,
            collections: changed
                .map(|((project, collection), (counts, _))| {
                    (project.clone(), collection.clone(), counts.clone())
                })
                .collect(),
        }
    }

    /// Removes everything.
    pub(crate) fn reset(&self) {
        *self.lock() = Inner::new(&self.limits);
        self.changed.send_replace(());
    }
}

/// Counts an item and keeps it for the page.
fn push_item(
    inner: &mut Inner,
    kind: Kind,
    project: Arc<str>,
    collection: Arc<str>,
    text: Arc<str>,
    at: SystemTime,
) {
    inner.seq += 1;
    let seq = inner.seq;
    let mut key = (project.clone(), collection.clone());
    if inner.counts.len() >= COUNTED_COLLECTIONS && !inner.counts.contains_key(&key) {
        key.1 = "(others)".into();
    }
    let count: fn(&mut Counts) = match kind {
        Kind::Stored => |counts| counts.stored += 1,
        Kind::Duplicate => |counts| counts.duplicates += 1,
        Kind::Refused { .. } => |counts| counts.refused += 1,
        Kind::Fault { .. } => |_| {},
    };
    count(&mut inner.totals);
    if matches!(kind, Kind::Fault { .. }) {
        inner.faults += 1;
    } else {
        let (counts, changed) = inner.counts.entry(key).or_default();
        count(counts);
        *changed = seq;
    }
    inner.recent.push(PageItem { seq, kind, project, collection, text, at });
}
