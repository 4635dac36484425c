//! One call to the write API: route, key, body, rules, reply. RULES.md lists the rules.

use crate::Shared;
use crate::conn::{CutError, streamed};
use crate::faults::{self, Fault, FaultKind};
use crate::replies::{self, Reply};
use crate::rules::{self, ReadEvent, Refusal, Rejection};
use crate::store::CallRecord;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Request, Response, header};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The end of a call.
pub(crate) enum Outcome {
    /// A reply.
    Reply(Response<Body>),
    /// The connection is closed without a reply.
    Cut,
}

/// A path of the write API.
#[derive(Clone)]
struct Target {
    project: String,
    /// `None` for a bulk call.
    collection: Option<String>,
}

/// Reads the whole call and answers it.
pub(crate) async fn serve(shared: Arc<Shared>, request: Request<Body>) -> Outcome {
    let life = shared.life();
    let (parts, body) = request.into_parts();
    let Some((body, bytes)) = read(body).await else {
        return Outcome::Cut;
    };
    let target = target(parts.uri.path());
    let call = shared.store.record_call(record(&parts, target.as_ref(), bytes));
    // Like Keen, the mock processes a call that it has read even if the caller disconnects.
    let call = Call { shared, parts, target, body, bytes, call, life };
    tokio::spawn(call.answer()).await.unwrap_or(Outcome::Cut)
}

/// Reads the whole body, so that the caller sees the reply, but keeps at most one byte more than
/// the limit. Returns the kept bytes and the full length.
async fn read(mut body: Body) -> Option<(Bytes, usize)> {
    let (mut kept, mut bytes) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes += data.len();
            let room = (rules::MAX_BATCH_BYTES + 1).saturating_sub(kept.len());
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Some((kept.freeze(), bytes))
}

/// The collection is one percent-encoded path segment. A `+` is a literal plus.
fn target(path: &str) -> Option<Target> {
    let rest = path.strip_prefix("/3.0/projects/")?;
    let segments: Vec<&str> = rest.split('/').collect();
    let (project, collection) = match segments.as_slice() {
        [project, "events"] => (project, None),
        [project, "events", collection] if !collection.is_empty() => {
            let decoded = percent_decode_str(collection).decode_utf8_lossy();
            (project, Some(decoded.into_owned()))
        }
        _ => return None,
    };
    Some(Target { project: (*project).to_owned(), collection })
}

fn record(parts: &Parts, target: Option<&Target>, bytes: usize) -> CallRecord {
    let headers = parts.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    CallRecord {
        project: target.map_or_else(String::new, |target| target.project.clone()),
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: headers.collect(),
        events: 0,
        bytes,
        status: None,
        received_at: SystemTime::now(),
    }
}

/// A call that was read completely.
struct Call {
    shared: Arc<Shared>,
    parts: Parts,
    target: Option<Target>,
    body: Bytes,
    bytes: usize,
    call: u64,
    life: u64,
}

impl Call {
    async fn answer(self) -> Outcome {
        let Some(target) = self.target.clone() else {
            return self.send(Reply::nginx(404));
        };
        let mut fault = self.shared.faults.take_for(&target.project);
        if let Some(fault) = &fault {
            let what = describe(fault);
            self.shared.store.record_fault(&target.project, what);
            if self.wait(fault).await.is_none() {
                return Outcome::Cut;
            }
        }
        match fault.take().map(|fault| fault.kind) {
            None | Some(FaultKind::Delay { .. } | FaultKind::Hang) => {
                self.send(self.process(&target).0)
            }
            Some(FaultKind::Status { status, body, retry_after, location }) => {
                let mut reply = Reply::for_fault(status, self.key().as_deref());
                if let Some(body) = body {
                    let extra = std::mem::take(&mut reply.extra);
                    reply = Reply::json(status, body);
                    reply.extra = extra;
                }
                reply.extra.extend(retry_after.map(|value| (header::RETRY_AFTER, value)));
                reply.extra.extend(location.map(|value| (header::LOCATION, value)));
                self.send(reply)
            }
            Some(FaultKind::CutBefore) => Outcome::Cut,
            Some(kind) => self.damage_reply(&target, &kind),
        }
    }

