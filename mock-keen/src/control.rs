//! The page, and everything under `/_mock/`.

use crate::conn::streamed;
use crate::faults::Fault;
use crate::keen::{self, Outcome};
use crate::store::{Counts, Kind, PageItem, Update};
use crate::{Shared, conn};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Updates are collected this long before they are sent, so that the page draws in groups.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of keep-alive comments on a stream without updates.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Maximum bytes of one event in an update.
const MAX_SHOWN_BYTES: usize = 16 << 10;
/// Default `limit` of `/_mock/events`.
const DEFAULT_EVENT_LIMIT: usize = 10_000;

/// All routes of the mock.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/_mock/events", get(events))
        .route("/_mock/calls", get(calls))
        .route("/_mock/refusals", get(refusals))
        .route("/_mock/counts", get(counts))
        .route("/_mock/faults", get(list_faults).post(add_faults).delete(clear_faults))
        .route("/_mock/reset", post(reset))
        .route("/_mock/stream", get(stream))
        .route("/_mock/healthz", get(async || "ok\n"))
        .fallback(write_api)
        .with_state(shared)
}

async fn write_api(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match keen::serve(shared, request).await {
        Outcome::Reply(reply) => reply,
        Outcome::Cut => conn::cut(),
    }
}

async fn page() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src \
        'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";
    let headers = [(header::CONTENT_SECURITY_POLICY, POLICY), (header::CACHE_CONTROL, "no-store")];
    (headers, Html(include_str!("page.html")))
}

#[derive(Deserialize)]
struct EventFilter {
    project: Option<String>,
    collection: Option<String>,
    limit: Option<usize>,
}

/// The stored events, oldest first. Over the limit the newest are returned.
async fn events(State(shared): State<Arc<Shared>>, Query(filter): Query<EventFilter>) -> Response {
    let matches = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
    let events = shared.store.texts(|project, collection| {
        matches(&filter.project, project) && matches(&filter.collection, collection)
    });
    let skipped = events.len().saturating_sub(filter.limit.unwrap_or(DEFAULT_EVENT_LIMIT));
    let mut body = String::from("[");
    for (index, stored) in events.iter().skip(skipped).enumerate() {
        if index > 0 {
            body.push(',');
        }
        let project = Value::from(&*stored.project);
        let collection = Value::from(&*stored.collection);
        // Writing to a string cannot fail.
        let _ = write!(
            body,
            "\n{{\"project\": {project}, \"collection\": {collection}, \"received_at\": {}, \
             \"event\": {}}}",
            crate::store::millis(stored.at),
            stored.text
        );
    }
    body.push_str("\n]\n");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn calls(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.store.calls()).into_response()
}

async fn refusals(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.store.refusals()).into_response()
}

async fn counts(State(shared): State<Arc<Shared>>) -> Response {
    let collections: Vec<Value> = shared.store.collections().iter().map(collection_json).collect();
    let mut counts = json!(shared.store.totals());
    counts["collections"] = collections.into();
    Json(counts).into_response()
}

fn collection_json((project, collection, counts): &(Arc<str>, Arc<str>, Counts)) -> Value {
    json!({
        "project": &**project,
        "collection": &**collection,
        "stored": counts.stored,
        "refused": counts.refused,
        "duplicates": counts.duplicates,
    })
}

async fn list_faults(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.faults.list()).into_response()
}

/// One fault, or an array of them. The content type is ignored, because `curl -d` sends a form's.
async fn add_faults(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match read_faults(&body) {
        Ok(faults) => {
            faults.into_iter().for_each(|fault| shared.faults.add(fault));
            Json(shared.faults.list()).into_response()
        }
        Err(error) => {
            let why = json!({"error": format!("invalid fault: {error}")});
            (StatusCode::BAD_REQUEST, Json(why)).into_response()
        }
    }
}

fn read_faults(body: &[u8]) -> Result<Vec<Fault>, serde_json::Error> {
    let values = match serde_json::from_slice(body)? {
        Value::Array(values) => values,
        value => vec![value],
    };
    values.into_iter().map(serde_json::from_value).collect()
}

async fn clear_faults(State(shared): State<Arc<Shared>>) -> Response {
    shared.faults.clear();
    Json(shared.faults.list()).into_response()
}

async fn reset(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.reset();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct StreamStart {
    last: Option<String>,
}

/// Server-sent events: the updates since the page's `Last-Event-ID`, then new ones.
async fn stream(
    State(shared): State<Arc<Shared>>,
    Query(from): Query<StreamStart>,
    headers: HeaderMap,
) -> Response {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let position = last.or(from.last.as_deref()).and_then(parse_position).unwrap_or_default();
    let body = streamed(async move |sender| {
        let life = shared.life();
        let mut changes = shared.store.changes();
        let (mut epoch, mut seq) = position;
        loop {
            changes.mark_unchanged();
            let update = shared.store.update_since(epoch, seq);
            (epoch, seq) = (update.epoch, update.seq);
            if sender.send(Ok(message(&update, &shared).into())).await.is_err() {
                return;
            }
            tokio::time::sleep(UPDATE_INTERVAL).await;
            loop {
                tokio::select! {
                    _ = changes.changed() => break,
                    () = tokio::time::sleep(KEEP_ALIVE) => {
                        if sender.send(Ok(": keep-alive\n\n".into())).await.is_err() {
                            return;
                        }
                    }
                    () = shared.stopped(life) => return,
                    () = sender.closed() => return,
                }
            }
        }
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

fn parse_position(id: &str) -> Option<(u64, u64)> {
    let (epoch, seq) = id.split_once('-')?;
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

fn message(update: &Update, shared: &Shared) -> String {
    let collections: Vec<Value> = update.collections.iter().map(collection_json).collect();
    let mut data = json!({
        "fresh": update.fresh,
        "items": update.items.iter().map(item_json).collect::<Vec<_>>(),
        "totals": update.totals,
        "faults": update.faults,
        "collections": collections,
    });
    if update.fresh {
        // For the page's example call.
        let projects = shared.projects.read().unwrap_or_else(PoisonError::into_inner);
        let first = projects.values().next();
        data["hint"] = first.map_or(
            Value::Null,
            |project| json!({"id": project.id, "write_key": project.write_key}),
        );
        if let (Value::Object(hint), Some(segment)) = (&mut data["hint"], &shared.segment) {
            let endpoint = json!({"url": segment.url, "write_key": segment.write_key});
            hint.insert("segment".to_owned(), endpoint);
        }
    }
    format!("retry: 1000\nid: {}-{}\ndata: {data}\n\n", update.epoch, update.seq)
}

fn item_json(source: &PageItem) -> Value {
    let shown = &source.text[..source.text.floor_char_boundary(MAX_SHOWN_BYTES)];
    let mut item = json!({
        "seq": source.seq,
        "project": &*source.project,
        "collection": &*source.collection,
        "at": crate::store::millis(source.at),
        "text": shown,
        "bytes": source.text.len(),
    });
    match &source.kind {
        Kind::Stored => item["kind"] = "stored".into(),
        Kind::Duplicate => item["kind"] = "duplicate".into(),
        Kind::Refused { status, why } => {
            item["kind"] = "refused".into();
            item["status"] = (*status).into();
            item["name"] = (*why.name).into();
            item["description"] = (*why.description).into();
        }
        Kind::Fault { what } => {
            item["kind"] = "fault".into();
            item["description"] = (**what).into();
        }
    }
    item
}
