//! Metrics, and the rate-limited log.

use super::host;
use super::metrics::{self, Family, Registry, StatId, label_value};
use super::process_state;
use crate::config::{Config, Distinct};
use crate::delivery::{ExpiryReport, Rejection, SettleReport};
use crate::keen::event_writer::MAX_BYTES;
use crate::keen::names;
use crate::mapping::{EventBuffer, MessageOutcome, RequestStats, SkipReason};
use crate::overflow::OverflowReport;
use crate::segment::http::Response;
use crate::users::CommitReport;
use proxy_wasm::types::MetricType;
use std::mem::take;

/// Each kind of problem is logged at most once in this time.
const LOG_INTERVAL_MS: u64 = 60_000;
/// Maximum number of kinds of problems that are tracked.
const MAX_LOG_KEYS: usize = 256;
/// Maximum number of Keen's error names with a stat, per project.
const MAX_ERROR_LABELS: usize = 32;
/// A log line names no further source of a destination after this many bytes.
const MAX_SOURCES_BYTES: usize = 64;
/// The source of messages whose write key is not configured.
const UNKNOWN_SOURCE: &str = "unknown";

/// Why an event without a waiter was dropped.
#[derive(Debug, Clone, Copy)]
enum DropReason {
    NoCapacity,
    Rejected,
    Drain,
}

impl DropReason {
    fn label(self) -> &'static str {
        match self {
            Self::NoCapacity => "no_capacity",
            Self::Rejected => "rejected",
            Self::Drain => "drain",
        }
    }
}

/// The metrics of one worker, and its log.
#[derive(Debug)]
pub(super) struct Telemetry {
    registry: Registry,
    /// Counted for every request, so not looked up by name.
    requests: StatId,
    responses_ok: StatId,
    sources: Vec<SourceStats>,
    unknown_source: SourceStats,
    destinations: Vec<DestinationLabels>,
    projects: Vec<ProjectStats>,
    /// Indices of the projects that Keen has answered since the last flush.
    answered_projects: Vec<usize>,
    log_rate_limit: LogRateLimit,
    pending: process_state::PendingBytes,
}

#[derive(Debug)]
struct SourceStats {
    /// The source's name in labels and log lines.
    name: String,
    messages: Option<StatId>,
    events: Option<StatId>,
    skipped: Vec<(SkipReason, StatId)>,
}

/// How metrics and log lines name a destination.
#[derive(Debug)]
struct DestinationLabels {
    /// Index of its project in [`Telemetry::projects`].
    project: usize,
    /// Hash of its write key and cluster.
    key_hash: u64,
    /// Names of its first sources: see [`MAX_SOURCES_BYTES`].
    sources: String,
}

/// A Keen project. It has several destinations if its sources have different write keys.
#[derive(Debug, Default)]
struct ProjectStats {
    id: String,
    delivered: Option<StatId>,
    callouts: Option<StatId>,
    /// Error names that have a stat.
    errors: Vec<String>,
    /// Hashes of its destinations' write keys.
    key_hashes: Vec<u64>,
    /// Whether Keen accepted its last callout. `None`: none has ended since the last flush.
    is_accepted: Option<bool>,
}

impl SourceStats {
    fn new(name: &str) -> Self {
        Self { name: label_value(name), messages: None, events: None, skipped: Vec::new() }
    }
}

impl Telemetry {
    /// Creates the stats of the configuration's sources and projects. They are not visible in Envoy
    /// yet.
    pub(super) fn new(config: &Config) -> Self {
        let mut registry = Registry::default();
        let (destinations, projects) = label_destinations(config);
        Self {
            requests: registry.stat(&metrics::REQUESTS, &[]),
            responses_ok: registry.stat(&metrics::RESPONSES, &["200"]),
            registry,
            sources: config.sources.iter().map(|source| SourceStats::new(&source.name)).collect(),
            unknown_source: SourceStats::new(UNKNOWN_SOURCE),
            destinations,
            projects,
            answered_projects: Vec::new(),
            log_rate_limit: LogRateLimit::default(),
            pending: process_state::PendingBytes::default(),
        }
    }