    /// Returns `None` if the mock is stopped meanwhile.
    async fn wait(&self, fault: &Fault) -> Option<()> {
        let ms = match fault.kind {
            FaultKind::Delay { ms } => fault.after_ms.saturating_add(ms),
            _ => fault.after_ms,
        };
        let mut cleared = self.shared.faults.cleared();
        let wait = async {
            if ms > 0 {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            if fault.kind == FaultKind::Hang {
                // The faults own the sender, so this cannot fail.
                let _ = cleared.changed().await;
            }
        };
        tokio::select! {
            () = wait => Some(()),
            () = self.shared.stopped(self.life) => None,
        }
    }

    /// Processes the call, then damages the reply. A refusal stays as it is.
    fn damage_reply(&self, target: &Target, kind: &FaultKind) -> Outcome {
        let (mut reply, results) = self.process(target);
        if *kind == FaultKind::CutAfter {
            return Outcome::Cut;
        }
        if reply.status >= 400 {
            return self.send(reply);
        }
        match kind {
            FaultKind::Truncated => return self.send_truncated(reply),
            FaultKind::Huge { bytes } => return self.send_padded(reply, *bytes),
            FaultKind::WrongJson => {
                reply = Reply::json(200, reply.body.slice(..reply.body.len() - 1));
            }
            FaultKind::MissingResults => reply = Reply::json(200, "{}"),
            FaultKind::ShortResults => {
                let mut results = results;
                for (_, results) in &mut results {
                    results.pop();
                }
                reply = replies::bulk(&results);
            }
            _ => {}
        }
        self.send(reply)
    }

    fn send(&self, reply: Reply) -> Outcome {
        self.shared.store.record_reply(self.call, reply.status);
        Outcome::Reply(reply.finish(&self.parts.headers, self.shared.connection_close))
    }

    fn send_truncated(&self, reply: Reply) -> Outcome {
        let whole = reply.body.clone();
        let half = whole.slice(..whole.len() / 2);
        let body = streamed(async move |sender| {
            let _ = sender.send(Ok(half)).await;
            // Lets the first half reach the wire before the connection is closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = sender.send(Err(CutError)).await;
        });
        self.send_stream(reply, whole.len() as u64, body)
    }

    /// The padding is white space, so the reply stays valid JSON.
    fn send_padded(&self, reply: Reply, bytes: u64) -> Outcome {
        let start = reply.body.clone();
        let length = bytes.max(start.len() as u64);
        let body = streamed(async move |sender| {
            let blank = Bytes::from_static(&[b' '; 64 << 10]);
            let mut left = length - start.len() as u64;
            let mut sent = sender.send(Ok(start)).await;
            while left > 0 && sent.is_ok() {
                let size = usize::try_from(left).map_or(blank.len(), |left| left.min(blank.len()));
                left -= size as u64;
                sent = sender.send(Ok(blank.slice(..size))).await;
            }
        });
        self.send_stream(reply, length, body)
    }

    fn send_stream(&self, mut reply: Reply, length: u64, body: Body) -> Outcome {
        reply.body = Bytes::new();
        self.shared.store.record_reply(self.call, reply.status);
        let mut response = reply.finish(&header::HeaderMap::new(), self.shared.connection_close);
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        *response.body_mut() = body;
        Outcome::Reply(response)
    }

    /// Returns the key: the `Authorization` header without a scheme, or `api_key` in the query.
    fn key(&self) -> Option<String> {
        let bare = self.parts.headers.get(header::AUTHORIZATION);
        bare.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .or_else(|| self.query("api_key"))
    }

    fn query(&self, wanted: &str) -> Option<String> {
        let query = self.parts.uri.query()?;
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let (_, value) = pairs.find(|(name, _)| name == wanted)?;
        Some(value.into_owned())
    }

    /// Keen's normal reply, and the results in it.
    fn process(&self, target: &Target) -> (Reply, Results) {
        let processed = match (&self.parts.method, &target.collection) {
            (&Method::OPTIONS, _) => Ok((Reply::empty(200), Results::new())),
            (&Method::POST, Some(collection)) => self.single(&target.project, collection),
            (&Method::POST, None) => self.bulk(&target.project),
            (&Method::GET, Some(collection)) => match self.query("data") {
                Some(data) => self.get_event(&target.project, collection, &data),
                None => Ok((Reply::nginx(404), Results::new())),
            },
            _ => Ok((Reply::nginx(404), Results::new())),
        };
        processed.unwrap_or_else(|rejection| {
            let collection = target.collection.as_deref().unwrap_or_default();
            let start = &self.body[..self.body.len().min(64 << 10)];
            let text = String::from_utf8_lossy(start);
            let Rejection { status, refusal } = &rejection;
            self.shared.store.record_refusal(&target.project, collection, *status, refusal, &text);
            (Reply::rejection(&rejection), Results::new())
        })
    }

    /// Checks the project, then the key. Returns the properties that the key adds to each event.
    fn authorize(&self, project: &str) -> Result<Map<String, Value>, Rejection> {
        let key = self.key();
        let projects = self.shared.projects.read();
        let projects = projects.unwrap_or_else(std::sync::PoisonError::into_inner);
        let project = projects.get(project).ok_or_else(replies::no_project)?;
        let invalid = || replies::invalid_key(key.as_deref());
        let given = key.as_deref().ok_or_else(invalid)?;
        let mut autofill = Map::new();
        if given == project.read_key {
            return Err(replies::forbidden());
        }
        if given != project.write_key && given != project.master_key {
            let mut keys = project.access_keys.iter();
            let access = keys.find(|access| access.key == given).ok_or_else(invalid)?;
            if !access.permitted.iter().any(|permitted| permitted == "writes") {
                return Err(replies::forbidden());
            }
            autofill.clone_from(&access.autofill);
        }
        if project.blocked {
            return Err(replies::blocked());
        }
        Ok(autofill)
    }

    /// No Keen SDK sends a compressed body, and Keen does not document one.
    fn check_encoding(&self) -> Result<(), Rejection> {
        match self.parts.headers.get(header::CONTENT_ENCODING) {
            Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
                Err(Rejection::new(
                    400,
                    "InvalidJSONError",
                    "The request body is not valid JSON: it is encoded.",
                ))
            }
            _ => Ok(()),
        }
    }

