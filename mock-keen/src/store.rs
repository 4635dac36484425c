//! What the mock holds: events, uniqueness tokens, refusals, calls. Everything is bounded, the
//! oldest going first.

use crate::rules;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// How much the mock keeps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Events, at most.
    pub events: usize,
    /// Bytes of events, at most.
    pub event_bytes: usize,
    /// Call records, at most. Refusals have the same bound.
    pub calls: usize,
    /// Uniqueness tokens, at most. Keen forgets them after 31 days.
    pub tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 200_000, event_bytes: 512 << 20, calls: 10_000, tokens: 1_000_000 }
    }
}

/// An event that was accepted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredEvent {
    /// The project's id.
    pub project: String,
    /// The collection, decoded.
    pub collection: String,
    /// The event as accepted: `keen.addons` and `keen.uniqueness_token` are still in it.
    pub event: Value,
    /// When it was stored.
    #[serde(serialize_with = "as_millis")]
    pub received_at: SystemTime,
}

/// A call to the write API.
#[derive(Clone, Debug, Serialize)]
pub struct CallRecord {
    /// The project's id as the path has it; empty where the path names none.
    pub project: String,
    /// The HTTP method.
    pub method: String,
    /// The path with its query, as sent.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many events the body held; 0 where it could not be read.
    pub events: usize,
    /// The body's length.
    pub bytes: usize,
    /// The status answered; `None` while there is no answer, and for ever where the
    /// connection was cut.
    pub status: Option<u16>,
    /// When the call had been read.
    #[serde(serialize_with = "as_millis")]
    pub received_at: SystemTime,
}

impl CallRecord {
    /// The value of a header, its name in lower case.
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
    /// The collection; empty where a whole call was refused before its collections were read.
    pub collection: String,
    /// The status of the reply: 200 where only this event of a bulk call was refused.
    pub status: u16,
    /// Keen's error name.
    pub name: String,
    /// Keen's text.
    pub description: String,
    /// The start of the event, or of the body.
    pub event: String,
    /// When it was refused.
    #[serde(serialize_with = "as_millis")]
    pub received_at: SystemTime,
}

/// How many events of one collection met which end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Accepted.
    pub stored: u64,
    /// Refused.
    pub refused: u64,
    /// Dropped, as their uniqueness token had been seen.
    pub duplicates: u64,
}

fn as_millis<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(millis(*time))
}

pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How an event was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Stored,
    Duplicate,
}

/// Something the page shows.
#[derive(Clone)]
pub(crate) struct Happening {
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

/// A stored event as text, which is far smaller than as a tree.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) project: Arc<str>,
    pub(crate) collection: Arc<str>,
    pub(crate) text: Arc<str>,
    pub(crate) at: SystemTime,
}

/// A list that forgets its oldest items. `first` is the number of the item at its front.
struct Ring<T> {
    items: VecDeque<T>,
    most: usize,
    first: u64,
}

impl<T> Ring<T> {
    fn new(most: usize) -> Self {
        Self { items: VecDeque::new(), most, first: 0 }
    }

    /// Adds an item; gives its number and what had to go.
    fn push(&mut self, item: T) -> (u64, Option<T>) {
        let gone = if self.items.len() >= self.most { self.pop() } else { None };
        self.items.push_back(item);
        (self.first + self.items.len() as u64 - 1, gone)
    }

    fn pop(&mut self) -> Option<T> {
        let gone = self.items.pop_front();
        self.first += u64::from(gone.is_some());
        gone
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.items.get_mut(index)
    }
}

/// Happenings held for pages that come late or come back.
const RECENT: usize = 500;
/// Collections counted each on its own; more share one line.
const COUNTED_COLLECTIONS: usize = 1_000;
/// The most of a refused event that is held.
const REFUSED_TEXT: usize = 16 << 10;

struct Inner {
    epoch: u64,
    seq: u64,
    totals: Counts,
    faults: u64,
    events: Ring<Kept>,
    event_bytes: usize,
    tokens: HashSet<Arc<str>>,
    token_order: VecDeque<Arc<str>>,
    refusals: Ring<RefusalRecord>,
    calls: Ring<CallRecord>,
    recent: Ring<Happening>,
    counts: BTreeMap<(Arc<str>, Arc<str>), (Counts, u64)>,
}

