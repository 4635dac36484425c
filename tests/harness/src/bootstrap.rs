//! `envoy.yaml` as a JSON value, and the parts of it that tests replace.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

/// JSON pointer to the filter's PluginConfig in the bootstrap.
const PLUGIN: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config";

/// JSON pointer to the filter's configuration in the bootstrap, including its protobuf type.
pub const CONFIG_POINTER: &str = concat!(
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config",
    "/configuration"
);

const ROUTES: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
const ACCESS_LOGS: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log";
const LISTENER: &str = "/static_resources/listeners/0/address/socket_address";
const ADMIN: &str = "/admin/address/socket_address";
const KEEN: &str = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";

/// Reads `envoy.yaml`.
pub(crate) fn read() -> Result<Value, String> {
    let path = crate::root().join("envoy.yaml");
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Parses YAML.
///
/// # Panics
/// The text is not valid YAML.
#[must_use]
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// Returns the text of a variant of `envoy.yaml` in `deploy/`. `#@ LINE` in `insertions` names a
/// line of `text`; the lines after it are inserted before that line.
///
/// # Panics
/// Panics if `text` has no such line, or two of them.
#[must_use]
pub fn with_insertions(text: &str, insertions: &str) -> String {
    let mut text = text.to_owned();
    for insertion in insertions.split("#@ ").skip(1) {
        let (anchor, block) = insertion.split_once('\n').unwrap_or_default();
        let mut lines = text.split_inclusive('\n').filter(|line| line.trim() == anchor);
        let line = lines.next().unwrap_or_else(|| panic!("envoy.yaml has no line `{anchor}`"));
        assert!(lines.next().is_none(), "envoy.yaml has two lines `{anchor}`");
        text = text.replacen(line, &format!("{block}{line}"), 1);
    }
    text
}

/// Reads `envoy.yaml`.
///
/// # Panics
/// Panics if the file cannot be read.
#[must_use]
pub fn envoy_yaml() -> Value {
    read().unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the filter's configuration in `envoy.yaml`, to change and pass to
/// [`crate::Builder::config`].
///
/// # Panics
/// Panics if `envoy.yaml` cannot be read or has no filter.
#[must_use]
pub fn default_config() -> Value {
    let bootstrap = read().unwrap_or_else(|error| panic!("{error}"));
    at(&bootstrap, &format!("{CONFIG_POINTER}/value"))
        .unwrap_or_else(|error| panic!("{error}"))
        .clone()
}

/// Returns the listener's TLS `transport_socket`, which is a comment in `envoy.yaml`, with these
/// PEM files.
///
/// # Panics
/// Panics if `envoy.yaml` has no such comment.
#[must_use]
pub fn downstream_tls(chain: &Path, key: &Path) -> Value {
    let text = std::fs::read_to_string(crate::root().join("envoy.yaml")).unwrap_or_default();
    let block: Vec<&str> = text
        .lines()
        .skip_while(|line| line.trim() != "- # transport_socket:")
        .skip(1)
        .map_while(|line| line.trim_start().strip_prefix("# "))
        .collect();
    let mut socket: Value = serde_saphyr::from_str(&block.join("\n")).unwrap_or_else(|error| {
        panic!("envoy.yaml: the listener's TLS comment is not YAML: {error}")
    });
    let certificate = "/typed_config/common_tls_context/tls_certificates/0";
    let certificate =
        socket.pointer_mut(certificate).unwrap_or_else(|| panic!("envoy.yaml: no {certificate}"));
    *certificate =
        json!({"certificate_chain": {"filename": chain}, "private_key": {"filename": key}});
    socket
}

/// Returns the filter's PluginConfig in a bootstrap, for [`crate::Builder::patch`].
///
/// # Panics
/// Panics if the bootstrap has none.
pub fn keen_edge(bootstrap: &mut Value) -> &mut Value {
    at_mut(bootstrap, PLUGIN).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the routes, for [`crate::Builder::patch`].
///
/// # Panics
/// Panics if the bootstrap has none.
pub fn routes(bootstrap: &mut Value) -> &mut Value {
    at_mut(bootstrap, ROUTES).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the listener's access loggers, for [`crate::Builder::patch`].
///
/// # Panics
/// Panics if the bootstrap has none.
pub fn access_logs(bootstrap: &mut Value) -> &mut Vec<Value> {
    let logs = at_mut(bootstrap, ACCESS_LOGS).unwrap_or_else(|error| panic!("{error}"));
    logs.as_array_mut().unwrap_or_else(|| panic!("envoy.yaml: {ACCESS_LOGS} is not a list"))
}

pub(crate) fn set_ports(bootstrap: &mut Value, port: u16, admin_port: u16) -> Result<(), String> {
    at_mut(bootstrap, LISTENER)?["port_value"] = json!(port);
    at_mut(bootstrap, ADMIN)?["port_value"] = json!(admin_port);
    Ok(())
}

pub(crate) fn set_keen(bootstrap: &mut Value, keen: SocketAddr) -> Result<(), String> {
    *at_mut(bootstrap, KEEN)? =
        json!({"address": keen.ip().to_string(), "port_value": keen.port()});
    Ok(())
}

pub(crate) fn set_wasm(bootstrap: &mut Value, path: &std::path::Path) -> Result<(), String> {
    *at_mut(bootstrap, &format!("{PLUGIN}/vm_config/code"))? = json!({"local": {"filename": path}});
    Ok(())
}

pub(crate) fn set_struct(bootstrap: &mut Value, config: &Value) -> Result<(), String> {
    set_config(
        bootstrap,
        json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": config}),
    )
}

pub(crate) fn set_string(bootstrap: &mut Value, config: &str) -> Result<(), String> {
    set_config(
        bootstrap,
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": config}),
    )
}

fn set_config(bootstrap: &mut Value, config: Value) -> Result<(), String> {
    *at_mut(bootstrap, CONFIG_POINTER)? = config;
    Ok(())
}

pub(crate) fn at<'a>(bootstrap: &'a Value, pointer: &str) -> Result<&'a Value, String> {
    bootstrap.pointer(pointer).ok_or_else(|| format!("envoy.yaml has no {pointer}"))
}

pub(crate) fn at_mut<'a>(bootstrap: &'a mut Value, pointer: &str) -> Result<&'a mut Value, String> {
    bootstrap.pointer_mut(pointer).ok_or_else(|| format!("envoy.yaml has no {pointer}"))
}