    /// Makes the metrics without labels, the version and the state of each destination visible. A
    /// destination that another worker already uses keeps its state. `worker_id` is unique in the
    /// process.
    pub(super) fn activate(&mut self, worker_id: u64, max_pending_bytes: usize) {
        self.pending.activate(worker_id);
        self.record(&metrics::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        self.record(&metrics::PENDING_BYTES_LIMIT, &[], to_u64(max_pending_bytes));
        // A gauge that is defined but not set would be 0.
        let is_zero_at_first =
            |family: &&&Family| family.labels.is_empty() && family.kind != MetricType::Gauge;
        for family in metrics::FAMILIES.iter().filter(is_zero_at_first) {
            let stat = self.registry.stat(family, &[]);
            self.registry.define(stat);
        }
        for index in 0..self.projects.len() {
            let id = self.projects.get(index).map(|project| project.id.as_str());
            if id.is_some_and(process_state::claim_project) {
                self.set_accepted(index, true);
            }
        }
        self.flush_destinations();
    }

    /// Adds to a metric by its label values. For rare events only, since it builds the stat's name.
    fn count(&mut self, family: &Family, values: &[&str], by: u64) {
        if by > 0 {
            let stat = self.registry.stat(family, values);
            self.registry.add(stat, by);
        }
    }

    /// Sets a gauge, or records a value in a histogram. A hostcall.
    fn record(&mut self, family: &Family, values: &[&str], value: u64) {
        let stat = self.registry.stat(family, values);
        self.registry.record(stat, value);
    }

    pub(super) fn count_request(&mut self) {
        self.registry.add(self.requests, 1);
    }

    pub(super) fn count_mirror_dropped(&mut self) {
        self.count(&metrics::REQUESTS_MIRROR_DROPPED, &[], 1);
    }

    /// Counts a response, and the reason if it is not 200.
    pub(super) fn count_response(&mut self, response: &Response) {
        let code = match response {
            Response::Ok => return self.registry.add(self.responses_ok, 1),
            Response::BadRequest(_) => "400",
            Response::TooManyRequests(_) => "429",
            Response::ServiceUnavailable(_) => "503",
        };
        self.count(&metrics::RESPONSES, &[code], 1);
        if let Some(reason) = response.reason() {
            self.count(&metrics::REQUESTS_REJECTED, &[reason], 1);
        }
    }

    fn source(&mut self, index: Option<usize>) -> (&mut Registry, &mut SourceStats) {
        let source = index.and_then(|index| self.sources.get_mut(index));
        (&mut self.registry, source.unwrap_or(&mut self.unknown_source))
    }

    /// Counts the messages of a request, and logs each at level debug. `admitted`: delivery has
    /// accepted its events.
    pub(super) fn record_messages(
        &mut self,
        stats: &RequestStats,
        buffer: &EventBuffer,
        admitted: bool,
        config: &Config,
    ) {
        self.count(&metrics::VALUES_SANITIZED, &[], stats.sanitized);
        for outcome in &stats.messages {
            let (registry, source) = self.source(outcome.source);
            let messages = *source
                .messages
                .get_or_insert_with(|| registry.stat(&metrics::MESSAGES, &[&source.name]));
            registry.add(messages, 1);
            if let Some(reason) = outcome.skipped {
                let known = source.skipped.iter().find(|(known, _)| *known == reason);
                let stat = known.map(|(_, stat)| *stat).unwrap_or_else(|| {
                    let labels = [source.name.as_str(), reason.label()];
                    let stat = registry.stat(&metrics::MESSAGES_SKIPPED, &labels);
                    source.skipped.push((reason, stat));
                    stat
                });
                registry.add(stat, 1);
            }
            let events = if admitted { outcome.events } else { 0 };
            let events = events.saturating_add(outcome.oversized);
            if events > 0 {
                let stat = *source
                    .events
                    .get_or_insert_with(|| registry.stat(&metrics::EVENTS, &[&source.name]));
                registry.add(stat, to_u64(events));
            }
            if outcome.oversized > 0 {
                self.count_oversized(outcome, config);
            }
        }
        if log::log_enabled!(log::Level::Debug) {
            self.log_messages(stats, buffer);
        }
    }

    /// Counts events over Keen's size limit, which are rejected without being sent.
    fn count_oversized(&mut self, outcome: &MessageOutcome, config: &Config) {
        let source = outcome.source.and_then(|index| config.sources.get(index));
        let Some(destination) = source.map(|source| source.destination_index) else { return };
        for _ in 0..outcome.oversized {
            self.count_rejected(destination, "TooLarge");
        }
        self.warn("TooLarge", &|| {
            format!("an event is larger than the {MAX_BYTES} bytes that Keen accepts")
        });
    }

    fn log_messages(&self, stats: &RequestStats, buffer: &EventBuffer) {
        let mut events = buffer.events();
        for outcome in &stats.messages {
            let source = outcome.source.and_then(|index| self.sources.get(index));
            let source = source.map_or("-", |source| source.name.as_str());
            let message_type = outcome.message_type.map_or("-", |message_type| message_type.name());
            match outcome.skipped {
                Some(reason) => log::debug!(
                    "message source={source} type={message_type} skipped={}",
                    reason.label()
                ),
                None => {
                    let collections: Vec<&str> = events
                        .by_ref()
                        .take(outcome.events)
                        .map(|event| event.collection)
                        .collect();
                    log::debug!(
                        "message source={source} type={message_type} events={}",
                        collections.join("|")
                    );
                }
            }
        }
    }

    /// Counts the events that are dropped because a request without a waiter exceeds the capacity.
    pub(super) fn count_not_admitted(&mut self, buffer: &EventBuffer) {
        for event in buffer.events() {
            self.count_dropped(event.destination, DropReason::NoCapacity, 1);
        }
    }

    pub(super) fn record_user_updates(&mut self, report: &CommitReport) {
        self.count(&metrics::USER_UPDATES_WRITTEN, &[], report.written);
        self.count(&metrics::USERS_EVICTED, &[], report.evicted);
        self.count(&metrics::USER_UPDATES_REJECTED, &[], report.rejected);
        self.count(&metrics::EVENTS_TRAITS_OMITTED, &[], report.traits_omitted);
    }

    /// Counts a dispatched callout.
    pub(super) fn count_callout(&mut self, destination: usize) {
        let (registry, Some(project)) = self.project(destination) else { return };
        let stat = *project
            .callouts
            .get_or_insert_with(|| registry.stat(&metrics::CALLOUTS, &[&project.id]));
        registry.add(stat, 1);
    }

    /// Records a callout that has ended after `ms` milliseconds. `events`: the number of its
    /// events.
    pub(super) fn record_callout(&mut self, ms: u64, events: usize) {
        self.record(&metrics::CALLOUT_MS, &[], ms);
        self.record(&metrics::BATCH_EVENTS, &[], to_u64(events));
    }

    /// Counts the outcomes of a callout's events, and logs problems. `status`: status of Keen's
    /// reply.
    pub(super) fn record_settlement(&mut self, report: &SettleReport, status: Option<u16>) {
        let destination = report.destination_index;
        if report.delivered > 0 {
            self.record(&metrics::DELIVERY_MS, &[], report.pending_ms);
        }
        if let (registry, Some(project)) = self.project(destination) {
            let stat = *project
                .delivered
                .get_or_insert_with(|| registry.stat(&metrics::EVENTS_DELIVERED, &[&project.id]));
            registry.add(stat, report.delivered);
        }
        self.count_unconfirmed(destination, report.unconfirmed);
        self.count_dropped(destination, DropReason::Rejected, report.dropped);
        if report.retried {
            let id = self.project_id(destination);
            self.count(&metrics::CALLOUTS_RETRIED, &[&id], 1);
        }
        for Rejection { collection, error } in &report.rejected {
            self.count_rejected(destination, error);
            self.warn_rejected(destination, collection, error);
        }
        match report.destination_up {
            Some(up) => self.set_destination_up(destination, up, status),
            None if report.unconfirmed > 0 => self.log_unconfirmed(destination, status),
            None => {}
        }
    }

    /// Counts the result of an overflow call, and logs problems. `status`: status of the reply.
    pub(super) fn record_overflow(&mut self, report: &OverflowReport, status: Option<u16>) {
        self.count(&metrics::EVENTS_OVERFLOWED, &[], report.overflowed);
        self.count(&metrics::EVENTS_OVERFLOW_FAILED, &[], report.returned);
        self.count(&metrics::OVERFLOW_MESSAGES_LEFT, &[], report.left);
        self.count(&metrics::EVENTS_DRAINED, &[], report.drained);
        if let Some(up) = report.queue_up {
            self.record(&metrics::OVERFLOW_UP, &[], u64::from(up));
        }
        if let Some(destination) = report.destination_index {
            let id = self.project_id(destination);
            for Rejection { collection, error } in &report.rejected {
                let error = self.error_label(destination, error);
                self.count(&metrics::EVENTS_DRAINED_REJECTED, &[&id, &error], 1);
                self.warn_rejected(destination, collection, &error);
            }
            if let Some(up) = report.destination_up {
                self.set_destination_up(destination, up, status);
            }
        }
        if let Some(error) = &report.error {
            let name = error.name.as_deref().unwrap_or("no error name");
            self.warn(&format!("overflow {name}"), &|| {
                let status = error.status.map_or("no reply".to_owned(), |s| format!("status {s}"));
                format!("the overflow queue does not accept a request: {status}, {name}")
            });
        }
        if report.left > 0 && report.destination_index.is_some() {
            self.warn("overflow left", &|| {
                "Keen fails on an event of a message of the overflow queue, which keeps the message"
                    .to_owned()
            });
        }
        for project in &report.unknown_projects {
            self.warn("overflow project", &|| {
                let project = label_value(project);
                format!(
                    "the overflow queue has messages of project {project}, which is not configured"
                )
            });
        }
        if report.malformed > 0 {
            self.warn("overflow message", &|| {
                "the overflow queue has messages that were not written by keen-edge".to_owned()
            });
        }
    }

    /// Logs that a callout could not be dispatched.
    pub(super) fn warn_no_callout(&mut self, cluster: &str, status: host::Status) {
        self.warn(&format!("no callout to {cluster}"), &|| {
            format!(
                "cannot send through cluster {cluster:?}: {status:?}; is it defined, and does it have endpoints?"
            )
        });
    }

    /// Counts events and waiters that have expired.
    pub(super) fn record_expiry(&mut self, report: &ExpiryReport) {
        for (destination, events) in &report.unconfirmed {
            self.count_unconfirmed(*destination, *events);
            self.log_unconfirmed(*destination, None);
        }
        for (destination, events) in &report.dropped {
            self.count_dropped(*destination, DropReason::Drain, *events);
        }
        for (destination, events) in &report.displaced {
            self.count_dropped(*destination, DropReason::NoCapacity, *events);
        }
    }

    fn count_unconfirmed(&mut self, destination: usize, events: u64) {
        if events > 0 {
            let id = self.project_id(destination);
            self.count(&metrics::EVENTS_UNCONFIRMED, &[&id], events);
        }
    }

    fn count_dropped(&mut self, destination: usize, reason: DropReason, events: u64) {
        if events > 0 {
            let id = self.project_id(destination);
            self.count(&metrics::EVENTS_DROPPED, &[&id, reason.label()], events);
        }
    }

    fn count_rejected(&mut self, destination: usize, error: &str) {
        let (id, label) = (self.project_id(destination), self.error_label(destination, error));
        self.count(&metrics::EVENTS_REJECTED, &[&id, &label], 1);
    }

    fn warn_rejected(&mut self, destination: usize, collection: &str, error: &str) {
        let sources = self.sources(destination);
        self.warn(error, &|| {
            format!("Keen rejected an event of {sources}, collection {collection:?}: {error}")
        });
    }

    /// Returns Keen's error name as a label. A project has at most [`MAX_ERROR_LABELS`] of them;
    /// further names become `other`.
    fn error_label(&mut self, destination: usize, error: &str) -> String {
        let error = label_value(error);
        match self.project(destination).1 {
            Some(project) if project.errors.contains(&error) => error,
            Some(project) if project.errors.len() < MAX_ERROR_LABELS => {
                project.errors.push(error.clone());
                error
            }
            _ => "other".to_owned(),
        }
    }

    fn set_destination_up(&mut self, destination: usize, up: bool, status: Option<u16>) {
        if let Some(&DestinationLabels { project, key_hash, .. }) =
            self.destinations.get(destination)
        {
            self.set_accepted(project, up);
            if self.projects.get(project).is_some_and(|project| project.key_hashes.len() > 1) {
                process_state::set_key_rejected(key_hash, !up);
            }
        }
        if !up {
            let (id, sources) = (self.project_id(destination), self.sources(destination));
            let status = status.unwrap_or(0);
            self.warn(&format!("down {destination}"), &|| {
                format!(
                    "Keen answers {status} to project {id} of {sources}: check its id, its write key and its \
                     plan, and proxies on the way to Keen"
                )
            });
        }
    }

    fn set_accepted(&mut self, index: usize, is_accepted: bool) {
        if let Some(project) = self.projects.get_mut(index)
            && project.is_accepted.replace(is_accepted).is_none()
        {
            self.answered_projects.push(index);
        }
    }

    fn log_unconfirmed(&mut self, destination: usize, status: Option<u16>) {
        let id = self.project_id(destination);
        self.warn(&format!("unconfirmed {id}"), &|| {
            let cause = status.map_or("no reply".to_owned(), |status| format!("status {status}"));
            format!("Keen did not confirm events of project {id} in time: {cause}")
        });
    }

    fn project(&mut self, destination: usize) -> (&mut Registry, Option<&mut ProjectStats>) {
        let labels = self.destinations.get(destination);
        let project = labels.and_then(|labels| self.projects.get_mut(labels.project));
        (&mut self.registry, project)
    }

    fn project_id(&mut self, destination: usize) -> String {
        self.project(destination).1.map(|project| project.id.clone()).unwrap_or_default()
    }

    fn sources(&self, destination: usize) -> String {
        let labels = self.destinations.get(destination);
        labels.map(|labels| labels.sources.clone()).unwrap_or_default()
    }

    /// Logs a warning, at most once in [`LOG_INTERVAL_MS`] for each `kind`.
    pub(super) fn warn(&mut self, kind: &str, line: &dyn Fn() -> String) {
        self.log_rate_limit.warn(kind, host::unix_ms(), line);
    }

    /// Reports changed metrics to Envoy. Returns whether another flush is needed even if nothing
    /// changes: see [`process_state::PendingBytes`].
    pub(super) fn flush(&mut self, pending_bytes: usize) -> bool {
        host::set_log_level();
        let report = self.pending.report(pending_bytes, host::unix_ms());
        let stat = self.registry.stat(&metrics::PENDING_BYTES, &[]);
        self.registry.add_to_gauge(stat, report.gauge_change);
        self.count(&metrics::PENDING_BYTES_LOST, &[], report.lost_bytes);
        self.registry.flush();
        self.flush_destinations();
        report.others_pending
    }

    /// Sets the gauge of each project that Keen has answered. All workers set the same gauge; the
    /// last one has the most recent result. If the project has several write keys, each worker
    /// knows which of them are rejected, so that the success of one does not hide another.
    fn flush_destinations(&mut self) {
        for index in take(&mut self.answered_projects) {
            let Some(project) = self.projects.get_mut(index) else { continue };
            let Some(is_accepted) = project.is_accepted.take() else { continue };
            let up = match project.key_hashes.as_slice() {
                [_] => is_accepted,
                keys => !keys.iter().any(|key| process_state::is_key_rejected(*key)),
            };
            let stat = self.registry.stat(&metrics::DESTINATION_UP, &[&project.id]);
            self.registry.record(stat, u64::from(up));
        }
    }
}

/// Returns the labels of all destinations, and the projects that they name.
fn label_destinations(config: &Config) -> (Vec<DestinationLabels>, Vec<ProjectStats>) {
    let mut projects: Vec<ProjectStats> = Vec::new();
    let mut ids = Distinct::new();
    let mut destinations = Vec::with_capacity(config.destinations.len());
    for destination in &config.destinations {
        let id = &destination.project_id;
        let project = ids.index_of(id);
        if project == projects.len() {
            projects.push(ProjectStats { id: id.clone(), ..ProjectStats::default() });
        }
        let key = destination.write_key.as_deref().unwrap_or_default();
        let key_hash = names::sha256_u64([key, &destination.cluster].join(" ").as_bytes());
        if let Some(project) = projects.get_mut(project) {
            project.key_hashes.push(key_hash);
        }
        destinations.push(DestinationLabels { project, key_hash, sources: String::new() });
    }
    for source in &config.sources {
        let Some(labels) = destinations.get_mut(source.destination_index) else { continue };
        if labels.sources.len() < MAX_SOURCES_BYTES {
            let before = if labels.sources.is_empty() { "source " } else { ", " };
            labels.sources.extend([before, &label_value(&source.name)]);
        }
    }
    (destinations, projects)
}

/// Limits how often a kind of problem is logged.
#[derive(Debug, Default)]
struct LogRateLimit {
    /// Kinds of problems, and when each one was last logged.
    logged: Vec<(String, u64)>,
}

impl LogRateLimit {
    fn warn(&mut self, kind: &str, now_ms: u64, line: &dyn Fn() -> String) {
        self.logged.retain(|(_, last)| now_ms.abs_diff(*last) < LOG_INTERVAL_MS);
        if self.logged.len() < MAX_LOG_KEYS && self.logged.iter().all(|(logged, _)| logged != kind)
        {
            self.logged.push((kind.to_owned(), now_ms));
            log::warn!("{}", line());
        }
    }
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
