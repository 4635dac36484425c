//! `keen-edge check`: reports mistakes of the filter's settings, and mistakes around the filter,
//! which it cannot see.

use crate::envoy::{
    self, ConfigFile, FileError, Filter, Surroundings, at, duration_ms, elements, field, has_type,
    number, text,
};
use keen_edge::config::Config;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// The configuration in the repository. A test keeps its capabilities in step with the filter.
const SHIPPED: &str = include_str!("../../envoy.yaml");

/// The bytes that Envoy buffers if a listener has no limit.
const DEFAULT_BUFFER_BYTES: u64 = 1_048_576;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Envoy refuses the configuration, or events are lost.
    Error,
    /// The configuration works, but probably not as intended.
    Warning,
}

impl Severity {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A mistake in a configuration.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The JSON pointer, if the mistake is in the filter's configuration.
    pub(crate) setting: Option<String>,
    pub(crate) message: String,
    /// How to correct it.
    pub(crate) help: Option<String>,
}

/// The findings about one filter and its surroundings.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) file: String,
    pub(crate) filter: String,
    pub(crate) sources: Option<usize>,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    fn error(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, message, help);
    }

    fn warning(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, message, help);
    }

    fn push(&mut self, severity: Severity, message: impl Into<String>, help: impl Into<String>) {
        let (message, help) = (message.into(), Some(help.into()));
        self.findings.push(Finding { severity, setting: None, message, help });
    }

    pub(crate) fn to_json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "severity": finding.severity.label(),
                "setting": finding.setting,
                "message": finding.message,
                "help": finding.help,
            })
        });
        let findings: Vec<Value> = findings.collect();
        json!({"file": self.file, "filter": self.filter, "findings": findings})
    }
}

/// Checks every keen-edge filter in the files. Clusters may be in other files than the filter.
pub(crate) fn check(files: &[ConfigFile]) -> Result<Vec<Report>, FileError> {
    let shipped = ConfigFile::parse(Path::new("envoy.yaml"), SHIPPED)?;
    let mut reports = Vec::new();
    for file in files {
        for mut filter in file.filters() {
            if filter.around.connection_manager.is_none() {
                filter.around = ecds_surroundings(&filter, files).unwrap_or(filter.around);
            }
            let mut report = Report {
                file: file.path.display().to_string(),
                filter: filter.name().to_owned(),
                sources: None,
                findings: Vec::new(),
            };
            let config = check_configuration(&filter, &mut report);
            check_plugin(&filter, config.as_ref(), &shipped, &mut report);
            check_connection_manager(&filter, config.as_ref(), &mut report);
            check_buffers(&filter, config.as_ref(), &mut report);
            if let Some(config) = &config {
                check_clusters(config, files, &mut report);
            }
            check_stats_tags(files, &shipped, &mut report);
            // Errors come first.
            report.findings.sort_by_key(|finding| finding.severity == Severity::Warning);
            reports.push(report);
        }
    }
    Ok(reports)
}

/// Parses the filter's configuration as the filter does. For the other checks, a setting with a
/// mistake has its default.
fn check_configuration(filter: &Filter<'_>, report: &mut Report) -> Option<Config> {
    let (config, errors) = Config::parse_with_defaults(&filter.configuration());
    report.sources = config.as_ref().map(|config| config.sources.len());
    report.findings.extend(errors.iter().map(|error| Finding {
        severity: Severity::Error,
        setting: Some(error.pointer().to_owned()),
        message: error.message().to_owned(),
        help: None,
    }));
    config
}

/// Checks `pauseAtHeaders: false`: Envoy's buffer filter must come after the filter.
fn check_buffer_filter(filter: &Filter<'_>, report: &mut Report) {
    let Some(manager) = filter.around.connection_manager else { return };
    let behind = elements(manager, "http_filters").skip(filter.around.before.len() + 1);
    let mut types = behind.filter_map(|behind| text(field(behind, "typed_config")?, "@type"));
    if !types.any(|name| name.ends_with("/envoy.extensions.filters.http.buffer.v3.Buffer")) {
        report.error(
            "pauseAtHeaders is false, and Envoy's buffer filter is not behind this filter: calls continue without their bodies",
            "put `envoy.filters.http.buffer` behind this filter, or remove pauseAtHeaders and set \
             `allow_on_headers_stop_iteration: true`",
        );
    }
}