    fn single(&self, project: &str, collection: &str) -> Result<(Reply, Results), Rejection> {
        let autofill = self.authorize(project)?;
        self.check_encoding()?;
        let event = rules::read_event(&self.body[..])?;
        self.take_single(project, collection, event, &autofill)?;
        let results = vec![(collection.to_owned(), vec![Ok(())])];
        Ok((Reply::created(), results))
    }

    fn take_single(
        &self,
        project: &str,
        collection: &str,
        event: ReadEvent<'_>,
        autofill: &Map<String, Value>,
    ) -> Result<(), Rejection> {
        self.shared.store.record_events(self.call, 1);
        let mut refusal_faults = RefusalFaults::new(&self.shared, project);
        self.check_collection(collection)
            .and_then(|()| self.take(project, collection, event, autofill, &mut refusal_faults))
            .map_err(|refusal| Rejection { status: 400, refusal })
    }

    fn bulk(&self, project: &str) -> Result<(Reply, Results), Rejection> {
        let autofill = self.authorize(project)?;
        self.check_encoding()?;
        if self.bytes > rules::MAX_BATCH_BYTES {
            // `self.body` is cut one byte after the limit; the message has the full length.
            return Err(rules::too_large(self.bytes, rules::MAX_BATCH_BYTES));
        }
        let batch = rules::read_batch(&self.body[..])?;
        self.shared
            .store
            .record_events(self.call, batch.iter().map(|(_, events)| events.len()).sum());
        let mut refusal_faults = RefusalFaults::new(&self.shared, project);
        let mut events = batch.iter().flat_map(|(_, events)| events);
        if let Some(status) = events.find_map(|event| refusal_faults.poison_status(&event.value)) {
            self.shared.store.record_fault(project, format!("answered {status} to a poison event"));
            return Ok((Reply::for_fault(status, self.key().as_deref()), Results::new()));
        }
        let mut results = Results::new();
        for (collection, events) in batch {
            let named = self.check_collection(&collection);
            let mut taken = Vec::with_capacity(events.len());
            for event in events {
                let text = event.text;
                let result = named.clone().and_then(|()| {
                    self.take(project, &collection, event, &autofill, &mut refusal_faults)
                });
                if let Err(refusal) = &result {
                    self.shared.store.record_refusal(project, &collection, 200, refusal, text);
                }
                taken.push(result);
            }
            results.push((collection, taken));
        }
        Ok((replies::bulk(&results), results))
    }