impl Inner {
    fn new(limits: &Limits) -> Self {
        Self {
            // Tells one life of the store from the next, also across restarts.
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

/// What the page learns since it last asked.
pub(crate) struct News {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) fresh: bool,
    pub(crate) happenings: Vec<Happening>,
    pub(crate) totals: Counts,
    pub(crate) faults: u64,
    pub(crate) collections: Vec<(Arc<str>, Arc<str>, Counts)>,
}

/// The mock's memory. It outlives a stop and a new start.
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
        // A panic elsewhere leaves at worst a half-counted event, which a test would notice.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes after each change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Stores an accepted event, unless its token was seen in this project and collection.
    pub(crate) fn take(
        &self,
        project: &str,
        collection: &str,
        text: &str,
        token: Option<&str>,
    ) -> Taken {
        let mut inner = self.lock();
        let taken = if token.is_some_and(|token| self.seen(&mut inner, project, collection, token))
        {
            Taken::Duplicate
        } else {
            Taken::Stored
        };
        let (project, collection) = self.intern(&mut inner, project, collection);
        let text: Arc<str> = text.into();
        let at = SystemTime::now();
        let kind = match taken {
            Taken::Duplicate => Kind::Duplicate,
            Taken::Stored => {
                self.keep(&mut inner, &project, &collection, &text, at);
                Kind::Stored
            }
        };
        note(&mut inner, kind, project, collection, text, at);
        drop(inner);
        self.changed.send_replace(());
        taken
    }

    fn seen(&self, inner: &mut Inner, project: &str, collection: &str, token: &str) -> bool {
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

    fn keep(
        &self,
        inner: &mut Inner,
        project: &Arc<str>,
        collection: &Arc<str>,
        text: &Arc<str>,
        at: SystemTime,
    ) {
        inner.event_bytes += text.len();
        let (_, gone) = inner.events.push(Kept {
            project: project.clone(),
            collection: collection.clone(),
            text: text.clone(),
            at,
        });
        inner.event_bytes -= gone.map_or(0, |kept| kept.text.len());
        while inner.event_bytes > self.limits.event_bytes {
            let Some(kept) = inner.events.pop() else { break };
            inner.event_bytes -= kept.text.len();
        }
    }

    /// Notes a refused event or call.
    pub(crate) fn refuse(
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
        note(&mut inner, Kind::Refused { status, why }, project, collection, text.into(), at);
        drop(inner);
        self.changed.send_replace(());
    }

    /// Notes that an ordered fault met a call.
    pub(crate) fn faulted(&self, project: &str, what: String) {
        let mut inner = self.lock();
        note(
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

    /// Notes a call; gives its number for [`Store::answered`].
    pub(crate) fn called(&self, call: CallRecord) -> u64 {
        self.lock().calls.push(call).0
    }

    /// Notes what a call held, once it was read.
    pub(crate) fn held(&self, call: u64, events: usize) {
        if let Some(call) = self.lock().calls.get_mut(call) {
            call.events = events;
        }
    }

    /// Notes how a call was answered.
    pub(crate) fn answered(&self, call: u64, status: u16) {
        if let Some(call) = self.lock().calls.get_mut(call) {
            call.status = Some(status);
        }
    }

    /// The stored events that `wanted` picks by project and collection, oldest first.
    pub(crate) fn events(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<StoredEvent> {
        let kept = self.texts(wanted).into_iter();
        kept.map(|kept| StoredEvent {
            project: kept.project.to_string(),
            collection: kept.collection.to_string(),
            event: rules::parse(&kept.text).unwrap_or_default(),
            received_at: kept.at,
        })
        .collect()
    }

    /// The same as text, cheap enough to be done while calls come in.
    pub(crate) fn texts(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<Kept> {
        let inner = self.lock();
        let wanted =
            inner.events.items.iter().filter(|kept| wanted(&kept.project, &kept.collection));
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

    /// What happened after `seq` of that `epoch`; all that is still known, where the epoch is
    /// another.
    pub(crate) fn news(&self, epoch: u64, seq: u64) -> News {
        let inner = self.lock();
        let fresh = epoch != inner.epoch;
        let seq = if fresh { 0 } else { seq };
        let happenings = inner.recent.items.iter().filter(|h| h.seq > seq).cloned().collect();
        let changed = inner.counts.iter().filter(|(_, (_, changed))| *changed > seq);
        News {
            epoch: inner.epoch,
            seq: inner.seq,
            fresh,
            happenings,
            totals: inner.totals.clone(),
            faults: inner.faults,
            collections: changed
                .map(|((project, collection), (counts, _))| {
                    (project.clone(), collection.clone(), counts.clone())
                })
                .collect(),
        }
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        *self.lock() = Inner::new(&self.limits);
        self.changed.send_replace(());
    }
}

/// Counts a happening and holds it for the page.
fn note(
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
    inner.recent.push(Happening { seq, kind, project, collection, text, at });
}