/// Checks the filter's `PluginConfig`, its VM and its capabilities.
fn check_plugin(
    filter: &Filter<'_>,
    config: Option<&Config>,
    shipped: &ConfigFile,
    report: &mut Report,
) {
    let plugin = filter.plugin;
    if config.is_some_and(|config| !config.pause_at_headers) {
        check_buffer_filter(filter, report);
    } else if field(plugin, "allow_on_headers_stop_iteration").and_then(Value::as_bool)
        != Some(true)
    {
        report.error(
            "allow_on_headers_stop_iteration is not true: Envoy never delivers a body, and every call hangs",
            "set `allow_on_headers_stop_iteration: true` beside `vm_config` (Envoy 1.35 or newer)",
        );
    }
    if text(plugin, "failure_policy") != Some("FAIL_RELOAD") {
        report.warning(
            "failure_policy is not FAIL_RELOAD: a worker whose VM has failed answers 503 until Envoy restarts",
            "set `failure_policy: FAIL_RELOAD`",
        );
    }
    let restriction = at(plugin, "vm_config.capability_restriction_config.allowed_capabilities")
        .or_else(|| at(plugin, "capability_restriction_config.allowed_capabilities"));
    let Some(allowed) =
        restriction.and_then(Value::as_object).filter(|allowed| !allowed.is_empty())
    else {
        return; // Everything is allowed.
    };
    for needed in needed_capabilities(shipped) {
        if allowed.contains_key(&needed) {
            continue;
        }
        let what = if needed.starts_with("proxy_on_") {
            "Envoy never makes this callback, and does not say so"
        } else {
            "the filter cannot make this call, and Envoy refuses to start"
        };
        report.error(
            format!("the capability {needed} is missing: {what}"),
            format!("add `{needed}: {{}}` to `allowed_capabilities`"),
        );
    }
}

/// Returns the capabilities of the shipped configuration.
fn needed_capabilities(shipped: &ConfigFile) -> BTreeSet<String> {
    let path = "vm_config.capability_restriction_config.allowed_capabilities";
    let filters = shipped.filters();
    let lists = filters.iter().filter_map(|filter| at(filter.plugin, path)?.as_object());
    lists.flat_map(|list| list.keys().cloned()).collect()
}

/// Checks timeouts, addresses and protocols of the connection manager.
fn check_connection_manager(filter: &Filter<'_>, config: Option<&Config>, report: &mut Report) {
    let Some(manager) = filter.around.connection_manager else { return };
    let waits = config.filter(|config| !config.delivery.ack_on_receipt && !config.mirror);
    if let Some(config) = waits {
        check_timeouts(manager, config.delivery.max_wait_ms, report);
    }
    let unlimited = |value: Option<&Value>| value.and_then(duration_ms) == Some(0.0);
    if unlimited(field(manager, "stream_idle_timeout"))
        && at(manager, "common_http_protocol_options.max_stream_duration").is_none()
    {
        report.warning(
            "no limit ends a request whose VM has failed: it hangs forever",
            "set `stream_idle_timeout` or `common_http_protocol_options.max_stream_duration` above delivery.holdMs",
        );
    }
    let detects_address = elements(manager, "original_ip_detection_extensions").next().is_some();
    if field(manager, "use_remote_address").and_then(Value::as_bool) != Some(true)
        && !detects_address
    {
        report.warning(
            "use_remote_address is off: at an edge any client can choose its address with X-Forwarded-For",
            "set `use_remote_address: true` where clients connect to this Envoy; ignore this behind another Envoy",
        );
    }
    let http1 = field(manager, "http_protocol_options");
    let http1 = |name| http1.and_then(|options| field(options, name));
    if http1("accept_http_10").and_then(Value::as_bool) != Some(true) {
        report.warning(
            "HTTP/1.0 is off: nginx's default proxy_pass gets 426",
            "set `http_protocol_options: {accept_http_10: true, default_host_for_http_10: keen-edge}`",
        );
    }
    if http1("ignore_http_11_upgrade").is_none() {
        report.warning(
            "upgrades are refused: Apache HttpClient 5.4, which offers `Upgrade: TLS/1.2`, gets 403",
            "set `http_protocol_options.ignore_http_11_upgrade: [{prefix: TLS/, ignore_case: true}]`",
        );
    }
    let has_cors = |filter: &Value| {
        text(filter, "name") == Some("envoy.filters.http.cors")
            || field(filter, "typed_config").is_some_and(|config| has_type(config, ".cors.v3.Cors"))
    };
    if filter.around.before.iter().any(has_cors) {
        report.warning(
            "a CORS filter is in front of keen-edge: browsers refuse a response with its headers and keen-edge's",
            "move the filter keen_edge before it, or disable it on Segment's paths",
        );
    }
}