    /// Handles an event in the query, for clients that can only send a GET.
    fn get_event(
        &self,
        project: &str,
        collection: &str,
        data: &str,
    ) -> Result<(Reply, Results), Rejection> {
        let autofill = self.authorize(project)?;
        let json = decode_base64(data)?;
        let event = rules::read_event(&json)?;
        self.take_single(project, collection, event, &autofill)?;
        let results = vec![(collection.to_owned(), vec![Ok(())])];
        let reply = if let Some(location) = self.query("redirect") {
            Reply::redirect(302, &location)
        } else if let Some(name) = self.query("jsonp").filter(|name| is_script_name(name)) {
            Reply::script(&name, &Reply::created().body)
        } else if self.query("c").as_deref() == Some("clv1") {
            Reply::pixel()
        } else {
            Reply { status: 200, ..Reply::created() }
        };
        Ok((reply, results))
    }

    fn check_collection(&self, collection: &str) -> Result<(), Refusal> {
        if self.shared.strict_names {
            rules::check_collection_name(collection)
        } else {
            rules::check_collection_name_lenient(collection)
        }
    }

    fn take(
        &self,
        project: &str,
        collection: &str,
        mut event: ReadEvent<'_>,
        autofill: &Map<String, Value>,
        refusal_faults: &mut RefusalFaults,
    ) -> Result<(), Refusal> {
        let filled = fill(&mut event.value, autofill);
        rules::check_event(&event.value)?;
        refusal_faults.check(collection, &event.value)?;
        let token = rules::uniqueness_token(&event.value);
        let text = filled.as_deref().unwrap_or(event.text);
        self.shared.store.store_event(project, collection, text, token);
        Ok(())
    }
}

type Results = Vec<(String, Vec<Result<(), Refusal>>)>;

/// Merges the properties of an access key into an event. Returns the new text if it changed. The
/// key's properties win, because its owner relies on them.
fn fill(event: &mut Value, autofill: &Map<String, Value>) -> Option<String> {
    let properties = event.as_object_mut().filter(|_| !autofill.is_empty())?;
    properties.extend(autofill.clone());
    Some(event.to_string())
}

/// The refusal faults of a test, and those that this call has met.
struct RefusalFaults {
    shared: Arc<Shared>,
    refusals: Vec<(FaultKind, bool)>,
}

impl RefusalFaults {
    fn new(shared: &Arc<Shared>, project: &str) -> Self {
        let refusals = shared.faults.refusals(project);
        Self {
            shared: shared.clone(),
            refusals: refusals.into_iter().map(|kind| (kind, false)).collect(),
        }
    }

    fn check(&mut self, collection: &str, event: &Value) -> Result<(), Refusal> {
        for (kind, met) in &mut self.refusals {
            if let Some(refusal) = faults::refuses(kind, collection, event) {
                *met = true;
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn poison_status(&mut self, event: &Value) -> Option<u16> {
        self.refusals.iter_mut().find_map(|(kind, met)| {
            let status = faults::poison_status(kind, event)?;
            *met = true;
            Some(status)
        })
    }
}

impl Drop for RefusalFaults {
    /// A refusal fault counts once per call, for any number of events.
    fn drop(&mut self) {
        for (kind, met) in &self.refusals {
            if *met {
                self.shared.faults.spend(kind);
            }
        }
    }
}

/// Decodes standard and URL-safe base64, with and without padding. Keen's SDKs use all of them.
fn decode_base64(data: &str) -> Result<Vec<u8>, Rejection> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    STANDARD.decode(data).or_else(|_| URL_SAFE.decode(data)).map_err(|_| {
        Rejection::new(400, "InvalidJSONError", "The data parameter is not valid base64.")
    })
}

fn is_script_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.'))
}

fn describe(fault: &Fault) -> String {
    match &fault.kind {
        FaultKind::Status { status, .. } => format!("answered {status}"),
        FaultKind::Delay { ms } => format!("delayed by {ms} ms"),
        FaultKind::CutBefore => "connection closed, nothing stored".to_owned(),
        FaultKind::CutAfter => "stored, connection closed".to_owned(),
        FaultKind::Truncated => "stored, reply truncated".to_owned(),
        FaultKind::WrongJson => "stored, reply is not JSON".to_owned(),
        FaultKind::MissingResults => "stored, reply without results".to_owned(),
        FaultKind::ShortResults => "stored, reply with a missing result".to_owned(),
        FaultKind::Huge { bytes } => format!("stored, reply of {bytes} bytes"),
        FaultKind::Hang => "held until the faults are cleared".to_owned(),
        other => format!("{other:?}"),
    }
}