/// Checks Envoy's limits on a request, which must be above the longest wait for Keen.
fn check_timeouts(manager: &Value, hold_ms: u64, report: &mut Report) {
    let is_short =
        |value: &Value| duration_ms(value).is_some_and(|ms| ms > 0.0 && ms <= hold_ms as f64);
    let mut limits = vec![
        ("stream_idle_timeout", at(manager, "stream_idle_timeout")),
        (
            "common_http_protocol_options.max_stream_duration",
            at(manager, "common_http_protocol_options.max_stream_duration"),
        ),
    ];
    let hosts = at(manager, "route_config.virtual_hosts").and_then(Value::as_array);
    for route in hosts.into_iter().flatten().flat_map(|host| elements(host, "routes")) {
        limits.push(("a route's idle_timeout", at(route, "route.idle_timeout")));
        limits.push((
            "a route's max_stream_duration",
            at(route, "route.max_stream_duration.max_stream_duration"),
        ));
    }
    for (name, value) in limits {
        let Some(value) = value.filter(|value| is_short(value)) else { continue };
        let limit = value.as_str().unwrap_or_default();
        report.error(
            format!("{name} ({limit}) is not above delivery.holdMs ({hold_ms}): Envoy ends calls that wait for Keen"),
            format!("raise {name} above {hold_ms} ms, or lower delivery.holdMs"),
        );
    }
    if let Some(limit) = field(manager, "request_timeout").filter(|limit| is_short(limit)) {
        let limit = limit.as_str().unwrap_or_default();
        report.warning(
            format!("request_timeout ({limit}) is not above delivery.holdMs ({hold_ms})"),
            "keep the limits of a whole request above the longest wait for Keen: docs/operating.md",
        );
    }
}

/// Checks the buffer limits of the listener and the routes.
fn check_buffers(filter: &Filter<'_>, config: Option<&Config>, report: &mut Report) {
    let (Some(listener), Some(config)) = (filter.around.listener, config) else { return };
    let body_bytes = u64::try_from(config.max_body_bytes).unwrap_or(u64::MAX);
    let mut buffers = vec![(
        "per_connection_buffer_limit_bytes",
        field(listener, "per_connection_buffer_limit_bytes")
            .map_or(Some(DEFAULT_BUFFER_BYTES), number),
    )];
    let manager = filter.around.connection_manager;
    let hosts = manager.and_then(|manager| at(manager, "route_config.virtual_hosts"));
    for host in hosts.and_then(Value::as_array).into_iter().flatten() {
        let routes = elements(host, "routes");
        for place in routes.chain([host]) {
            for name in ["per_request_buffer_limit_bytes", "request_body_buffer_limit"] {
                buffers.push((name, field(place, name).and_then(number)));
            }
        }
    }
    for (name, limit) in buffers {
        if let Some(limit) = limit.filter(|limit| *limit < body_bytes) {
            report.error(
                format!("{name} ({limit}) is below limits.bodyBytes ({body_bytes}): Envoy refuses larger bodies, and their events are lost"),
                format!("raise {name} to {body_bytes} or more, or lower limits.bodyBytes"),
            );
        }
    }
}

/// Checks the clusters that the configuration names.
fn check_clusters(config: &Config, files: &[ConfigFile], report: &mut Report) {
    let clusters: Vec<&Value> = files.iter().flat_map(ConfigFile::clusters).collect();
    let bootstraps: Vec<&Value> = files.iter().filter_map(ConfigFile::bootstrap).collect();
    let mut names = BTreeSet::new();
    names.extend(config.destinations.iter().map(|destination| destination.cluster.as_str()));
    names.extend(config.overflow.iter().map(|overflow| overflow.cluster.as_str()));
    // A setting with a mistake has its own finding.
    names.remove("");
    if clusters.is_empty() && bootstraps.is_empty() {
        let names: Vec<&str> = names.into_iter().collect();
        report.warning(
            format!("no file defines clusters: not checked that {} exist", names.join(", ")),
            "name the bootstrap, or the CDS file, too: keen-edge check FILE envoy.yaml",
        );
        return;
    }
    let is_dynamic = bootstraps.iter().any(|it| at(it, "dynamic_resources.cds_config").is_some());
    let find = |name: &str| clusters.iter().find(|cluster| text(cluster, "name") == Some(name));
    for name in names {
        if find(name).is_none() {
            let severity = if is_dynamic { Severity::Warning } else { Severity::Error };
            let message = format!("the cluster {name} is not defined: every call over it fails");
            report.push(
                severity,
                message,
                "define it under `static_resources.clusters`, or name the file that does",
            );
        }
    }
    // A writeKey with a mistake is absent here.
    let is_valid = report.findings.iter().all(|finding| finding.setting.is_none());
    for destination in &config.destinations {
        let Some(cluster) = find(&destination.cluster) else { continue };
        let name = &destination.cluster;
        let needs_injector = is_valid && destination.write_key.is_none();
        if needs_injector && !has_http_filter(cluster, "credential_injector") {
            let project = &destination.project_id;
            report.warning(
                format!("the project {project} has no writeKey, and no credential injector is on the cluster {name}: Keen answers 401"),
                "set the source's writeKey, or add the credential injector (docs/security.md)",
            );
        }
        if http_options(cluster).is_some_and(|options| field(options, "retry_policy").is_some()) {
            report.warning(
                format!(
                    "the cluster {name} has a retry_policy: it multiplies the filter's own retries"
                ),
                "remove retry_policy: the filter retries within delivery.holdMs",
            );
        }
    }
    if let Some(overflow) = &config.overflow
        && overflow.authority.ends_with(".amazonaws.com")
        && find(&overflow.cluster).is_some_and(|it| !has_http_filter(it, "aws_request_signing"))
    {
        report.warning(
            format!(
                "the cluster {} does not sign its calls: Amazon SQS refuses them",
                overflow.cluster
            ),
            "add the filter envoy.filters.http.aws_request_signing to the cluster",
        );
    }
}

/// Returns the `HttpProtocolOptions` of a cluster.
fn http_options(cluster: &Value) -> Option<&Value> {
    let extensions = field(cluster, "typed_extension_protocol_options")?.as_object()?;
    extensions.values().find(|options| has_type(options, ".HttpProtocolOptions"))
}

fn has_http_filter(cluster: &Value, name: &str) -> bool {
    let filters = http_options(cluster).map(|options| elements(options, "http_filters"));
    filters.into_iter().flatten().any(|filter| filter.to_string().contains(name))
}

/// Returns the context of an ECDS filter.
fn ecds_surroundings<'f>(filter: &Filter<'f>, files: &'f [ConfigFile]) -> Option<Surroundings<'f>> {
    let name = filter.resource_name?;
    let mut references = files.iter().flat_map(ConfigFile::discovered_filters);
    references.find(|(reference, _)| *reference == name).map(|(_, around)| around)
}

/// Checks that `stats_tags` has the labels of the metrics.
fn check_stats_tags(files: &[ConfigFile], shipped: &ConfigFile, report: &mut Report) {
    let bootstrap = files.iter().find_map(ConfigFile::bootstrap);
    let (Some(bootstrap), Some(shipped)) = (bootstrap, shipped.bootstrap()) else { return };
    let tags = |bootstrap| -> BTreeSet<&str> {
        let config = field(bootstrap, "stats_config");
        let tags = config.map(|config| elements(config, "stats_tags")).into_iter().flatten();
        tags.filter_map(|tag| text(tag, "tag_name")).collect()
    };
    let missing: Vec<&str> = tags(shipped).difference(&tags(bootstrap)).copied().collect();
    if !missing.is_empty() {
        report.warning(
            format!(
                "stats_tags lacks {}: Prometheus gets these labels in the metrics' names",
                missing.join(", ")
            ),
            "copy `stats_config.stats_tags` from the repository's envoy.yaml",
        );
    }
}

/// Returns the error for a file without a keen-edge filter.
pub(crate) fn no_filter(path: &Path) -> FileError {
    envoy::FileError::new(
        path,
        "no keen-edge filter found: an HTTP filter of type envoy.extensions.filters.http.wasm.v3.Wasm whose name, \
         root_id or code says keen_edge. Name the LDS or ECDS file that has it, too",
    )
}
